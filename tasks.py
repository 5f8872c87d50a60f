"""The Celery tasks: ``transcribe`` claims a job and makes an attempt at it.

A message is only a doorbell, so a task may be run any number of times for one job. Nothing may
escape a task's body but ``AttemptFailed``: under the threads pool a MemoryError or SystemExit
would cost the worker a slot for ever (celery issue 10462).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any

from celery import shared_task

from attempts import Attempt, AttemptFailed
from celery_app import DEAD_LETTER, TRANSCRIBE
from database import Sessions, get_db_session
from errors import DatabaseUnavailable
from jobs import dispatching, lifecycle
from jobs.leases import Refused
from jobs.lifecycle import ClaimedJob
from telemetry import bind
from workbench import Workbench

logger = logging.getLogger(__name__)

_bench: list[Workbench] = []
_sessions: list[Sessions] = []


def equip(sessions: Sessions, bench: Workbench | None = None) -> None:
    """Give this process's tasks what they work with; called once, by ``worker.py``.

    Args:
        bench: None in a process that only takes the dead letter queue.
    """
    _sessions[:] = [sessions]
    _bench[:] = [] if bench is None else [bench]


@shared_task(name=TRANSCRIBE, ignore_result=True, throws=(AttemptFailed,))
def transcribe(job_id: str) -> None:
    """Make one attempt at a job, if it is there to be had."""
    (bench,) = _bench
    try:
        with bench.keeper.admitted(bench.settings.celery_concurrency):
            if (job := _claim(bench, job_id)) is not None:
                _attempt(bench, job)
    except AttemptFailed:
        raise
    except Refused:
        _return_message(bench, job_id)
    except BaseException:
        logger.exception("attempt ended without a word", extra={"job_id": job_id})


def take_next(*, claimed: Callable[[], object]) -> bool:
    """Make one attempt at the job that is due first, without a message; whether there was one.

    Args:
        claimed: Called between the claim and the attempt.
    """
    (bench,) = _bench
    try:
        with bench.keeper.admitted(bench.settings.celery_concurrency):
            with get_db_session(bench.sessions) as session:
                job = lifecycle.claim_next(session, bench.settings.celery_queues, bench.name)
            if job is None:
                return False
            claimed()
            _attempt(bench, job)
    except AttemptFailed:
        return True
    except (Refused, DatabaseUnavailable):
        return False
    except BaseException:
        logger.exception("attempt ended without a word")
    return True


def _attempt(bench: Workbench, job: ClaimedJob) -> None:
    with (
        bind(job_id=str(job.lease.job_id), attempt=job.lease.attempt, epoch=job.lease.epoch),
        bench.keeper.hold(job.lease) as hold,
    ):
        logger.info("attempt started", extra={"model": job.model_name})
        Attempt(bench, job, hold).run()


def _return_message(bench: Workbench, job_id: str) -> None:
    """Have the job published again: its message came to a process that takes nothing new."""
    try:
        with get_db_session(bench.sessions) as session:
            dispatching.undispatch(session, [uuid.UUID(job_id)])
    except DatabaseUnavailable:
        logger.warning("message not returned: left to the dispatcher", extra={"job_id": job_id})


def _claim(bench: Workbench, job_id: str) -> ClaimedJob | None:
    try:
        with get_db_session(bench.sessions) as session:
            job = lifecycle.claim(session, uuid.UUID(job_id), bench.name)
    except DatabaseUnavailable:
        # still pending, so the dispatcher publishes it again
        logger.warning("database is away: job left to the dispatcher", extra={"job_id": job_id})
        return None
    if job is None:
        logger.info("nothing to do for this message", extra={"job_id": job_id})
    return job


@shared_task(name=DEAD_LETTER, ignore_result=True)
def dead_letter(job_id: str) -> None:
    """Take note, once, of a job that was given up."""
    (sessions,) = _sessions
    try:
        with get_db_session(sessions) as session:
            job = lifecycle.note_dead_letter(session, uuid.UUID(job_id))
        if job is not None:
            logger.error("job given up", extra={"job_id": job_id, **_told(job._mapping)})  # noqa: SLF001
    except BaseException:
        logger.exception("dead letter not noted", extra={"job_id": job_id})


def _told(job: Any) -> dict[str, object]:
    return {name: job[name] for name in ("failure_reason", "error_code", "model_name", "attempt")}
