"""A process that holds the leases of many jobs as workers do, and a real reaper beside them.

``KEEPERS`` keepers hold ``HOLDS`` jobs each, over a connection each, with the service's own pauses.
It beats without any job first, for the bare figure, and takes the jobs when ``GO`` exists.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from config import VERSION, Settings
from database import get_db_session, make_engine, make_sessions
from jobs import lifecycle, workers
from jobs.leases import LeaseKeeper
from jobs.lifecycle import Lease
from jobs.workers import WorkerState
from maintenance import Loop
from models import TranscriptionJob
from reaper import Reaper, pause_between_looks

STALL_SECONDS = 1e9


def announce(name: str, session: Session, *, running: int, **_: object) -> None:
    workers.announce(
        session,
        WorkerState(
            name=name, role="worker", version=VERSION, queues=(), slots=running, running=running
        ),
    )


def main() -> None:
    settings = Settings.from_env(env_file=None)
    sessions = make_sessions(make_engine(settings))
    beats = make_sessions(make_engine(settings, pooled=False))
    keepers = [
        LeaseKeeper(
            beats,
            heartbeat_seconds=settings.heartbeat_seconds,
            stall_seconds=STALL_SECONDS,
            announce=functools.partial(announce, f"bench:{os.getpid()}:{number}"),
            on_stall=lambda _: None,
        )
        for number in range(int(os.environ["KEEPERS"]))
    ]
    for keeper in keepers:
        keeper.start()
    Loop("reaper", Reaper(sessions, settings), pause_seconds=pause_between_looks(settings)).start()
    print("ready", flush=True)
    go = Path(os.environ["GO"])
    while not go.exists():
        time.sleep(0.1)
    with contextlib.ExitStack() as held:
        with get_db_session(sessions) as session:
            ids = list(session.scalars(select(TranscriptionJob.id)))
        for number, job_id in enumerate(ids):
            keeper = keepers[number % len(keepers)]
            with get_db_session(sessions) as session:
                job = lifecycle.claim(session, job_id, f"bench:{os.getpid()}")
            if job is not None:
                lease: Lease = job.lease
                held.enter_context(keeper.hold(lease))
        print("holding", flush=True)
        time.sleep(3600)


if __name__ == "__main__":
    main()
