"""For operators: how the service is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal

import redis
from fastapi import APIRouter, Depends, Query

from api.admin_schemas import (
    AdminHealth,
    Ailment,
    DatabasePool,
    Disk,
    Lane,
    Queues,
    StillLease,
    WorkerState,
)
from api.dependencies import Admin, ServicesDep, single_values
from api.documentation import problems
from celery_app import DLQ, LANES
from config import VERSION, Settings
from database import ConnectionPoolStats, pool_stats
from errors import StorageUnavailable, Unhealthy
from jobs import vitals
from jobs.conditions import DiskFacts, judge, status_of
from jobs.uploads import UploadStore
from jobs.vitals import Outside, Vitals

router = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(single_values)])

Depths = Mapping[str, int | None]

#: Role of the processes that run jobs.
WORKER: Final = "worker"


@router.get(
    "/health",
    operation_id="get_admin_health",
    summary="How the service is",
    description="`status` follows from the worst of `conditions`; warnings leave it `healthy`.",
    responses=problems(401, 403, 503),
)
def health(
    _principal: Admin,
    services: ServicesDep,
    fail_on: Annotated[
        Literal["unhealthy", "degraded"] | None,
        Query(description="For monitors: answer 503 when it is as bad as that, or worse."),
    ] = None,
) -> AdminHealth:
    depths = _depths(services.redis)
    # before a connection is taken for asking
    pool = pool_stats(services.engine)
    disk = _disk(services.uploads)
    outside = _outside(services.settings, redis=depths is not None, pool=pool, disk=disk)
    lease_seconds = services.settings.lease_seconds
    with services.transaction() as session:
        seen = vitals.read(session, outside, lane_names=LANES, lease_seconds=lease_seconds)
    conditions = judge(seen.facts)
    workers = [WorkerState.of(view, lease_seconds=lease_seconds) for view in seen.workers]
    status = status_of(conditions)
    shown = [Ailment.of(condition) for condition in conditions]
    if fail_on is not None and status in {fail_on, "unhealthy"}:
        raise Unhealthy(conditions=[ailment.model_dump(mode="json") for ailment in shown])
    return AdminHealth(
        status=status,
        conditions=shown,
        version=VERSION,
        redis="disconnected" if depths is None else "connected",
        queues=_queues(seen, depths or {}),
        workers=workers,
        still_leases=[StillLease.of(lease, now=seen.facts.now) for lease in seen.facts.still],
        model_pool=_together(
            worker.model_pool for worker in workers if worker.alive and worker.role == WORKER
        ),
        database_pool=DatabasePool.model_validate(pool),
        disk=disk,
        error_rate_1h=f"{seen.figures.error_rate_1h:.2%}",
        unresolved_errors=seen.figures.unresolved_errors,
    )


def _depths(client: redis.Redis) -> Depths | None:
    """Messages in each queue; None when Redis does not answer."""
    names = (*LANES, DLQ)
    try:
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.llen(name)
        answers = pipeline.execute(raise_on_error=False)
    except redis.RedisError:
        return None
    # Redis itself answers, though somebody else may use the key
    counts = (answer if isinstance(answer, int) else None for answer in answers)
    return dict(zip(names, counts, strict=True))


def _outside(
    settings: Settings, *, redis: bool, pool: ConnectionPoolStats, disk: Disk | None
) -> Outside:
    facts = None
    if disk is not None:
        facts = DiskFacts(
            free_bytes=disk.free_bytes,
            floor_bytes=disk.floor_bytes,
            largest_upload_bytes=settings.max_upload_bytes,
        )
    return Outside(
        redis=redis,
        pool_used=pool.checked_out,
        pool_size=settings.database_pool_size + settings.database_max_overflow,
        disk=facts,
    )


def _queues(seen: Vitals, depths: Depths) -> Queues:
    lanes = {
        state.lane: Lane(
            waiting=state.waiting,
            messages=depths.get(state.lane),
            oldest_seconds=state.oldest_seconds,
            paused=state.lane in seen.paused,
        )
        for state in seen.lanes
    }
    dead_letters = seen.figures.unresolved_errors
    return Queues(
        pending=seen.figures.pending,
        processing=seen.figures.processing,
        oldest_processing_seconds=seen.figures.oldest_processing_seconds,
        **lanes,
        dlq=Lane(waiting=dead_letters, messages=depths.get(DLQ), oldest_seconds=None, paused=False),
    )


def _together(pools: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add the statistics of several pools up; the first version's names are among them."""
    sums: Counter[str] = Counter()
    loaded: Counter[str] = Counter()
    for pool in pools:
        sums.update({k: v for k, v in pool.items() if isinstance(v, int | float)})
        for model in pool.get("models", ()):
            loaded[model["key"]["model"]] += model["instances"]
    loans = sums["hits"] + sums["misses"]
    return {
        **sums,
        "oom_fallbacks": sums["fallbacks"],
        "total_loaded": loaded.total(),
        "models_by_size": dict(loaded),
        "hit_rate": sums["hits"] / loans if loans else 0.0,
    }


def _disk(uploads: UploadStore) -> Disk | None:
    try:
        space = uploads.space()
    except StorageUnavailable:
        return None
    return Disk(
        free_bytes=space.free_bytes,
        total_bytes=space.total_bytes,
        floor_bytes=uploads.min_free_bytes,
    )
