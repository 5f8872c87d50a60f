"""Requests of a key, counted in PostgreSQL."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session, sessionmaker

import keys
import request_counts
from keys import Grant
from models import RequestCount

DAY = 86_400


@pytest.fixture
def sessions(emptied_engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(emptied_engine, expire_on_commit=False)


@pytest.fixture
def session(sessions: sessionmaker[Session]) -> Iterator[Session]:
    with sessions.begin() as session:
        yield session


@pytest.fixture
def key_id(sessions: sessionmaker[Session]) -> uuid.UUID:
    with sessions.begin() as session:
        return keys.create(session, Grant(owner="alice"))[1].id


def earlier(session: Session, key_id: uuid.UUID, requests: int, *, windows: int = 1) -> None:
    """Let a key have made requests in a window before this one."""
    session.execute(
        text(
            "INSERT INTO request_counts (api_key_id, window_start, cost) SELECT :id, to_timestamp("
            "(floor(EXTRACT(EPOCH FROM now()) / 86400) - :windows) * 86400), :requests"
        ),
        {"id": key_id, "requests": requests, "windows": windows},
    )


def test_of_many_at_once_no_more_than_the_limit_pass(sessions, key_id):
    def hit(_: int) -> bool:
        with sessions.begin() as session:
            return request_counts.hit(session, key_id, limit=10, window_seconds=DAY).allowed

    with ThreadPoolExecutor(8) as executor:
        assert sum(executor.map(hit, range(40))) == 10


def test_the_window_before_counts_by_what_is_left_of_it(session, key_id):
    earlier(session, key_id, 1000)
    count = request_counts.hit(session, key_id, limit=1, window_seconds=DAY)

    assert count.previous == 1000
    # but for the last minute and a half of a day
    assert count.allowed == (count.left_seconds < DAY / 1000)


def test_an_older_window_does_not_count(session, key_id):
    earlier(session, key_id, 1000, windows=2)

    assert request_counts.hit(session, key_id, limit=1, window_seconds=DAY).previous == 0


def test_old_counts_are_forgotten(session, key_id):
    request_counts.hit(session, key_id, limit=1, window_seconds=DAY)
    earlier(session, key_id, 1, windows=3)
    request_counts.forget_old(session)

    assert len(session.scalars(select(RequestCount)).all()) == 1
