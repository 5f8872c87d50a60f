"""Sends what is due, many calls at once, and notes how each ended.

Several senders at once are safe; each takes what no other has.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.orm import Session

from audit.events import WEBHOOKS, record
from database import Sessions, get_db_session
from errors import OutgoingFailed, ServiceError
from models import AuditAction, DeliveryStatus, Webhook
from outgoing import Outgoing
from tallies import Tallies
from webhooks import deliveries, endpoints, signing
from webhooks.deliveries import Due, Tried
from webhooks.endpoints import Reason
from webhooks.signing import Secrets
from webhooks.verdicts import Verdict, judge

logger = logging.getLogger(__name__)

#: Calls at once, and of those to one webhook about: as many again may be taken before they are.
SLOTS: Final = 32
EACH: Final = 4
#: Of the calls, those to webhooks that were slow last time, one to each: many that hang, together,
#: are no reason for others to wait either.
SLOW_SLOTS: Final = 8
SLOW_SECONDS: Final = 5.0
#: One that was not called for so long is taken for as quick as any.
FORGET_SECONDS: Final = 600.0
#: Nothing is taken before one of them has ended, or this has passed.
POLL_SECONDS: Final = 0.5


class Sender:
    """Tries deliveries in threads of its own."""

    def __init__(
        self,
        sessions: Sessions,
        outgoing: Outgoing,
        secrets: Secrets,
        *,
        retry_seconds: float,
        tallies: Tallies | None = None,
    ) -> None:
        self._sessions = sessions
        self._outgoing = outgoing
        self._secrets = secrets
        self._retry_seconds = retry_seconds
        self._tallies = tallies or Tallies()
        self._pool = ThreadPoolExecutor(SLOTS, thread_name_prefix="webhook")
        self._ended = threading.Condition()
        self._closed = False
        #: Calls under way, by webhook.
        self._calls: Counter[uuid.UUID] = Counter()
        #: Webhooks that were slow last time, and when that was.
        self._slow: dict[uuid.UUID, float] = {}

    def run(self) -> None:
        """Take and try what is due until nothing is.

        Raises:
            DatabaseUnavailable: Try again later.
        """
        while self._has_room():
            if not self._take():
                return

    def close(self, timeout_seconds: float) -> None:
        """Take nothing new, and wait for the calls that are under way."""
        until = time.monotonic() + timeout_seconds
        with self._ended:
            self._closed = True
            self._ended.notify_all()
            while self._calls and (left := until - time.monotonic()) > 0:
                self._ended.wait(left)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _has_room(self) -> bool:
        with self._ended:
            if self._calls.total() >= SLOTS:
                self._ended.wait(POLL_SECONDS)
            return not self._closed and self._calls.total() < SLOTS

    def _take(self) -> bool:
        with self._ended:
            room = SLOTS - self._calls.total()
            busy = [webhook_id for webhook_id, calls in self._calls.items() if calls >= EACH]
            slow = self._remembered_as_slow()
            slow_room = SLOW_SLOTS - sum(self._calls[webhook_id] for webhook_id in slow)
            idle = [webhook_id for webhook_id in slow if not self._calls[webhook_id]]
        with get_db_session(self._sessions) as session:
            found = deliveries.claim(session, limit=room, each=EACH, busy=[*busy, *slow])
            left = min(room - len(found), slow_room)
            if idle and left > 0:
                found += deliveries.claim(session, limit=left, each=1, among=idle)
        with self._ended:
            self._calls.update(due.webhook_id for due in found)
        for due in found:
            self._pool.submit(self._deliver, due)
        return bool(found)

    def _remembered_as_slow(self) -> Collection[uuid.UUID]:
        since = time.monotonic() - FORGET_SECONDS
        self._slow = {each: at for each, at in self._slow.items() if at > since}
        return self._slow.keys()

    def _deliver(self, due: Due) -> None:
        try:
            self._try(due)
        except ServiceError as error:
            # it is tried again, when its time is over
            logger.warning("delivery not noted", extra=_named(due) | {"error": error.code})
        except Exception:
            logger.exception("delivery failed", extra=_named(due))
        finally:
            with self._ended:
                self._calls[due.webhook_id] -= 1
                self._calls += Counter()  # without those at 0
                self._ended.notify_all()

    def _try(self, due: Due) -> None:
        tried, verdict = self._call(due)
        answer = f"{tried.status // 100}xx" if tried.status else "none"
        self._tallies.add("webhook_tries", result=answer)
        self._tallies.observe("webhook_try_seconds", tried.seconds)
        with self._ended:
            self._slow.pop(due.webhook_id, None)
            if tried.seconds >= SLOW_SECONDS:
                self._slow[due.webhook_id] = time.monotonic()
        with get_db_session(self._sessions) as session:
            if not deliveries.note(session, due, tried, verdict):
                return
            reason = self._why_disable(session, due, verdict)
            if reason is not None:
                endpoints.disable(session, due.webhook_id, reason=reason)
                record(
                    session,
                    WEBHOOKS,
                    AuditAction.WEBHOOK_DISABLED,
                    webhook_id=due.webhook_id,
                    detail={"reason": reason},
                )
        said = {"status": tried.status, "error": tried.error, "try": due.round_number}
        logger.info("webhook tried", extra=_named(due) | said | {"delivery": str(verdict.status)})
        if reason is not None:
            logger.warning("webhook disabled", extra=_named(due) | {"reason": reason})

    def _call(self, due: Due) -> tuple[Tried, Verdict]:
        keys = [self._secrets.of(due.webhook_id, number) for number in due.generations]
        headers = {"content-type": "application/json", **signing.headers(due.id, due.body, keys)}
        at, began = datetime.now(UTC), time.monotonic()
        status, error, replied = None, None, {}
        try:
            reply = self._outgoing.post(due.url, due.body.encode(), headers)
        except OutgoingFailed as failure:
            error = str(failure.data.get("reason", failure.code))
        else:
            status, replied = reply.status, dict(reply.headers)
        tried = Tried(at=at, seconds=time.monotonic() - began, status=status, error=error)
        verdict = judge(
            status, replied, round_number=due.round_number, retry_seconds=self._retry_seconds
        )
        return tried, verdict

    @staticmethod
    def _why_disable(session: Session, due: Due, verdict: Verdict) -> Reason | None:
        """Whether its webhook should hear nothing more; a job's own address is no webhook's."""
        if due.is_callback or verdict.status is not DeliveryStatus.FAILED:
            return None
        if verdict.gone:
            return "gone"
        webhook = session.get(Webhook, due.webhook_id)
        if webhook is None:
            return None
        through = webhook.delivered_at
        return "failing" if through is None or through < due.created_at else None


def _named(due: Due) -> dict[str, object]:
    return {"delivery_id": str(due.id), "webhook_id": str(due.webhook_id), "event": due.event}
