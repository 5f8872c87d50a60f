"""Copies the first version's database into ours: jobs, results, errors. May be run again.

Ids stay, so clients of the first version find their jobs. A job that was still waiting or running
there is submitted here if its file can be read on this machine, and failed otherwise: nothing is
left that looks as if it would be done and is not. A later run submits it once the file is there.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, TextClause, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from errors import (
    ClientError,
    ConflictError,
    ServiceError,
    SettingsError,
    UploadMissing,
    UploadTooLarge,
)
from jobs import lifecycle
from jobs.lifecycle import Redrive
from jobs.uploads import PART_DIR, UploadStore, storage_errors
from models import DeletedJob, ErrorLog, JobStatus, TranscriptionJob, TranscriptionResult
from speech.transcript import Segment

#: Where the first version's migrations ended.
REVISIONS: Final = {"5e05da7b7d89", "a1b2c3d4e5f6"}
BATCH: Final = 200
COPY_BYTES: Final = 2**20
FINAL: Final = {"completed", "failed", "cancelled"}
#: Why a job was given up whose file may be there, or small enough, another time.
GIVEN_UP: Final = {UploadMissing.code, UploadTooLarge.code}
#: Held in the old database by one import: two would take each other's files away.
IMPORT_LOCK: Final = 0x5354_5402

ResolveModel = Callable[[str], str]
#: Begins one transaction of ours, and commits it at its end.
Transaction = Callable[[], AbstractContextManager[Session]]

OLD_JOBS: Final = text("""
SELECT job.*, result.transcription_text, result.detected_language, result.duration_seconds,
       result.confidence_score, result.segments, result.created_at AS result_at
  FROM transcription_jobs AS job
  LEFT JOIN transcription_results AS result ON result.job_id = job.id
 WHERE CAST(:after AS uuid) IS NULL OR job.id > :after
 ORDER BY job.id
 LIMIT :limit
""")

LOCK: Final = text("SELECT pg_try_advisory_lock(:key) AS held")

OLD_TABLES: Final = text("""
SELECT to_regclass('alembic_version') IS NOT NULL AS migrated,
       to_regclass('transcription_jobs') IS NOT NULL AS filled
""")
OLD_REVISIONS: Final = text("SELECT version_num FROM alembic_version")

OLD_ERRORS: Final = text("SELECT * FROM error_logs WHERE job_id = ANY(:ids) ORDER BY created_at")

#: Failed jobs of which no error is left to be dealt with.
RESOLVED: Final = text("""
UPDATE transcription_jobs
   SET resolved_at = now(),
       resolved_by = 'import-v1'
 WHERE id = ANY(:ids)
   AND status = 'failed'
   AND id NOT IN (SELECT job_id FROM error_logs WHERE job_id = ANY(:ids) AND NOT resolved)
""")


@dataclass(slots=True, kw_only=True)
class Imported:
    """What was copied."""

    jobs: int = 0
    results: int = 0
    errors: int = 0
    #: Waited or ran there, and wait here now.
    resubmitted: int = 0
    #: Waited or ran there, and cannot be done here: the file could not be read, or is too large.
    given_up: int = 0
    #: Here already.
    skipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Importer:
    """Copies everything into one owner's name."""

    source: Connection
    transaction: Transaction
    uploads: UploadStore
    #: What a relative path of the first version is meant from.
    files: Path
    owner_id: uuid.UUID
    max_attempts: int
    engine_name: str
    #: What a model of the first version is called here.
    resolve_model: ResolveModel
    counts: Imported = field(default_factory=Imported)

    def run(self) -> Imported:
        """Copy all of it, a batch in a transaction; whatever stops it, the next run goes on.

        Raises:
            SettingsError: The source is not a database of the first version.
            ConflictError: Another import from it is under way.
            CapacityError: There is no room for a file, or the store or our database is away.
        """
        self._require_first_version()
        if not self._read(LOCK, key=IMPORT_LOCK)[0]["held"]:
            raise ConflictError("Another import from that database is under way.")
        for jobs in self._batches():
            known = self._known([job["id"] for job in jobs])
            ended = [job for job in jobs if job["status"] in FINAL and job["id"] not in known]
            self._copy_ended(ended)
            self.counts.skipped += sum(job["status"] in FINAL for job in jobs) - len(ended)
            for job in jobs:
                if job["status"] not in FINAL:
                    self._submit(job, known)
        return self.counts

    def _require_first_version(self) -> None:
        (tables,) = self._read(OLD_TABLES)
        if tables["migrated"]:
            is_old = any(row["version_num"] in REVISIONS for row in self._read(OLD_REVISIONS))
        else:
            is_old = tables["filled"]  # its code could also make the tables without migrations
        if not is_old:
            raise SettingsError("--from does not point at a database of version 2.")

    def _batches(self) -> Iterator[Sequence[RowMapping]]:
        after = None
        while rows := self._read(OLD_JOBS, after=after, limit=BATCH):
            yield rows
            after = rows[-1]["id"]

    def _read(self, statement: TextClause, **values: object) -> Sequence[RowMapping]:
        # no transaction stays open beside the copying of files: the server would end it
        with self.source.begin():
            return self.source.execute(statement, values).mappings().all()

    def _known(self, ids: list[uuid.UUID]) -> dict[uuid.UUID, str | None]:
        """Find the jobs that are here already, and why they failed."""
        query = select(TranscriptionJob.id, TranscriptionJob.failure_reason)
        with self.transaction() as session:
            rows = session.execute(query.where(TranscriptionJob.id.in_(ids)))
            known = {row.id: row.failure_reason for row in rows}
            # what was deleted here does not come back
            deleted = session.scalars(select(DeletedJob.id).where(DeletedJob.id.in_(ids)))
            return dict.fromkeys(deleted) | known

    def _copy_ended(self, jobs: Sequence[RowMapping]) -> None:
        errors = self._errors_of(jobs)
        with self.transaction() as session:
            for old in jobs:
                if old["status"] == JobStatus.COMPLETED and old["transcription_text"] is None:
                    missing = _failed(old, "result_missing", "Version 2 stored no result.")
                    self._insert(session, old, missing)
                else:
                    self._insert(session, old, _ended(old))
                    _copy_result(session, old)
            _copy_errors(session, errors)
            session.execute(RESOLVED, {"ids": [old["id"] for old in jobs]})
        self.counts.jobs += len(jobs)
        self.counts.results += sum(_has_result(old) for old in jobs)
        self.counts.errors += len(errors)

    def _submit(self, old: RowMapping, known: Mapping[uuid.UUID, str | None]) -> None:
        """Submit a job that had not ended, unless it is here and has its file."""
        is_new = old["id"] not in known
        if not is_new and known[old["id"]] not in GIVEN_UP:
            self.counts.skipped += 1
            return
        try:
            # one file and one commit at a time: a file without a row is soon an orphan
            upload = self._take_file(old)
        except (ClientError, UploadMissing) as error:
            self.counts.given_up += 1
            if is_new:
                self._copy_waiting(old, _failed(old, error.code, error.message), error)
            return
        if is_new:
            self._copy_waiting(old, {"status": JobStatus.PENDING, **upload})
        else:
            self._resubmit(old, upload)
        self.counts.resubmitted += 1

    def _take_file(self, old: RowMapping) -> dict[str, Any]:
        """Copy a job's file into the store, as its upload.

        Raises:
            UploadMissing: It is not there, or cannot be read.
            UploadTooLarge, EmptyFile: It is no upload that we would take.
        """
        path = self.files / old["file_path"]
        try:
            if not path.is_file():
                raise UploadMissing
            with path.open("rb") as file:
                self._forget_part(old["id"])
                with self.uploads.writer(old["id"]) as writer:
                    while chunk := file.read(COPY_BYTES):
                        writer.write(chunk)
                    upload = writer.finish()
        except OSError as error:  # the store's own are no OSErrors
            raise UploadMissing from error
        return {
            "upload_bytes": upload.size_bytes,
            "upload_sha256": upload.sha256,
            "upload_deleted_at": None,
        }

    def _forget_part(self, job_id: uuid.UUID) -> None:
        # of an import that was killed; its half of a file would be in the way
        with storage_errors():
            (self.uploads.root / PART_DIR / str(job_id)).unlink(missing_ok=True)

    def _copy_waiting(
        self, old: RowMapping, values: Mapping[str, Any], error: ServiceError | None = None
    ) -> None:
        errors = self._errors_of([old])
        with self.transaction() as session:
            self._insert(session, old, values)
            _copy_errors(session, errors)
            if error is not None:
                _log(session, old, error)
        self.counts.jobs += 1
        self.counts.errors += len(errors)

    def _resubmit(self, old: RowMapping, upload: Mapping[str, Any]) -> None:
        job_id = old["id"]
        values = {**upload, "error_code": None, "error_message": None}
        with self.transaction() as session:
            session.execute(
                update(TranscriptionJob).where(TranscriptionJob.id == job_id).values(values)
            )
            lifecycle.redrive(
                session, [job_id], Redrive(max_attempts=self.max_attempts, by="import-v1")
            )

    def _errors_of(self, jobs: Sequence[RowMapping]) -> Sequence[RowMapping]:
        return self._read(OLD_ERRORS, ids=[old["id"] for old in jobs]) if jobs else ()

    def _insert(self, session: Session, old: RowMapping, values: Mapping[str, Any]) -> None:
        session.execute(
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


def _has_result(old: RowMapping) -> bool:
    return old["status"] == JobStatus.COMPLETED and old["transcription_text"] is not None


def _copy_result(session: Session, old: RowMapping) -> None:
    if not _has_result(old):
        return
    words = str(old["transcription_text"])
    segments = [_segment(segment).to_json() for segment in old["segments"] or ()]
    session.execute(
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


def _copy_errors(session: Session, errors: Sequence[RowMapping]) -> None:
    attempts: dict[uuid.UUID, int] = {}
    for old in errors:
        attempts[old["job_id"]] = attempts.get(old["job_id"], 0) + 1
        session.execute(
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


def _log(session: Session, old: RowMapping, error: ServiceError) -> None:
    message = error.message
    if isinstance(error, UploadMissing):
        message = "The file could not be read where version 2 had it."
    session.execute(
        insert(ErrorLog).values(
            job_id=old["id"],
            attempt=0,
            lease_epoch=0,
            error_code=error.code,
            error_message=message,
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
