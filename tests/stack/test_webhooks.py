"""Webhooks of a service that works: told of real jobs, whatever is killed."""

import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from openai import OpenAI
from sqlalchemy import func, select, update
from standardwebhooks import Webhook as Verifier

from models import WebhookDelivery
from tests.outgoing.conftest import serve
from tests.outgoing.servers import Caller, Serve
from tests.recordings import SAMPLES
from tests.stack.conftest import Stack, wait_for
from tests.webhooks.conftest import Receiver, receive

__all__ = ["receive", "serve"]

pytestmark = [pytest.mark.stack, pytest.mark.model]

KEY = "an-operators-own-words"
SHORT = SAMPLES / "digits-en.wav"
ANY_RECEIVER = {
    "OUTGOING_ALLOWED_NETWORKS": "127.0.0.0/8",
    "OUTGOING_ALLOW_HTTP": "true",
    "WEBHOOK_RETRY_SECONDS": "0.05",
}


class Service:
    """A service over HTTP."""

    def __init__(self, stack: Stack, *ports: int) -> None:
        self.stack = stack
        self.stack.environment |= {**ANY_RECEIVER, "OUTGOING_PORTS": ",".join(map(str, ports))}
        _, url = stack.web(API_KEYS=KEY)
        self.client = httpx2.Client(
            base_url=url, headers={"X-API-Key": KEY}, timeout=60, trust_env=False
        )
        wait_for(self._is_ready, "the web process answers")

    def _is_ready(self) -> bool:
        try:
            return self.client.get("/ready").is_success
        except httpx2.HTTPError:
            return False

    def make(self, **wanted: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.client.post("/webhooks", json=wanted).raise_for_status().json()
        self.stack.secrets.add(made["secret"])
        return made

    def submit(self, **data: str) -> str:
        with SHORT.open("rb") as recording:
            answer = self.client.post("/transcribe", files={"file": recording}, data=data)
        job_id: str = answer.raise_for_status().json()["job_id"]
        return job_id

    def deliveries(self, webhook: dict[str, Any]) -> list[dict[str, Any]]:
        answer = self.client.get(f"/webhooks/{webhook['id']}/deliveries")
        found: list[dict[str, Any]] = answer.raise_for_status().json()["deliveries"]
        return found


@pytest.fixture
def receiver(receive: Any) -> Receiver:
    made: Receiver = receive()
    return made


@pytest.fixture
def service(stack: Stack, receiver: Receiver) -> Iterator[Service]:
    made = Service(stack, receiver.server.port)
    yield made
    made.client.close()


def test_a_transcribed_job_is_told_of(service: Service, stack: Stack, receiver: Receiver) -> None:
    stack.worker()
    sender = stack.webhooks()
    webhook, callbacks = service.make(url=receiver.url), service.make()
    job_id = service.submit(callback_url=receiver.url, metadata='{"order": 7}')
    wait_for(lambda: len(receiver.messages) == 2, "both have been told")
    said = []
    for message in receiver.messages:
        for secret in (webhook["secret"], callbacks["secret"]):
            try:
                said.append(Verifier(secret).verify(message.text, message.headers))
            except Exception:  # noqa: BLE001, S112 - it is the other's
                continue
            OpenAI(api_key="none").webhooks.verify_signature(
                message.text, message.headers, secret=secret
            )
    result = service.client.get(f"/jobs/{job_id}/result?format=txt")
    sender.signal(signal.SIGTERM)

    assert [(each["type"], each["data"]["job_id"]) for each in said] == 2 * [
        ("job.completed", job_id)
    ]
    assert {each["data"]["metadata"]["order"] for each in said} == {7}
    assert result.is_success
    assert result.text.strip() not in "".join(message.text for message in receiver.messages)
    assert sender.wait() == 0


def test_what_happened_while_nobody_sent_is_told_later(
    service: Service, stack: Stack, receiver: Receiver
) -> None:
    service.make(url=receiver.url)
    jobs = [service.submit() for _ in range(5)]
    for job_id in jobs:
        service.client.post(f"/jobs/{job_id}/cancel").raise_for_status()
    stack.webhooks()
    wait_for(lambda: len(receiver.messages) == len(jobs), "all are told of")

    assert {message.body["data"]["job_id"] for message in receiver.messages} == {*jobs}
    assert {message.body["type"] for message in receiver.messages} == {"job.cancelled"}


def test_a_call_that_died_with_its_sender_is_made_again(
    stack: Stack, serve: Serve, receiver: Receiver
) -> None:
    begun = threading.Event()

    def hang(caller: Caller) -> None:
        begun.set()
        caller.hang()

    slow = Receiver(serve(hang))
    service = Service(stack, slow.server.port, receiver.server.port)
    webhook = service.make(url=slow.url)
    service.client.post(f"/webhooks/{webhook['id']}/test").raise_for_status()
    first = stack.webhooks()
    assert begun.wait(60)
    first.kill()
    service.client.patch(f"/webhooks/{webhook['id']}", json={"url": receiver.url})
    with stack.sessions.begin() as session:
        # as if a minute had passed, after which a try is taken for lost
        session.execute(update(WebhookDelivery).values(not_before=func.now()))
    second = stack.webhooks()
    wait_for(lambda: receiver.messages, "it is told again")
    (delivery,) = wait_for(
        lambda: [d for d in service.deliveries(webhook) if d["status"] == "delivered"],
        "it is noted",
    )
    service.client.close()

    assert receiver.messages[0].id == slow.messages[0].id == delivery["id"]
    assert second.popen.poll() is None


def test_two_senders_tell_each_event_once(
    service: Service, stack: Stack, receiver: Receiver
) -> None:
    service.make(url=receiver.url)
    jobs = [service.submit() for _ in range(20)]
    for _ in range(2):
        stack.webhooks()
    for job_id in jobs:
        service.client.post(f"/jobs/{job_id}/cancel").raise_for_status()

    def ended() -> bool:
        with stack.sessions() as session:
            statuses = session.scalars(select(WebhookDelivery.status)).all()
        return [*statuses] == ["delivered"] * len(jobs)

    wait_for(ended, "all have come through")

    assert len(receiver.messages) == len(jobs)


def test_a_process_that_sends_is_known_to_operators(service: Service, stack: Stack) -> None:
    sender = stack.webhooks()

    def roles() -> set[str]:
        health = service.client.get("/admin/health").json()
        return {worker["role"] for worker in health["workers"]}

    wait_for(lambda: "webhooks" in roles(), "it is shown")
    sender.signal(signal.SIGTERM)
    assert sender.wait() == 0
    wait_for(lambda: "webhooks" not in roles(), "it took leave")
