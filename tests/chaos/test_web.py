"""Web processes that die in the middle of a submission, wait for connections, and are several."""

import functools
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import httpx2
import psutil
import pytest
from sqlalchemy import func, select, text

from local_servers import programs
from models import ApiKey, TranscriptionJob
from rig.processes import free_port
from tests.chaos.conftest import (
    DISPATCH,
    SHORT,
    SHORT_TEXT,
    Chaos,
    browsing,
    upload,
    words_of,
)
from tests.stack.conftest import PATIENCE_SECONDS, Process, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]

#: See ``database.TIMEOUTS``.
LOCK_TIMEOUT_SECONDS: Final = 5.0


def submit_to_one_that_dies(chaos: Chaos, moment: str) -> None:
    port = free_port()
    web = chaos.stack.start(
        "web", "-m", "tests.chaos.faulty_web", DIE_AT=moment, PORT=str(port), AUTH_REQUIRED="false"
    )
    wait_for(lambda: web.said("Uvicorn running"), "the web process is ready")
    with pytest.raises(httpx2.HTTPError):
        httpx2.post(
            f"http://127.0.0.1:{port}/transcribe",
            files={"file": ("a.wav", SHORT.read_bytes())},
            timeout=60,
        )
    assert web.wait() < 0
    with chaos.stack.sessions() as session:
        chaos.jobs += session.scalars(select(TranscriptionJob.id)).all()


@pytest.mark.fault("F5", "the web process is killed between COMMIT and publish")
def test_a_job_that_nobody_was_rung_for_is_published(chaos: Chaos) -> None:
    chaos.worker()
    submit_to_one_that_dies(chaos, "after-commit")
    (job_id,) = chaos.jobs
    chaos.stack.maintenance()
    with chaos.recovery(2 * DISPATCH):
        wait_for(lambda: chaos.stack.job(job_id).status != "pending", "a worker has it")
    done = chaos.end_of(job_id)

    assert (done.status, done.attempt) == ("completed", 1)
    assert words_of(chaos.stack, job_id) == SHORT_TEXT
    chaos.check()


@pytest.mark.fault("F6", "the web process is killed before COMMIT")
def test_a_submission_that_was_not_committed_is_no_job(chaos: Chaos) -> None:
    submit_to_one_that_dies(chaos, "before-commit")

    assert chaos.jobs == []
    # its file is an orphan, which the janitor deletes after an hour
    assert len(list(chaos.stack.uploads.stored_before(2**40))) == 1


# Pools and processes


@pytest.mark.fault("F30", "requests wait for the only connection of the web process's pool")
def test_an_exhausted_pool_refuses_requests_in_time(chaos: Chaos) -> None:
    chaos.stack.environment |= {"DATABASE_POOL_SIZE": "1", "DATABASE_MAX_OVERFLOW": "0"}
    with browsing(chaos.stack) as client:
        with chaos.stack.sessions.begin() as session, ThreadPoolExecutor(6) as threads:
            session.execute(text("LOCK TABLE transcription_jobs IN ACCESS EXCLUSIVE MODE"))
            with chaos.recovery(LOCK_TIMEOUT_SECONDS):
                asked = [threads.submit(client.get, "/jobs/") for _ in range(6)]
                alive = client.get("/health")
                refused = [question.result() for question in asked]
        answered = client.get("/jobs/")

    assert [answer.status_code for answer in refused] == [503] * 6
    assert {answer.json()["code"] for answer in refused} == {"database_unavailable"}
    assert all("Retry-After" in answer.headers for answer in refused)
    assert (alive.status_code, answered.status_code) == (200, 200)


@pytest.mark.fault("F43", "four web processes on one socket start and stop, again and again")
@pytest.mark.parametrize(
    "several",
    [("app.py",), ("-m", "uvicorn", "app:app", "--timeout-worker-healthcheck", "60")],
    ids=["app.py", "uvicorn"],
)
def test_several_web_processes_share_one_socket_and_leave_nothing(
    several: tuple[str, ...], chaos: Chaos
) -> None:
    for _ in range(2):
        port = free_port()
        at = ("--port", str(port)) if "uvicorn" in several else ()
        web = chaos.stack.start("web", *several, *at, WEB_CONCURRENCY="4", PORT=str(port))
        wait_for(functools.partial(four_are_ready, web), "four processes are ready")
        family = psutil.Process(web.popen.pid).children(recursive=True)
        serving = [process for process in family if listens(process, port)]
        shared = set.intersection(*map(sockets, serving))
        submit_some(chaos, port)
        connected = connections(chaos)
        web.signal(signal.SIGTERM)
        status = web.wait()

        assert (len(serving), len(shared), status) == (4, 1, 0)
        assert connected
        assert programs.gone(family, PATIENCE_SECONDS)
        wait_for(lambda: connections(chaos) == 0, "no connection is left")
    with chaos.stack.sessions() as session:
        assert session.scalar(select(func.count()).select_from(ApiKey)) == 1
    # on a busy machine Redis may have been too late for a submission's message
    chaos.stack.maintenance()
    chaos.worker()
    chaos.check()


def four_are_ready(web: Process) -> bool:
    return web.log.read_text("utf-8").count("startup complete") == 4


def submit_some(chaos: Chaos, port: int) -> None:
    key = (chaos.stack.folder / "admin.key").read_text("utf-8").strip()
    url = f"http://127.0.0.1:{port}"
    for _ in range(4):  # each over a connection of its own
        with httpx2.Client(base_url=url, headers={"X-API-Key": key}, timeout=60) as client:
            chaos.jobs.append(uuid.UUID(upload(client).json()["job_id"]))


def sockets(process: psutil.Process) -> set[str]:
    """The sockets that a process holds, each under a name of its own."""
    targets = (str(fd.readlink()) for fd in Path(f"/proc/{process.pid}/fd").iterdir())
    return {target for target in targets if target.startswith("socket:")}


def listens(process: psutil.Process, port: int) -> bool:
    found = process.net_connections("tcp")
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in found)


def connections(chaos: Chaos) -> int:
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'transcription-web'"
    )
    with chaos.stack.sessions() as session:
        return int(session.execute(text(query)).scalar_one())
