"""Cursors fit the list that they came from, and no other."""

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from api import cursors
from errors import BadCursor
from jobs.paging import Place


def place():
    return Place(datetime(2026, 11, 22, 17, 30, 1, 123456, tzinfo=UTC), uuid7())


def test_a_cursor_is_read_back():
    last = place()

    assert cursors.decode(cursors.encode(last, of="mine"), of="mine") == last


def test_no_cursor_is_the_beginning():
    assert cursors.decode(None, of="mine") is None


def test_a_cursor_of_another_list_is_refused():
    with pytest.raises(BadCursor):
        cursors.decode(cursors.encode(place(), of="mine"), of="yours")


@pytest.mark.parametrize("at", range(42))
def test_a_cursor_that_was_tampered_with_is_refused(at):
    cursor = cursors.encode(place(), of="mine")
    other = "A" if cursor[at] != "A" else "B"

    with pytest.raises(BadCursor):
        cursors.decode(cursor[:at] + other + cursor[at + 1 :], of="mine")


@given(st.text())
def test_garbage_is_refused(cursor):
    with pytest.raises(BadCursor):
        cursors.decode(cursor, of="mine")


@pytest.mark.parametrize("microseconds", [2**63 - 1, -(2**63)])
def test_a_forged_cursor_of_another_aeon_is_refused(microseconds):
    raw = cursors.PLACE.pack(microseconds, uuid7().bytes)
    forged = base64.urlsafe_b64encode(raw + cursors._tag(raw, "mine")).decode()

    with pytest.raises(BadCursor):
        cursors.decode(forged, of="mine")
