"""What the text of a setting means."""

import pytest

from config_values import duration, root_path


@pytest.mark.parametrize(
    ("text", "path"),
    [("/stt", "/stt"), (" /a/b-c.d_1~/ ", "/a/b-c.d_1~"), ("/", ""), ("", "")],
)
def test_a_root_path_has_no_slash_at_its_end(text: str, path: str) -> None:
    assert root_path(text) == path


@pytest.mark.parametrize(
    "text",
    [
        "stt",
        "//stt",
        "/a//b",
        "/..",
        "/a/../b",
        "/.",
        "/a b",
        "/ä",
        "/a?b",
        "/a%2fb",
        "/" + "a" * 200,
    ],
)
def test_what_is_no_root_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as /stt"):
        root_path(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("90m", 5400.0),
        ("12h", 43_200.0),
        ("7d", 604_800.0),
        ("4w", 2_419_200.0),
        ("1.5h", 5400.0),
        (" 7 D ", 604_800.0),
        ("forever", 0.0),
        ("0", 0.0),
    ],
)
def test_a_duration_is_a_number_with_its_unit(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "d",
        "7y",
        "-1d",
        "0d",
        "1e3s",
        "7d 1h",
        "\N{ARABIC-INDIC DIGIT SEVEN}d",
        "999999999w",
        "nan",
        "never",
    ],
)
def test_what_could_mean_anything_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90m, 12h, 7d or 4w, or forever"):
        duration(text)
