"""The process that calls what clients named: ``python worker.py --role webhooks``.

It calls webhooks, and fetches recordings. It takes nothing from Redis and runs no job: in Compose
it alone has a way to the internet, to the database and to the uploads.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType
from typing import Final

from config import Settings
from database import Sessions, make_engine, make_sessions
from fetching import fetcher as fetching
from fetching.attempts import Rules
from fetching.fetcher import Fetcher
from jobs.uploads import UploadStore
from maintenance import Loop
from presence import Presence
from tallies import Tallies, Writer
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
    counts = Tallies()
    writer = Writer(counts, sessions)
    sender = Sender(
        sessions,
        make_outgoing(settings),
        make_secrets(settings),
        retry_seconds=settings.webhook_retry_seconds,
        tallies=counts,
    )
    fetcher = make_fetcher(settings, sessions)
    presence = Presence(settings, sessions, role="webhooks")
    loops = [
        Loop("webhooks", sender, pause_seconds=POLL_SECONDS),
        Loop("fetcher", fetcher, pause_seconds=fetching.POLL_SECONDS),
    ]
    presence.start()
    writer.start()
    for loop in loops:
        loop.start()
    logger.info("ready", extra={"worker": presence.name})
    stop.wait()
    until = time.monotonic() + END_SECONDS
    # what is being fetched ends at its next byte
    fetcher.close(END_SECONDS / 2)
    sender.close(until - time.monotonic())
    for loop in loops:
        loop.close()
    writer.close()
    presence.close()


def make_fetcher(settings: Settings, sessions: Sessions) -> Fetcher:
    rules = Rules(
        enabled=settings.source_urls,
        longest_seconds=settings.source_hours * 3600,
        retry_seconds=settings.source_retry_seconds,
        key_bytes=settings.key_stored_mb * 2**20,
    )
    uploads = UploadStore(
        settings.uploads_path,
        max_bytes=settings.max_upload_bytes,
        min_free_bytes=settings.min_free_bytes,
    )
    return Fetcher(sessions, make_outgoing(settings, fetching.limits_of(rules)), uploads, rules)
