"""Jobs, webhooks on a real database, and receivers on loopback that note what they are sent."""

import itertools
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from models import Webhook, WebhookDelivery
from outgoing import Outgoing
from tests.jobs.conftest import engine, make_job, owner_id, sessions
from tests.outgoing.conftest import serve
from tests.outgoing.servers import LOOPBACK, PATIENT, Caller, Serve, Server
from webhooks import endpoints
from webhooks.endpoints import NewWebhook
from webhooks.sender import Sender
from webhooks.signing import Secrets

__all__ = ["engine", "make_job", "owner_id", "serve", "sessions"]

KEY = "a service's key for the tests alone"

MakeWebhook = Callable[..., Webhook]


@dataclass(frozen=True)
class Message:
    """What a receiver was sent."""

    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """A server that answers each call with the next status; with the last for ever."""

    server: Server
    statuses: list[int] = field(default_factory=lambda: [204])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/hook"

    @property
    def messages(self) -> list[Message]:
        return [message_of(request) for request in self.server.requests]


def message_of(request: bytes) -> Message:
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")[1:]
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Message(headers, body.decode())


@pytest.fixture
def receive(serve: Serve) -> Callable[..., Receiver]:
    def start(*statuses: int, headers: str = "") -> Receiver:
        answers = itertools.chain(statuses or (204,), itertools.repeat((statuses or (204,))[-1]))

        def answer(caller: Caller) -> None:
            head = f"HTTP/1.1 {next(answers)} Whatever\r\n{headers}Content-Length: 0\r\n\r\n"
            caller.send(head.encode())

        return Receiver(serve(answer))

    return start


@pytest.fixture
def make_webhook(sessions: sessionmaker[Session], owner_id: uuid.UUID) -> MakeWebhook:
    def make(url: str | None = "https://receiver.test/", **values: Any) -> Webhook:
        owner = values.pop("owner_id", owner_id)
        with sessions.begin() as session:
            return endpoints.create(session, owner, NewWebhook(url=url, **values))

    return make


@pytest.fixture
def deliveries_of(sessions: sessionmaker[Session]) -> Callable[[], list[WebhookDelivery]]:
    def read() -> list[WebhookDelivery]:
        with sessions() as session:
            query = select(WebhookDelivery).order_by(WebhookDelivery.created_at)
            return list(session.scalars(query))

    return read


@pytest.fixture
def make_sender(sessions: sessionmaker[Session]) -> Iterator[Callable[..., Sender]]:
    made = []

    def make(*ports: int, retry_seconds: float = 0.0) -> Sender:
        outgoing = Outgoing(allow=LOOPBACK, allow_http=True, ports=ports, limits=PATIENT)
        sender = Sender(sessions, outgoing, Secrets(KEY), retry_seconds=retry_seconds)
        made.append(sender)
        return sender

    yield make
    for sender in made:
        sender.close(60)
