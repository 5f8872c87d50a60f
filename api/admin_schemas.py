"""The bodies of what operators are told of the service."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.schemas import Answer, Time
from jobs.conditions import KINDS, Condition, Severity, Still
from jobs.queries import WorkerView


class Lane(Answer):
    """One queue, in both of its places."""

    waiting: int = Field(description="Jobs that wait, or failed and are not resolved.")
    messages: int | None = Field(description="Messages in Redis; null when it does not answer.")
    oldest_seconds: float | None = Field(description="How long the one due longest has waited.")
    paused: bool = Field(description="True while none of its jobs may start.")


class Queues(Answer):
    """What waits and what is worked on."""

    pending: int
    processing: int
    oldest_processing_seconds: float | None
    high: Lane
    normal: Lane
    retry: Lane
    dlq: Lane


class WorkerState(Answer):
    """A process, as it last said."""

    name: str
    role: str
    version: str
    alive: bool = Field(description="False when it has been silent for longer than a lease.")
    silent_seconds: float = Field(description="Since its last heartbeat.")
    queues: list[str]
    slots: int = Field(description="Jobs that it can run at once.")
    running: int
    draining: bool
    begun: int = Field(description="Attempts that it has begun.")
    idle_since: Time | None = Field(
        description="Since when it has had a free slot and begun nothing."
    )
    clock_ahead_seconds: float = Field(description="Of the database's clock.")
    started_at: Time
    seen_at: Time
    model_pool: dict[str, Any]

    @classmethod
    def of(cls, view: WorkerView, *, lease_seconds: float) -> WorkerState:
        worker = view.worker
        return cls(
            name=worker.name,
            role=worker.role,
            version=worker.version,
            alive=view.silent_seconds <= lease_seconds,
            silent_seconds=round(view.silent_seconds, 3),
            queues=worker.queues,
            slots=worker.slots,
            running=worker.running,
            draining=worker.draining_since is not None,
            begun=worker.begun,
            idle_since=worker.idle_since,
            clock_ahead_seconds=round(worker.clock_ahead_seconds, 3),
            started_at=worker.started_at,
            seen_at=worker.seen_at,
            model_pool=worker.pool,
        )


class DatabasePool(Answer):
    """Connections of this web process."""

    size: int
    checked_out: int
    checked_in: int
    overflow: int


class Disk(Answer):
    """Where uploads are kept."""

    free_bytes: int
    total_bytes: int
    floor_bytes: int = Field(description="Uploads are refused when less would stay free.")


class Ailment(Answer):
    """Something that is wrong, or that somebody should know."""

    code: str = Field(description=f"Stable: {', '.join(f'`{code}`' for code in KINDS)}.")
    severity: Severity
    message: str
    remedy: str
    since: Time | None = Field(description="Null where nobody knows.")

    @classmethod
    def of(cls, condition: Condition) -> Ailment:
        return cls.model_validate(condition)


class StillLease(Answer):
    """A job whose worker shows no sign of life; maintenance takes it back after a lease."""

    job_id: uuid.UUID
    worker: str
    since: Time = Field(description="The last heartbeat.")
    still_seconds: float

    @classmethod
    def of(cls, lease: Still, *, now: datetime) -> StillLease:
        return cls(
            job_id=lease.job_id,
            worker=lease.worker_name,
            since=lease.since,
            still_seconds=round((now - lease.since).total_seconds(), 3),
        )


class AdminHealth(Answer):
    """How the whole service is."""

    status: Literal["healthy", "degraded", "unhealthy"]
    conditions: list[Ailment] = Field(description="The worst first.")
    version: str
    database: Literal["connected"] = "connected"
    redis: Literal["connected", "disconnected"]
    queues: Queues
    workers: list[WorkerState]
    still_leases: list[StillLease] = Field(
        description="Jobs without a heartbeat for half of a lease or longer."
    )
    model_pool: dict[str, Any] = Field(description="The pools of all live workers together.")
    database_pool: DatabasePool
    disk: Disk | None = Field(description="Null when the store of uploads does not answer.")
    error_rate_1h: str = Field(
        description="Of the jobs that ended in the last hour, those that failed for no fault of"
        " their input.",
        examples=["12.34%"],
    )
    unresolved_errors: int
