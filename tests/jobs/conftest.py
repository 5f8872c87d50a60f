"""Sessions on a fresh database, and jobs in every state."""

import uuid
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker
from uuid_utils.compat import uuid7

from jobs import lifecycle
from jobs.lifecycle import Backoff, ClaimedJob, Failure, NewJob, Outcome
from models import Owner, TranscriptionJob, UploadFetch
from speech.transcript import ResumeState, Segment, Transcript, Window

NO_PAUSE = Backoff(base_seconds=0.0, cap_seconds=0.0)
FAILURE = Failure(code="engine_error", message="It broke.", traceback="Traceback", context={"a": 1})
SEGMENT = Segment(
    text=" one two",
    start_seconds=0.0,
    end_seconds=1.5,
    avg_logprob=-0.1,
    no_speech_prob=0.01,
    compression_ratio=0.8,
    temperature=0.0,
    tokens=(50364, 472, 50439),
)
TRANSCRIPT = Transcript(
    language="en", language_probability=0.9, audio_seconds=30.0, segments=(SEGMENT,)
)
OUTCOME = Outcome(model_used="openai-whisper/demo/cpu/float32", warnings=("demo_model",))
WINDOW = Window(
    start_seconds=0.0,
    end_seconds=28.0,
    segments=(SEGMENT,),
    resume=ResumeState(next_frame=2800, language="en", prompt_tokens=(472,)),
)

#: What a job is submitted with whose upload is elsewhere.
TO_FETCH = {"upload_bytes": 0, "upload_sha256": b"", "source_url": "https://files.test/talk.wav"}

MakeJob = Callable[..., TranscriptionJob]


@pytest.fixture
def engine(emptied_engine: Engine) -> Engine:
    return emptied_engine


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
def owner_id(sessions: sessionmaker[Session]) -> uuid.UUID:
    owner = Owner(name="alice")
    with sessions.begin() as session:
        session.add(owner)
    return owner.id


@pytest.fixture
def make_job(sessions: sessionmaker[Session], owner_id: uuid.UUID) -> MakeJob:
    """Submit a job, and bring it into a status by the verbs that lead there."""

    def make(status: str = "pending", **values: object) -> TranscriptionJob:
        submitted = {
            "id": uuid7(),
            "owner_id": owner_id,
            "engine_name": "openai-whisper",
            "model_name": "demo",
            "client_filename": "talk.wav",
            "upload_bytes": 10,
            "upload_sha256": b"\0" * 32,
            "max_attempts": 3,
            **(TO_FETCH if status == "fetching" else {}),
            **values,
        }
        with sessions.begin() as session:
            job = lifecycle.submit(session, NewJob(**submitted))  # type: ignore[arg-type]
        REACH[status](sessions, job.id)
        return read(sessions, job.id)

    return make


def read(sessions: sessionmaker[Session], job_id: uuid.UUID) -> TranscriptionJob:
    with sessions() as session:
        return session.get_one(TranscriptionJob, job_id)


def claim(sessions: sessionmaker[Session], job_id: uuid.UUID, worker: str = "w1") -> ClaimedJob:
    with sessions.begin() as session:
        claimed = lifecycle.claim(session, job_id, worker)
    assert claimed is not None
    return claimed


def _complete(sessions: sessionmaker[Session], job_id: uuid.UUID) -> None:
    lease = claim(sessions, job_id).lease
    with sessions.begin() as session:
        lifecycle.complete(session, lease, TRANSCRIPT, OUTCOME)


def _fail(sessions: sessionmaker[Session], job_id: uuid.UUID) -> None:
    lease = claim(sessions, job_id).lease
    with sessions.begin() as session:
        lifecycle.fail(session, lease, FAILURE)


def _cancel(sessions: sessionmaker[Session], job_id: uuid.UUID) -> None:
    with sessions.begin() as session:
        lifecycle.cancel(session, job_id)


def _claim(sessions: sessionmaker[Session], job_id: uuid.UUID) -> None:
    claim(sessions, job_id)


def _cancelling(sessions: sessionmaker[Session], job_id: uuid.UUID) -> None:
    claim(sessions, job_id)
    _cancel(sessions, job_id)


def _delayed(sessions: sessionmaker[Session], job_id: uuid.UUID) -> None:
    with sessions.begin() as session:
        session.execute(
            text(
                "UPDATE transcription_jobs SET not_before = now() + interval '1 h',"
                " put_off_count = 1 WHERE id = :id"
            ),
            {"id": job_id},
        )


def _fetching(sessions: sessionmaker[Session], job_id: uuid.UUID) -> None:
    with sessions.begin() as session:
        session.get_one(UploadFetch, job_id).holder = job_id


REACH: dict[str, Callable[[sessionmaker[Session], uuid.UUID], None]] = {
    "pending": lambda *_: None,
    "fetching": _fetching,
    "delayed": _delayed,
    "processing": _claim,
    "cancelling": _cancelling,
    "completed": _complete,
    "failed": _fail,
    "cancelled": _cancel,
}
