"""Makes the Compose stack's passwords at its first start, each where its reader finds it.

PostgreSQL has three: of its superuser, who only makes the roles; of the owner, for migrations,
backups and restores; and of the service, whose role owns nothing.

Every folder is a volume of its own, mounted only by who needs what is in it, so the files may be
readable by every user in there: images run PostgreSQL and Redis as users of their own choosing.
"""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from urllib.parse import quote

REDIS_CONFIGURATION = """\
bind 0.0.0.0
dir /data
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
requirepass {password}
"""


def keep(path: Path, value: str) -> str:
    """Write a value unless one is there already; returns the one that holds."""
    if path.exists():
        return path.read_text("utf-8").strip()
    return put(path, value)


def put(path: Path, value: str) -> str:
    """Write a whole file or none."""
    part = path.with_suffix(".part")
    part.write_text(value + "\n", "utf-8")
    part.chmod(0o444)
    part.replace(path)
    return value


def require_roles(root: Path) -> None:
    """Stop before anything is changed where PostgreSQL was set up without the roles."""
    if (root / "postgres/password").exists() and not (root / "postgres/owner_password").exists():
        sys.exit(
            "PostgreSQL's volume is of an earlier version, whose service owned its tables. Nothing"
            " was changed. Take a backup with that version and restore it with this one, as"
            " docs/upgrading.md has it."
        )


def database_url(role: str, password: str) -> str:
    return f"postgresql://{role}:{quote(password, safe='')}@postgres/transcription"


def main(root: Path) -> None:
    require_roles(root)
    names = ("DB_PASSWORD", "FLOWER_PASSWORD", "GRAFANA_PASSWORD")
    given = {name: os.environ.get(name) for name in names}  # noqa: TID251 - runs alone, before any setting can be read
    # PostgreSQL and Redis take theirs when they first start, so these stay what they were.
    owner = keep(
        root / "postgres/owner_password", given["DB_PASSWORD"] or secrets.token_urlsafe(32)
    )
    service = keep(root / "postgres/service_password", secrets.token_urlsafe(32))
    keep(root / "postgres/password", secrets.token_urlsafe(32))
    redis = keep(root / "redis/password", secrets.token_urlsafe(32))
    for reader in ("flower", "grafana"):
        own = keep(root / reader / "password", secrets.token_urlsafe(16))
        wanted = given[f"{reader.upper()}_PASSWORD"]
        if wanted and wanted != own:
            put(root / reader / "password", wanted)
    put(root / "redis/redis.conf", REDIS_CONFIGURATION.format(password=redis))
    put(root / "owner/database_url", database_url("transcription", owner))
    put(root / "app/database_url", database_url("transcription_service", service))
    keep(root / "app/webhook_signing_key", secrets.token_urlsafe(32))
    for reader in ("app", "flower"):
        put(root / reader / "redis_url", f"redis://:{redis}@redis:6379/0")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
