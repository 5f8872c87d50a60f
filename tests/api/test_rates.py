"""Requests of a key: counted in Redis, and in PostgreSQL while it is away."""

import uuid

import pytest
import redis

import keys
from api.rates import (
    BREAKER_SECONDS,
    KEY_PREFIX,
    POLL_COST,
    REQUEST_COST,
    RequestLimiter,
    SharedCounts,
    Window,
)
from keys import Grant
from tests.fakes import FakeClock

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def key_id(sessions) -> uuid.UUID:
    with sessions.begin() as session:
        return keys.create(session, Grant(owner="alice"))[1].id


@pytest.fixture
def limiter(sessions, redis_url):
    shared = SharedCounts(redis_url)
    yield RequestLimiter(shared, sessions.begin, window_seconds=3600)
    shared.close()


@pytest.fixture
def without_redis(sessions):
    shared = SharedCounts(NOWHERE)
    yield RequestLimiter(shared, sessions.begin, window_seconds=86_400)
    shared.close()


@pytest.fixture(params=["limiter", "without_redis"])
def either(request):
    return request.getfixturevalue(request.param)


def allowed(limiter, key_id, *, limit, times):
    return [limiter.hit(key_id, limit).allowed for _ in range(times)]


def test_so_many_are_allowed_and_no_more(either, key_id):
    assert allowed(either, key_id, limit=3, times=5) == [True] * 3 + [False] * 2


def test_what_remains_is_told(either, key_id):
    assert [either.hit(key_id, 3).remaining for _ in range(4)] == [2, 1, 0, 0]


def test_asking_after_a_job_counts_as_a_tenth(either, key_id):
    polls = [either.hit(key_id, 2, cost=POLL_COST).allowed for _ in range(15)]

    assert all(polls)
    # five tenths are left, which is no whole request
    assert not either.hit(key_id, 2).allowed
    assert [either.hit(key_id, 2, cost=POLL_COST).allowed for _ in range(6)] == [True] * 5 + [False]


def test_two_keys_do_not_share(either, key_id, sessions):
    with sessions.begin() as session:
        other = keys.create(session, Grant(owner="alice"))[1].id
    allowed(either, key_id, limit=1, times=2)

    assert either.hit(other, 1).allowed


def test_a_refused_request_is_not_counted(either, key_id):
    allowed(either, key_id, limit=1, times=5)

    # five that were counted would leave no room in a limit of four
    assert allowed(either, key_id, limit=4, times=3)[0]


def test_looking_counts_nothing(limiter, key_id):
    looks = [limiter.look(key_id, 2).remaining for _ in range(3)]

    assert looks == [2, 2, 2]


def test_nobody_knows_how_a_key_stands_while_redis_is_away(without_redis, key_id):
    assert without_redis.look(key_id, 2) is None


def test_redis_keeps_no_count_for_ever(limiter, key_id, redis_url):
    limiter.hit(key_id, 2)
    with redis.Redis.from_url(redis_url) as client:
        (name,) = client.keys(f"{KEY_PREFIX}*")

        assert 0 < client.ttl(name) <= 2 * 3600


def test_redis_that_failed_is_left_alone_for_a_while(sessions, key_id, caplog):
    clock = FakeClock()
    shared = SharedCounts(NOWHERE, clock=clock)
    limiter = RequestLimiter(shared, sessions.begin, window_seconds=86_400)

    def complaints_after(seconds):
        clock.advance(seconds)
        caplog.clear()
        limiter.hit(key_id, 9)
        return len(caplog.records)

    complaints = [complaints_after(seconds) for seconds in (0, BREAKER_SECONDS - 1, 1)]
    shared.close()

    # it is asked, left alone, and asked again
    assert complaints == [1, 0, 1]


# The sums of a sliding window

WINDOWS = {
    # what requests cost in the window before, and in this one; seconds left of 60; limit in
    # requests: remaining, wait of a refused one
    "fresh": (0, 0, 60.0, 10, 10, None),
    "half of it": (0, 50, 30.0, 10, 5, None),
    "the one before counts by its share": (100, 0, 30.0, 10, 5, None),
    "both": (100, 50, 30.0, 10, 0, 6),
    "a tenth is no request": (0, 91, 30.0, 10, 0, None),
    "full": (0, 100, 20.0, 10, 0, 20),
    "more than full, after the limit fell": (0, 500, 20.0, 10, 0, 20),
    "until enough of the one before has left": (100, 40, 48.0, 10, 0, 18),
}


@pytest.mark.parametrize(
    ("previous", "current", "left", "limit", "remaining", "wait"), WINDOWS.values(), ids=WINDOWS
)
def test_what_remains_and_when_there_is_room(previous, current, left, limit, remaining, wait):
    window = Window(previous=previous, current=current, left_seconds=left)
    rate = window.rate(limit, 60, allowed=wait is None)

    assert rate.remaining == remaining
    assert rate.reset_seconds == (wait or left)


def test_the_headers_are_those_of_the_draft():
    rate = Window(previous=0, current=88 * REQUEST_COST, left_seconds=30.2).rate(100, 60)

    assert rate.headers == {
        "RateLimit-Policy": '"req";q=100;w=60',
        "RateLimit": '"req";r=12;t=31',
    }
