"""Every failure this service expects, in one tree.

    ServiceError
      ClientError                 the request is wrong
        InvalidRequest, EmptyFile, UploadTooLarge, UnknownModel, BadCursor
        NotAuthenticated, NotAllowed, NotFound, UnknownHost, HTTPSRequired, TooManyConnections,
        IdempotencyMismatch, JobDeleted,
        RateLimited, QuotaExceeded, TooManyWaits, TooManyAtOnce,
        TusVersion, UploadBusy, ChecksumMismatch
      MediaError                  the file is wrong
        NotAudio, NoAudioStream, NoAudioSamples, NoSuchTrack, EmptyPart, AudioTooLong,
        TooManyStreams, TooManyChannels, BadSampleRate, DecodeLimit, UploadMissing, UploadAltered
      EngineError                 the model failed
        EngineOutOfMemory, ModelUnavailable, ModelLoadFailed, ProcessDied, Stalled
      CapacityError               try later
        DatabaseUnavailable, StorageUnavailable, DiskFull, PoolTimeout, QueueFull
      DecoderKilled               the decoder was ended from outside
      WorkerLost                  the worker was
      ConflictError               the job's state does not allow it
        JobFinished, JobNotFinished, JobWithoutResult, JobNotFailed, JobQuarantined,
        BatchClosed, LastAdminKey, SubmissionUnderWay, OffsetMismatch
      LeaseLost                   this worker no longer owns the job
      Interrupted                 an attempt was asked to stop
        CancelRequested, Draining, DeadlineExceeded, Occupied, SteppedAside
      OutgoingFailed              a call to somebody else's server failed
        AddressRefused, ReplyTooLarge, ReplyRefused, SourceRefused
      SettingsError               the configuration is wrong
      Unhealthy                   a monitor asked to be told so
      ChainBroken                 audit events are not what they were
      BackupFailed                a backup cannot be written or read
      BackupDamaged               a backup is not what was taken
      RestoreRefused              a backup may not be restored there
      LocalServerFailed           our own PostgreSQL or Valkey does not run

``code`` is stable: it is stored in the job's row and sent to clients. The docstring of a class is
its default message. What a failed attempt leads to is in ``retries``, by class.
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar


class ServiceError(Exception):
    """The service failed."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str | None = None, /, **data: Any) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        #: What a program may want to know beside the message; shown to clients, so never a secret.
        self.data = data
        super().__init__(self.message)


def kind_of(error: BaseException) -> type[ServiceError]:
    """The class of ours that any error counts as, foreseen or not."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return EngineOutOfMemory
    return type(error) if isinstance(error, ServiceError) else ServiceError


def message_of(error: BaseException) -> str:
    """What a client may read of any error: what we did not write may hold a path or a query."""
    if isinstance(error, ServiceError):
        return error.message
    return f"The worker met an unexpected {type(error).__name__}."


class ClientError(ServiceError):
    """The request is wrong."""

    code = "bad_request"


class InvalidRequest(ClientError):
    """A field of the request has a value that is not allowed."""

    code = "invalid_request"


class EmptyFile(ClientError):
    """The uploaded file is empty."""

    code = "empty_file"


class UploadTooLarge(ClientError):
    """The upload is larger than this service accepts."""

    code = "upload_too_large"


class UnknownModel(ClientError):
    """There is no model of that name."""

    code = "unknown_model"


class BadCursor(ClientError):
    """The cursor is not one that this service gave out."""

    code = "bad_cursor"


class NotAuthenticated(ClientError):
    """A valid API key is required."""

    code = "not_authenticated"

    def __init__(self, message: str | None = None, /, *, reason: str = "", **data: Any) -> None:
        super().__init__(message, **data)
        #: For logs and audit events, as what follows: a client is not told.
        self.reason = reason
        #: Of the key that works no longer, if it was one: its id, its shown name, its owner's id.
        self.key: tuple[Any, str, Any] | None = None


class NotAllowed(ClientError):
    """This key may not do that."""

    code = "not_allowed"


class NotFound(ClientError):
    """There is no such thing, or it is not yours."""

    code = "not_found"


class UnknownHost(ClientError):
    """This service is not known by that host name."""

    code = "unknown_host"


class HTTPSRequired(ClientError):
    """This service is called over HTTPS alone; revoke a key that came in clear."""

    code = "https_required"


class TooManyConnections(ClientError):
    """There are too many connections from this address."""

    code = "too_many_connections"


class IdempotencyMismatch(ClientError):
    """This idempotency key was used for another submission."""

    code = "idempotency_mismatch"


class JobDeleted(ClientError):
    """The job was deleted."""

    code = "job_deleted"


class RateLimited(ClientError):
    """There were too many requests; wait a while."""

    code = "rate_limited"


class QuotaExceeded(ClientError):
    """This key has used up what it may use."""

    code = "quota_exceeded"


class TooManyWaits(ClientError):
    """Too many requests of this key wait for jobs already."""

    code = "too_many_waits"


class TooManyAtOnce(ClientError):
    """Too many requests of this key are under way."""

    code = "too_many_at_once"


class TusVersion(ClientError):
    """The request should say Tus-Resumable: 1.0.0."""

    code = "tus_version"


class UploadBusy(ClientError):
    """Another request is sending this upload."""

    code = "upload_busy"


class ChecksumMismatch(ClientError):
    """What came is not what Upload-Checksum says; nothing of it is kept."""

    code = "checksum_mismatch"


class MediaError(ServiceError):
    """The uploaded file cannot be transcribed."""

    code = "media_error"


class NotAudio(MediaError):
    """The file is not audio or video that can be read."""

    code = "not_audio"


class NoAudioStream(MediaError):
    """The file has no sound in it."""

    code = "no_audio_stream"


class NoAudioSamples(MediaError):
    """The file's sound stream holds no samples."""

    code = "no_audio_samples"


class NoSuchTrack(MediaError):
    """The file has fewer tracks of sound than the one that was asked for."""

    code = "no_such_track"


class EmptyPart(MediaError):
    """The sound ends before the part that was asked for begins."""

    code = "empty_part"


class AudioTooLong(MediaError):
    """The audio is longer than this service accepts."""

    code = "audio_too_long"


class TooManyStreams(MediaError):
    """The file has more streams than this service accepts."""

    code = "too_many_streams"


class TooManyChannels(MediaError):
    """The audio has more channels than this service accepts."""

    code = "too_many_channels"


class BadSampleRate(MediaError):
    """The audio's sample rate is outside of what this service accepts."""

    code = "bad_sample_rate"


class DecodeLimit(MediaError):
    """Decoding the file took more memory or time than it may."""

    code = "resource_limit"


class UploadMissing(MediaError):
    """The uploaded file is no longer there."""

    code = "upload_missing"


class UploadAltered(MediaError):
    """The uploaded file is not what was sent any more."""

    code = "upload_altered"


class EngineError(ServiceError):
    """The speech engine failed."""

    code = "engine_error"


class EngineOutOfMemory(EngineError):
    """The speech engine ran out of memory."""

    code = "out_of_memory"


class ModelUnavailable(EngineError):
    """The model's files are not here and could not be downloaded."""

    code = "model_unavailable"


class ModelLoadFailed(EngineError):
    """The model's files are here but could not be loaded."""

    code = "model_load_failed"


class ProcessDied(EngineError):
    """The job's own process died while it transcribed."""

    code = "process_died"


class Stalled(EngineError):
    """The attempt showed no progress."""

    code = "stalled"


class CapacityError(ServiceError):
    """The service cannot take this now; try again later."""

    code = "overloaded"


class DatabaseUnavailable(CapacityError):
    """The database cannot be reached."""

    code = "database_unavailable"


class StorageUnavailable(CapacityError):
    """The storage for uploads cannot be reached."""

    code = "storage_unavailable"


class DiskFull(CapacityError):
    """There is not enough free disk space for this upload."""

    code = "disk_full"


class PoolTimeout(CapacityError):
    """No model became free in time."""

    code = "pool_timeout"


class QueueFull(CapacityError):
    """Too much waits already; try again when some of it is done."""

    code = "queue_full"


class DecoderKilled(ServiceError):
    """The decoder was killed from outside, as happens when a machine's memory is full."""

    code = "decoder_killed"


class WorkerLost(ServiceError):
    """The worker died or was cut off while it had this job."""

    code = "worker_lost"


class ConflictError(ServiceError):
    """The state of the job does not allow that."""

    code = "conflict"


class JobFinished(ConflictError):
    """The job has ended already."""

    code = "job_finished"


class JobNotFinished(ConflictError):
    """The job has no result yet."""

    code = "job_not_finished"


class JobWithoutResult(ConflictError):
    """The job ended without a result."""

    code = "no_result"


class JobNotFailed(ConflictError):
    """The job has not failed: it is not in the dead letter queue."""

    code = "job_not_failed"


class JobQuarantined(ConflictError):
    """The job is in quarantine: release it first."""

    code = "job_quarantined"


class BatchClosed(ConflictError):
    """The batch takes no more files."""

    code = "batch_closed"


class LastAdminKey(ConflictError):
    """No other key with the scope admin would be left."""

    code = "last_admin_key"


class SubmissionUnderWay(ConflictError):
    """The submission with this idempotency key is still being received."""

    code = "submission_under_way"


class OffsetMismatch(ConflictError):
    """The upload goes on from another offset."""

    code = "offset_mismatch"


class LeaseLost(ServiceError):
    """Another worker owns the job now; nothing more may be written."""

    code = "lease_lost"


class Interrupted(ServiceError):
    """The attempt was asked to stop."""

    code = "interrupted"


class CancelRequested(Interrupted):
    """The client cancelled the job."""

    code = "cancelled"


class Draining(Interrupted):
    """The worker is shutting down and hands the job back."""

    code = "worker_draining"


class DeadlineExceeded(Interrupted):
    """The attempt took longer than its deadline."""

    code = "deadline"


class SteppedAside(Interrupted):
    """The attempt made room for an urgent job."""

    code = "stepped_aside"


class Occupied(Interrupted):
    """Another job that has to run alone does."""

    code = "occupied"


class OutgoingFailed(ServiceError):
    """The other server cannot be reached, or gave no answer.

    ``reason`` in ``data`` says what went wrong: ``name``, ``connection``, ``tls``, ``protocol``,
    ``timeout``, or ``status`` where it answered that it cannot now.
    """

    code = "outgoing_failed"


class AddressRefused(OutgoingFailed):
    """That address may not be called."""

    code = "address_refused"


class ReplyTooLarge(OutgoingFailed):
    """The other server's answer is larger than this service reads."""

    code = "reply_too_large"


class ReplyRefused(OutgoingFailed):
    """The other server's answer is none that this service can use."""

    code = "reply_refused"


class SourceRefused(OutgoingFailed):
    """The other server does not give the recording out."""

    code = "source_refused"


class SettingsError(ServiceError):
    """The configuration is wrong."""

    code = "bad_settings"


class Unhealthy(ServiceError):
    """The service is not as it should be."""

    code = "unhealthy"


class ChainBroken(ServiceError):
    """The chain of audit events is broken."""

    code = "chain_broken"


class BackupFailed(ServiceError):
    """The backup cannot be written or read."""

    code = "backup_failed"


class BackupDamaged(ServiceError):
    """The backup is not what was taken."""

    code = "backup_damaged"


class RestoreRefused(ServiceError):
    """The backup may not be restored there."""

    code = "restore_refused"


class LocalServerFailed(ServiceError):
    """A database server of our own does not run."""

    code = "local_server_failed"
