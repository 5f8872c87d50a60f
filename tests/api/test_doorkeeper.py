"""Addresses that were refused too often."""

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

import auth
from api.doorkeeper import WINDOW_SECONDS, Doorkeeper
from api.rates import SharedCounts
from app import create_app
from errors import RateLimited
from tests.fakes import FakeClock

NOWHERE = "redis://127.0.0.1:1/0"
HERE, THERE = "192.0.2.1", "192.0.2.2"
KEY = auth.mint()


@pytest.fixture(params=["redis", "alone"])
def doorkeeper(request, redis_url):
    shared = SharedCounts(redis_url if request.param == "redis" else NOWHERE)
    yield Doorkeeper(shared, limit=3, clock=FakeClock())
    shared.close()


def is_sent_away(call: Callable[[], None]) -> bool:
    try:
        call()
    except RateLimited:
        return True
    return False


def refuse(doorkeeper: Doorkeeper, address: str, times: int) -> list[bool]:
    return [is_sent_away(lambda: doorkeeper.count_refusal(address)) for _ in range(times)]


@pytest.mark.security("authentication", "many wrong keys from one address")
def test_so_many_refusals_are_allowed_and_then_nobody_is_listened_to(doorkeeper):
    assert refuse(doorkeeper, HERE, 4) == [False, False, False, True]
    assert is_sent_away(lambda: doorkeeper.admit(HERE, KEY))


def test_another_address_is_listened_to(doorkeeper):
    refuse(doorkeeper, HERE, 4)

    assert refuse(doorkeeper, THERE, 3) == [False] * 3
    assert not is_sent_away(lambda: doorkeeper.admit(THERE, KEY))


def test_a_key_that_worked_before_is_let_pass_where_a_neighbour_guesses(doorkeeper):
    doorkeeper.remember(KEY)
    refuse(doorkeeper, HERE, 4)

    assert not is_sent_away(lambda: doorkeeper.admit(HERE, KEY))
    assert is_sent_away(lambda: doorkeeper.admit(HERE, None))


def test_after_a_while_an_address_is_listened_to_again():
    clock = FakeClock()
    doorkeeper = Doorkeeper(SharedCounts(NOWHERE, clock=clock), limit=3, clock=clock)
    refuse(doorkeeper, HERE, 4)
    clock.advance(WINDOW_SECONDS)

    assert not is_sent_away(lambda: doorkeeper.admit(HERE, KEY))
    assert refuse(doorkeeper, HERE, 3) == [False] * 3


def test_refusals_of_all_processes_count_together(redis_url):
    first, second = (Doorkeeper(SharedCounts(redis_url), limit=3) for _ in range(2))
    refuse(first, HERE, 2)

    assert refuse(second, HERE, 2) == [False, True]


def test_there_need_be_no_limit(redis_url):
    assert not any(refuse(Doorkeeper(SharedCounts(redis_url), limit=0), HERE, 50))


# Over HTTP


@pytest.fixture
def client(make_settings):
    app = create_app(make_settings(max_auth_failures=3))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def guess(client, times):
    return [
        client.get("/jobs", headers={"X-API-Key": f"a-wrong-key-number-{n}"}) for n in range(times)
    ]


def test_the_refusal_that_is_too_many_says_when_to_come_back(client):
    *_, last = guess(client, 4)

    assert (last.status_code, last.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(last.headers["retry-after"]) <= WINDOW_SECONDS


@pytest.mark.security("authentication", "the right key among many wrong ones")
def test_a_right_guess_after_too_many_wrong_ones_is_not_told_from_them(client):
    guess(client, 4)
    right = client.get("/jobs", headers={"X-API-Key": "an-operators-own-words"})

    assert right.status_code == 429


def test_a_key_that_was_in_use_goes_on_working(client, alice):
    client.get("/jobs", headers=alice)
    guess(client, 4)

    assert client.get("/jobs", headers=alice).status_code == 200


@pytest.mark.security("authentication", "another X-Forwarded-For with every guess")
def test_a_client_cannot_say_itself_where_it_comes_from(client):
    answers = [
        client.get("/jobs", headers={"X-Forwarded-For": f"198.51.100.{n}"}) for n in range(4)
    ]

    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]


def test_too_many_refusals_do_not_close_what_is_open_to_everybody(client):
    guess(client, 4)

    assert client.get("/health").status_code == 200
    assert client.get("/limits").status_code == 200
