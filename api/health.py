"""Probes: whether the web process lives, and whether it could accept a job. They tell no more."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from api import page
from api.dependencies import ServicesDep
from api.documentation import DOCS, problems
from api.schemas import Health, Ready
from config import VERSION

router = APIRouter(tags=["health"])


@router.get("/", include_in_schema=False, response_model=None)
async def root(request: Request, services: ServicesDep) -> Response | dict[str, str]:
    if services.settings.page_enabled and page.is_wanted(request):
        return page.show(request, auth_required=services.settings.auth_required)
    # the first version's load balancers may ask here
    here = {"status": "healthy", "service": "transcription", "version": VERSION}
    return {**here, "docs": DOCS} if services.settings.docs_enabled else here


# A coroutine: it answers although every thread waits for a database that is away.
@router.get("/health", operation_id="get_health", summary="Whether the service lives")
async def health() -> Health:
    return Health(version=VERSION)


@router.get(
    "/ready",
    operation_id="get_ready",
    summary="Whether a job would be accepted",
    responses=problems(503),
)
def ready(services: ServicesDep) -> Ready:
    if not services.readiness:
        raise HTTPException(503, "The service cannot accept a job now.")
    return Ready()


router.add_api_route("/health", health, methods=["HEAD"], include_in_schema=False)
router.add_api_route("/ready", ready, methods=["HEAD"], include_in_schema=False)
