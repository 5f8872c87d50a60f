"""The sender, against receivers on loopback."""

import threading
import time
import uuid

import pytest
from sqlalchemy import func, select, update
from standardwebhooks import Webhook as Verifier

from models import AuditEvent, Webhook
from outgoing import Outgoing
from tests.outgoing.servers import Caller
from tests.stack.conftest import wait_for
from tests.webhooks.conftest import KEY, Receiver
from webhooks import endpoints, sender
from webhooks.sender import EACH, Sender
from webhooks.signing import Secrets
from webhooks.verdicts import PAUSES


@pytest.fixture
def send(make_sender, deliveries_of):
    """Run a sender until as many deliveries have ended as there are, or some were tried."""

    def run(*receivers, until=None, **values):
        made = make_sender(*(receiver.server.port for receiver in receivers), **values)

        def ended():
            made.run()
            found = deliveries_of()
            return found if all(map(until or (lambda each: each.ended_at), found)) else None

        return wait_for(ended, "all deliveries have ended")

    return run


@pytest.fixture
def webhook_of(sessions):
    def read(webhook_id: uuid.UUID) -> Webhook:
        with sessions() as session:
            found: Webhook = session.get_one(Webhook, webhook_id)
            return found

    return read


def test_the_receiver_is_told_and_can_tell_who_told_it(receive, send, make_webhook, make_job):
    receiver = receive()
    webhook = make_webhook(receiver.url)
    job = make_job("completed")
    (delivery,) = send(receiver)
    (message,) = receiver.messages
    verified = Verifier(Secrets(KEY).of(webhook.id, 1)).verify(message.text, message.headers)

    assert verified["data"]["job_id"] == str(job.id)
    assert (delivery.status, delivery.tries[0]["status"]) == ("delivered", 204)
    assert message.id == str(delivery.id)
    assert message.headers["content-type"] == "application/json"


def test_it_is_tried_until_it_comes_through_under_one_id(receive, send, make_webhook, make_job):
    receiver = receive(500, 302, 404, 200)
    make_webhook(receiver.url)
    make_job("completed")
    (delivery,) = send(receiver)

    assert [each["status"] for each in delivery.tries] == [500, 302, 404, 200]
    assert {message.id for message in receiver.messages} == {str(delivery.id)}
    assert delivery.status == "delivered"


def test_it_is_given_up_in_the_end_and_its_webhook_disabled(
    receive, send, make_webhook, make_job, webhook_of, sessions
):
    receiver = receive(500)
    webhook = make_webhook(receiver.url)
    make_job("completed")
    (delivery,) = send(receiver)
    with sessions() as session:
        events = session.scalars(select(AuditEvent)).all()

    assert (delivery.status, len(delivery.tries)) == ("failed", len(PAUSES) + 1)
    assert webhook_of(webhook.id).disabled_reason == "failing"
    assert [(event.action, event.actor) for event in events] == [("webhook_disabled", "webhooks")]


def test_one_that_something_came_through_to_since_stays(
    receive, send, make_webhook, make_job, webhook_of, sessions
):
    receiver = receive(500)
    webhook = make_webhook(receiver.url)
    make_job("completed")
    with sessions.begin() as session:
        session.execute(update(Webhook).values(delivered_at=func.now()))
    (delivery,) = send(receiver)

    assert delivery.status == "failed"
    assert webhook_of(webhook.id).disabled_at is None


def test_gone_is_believed_at_once(receive, send, make_webhook, make_job, webhook_of):
    receiver = receive(410)
    webhook = make_webhook(receiver.url)
    make_job("completed")
    (delivery,) = send(receiver)

    assert (delivery.status, len(delivery.tries)) == ("failed", 1)
    assert webhook_of(webhook.id).disabled_reason == "gone"


def test_a_jobs_own_address_that_is_gone_is_no_other_jobs_business(
    receive, send, make_webhook, make_job, webhook_of
):
    gone, there = receive(410), receive()
    webhook = make_webhook(None)
    make_job("completed", callback_url=gone.url)
    make_job("completed", callback_url=there.url)
    found = send(gone, there)

    assert {delivery.status for delivery in found} == {"failed", "delivered"}
    assert webhook_of(webhook.id).disabled_at is None


def test_nothing_is_sent_after_a_redirect(receive, send, make_webhook, make_job):
    secret_place = receive()
    receiver = receive(302, 200, headers=f"Location: {secret_place.url}\r\n")
    make_webhook(receiver.url)
    make_job("completed")
    send(receiver, secret_place)

    assert len(receiver.messages) == 2
    assert secret_place.messages == []


@pytest.mark.security("outgoing calls", "a webhook at an address of ours")
def test_an_address_that_may_not_be_called_is_not(
    receive, make_webhook, make_job, sessions, deliveries_of
):
    receiver = receive()
    make_webhook(receiver.url)
    make_job("completed")
    outgoing = Outgoing(allow_http=True, ports=(receiver.server.port,))
    strict = Sender(sessions, outgoing, Secrets(KEY), retry_seconds=3600)
    strict.run()
    strict.close(60)
    (delivery,) = deliveries_of()

    assert (delivery.status, delivery.tries[0]["error"]) == ("pending", "address_refused")
    assert receiver.messages == []


def test_nobody_listening_is_a_failed_try(serve, send, make_webhook, make_job):
    server = serve(b"")
    server.stop()
    make_webhook(Receiver(server).url)
    make_job("completed")
    found = send(Receiver(server), until=lambda each: each.tries, retry_seconds=3600)

    assert found[0].tries[0]["error"] == "connection"
    assert found[0].tries[0]["status"] is None


def test_after_a_rotation_both_secrets_verify(receive, send, make_webhook, make_job, sessions):
    receiver = receive()
    webhook = make_webhook(receiver.url)
    with sessions.begin() as session:
        found = endpoints.find(session, webhook.id, owner_id=None)
        endpoints.rotate(session, found, grace=endpoints.GRACE)
    make_job("completed")
    send(receiver)
    (message,) = receiver.messages
    for generation in (1, 2):
        Verifier(Secrets(KEY).of(webhook.id, generation)).verify(message.text, message.headers)


def test_a_slow_receiver_keeps_no_other_waiting(
    serve, receive, make_sender, make_webhook, make_job
):
    hanging = threading.Event()

    def hang(caller: Caller) -> None:
        hanging.set()
        caller.hang()

    slow, quick = Receiver(serve(hang)), receive()
    make_webhook(slow.url)
    make_webhook(quick.url)
    for _ in range(3 * sender.SLOTS):
        make_job("completed")
    made = make_sender(slow.server.port, quick.server.port)

    def all_came() -> bool:
        made.run()
        return len(quick.messages) == 3 * sender.SLOTS

    wait_for(all_came, "the quick one has heard of all")
    slow.server.stop()

    assert hanging.is_set()
    assert len(slow.messages) < 2 * EACH


def test_many_that_were_slow_share_a_few_calls(
    serve, receive, make_sender, make_webhook, make_job, deliveries_of, monkeypatch
):
    """Until they are quick again."""
    monkeypatch.setattr(sender, "SLOW_SECONDS", 1.0)
    lock, pauses, under_way = threading.Lock(), [0.0], [0]

    def answer(caller: Caller) -> None:
        with lock:
            under_way.append(under_way[-1] + 1)
        time.sleep(pauses[-1])
        with lock:
            under_way.append(under_way[-1] - 1)
        caller.send(b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n")

    slow, quick = Receiver(serve(answer)), receive()
    for _ in range(2 * sender.SLOW_SLOTS):
        make_webhook(slow.url)
    make_webhook(quick.url)
    made = make_sender(slow.server.port, quick.server.port)

    def all_ended() -> bool:
        made.run()
        return all(delivery.ended_at for delivery in deliveries_of())

    def most_at_once(pause: float) -> int:
        pauses.append(pause)
        under_way[:] = [0]
        jobs = [make_job("completed") for _ in range(2)]
        wait_for(all_ended, f"all have heard of {len(jobs)} jobs")
        return max(under_way)

    def again() -> bool:
        most_at_once(0.0)
        return most_at_once(1.2) > sender.SLOW_SLOTS

    assert most_at_once(1.2) > sender.SLOW_SLOTS
    assert most_at_once(1.2) <= sender.SLOW_SLOTS
    wait_for(again, "they are taken for quick ones again")


def test_what_is_under_way_at_the_end_is_waited_for(serve, make_sender, make_webhook, make_job):
    begun, go_on = threading.Event(), threading.Event()

    def answer(caller: Caller) -> None:
        begun.set()
        go_on.wait(60)
        caller.send(b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n")

    receiver = Receiver(serve(answer))
    make_webhook(receiver.url)
    make_job("completed")
    made = make_sender(receiver.server.port)
    made.run()
    assert begun.wait(60)
    closing = threading.Thread(target=made.close, args=(60,))
    closing.start()
    go_on.set()
    closing.join(60)
    made.run()

    assert not closing.is_alive()
    assert len(receiver.messages) == 1
