"""Memory that runs out, as the kernel tells it: by killing, or by refusing."""

import resource
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil
import pytest
from sqlalchemy import select

from models import Worker
from tests.chaos.conftest import NULL_MODEL, SHORT_TEXT, Chaos, words_of
from tests.stack.conftest import Process, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]

MEGABYTE: Final = 2**20
#: Where the first and the second version of control groups have memory's, and what limits it.
HIERARCHIES: Final = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)


class Group:
    """A control group with memory for a worker, and for no glutton beside it."""

    def __init__(self, folder: Path, limit: str) -> None:
        self._folder = folder
        folder.mkdir()
        try:
            (folder / limit).write_text(str(400 * MEGABYTE))
        except OSError:
            folder.rmdir()
            raise

    def take(self, process: Process) -> None:
        (self._folder / "cgroup.procs").write_text(str(process.popen.pid))

    def close(self) -> None:
        wait_for(lambda: not (self._folder / "cgroup.procs").read_text(), "nobody is in it")
        self._folder.rmdir()


@pytest.fixture
def group() -> Iterator[Group]:
    name = f"transcription-tests-{uuid.uuid4().hex}"
    for root, limit in HIERARCHIES:
        try:
            group = Group(root / name, limit)
        except OSError:
            continue
        yield group
        group.close()
        return
    pytest.skip("no control group of the test's own can limit memory here")


@pytest.mark.fault("F14", "the kernel kills what takes too much memory: a worker, then a child")
def test_a_job_that_eats_memory_ends_alone(group: Group, chaos: Chaos) -> None:
    chaos.stack.maintenance()
    first = chaos.worker(CELERY_CONCURRENCY="2")
    group.take(first)
    innocent = chaos.submit_null(30, 0.3)
    chaos.stack.wait_for_windows(innocent, 1)
    guilty = chaos.submit_null(1, fault="eat-memory after 0")
    assert first.wait() == -signal.SIGKILL
    second = chaos.worker(CELERY_CONCURRENCY="2")
    group.take(second)
    poison, spared = chaos.end_of(guilty), chaos.end_of(innocent)

    assert (poison.status, poison.failure_reason, poison.attempt) == ("failed", "poison", 0)
    assert chaos.errors_of(guilty) == ["worker_lost", "process_died", "process_died"]
    assert (spared.status, spared.attempt, spared.solo_crash_count) == ("completed", 1, 0)
    assert second.popen.poll() is None
    chaos.check()


@pytest.mark.fault("F14", "the kernel kills the decoder of an upload")
def test_a_decoder_that_is_killed_costs_one_attempt(chaos: Chaos) -> None:
    chaos.stack.maintenance()
    worker = chaos.worker()
    job_id = chaos.submit(model_name=NULL_MODEL, initial_prompt="null: 1 x 0 s T1")
    wait_for(lambda: kill_decoder(worker), "the decoder runs")
    done = chaos.end_of(job_id)

    assert (done.status, done.attempt, done.crash_count) == ("completed", 2, 0)
    assert chaos.errors_of(job_id) == ["decoder_killed"]
    assert words_of(chaos.stack, job_id) == ["T1-0"]
    chaos.check()


def kill_decoder(worker: Process) -> bool:
    for child in psutil.Process(worker.popen.pid).children():
        try:
            if any("decoder.main" in word for word in child.cmdline()):
                child.kill()
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def unloads(chaos: Chaos) -> int:
    with chaos.stack.sessions() as session:
        pools = session.scalars(select(Worker.pool).where(Worker.role == "worker"))
        return sum(pool.get("unloads", 0) for pool in pools)


@pytest.mark.fault("F14", "a worker is refused any more memory")
def test_a_worker_that_is_refused_memory_goes_on_when_it_gets_some(chaos: Chaos) -> None:
    chaos.stack.maintenance()
    worker = chaos.worker(MODEL_IDLE_SECONDS="0")
    chaos.end_of(chaos.submit())
    pid = worker.popen.pid
    wait_for(lambda: unloads(chaos), "the model is unloaded")
    taken = psutil.Process(pid).memory_info().vms
    before = resource.prlimit(pid, resource.RLIMIT_AS, (taken, resource.RLIM_INFINITY))
    job_id = chaos.submit()
    wait_for(lambda: chaos.errors_of(job_id), "it fails")
    resource.prlimit(pid, resource.RLIMIT_AS, before)
    done = chaos.end_of(job_id)

    assert done.status == "completed"
    assert set(chaos.errors_of(job_id)) == {"out_of_memory"}
    assert words_of(chaos.stack, job_id) == SHORT_TEXT
    assert worker.popen.poll() is None
    chaos.check()
