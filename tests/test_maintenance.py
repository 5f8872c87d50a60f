"""Dispatcher, prober, janitor and their loops, on real PostgreSQL and Valkey."""

import base64
import contextlib
import functools
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError
from pydantic import SecretStr
from sqlalchemy import func, select, text
from uuid_utils.compat import uuid7

from celery_app import DLQ, LANES, WINDOW_KEY, make_celery, make_redis, send
from config import Settings
from database import Sessions
from errors import DatabaseUnavailable, DecoderKilled, ServiceError, StorageUnavailable
from janitor import MANY_SECONDS, Janitor
from jobs import lifecycle, resumable, workers
from jobs.lifecycle import Backoff
from jobs.parts import RESUMABLE_DIR, Parts
from jobs.retention import ORPHAN_SECONDS, TOO_MANY, Retention
from jobs.uploads import MARKER, PART_DIR, STALE_PART_SECONDS, UploadStore
from jobs.workers import FORGET_SECONDS, WorkerState
from maintenance import (
    BELOW,
    DEAD_LETTER_SECONDS,
    INCARNATION_KEY,
    MIN_WINDOW,
    PROBER_BATCH,
    Dispatcher,
    Loop,
    Prober,
    Send,
    make_auditor,
    make_loops,
)
from models import ResumableUpload, TranscriptionJob, Worker
from speech import audio
from speech.audio import DecodeLimits, MediaInfo
from tests import media
from tests.fakes import eventually
from tests.jobs import conftest as jobs_conftest
from tests.jobs.conftest import FAILURE, NO_PAUSE, MakeJob, claim, read

engine = jobs_conftest.engine
sessions = jobs_conftest.sessions
owner_id = jobs_conftest.owner_id
make_job = jobs_conftest.make_job

LEASE_SECONDS = 60.0
BACKOFF = Backoff(base_seconds=10.0, cap_seconds=600.0)


def settings_of(url: str = "redis://127.0.0.1:1", **values: object) -> Settings:
    return Settings(redis_url=SecretStr(url), _env_file=None, **values)  # type: ignore[arg-type, call-arg]


def set_column(sessions: Sessions, job_id: uuid.UUID, change: str) -> None:
    with sessions.begin() as session:
        session.execute(
            text(f"UPDATE transcription_jobs SET {change} WHERE id = :id"), {"id": job_id}
        )


# Dispatcher


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = make_celery(settings_of(redis_url))
    yield app
    app.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with contextlib.closing(make_redis(settings_of(redis_url))) as client:
        yield client


MakeDispatcher = Callable[..., Dispatcher]


@pytest.fixture
def make_dispatcher(sessions: Sessions, app: Celery, client: redis.Redis) -> MakeDispatcher:
    def make(send_one: Send | None = None) -> Dispatcher:
        send_one = send_one or functools.partial(send, app)
        return Dispatcher(sessions, client, send_one, redispatch_seconds=60, longest=BACKOFF)

    return make


@pytest.fixture
def dispatcher(make_dispatcher: MakeDispatcher) -> Dispatcher:
    return make_dispatcher()


def published(client: redis.Redis, queue: str) -> list[uuid.UUID]:
    """The jobs whose messages lie in a queue, the next one first."""
    messages: Sequence[Any] = client.lrange(queue, 0, -1)
    bodies = [base64.b64decode(json.loads(message)["body"]) for message in reversed(messages)]
    return [uuid.UUID(json.loads(body)[0][0]) for body in bodies]


def take(client: redis.Redis, queue: str) -> None:
    client.rpop(queue)


def slots(sessions: Sessions, count: int) -> None:
    state = WorkerState(name="w1", role="worker", version="3.0.0", queues=LANES, slots=count)
    with sessions.begin() as session:
        workers.announce(session, state)


def test_what_is_due_is_published_in_its_lane_and_nothing_else_is(
    dispatcher: Dispatcher, make_job: MakeJob, client: redis.Redis, sessions: Sessions
) -> None:
    high, normal = make_job(priority="high"), make_job()
    tried = claim(sessions, make_job().id).lease
    with sessions.begin() as session:
        lifecycle.retry(session, tried, FAILURE, NO_PAUSE)
    for status in ("delayed", "processing", "completed", "failed", "cancelled"):
        make_job(status)
    dispatcher.run()

    assert published(client, "high") == [high.id]
    assert published(client, "normal") == [normal.id]
    assert published(client, "retry") == [tried.job_id]


def test_a_lane_is_filled_to_its_window_and_topped_up_as_workers_take(
    dispatcher: Dispatcher, make_job: MakeJob, client: redis.Redis
) -> None:
    jobs = [make_job().id for _ in range(MIN_WINDOW + 4)]
    dispatcher.run()
    first = published(client, "normal")
    for _ in range(3):
        take(client, "normal")
    dispatcher.run()

    assert set(first) == set(jobs[:MIN_WINDOW])
    assert len(published(client, "normal")) == MIN_WINDOW
    assert set(published(client, "normal")[-3:]) == set(jobs[MIN_WINDOW : MIN_WINDOW + 3])


def test_the_window_grows_with_the_slots_of_the_workers(
    dispatcher: Dispatcher, make_job: MakeJob, client: redis.Redis, sessions: Sessions
) -> None:
    slots(sessions, 6)
    for _ in range(14):
        make_job()
    dispatcher.run()

    assert client.get(WINDOW_KEY) == "12"
    assert len(published(client, "normal")) == 12


def test_a_published_job_is_not_published_again_soon(
    dispatcher: Dispatcher, make_job: MakeJob, client: redis.Redis
) -> None:
    job = make_job()
    for _ in range(3):
        dispatcher.run()

    assert published(client, "normal") == [job.id]


def test_a_job_whose_message_nobody_took_is_published_again_in_time(
    dispatcher: Dispatcher, make_job: MakeJob, client: redis.Redis, sessions: Sessions
) -> None:
    job = make_job()
    dispatcher.run()
    take(client, "normal")  # and lost
    set_column(sessions, job.id, "dispatch_due_at = now()")
    dispatcher.run()

    assert published(client, "normal") == [job.id]


def test_the_loss_of_redis_is_noticed_and_all_that_waits_is_published_again(
    dispatcher: Dispatcher,
    make_job: MakeJob,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    jobs = [make_job().id for _ in range(3)]
    dispatcher.run()
    client.flushdb()
    dispatcher.run()

    assert sorted(published(client, "normal")) == sorted(jobs)
    assert caplog.messages.count("redis lost its data: publishing again") == 1


def test_a_loss_is_made_up_for_beside_a_process_that_is_frozen_with_a_row(
    dispatcher: Dispatcher, make_job: MakeJob, client: redis.Redis, sessions: Sessions
) -> None:
    """As long as it holds it, that job waits, and no other."""
    first, *others = [make_job().id for _ in range(3)]
    dispatcher.run()
    with sessions() as frozen:
        frozen.get(TranscriptionJob, first, with_for_update=True)
        client.flushdb()
        dispatcher.run()
        assert sorted(published(client, "normal")) == sorted(others)
        dispatcher.run()
        assert sorted(published(client, "normal")) == sorted(others)
    dispatcher.run()

    assert sorted(published(client, "normal")) == sorted([first, *others])


def test_a_loss_during_a_change_of_the_guard_is_noticed_too(
    make_dispatcher: MakeDispatcher, make_job: MakeJob, client: redis.Redis
) -> None:
    job = make_job()
    make_dispatcher().run()
    client.flushdb()
    make_dispatcher().run()

    assert published(client, "normal") == [job.id]


def test_what_a_clock_that_was_set_back_left_in_the_future_is_published(
    dispatcher: Dispatcher,
    make_job: MakeJob,
    client: redis.Redis,
    sessions: Sessions,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = make_job()
    set_column(sessions, job.id, "not_before = now() + interval '2 h'")
    dispatcher.run()

    assert published(client, "normal") == [job.id]
    assert "postgresql's clock was set back" in caplog.text


def test_of_two_dispatchers_each_notices_the_loss_and_no_job_is_left_out(
    make_dispatcher: MakeDispatcher, make_job: MakeJob, client: redis.Redis
) -> None:
    dispatchers = [make_dispatcher() for _ in range(2)]
    for dispatcher in dispatchers:
        dispatcher.run()
    jobs = {make_job().id for _ in range(3)}
    client.flushdb()
    for dispatcher in dispatchers:
        dispatcher.run()

    assert {*published(client, "normal")} == jobs


def test_of_two_dispatchers_one_publishes_what_was_lost(
    make_dispatcher: MakeDispatcher, make_job: MakeJob, client: redis.Redis
) -> None:
    """Where both did, messages for the first jobs would keep the others' out of the lane."""
    dispatchers = [make_dispatcher() for _ in range(2)]
    jobs = {make_job().id for _ in range(MIN_WINDOW + 2)}
    for dispatcher in dispatchers:
        dispatcher.run()
    client.flushdb()
    for dispatcher in dispatchers:
        dispatcher.run()
    gone = set(published(client, "normal")[:2])
    for _ in gone:
        take(client, "normal")
    dispatchers[0].run()

    assert sorted(published(client, "normal")) == sorted(jobs - gone)


def test_a_redis_of_another_time_is_met_with_everything_that_waits(
    make_dispatcher: MakeDispatcher, make_job: MakeJob, client: redis.Redis
) -> None:
    """As after a restore, or a failover to a replica that had missed something."""
    dispatcher = make_dispatcher()
    job = make_job()
    dispatcher.run()
    client.flushdb()
    client.set(INCARNATION_KEY, "another life:and the one before it")
    dispatcher.run()

    assert published(client, "normal") == [job.id]


def test_two_dispatchers_at_once_publish_each_job_once(
    make_dispatcher: MakeDispatcher, make_job: MakeJob, client: redis.Redis, sessions: Sessions
) -> None:
    slots(sessions, 100)
    dispatchers = [make_dispatcher() for _ in range(2)]
    for dispatcher in dispatchers:
        dispatcher.run()
    jobs = [make_job().id for _ in range(30)]
    start = threading.Barrier(2)

    def run(dispatcher: Dispatcher) -> None:
        start.wait(20)
        dispatcher.run()

    threads = [threading.Thread(target=run, args=(dispatcher,)) for dispatcher in dispatchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(published(client, "normal")) == sorted(jobs)


def test_what_redis_refused_is_due_again_at_once(
    make_dispatcher: MakeDispatcher, make_job: MakeJob, client: redis.Redis, app: Celery
) -> None:
    jobs = [make_job().id for _ in range(3)]
    sent: list[uuid.UUID] = []
    refusing = [False, True, False, False]

    def send_or_refuse(task: str, job_id: uuid.UUID, queue: str) -> None:
        if refusing.pop(0):
            raise OperationalError
        send(app, task, job_id, queue)
        sent.append(job_id)

    dispatcher = make_dispatcher(send_or_refuse)
    with pytest.raises(OperationalError):
        dispatcher.run()
    before = sent.copy()
    dispatcher.run()

    assert len(before) == 1
    assert sorted(sent) == sorted(jobs)
    assert published(client, "normal") == sent


def test_nothing_is_marked_while_redis_is_away(
    make_job: MakeJob, sessions: Sessions, app: Celery
) -> None:
    job = make_job()
    client = make_redis(settings_of())
    dispatcher = Dispatcher(
        sessions, client, functools.partial(send, app), redispatch_seconds=60, longest=BACKOFF
    )

    with pytest.raises(redis.RedisError):
        dispatcher.run()

    assert read(sessions, job.id).dispatch_count == 0


# Overtaking


def crowd(make_job: MakeJob, lane: str) -> None:
    """Let more jobs wait in a lane than its window holds."""
    for _ in range(MIN_WINDOW + 2):
        make_job(priority=lane)


def waiting(sessions: Sessions, make_job: MakeJob, lane: str, *, off: float) -> uuid.UUID:
    """A job that has waited in a lane for ``off`` seconds more than is too long."""
    job_id = make_job().id
    if lane == "retry":
        lease = claim(sessions, job_id).lease
        with sessions.begin() as session:
            lifecycle.retry(session, lease, FAILURE, NO_PAUSE)
    too_long = next(seconds for below, seconds in BELOW.values() if below == lane)
    set_column(sessions, job_id, f"not_before = now() - interval '{too_long + off} s'")
    return job_id


@pytest.mark.parametrize(("lane", "below"), [("high", "normal"), ("normal", "retry")])
def test_where_a_lane_never_empties_one_that_waited_too_long_below_comes_into_it(
    lane: str,
    below: str,
    dispatcher: Dispatcher,
    make_job: MakeJob,
    client: redis.Redis,
    sessions: Sessions,
) -> None:
    crowd(make_job, lane)
    oldest, *_ = (waiting(sessions, make_job, below, off=100 - n) for n in range(3))
    for _ in range(3):
        dispatcher.run()

    assert published(client, lane)[MIN_WINDOW:] == [oldest]


def test_the_next_one_overtakes_when_the_first_was_taken(
    dispatcher: Dispatcher, make_job: MakeJob, client: redis.Redis, sessions: Sessions
) -> None:
    crowd(make_job, "high")
    jobs = [waiting(sessions, make_job, "normal", off=100 - n) for n in range(3)]
    dispatcher.run()
    claim(sessions, jobs[0])
    dispatcher.run()

    assert published(client, "high")[MIN_WINDOW:] == jobs[:2]


def test_nobody_overtakes_where_workers_come_to_the_lane_by_themselves(
    dispatcher: Dispatcher, make_job: MakeJob, client: redis.Redis, sessions: Sessions
) -> None:
    job_id = waiting(sessions, make_job, "normal", off=100)
    dispatcher.run()

    assert published(client, "high") == []
    assert published(client, "normal") == [job_id]


def test_who_has_not_waited_too_long_does_not_overtake(
    dispatcher: Dispatcher, make_job: MakeJob, client: redis.Redis, sessions: Sessions
) -> None:
    crowd(make_job, "high")
    waiting(sessions, make_job, "normal", off=-100)
    dispatcher.run()

    assert len(published(client, "high")) == MIN_WINDOW


# The dead letter queue


def test_a_failed_job_whose_message_was_lost_is_sent_again_until_it_is_noted(
    dispatcher: Dispatcher, make_job: MakeJob, client: redis.Redis, sessions: Sessions
) -> None:
    job = make_job("failed")
    set_column(sessions, job.id, f"completed_at = now() - interval '{DEAD_LETTER_SECONDS + 5} s'")
    sent = []
    for _ in range(2):
        dispatcher.run()
        dispatcher.run()  # it lies there still
        sent.append(published(client, DLQ))
        take(client, DLQ)  # and lost
    with sessions.begin() as session:
        lifecycle.note_dead_letter(session, job.id)
    dispatcher.run()

    assert sent == [[job.id], [job.id]]
    assert published(client, DLQ) == []


def test_a_job_that_has_just_failed_is_left_to_its_workers_own_message(
    dispatcher: Dispatcher, make_job: MakeJob, client: redis.Redis
) -> None:
    make_job("failed")
    dispatcher.run()

    assert published(client, DLQ) == []


# Prober


@pytest.fixture
def store(tmp_path: Path) -> UploadStore:
    store = UploadStore(tmp_path, max_bytes=2**24, min_free_bytes=0)
    store.prepare()
    return store


def put(store: UploadStore, job_id: uuid.UUID, content: bytes = b"x") -> Path:
    with store.writer(job_id) as writer:
        writer.write(content)
        return writer.finish().path


@pytest.fixture
def prober(sessions: Sessions, store: UploadStore) -> Prober:
    return Prober(sessions, store, probe)


def probe(source: Path) -> MediaInfo:
    return audio.probe(source, DecodeLimits(max_audio_seconds=60.0))


def length(sessions: Sessions, job: TranscriptionJob) -> tuple[float | None, bool]:
    row = read(sessions, job.id)
    return row.audio_seconds, row.audio_estimated


def test_the_length_of_an_upload_that_waits_is_read_from_its_header(
    prober: Prober, make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job(audio_seconds=99.0)
    put(store, job.id, media.wav(media.tone(2.5)))
    before = length(sessions, job)
    prober.run()

    assert before == (99.0, True)
    assert length(sessions, job) == (2.5, False)


@pytest.mark.parametrize("content", [media.TEXT, media.ELF, b"RIFF", None])
def test_a_header_that_tells_nothing_is_asked_once_and_the_guess_stays(
    content: bytes | None,
    prober: Prober,
    make_job: MakeJob,
    sessions: Sessions,
    store: UploadStore,
) -> None:
    job = make_job(audio_seconds=99.0)
    if content is not None:
        put(store, job.id, content)
    prober.run()

    prober_found = read(sessions, job.id).probed_at
    prober.run()

    assert length(sessions, job) == (99.0, True)
    assert prober_found is not None
    assert read(sessions, job.id).probed_at == prober_found


def test_a_length_reckoned_from_the_bit_rate_is_still_a_guess(
    prober: Prober, make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job(audio_seconds=99.0)
    put(store, job.id, media.sound("mp3", "mp3", seconds=5.0, options={"write_xing": "0"}))
    prober.run()

    seconds, estimated = length(sessions, job)
    assert seconds == pytest.approx(5.0, abs=0.5)
    assert estimated


def test_a_header_that_claims_more_than_is_allowed_changes_nothing(
    prober: Prober, make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job(audio_seconds=9.0)
    put(store, job.id, media.wav(media.tone(61.0)))
    prober.run()

    assert length(sessions, job) == (9.0, True)


def test_lengths_are_read_a_few_at_a_time_those_that_wait_longest_first(
    prober: Prober, make_job: MakeJob, sessions: Sessions
) -> None:
    jobs = [make_job() for _ in range(PROBER_BATCH + 1)]
    prober.run()
    first = [read(sessions, job.id).probed_at is not None for job in jobs]
    prober.run()

    assert first == [True] * PROBER_BATCH + [False]
    assert all(read(sessions, job.id).probed_at for job in jobs)


def test_the_length_of_a_job_that_waits_no_more_is_its_workers_business(
    prober: Prober, make_job: MakeJob, sessions: Sessions
) -> None:
    job = make_job("processing")
    prober.run()

    assert read(sessions, job.id).probed_at is None


@pytest.mark.parametrize("failure", [DecoderKilled(), ServiceError("no clear answer")])
def test_a_file_that_its_decoder_dies_of_does_not_hold_up_the_others(
    failure: ServiceError, make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    bad, good = make_job(), make_job()
    put(store, bad.id, media.TEXT)
    put(store, good.id, media.wav(media.tone(2.5)))

    def dying(source: Path) -> MediaInfo:
        if source == store.path(bad.id):
            raise failure
        return probe(source)

    Prober(sessions, store, dying).run()

    assert length(sessions, good) == (2.5, False)
    assert read(sessions, bad.id).probed_at is not None


def test_a_store_that_is_away_settles_nothing(
    prober: Prober, make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job = make_job()
    (store.root / MARKER).unlink()

    with pytest.raises(StorageUnavailable):
        prober.run()

    assert read(sessions, job.id).probed_at is None


# Janitor


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def ended_long_ago(sessions: Sessions, make_job: MakeJob) -> uuid.UUID:
    job_id = make_job("completed").id
    set_column(
        sessions,
        job_id,
        "created_at = now() - interval '3 h', completed_at = now() - interval '2 h'",
    )
    return job_id


def test_the_janitor_deletes_what_is_old_orphaned_or_unfinished_and_nothing_else(
    make_job: MakeJob,
    sessions: Sessions,
    store: UploadStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    kept, young_orphan = put(store, make_job().id), put(store, uuid7())
    old, orphan = put(store, ended_long_ago(sessions, make_job)), put(store, uuid7())
    age(orphan, ORPHAN_SECONDS + 60)
    part = store.root / PART_DIR / str(uuid7())
    part.touch()
    age(part, STALE_PART_SECONDS + 60)
    janitor = Janitor(sessions, store, keep=Retention(audio_seconds=3600), keep_keys_seconds=3600)
    janitor.run()
    janitor.run()

    assert [path.exists() for path in (kept, young_orphan)] == [True, True]
    assert [path.exists() for path in (old, orphan, part)] == [False, False, False]
    told = [record for record in caplog.records if record.message == "uploads deleted"]
    figures = [[vars(record)[name] for name in ("old", "orphans", "unfinished")] for record in told]
    assert figures == [[1, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize(("count", "age_seconds", "left"), [
    (TOO_MANY - 1, ORPHAN_SECONDS + 60, 0),
    (TOO_MANY, ORPHAN_SECONDS + 60, TOO_MANY),
    (TOO_MANY, MANY_SECONDS + 60, 0),
])  # fmt: skip
def test_many_orphans_at_once_are_kept_for_a_week(
    count: int, age_seconds: float, left: int, sessions: Sessions, store: UploadStore
) -> None:
    orphans = [put(store, uuid7()) for _ in range(count)]
    for orphan in orphans:
        age(orphan, age_seconds)
    janitor = Janitor(sessions, store, keep=Retention(), keep_keys_seconds=3600)
    for _ in range(3):
        janitor.run()

    assert sum(orphan.exists() for orphan in orphans) == left


def test_the_janitor_forgets_idempotency_keys(
    sessions: Sessions, store: UploadStore, owner_id: uuid.UUID
) -> None:
    with sessions.begin() as session:
        for key, hours in {"old": 2, "new": 0}.items():
            session.execute(
                text(
                    "INSERT INTO idempotency_keys"
                    " (owner_id, key_sha256, fingerprint, job_id, created_at)"
                    " VALUES (:owner, :key, '', :job, now() - make_interval(hours => :hours))"
                ),
                {"owner": owner_id, "key": key.encode(), "job": uuid7(), "hours": hours},
            )
    Janitor(sessions, store, keep=Retention(), keep_keys_seconds=3600).run()

    with sessions.begin() as session:
        kept = session.scalars(text("SELECT key_sha256 FROM idempotency_keys")).all()
    assert [bytes(key) for key in kept] == [b"new"]


# Resumable uploads

Begin = Callable[..., uuid.UUID]


@pytest.fixture
def begin(sessions: Sessions, store: UploadStore, owner_id: uuid.UUID) -> Begin:
    """Announce an upload, with a part of which 3 bytes are here."""

    def make(*, old: bool = False, expired: bool = False, row: bool = True) -> uuid.UUID:
        upload_id = uuid7()
        Parts(store).create(upload_id, expected_bytes=10)
        part = store.root / RESUMABLE_DIR / str(upload_id)
        part.write_bytes(b"abc")
        if old:
            age(part, 2 * ORPHAN_SECONDS)
        if row:
            with sessions.begin() as session:
                wanted = resumable.NewUpload(
                    id=upload_id,
                    owner_id=owner_id,
                    api_key_id=None,
                    batch_id=None,
                    idempotency_key=None,
                    size_bytes=10,
                    filename="a.wav",
                    said={},
                    metadata_sent=None,
                )
                keep_seconds = -1.0 if expired else 3600.0
                resumable.create(session, wanted, keep_seconds=keep_seconds, most=100)
        return upload_id

    return make


def tidy(sessions: Sessions, store: UploadStore) -> set[str]:
    """Run a round; returns the parts that are left."""
    Janitor(sessions, store, keep=Retention(), keep_keys_seconds=3600).run()
    return {path.name for path in (store.root / RESUMABLE_DIR).iterdir()}


def test_resumable_uploads_are_deleted_when_their_time_is_over(
    sessions: Sessions, store: UploadStore, begin: Begin
) -> None:
    begin(expired=True)
    kept = {str(begin()), str(begin(old=True))}

    assert tidy(sessions, store) == kept
    with sessions.begin() as session:
        assert {str(row) for row in session.scalars(select(ResumableUpload.id))} == kept


def test_parts_that_no_row_needs_are_deleted_when_they_are_old(
    sessions: Sessions, store: UploadStore, begin: Begin
) -> None:
    begin(row=False, old=True)
    young, finished = begin(row=False), begin(old=True)
    with sessions.begin() as session:
        assert resumable.finish(session, finished)

    assert tidy(sessions, store) == {str(young)}
    with sessions.begin() as session:
        assert session.get(ResumableUpload, finished)


def test_many_parts_without_rows_are_spared_for_a_week(
    sessions: Sessions, store: UploadStore, begin: Begin
) -> None:
    ids = {str(begin(row=False, old=True)) for _ in range(TOO_MANY)}

    assert tidy(sessions, store) == ids


@pytest.mark.parametrize(("count", "left"), [(1, 0), (TOO_MANY, TOO_MANY)])
def test_uploads_whose_parts_are_gone_are_forgotten_unless_all_are(
    sessions: Sessions, store: UploadStore, begin: Begin, count: int, left: int
) -> None:
    for upload_id in [begin() for _ in range(count)]:
        Parts(store).delete(upload_id)
    with sessions.begin() as session:
        session.execute(text("UPDATE resumable_uploads SET created_at = now() - interval '1 h'"))
    tidy(sessions, store)

    with sessions.begin() as session:
        assert session.scalar(select(func.count(ResumableUpload.id))) == left


def test_an_upload_whose_row_comes_between_two_rounds_is_kept(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    job_id = uuid7()
    upload = put(store, job_id)
    age(upload, 2 * ORPHAN_SECONDS)  # as a clock that was set forward shows it
    janitor = Janitor(sessions, store, keep=Retention(audio_seconds=3600), keep_keys_seconds=3600)
    janitor.run()
    make_job(id=job_id)
    janitor.run()
    janitor.run()

    assert upload.exists()


def test_uploads_are_kept_for_ever_where_retention_is_off(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    upload = put(store, ended_long_ago(sessions, make_job))
    Janitor(sessions, store, keep=Retention(), keep_keys_seconds=3600).run()

    assert upload.exists()


def test_the_rows_of_processes_that_died_go(sessions: Sessions, store: UploadStore) -> None:
    slots(sessions, 2)
    with sessions.begin() as session:
        session.execute(
            text("UPDATE workers SET seen_at = now() - make_interval(secs => :seconds)"),
            {"seconds": FORGET_SECONDS + 60},
        )
    Janitor(sessions, store, keep=Retention(), keep_keys_seconds=3600).run()

    with sessions() as session:
        assert session.scalars(select(Worker)).all() == []


def test_a_second_round_finds_nothing_to_do(
    make_job: MakeJob, sessions: Sessions, store: UploadStore
) -> None:
    janitor = Janitor(sessions, store, keep=Retention(audio_seconds=3600), keep_keys_seconds=3600)
    put(store, ended_long_ago(sessions, make_job))
    janitor.run()
    janitor.run()


# Loops


class Rounds:
    """Rounds that end as the test says; the last end again and again."""

    def __init__(self, *ends: Exception | None) -> None:
        self._ends = [*ends]
        self.begun = 0

    def run(self) -> None:
        self.begun += 1
        end = self._ends.pop(0) if len(self._ends) > 1 else self._ends[0]
        if end is not None:
            raise end


def run_rounds(rounds: Rounds, count: int) -> Loop:
    loop = Loop("test", rounds, pause_seconds=0.001)
    loop.start()
    eventually(lambda: rounds.begun >= count)
    loop.close()
    return loop


def test_a_loop_survives_everything(caplog: pytest.LogCaptureFixture) -> None:
    rounds = Rounds(DatabaseUnavailable(), redis.ConnectionError(), KeyError(), MemoryError(), None)
    run_rounds(rounds, 8)

    assert [record.message for record in caplog.records if record.levelname != "INFO"] == [
        "loop waits for what it needs",
        "loop waits for what it needs",
        "round failed",
        "round failed",
    ]


def test_an_outage_is_told_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run_rounds(Rounds(*[DatabaseUnavailable() for _ in range(5)], None), 8)

    assert caplog.messages == ["loop waits for what it needs", "loop goes on"]


def test_a_fault_of_ours_is_told_with_its_traceback_but_not_at_every_round(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run_rounds(Rounds(KeyError()), 5)

    assert caplog.messages == ["round failed"]
    assert caplog.records[0].exc_info is not None


def test_a_closed_loop_begins_no_more_rounds() -> None:
    rounds = Rounds(None)
    run_rounds(rounds, 2)
    begun = rounds.begun
    run_rounds(Rounds(None), 5)  # meanwhile

    assert rounds.begun == begun


def test_a_loop_that_never_started_can_be_closed() -> None:
    Loop("test", Rounds(None), pause_seconds=1).close()


def test_maintenance_is_made_of_seven_loops(
    sessions: Sessions, store: UploadStore, app: Celery, client: redis.Redis
) -> None:
    settings = settings_of()
    auditor = make_auditor(settings, sessions)
    loops = make_loops(settings, sessions, store, client, functools.partial(send, app), auditor)

    names = ["dispatcher", "reaper", "prober", "batches", "janitor", "auditor", "tallies"]
    assert [loop.name for loop in loops] == names
