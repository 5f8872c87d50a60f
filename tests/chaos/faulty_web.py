"""The real web process, which dies at one moment of its first submission.

``DIE_AT``: ``before-commit``, when the file is stored and its row is not; ``after-commit``, when
both are and nobody was rung for.
"""

from __future__ import annotations

import os
import signal
import threading

import uvicorn
from sqlalchemy import event

from app import create_app
from config import Settings
from telemetry import configure_logging


def main() -> None:
    settings = Settings.from_env(env_file=None)
    configure_logging(settings.log_level, settings.log_format)
    app = create_app(settings)
    services = app.state.services
    # the threads whose transaction it is in: others commit beside it
    submitting: set[int] = set()

    def note(_: object, __: object, statement: str, *___: object) -> None:
        if "INSERT INTO transcription_jobs" in statement:
            submitting.add(threading.get_ident())

    def die(_: object) -> None:
        if threading.get_ident() in submitting:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(services.engine, "after_cursor_execute", note)
    event.listen(services.sessions, os.environ["DIE_AT"].replace("-", "_"), die)
    uvicorn.run(app, host=settings.host, port=settings.port, log_config=None)


if __name__ == "__main__":
    main()
