"""Clocks that are set while work goes on: nobody is reaped, nothing runs twice, nobody waits on."""

import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest

from local_servers import PostgresServer
from tests.chaos.conftest import SHORT_TEXT, Chaos, running, words_of
from tests.conftest import administration
from tests.recordings import repeated
from tests.stack.conftest import Process, Stack, wait_for

SOURCE: Final = Path(__file__).with_name("clock.c")
COMPILER: Final = shutil.which("cc")
STEP_SECONDS: Final = 7200
TIMES: Final = 24
#: Longest pause before a retry, so that a clock can be set within it.
PAUSE_SECONDS: Final = "5"

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.model,
    pytest.mark.skipif(COMPILER is None, reason="no C compiler, to build a clock that can be set"),
    pytest.mark.skipif(sys.platform != "linux", reason="the clock is preloaded as on Linux"),
]


class Clock:
    """A clock that the processes which are given it go by, and that can be set while they run."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o711)  # PostgreSQL may run as somebody else
        library = folder / "clock.so"
        subprocess.run(
            [str(COMPILER), "-shared", "-fPIC", "-O1", "-o", library, SOURCE], check=True
        )
        self._file = folder / "clock"
        self._file.touch(mode=0o644)
        self.set(0)
        self.variables: dict[str, Any] = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(self._file)}

    def set(self, seconds: int) -> None:
        """Set it so many seconds forward or back of the true time."""
        with self._file.open("rb+") as file:  # the same file: processes have it mapped
            file.write(struct.pack("l", seconds))


@pytest.fixture
def clock() -> Iterator[Clock]:
    with TemporaryDirectory() as folder:  # pytest's own are closed to others
        yield checked(Clock(Path(folder)))


def checked(clock: Clock) -> Clock:
    clock.set(STEP_SECONDS)
    tell = "import time; time.sleep(0.01); print(time.time())"
    told = subprocess.run(
        [sys.executable, "-c", tell], env=clock.variables, capture_output=True, check=True
    )
    assert float(told.stdout) > time.time() + STEP_SECONDS / 2
    clock.set(0)
    return clock


class ClockedPostgres(PostgresServer):
    """A server that goes by such a clock."""

    clock: Clock

    def _run(self, command: Sequence[str | Path], deadline: float) -> CompletedProcess[str]:
        variables = [f"{name}={value}" for name, value in self.clock.variables.items()]
        return super()._run(["/usr/bin/env", *variables, *command], deadline)


@pytest.fixture
def postgres(tmp_path: Path, clock: Clock) -> Iterator[PostgresServer]:
    server = ClockedPostgres(tmp_path / "postgres", fast=True)
    server.clock = clock
    with running(server), administration(server) as execute:
        clock.set(STEP_SECONDS)
        assert execute("SELECT EXTRACT(EPOCH FROM now())") > time.time() + STEP_SECONDS / 2
        clock.set(0)
        yield server


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return repeated("digits-en.wav", TIMES, tmp_path / "some minutes.wav")


@pytest.fixture
def stack(stack: Stack) -> Stack:
    stack.environment["RETRY_BASE_SECONDS"] = PAUSE_SECONDS
    return stack


def let_jobs_run_while_it_is_set(
    chaos: Chaos, clock: Clock, maintenance: Process, recording: Path
) -> None:
    """Set the clock forward, then back, with a job running, one in its back-off and two waiting."""
    long = chaos.submit(recording)
    chaos.stack.wait_for_windows(long, 1)
    clock.set(STEP_SECONDS)
    chaos.stack.wait_for_windows(long, 2)
    maintenance.signal(signal.SIGSTOP)
    failing = chaos.submit(fault="error after 0 once")
    wait_for(lambda: chaos.errors_of(failing), "it failed once")
    waiting = [chaos.submit(ring=False) for _ in range(2)]
    clock.set(0)
    maintenance.signal(signal.SIGCONT)
    done = [chaos.end_of(job_id) for job_id in (long, failing, *waiting)]

    assert [job.status for job in done] == ["completed"] * 4
    assert [job.lease_epoch for job in done] == [1, 2, 1, 1]
    assert [job.crash_count for job in done] == [0] * 4
    assert words_of(chaos.stack, long) == TIMES * SHORT_TEXT
    assert words_of(chaos.stack, failing) == SHORT_TEXT
    assert chaos.errors_of(failing) == ["internal_error"]
    assert chaos.stack.windows(failing)[0].created_at > done[1].not_before
    chaos.check()


@pytest.mark.fault("F33", "a worker's clock is set forward by two hours, and back")
def test_a_workers_clock_that_is_set_harms_no_job(
    chaos: Chaos, clock: Clock, recording: Path
) -> None:
    maintenance = chaos.stack.maintenance()
    chaos.worker(**clock.variables)
    let_jobs_run_while_it_is_set(chaos, clock, maintenance, recording)


@pytest.mark.fault("F33", "maintenance's clock is set forward by two hours, and back")
def test_maintenances_clock_that_is_set_harms_no_job(
    chaos: Chaos, clock: Clock, recording: Path
) -> None:
    maintenance = chaos.stack.maintenance(**clock.variables)
    chaos.worker()
    let_jobs_run_while_it_is_set(chaos, clock, maintenance, recording)


@pytest.mark.fault("F33", "PostgreSQL's clock is set forward by two hours, and back")
@pytest.mark.usefixtures("postgres")
def test_postgresqls_clock_that_is_set_harms_no_job(
    broken: Chaos, clock: Clock, recording: Path
) -> None:
    maintenance = broken.stack.maintenance()
    broken.worker()
    let_jobs_run_while_it_is_set(broken, clock, maintenance, recording)

    assert maintenance.said("postgresql's clock was set back")
