"""What one worker process has at hand for all its attempts, and what the settings mean for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from celery_app import Doorbell
from config import Settings
from database import Sessions, get_db_session
from errors import DatabaseUnavailable
from jobs import lifecycle
from jobs.leases import LeaseKeeper
from jobs.lifecycle import Backoff
from jobs.uploads import UploadStore
from model_pool import ModelPool
from retries import Policy
from solo import Solo
from speech import audio
from speech.audio import Decoded, DecodeLimits
from speech.engines import ModelKey
from speech.transcript import Mode
from tallies import Tallies

logger = logging.getLogger(__name__)

#: Shorter audio is done soon enough in the mode whose text is openai-whisper's to the letter.
FAST_FROM_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """What one worker process has for all its attempts."""

    settings: Settings
    name: str
    sessions: Sessions
    uploads: UploadStore
    keeper: LeaseKeeper
    pool: ModelPool
    #: Lends models to suspects, each in a process of its own.
    solo: Solo
    doorbell: Doorbell
    #: The model that a job's engine and model name mean on this machine.
    key_of: Callable[[str, str], ModelKey]
    #: Brings a model's files here, telling a step's name and a share of it.
    fetch: Callable[[ModelKey, Callable[[int, int | None], None]], object]
    #: Waits, but not longer than the process lives.
    pause: Callable[[float], object]
    #: What attempts count.
    tallies: Tallies = field(default_factory=Tallies)
    decode: Callable[..., Decoded] = audio.decode

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the only suspect on this machine, and call the next one.

        Raises:
            Occupied: Another one is; it will call.
        """
        had = False
        try:
            with self.solo.turn():
                had = True
                yield
        finally:
            if had:
                self._call_suspect()

    def _call_suspect(self) -> None:
        try:
            with get_db_session(self.sessions) as session:
                called = lifecycle.call_suspect(session)
        except DatabaseUnavailable:  # it asks again by itself, later
            return
        if called is not None:
            logger.info("next suspect called", extra={"called": str(called)})

    def backoff(self, policy: Policy) -> Backoff:
        return Backoff.of(
            policy,
            base_seconds=self.settings.retry_base_seconds,
            cap_seconds=self.settings.retry_cap_seconds,
        )

    def mode(self, audio_seconds: float) -> Mode:
        asked = self.settings.whisper_mode
        if asked == "auto":
            return Mode.FAST if audio_seconds >= FAST_FROM_SECONDS else Mode.EXACT
        return Mode(asked)

    @property
    def decode_limits(self) -> DecodeLimits:
        return DecodeLimits(
            max_audio_seconds=self.settings.max_audio_seconds,
            max_memory_bytes=self.settings.decode_memory_mb * 2**20,
            timeout_seconds=self.settings.decode_timeout_seconds,
        )
