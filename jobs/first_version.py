"""Copies the first version's database into ours: jobs, results, errors. May be run again.

Ids stay, so clients of the first version find their jobs. A job that was still waiting or running
there is submitted here if its file can be read on this machine, and failed otherwise: nothing is
left that looks as if it would be done and is not.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from errors import ServiceError, SettingsError, UploadMissing
from jobs.uploads import UploadStore
from models import ErrorLog, JobStatus, TranscriptionJob, TranscriptionResult
from speech.transcript import Segment

#: Where the first version's migrations ended.
REVISIONS: Final = {"5e05da7b7d89", "a1b2c3d4e5f6"}
BATCH: Final = 200
COPY_BYTES: Final = 2**20
FINAL: Final = {"completed", "failed", "cancelled"}

ResolveModel = Callable[[str], str]

OLD_JOBS: Final = text("""
SELECT job.*, result.transcription_text, result.detected_language, result.duration_seconds,
       result.confidence_score, result.segments, result.created_at AS result_at
  FROM transcription_jobs AS job
  LEFT JOIN transcription_results AS result ON result.job_id = job.id
 WHERE CAST(:after AS uuid) IS NULL OR job.id > :after
 ORDER BY job.id
 LIMIT :limit
""")

OLD_ERRORS: Final = text("SELECT * FROM error_logs WHERE job_id = ANY(:ids) ORDER BY created_at")


@dataclass(slots=True, kw_only=True)
class Imported:
    """What was copied."""

    jobs: int = 0
    results: int = 0
    errors: int = 0
    #: Waited or ran there, and wait here now.
    resubmitted: int = 0
    #: Waited or ran there, and cannot be done here: the file could not be read.
    given_up: int = 0
    #: Here already.
    skipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """Copies everything into one owner's name."""

    source: Connection
    session: Session
    uploads: UploadStore
    owner_id: uuid.UUID
    max_attempts: int
    engine_name: str
    #: What a model of the first version is called here.
    resolve_model: ResolveModel

    def run(self) -> Imported:
        """Copy all of it in the session's transaction.

        Raises:
            SettingsError: The source is not a database of the first version.
        """
        self._require_first_version()
        counts = Imported()
        for jobs in self._batches():
            known = self._known([job["id"] for job in jobs])
            counts.skipped += len(known)
            for job in jobs:
                if job["id"] not in known:
                    self._copy(job, counts)
            self._copy_errors([job["id"] for job in jobs if job["id"] not in known], counts)
        return counts

    def _require_first_version(self) -> None:
        found: set[str] = set()
        if self.source.scalar(text("SELECT to_regclass('alembic_version')")) is not None:
            found = set(self.source.scalars(text("SELECT version_num FROM alembic_version")))
        if not found & REVISIONS:
            raise SettingsError("--from does not point at a database of version 2.")

    def _batches(self) -> Iterator[list[RowMapping]]:
        after = None
        while True:
            rows = self.source.execute(OLD_JOBS, {"after": after, "limit": BATCH}).mappings().all()
            if not rows:
                return
            yield list(rows)
            after = rows[-1]["id"]

    def _known(self, ids: list[uuid.UUID]) -> set[uuid.UUID]:
        query = select(TranscriptionJob.id).where(TranscriptionJob.id.in_(ids))
        return set(self.session.scalars(query))

    def _copy(self, old: RowMapping, counts: Imported) -> None:
        counts.jobs += 1
        if old["status"] not in FINAL:
            self._resubmit(old, counts)
        elif old["status"] == JobStatus.COMPLETED and old["transcription_text"] is None:
            self._insert(old, _failed(old, "result_missing", "Version 2 stored no result."))
        else:
            self._insert(old, _ended(old))
            self._copy_result(old, counts)

    def _resubmit(self, old: RowMapping, counts: Imported) -> None:
        try:
            upload = self._take_file(old)
        except ServiceError as error:
            counts.given_up += 1
            self._insert(old, _failed(old, UploadMissing.code, UploadMissing().message))
            self._log(old, error)
            return
        counts.resubmitted += 1
        self._insert(old, {"status": JobStatus.PENDING, "upload_deleted_at": None, **upload})

    def _take_file(self, old: RowMapping) -> dict[str, Any]:
        try:
            with (
                Path(old["file_path"]).open("rb") as file,
                self.uploads.writer(old["id"]) as writer,
            ):
                while chunk := file.read(COPY_BYTES):
                    writer.write(chunk)
                upload = writer.finish()
        except OSError as error:
            raise UploadMissing from error
        return {"upload_bytes": upload.size_bytes, "upload_sha256": upload.sha256}

    def _insert(self, old: RowMapping, values: Mapping[str, Any]) -> None:
        self.session.execute(
            insert(TranscriptionJob).values(
                {
                    "id": old["id"],
                    "owner_id": self.owner_id,
                    "created_at": _utc(old["created_at"]),
                    "engine_name": self.engine_name,
                    "model_name": self.resolve_model(old["model_size"]),
                    "language": None if old["language"] in {None, "auto"} else old["language"],
                    "client_filename": _clean(old["original_filename"]),
                    "upload_bytes": old["file_size_bytes"] or 0,
                    "upload_sha256": b"",
                    # finished jobs' files stay where the first version put them
                    "upload_deleted_at": func.now(),
                    "max_attempts": self.max_attempts,
                    "audio_seconds": old["duration_seconds"],
                    "audio_estimated": old["duration_seconds"] is None,
                    **values,
                }
            )
        )

    def _copy_result(self, old: RowMapping, counts: Imported) -> None:
        if old["status"] != JobStatus.COMPLETED:
            return
        counts.results += 1
        words = str(old["transcription_text"])
        segments = [_segment(segment).to_json() for segment in old["segments"] or ()]
        self.session.execute(
            insert(TranscriptionResult).values(
                job_id=old["id"],
                lease_epoch=0,
                text=_clean(words).strip(),
                language=old["detected_language"] or "und",
                audio_seconds=_length(old, segments),
                word_count=len(words.split()),
                confidence=old["confidence_score"],
                segments=segments or [_whole(words, _length(old, segments)).to_json()],
                created_at=_utc(old["result_at"]),
            )
        )

    def _copy_errors(self, ids: list[uuid.UUID], counts: Imported) -> None:
        if not ids:
            return
        attempts: dict[uuid.UUID, int] = {}
        for old in self.source.execute(OLD_ERRORS, {"ids": ids}).mappings():
            counts.errors += 1
            attempts[old["job_id"]] = attempts.get(old["job_id"], 0) + 1
            self.session.execute(
                upsert(ErrorLog)
                .values(
                    id=old["id"],
                    job_id=old["job_id"],
                    attempt=attempts[old["job_id"]],
                    lease_epoch=0,
                    error_code=_code(old["error_type"]),
                    error_message=_clean(old["error_message"]),
                    traceback=old["stack_trace"],
                    context=old["context"] or {},
                    created_at=_utc(old["created_at"]),
                    resolved=bool(old["resolved"]),
                    resolved_at=_utc(old["resolved_at"]),
                    resolved_by=old["resolved_by"],
                    resolution_notes=old["resolution_notes"],
                )
                .on_conflict_do_nothing()
            )

    def _log(self, old: RowMapping, error: ServiceError) -> None:
        self.session.execute(
            insert(ErrorLog).values(
                job_id=old["id"],
                attempt=0,
                lease_epoch=0,
                error_code=error.code,
                error_message="The file could not be read where version 2 had it.",
                context={"imported": True},
            )
        )


def _ended(old: RowMapping) -> dict[str, Any]:
    if old["status"] == JobStatus.FAILED:
        return _failed(old, _code(old["error_type"] or "failed"), old["error_message"] or "")
    ended_at = _utc(old["completed_at"] or old["created_at"])
    return {
        "status": old["status"],
        "started_at": _utc(old["started_at"]),
        "completed_at": ended_at,
        "progress": 1.0 if old["status"] == JobStatus.COMPLETED else 0.0,
        "cancel_requested_at": ended_at if old["status"] == JobStatus.CANCELLED else None,
    }


def _failed(old: RowMapping, code: str, message: str) -> dict[str, Any]:
    return {
        "status": JobStatus.FAILED,
        "started_at": _utc(old["started_at"]),
        "completed_at": _utc(old["completed_at"] or old["created_at"]),
        "failure_reason": code,
        "error_code": code,
        "error_message": _clean(message),
        # it is old news to the dead letter queue
        "dead_letter_noted_at": func.now(),
    }


def _segment(old: Mapping[str, Any]) -> Segment:
    return Segment(
        text=_clean(str(old.get("text", ""))),
        start_seconds=float(old.get("start") or 0.0),
        end_seconds=float(old.get("end") or 0.0),
        avg_logprob=float(old.get("avg_logprob") or 0.0),
        no_speech_prob=float(old.get("no_speech_prob") or 0.0),
        compression_ratio=float(old.get("compression_ratio") or 0.0),
        temperature=float(old.get("temperature") or 0.0),
        tokens=tuple(int(token) for token in old.get("tokens") or ()),
    )


def _whole(words: str, seconds: float) -> Segment:
    return _segment({"text": words, "end": seconds})


def _length(old: RowMapping, segments: list[dict[str, Any]]) -> float:
    # the first version asked whisper for a length that whisper does not tell
    known = old["duration_seconds"]
    return float(
        known if known is not None else max((s["end_seconds"] for s in segments), default=0)
    )


def _utc(value: datetime | None) -> datetime | None:
    return None if value is None else value.replace(tzinfo=UTC)


def _code(error_type: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", error_type).lower()


def _clean(value: str) -> str:
    return value.replace("\0", "")
