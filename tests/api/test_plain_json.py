"""JSON that can be relied on, and all the rest."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import plain_json
from api.plain_json import MAX_DEPTH, NotPlain, NotStorable

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("a"), inner, max_size=1),
    max_leaves=10,
)  # fmt: skip


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@given(VALUES)
def test_what_is_plain_is_read(value):
    import json

    assert plain_json.loads(json.dumps(value).encode()) == value


@pytest.mark.security("json", "JSON that is none, or can be read in two ways")
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"a": 1} x',
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b"9" * 5000,
        b'{"a": +1}',
    ],
)
def test_what_is_not_plain_is_refused(text):
    with pytest.raises(NotPlain):
        plain_json.loads(text)


@pytest.mark.security("json", "JSON without an end to its depth")
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 300, 2000, 100_000])
def test_what_is_too_deep_is_refused(depth):
    with pytest.raises(NotPlain):
        plain_json.loads(nested(depth))


def test_what_is_as_deep_as_it_may_be_is_read():
    assert plain_json.loads(nested(MAX_DEPTH))


@pytest.mark.security("json", "what PostgreSQL does not keep")
@pytest.mark.parametrize(
    "text",
    [
        '"\\ud800"',
        '{"\\ud800": 1}',
        '["\\u0000"]',
        '{"a": [{"\\u0000": 1}]}',
        "NaN",
        "[1e999]",
        '{"a": -Infinity}',
    ],
)
def test_what_cannot_be_kept_is_refused(text):
    with pytest.raises(NotStorable):
        plain_json.loads(text)


def test_a_pair_of_surrogates_is_a_character():
    assert plain_json.loads('"\\ud83d\\ude00"') == "😀"
