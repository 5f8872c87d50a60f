"""Batches: counted from their jobs, closed, ended and forgotten."""

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

import auth
from errors import BatchClosed, NotFound
from jobs import batches, lifecycle
from jobs.batches import NewBatch
from models import Batch, JobStatus, Owner, TranscriptionJob, Webhook, WebhookDelivery

MakeBatch = Callable[..., uuid.UUID]


@pytest.fixture
def make_batch(sessions, owner_id) -> MakeBatch:
    def make(*, closed: bool = False, callback_url: str | None = None) -> uuid.UUID:
        with sessions.begin() as session:
            wanted = NewBatch(owner_id=owner_id, api_key_id=None, callback_url=callback_url)
            batch = batches.create(session, wanted)
            if closed:
                batches.close(session, batch)
            return batch.id

    return make


@pytest.fixture
def end(sessions) -> Callable[[], list[uuid.UUID]]:
    def run() -> list[uuid.UUID]:
        with sessions.begin() as session:
            return batches.end(session)

    return run


def test_a_batch_is_counted_from_its_jobs(sessions, make_batch, make_job):
    batch_id = make_batch()
    waiting = make_job(batch_id=batch_id, audio_seconds=60.0)
    half = make_job(batch_id=batch_id, audio_seconds=100.0)
    gone = make_job(batch_id=batch_id, audio_seconds=40.0)
    make_job(audio_seconds=1000.0)
    with sessions.begin() as session:
        assert lifecycle.claim(session, half.id, "w")
        session.execute(
            update(TranscriptionJob).where(TranscriptionJob.id == half.id).values(progress=0.5)
        )
        lifecycle.cancel(session, gone.id)
        tally = batches.tallies(session, [batch_id])[batch_id]

    assert tally.jobs == {
        JobStatus.PENDING: 1,
        JobStatus.PROCESSING: 1,
        JobStatus.CANCELLED: 1,
    }
    assert (tally.total, tally.audio_seconds, tally.done_seconds) == (3, 200.0, 90.0)
    assert waiting.batch_id == batch_id


def test_one_without_jobs_is_counted_too(sessions, make_batch):
    batch_id = make_batch()
    with sessions() as session:
        tally = batches.tallies(session, [batch_id])[batch_id]

    assert (tally.total, tally.audio_seconds) == (0, 0)


def test_somebody_elses_is_as_good_as_none(sessions, make_batch):
    batch_id = make_batch()
    with sessions.begin() as session:
        stranger = auth.owner_id(session, "stranger")
        for verb in (batches.find, batches.hold_open):
            with pytest.raises(NotFound):
                verb(session, batch_id, owner_id=stranger)


def test_one_that_is_closed_takes_nothing(sessions, make_batch, owner_id):
    batch_id = make_batch(closed=True)
    with sessions() as session, pytest.raises(BatchClosed):
        batches.hold_open(session, batch_id, owner_id=owner_id)


def test_closing_waits_for_a_file_that_is_being_added(sessions, make_batch, owner_id):
    batch_id = make_batch()
    with sessions() as adding, sessions() as closing:
        batches.hold_open(adding, batch_id, owner_id=owner_id)
        batch = batches.find(closing, batch_id, owner_id=owner_id)
        closing.connection().exec_driver_sql("SET lock_timeout = '100ms'")
        with pytest.raises(Exception, match="lock timeout"):
            batches.close(closing, batch)


def test_it_ends_once_when_it_is_closed_and_all_its_jobs_have(
    sessions, make_batch, make_job, end, owner_id
):
    batch_id = make_batch()
    job = make_job(batch_id=batch_id)
    assert end() == []
    with sessions.begin() as session:
        batches.close(session, batches.find(session, batch_id, owner_id=owner_id))
    assert end() == []
    with sessions.begin() as session:
        lifecycle.cancel(session, job.id)

    assert end() == [batch_id]
    assert end() == []


def test_one_that_was_closed_empty_ends(make_batch, end):
    batch_id = make_batch(closed=True)

    assert end() == [batch_id]


def test_one_that_is_open_goes_on(make_batch, end):
    make_batch()

    assert end() == []


@pytest.mark.parametrize("callback_url", [None, "https://caller.test/x"])
def test_whoever_wants_to_hear_of_its_end_is_told(
    sessions, make_batch, make_job, end, owner_id, callback_url
):
    with sessions.begin() as session:
        other = auth.owner_id(session, "stranger")
        wanting = [
            Webhook(owner_id=owner_id, url="https://a.test/", events=["batch.ended"]),
            Webhook(owner_id=owner_id, url=None, events=["batch.ended"]),
            Webhook(owner_id=owner_id, url="https://b.test/", events=["job.failed"]),
            Webhook(owner_id=other, url="https://c.test/", events=["batch.ended"]),
        ]
        session.add_all(wanting)
        session.flush()
        ids = [webhook.id for webhook in wanting]
    batch_id = make_batch(callback_url=callback_url)
    job = make_job(batch_id=batch_id)
    with sessions.begin() as session:
        lifecycle.cancel(session, job.id)
        batches.close(session, batches.find(session, batch_id, owner_id=owner_id))
    end()
    with sessions() as session:
        query = select(WebhookDelivery).where(WebhookDelivery.event == "batch.ended")
        told = session.scalars(query).all()

    expected = {(ids[0], None)} | ({(ids[1], callback_url)} if callback_url else set())
    assert {(delivery.webhook_id, delivery.url) for delivery in told} == expected
    for delivery in told:
        assert delivery.data["batch_id"] == str(batch_id)
        assert delivery.data["jobs"] == {"completed": 0, "failed": 0, "cancelled": 1}


def test_one_that_is_retried_ends_again(sessions, make_batch, end, owner_id):
    batch_id = make_batch(closed=True)
    end()
    with sessions.begin() as session:
        batches.reopen(session, batches.find(session, batch_id, owner_id=owner_id))

    assert end() == [batch_id]


def test_old_ones_without_jobs_are_forgotten(sessions, make_batch, make_job):
    old, young, used = make_batch(), make_batch(), make_batch()
    make_job(batch_id=used)
    with sessions.begin() as session:
        session.execute(
            update(Batch)
            .where(Batch.id.in_((old, used)))
            .values(created_at=func.now() - timedelta(days=8))
        )
        batches.forget_empty(session)

    with sessions() as session:
        assert set(session.scalars(select(Batch.id))) == {young, used}
        assert session.scalar(select(func.count(Owner.id)))
