"""When a worker looks for jobs by itself, and how many it takes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import redis
from pydantic import SecretStr

from celery_app import make_redis
from config import Settings
from lookout import AWAY_SECONDS, LOOK_SECONDS, Lookout
from tests.fakes import FakeClock, eventually

NOBODY = "redis://127.0.0.1:1"


def client_of(url: str) -> redis.Redis:
    return make_redis(Settings(redis_url=SecretStr(url), _env_file=None))  # type: ignore[call-arg]


class Jobs:
    """Jobs that wait, and slots that they are done in."""

    def __init__(self, count: int, *, slots: int) -> None:
        self.left = count
        self.slots = slots
        self.running = 0
        self.most = 0
        self.gate = threading.Event()
        self._lock = threading.Lock()

    def has_room(self) -> bool:
        return self.running < self.slots

    def take(self, *, claimed: Callable[[], object]) -> bool:
        with self._lock:
            if not self.left or not self.has_room():
                return False
            self.left -= 1
            self.running += 1
            self.most = max(self.most, self.running)
        claimed()
        self.gate.wait()
        with self._lock:
            self.running -= 1
        return True


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    jobs = Jobs(5, slots=2)
    yield jobs
    jobs.gate.set()


def looks(lookout: Lookout, clock: FakeClock, seconds: float) -> None:
    """Let it look every second of the test's clock."""
    for _ in range(int(seconds / LOOK_SECONDS)):
        clock.advance(LOOK_SECONDS)
        lookout.look()


@pytest.fixture
def cut_off(jobs: Jobs, clock: FakeClock) -> Iterator[Lookout]:
    """The lookout of a worker whose Redis is away."""
    with closing(client_of(NOBODY)) as client:
        yield Lookout(client, jobs.take, jobs.has_room, clock=clock)


@pytest.fixture
def served(redis_url: str, jobs: Jobs, clock: FakeClock) -> Iterator[Lookout]:
    """The lookout of a worker whose Redis is there."""
    with closing(client_of(redis_url)) as client:
        lookout = Lookout(client, jobs.take, jobs.has_room, clock=clock)
        lookout.connected.set()
        yield lookout


def test_a_worker_with_redis_takes_nothing_unasked(
    served: Lookout, jobs: Jobs, clock: FakeClock
) -> None:
    looks(served, clock, 10 * AWAY_SECONDS)

    assert jobs.left == 5


def test_a_blip_is_waited_out(cut_off: Lookout, jobs: Jobs, clock: FakeClock) -> None:
    looks(cut_off, clock, AWAY_SECONDS)

    assert jobs.left == 5


def test_a_worker_without_redis_takes_what_it_has_room_for(
    cut_off: Lookout, jobs: Jobs, clock: FakeClock
) -> None:
    looks(cut_off, clock, AWAY_SECONDS + 1)
    eventually(lambda: jobs.running == 1)
    looks(cut_off, clock, 10)
    eventually(lambda: jobs.running == 2)
    jobs.gate.set()

    eventually(lambda: jobs.left == 0 and jobs.running == 0)
    assert jobs.most == 2


def test_a_slot_that_comes_free_is_filled_again_at_once(
    cut_off: Lookout, jobs: Jobs, clock: FakeClock
) -> None:
    jobs.gate.set()
    looks(cut_off, clock, AWAY_SECONDS + 1)

    eventually(lambda: jobs.left == 0)


def test_a_worker_whose_consumer_is_not_connected_is_not_rung_for(
    served: Lookout, jobs: Jobs, clock: FakeClock
) -> None:
    served.connected.clear()
    looks(served, clock, AWAY_SECONDS + 1)

    eventually(lambda: jobs.left < 5)


def test_it_stops_when_redis_is_back(served: Lookout, jobs: Jobs, clock: FakeClock) -> None:
    served.connected.clear()
    looks(served, clock, AWAY_SECONDS + 1)
    eventually(lambda: jobs.running == 1)
    served.connected.set()
    looks(served, clock, 10)
    jobs.gate.set()

    eventually(lambda: jobs.running == 0)
    assert jobs.left == 4


def test_a_closed_one_takes_nothing_more(cut_off: Lookout, jobs: Jobs, clock: FakeClock) -> None:
    looks(cut_off, clock, AWAY_SECONDS + 1)
    eventually(lambda: jobs.running == 1)
    cut_off.close()
    looks(cut_off, clock, 10)
    jobs.gate.set()

    eventually(lambda: jobs.running == 0)
    assert jobs.left == 4
