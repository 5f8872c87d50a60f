"""A service to measure: servers of its own with fsync on, and processes as in production."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil
from alembic import command
from alembic.config import Config as AlembicConfig

from config import PROJECT_DIR, Settings
from local_servers import PostgresServer, ValkeyServer

PATIENCE_SECONDS = 120.0


def wait_for(fact: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if found := fact():
            return found
        time.sleep(0.02)
    raise RuntimeError(f"never came true: {what}")


@dataclass
class Service:
    """Where everything is, and what was started."""

    folder: Path
    settings: Settings
    environment: dict[str, str]
    port: int
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str, **variables: str) -> psutil.Process:
        log = self.folder / f"{len(self.started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=PROJECT_DIR,
                env={**self.environment, **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return psutil.Process(process.pid)

    def said(self, index: int, words: str) -> bool:
        return words in (self.folder / f"{index}.log").read_text("utf-8")

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
        return process, httpx2.Client(base_url=url, headers={"X-API-Key": key}, timeout=120)

    def worker(self, *arguments: str, **variables: str) -> psutil.Process:
        index = len(self.started)
        process = self.start(*(arguments or ("worker.py",)), **variables)
        wait_for(lambda: self.said(index, "ready"), "the worker is ready")
        return process


@contextlib.contextmanager
def service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="transcription-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        postgres, valkey = PostgresServer(folder / "postgres"), ValkeyServer(folder / "valkey")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            **os.environ,
            "DATABASE_URL": postgres.start(),
            "REDIS_URL": valkey.start(),
            "STATE_DIR": str(folder / "state"),
            "PORT": str(port),
            "WHISPER_MODEL_SIZE": "demo",
            "MAX_UPLOAD_SIZE_MB": "2048",
            "MIN_FREE_DISK_MB": "0",
            "LOG_LEVEL": "INFO",
        }
        settings = Settings.model_validate(
            {name.lower(): value for name, value in environment.items()}
        )
        alembic = AlembicConfig(PROJECT_DIR / "alembic.ini")
        alembic.attributes["settings"] = settings
        command.upgrade(alembic, "head")
        found = Service(folder, settings, environment, port)
        try:
            yield found
        finally:
            for process in found.started:
                process.kill()
                process.wait()
            valkey.stop()
            postgres.stop()
