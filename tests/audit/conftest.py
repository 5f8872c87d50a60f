"""A table of audit events on real PostgreSQL, and ways past what guards it."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from audit import chain
from audit.events import CLI, record
from models import AuditAction

Add = Callable[..., None]
Tamper = Callable[..., None]


@pytest.fixture
def engine(emptied_engine: Engine) -> Engine:
    return emptied_engine


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
def add(sessions: sessionmaker[Session]) -> Add:
    """Add events, each in a transaction of its own."""

    def events(count: int = 1, action: AuditAction = AuditAction.QUEUE_PAUSED) -> None:
        for number in range(count):
            with sessions.begin() as session:
                record(session, CLI, action, detail={"number": number, "queues": ["high"]})

    return events


@pytest.fixture
def seal(sessions: sessionmaker[Session]) -> Callable[[], int]:
    def all_of_them() -> int:
        sealed = 0
        while True:
            with sessions.begin() as session:
                found = chain.seal(session)
            sealed += found
            if not found:
                return sealed

    return all_of_them


@pytest.fixture
def tamper(sessions: sessionmaker[Session]) -> Tamper:
    """Run a statement past the trigger, as whoever owns the table can."""

    def run(statement: str, **values: object) -> None:
        with sessions.begin() as session:
            session.execute(text("ALTER TABLE audit_events DISABLE TRIGGER USER"))
            session.execute(text(statement), values)
            session.execute(text("ALTER TABLE audit_events ENABLE TRIGGER USER"))

    return run


@pytest.fixture
def verify(sessions: sessionmaker[Session]) -> Callable[..., chain.Verdict]:
    def now(*heads: chain.Head) -> chain.Verdict:
        with sessions() as session:
            return chain.verify(session, heads)

    return now


@pytest.fixture
def head(sessions: sessionmaker[Session]) -> Callable[[], chain.Head]:
    def now() -> chain.Head:
        with sessions() as session:
            return chain.head(session)

    return now
