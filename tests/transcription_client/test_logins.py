"""Where the key is kept, and to whom it is sent."""

import json
import stat
from pathlib import Path

import pytest

from transcription_client.logins import DEFAULT_URL, Login, Logins, clean
from transcription_client.troubles import NotAllowed, WrongUse


@pytest.fixture
def logins(tmp_path: Path) -> Logins:
    return Logins(tmp_path / "config")


def test_nobody_else_can_read_what_is_kept(logins: Logins) -> None:
    path = logins.keep(Login("https://a.example", "secret"))
    path.chmod(0o644)
    path = logins.keep(Login("https://a.example", "another"))

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_the_last_login_is_used(logins: Logins) -> None:
    logins.keep(Login("https://a.example", "key-a"))
    logins.keep(Login("https://b.example", "key-b"))

    assert logins.find(None, None) == Login("https://b.example", "key-b")
    assert logins.find("https://a.example/", None) == Login("https://a.example", "key-a")


def test_a_kept_key_goes_to_no_other_server(logins: Logins) -> None:
    logins.keep(Login("https://a.example", "key-a"))

    with pytest.raises(NotAllowed, match=r"https://evil\.example"):
        logins.find("https://evil.example", None)
    for kin in ("http://a.example", "https://a.example:444", "https://a.example/base"):
        with pytest.raises(NotAllowed):
            logins.find(kin, None)


def test_what_is_typed_goes_before_what_is_kept(logins: Logins) -> None:
    logins.keep(Login("https://a.example", "key-a"))

    assert logins.find("https://b.example", "typed") == Login("https://b.example", "typed")
    assert logins.find(None, "typed") == Login("https://a.example", "typed")


def test_without_any_login_it_is_this_machine(logins: Logins) -> None:
    assert logins.find(None, None) == Login(DEFAULT_URL, None)


def test_what_was_forgotten_is_gone_from_the_file(logins: Logins) -> None:
    logins.keep(Login("https://a.example", "key-a"))
    path = logins.keep(Login("https://b.example", "key-b"))

    assert logins.forget(None) == "https://b.example"
    assert "key-b" not in path.read_text("utf-8")
    assert logins.find(None, None).key == "key-a"
    assert logins.forget("https://b.example") is None
    assert logins.forget(None) == "https://a.example"
    assert json.loads(path.read_text("utf-8")) == {}


@pytest.mark.parametrize("content", ["{", "[]", "\0"])
def test_a_spoiled_file_is_told_by_its_name(logins: Logins, content: str) -> None:
    path = logins.keep(Login("https://a.example", "key-a"))
    path.write_text(content, "utf-8")

    with pytest.raises(WrongUse, match=r"login\.json"):
        logins.find(None, None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("localhost:8000", "http://localhost:8000"),
        ("https://a.example/", "https://a.example"),
        ("https://a.example/base/", "https://a.example/base"),
        ("https://a.example:443", "https://a.example"),
    ],
)
def test_an_address_has_one_spelling(given: str, kept: str) -> None:
    assert clean(given) == kept


@pytest.mark.parametrize(
    "given",
    [
        "ftp://a.example",
        "http://",
        "file:///etc/passwd",
        "https://me:KEY@a.example",
        "a.example?k=1",
    ],
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(WrongUse):
        clean(given)


@pytest.mark.parametrize(
    ("url", "in_the_clear"),
    [
        ("http://127.0.0.1:8000", False),
        ("http://[::1]:8000", False),
        ("http://localhost", False),
        ("https://a.example", False),
        ("http://a.example", True),
        ("http://192.168.1.7:8000", True),
    ],
)
def test_a_key_that_everybody_could_read_on_its_way_is_told_of(
    url: str, in_the_clear: bool
) -> None:
    assert Login(url, "key").in_the_clear is in_the_clear
