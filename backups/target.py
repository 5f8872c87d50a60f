"""The database that a backup is restored into: what it holds, who uses it, and what of it stays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from backups.tables import columns_of, quoted
from database import Revisions, revision
from errors import RestoreRefused
from models import ApiKey

#: What the processes of the service call their sessions.
SESSIONS: Final = ("heartbeat", "maintenance", "transcription-web", "worker")
#: Of a key that is in the backup too, what is not taken from its row of today.
_FROM_BACKUP: Final = {"id", "owner_id"}

_TABLES: Final = text("SELECT to_regclass('transcription_jobs') IS NOT NULL")
_IS_OURS: Final = text("""
SELECT pg_has_role(current_user, relowner, 'USAGE')
  FROM pg_class
 WHERE oid = to_regclass('transcription_jobs')
""")
_HELD: Final = text("""
SELECT count(*) AS jobs,
       count(*) FILTER (WHERE created_at > CAST(:taken_at AS timestamptz)) AS younger,
       max(created_at) AS newest_at
  FROM transcription_jobs
""")
#: A process that died says so to nobody: it counts for a minute.
_ANNOUNCED: Final = text("""
SELECT name
  FROM workers
 WHERE left_at IS NULL
   AND seen_at > now() - interval '60 s'
 ORDER BY name
""")
_CONNECTED: Final = text("""
SELECT DISTINCT application_name || COALESCE(' at ' || host(client_addr), '') AS who
  FROM pg_stat_activity
 WHERE datname = current_database()
   AND pid <> pg_backend_pid()
   AND application_name = ANY(:names)
 ORDER BY who
""")
_NO_KEYS: Final = "SELECT CAST(NULL AS uuid) AS id, '' AS prefix LIMIT 0"
_WORKING: Final = text("""
SELECT prefix
  FROM api_keys
 WHERE revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > now())
   AND id NOT IN (SELECT id FROM present_keys)
 ORDER BY created_at, id
""")
_LOST: Final = text("""
SELECT prefix
  FROM present_keys
 WHERE id NOT IN (SELECT id FROM api_keys)
 ORDER BY prefix
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a database holds."""

    #: None where there are no tables of ours.
    revision: str | None
    jobs: int = 0
    #: Those that were submitted after the backup was taken.
    younger: int = 0
    newest_at: datetime | None = None

    @classmethod
    def look(cls, connection: Connection, taken_at: datetime | None = None) -> Target:
        """Look at it.

        Args:
            taken_at: When the backup was taken that is to be restored.

        Raises:
            RestoreRefused: It is no database that this version could have made.
        """
        with Session(connection) as session:
            found = revision(session)
        if not connection.scalar(_TABLES):
            return cls(revision=None)
        if found not in Revisions.of().known:
            raise RestoreRefused(
                f"The database is at migration {found}, which this version does not know. Restore"
                " into an empty database, or with the version that migrated it."
            )
        row = connection.execute(_HELD, {"taken_at": taken_at}).one()
        return cls(revision=found, **row._asdict())

    def require_replaceable(self, *, replace: bool) -> None:
        """Make sure that nobody loses jobs unasked.

        Raises:
            RestoreRefused
        """
        if self.jobs and not replace:
            raise RestoreRefused(
                f"The database holds {self.jobs:,} jobs, of which {self.younger:,} were submitted"
                f" after this backup was taken, the last at {self.newest_at:%Y-%m-%d %H:%M:%S%z}."
                " Take a backup of it, then restore with --replace: these are lost to it."
            )

    def require_ours(self, connection: Connection) -> None:
        """Make sure that whoever restores may make the tables anew.

        Raises:
            RestoreRefused
        """
        if self.revision is not None and not connection.scalar(_IS_OURS):
            raise RestoreRefused(
                "This role does not own the tables: restore with the DATABASE_URL of the one that"
                " migrates; with Compose by `docker compose run --rm cli restore`."
            )

    def require_unused(self, connection: Connection) -> None:
        """Make sure that the service does not run on it.

        Raises:
            RestoreRefused
        """
        using = set(connection.scalars(_CONNECTED, {"names": list(SESSIONS)}))
        if self.revision is not None:
            using |= set(connection.scalars(_ANNOUNCED))
        if using:
            raise RestoreRefused(
                f"The service runs on this database: {', '.join(sorted(using))}. Stop web,"
                " workers, maintenance and webhooks first; one that died without taking leave"
                " counts for a minute."
            )


class Keys:
    """What is known today of keys: for those that the backup has too, it counts.

    A key that was revoked, rotated or restricted since must not come back as it was.
    """

    def __init__(self, connection: Connection, target: Target) -> None:
        self._connection = connection
        there = columns_of(connection, "api_keys") if target.revision else []
        self._names = [name for name in there if name in ApiKey.__table__.columns]
        columns = ", ".join(map(quoted, self._names))
        connection.exec_driver_sql(
            "CREATE TEMPORARY TABLE present_keys ON COMMIT DROP AS "
            + (f"SELECT {columns} FROM api_keys" if self._names else _NO_KEYS)
        )

    def bring_forward(self) -> int:
        """Write what is known today over what the backup says; returns of how many keys."""
        changes = ", ".join(
            f"{quoted(name)} = present_keys.{quoted(name)}"
            for name in self._names
            if name not in _FROM_BACKUP
        )
        if not changes:
            return 0
        found = self._connection.exec_driver_sql(
            f"UPDATE api_keys SET {changes} FROM present_keys WHERE api_keys.id = present_keys.id"
        )
        return found.rowcount

    def come_back(self) -> list[str]:
        """Shown names of keys that work again, of which nothing later is known than the backup."""
        return list(self._connection.scalars(_WORKING))

    def lost(self) -> list[str]:
        """Shown names of keys that the backup does not know."""
        return list(self._connection.scalars(_LOST))
