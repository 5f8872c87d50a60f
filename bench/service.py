"""A service to measure: servers of its own with fsync on, and processes as in production."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
from alembic import command
from alembic.config import Config as AlembicConfig

from config import PROJECT_DIR, Settings
from local_servers import PostgresServer, ValkeyServer
from rig.processes import Process, free_port, wait_for


@dataclass
class Service:
    """Where everything is, and what was started."""

    folder: Path
    settings: Settings
    environment: dict[str, str]
    port: int
    postgres: PostgresServer
    started: list[Process] = field(default_factory=list)

    def start(self, *arguments: str, **variables: str) -> Process:
        process = Process.start(
            arguments[-1],
            *arguments,
            log=self.folder / f"{len(self.started)}.log",
            environment={**self.environment, **variables},
        )
        self.started.append(process)
        return process

    def web(self) -> tuple[psutil.Process, httpx2.Client]:
        process = self.start("app.py")
        url = f"http://127.0.0.1:{self.port}"
        key_file = self.folder / "state" / "admin.key"

        def ready() -> bool:
            with contextlib.suppress(httpx2.HTTPError):
                return httpx2.get(f"{url}/ready").status_code == 200 and key_file.exists()
            return False

        wait_for(ready, "web is ready")
        key = key_file.read_text("utf-8").strip()
        return psutil.Process(process.pid), httpx2.Client(
            base_url=url, headers={"X-API-Key": key}, timeout=120
        )

    def worker(self, *arguments: str, **variables: str) -> psutil.Process:
        process = self.start(*(arguments or ("worker.py",)), **variables)
        wait_for(lambda: process.said("ready"), "the worker is ready")
        return psutil.Process(process.pid)


@contextlib.contextmanager
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="transcription-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        postgres, valkey = PostgresServer(folder / "postgres"), ValkeyServer(folder / "valkey")
        port = free_port()
        environment = {
            **os.environ,
            "DATABASE_URL": postgres.start(),
            "REDIS_URL": valkey.start(),
            "STATE_DIR": str(folder / "state"),
            "PORT": str(port),
            "WHISPER_MODEL_SIZE": "demo",
            "MAX_UPLOAD_SIZE_MB": "2048",
            "MIN_FREE_DISK_MB": "0",
            # held to, for what that costs, and never reached
            "RATE_LIMIT_REQUESTS": "1000000",
            "LOG_LEVEL": "INFO",
        }
        settings = Settings.model_validate(
            {name.lower(): value for name, value in environment.items()}
        )
        alembic = AlembicConfig(PROJECT_DIR / "alembic.ini")
        alembic.attributes["settings"] = settings
        command.upgrade(alembic, "head")
        found = Service(folder, settings, environment, port, postgres)
        try:
            yield found
        finally:
            for process in found.started:
                process.kill()
            valkey.stop()
            postgres.stop()
