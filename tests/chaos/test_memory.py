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
from speech.engines import ModelKey
from tests.chaos.conftest import NULL_MODEL, REAPED, SHORT_TEXT, WINDOW, Chaos, retried, words_of
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
    second = chaos.worker(CELERY_CONCURRENCY="2", CELERY_QUEUES="retry")
    guilty = chaos.submit_null(1, fault="eat-memory after 0")
    assert first.wait() == -signal.SIGKILL
    group.take(second)
    with chaos.recovery(REAPED):
        chaos.is_taken(innocent)
        chaos.is_taken(guilty)
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
    chaos.decoder_of(worker).kill()
    chaos.fails(job_id)
    with chaos.recovery(retried(pause=6)):
        chaos.is_taken(job_id)
    done = chaos.end_of(job_id)

    assert (done.status, done.attempt, done.crash_count) == ("completed", 2, 0)
    assert chaos.errors_of(job_id) == ["decoder_killed"]
    assert words_of(chaos.stack, job_id) == ["T1-0"]
    chaos.check()


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
    chaos.fails(job_id)
    failed = len(chaos.errors_of(job_id))
    resource.prlimit(pid, resource.RLIMIT_AS, before)
    with chaos.recovery(retried(failed, pause=6) + WINDOW):
        chaos.end_of(job_id)
    done = chaos.end_of(job_id)

    assert done.status == "completed"
    assert set(chaos.errors_of(job_id)) == {"out_of_memory"}
    assert words_of(chaos.stack, job_id) == SHORT_TEXT
    assert worker.popen.poll() is None
    chaos.check()


#: Null models, the largest first: what each would take, by ``fitting.memory_bytes``, is 1.6 GB,
#: 0.6 GB and 0.4 GB.
LADDER: Final = "small,base,tiny"


@pytest.mark.fault("F48", "the kernel refuses the memory that a model needs; a smaller one fits")
def test_a_model_that_does_not_fit_gives_way_to_a_smaller_one(chaos: Chaos) -> None:
    worker = chaos.worker(CELERY_CONCURRENCY="2", NULL_MODEL=LADDER, NULL_MEMORY="true")
    neighbour = chaos.submit_null(20, 0.3, model_name="tiny")
    chaos.stack.wait_for_windows(neighbour, 1)
    pid = worker.popen.pid
    most = psutil.Process(pid).memory_info().vms + 1000 * MEGABYTE
    resource.prlimit(pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    job_id = chaos.submit_null(2, model_name="small")
    done, beside = chaos.end_of(job_id), chaos.end_of(neighbour)

    assert (done.status, done.attempt, done.degraded) == ("completed", 1, True)
    assert [(step["reason"], model_of(step["to"])) for step in done.fallbacks] == [("load", "base")]
    assert model_of(done.model_used or "") == "base"
    assert (beside.status, beside.lease_epoch, beside.degraded) == ("completed", 1, False)
    assert [chaos.errors_of(job) for job in (job_id, neighbour)] == [[], []]
    assert worker.popen.poll() is None
    chaos.check()


@pytest.mark.fault("F48", "no model fits, not the smallest")
def test_a_model_that_nothing_fits_for_fails_its_job_and_costs_no_slot(chaos: Chaos) -> None:
    chaos.stack.maintenance()
    worker = chaos.worker(CELERY_CONCURRENCY="1", NULL_MODEL=LADDER, MODEL_POOL_MEMORY_MB="300")
    job_id = chaos.submit_null(2, model_name="small", max_attempts=2)
    chaos.fails(job_id)
    with chaos.recovery(retried(pause=6)):
        chaos.is_taken(job_id)
    failed = chaos.end_of(job_id)
    after = chaos.end_of(chaos.submit())

    assert (failed.status, failed.failure_reason) == ("failed", "attempts_exhausted")
    assert (failed.error_code, failed.attempt) == ("out_of_memory", 2)
    assert chaos.errors_of(job_id) == ["out_of_memory"] * 2
    assert (after.status, after.degraded) == ("completed", False)
    assert worker.popen.poll() is None
    chaos.check()


def model_of(key: str) -> str:
    return ModelKey.parse(key).model
