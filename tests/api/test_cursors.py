"""Cursors fit the list that they came from, and no other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from api import cursors
from errors import BadCursor


def test_a_cursor_is_read_back():
    last = uuid7()

    assert cursors.decode(cursors.encode(last, of="mine"), of="mine") == last


def test_no_cursor_is_the_beginning():
    assert cursors.decode(None, of="mine") is None


def test_a_cursor_of_another_list_is_refused():
    with pytest.raises(BadCursor):
        cursors.decode(cursors.encode(uuid7(), of="mine"), of="yours")


@pytest.mark.parametrize("place", range(32))
def test_a_cursor_that_was_tampered_with_is_refused(place):
    cursor = cursors.encode(uuid7(), of="mine")
    other = "A" if cursor[place] != "A" else "B"

    with pytest.raises(BadCursor):
        cursors.decode(cursor[:place] + other + cursor[place + 1 :], of="mine")


@given(st.text())
def test_garbage_is_refused(cursor):
    with pytest.raises(BadCursor):
        cursors.decode(cursor, of="mine")
