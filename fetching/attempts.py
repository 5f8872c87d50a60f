"""One try at fetching a recording: gone on with where the last one ended, told of as it comes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from database import Sessions, get_db_session
from errors import (
    DeadlineExceeded,
    Draining,
    LeaseLost,
    NotAllowed,
    OutgoingFailed,
    ReplyRefused,
    ReplyTooLarge,
    ServiceError,
    UploadMissing,
    UploadTooLarge,
    kind_of,
    message_of,
)
from fetching.parts import Part
from fetching.verdicts import judge, require_given, validator
from jobs import lifecycle, sources
from jobs.lifecycle import Failure
from jobs.sources import Source, Standing
from jobs.uploads import UploadStore
from outgoing import Download, Outgoing

logger = logging.getLogger(__name__)

#: So often the row is told how far it is.
TELL_SECONDS: Final = 2.0
#: Compressed speech at 128 kbit/s: about how long a file is that nobody has opened yet.
BYTES_PER_SECOND: Final = 16_000
_NOT_FOUND: Final = 416


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the settings say of fetching."""

    #: Whether anything is fetched at all.
    enabled: bool
    #: From the submission to the last byte.
    longest_seconds: float
    retry_seconds: float
    #: What a key may store that has no quota of its own; 0 is any amount.
    key_bytes: int


@dataclass(frozen=True, slots=True)
class Workplace:
    """What every try needs."""

    sessions: Sessions
    outgoing: Outgoing
    uploads: UploadStore
    rules: Rules
    stopping: threading.Event


class _Changed(Exception):
    """The recording there is another one than what is here is of."""


class Attempt:
    """One try at one upload."""

    def __init__(
        self, place: Workplace, source: Source, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._place = place
        self._source = source
        self._clock = clock
        self._ends_at = clock() + place.rules.longest_seconds - source.age_seconds
        self._told_at = clock()
        self._etag = source.etag
        self._source_bytes = source.source_bytes
        #: What is here and noted.
        self._here_bytes = source.here_bytes

    def run(self) -> None:
        """Fetch it, and note how that ended.

        Raises:
            ServiceError: That could not be noted: it is tried again when its time is over.
        """
        try:
            self._fetch()
        except LeaseLost:
            self._leave()
        except Draining:
            with get_db_session(self._place.sessions) as session:
                sources.hand_back(session, self._source)
        except Exception as error:
            if not isinstance(error, ServiceError):
                logger.exception("fetching failed", extra=self._named)
            self._end(error)

    @property
    def _named(self) -> dict[str, object]:
        return {"job_id": str(self._source.job_id)}

    def _fetch(self) -> None:
        if not self._place.rules.enabled:
            raise NotAllowed("This service fetches no recordings: SOURCE_URLS is off.")
        self._heed()
        if self._adopt():
            return
        with Part(self._place.uploads, self._source.job_id) as part:
            part.cut(self._here_bytes if self._etag else 0, lambda: self._attend(part))
            try:
                self._download(part)
            except _Changed:
                logger.info("recording changed", extra=self._named)
                self._etag, self._source_bytes = None, None
                part.cut(0)
                self._download(part)
            self._bring(part.size_bytes, part.sha256, part.keep)

    def _adopt(self) -> bool:
        """Take an upload that was kept by a process that died before it could note that."""
        uploads, job_id = self._place.uploads, self._source.job_id
        with suppress(UploadMissing):
            path = uploads.find(job_id)
            with Part(uploads, job_id) as part, path.open("rb") as whole:
                part.cut(0)
                while chunk := whole.read(2**20):
                    part.write(chunk)
                    self._attend(part, told=False)
                self._bring(part.size_bytes, part.sha256, part.discard)
            return True
        return False

    def _download(self, part: Part) -> None:
        known = self._source_bytes
        if self._etag is not None and known is not None and part.size_bytes == known:
            return  # the last byte came, and then its process died
        try:
            with self._place.outgoing.stream(
                self._source.url,
                max_bytes=self._place.uploads.max_bytes,
                range_from=part.size_bytes,
                if_range=self._etag,
            ) as download:
                self._begin(part, download)
                for chunk in download.chunks:
                    part.write(chunk)
                    self._attend(part)
        except ReplyTooLarge:
            raise UploadTooLarge(max_bytes=self._place.uploads.max_bytes) from None
        except ReplyRefused:
            if part.size_bytes:
                raise _Changed from None
            raise
        finally:
            # what came is kept, however it ended
            part.sync()
            self._tell(part)
        if download.size is not None and part.size_bytes != download.size:
            raise OutgoingFailed("The answer broke off.", reason="protocol")

    def _begin(self, part: Part, download: Download) -> None:
        """Make sure that what comes goes on from what is here."""
        if download.status == _NOT_FOUND and part.size_bytes:
            raise _Changed
        require_given(download.status, download.headers)
        etag = validator(download.headers)
        if download.start:
            known = self._source_bytes
            if etag not in {None, self._etag} or (
                known is not None and download.size not in {None, known}
            ):
                raise _Changed
        else:
            # in this order: what is here is never taken for a part of what it is not of
            part.cut(0)
            self._etag = etag
        self._source_bytes = download.size
        if download.size is not None:
            self._place.uploads.require_free(download.size - part.size_bytes)
        self._tell(part)

    def _attend(self, part: Part, *, told: bool = True) -> None:
        self._heed()
        if self._clock() - self._told_at < TELL_SECONDS:
            return
        if told:
            part.sync()
        self._tell(part, told=told)

    def _heed(self) -> None:
        if self._clock() >= self._ends_at:
            raise DeadlineExceeded("The recording could not be fetched in time.")
        if self._place.stopping.is_set():
            raise Draining

    def _tell(self, part: Part, *, told: bool = True) -> None:
        """Note what is here; its bytes are on the disk."""
        here_bytes = part.size_bytes if told else self._here_bytes
        standing = Standing(here_bytes=here_bytes, source_bytes=self._source_bytes, etag=self._etag)
        with get_db_session(self._place.sessions) as session:
            sources.tell(session, self._source, standing)
            sources.require_room(session, self._source, default_bytes=self._place.rules.key_bytes)
        self._here_bytes, self._told_at = here_bytes, self._clock()

    def _bring(self, size_bytes: int, sha256: bytes, keep: Callable[[], object]) -> None:
        with get_db_session(self._place.sessions) as session:
            sources.bring(
                session,
                self._source,
                upload_bytes=size_bytes,
                sha256=sha256,
                audio_seconds=size_bytes / BYTES_PER_SECOND,
            )
            # Before the commit: should its answer be lost, the upload is there, and is taken for
            # what it is by the next try, or is an orphan.
            keep()
        logger.info("recording fetched", extra=self._named | {"bytes": size_bytes})

    def _end(self, error: Exception) -> None:
        source, code = self._source, kind_of(error).code
        verdict = judge(
            error,
            failures=source.failures,
            progressed=self._here_bytes > source.here_bytes,
            retry_seconds=self._place.rules.retry_seconds,
        )
        context = {}
        if isinstance(error, OutgoingFailed):
            context = {k: v for k, v in error.data.items() if k in {"reason", "status"}}
        failure = Failure(code=code, message=message_of(error), context=context)
        with get_db_session(self._place.sessions) as session:
            if verdict.reason is not None:
                noted = lifecycle.fail_fetch(
                    session, source.job_id, source.holder, failure, reason=verdict.reason
                )
            else:
                noted = sources.put_back(
                    session,
                    source,
                    failure,
                    here_bytes=self._here_bytes,
                    failures=verdict.failures,
                    pause_seconds=verdict.pause_seconds,
                )
        said = {"error": code, "failures": verdict.failures, "given_up": verdict.reason}
        logger.warning("recording not fetched", extra=self._named | said | context)
        if not noted or verdict.reason is not None:
            self._leave()

    def _leave(self) -> None:
        """Delete what is here, unless somebody else goes on with it."""
        with get_db_session(self._place.sessions) as session:
            wanted = sources.is_wanted(session, self._source.job_id)
        if not wanted:
            self._place.uploads.discard_part(self._source.job_id)
