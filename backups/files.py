"""Files of a backup: for nobody else to read, on the disk when done, each with a digest."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import io
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from errors import BackupDamaged, BackupFailed, DiskFull
from jobs.uploads import NO_SPACE

CHUNK_BYTES: Final = 4 * 2**20
#: Of gzip: rows are text that says much the same, so the first level gets most of it, and is three
#: times as fast as the usual one.
LEVEL: Final = 1
#: Held by whoever makes the backup.
LOCK: Final = ".lock"


@contextmanager
def folder_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into ours.

    Raises:
        DiskFull: There is no space left.
        BackupFailed: Something else is wrong with the file.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(f"There is no room left for {path}.") from error
        raise BackupFailed(f"{error.filename or path}: {error.strerror}.") from error


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file has to be."""

    size_bytes: int
    #: In hexadecimal digits.
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> Self:
        return cls(len(content), hashlib.sha256(content).hexdigest())


def write(path: Path, content: bytes) -> None:
    with create(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def create(path: Path) -> BinaryIO:
    """Open a new file that nobody else may read."""
    return os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb"
    )


def digest_of(path: Path, attend: Callable[[int], object] = lambda _: None) -> Digest | None:
    """Read a file to its end; None if there is none, or something else in its place.

    Args:
        attend: Told how many bytes were read, every few megabytes.
    """
    digest, size = hashlib.sha256(), 0
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            attend(len(chunk))
    return Digest(size, digest.hexdigest())


def copy(source: Path, target: Path, attend: Callable[[int], object]) -> Digest:
    """Copy a file; returns the digest of what was read."""
    digest, size = hashlib.sha256(), 0
    with open(source, "rb", opener=_wary) as read, create(target) as written:
        while chunk := read.read(CHUNK_BYTES):
            digest.update(chunk)
            written.write(chunk)
            size += len(chunk)
            attend(len(chunk))
        written.flush()
        os.fsync(written.fileno())
    return Digest(size, digest.hexdigest())


def _wary(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def require(path: Path, expected: Digest, attend: Callable[[int], object]) -> None:
    """Make sure that a file is what was written.

    Raises:
        BackupDamaged: It is missing, or anything about it is different.
    """
    with folder_errors(path):
        found = digest_of(path, attend)
    if found is None:
        raise BackupDamaged(f"{path} is missing.")
    if found != expected:
        raise BackupDamaged(f"{path} is not what was written.")


class _Hashed:
    """Passes on what is written, and adds it up."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def write(self, data: bytes, /) -> int:
        self._hash.update(data)
        self._size_bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> Digest:
        return Digest(self._size_bytes, self._hash.hexdigest())


class Packed:
    """A compressed file being written; use as a context manager. The digest is of the file."""

    def __init__(self, path: Path) -> None:
        self._file = create(path)
        self._hashed = _Hashed(self._file)
        # without a name and a time, so that the same content makes the same file
        packed = gzip.GzipFile("", "wb", LEVEL, fileobj=self._hashed, mtime=0)
        #: What is to be compressed goes here.
        self.stream = io.BufferedWriter(packed, CHUNK_BYTES)

    def finish(self) -> Digest:
        self.stream.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._hashed.digest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # after ``finish`` there is nothing to be done; before it, something has failed already
        with contextlib.suppress(OSError, ValueError):
            self.stream.close()
        with contextlib.suppress(OSError):
            self._file.close()


def unpacked(path: Path) -> gzip.GzipFile:
    """Open what ``Packed`` wrote, to be read."""
    return gzip.GzipFile(path, "rb")


@contextmanager
def being_made(folder: Path) -> Iterator[Path]:
    """Make a folder that has its name when it is whole, and is not there before.

    Yields:
        Where to put its content.

    Raises:
        BackupFailed: Something is there already, or somebody else is making it.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    _require_absent(folder)
    with folder_errors(partial), _held(partial):
        try:
            _empty(partial)
            yield partial
            _require_absent(folder)
            sync_folders(partial)
            partial.rename(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        (folder / LOCK).unlink(missing_ok=True)
        sync_folders(folder.parent, deep=False)


def _require_absent(folder: Path) -> None:
    if os.path.lexists(folder):
        raise BackupFailed(f"{folder} is there already: name a folder that is not.")
    if not folder.parent.is_dir():
        raise BackupFailed(f"{folder.parent} is no folder: is its disk mounted?")


@contextmanager
def _held(partial: Path) -> Iterator[None]:
    """Hold a folder, which may be what a backup left that was killed."""
    partial.mkdir(mode=0o700, exist_ok=True)
    # a file's lock and not a folder's: over NFS only that is one
    with (partial / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = (partial / LOCK).stat().st_ino == os.fstat(lock.fileno()).st_ino
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise BackupFailed(f"Another backup is being written to {partial}.")
        yield


def _empty(partial: Path) -> None:
    partial.chmod(0o700)
    for left in partial.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        elif left.name != LOCK:
            left.unlink()


def sync_folders(folder: Path, *, deep: bool = True) -> None:
    """Have the names of files on the disk too, of two levels of folders below as well."""
    below = (*folder.glob("*/"), *folder.glob("*/*/")) if deep else ()
    for path in (folder, *below):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def require_room(folder: Path, size_bytes: int, *, floor_bytes: int) -> None:
    """Check that so much fits, and that the disk is not filled by it.

    Raises:
        DiskFull: It does not, or less than the floor would stay free.
    """
    with folder_errors(folder):
        free_bytes = shutil.disk_usage(folder).free
    if free_bytes - size_bytes < floor_bytes:
        raise DiskFull(
            f"{folder} has {free_bytes / 2**20:,.0f} MB free; the backup may need"
            f" {size_bytes / 2**20:,.0f} MB, and MIN_FREE_DISK_MB={floor_bytes / 2**20:,.0f}"
            " stay free."
        )
