"""Asking a server that is slow, full, away, moved or something else."""

import pytest

from tests.transcription_client.conftest import Scripted
from transcription_client.logins import Login
from transcription_client.server import (
    FIRST_PATIENCE_SECONDS,
    LAST_PAUSE_SECONDS,
    PATIENCE_SECONDS,
    Server,
)
from transcription_client.troubles import (
    JobTrouble,
    NotAllowed,
    Trouble,
    Unreachable,
    WrongUse,
)

FULL = '{"detail": "The queue is full.", "code": "queue_full"}'


class Time:
    """Passes when somebody pauses."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def server(scripted: Scripted, time: Time, told: list[str]):
    with Server(scripted.login, told=told.append, pause=time.pause, clock=time.clock) as server:
        yield server


def test_a_server_that_is_full_is_asked_again_when_it_says(
    server: Server, scripted: Scripted, time: Time, told: list[str]
) -> None:
    scripted.answers = [(503, {"Retry-After": "17"}, FULL), (200, {}, '{"id": "1"}')]

    assert server.job("1") == {"id": "1"}
    assert time.pauses == [17.0]
    assert told == ["The queue is full: trying again in 17 s"]


@pytest.mark.parametrize("said", ["100000", "soon", "-5"])
def test_no_answer_makes_anybody_wait_for_ever(
    server: Server, scripted: Scripted, time: Time, said: str
) -> None:
    scripted.answers = [(429, {"Retry-After": said}, FULL), (200, {}, "{}")]
    server.job("1")

    assert len(time.pauses) == 1
    assert 0 < time.pauses[0] <= LAST_PAUSE_SECONDS


def test_patience_has_an_end(server: Server, scripted: Scripted, time: Time) -> None:
    scripted.answers = [(503, {}, FULL)] * 100

    with pytest.raises(Unreachable, match="The queue is full"):
        server.job("1")
    assert PATIENCE_SECONDS <= time.now < PATIENCE_SECONDS + LAST_PAUSE_SECONDS


def test_a_server_that_never_answered_is_soon_given_up(time: Time) -> None:
    nowhere = Login("http://127.0.0.1:9", "a-key")
    with (
        Server(nowhere, pause=time.pause, clock=time.clock) as server,
        pytest.raises(Unreachable, match="does not answer"),
    ):
        server.job("1")

    assert FIRST_PATIENCE_SECONDS <= time.now < 2 * FIRST_PATIENCE_SECONDS


@pytest.mark.parametrize(
    ("status", "kind", "ends_with"),
    [
        (400, WrongUse, 2),
        (401, NotAllowed, 3),
        (403, NotAllowed, 3),
        (404, WrongUse, 2),
        (409, JobTrouble, 1),
        (410, WrongUse, 2),
        (413, WrongUse, 2),
        (422, WrongUse, 2),
        (500, Unreachable, 4),
        (507, Unreachable, 4),
    ],
)
def test_each_refusal_has_its_status(
    server: Server, scripted: Scripted, status: int, kind: type[Trouble], ends_with: int
) -> None:
    scripted.answers = [(status, {}, '{"detail": "No."}')]

    with pytest.raises(kind, match=r"No\.") as refused:
        server.job("1")
    assert (refused.value.status, refused.value.answered) == (ends_with, status)


@pytest.mark.parametrize("body", ["<html>", '"text"', '{"detail": {"a": 1}}', "[]", "\x00"])
def test_an_error_that_is_no_problem_is_told_by_its_status(
    server: Server, scripted: Scripted, body: str
) -> None:
    scripted.answers = [(400, {}, body)]

    with pytest.raises(WrongUse, match="400 Bad Request"):
        server.job("1")


@pytest.mark.parametrize("body", ["<html>", "[]", "null"])
def test_what_is_no_service_is_told_to_be_none(
    server: Server, scripted: Scripted, body: str
) -> None:
    scripted.answers = [(200, {}, body)]

    with pytest.raises(WrongUse, match="something else"):
        server.job("1")


def test_a_key_follows_no_redirect(server: Server, scripted: Scripted) -> None:
    scripted.answers = [(308, {"Location": "http://127.0.0.2/jobs/1"}, "")]

    with pytest.raises(WrongUse, match=r"http://127\.0\.0\.2/jobs/1"):
        server.job("1")
    assert len(scripted.asked) == 1


@pytest.mark.parametrize(
    "place", ["http://127.0.0.2/uploads/1", "https://127.0.0.1/uploads/1", "//evil.example/1"]
)
def test_a_key_goes_to_no_other_place(server: Server, scripted: Scripted, place: str) -> None:
    scripted.answers = [(201, {"Location": place}, "")]
    answer = server.ask("POST", "/uploads")

    with pytest.raises(WrongUse, match="sends us to"):
        server.located(answer)


def test_a_place_is_found_below_a_base_path(scripted: Scripted, time: Time) -> None:
    scripted.answers = [(201, {"Location": "/base/uploads/1"}, ""), (200, {}, "{}")]
    with Server(Login(f"{scripted.url}/base", "a-key"), pause=time.pause) as server:
        place = server.located(server.ask("POST", "/uploads"))
        server.ask("GET", place)

    assert scripted.asked == [
        ("POST", "/base/uploads", "a-key"),
        ("GET", "/base/uploads/1", "a-key"),
    ]
