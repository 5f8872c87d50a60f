"""The chain: each event's seal is the SHA-256 of the seal before it and of the event.

Sealing is done by one process at a time, whichever holds the lock, and no request waits for it.
Until a row is sealed a trigger guards it, and after that the chain too: whoever gets past the
trigger cannot change, take out or reorder a row without every later seal being wrong. He could
compute them all anew, or cut the end off: what tells then is a head that was noted elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, timedelta
from enum import StrEnum
from typing import Any, Final, Self

from sqlalchemy import bindparam, cast, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.orm import Session
from sqlalchemy.types import BigInteger, LargeBinary

from errors import InvalidRequest
from models import AuditAction, AuditEvent

#: Held by whoever seals or prunes.
LOCK: Final = 0x5354_5402
#: Sealed in one transaction.
BATCH: Final = 500
#: Read at once by whoever verifies.
PAGE: Final = 2000
#: What comes before the first event.
NOTHING: Final = bytes(32)
#: Maintenance seals within seconds; a row that waited so long says that nobody seals.
LATE: Final = timedelta(minutes=10)
#: Columns that are the seal.
SEAL: Final = ("position", "sha256")
HEAD: Final = re.compile(r"(\d{1,18}):([0-9a-f]{64})")

SEAL_ROWS: Final = text("""
SELECT seal_audit_events(:ids, :positions, :digests)
""").bindparams(
    bindparam("ids", type_=ARRAY(UUID(as_uuid=True))),
    bindparam("positions", type_=ARRAY(BigInteger)),
    bindparam("digests", type_=ARRAY(LargeBinary)),
)


#: The triggers that are on.
GUARDS: Final = text("""
SELECT tgname
  FROM pg_trigger
 WHERE tgrelid = CAST('audit_events' AS regclass)
   AND NOT tgisinternal
   AND tgenabled IN ('O', 'A')
""")


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain: how many events it has had, and the last one's seal."""

    position: int
    sha256: bytes

    @classmethod
    def parse(cls, said: str) -> Self:
        """Read what ``str`` writes.

        Raises:
            InvalidRequest: It is nothing of the kind.
        """
        found = HEAD.fullmatch(said.strip())
        if found is None:
            raise InvalidRequest("A head is a number, a colon and 64 hexadecimal digits.")
        return cls(int(found[1]), bytes.fromhex(found[2]))

    def __str__(self) -> str:
        return f"{self.position}:{self.sha256.hex()}"


BEGINNING: Final = Head(0, NOTHING)


def canonical(event: AuditEvent, position: int) -> bytes:
    """What is sealed of an event: all of it, in one form.

    What is NULL is left out, so that a column that comes later breaks no seal.
    """
    told: dict[str, Any] = {"position": position}
    for column in AuditEvent.__table__.columns:
        value = getattr(event, column.name)
        if value is not None and column.name not in SEAL:
            told[column.name] = value
    told["at"] = event.at.astimezone(UTC).isoformat(timespec="microseconds")
    return json.dumps(told, sort_keys=True, separators=(",", ":"), default=str).encode("ascii")


def seal_of(event: AuditEvent, before: Head) -> Head:
    """The seal of the event that follows."""
    position = before.position + 1
    digest = hashlib.sha256(before.sha256 + canonical(event, position)).digest()
    return Head(position, digest)


# Sealing


def hold(session: Session) -> bool:
    """Take the chain's lock until the end of the transaction; False if somebody has it."""
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(LOCK))))


def seal(session: Session) -> int:
    """Seal the events that wait, a batch of them; returns how many.

    Those are none while another process is at it.
    """
    if not hold(session):
        return 0
    waiting = session.scalars(
        select(AuditEvent).where(AuditEvent.position.is_(None)).order_by(AuditEvent.id).limit(BATCH)
    ).all()
    if not waiting:
        return 0
    at, seals = head(session), []
    for event in waiting:
        at = seal_of(event, at)
        seals.append((event.id, at))
    session.execute(
        SEAL_ROWS,
        {
            "ids": [event_id for event_id, _ in seals],
            "positions": [sealed.position for _, sealed in seals],
            "digests": [sealed.sha256 for _, sealed in seals],
        },
    )
    return len(seals)


def head(session: Session) -> Head:
    """The end of the chain, which may be where it begins: everything before was pruned."""
    row = session.execute(
        select(AuditEvent.position, AuditEvent.sha256)
        .where(AuditEvent.position.is_not(None))
        .order_by(AuditEvent.position.desc())
        .limit(1)
    ).first()
    return start(session) if row is None else Head(row.position, bytes(row.sha256))


# Verifying


class Fault(StrEnum):
    """What is wrong with the chain."""

    CHANGED = "changed"  #: An event, its seal or the one before is not what was sealed.
    MISSING = "missing"  #: Events were taken out.
    CUT = "cut"  #: The end is not, or no longer, what a head says that it was.
    UNSEALED = "unsealed"  #: Nobody seals.
    UNGUARDED = "unguarded"  #: The triggers are off or gone.
    PRUNED = "pruned"  #: It does not begin at its beginning, and nobody is to prune it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Where a chain is broken first."""

    fault: Fault
    position: int
    event_id: uuid.UUID | None = None

    def __str__(self) -> str:
        return f"{self.fault} at {self.position}" if self.position else str(self.fault)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of verifying a chain."""

    #: Events that were looked at, up to the first that is broken.
    events: int
    #: Where the chain begins: at nothing, or after what was last pruned.
    start: Head
    head: Head
    #: Events that wait to be sealed.
    waiting: int
    broken: Broken | None


def verify(session: Session, heads: Iterable[Head] = (), *, may_be_pruned: bool = True) -> Verdict:
    """Follow the chain from its first event to its last.

    Args:
        heads: Ends that it had at some time, as noted elsewhere.
        may_be_pruned: Whether old events are deleted here at all. Whoever has the service's
            password can say that they were, once they are old enough for the trigger.
    """
    wanted = {noted.position: noted for noted in heads}
    at = first = start(session)
    broken: Broken | None = None
    for event in _sealed(session):
        found, broken = _look(event, at)
        if broken is None and _differs(found, wanted.pop(found.position, found)):
            broken = Broken(fault=Fault.CUT, position=found.position, event_id=event.id)
        if broken is not None:
            break
        at = found
    waiting, late = _waiting(session)
    if broken is None:
        broken = _beyond(first, at, wanted) or late
    if broken is None and not is_guarded(session):
        broken = Broken(fault=Fault.UNGUARDED, position=0)
    if broken is None and first.position and not may_be_pruned:
        broken = Broken(fault=Fault.PRUNED, position=first.position)
    events = at.position - first.position
    return Verdict(events=events, start=first, head=at, waiting=waiting, broken=broken)


def follow(session: Session, after: Head, *, limit: int) -> tuple[Head, Broken | None]:
    """Follow the chain for some events; returns the last that is right, and what is wrong then."""
    events = session.scalars(
        select(AuditEvent)
        .where(AuditEvent.position > after.position)
        .order_by(AuditEvent.position)
        .limit(limit)
    )
    at = after
    for event in events:
        at, broken = _look(event, at)
        if broken is not None:
            return at, broken
    return at, None


def has(session: Session, noted: Head, first: Head) -> bool:
    """Whether a head that the chain had is still in it, or was pruned since.

    Args:
        first: Where the chain begins: ``start``.
    """
    if noted.position < first.position:
        return True
    if noted.position == first.position:
        return noted == first
    found = session.scalar(select(AuditEvent.sha256).where(AuditEvent.position == noted.position))
    return found is not None and bytes(found) == noted.sha256


def _look(event: AuditEvent, before: Head) -> tuple[Head, Broken | None]:
    position = event.position or 0
    expected = seal_of(event, before)
    if position != expected.position:
        return before, Broken(fault=Fault.MISSING, position=expected.position, event_id=event.id)
    if bytes(event.sha256 or b"") != expected.sha256:
        return before, Broken(fault=Fault.CHANGED, position=position, event_id=event.id)
    return expected, None


def _differs(found: Head, noted: Head) -> bool:
    return found.sha256 != noted.sha256


def _beyond(start: Head, end: Head, noted: dict[int, Head]) -> Broken | None:
    """Heads that no event was found for: beyond the end, or where the chain begins now."""
    for position in sorted(noted):
        known = {0: NOTHING, start.position: start.sha256}.get(position)
        if position > end.position or (known is not None and known != noted[position].sha256):
            return Broken(fault=Fault.CUT, position=position)
    return None


def _sealed(session: Session) -> Iterator[AuditEvent]:
    """All sealed events in the chain's order; a page at a time, so that memory has an end."""
    last = 0
    while True:
        page = session.scalars(
            select(AuditEvent)
            .where(AuditEvent.position > last)
            .order_by(AuditEvent.position)
            .limit(PAGE)
        ).all()
        yield from page
        if len(page) < PAGE:
            return
        last = page[-1].position or 0
        session.expunge_all()


def _waiting(session: Session) -> tuple[int, Broken | None]:
    count, late = session.execute(
        select(
            func.count(),
            func.count().filter(AuditEvent.at < func.now() - LATE),
        ).where(AuditEvent.position.is_(None))
    ).one()
    return count, Broken(fault=Fault.UNSEALED, position=0) if late else None


def start(session: Session) -> Head:
    """Where the chain begins: at nothing, or after what was pruned.

    An event that tells of pruning counts only where it fits, so that one more confuses nobody.
    """
    first = session.scalar(select(func.min(AuditEvent.position)))
    if first == 1:
        return BEGINNING
    position = cast(AuditEvent.detail["position"].astext, BigInteger)
    told = select(AuditEvent.detail).where(AuditEvent.action == AuditAction.AUDIT_PRUNED)
    if first is not None:
        told = told.where(position < first)
    # of two that say the same, the one that was sealed first was there first
    pruned = session.scalar(
        told.order_by(position.desc(), AuditEvent.position.nulls_last()).limit(1)
    )
    return BEGINNING if pruned is None else Head.parse(f"{pruned['position']}:{pruned['sha256']}")


def begins_after(session: Session, first: Head) -> bool:
    """Whether no event is missing between where the chain begins, by ``start``, and its first."""
    found = session.scalar(select(func.min(AuditEvent.position)))
    return found in {None, first.position + 1}


def is_guarded(session: Session) -> bool:
    return set(session.scalars(GUARDS)) == {"audit_events_guard", "audit_events_guard_all"}
