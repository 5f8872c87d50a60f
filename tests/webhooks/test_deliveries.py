"""Deliveries on a real database: what adds them, who takes them, what is noted."""

import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text, update

from api.webhook_schemas import JobEnded, Message
from errors import ConflictError, NotFound
from jobs import deletion, lifecycle
from jobs.lifecycle import Redrive
from models import DeletedBy, DeliveryStatus, Owner, Webhook, WebhookDelivery
from webhooks import deliveries, endpoints
from webhooks.deliveries import REMEMBERED, Tried
from webhooks.verdicts import Verdict

DELIVERED = Verdict(status=DeliveryStatus.DELIVERED)
AGAIN = Verdict(status=DeliveryStatus.PENDING)
LATER = Verdict(status=DeliveryStatus.PENDING, pause_seconds=3600)
GIVEN_UP = Verdict(status=DeliveryStatus.FAILED)


def tried(status=200):
    return Tried(at=datetime.now(UTC), seconds=0.1, status=status)


@pytest.fixture
def claim(sessions):
    def take(limit=10, each=10, busy=()):
        with sessions.begin() as session:
            return deliveries.claim(session, limit=limit, each=each, busy=busy)

    return take


@pytest.fixture
def note(sessions):
    def write(due, verdict, outcome=None):
        with sessions.begin() as session:
            return deliveries.note(session, due, outcome or tried(), verdict)

    return write


# What adds them


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_the_end_of_a_job_adds_one(make_webhook, make_job, deliveries_of, status):
    webhook = make_webhook()
    job = make_job(status)
    (only,) = deliveries_of()

    assert (only.webhook_id, only.event, only.job_id) == (webhook.id, f"job.{status}", job.id)
    assert (only.data["job_id"], only.data["status"]) == (str(job.id), status)
    assert (only.data["failure_reason"] is None) == (status != "failed")


@pytest.mark.parametrize("status", ["pending", "delayed", "processing", "cancelling"])
def test_nothing_else_does(make_webhook, make_job, deliveries_of, status):
    make_webhook()
    make_job(status)

    assert deliveries_of() == []


def test_an_end_that_is_rolled_back_was_none(sessions, make_webhook, make_job, deliveries_of):
    make_webhook()
    job = make_job()
    with sessions() as session:
        lifecycle.cancel(session, job.id)
        session.rollback()

    assert deliveries_of() == []


def test_it_hears_of_what_it_asked_for(make_webhook, make_job, deliveries_of):
    make_webhook(events=["job.failed"])
    make_job("completed")
    make_job("failed")

    assert [delivery.event for delivery in deliveries_of()] == ["job.failed"]


def test_a_job_that_ends_twice_is_told_of_twice(sessions, make_webhook, make_job, deliveries_of):
    make_webhook()
    job = make_job("failed")
    with sessions.begin() as session:
        lifecycle.redrive(session, [job.id], Redrive(max_attempts=3))
        lifecycle.cancel(session, job.id)

    assert {delivery.event for delivery in deliveries_of()} == {"job.failed", "job.cancelled"}


@pytest.mark.security("authorisation", "a webhook for somebody else's jobs")
def test_nobody_hears_of_a_strangers_jobs(sessions, make_webhook, make_job, deliveries_of):
    stranger = Owner(name="bob")
    with sessions.begin() as session:
        session.add(stranger)
    make_webhook(owner_id=stranger.id)
    make_job("completed")

    assert deliveries_of() == []


# A job's own address


def test_a_jobs_own_address_is_told_by_the_webhook_for_callbacks(
    make_webhook, make_job, deliveries_of, claim
):
    callbacks = make_webhook(None)
    make_job("completed", callback_url="https://receiver.test/of-the-job")
    make_job("completed")
    (only,) = deliveries_of()
    (due,) = claim()

    assert only.webhook_id == callbacks.id
    assert (due.url, due.is_callback) == ("https://receiver.test/of-the-job", True)


def test_beside_it_all_others_are_told(make_webhook, make_job, claim):
    make_webhook(None)
    make_webhook("https://receiver.test/every")
    make_job("completed", callback_url="https://receiver.test/own")

    assert {due.url for due in claim()} == {
        "https://receiver.test/every",
        "https://receiver.test/own",
    }


# Taking them


def test_a_body_says_what_happened_and_what_the_client_said(make_webhook, make_job, claim):
    make_webhook()
    job = make_job("failed", client_metadata={"order": 7})
    (due,) = claim()
    body = json.loads(due.body)

    assert body["type"] == due.event == "job.failed"
    assert datetime.fromisoformat(body["timestamp"]) == due.created_at
    assert body["data"].keys() == {
        "audio_seconds",
        "completed_at",
        "created_at",
        "error_code",
        "failure_reason",
        "job_id",
        "metadata",
        "status",
    }
    assert body["data"]["job_id"] == str(job.id)
    assert body["data"]["metadata"] == {"order": 7}


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_body_is_as_the_document_says(sessions, make_webhook, make_job, claim, status):
    webhook = make_webhook()
    job = make_job(status)
    with sessions.begin() as session:
        deliveries.test(session, webhook)
    told = {due.event: Message.model_validate_json(due.body) for due in claim()}
    document = Message.model_json_schema()

    assert told[f"job.{status}"].data.model_dump()["job_id"] == job.id
    assert told["webhook.test"].data.model_dump()["webhook_id"] == webhook.id
    assert {*told} <= {*document["properties"]["type"]["enum"]}


def test_a_body_says_nothing_that_is_not_in_the_document(make_webhook, make_job, claim):
    make_webhook()
    make_job("failed")
    (due,) = claim()
    body = json.loads(due.body)

    assert body.keys() == {*Message.model_fields}
    assert body["data"].keys() == {*JobEnded.model_fields}


def test_a_body_is_short(make_webhook, make_job, claim):
    make_webhook()
    make_job("completed", client_metadata={"x": "é" * 8_000})
    (due,) = claim()

    assert len(due.body.encode()) < 20_000


def test_whoever_takes_one_has_it(make_webhook, make_job, claim):
    make_webhook()
    make_job("completed")

    assert len(claim()) == 1
    assert claim() == []


def test_two_senders_share(sessions, make_webhook, make_job):
    make_webhook()
    for _ in range(4):
        make_job("completed")
    with sessions() as first, sessions() as second:
        one = deliveries.claim(first, limit=2, each=2, busy=())
        other = deliveries.claim(second, limit=9, each=9, busy=())

    assert not {due.id for due in one} & {due.id for due in other}
    assert len(one) == len(other) == 2


def test_what_died_with_its_sender_is_taken_again(sessions, make_webhook, make_job, claim, note):
    make_webhook()
    make_job("completed")
    (lost,) = claim()
    with sessions.begin() as session:
        ago = {"not_before": datetime.now(UTC) - timedelta(seconds=1)}
        session.execute(update(WebhookDelivery).values(ago))
    (again,) = claim()

    assert (again.id, again.attempt) == (lost.id, lost.attempt + 1)
    assert not note(lost, DELIVERED)
    assert note(again, DELIVERED)


def test_of_each_webhook_a_few_are_taken(make_webhook, make_job, claim):
    for _ in range(3):
        make_webhook()
    for _ in range(5):
        make_job("completed")
    taken = [due.webhook_id for due in claim(limit=20, each=2)]

    assert sorted(taken.count(webhook_id) for webhook_id in {*taken}) == [2, 2, 2]


def test_of_a_busy_webhook_none_is(make_webhook, make_job, claim):
    busy, free = make_webhook(), make_webhook()
    make_job("completed")

    assert [due.webhook_id for due in claim(busy=[busy.id])] == [free.id]


def test_what_is_due_first_goes_first(make_webhook, make_job, claim):
    make_webhook()
    jobs = [make_job("completed").id for _ in range(5)]
    taken = [json.loads(due.body)["data"]["job_id"] for _ in jobs for due in claim(limit=1)]

    assert taken == [str(job_id) for job_id in jobs]


# Noting how they ended


def test_what_came_through_is_not_tried_again(sessions, make_webhook, make_job, claim, note):
    webhook = make_webhook()
    make_job("completed")
    (due,) = claim()
    note(due, DELIVERED)
    with sessions() as session:
        found = session.get_one(WebhookDelivery, due.id)

        assert (found.status, found.tries[0]["status"]) == ("delivered", 200)
        assert session.get_one(Webhook, webhook.id).delivered_at is not None
    assert claim() == []


def test_a_failed_try_is_made_again_under_the_same_id(make_webhook, make_job, claim, note):
    make_webhook()
    make_job("completed")
    (first,) = claim()
    note(first, AGAIN, tried(500))
    (second,) = claim()

    assert (second.id, second.body) == (first.id, first.body)
    assert (first.round_number, second.round_number) == (1, 2)


def test_it_waits_for_its_pause(make_webhook, make_job, claim, note):
    make_webhook()
    make_job("completed")
    (due,) = claim()
    note(due, LATER)

    assert claim() == []


def test_the_last_tries_are_remembered(make_webhook, make_job, claim, note, deliveries_of):
    make_webhook()
    make_job("completed")
    for number in range(REMEMBERED + 3):
        (due,) = claim()
        note(due, AGAIN, tried(500 + number))
    (found,) = deliveries_of()

    assert [each["status"] for each in found.tries] == [500 + n for n in range(3, REMEMBERED + 3)]


# Asking for them


def test_a_test_is_sent_like_any_other(sessions, make_webhook, claim):
    webhook = make_webhook()
    with sessions.begin() as session:
        made = deliveries.test(session, webhook)
    (due,) = claim()

    assert (due.id, due.event) == (made.id, "webhook.test")


def test_there_is_nobody_to_test_callbacks_with(sessions, make_webhook):
    webhook = make_webhook(None)
    with sessions() as session, pytest.raises(ConflictError):
        deliveries.test(session, webhook)


@pytest.mark.parametrize("verdict", [DELIVERED, GIVEN_UP, LATER])
def test_one_is_sent_again_from_the_first_pause(
    sessions, make_webhook, make_job, claim, note, verdict
):
    webhook = make_webhook()
    make_job("completed")
    (first,) = claim()
    note(first, verdict)
    with sessions.begin() as session:
        deliveries.resend(session, webhook, first.id)
    (second,) = claim()

    assert (second.id, second.attempt, second.round_number) == (first.id, 2, 1)


def test_what_is_disabled_sends_nothing(sessions, make_webhook, make_job, claim):
    webhook = make_webhook()
    make_job("completed")
    (due,) = claim()
    with sessions.begin() as session:
        endpoints.disable(session, webhook.id, reason="client")
        session.expire_all()
        found = endpoints.find(session, webhook.id, owner_id=None)
        for ask in (
            lambda: deliveries.test(session, found),
            lambda: deliveries.resend(session, found, due.id),
        ):
            with pytest.raises(ConflictError):
                ask()


def test_another_webhooks_delivery_is_none(sessions, make_webhook, make_job, claim):
    make_webhook()
    make_job("completed")
    (due,) = claim()
    other = make_webhook()
    with sessions() as session:
        for nobody in (due.id, uuid.uuid4()):
            with pytest.raises(NotFound):
                deliveries.resend(session, other, nobody)


# What is left of them


def test_old_ones_are_deleted_and_those_that_wait_are_not(
    sessions, make_webhook, make_job, claim, note, deliveries_of
):
    make_webhook()
    for _ in range(3):
        make_job("completed")
    old, young, _ = claim()
    note(old, DELIVERED)
    note(young, GIVEN_UP)
    with sessions.begin() as session:
        ago = text("UPDATE webhook_deliveries SET ended_at = now() - interval '31 days'")
        session.execute(text(f"{ago} WHERE id = :id"), {"id": old.id})
    with sessions.begin() as session:
        assert deliveries.prune(session) == 1

    assert old.id not in {delivery.id for delivery in deliveries_of()}
    assert len(deliveries_of()) == 2


def test_deleting_a_job_leaves_what_is_still_to_be_told(
    sessions, make_webhook, make_job, claim, note, deliveries_of
):
    make_webhook()
    make_webhook()
    job = make_job("completed", client_metadata={"order": "a secret"})
    told, _ = claim()
    note(told, DELIVERED)
    with sessions.begin() as session:
        deletion.delete(session, [job.id], by=DeletedBy.CLIENT)
        session.execute(update(WebhookDelivery).values(not_before=datetime.now(UTC)))
    (left,) = deliveries_of()
    (due,) = claim()

    assert left.id == due.id != told.id
    assert "a secret" not in due.body
