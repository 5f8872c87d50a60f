"""What a backup says of itself is read as it was written, or not at all."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backups import manifest
from backups.files import Digest
from backups.manifest import FORMAT, MANIFEST, MANIFEST_SUM, Manifest, Table, Uploads
from errors import BackupDamaged

DIGEST = Digest(3, "ab" * 32)
TOLD = Manifest(
    format=FORMAT,
    version="3.0.0",
    revision="604d30f31f31",
    postgres_version="17.1",
    taken_at=datetime(2026, 11, 23, 3, 0, 0, 5, tzinfo=UTC),
    tables=(Table(name="transcription_jobs", columns=("id",), rows=7, file=DIGEST),),
    left_out=("workers",),
    uploads=Uploads(kept=1, kept_bytes=5, gone=0, altered=0, left_out=0, file=DIGEST),
)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    sha256 = manifest.write(tmp_path, TOLD)

    assert manifest.read(tmp_path) == (TOLD, sha256)
    assert TOLD.jobs == 7


def test_its_digest_is_what_common_tools_check(tmp_path: Path) -> None:
    manifest.write(tmp_path, TOLD)

    subprocess.run(["sha256sum", "--check", "--strict", MANIFEST_SUM], cwd=tmp_path, check=True)


@pytest.mark.parametrize("name", [MANIFEST, MANIFEST_SUM])
@pytest.mark.parametrize("change", ["missing", "empty", "cut", "flipped"])
def test_it_is_refused_when_anything_of_it_is_different(
    name: str, change: str, tmp_path: Path
) -> None:
    manifest.write(tmp_path, TOLD)
    path = tmp_path / name
    content = path.read_bytes()
    changed = {"empty": b"", "cut": content[:-9], "flipped": b"\0" + content[1:]}
    path.unlink()
    if change != "missing":
        path.write_bytes(changed[change])

    with pytest.raises(BackupDamaged):
        manifest.read(tmp_path)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change it as somebody would who knows of the digest."""
    manifest.write(folder, TOLD)
    told = json.loads((folder / MANIFEST).read_bytes())
    change(told)
    content = json.dumps(told).encode()
    (folder / MANIFEST).write_bytes(content)
    (folder / MANIFEST_SUM).write_text(f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n")


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a b", "", 'x"; DROP TABLE owners; --', "x" * 64, "pg-toast"]
)
def test_no_name_in_it_leads_anywhere_else(name: str, tmp_path: Path) -> None:
    rewrite(tmp_path, lambda told: told["tables"][0].update(name=name))
    with pytest.raises(BackupDamaged, match="cannot be understood"):
        manifest.read(tmp_path)
    (tmp_path / MANIFEST).unlink()
    (tmp_path / MANIFEST_SUM).unlink()
    rewrite(tmp_path, lambda told: told["tables"][0].update(columns=[name]))
    with pytest.raises(BackupDamaged, match="cannot be understood"):
        manifest.read(tmp_path)


def test_a_form_that_is_not_known_is_refused(tmp_path: Path) -> None:
    manifest.write(tmp_path, replace(TOLD, format=FORMAT + 1))

    with pytest.raises(BackupDamaged, match=f"has the form {FORMAT + 1}"):
        manifest.read(tmp_path)


def test_what_is_no_backup_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(BackupDamaged, match="is no backup"):
        manifest.read(tmp_path)
