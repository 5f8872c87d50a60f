"""Deleting the oldest events, so that the chain can still be followed from where it begins then.

What goes is named first, by an event of its own: the last seal that goes, which is what the chain
begins after. The trigger lets nothing go that no such event names, and nothing that is younger
than ``SHORTEST``, whoever asks.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from audit import chain
from audit.chain import Head
from audit.events import MAINTENANCE, record
from models import AuditAction, AuditEvent

#: The trigger has it too: see the migration.
SHORTEST: Final = timedelta(days=30)
#: Deleted in one transaction.
BATCH: Final = 5000


def may_prune(session: Session) -> bool:
    """Whether the database lets this role do so: its owner decides, as it migrates."""
    allowed = func.has_function_privilege("prune_audit_events(bigint)", "EXECUTE")
    return bool(session.scalar(select(allowed)))


def prune(session: Session, *, keep: timedelta) -> int:
    """Delete events that are older, a batch of them from the front; returns how many.

    Args:
        keep: ``SHORTEST`` or longer.
    """
    if not chain.hold(session):
        return 0
    front = (
        select(AuditEvent.position, AuditEvent.sha256, AuditEvent.at)
        .where(AuditEvent.position.is_not(None))
        .order_by(AuditEvent.position)
        .limit(BATCH)
        .subquery()
    )
    # an older one behind a younger one stays until that goes: only whole fronts are cut off
    younger = select(func.min(front.c.position)).where(front.c.at >= func.now() - keep)
    last = session.execute(
        select(front.c.position, front.c.sha256)
        .where(front.c.position < func.coalesce(younger.scalar_subquery(), 2**62))
        .order_by(front.c.position.desc())
        .limit(1)
    ).first()
    if last is None:
        return 0
    end = Head(last.position, bytes(last.sha256))
    detail = {"position": end.position, "sha256": end.sha256.hex()}
    record(session, MAINTENANCE, AuditAction.AUDIT_PRUNED, detail=detail)
    return session.scalar(select(func.prune_audit_events(end.position))) or 0
