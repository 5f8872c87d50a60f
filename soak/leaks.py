"""What the service leaves behind when it is idle, and when it is gone.

Orphans of killed processes become children of this one, so they can be seen.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psutil
import redis

from database import Sessions
from janitor import Janitor
from jobs.retention import Retention
from jobs.uploads import PART_DIR, UploadStore
from soak.observer import Observer
from soak.service import Life, Place, Supervisor
from solo import LOCK_NAME

#: <linux/prctl.h>
PR_SET_CHILD_SUBREAPER: Final = 36
#: How long what ends by itself may take to end.
SETTLE_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.2
#: The janitor deletes what nobody needs, when it is old.
LONG_AGO_SECONDS: Final = 2 * 86_400.0
#: By this name we are known to PostgreSQL.
OUR_NAME: Final = "soak"


def adopt_orphans() -> None:
    """Become the parent of whatever outlives its own."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def settled(look: Callable[[], list[str]]) -> list[str]:
    """What is still there after a while."""
    until = time.monotonic() + SETTLE_SECONDS
    while (found := look()) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return found


def processes(place: Place, supervisor: Supervisor) -> list[str]:
    """Descendants of ours that neither serve nor were started by us."""
    postgres = place.postgres.pid
    known = {postgres, place.valkey.pid}
    known |= {life.process.pid for life in supervisor.lives if life.lives}
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.pid not in known and process.ppid() != postgres and _runs(process):
                found.append(f"process {process.pid} {_command(process)}")
    return found


def _runs(process: psutil.Process) -> bool:
    return bool(process.status() != psutil.STATUS_ZOMBIE)


def _command(process: psutil.Process) -> str:
    return " ".join(process.cmdline())[:100]


def sessions(observer: Observer, supervisor: Supervisor) -> list[str]:
    """Sessions of PostgreSQL that belong to no process that lives."""
    names = {life.name for life in supervisor.lives if life.lives} | {OUR_NAME}
    return [f"session of {name}" for name in observer.sessions() if name not in names]


def connections(client: redis.Redis, supervisor: Supervisor) -> list[str]:
    """Connections to Redis that belong to no process that lives."""
    ours = {os.getpid(), *(life.process.pid for life in supervisor.lives if life.lives)}
    ports = {port for pid in ours for port in _ports(pid)}
    found: Any = client.client_list()
    return [
        f"connection from {one['addr']} {one['name']}"
        for one in found
        if int(one["addr"].rpartition(":")[2]) not in ports
    ]


def _ports(pid: int) -> Iterator[int]:
    with contextlib.suppress(psutil.Error):
        for connection in psutil.Process(pid).net_connections("tcp"):
            yield connection.laddr.port


def clean_up(place: Place, observer: Observer, sessions: Sessions, lives: list[Life]) -> None:
    """Let the service's own janitor delete what nobody needs, as if days had passed."""
    age(place, observer, lives)
    store = UploadStore(place.state / "uploads", max_bytes=1, min_free_bytes=0)
    janitor = Janitor(sessions, store, keep=Retention(), keep_keys_seconds=LONG_AGO_SECONDS)
    for _ in range(2):  # it looks twice before it deletes
        janitor.run()


def age(place: Place, observer: Observer, lives: list[Life]) -> None:
    """Make old whatever belongs to no job and to no process that lives, as if days had passed."""
    rows = {str(job_id) for job_id in observer.jobs()}
    then = time.time() - LONG_AGO_SECONDS
    for path in _uploads(place):
        if path.parent.name == PART_DIR or path.name not in rows:
            os.utime(path, (then, then))
    observer.execute(
        "UPDATE workers SET seen_at = now() - interval '2 days'"
        " WHERE split_part(name, ':', 2) <> ALL(:pids)",
        pids=[str(life.process.pid) for life in lives],
    )


def files(place: Place, observer: Observer) -> list[str]:
    """Uploads that no job has, and whatever lies in the scratch folder."""
    rows = {str(job_id) for job_id in observer.jobs()}
    strays = [
        path for path in _uploads(place) if path.parent.name == PART_DIR or path.name not in rows
    ]
    scratch = [path for path in (place.state / "scratch").glob("*") if path.name != LOCK_NAME]
    return [f"file {path.relative_to(place.state)}" for path in (*strays, *scratch)]


def rows(observer: Observer, supervisor: Supervisor) -> list[str]:
    """Rows of processes that are gone."""
    pids = {str(life.process.pid) for life in supervisor.lives if life.lives}
    return [f"row of {name}" for name in observer.workers() if name.split(":")[1] not in pids]


def _uploads(place: Place) -> Iterator[Path]:
    for path in (place.state / "uploads").glob("*/*"):
        with contextlib.suppress(ValueError):
            uuid.UUID(path.name)
            yield path
