"""The tables, and the enums stored in them. No query, no engine.

Ids are UUIDs of version 7, made in Python, so they sort by age on every PostgreSQL. A job's
state is guarded by CHECK constraints: a row that breaks the rules of its life cannot be written.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, DOUBLE_PRECISION, JSONB, REAL, TIMESTAMP, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from uuid_utils.compat import uuid7


class JobStatus(StrEnum):
    """Where a job is. The last three are final, but an operator may redrive a failed job."""

    PENDING = "pending"  #: Waiting; after a failed attempt too, then with ``not_before`` ahead.
    PROCESSING = "processing"  #: A worker holds its lease.
    COMPLETED = "completed"  #: Its result is stored.
    FAILED = "failed"  #: Given up; the dead letter queue shows it with its errors.
    CANCELLED = "cancelled"  #: The client did not want it any more.


NEWEST_FIRST = (text("created_at DESC"), text("id DESC"))
#: The last to end first.
LAST_FIRST = (text("completed_at DESC"), text("id DESC"))

FINAL = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


#: What this version's workers know to do. A new wish that changes what is done raises it, and jobs
#: that have the wish are submitted with it: older workers leave them to newer ones.
WISHES_VERSION: Final = 2


#: ``not_before`` of jobs whose upload is not here yet: whatever looks for jobs that are due passes
#: them by, workers of an older version too.
NOT_YET: Final = datetime(9000, 1, 1, tzinfo=UTC)


class Priority(StrEnum):
    """What a client may ask for."""

    HIGH = "high"
    NORMAL = "normal"


class Scope(StrEnum):
    """What an API key may do."""

    JOBS_WRITE = "jobs:write"
    JOBS_READ = "jobs:read"
    JOBS_DELETE = "jobs:delete"
    WEBHOOKS = "webhooks"
    ADMIN = "admin"


class AuditAction(StrEnum):
    """What an audit event tells of."""

    KEY_USED = "key_used"  #: From an address where it was not seen lately.
    JOB_SUBMITTED = "job_submitted"
    JOBS_LISTED = "jobs_listed"  #: Everybody's, by an operator.
    JOB_READ = "job_read"  #: Somebody else's, by an operator; without its transcript.
    TRANSCRIPT_READ = "transcript_read"
    AUDIO_READ = "audio_read"
    JOB_CHANGED = "job_changed"
    JOB_CANCELLED = "job_cancelled"
    JOB_DELETED = "job_deleted"
    UPLOAD_DELETED = "upload_deleted"  #: Its time was over.
    DENIED = "denied"
    KEY_CREATED = "key_created"
    KEY_CHANGED = "key_changed"
    KEY_ROTATED = "key_rotated"
    KEY_REVOKED = "key_revoked"
    KEY_REMOVED = "key_removed"  #: It left the setting API_KEYS.
    SIGNED_IN = "signed_in"  #: A browser, with a key.
    SIGNED_OUT = "signed_out"
    QUEUE_PAUSED = "queue_paused"
    QUEUE_RESUMED = "queue_resumed"
    ERROR_READ = "error_read"  #: A failed job with its tracebacks.
    ERROR_RETRIED = "error_retried"
    ERROR_RESOLVED = "error_resolved"
    ERROR_QUARANTINED = "error_quarantined"
    ERROR_RELEASED = "error_released"
    JOBS_IMPORTED = "jobs_imported"  #: From version 2.
    BACKUP_TAKEN = "backup_taken"  #: Of everything: transcripts, and what keys are known by.
    BACKUP_RESTORED = "backup_restored"  #: What came after it was taken is lost.
    WEBHOOK_CREATED = "webhook_created"
    WEBHOOK_CHANGED = "webhook_changed"
    WEBHOOK_ROTATED = "webhook_rotated"
    WEBHOOK_DELETED = "webhook_deleted"
    WEBHOOK_DISABLED = "webhook_disabled"  #: Its receiver is gone, or answers no more.
    WEBHOOK_SENT = "webhook_sent"  #: Because somebody asked: a test, or once more.
    BATCH_CREATED = "batch_created"
    BATCH_CLOSED = "batch_closed"
    BATCH_CANCELLED = "batch_cancelled"  #: Its jobs have events of their own.
    BATCH_DELETED = "batch_deleted"  #: The same.
    UPLOAD_BEGUN = "upload_begun"  #: A resumable one; when it is whole, its job is submitted.
    UPLOAD_DISCARDED = "upload_discarded"  #: A resumable one, by its client.
    AUDIT_PRUNED = "audit_pruned"  #: Older events were deleted; says where the chain begins now.


class WebhookEvent(StrEnum):
    """What is told to a webhook."""

    COMPLETED = "job.completed"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"
    BATCH_ENDED = "batch.ended"
    TEST = "webhook.test"  #: Somebody asked for it.


#: Those that a webhook may be told of by itself.
WANTED_EVENTS: Final = (
    WebhookEvent.COMPLETED,
    WebhookEvent.FAILED,
    WebhookEvent.CANCELLED,
    WebhookEvent.BATCH_ENDED,
)


class DeliveryStatus(StrEnum):
    """Where a delivery is."""

    PENDING = "pending"  #: To be tried, now or later.
    DELIVERED = "delivered"
    FAILED = "failed"  #: Given up after the last try.
    DROPPED = "dropped"  #: Its webhook was disabled first.


class Base(DeclarativeBase):
    """The declarative base; constraints have names, so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own form
        str: Text(),
        datetime: TIMESTAMP(timezone=True),
        uuid.UUID: UUID(as_uuid=True),
        float: DOUBLE_PRECISION(),
        dict[str, Any]: JSONB(),
        list[Any]: JSONB(),
        list[str]: ARRAY(Text()),
        bytes: LargeBinary(),
    }


class Owner(Base):
    """Whom jobs belong to. Several keys may be one owner's, so rotating a key orphans nothing."""

    __tablename__ = "owners"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKey(Base):
    """A key: who holds its secret may act for its owner. The row outlives its secrets.

    Of a secret only the SHA-256 is kept: it holds 256 random bits, so no salt is needed.
    """

    __tablename__ = "api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("owners.id"), index=True)
    #: The secret's first characters, shown in lists.
    prefix: Mapped[str]
    key_sha256: Mapped[bytes] = mapped_column(unique=True)
    #: The secret before it was rotated, which works a while longer.
    previous_prefix: Mapped[str | None]
    previous_sha256: Mapped[bytes | None] = mapped_column(unique=True)
    previous_expires_at: Mapped[datetime | None]
    #: Since it was rotated; written at most once a minute.
    previous_used_at: Mapped[datetime | None]
    scopes: Mapped[list[str]]
    # What it may take; None is the service's default, 0 any amount
    #: Requests in each RATE_LIMIT_WINDOW.
    max_requests: Mapped[int | None]
    max_audio_seconds_per_hour: Mapped[float | None]
    #: Jobs that are pending or processing.
    max_jobs_at_once: Mapped[int | None]
    #: Of uploads that are kept.
    max_bytes_stored: Mapped[int | None] = mapped_column(BigInteger)
    #: Its share of the workers: of two keys with jobs waiting, one of twice the weight has twice
    #: as many running.
    weight: Mapped[float] = mapped_column(REAL, server_default=text("1"))
    # How long what its jobs hold is kept after they end; None is the service's default, 0 for ever
    audio_retention_seconds: Mapped[float | None]
    transcript_retention_seconds: Mapped[float | None]
    #: Whether jobs of this key may ask for ``high``.
    may_use_high: Mapped[bool] = mapped_column(server_default=text("true"))
    note: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    #: Written at most once a minute.
    last_used_at: Mapped[datetime | None]

    owner: Mapped[Owner] = relationship()

    __table_args__ = (
        CheckConstraint(
            "num_nulls(previous_prefix, previous_sha256, previous_expires_at) IN (0, 3)",
            name="previous_is_whole",
        ),
        CheckConstraint(
            "LEAST(max_requests, max_audio_seconds_per_hour, max_jobs_at_once, max_bytes_stored)"
            " >= 0",
            name="limits_not_negative",
        ),
        CheckConstraint(
            "LEAST(audio_retention_seconds, transcript_retention_seconds) >= 0",
            name="retention_not_negative",
        ),
        CheckConstraint("weight BETWEEN 0.01 AND 100", name="weight_in_bounds"),
    )


class PageSession(Base):
    """A browser that sent a key once: see ``page_sessions``."""

    __tablename__ = "page_sessions"

    token_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    key_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("api_keys.id", ondelete="CASCADE"))
    #: Of the key as it was sent: once another one is the right one, the session is over.
    key_sha256: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(index=True)

    __table_args__ = (Index("ix_page_sessions_key", "key_id", text("expires_at DESC")),)


class RequestCount(Base):
    """What a key's requests cost in one window of time, counted here while Redis is away."""

    __tablename__ = "request_counts"

    api_key_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True
    )
    window_start: Mapped[datetime] = mapped_column(primary_key=True)
    cost: Mapped[int]


class Tally(Base):
    """How often something happened, as somebody wrote it down: see ``tallies``.

    Only added, so that nobody who counts waits for anybody else who does; the sum is what counts,
    and maintenance folds rows into one now and then.
    """

    __tablename__ = "tallies"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    name: Mapped[str]
    #: What of, by names that ``metrics.catalogue`` knows; values are ours, never a client's.
    labels: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    value: Mapped[float]


class DeletedBy(StrEnum):
    """Who had a job deleted."""

    CLIENT = "client"  #: Its owner.
    ADMIN = "admin"  #: Somebody else, with a key of the scope ``admin``.
    RETENTION = "retention"  #: Its time was over.


class DeletedJob(Base):
    """What is left of a job that was deleted: that it was there, and figures. Nothing it said.

    Its audio still counts for its key's hour.
    """

    __tablename__ = "deleted_jobs"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    owner_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("owners.id"))
    api_key_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("api_keys.id", ondelete="SET NULL")
    )
    #: Its last one; what had not ended counts as cancelled.
    status: Mapped[str]
    submitted_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime]
    deleted_at: Mapped[datetime] = mapped_column(server_default=func.now())
    deleted_by: Mapped[str]
    audio_seconds: Mapped[float | None]
    audio_estimated: Mapped[bool]
    upload_bytes: Mapped[int] = mapped_column(BigInteger)
    #: Of its result; of what was transcribed so far, where there was none.
    segment_count: Mapped[int]
    #: Of its result; 0 without one.
    word_count: Mapped[int]

    __table_args__ = (
        CheckConstraint("status IN ('completed', 'failed', 'cancelled')", name="status"),
        CheckConstraint("deleted_by IN ('client', 'admin', 'retention')", name="deleted_by"),
        Index("ix_deleted_jobs_key_age", "api_key_id", "submitted_at"),
    )


class Batch(Base):
    """Jobs that a client submits together, with one profile."""

    __tablename__ = "batches"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("owners.id"))
    api_key_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("api_keys.id", ondelete="SET NULL")
    )
    #: The client's own.
    name: Mapped[str | None]
    #: What each of its files is submitted with, as a client would say it.
    profile: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    #: To be told of its end: see ``Webhook``.
    callback_url: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: No file is added since.
    closed_at: Mapped[datetime | None]
    #: When all its jobs had ended, after it was closed; None again when some are retried.
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("ended_at IS NULL OR closed_at IS NOT NULL", name="closed_before_ended"),
        Index("ix_batches_owner_age", "owner_id", *NEWEST_FIRST),
        Index("ix_batches_age", *NEWEST_FIRST),
        # whose end is to be noted
        Index(
            "ix_batches_unended",
            "closed_at",
            postgresql_where=text("closed_at IS NOT NULL AND ended_at IS NULL"),
        ),
    )


class TranscriptionJob(Base):
    """One request to transcribe one upload, until its end. The row is the truth."""

    __tablename__ = "transcription_jobs"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("owners.id"))
    #: The key that submitted it; None where it was copied from version 2, or the key left API_KEYS.
    api_key_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("api_keys.id", ondelete="SET NULL")
    )
    batch_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("batches.id", ondelete="SET NULL")
    )
    status: Mapped[str] = mapped_column(server_default=JobStatus.PENDING)
    priority: Mapped[str] = mapped_column(server_default=Priority.NORMAL)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: When the first attempt began.
    started_at: Mapped[datetime | None]
    #: When the job reached a final status.
    completed_at: Mapped[datetime | None]

    # What was asked for
    engine_name: Mapped[str]
    model_name: Mapped[str]
    #: None means detect.
    language: Mapped[str | None]
    translate: Mapped[bool] = mapped_column(server_default=text("false"))
    initial_prompt: Mapped[str | None]
    word_timestamps: Mapped[bool] = mapped_column(server_default=text("false"))
    #: Of the upload's tracks of sound, from 1; None means the best.
    track: Mapped[int | None] = mapped_column(SmallInteger)
    #: Which part of it is transcribed: to its end where that is None.
    start_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    end_seconds: Mapped[float | None]
    #: What a worker has to know to do all that was asked for: see ``WISHES_VERSION``.
    wishes_version: Mapped[int] = mapped_column(SmallInteger, server_default=text("1"))
    #: The client's own; never read by us.
    client_metadata: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    #: To be told of its end: see ``Webhook``.
    callback_url: Mapped[str | None]

    # The upload, stored under the job's id
    #: What the client called the file; shown, never used as a path.
    client_filename: Mapped[str]
    #: Of one that is being fetched: what is here so far.
    upload_bytes: Mapped[int] = mapped_column(BigInteger)
    #: Empty until the upload is here.
    upload_sha256: Mapped[bytes]
    #: Where the upload is fetched from; None where the client sent it. May hold a secret.
    source_url: Mapped[str | None]
    #: How large it is there; None where that server does not say.
    source_bytes: Mapped[int | None] = mapped_column(BigInteger)
    #: Whether the upload is still to be fetched. ``not_before`` is ``NOT_YET`` until it is here.
    upload_awaited: Mapped[bool] = mapped_column(server_default=text("false"))
    #: When the stored file was deleted; None while it is kept.
    upload_deleted_at: Mapped[datetime | None]
    #: Length of what is transcribed.
    audio_seconds: Mapped[float | None]
    #: True while ``audio_seconds`` is a guess, from the upload's size or its bit rate.
    audio_estimated: Mapped[bool] = mapped_column(server_default=text("true"))
    #: When the upload's header was asked for its length; None before.
    probed_at: Mapped[datetime | None]

    # Where it is
    #: Share done, 0 to 1; never falls while an attempt runs.
    progress: Mapped[float] = mapped_column(REAL, server_default=text("0"))
    current_step: Mapped[str | None]
    cancel_requested_at: Mapped[datetime | None]
    #: No attempt starts before this time.
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())

    # The lease: set if and only if the job is being processed
    #: Counts chances to fail: given back when a worker hands back or dies.
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    max_attempts: Mapped[int]
    #: Fences writes: rises with every claim and never falls.
    lease_epoch: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    worker_name: Mapped[str | None]
    #: Rises with every heartbeat; the reaper watches whether it moves.
    heartbeat_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    #: When it last rose, for people; None before the first attempt.
    heartbeat_at: Mapped[datetime | None]

    # Faults
    #: Workers that died with this job in hand.
    crash_count: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    #: Deaths of a process that ran this job alone.
    solo_crash_count: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    #: Times a stopping worker handed it back.
    interrupt_count: Mapped[int] = mapped_column(server_default=text("0"))
    #: Times it was put off since it last got on: what it needed was not there.
    put_off_count: Mapped[int] = mapped_column(server_default=text("0"))
    #: How often it stepped aside for an urgent job.
    preempt_count: Mapped[int] = mapped_column(server_default=text("0"))
    #: When another job last stepped aside for this one; None before.
    room_made_at: Mapped[datetime | None]
    #: Suspected of killing its worker: to be run alone, in a child process.
    isolate: Mapped[bool] = mapped_column(server_default=text("false"))
    #: Why it failed: a permanent error's code, attempts_exhausted, poison or deadline.
    failure_reason: Mapped[str | None]
    #: The last error, of a failed attempt or of the job.
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]

    # The dead letter queue
    #: When the queue's task took note of it.
    dead_letter_noted_at: Mapped[datetime | None]
    #: When somebody dealt with its failure; None while nobody has.
    resolved_at: Mapped[datetime | None]
    #: Shown name of the API key of whoever did, or ``cli``; the same for ``quarantined_by``.
    resolved_by: Mapped[str | None]
    resolution_notes: Mapped[str | None]
    #: Set aside since: nobody retries or resolves it, and its upload is kept.
    quarantined_at: Mapped[datetime | None]
    quarantined_by: Mapped[str | None]
    quarantine_notes: Mapped[str | None]
    #: When it last left quarantine: its upload is kept as if it had just ended.
    released_at: Mapped[datetime | None]

    # Delivery
    #: The queue it belongs in: its priority, or ``retry`` after a failed attempt.
    lane: Mapped[str] = mapped_column(
        Computed(
            "CASE WHEN attempt > 0 OR crash_count > 0 THEN 'retry' ELSE priority END",
            persisted=True,
        ),
    )
    #: When the dispatcher should publish it (again).
    dispatch_due_at: Mapped[datetime] = mapped_column(server_default=func.now())
    dispatch_count: Mapped[int] = mapped_column(server_default=text("0"))

    # What was done
    model_used: Mapped[str | None]
    #: How its engine went through the audio: see ``speech.transcript.Mode``.
    mode: Mapped[str | None]
    #: True when the model used is not the one asked for.
    degraded: Mapped[bool] = mapped_column(server_default=text("false"))
    #: Steps down after running out of memory: from, to, reason.
    fallbacks: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    #: Codes of what the client should know, such as truncated_input.
    warnings: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))

    owner: Mapped[Owner] = relationship()

    __table_args__ = (
        CheckConstraint(
            "status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')", name="status"
        ),
        CheckConstraint("priority IN ('high', 'normal')", name="priority"),
        CheckConstraint(
            "(status = 'processing') = (worker_name IS NOT NULL)", name="lease_while_processing"
        ),
        CheckConstraint(
            "(status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL)",
            name="completed_at_when_final",
        ),
        CheckConstraint(
            "(status = 'failed') = (failure_reason IS NOT NULL)", name="reason_when_failed"
        ),
        CheckConstraint(
            "status <> 'cancelled' OR cancel_requested_at IS NOT NULL", name="cancel_was_asked"
        ),
        CheckConstraint(
            "status = 'failed' OR (resolved_at IS NULL AND quarantined_at IS NULL)",
            name="dead_letter_when_failed",
        ),
        CheckConstraint("attempt BETWEEN 0 AND max_attempts", name="attempt_in_bounds"),
        CheckConstraint("progress BETWEEN 0 AND 1", name="progress_in_bounds"),
        CheckConstraint(
            "NOT upload_awaited"
            " OR (source_url IS NOT NULL AND status IN ('pending', 'failed', 'cancelled'))",
            name="awaited_before_begun",
        ),
        CheckConstraint(
            "start_seconds >= 0 AND end_seconds > start_seconds AND track >= 1", name="part"
        ),
        # lists, newest first: of an owner or of all, of one status or of every
        Index("ix_transcription_jobs_owner_age", "owner_id", *NEWEST_FIRST),
        Index("ix_transcription_jobs_owner_status_age", "owner_id", "status", *NEWEST_FIRST),
        Index("ix_transcription_jobs_status_age", "status", *NEWEST_FIRST),
        Index("ix_transcription_jobs_age", *NEWEST_FIRST),
        # of a batch: all, and what has not ended
        Index(
            "ix_transcription_jobs_batch_age",
            "batch_id",
            *NEWEST_FIRST,
            postgresql_where=text("batch_id IS NOT NULL"),
        ),
        Index(
            "ix_transcription_jobs_batch_open",
            "batch_id",
            postgresql_where=text("batch_id IS NOT NULL AND status IN ('pending', 'processing')"),
        ),
        # what a key has submitted, lately or at all
        Index("ix_transcription_jobs_key_age", "api_key_id", "created_at"),
        # what a key has waiting, and the dispatcher takes next of it
        Index(
            "ix_transcription_jobs_key_lane",
            "api_key_id",
            "lane",
            "not_before",
            "id",
            postgresql_include=["audio_seconds"],
            postgresql_where=text("status = 'pending'"),
        ),
        # what a key has stored
        Index(
            "ix_transcription_jobs_key_stored",
            "api_key_id",
            postgresql_include=["upload_bytes"],
            postgresql_where=text("upload_deleted_at IS NULL"),
        ),
        # whose upload should be there
        Index(
            "ix_transcription_jobs_stored",
            "id",
            postgresql_where=text("upload_deleted_at IS NULL"),
        ),
        # whose turn to run alone is next
        Index(
            "ix_transcription_jobs_suspects",
            "created_at",
            "id",
            postgresql_where=text("status = 'pending' AND isolate"),
        ),
        # how many wait before a job
        Index(
            "ix_transcription_jobs_lane",
            "lane",
            "not_before",
            "id",
            postgresql_where=text("status = 'pending'"),
        ),
        # whose length nobody has read from the upload yet
        Index(
            "ix_transcription_jobs_unprobed",
            "not_before",
            postgresql_where=text("status = 'pending' AND probed_at IS NULL"),
        ),
        Index(
            "ix_transcription_jobs_processing",
            "id",
            postgresql_where=text("status = 'processing'"),
        ),
        # what was transcribed before
        Index(
            "ix_transcription_jobs_finished_upload",
            "owner_id",
            "upload_sha256",
            postgresql_where=text("status = 'completed'"),
        ),
        Index(
            "ix_transcription_jobs_unnoted",
            "completed_at",
            postgresql_where=text("status = 'failed' AND dead_letter_noted_at IS NULL"),
        ),
        # the dead letter queue, the last to fail first: what is left to do, and all of it
        Index(
            "ix_transcription_jobs_unresolved",
            *LAST_FIRST,
            postgresql_include=["failure_reason"],
            postgresql_where=text(
                "status = 'failed' AND resolved_at IS NULL AND quarantined_at IS NULL"
            ),
        ),
        Index(
            "ix_transcription_jobs_failed", *LAST_FIRST, postgresql_where=text("status = 'failed'")
        ),
        Index(
            "ix_transcription_jobs_quarantined",
            *LAST_FIRST,
            postgresql_where=text("quarantined_at IS NOT NULL"),
        ),
        Index(
            "ix_transcription_jobs_upload_kept",
            "completed_at",
            postgresql_where=text("completed_at IS NOT NULL AND upload_deleted_at IS NULL"),
        ),
        # Heartbeats touch no indexed column and find room on their page, so they stay cheap.
        {"postgresql_with": {"fillfactor": "80"}},
    )


class UploadFetch(Base):
    """An upload that is to be fetched, and by whom; gone when it is here, or nobody wants it."""

    __tablename__ = "upload_fetches"

    job_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("transcription_jobs.id", ondelete="CASCADE"), primary_key=True
    )
    #: When it is tried; while it is, when whoever does so is taken for lost.
    due_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
    #: Made up by whoever tries, for each try: who has another one writes nothing.
    holder: Mapped[uuid.UUID | None]
    #: Tries in a row that brought nothing.
    failures: Mapped[int] = mapped_column(server_default=text("0"))
    #: Of what the part on the disk is of; None where it cannot be gone on with.
    etag: Mapped[str | None]
    began_at: Mapped[datetime] = mapped_column(server_default=func.now())


class IdempotencyKey(Base):
    """What a client called a submission, so that sending it again makes no second job."""

    __tablename__ = "idempotency_keys"

    owner_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("owners.id"), primary_key=True)
    #: Of the key, which is a client's own words.
    key_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    #: A digest of all that the submission said; empty once its job is deleted.
    fingerprint: Mapped[bytes]
    #: Not tied to the job: that it was deleted must not let it come back.
    job_id: Mapped[uuid.UUID] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


class ResumableUpload(Base):
    """A recording that comes in pieces (tus), from its announcement until it expires.

    How much of it is here its file says, not the row.
    """

    __tablename__ = "resumable_uploads"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("owners.id"))
    #: The key that announced it.
    api_key_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("api_keys.id", ondelete="SET NULL")
    )
    #: The batch that its job is to be added to. Not tied to it: without it there is to be no job.
    batch_id: Mapped[uuid.UUID | None]
    #: What the client calls the submission; it goes with the row.
    idempotency_key: Mapped[str | None]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    client_filename: Mapped[str]
    #: What it says beside the file, as a form would say it.
    said: Mapped[dict[str, Any]]
    #: ``Upload-Metadata`` as it was sent, which is sent back.
    metadata_sent: Mapped[str | None]
    #: Where a chunk began that is to be checked: what comes after it does not count yet.
    checked_from: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(index=True)
    #: When it became a job.
    finished_at: Mapped[datetime | None]
    #: Not tied to the job: that it was deleted must not let it come back.
    job_id: Mapped[uuid.UUID | None]

    __table_args__ = (
        CheckConstraint("size_bytes > 0", name="size_positive"),
        CheckConstraint("job_id IS NULL OR finished_at IS NOT NULL", name="finished_with_job"),
        Index(
            "ix_resumable_uploads_unfinished",
            "owner_id",
            postgresql_where=text("finished_at IS NULL"),
        ),
        Index(
            "ix_resumable_uploads_key",
            "api_key_id",
            postgresql_where=text("finished_at IS NULL"),
        ),
    )


class PausedQueue(Base):
    """A queue whose jobs do not start until an operator resumes it; it says when that was, then."""

    __tablename__ = "paused_queues"

    #: The lane of the jobs that it keeps back.
    name: Mapped[str] = mapped_column(primary_key=True)
    paused_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: Prefix of the API key, or ``cli``.
    paused_by: Mapped[str | None]
    note: Mapped[str | None]
    #: None while it is paused.
    resumed_at: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("name IN ('high', 'normal', 'retry')", name="name"),)


class TranscriptionWindow(Base):
    """One finished window of a job: the work that a second attempt does not do again."""

    __tablename__ = "transcription_windows"

    job_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("transcription_jobs.id", ondelete="CASCADE"), primary_key=True
    )
    #: Counts from 0, without gaps.
    index: Mapped[int] = mapped_column(primary_key=True)
    #: The lease under which it was written.
    lease_epoch: Mapped[int] = mapped_column(BigInteger)
    start_seconds: Mapped[float]
    end_seconds: Mapped[float]
    segments: Mapped[list[Any]]
    #: What the engine needs to go on after this window.
    resume: Mapped[dict[str, Any]]
    model_used: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class TranscriptionResult(Base):
    """The transcript of a completed job; written once, by ``complete``."""

    __tablename__ = "transcription_results"

    job_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("transcription_jobs.id", ondelete="CASCADE"), primary_key=True
    )
    #: The lease under which it was written: tells a worker that lost the answer to its COMMIT.
    lease_epoch: Mapped[int] = mapped_column(BigInteger)
    text: Mapped[str]
    language: Mapped[str]
    language_probability: Mapped[float | None]
    audio_seconds: Mapped[float]
    word_count: Mapped[int]
    confidence: Mapped[float | None]
    segments: Mapped[list[Any]]
    #: How loud it is from beginning to end, see ``speech.peaks``; None where nobody looked.
    peaks: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ErrorLog(Base):
    """One failed attempt."""

    __tablename__ = "error_logs"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    job_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("transcription_jobs.id", ondelete="CASCADE"), index=True
    )
    attempt: Mapped[int]
    lease_epoch: Mapped[int] = mapped_column(BigInteger)
    worker_name: Mapped[str | None]
    error_code: Mapped[str]
    error_message: Mapped[str]
    traceback: Mapped[str | None]
    #: Model, step, memory and whatever else may explain it.
    context: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    resolved: Mapped[bool] = mapped_column(server_default=text("false"))
    resolved_at: Mapped[datetime | None]
    #: Prefix of the API key that resolved it.
    resolved_by: Mapped[str | None]
    resolution_notes: Mapped[str | None]

    __table_args__ = (
        Index("ix_error_logs_unresolved", "created_at", postgresql_where=text("NOT resolved")),
    )


class Worker(Base):
    """What a running process says of itself, renewed with its heartbeat."""

    __tablename__ = "workers"

    #: host:pid:random, unique to one run of one process.
    name: Mapped[str] = mapped_column(primary_key=True)
    #: worker or maintenance.
    role: Mapped[str]
    #: Of the service.
    version: Mapped[str]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    queues: Mapped[list[str]]
    #: Jobs that it can run at once.
    slots: Mapped[int]
    #: Jobs that it is running.
    running: Mapped[int] = mapped_column(server_default=text("0"))
    #: Since when it takes nothing new; None while it does.
    draining_since: Mapped[datetime | None]
    #: Attempts that it has begun.
    begun: Mapped[int] = mapped_column(server_default=text("0"))
    #: Since when it has had a free slot and begun nothing; None while every slot is busy.
    idle_since: Mapped[datetime | None]
    #: By how much its clock is ahead of the database's.
    clock_ahead_seconds: Mapped[float] = mapped_column(server_default=text("0"))
    #: When it took leave; None while it runs, and if it died.
    left_at: Mapped[datetime | None]
    #: Statistics of its model pool.
    pool: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    #: What it found wrong with the chain of audit events, and when; None where it is whole.
    audit_broken: Mapped[str | None]
    audit_broken_since: Mapped[datetime | None]


class Webhook(Base):
    """An address that an owner wants told of its jobs' ends.

    Of its secret only the generation is stored: see ``webhooks.signing``.
    """

    __tablename__ = "webhooks"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    owner_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("owners.id"))
    #: None for the one that signs what goes to the ``callback_url`` of the owner's jobs.
    url: Mapped[str | None]
    #: Those of ``WANTED_EVENTS`` that it wants.
    events: Mapped[list[str]]
    description: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    #: Rises with every rotation.
    generation: Mapped[int] = mapped_column(server_default=text("1"))
    #: The secret before the last rotation signs as well until then.
    previous_until: Mapped[datetime | None]
    #: Nothing is sent since; None while it works.
    disabled_at: Mapped[datetime | None]
    #: ``client``, ``gone`` or ``failing``.
    disabled_reason: Mapped[str | None]
    #: When a delivery last came through; None before the first.
    delivered_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            "(disabled_at IS NULL) = (disabled_reason IS NULL)", name="disabled_is_whole"
        ),
        CheckConstraint("disabled_reason IN ('client', 'gone', 'failing')", name="disabled_reason"),
        Index("ix_webhooks_owner_age", "owner_id", *NEWEST_FIRST),
        Index(
            "uq_webhooks_callbacks",
            "owner_id",
            unique=True,
            postgresql_where=text("url IS NULL"),
        ),
    )


class WebhookDelivery(Base):
    """One event on its way to one webhook; added by a trigger as its job or batch ends.

    It may outlive its job, and holds nothing of what was said in it.
    """

    __tablename__ = "webhook_deliveries"

    #: The ``webhook-id``, the same at every try.
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    webhook_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    #: The ``callback_url`` of the job or batch; None where it goes to the webhook's.
    url: Mapped[str | None]
    event: Mapped[str]
    #: May be gone.
    job_id: Mapped[uuid.UUID | None] = mapped_column(index=True)
    #: What happened, as it was then.
    data: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    status: Mapped[str] = mapped_column(server_default=text("'pending'"))
    #: No try before this time. While one is under way: when it is taken for lost.
    not_before: Mapped[datetime] = mapped_column(server_default=func.now())
    #: Tries that were begun; fences what a late one writes.
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    #: Tries since it was last asked for: what the next pause goes by.
    round: Mapped[int] = mapped_column(server_default=text("0"))
    #: How the last tries ended: ``at``, ``status``, ``error``, ``seconds``.
    tries: Mapped[list[Any]] = mapped_column(server_default=text("'[]'"))
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("status IN ('pending', 'delivered', 'failed', 'dropped')", name="status"),
        CheckConstraint("(status = 'pending') = (ended_at IS NULL)", name="ended_at_when_final"),
        Index("ix_webhook_deliveries_age", "webhook_id", *NEWEST_FIRST),
        # what is to be tried next
        Index(
            "ix_webhook_deliveries_due",
            "webhook_id",
            "not_before",
            postgresql_where=text("status = 'pending'"),
        ),
        Index("ix_webhook_deliveries_ended_at", "ended_at"),
    )


class AuditEvent(Base):
    """Who did what, when, from where, to what. Only added; see ``audit`` for the chain.

    Nothing refers to other tables: what an event tells of may be gone. Nothing here is a client's
    own text. A trigger refuses every change but the one that seals a row, and every deletion but
    that of what an event of ``audit_pruned`` names.
    """

    __tablename__ = "audit_events"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid7)
    #: When its transaction began.
    at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
    action: Mapped[str]
    #: ``done``, or the code of the error that it was refused with.
    outcome: Mapped[str] = mapped_column(server_default=text("'done'"))
    # Who: all is None where a caller could not be made out
    #: Shown name of the API key, or the part of the service that did it: ``cli``, ``web``,
    #: ``maintenance``.
    actor: Mapped[str | None]
    key_id: Mapped[uuid.UUID | None]
    #: The key's.
    owner_id: Mapped[uuid.UUID | None]
    # Whence
    address: Mapped[str | None]
    request_id: Mapped[str | None]
    #: Method and path of the route, without what a client put into it.
    route: Mapped[str | None]
    # On what
    job_id: Mapped[uuid.UUID | None]
    target_key_id: Mapped[uuid.UUID | None]
    #: Whose that job or key is.
    target_owner_id: Mapped[uuid.UUID | None]
    #: How many times: refusals that are alike are counted, a minute long.
    count: Mapped[int] = mapped_column(server_default=text("1"))
    #: Numbers, codes and names of ours.
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    # The seal, put on by maintenance moments later
    #: Place in the chain, from 1, without gaps.
    position: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    #: Of the seal before it and of all else in this row.
    sha256: Mapped[bytes | None]

    __table_args__ = (
        CheckConstraint(
            f"action IN ({', '.join(repr(str(action)) for action in AuditAction)})", name="action"
        ),
        CheckConstraint("(position IS NULL) = (sha256 IS NULL)", name="seal_is_whole"),
        CheckConstraint("count > 0", name="count_positive"),
        # what whoever verifies goes by
        CheckConstraint(
            "action <> 'audit_pruned' OR COALESCE(detail ->> 'position' ~ '^[1-9][0-9]{0,17}$'"
            " AND detail ->> 'sha256' ~ '^[0-9a-f]{64}$', false)",
            name="pruned_says_where",
        ),
        Index("ix_audit_events_unsealed", "id", postgresql_where=text("position IS NULL")),
        Index("ix_audit_events_action_age", "action", "at"),
        Index("ix_audit_events_job", "job_id", postgresql_where=text("job_id IS NOT NULL")),
    )
