"""What the routes work with: made from settings, started and closed with the web process."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

import auth
from api.allowances import Allowances
from api.crowd import Crowd
from api.doorkeeper import Doorkeeper
from api.hub import Hub
from api.idempotency import UnderWay
from api.outlook import Outlook
from api.rates import SharedCounts
from api.trail import Trail
from auth import Principal
from celery_app import LANES, TRANSCRIBE, Doorbell, make_celery, make_redis
from config import Settings
from database import get_db_session, make_engine, make_sessions
from errors import DatabaseUnavailable, ServiceError
from first_keys import FirstKeys
from jobs import dispatching, standings
from jobs.standings import Standing
from jobs.uploads import UploadStore
from models import Owner, Scope
from outgoing import Outgoing
from redaction import make_mask
from tallies import Tallies, Writer
from webhooks.setup import make_outgoing, make_secrets
from webhooks.signing import Secrets

logger = logging.getLogger(__name__)

#: Where the operator finds the first key, in STATE_DIR.
KEY_FILE: Final = "admin.key"
#: An answer about readiness serves everybody for so long: whoever asks without a key cannot keep
#: PostgreSQL busy.
READY_SECONDS: Final = 1.0


class Readiness:
    """Whether something holds, looked up at most once in a while."""

    def __init__(self, holds: Callable[[], bool]) -> None:
        self._holds = holds
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._answer = False

    def __bool__(self) -> bool:
        # whoever comes while somebody looks takes the last answer, and does not wait
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() - self._looked_at > READY_SECONDS:
                    self._answer = self._holds()
                    self._looked_at = time.monotonic()
            finally:
                self._lock.release()
        return self._answer


class Services:
    """Everything that stands behind the routes. Nothing connects until it is used.

    Raises:
        SettingsError: Something that is needed is not set.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = make_engine(settings, name="transcription-web")
        self.sessions = make_sessions(self.engine)
        self.uploads = UploadStore(
            settings.uploads_path,
            max_bytes=settings.max_upload_bytes,
            min_free_bytes=settings.min_free_bytes,
        )
        self.redis = make_redis(settings)
        self.doorbell = Doorbell.of(
            make_celery(settings), self.redis, budget_seconds=settings.publish_budget_ms / 1000
        )
        self.first_keys = FirstKeys(
            (key.get_secret_value() for key in settings.api_keys),
            settings.state_dir.expanduser().absolute() / KEY_FILE,
            show_with=settings.admin_key_command,
        )
        self.under_way = UnderWay()
        self.counts = SharedCounts(settings.require_broker_url())
        self.allowances = Allowances(settings, self.counts, self.transaction)
        self.crowd = Crowd(settings.key_requests_at_once)
        self.outlook = Outlook(budget_seconds=settings.max_queued_audio_hours * 3600)
        self.doorkeeper = Doorkeeper(self.counts, limit=settings.max_auth_failures)
        self.trail = Trail(self.transaction, mask=make_mask(settings.secrets()))
        listening = make_engine(settings, pooled=False, name="transcription-web-hub")
        self.hub = Hub(
            listening, self.standings, self._lapsed, most_per_key=settings.key_waits_at_once
        )
        self.tallies = Tallies()
        self._writer = Writer(
            self.tallies,
            make_sessions(make_engine(settings, pooled=False, name="transcription-web-tallies")),
        )
        self.readiness = Readiness(self._could_accept)

    def start(self) -> None:
        """Make the store of uploads ready, and enter the first keys if PostgreSQL is there.

        Raises:
            StorageUnavailable: Uploads cannot be stored.
            SettingsError: The first key cannot be written to its file.
        """
        self.uploads.prepare()
        self.trail.denials.start()
        self._writer.start()
        try:
            self.first_keys.ensure(self.transaction)
        except DatabaseUnavailable:
            logger.warning("the database is away; keys are entered when it answers")

    def close(self) -> None:
        self.hub.close()
        self.trail.denials.close()
        self._writer.close()
        self.doorbell.close()
        self.redis.close()
        self.counts.close()
        self.engine.dispose()

    @cached_property
    def outgoing(self) -> Outgoing:
        """What knows which addresses may be called; reading its certificates takes its time."""
        return make_outgoing(self.settings)

    @cached_property
    def webhook_secrets(self) -> Secrets:
        """What signs webhooks.

        Raises:
            SettingsError: There is nothing to make them from.
        """
        return make_secrets(self.settings)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back on an error.

        Raises:
            DatabaseUnavailable: PostgreSQL is away, or not migrated yet.
        """
        with get_db_session(self.sessions) as session:
            yield session

    def standings(self, job_ids: Collection[uuid.UUID]) -> Mapping[uuid.UUID, Standing]:
        """How these jobs stand."""
        with self.transaction() as session:
            return standings.read(session, job_ids, self.outlook.backlog, lanes=LANES)

    def _lapsed(self, principals: Collection[Principal]) -> Collection[Principal]:
        with self.transaction() as session:
            return auth.lapsed(session, principals, Scope.JOBS_READ)

    def publish(self, job_id: uuid.UUID, lane: str) -> None:
        """Ring for a worker, after the commit. Failing is harmless: the dispatcher rings later."""
        if not self.doorbell.ring(TRANSCRIBE, job_id, lane):
            return
        try:
            with self.transaction() as session:
                dispatching.dispatched(
                    session, job_id, redispatch_seconds=self.settings.redispatch_seconds
                )
        except DatabaseUnavailable:
            logger.warning("job may be published twice", extra={"job_id": str(job_id)})

    def _could_accept(self) -> bool:
        try:
            self.uploads.require_free(0)
            with self.transaction() as session:
                session.execute(select(Owner.id).limit(1))
        except ServiceError:
            return False
        return True
