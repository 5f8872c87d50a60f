"""What may be a key, and what two submissions have to have in common."""

import uuid

import pytest
from starlette.datastructures import Headers

from api.idempotency import UnderWay, fingerprint, key_of
from errors import InvalidRequest, SubmissionUnderWay

ALICE, BOB = uuid.uuid4(), uuid.uuid4()
SAID = {"language": "en", "task": "translate"}


def key(*values: str) -> str | None:
    raw = [(b"idempotency-key", value.encode("latin-1")) for value in values]
    return key_of(Headers(raw=raw))


@pytest.mark.parametrize("value", ["k", "8e03978e-40d5-43dd-bc93-6894a57f9324", "a:b/c", "x" * 255])
def test_a_key_is_taken_bare_or_quoted(value):
    assert key(value) == key(f'"{value}"') == value


def test_there_need_be_none():
    assert key() is None


@pytest.mark.security("idempotency", "a key that is none")
@pytest.mark.parametrize(
    "values",
    [
        [""],
        ['""'],
        ["x" * 256],
        ["a b"],
        ["a\tb"],
        ["é"],
        ["\x7f"],
        ['a"b'],
        ["a\\b"],
        ['"a'],
        ["a", "a"],
        ["a", "b"],
    ],
)
def test_what_is_no_key_is_refused(values):
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        key(*values)


def test_the_order_of_the_fields_is_nothing():
    turned = dict(reversed(SAID.items()))

    assert fingerprint(SAID, "a.mp3", b"1") == fingerprint(turned, "a.mp3", b"1")


@pytest.mark.parametrize(
    "other",
    [
        ({"language": "en"}, "a.mp3", b"1"),
        ({**SAID, "language": "de"}, "a.mp3", b"1"),
        (SAID, "b.mp3", b"1"),
        (SAID, "a.mp3", b"2"),
        ({}, "a.mp3", b"1"),
    ],
)
def test_whatever_else_is_said_counts(other):
    assert fingerprint(SAID, "a.mp3", b"1") != fingerprint(*other)


def test_a_key_is_held_once():
    under_way = UnderWay()
    with (
        under_way.hold(ALICE, "k"),
        pytest.raises(SubmissionUnderWay) as caught,
        under_way.hold(ALICE, "k"),
    ):
        pass

    assert caught.value.data["retry_after_seconds"] > 0


def test_a_key_is_let_go_of_whatever_happens():
    under_way = UnderWay()
    with pytest.raises(RuntimeError), under_way.hold(ALICE, "k"):
        raise RuntimeError

    with under_way.hold(ALICE, "k"):
        pass


@pytest.mark.parametrize("other", [(BOB, "k"), (ALICE, "l"), (ALICE, None)])
def test_others_are_not_held_up(other):
    under_way = UnderWay()
    with under_way.hold(ALICE, "k"), under_way.hold(ALICE, None), under_way.hold(*other):
        pass
