"""The process that calls webhooks: ``python worker.py --role webhooks``.

It takes nothing from Redis and runs no job: in Compose it alone has a way to the internet and to
the database.
"""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Final

from config import Settings
from database import make_engine, make_sessions
from maintenance import Loop
from presence import Presence
from webhooks.sender import POLL_SECONDS, Sender
from webhooks.setup import make_outgoing, make_secrets

logger = logging.getLogger(__name__)

#: Calls under way at SIGTERM have so long to end, which is longer than any takes. Those that have
#: not are tried again by the next sender.
END_SECONDS: Final = 20.0


def run(settings: Settings) -> None:
    """Call until told to stop.

    Raises:
        SettingsError: Something that is needed is not set.
    """
    stop = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    sessions = make_sessions(make_engine(settings, name="webhooks"))
    sender = Sender(
        sessions,
        make_outgoing(settings),
        make_secrets(settings),
        retry_seconds=settings.webhook_retry_seconds,
    )
    presence = Presence(settings, sessions, role="webhooks")
    loop = Loop("webhooks", sender, pause_seconds=POLL_SECONDS)
    presence.start()
    loop.start()
    logger.info("ready", extra={"worker": presence.name})
    stop.wait()
    sender.close(END_SECONDS)
    loop.close()
    presence.close()
