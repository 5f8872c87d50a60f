"""What the service may do in the database, where a role of its own works for another that owns it.

Given anew after every migration, so it holds for new tables, after a restore, and for a role that
was made later. Where the service owns its tables, nothing is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from sqlalchemy import Connection, text

from config import Settings
from errors import SettingsError
from models import AuditEvent, Base

#: What the service does with tables that nothing else is said of.
USES: Final = "SELECT, INSERT, UPDATE, DELETE"
#: Of audit events it says neither when they were nor where in the chain.
NOT_SAID: Final[Mapping[str, Sequence[str]]] = {
    AuditEvent.__tablename__: ("at", "position", "sha256")
}
SEAL: Final = "seal_audit_events(uuid[], bigint[], bytea[])"
PRUNE: Final = "prune_audit_events(bigint)"

_ROLE: Final = text("SELECT count(*) FROM pg_roles WHERE rolname = :role")
#: Whether whoever migrates has the owner's rights, and the role has not; NULL without our tables.
_IS_APART: Final = text("""
SELECT pg_has_role(current_user, relowner, 'USAGE') AND NOT pg_has_role(:role, relowner, 'USAGE')
  FROM pg_class
 WHERE oid = to_regclass('audit_events')
""")


def role_of(connection: Connection, settings: Settings) -> str | None:
    """Name the role to give to; None where there is none.

    Raises:
        SettingsError: One was named, and is not there.
    """
    role = settings.database_service_role
    if connection.scalar(_ROLE, {"role": role}):
        return role
    if "database_service_role" in settings.model_fields_set:
        raise SettingsError(
            f"DATABASE_SERVICE_ROLE={role}: PostgreSQL has no such role. Nothing was changed."
        )
    return None


def give(connection: Connection, role: str, *, may_prune: bool) -> None:
    """Give a role what it needs, and take what else it had, in the caller's transaction.

    Args:
        may_prune: Whether it may have old audit events deleted.
    """
    if not connection.scalar(_IS_APART, {"role": role}):
        return
    quoted = connection.dialect.identifier_preparer.quote
    schema = quoted(connection.execute(text("SELECT current_schema()")).scalar_one())
    for statement in _statements(quoted(role), schema, may_prune=may_prune):
        connection.exec_driver_sql(statement)


def _statements(role: str, schema: str, *, may_prune: bool) -> Iterator[str]:
    yield f"GRANT USAGE ON SCHEMA {schema} TO {role}"
    for name in ("alembic_version", *Base.metadata.tables):
        yield f"REVOKE ALL ON {name} FROM {role}"
    yield f"GRANT SELECT ON alembic_version TO {role}"
    for name, table in Base.metadata.tables.items():
        if name not in NOT_SAID:
            yield f"GRANT {USES} ON {name} TO {role}"
            continue
        said = ", ".join(c.name for c in table.columns if c.name not in NOT_SAID[name])
        yield f"GRANT SELECT, INSERT ({said}) ON {name} TO {role}"
    yield f"GRANT EXECUTE ON FUNCTION {SEAL} TO {role}"
    verb, to = ("GRANT", "TO") if may_prune else ("REVOKE", "FROM")
    yield f"{verb} EXECUTE ON FUNCTION {PRUNE} {to} {role}"
