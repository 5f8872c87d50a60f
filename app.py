"""The web process: ``python app.py``, or ``uvicorn app:app`` with options of your own.

Composes what is in ``api``; nothing connects at import.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from api import (
    admin,
    batch_results,
    batches,
    dead_letters,
    documentation,
    errors,
    events,
    health,
    jobs,
    keys,
    memory,
    openai,
    page,
    peaks,
    protocol,
    quality,
    queues,
    reruns,
    results,
    resumable,
    sessions,
    transcriptions,
    usage,
    webhooks,
    whisper_asr,
)
from api.connections import Limits
from api.key_schemas import KeyPatch, NewKey, Revocation, Rotation
from api.middleware import (
    LingerMiddleware,
    PaceMiddleware,
    RequestMiddleware,
    SlashMiddleware,
)
from api.origins import CrossOriginMiddleware, HostMiddleware, HTTPSMiddleware
from api.queues import Pause
from api.root_path import RootPathMiddleware
from api.schemas import JobPatch
from api.services import Services
from api.submission import Defaults
from config import VERSION, Settings
from errors import SettingsError
from telemetry import configure_logging

#: Requests under way when the process is told to stop have so long to finish. A client that reads
#: an endless answer must not keep the process from ending.
GRACEFUL_SECONDS: Final = 10
#: Of several processes, one that does not answer its parent for so long is killed and replaced. The
#: default of 5 s is less than a busy machine may take to run it.
UNHEALTHY_SECONDS: Final = 60


def serving(settings: Settings) -> dict[str, Any]:
    """How uvicorn serves us, whatever else it is told."""
    return {
        # by name: uvicorn may start several processes, which are handed this
        "http": "app:Protocol",
        "ws": "none",
        "forwarded_allow_ips": list(settings.trusted_proxies),
        "timeout_keep_alive": settings.keep_alive_seconds,
        "timeout_graceful_shutdown": GRACEFUL_SECONDS,
        "timeout_worker_healthcheck": UNHEALTHY_SECONDS,
        "server_header": False,
        # our own line for each request says more, and no query
        "access_log": False,
        "log_config": None,
    }


#: Read by hand, so FastAPI does not see them.
BODIES: Final = (
    JobPatch,
    *dead_letters.BODIES,
    *webhooks.BODIES,
    *batches.BODIES,
    *reruns.BODIES,
    Pause,
    NewKey,
    KeyPatch,
    Rotation,
    Revocation,
)


def create_app(settings: Settings) -> FastAPI:
    """Compose the web process; it connects when it is started, not here.

    Raises:
        SettingsError: A setting that is needed is missing or wrong.
    """
    Defaults.of(settings)
    services = Services(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        memory.keep_freed_memory()
        await run_in_threadpool(services.start)
        try:
            yield
        finally:
            await run_in_threadpool(services.close)

    app = FastAPI(
        title="Transcription",
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url=documentation.OPENAPI if settings.docs_enabled else None,
    )
    app.state.services = services
    if settings.docs_enabled:
        app.include_router(documentation.page)
    if settings.page_enabled:
        app.include_router(page.router)
    for module in (
        health,
        transcriptions,
        batches,
        batch_results,
        openai,
        whisper_asr,
        jobs,
        events,
        results,
        reruns,
        resumable,
        peaks,
        quality,
        sessions,
        admin,
        dead_letters,
        queues,
        keys,
        webhooks,
        usage,
    ):
        app.include_router(module.router)
    errors.install(app)
    documentation.install(app, *BODIES)
    _refuse_own_path(app, settings.root_path)
    _surround(app, services)
    return app


def _refuse_own_path(app: FastAPI, root_path: str) -> None:
    """Do nothing, or refuse a path to be under where nobody could tell it from one of ours."""
    if root_path and any(f"{path}/".startswith(f"{root_path}/") for path in app.openapi()["paths"]):
        raise SettingsError(
            f"ROOT_PATH={root_path}: Input should be no path of the API's own, such as /jobs"
        )


def _surround(app: FastAPI, services: Services) -> None:
    """Put the middleware around the app, the innermost first."""
    settings = services.settings
    app.add_middleware(SlashMiddleware)
    app.add_middleware(PaceMiddleware, idle_seconds=settings.body_timeout_seconds)
    if settings.force_https:
        app.add_middleware(HTTPSMiddleware)
    if settings.trusted_hosts:
        app.add_middleware(HostMiddleware, hosts=settings.trusted_hosts)
    app.add_middleware(errors.ProblemMiddleware)
    if settings.cors_origins:
        app.add_middleware(CrossOriginMiddleware, origins=settings.cors_origins)
    app.add_middleware(LingerMiddleware)
    app.add_middleware(RequestMiddleware, https_only=settings.force_https, tallies=services.tallies)
    if settings.root_path:
        app.add_middleware(RootPathMiddleware, root_path=settings.root_path)


@functools.cache
def _settings() -> Settings:
    return Settings.from_env()


@functools.cache
def _app_from_environment() -> FastAPI:
    try:
        settings = _settings()
        configure_logging(settings.log_level, settings.log_format, secrets=settings.secrets())
        return create_app(settings)
    except SettingsError as error:
        # whoever starts us reads one line, not a traceback
        raise SystemExit(error.message) from None


@functools.cache
def _protocol_from_environment() -> type[protocol.LimitedProtocol]:
    settings = _settings()
    limits = Limits(
        head_seconds=settings.header_timeout_seconds,
        max_connections=settings.max_connections,
        max_per_address=settings.max_connections_per_address,
    )
    return protocol.protocol(limits, settings.trusted_proxies)


def __getattr__(name: str) -> FastAPI | type[protocol.LimitedProtocol]:
    # for `uvicorn app:app --http app:Protocol`, which looks for these attributes
    if name == "app":
        return _app_from_environment()
    if name == "Protocol":
        return _protocol_from_environment()
    raise AttributeError(name)


def main() -> None:
    """Serve on HOST and PORT until told to stop."""
    try:
        settings = Settings.from_env()
    except SettingsError as error:
        sys.exit(error.message)
    uvicorn.run(
        "app:app",
        host=settings.host,
        port=settings.port,
        workers=settings.web_concurrency,
        **serving(settings),
    )


if __name__ == "__main__":
    main()
