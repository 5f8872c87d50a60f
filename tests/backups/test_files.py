"""Files of a backup: whole and durable, for one's own eyes, or not there at all."""

import gzip
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backups import files
from backups.files import Digest, Packed, being_made
from errors import BackupDamaged, BackupFailed, DiskFull
from tests.recordings import PROJECT_DIR
from tests.stack.conftest import wait_for

CONTENT = b"one two three\n" * 1000


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process grows beyond some kB, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def pack(path: Path, content: bytes = CONTENT) -> Digest:
    with Packed(path) as file:
        file.stream.write(content)
        return file.finish()


def test_the_digest_is_of_the_file(tmp_path: Path) -> None:
    digest = pack(tmp_path / "packed")

    assert files.digest_of(tmp_path / "packed") == digest
    assert gzip.decompress((tmp_path / "packed").read_bytes()) == CONTENT
    with files.unpacked(tmp_path / "packed") as file:
        assert file.read() == CONTENT


def test_the_same_content_makes_the_same_file(tmp_path: Path) -> None:
    assert pack(tmp_path / "one") == pack(tmp_path / "other")


def test_nobody_else_may_read_them(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with being_made(tmp_path / "backup") as partial:
            pack(partial / "packed")
            files.write(partial / "written", b"x")
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*")}

    assert modes == {"backup": "0o700", "packed": "0o600", "written": "0o600"}


def test_a_folder_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    with being_made(folder) as partial:
        pack(partial / "packed")
        assert not folder.exists()

    assert [path.name for path in folder.iterdir()] == ["packed"]
    assert [path.name for path in tmp_path.iterdir()] == ["backup"]


@pytest.mark.parametrize("error", [BackupFailed("no"), KeyboardInterrupt()])
def test_nothing_is_left_of_what_failed(error: BaseException, tmp_path: Path) -> None:
    with (
        pytest.raises(type(error)),
        being_made(tmp_path / "backup") as partial,
        Packed(partial / "packed"),
    ):
        raise error

    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_files")
def test_nothing_is_left_where_the_disk_is_full(tmp_path: Path) -> None:
    with pytest.raises(DiskFull), being_made(tmp_path / "backup") as partial:
        pack(partial / "packed", os.urandom(100_000))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["folder", "empty folder", "file", "dangling link"])
def test_what_is_there_already_stays(there: str, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    match there:
        case "folder":
            folder.mkdir()
            (folder / "mine").touch()
        case "empty folder":
            folder.mkdir()
        case "file":
            folder.touch()
        case "dangling link":
            folder.symlink_to(tmp_path / "nowhere")
    with pytest.raises(BackupFailed, match="is there already"), being_made(folder):
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["backup"]


def test_a_disk_that_is_not_mounted_is_told_of(tmp_path: Path) -> None:
    with (
        pytest.raises(BackupFailed, match="is its disk mounted"),
        being_made(tmp_path / "away" / "backup"),
    ):
        pass


def test_two_do_not_write_the_same_one(tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    with being_made(folder) as partial:
        pack(partial / "packed")
        with pytest.raises(BackupFailed, match="Another backup"), being_made(folder):
            pass

    assert [path.name for path in folder.iterdir()] == ["packed"]


def test_what_was_left_by_one_that_was_killed_is_replaced(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from backups.files import being_made\n"
        "with being_made(pathlib.Path(sys.argv[1])) as partial:\n"
        "    (partial / 'half').touch(); (partial / 'in').mkdir(); time.sleep(600)\n"
    )
    folder = tmp_path / "backup"
    child = subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=PROJECT_DIR)
    try:
        wait_for((tmp_path / "backup.partial" / "in").exists, "it is half made")
    finally:
        child.kill()
        child.wait()
    with being_made(folder) as partial:
        pack(partial / "packed")

    assert [path.name for path in folder.iterdir()] == ["packed"]


@pytest.mark.parametrize("change", ["missing", "flipped", "shorter", "longer", "link", "folder"])
def test_a_file_that_is_not_what_was_written_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "packed"
    digest = pack(path)
    content = path.read_bytes()
    path.unlink()
    match change:
        case "flipped":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "shorter":
            path.write_bytes(content[:-1])
        case "longer":
            path.write_bytes(content + b"\0")
        case "link":
            (tmp_path / "elsewhere").write_bytes(content)
            path.symlink_to(tmp_path / "elsewhere")
        case "folder":
            path.mkdir()

    with pytest.raises((BackupDamaged, BackupFailed)):
        files.require(path, digest, lambda _: None)


def test_a_disk_is_not_filled(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="MIN_FREE_DISK_MB=1"):
        files.require_room(tmp_path, 2**60, floor_bytes=2**20)

    files.require_room(tmp_path, 1, floor_bytes=0)
