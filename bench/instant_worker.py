"""The real worker with an engine that returns at once, and no decoding: what is left is ours.

With ``BARE`` set, the same worker runs a bare Celery task that makes the job's own commits.
"""

from __future__ import annotations

import os
import uuid

from celery import shared_task
from sqlalchemy import create_engine, event, text

import tasks
import worker
from celery_app import make_celery
from config import Settings
from rig.engines import NullEngine, null_decode
from telemetry import configure_logging

BARE = "bench.bare"
#: Transactions of one job in a worker: claim; length and earlier windows; a window; the result.
COMMITS = 4


def main() -> None:
    settings = Settings.from_env(env_file=None)
    configure_logging("WARNING" if os.environ.get("QUIET") else "INFO", "human")
    app = make_celery(settings)
    bare_engine = create_engine(settings.require_database_url(), pool_size=8)

    @shared_task(name=BARE, ignore_result=True)
    def bare(job_id: str) -> None:
        for _ in range(COMMITS):
            with bare_engine.begin() as connection:
                connection.execute(
                    text("UPDATE bare SET n = n + 1 WHERE id = :id"), {"id": uuid.UUID(job_id)}
                )

    process = worker.ModelWorker(settings, app, load=NullEngine, decode=null_decode)
    statements = [0]

    def count(*_: object) -> None:
        statements[0] += 1
        (settings.state_dir / "statements").write_text(str(statements[0]))

    if os.environ.get("COUNT_STATEMENTS"):
        engine = process.sessions.kw["bind"]
        event.listen(engine, "before_cursor_execute", count)
    tasks.equip(process.sessions, process.bench)
    worker.run(app, process, settings.celery_queues, settings.celery_concurrency)


if __name__ == "__main__":
    main()
