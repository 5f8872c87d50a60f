"""What clients send: streamed to disk under the job's id, never under a name of theirs.

Web and workers share one folder. A file appears under its final name only when it is whole and
on the disk, so a job's row never names half an upload.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from errors import (
    DiskFull,
    EmptyFile,
    StorageUnavailable,
    UploadAltered,
    UploadMissing,
    UploadTooLarge,
)

#: Uploads that are still being received.
PART_DIR = ".part"
#: Uploads that no job has since a backup was restored.
UNCLAIMED_DIR = ".unclaimed"
#: Tells an empty store from a volume that is not mounted.
MARKER = ".transcription-uploads"
#: Uploads that nobody finished are deleted after so long.
STALE_PART_SECONDS = 24 * 3600.0
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
#: What opening a link, a folder or a socket as a file says.
NO_FILE = {errno.ELOOP, errno.EISDIR, errno.ENXIO}
#: What making a second name for a file says where there can be none.
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A stored upload."""

    job_id: uuid.UUID
    path: Path
    size_bytes: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Room on the store's disk."""

    free_bytes: int
    total_bytes: int


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turn the operating system's errors into ours.

    Raises:
        DiskFull: There is no space left.
        StorageUnavailable: The folder cannot be used.
    """
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull from error
        raise StorageUnavailable from error


class UploadWriter:
    """One upload being received."""

    def __init__(self, store: UploadStore, job_id: uuid.UUID) -> None:
        self._store = store
        self._job_id = job_id
        self._part = store.root / PART_DIR / str(job_id)
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self._checked_bytes = 0
        with storage_errors():
            self._fd = os.open(
                self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600
            )

    def write(self, chunk: bytes) -> None:
        """Append.

        Raises:
            UploadTooLarge: The upload is over its cap.
            DiskFull: The disk is at its floor.
        """
        self._size_bytes += len(chunk)
        if self._size_bytes > self._store.max_bytes:
            raise UploadTooLarge(max_bytes=self._store.max_bytes)
        if self._size_bytes - self._checked_bytes >= self._store.check_bytes:
            self._store.require_free(0)
            self._checked_bytes = self._size_bytes
        self._hash.update(chunk)
        with storage_errors():
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._fd, view) :]
            self._begin_sync(len(chunk))

    def _begin_sync(self, size_bytes: int) -> None:
        """Let the disk begin with what was just written, so that ``finish`` has little to wait for.

        Source: posix_fadvise(2); Linux starts to write dirty pages that are not needed any more.
        """
        if sys.platform == "linux":
            start = self._size_bytes - size_bytes
            os.posix_fadvise(self._fd, start, size_bytes, os.POSIX_FADV_DONTNEED)

    def finish(self) -> Upload:
        """Make the upload durable and give it its name.

        Raises:
            EmptyFile: Nothing was written.
        """
        if self._size_bytes == 0:
            raise EmptyFile
        final = self._store.path(self._job_id)
        with storage_errors():
            os.fsync(self._fd)
            self._part.rename(final)
            _sync_folder(final.parent)
            self._let_go()
        return Upload(
            job_id=self._job_id,
            path=final,
            size_bytes=self._size_bytes,
            sha256=self._hash.digest(),
        )

    def close(self) -> None:
        """Delete what was not finished.

        Raises:
            StorageUnavailable: It cannot be; ``UploadStore.sweep`` will.
        """
        if not self.open:
            return
        with storage_errors():
            try:
                self._let_go()
            finally:
                self._part.unlink(missing_ok=True)

    @property
    def open(self) -> bool:
        """Whether it is neither finished nor closed."""
        return self._fd >= 0

    def _let_go(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class UploadStore:
    """The folder of uploads.

    Args:
        max_bytes: Largest upload.
        min_free_bytes: What must stay free on the disk.
    """

    #: Free space is looked up again after so many bytes.
    check_bytes = 16 * 2**20

    def __init__(self, root: Path, *, max_bytes: int, min_free_bytes: int) -> None:
        self.root = root
        self.max_bytes = max_bytes
        self.min_free_bytes = min_free_bytes

    def prepare(self) -> None:
        """Make the folder ready; done by whoever writes to it, at start, and by nobody else.

        A process that only reads would mark an unmounted volume's empty place as the store.
        """
        with storage_errors():
            (self.root / PART_DIR).mkdir(mode=0o700, parents=True, exist_ok=True)
            for number in range(256):
                (self.root / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
            (self.root / MARKER).touch(mode=0o600)
            _sync_folder(self.root)

    def path(self, job_id: uuid.UUID) -> Path:
        # the last digits of a version 7 UUID are random, so the folders fill evenly
        return self.root / job_id.hex[-2:] / str(job_id)

    def writer(self, job_id: uuid.UUID, *, expected_bytes: int = 0) -> UploadWriter:
        """Begin an upload; use as a context manager.

        Args:
            expected_bytes: What the client announced; 0 when it did not.

        Raises:
            UploadTooLarge, DiskFull: The announced size alone is too much.
        """
        if expected_bytes > self.max_bytes:
            raise UploadTooLarge(max_bytes=self.max_bytes)
        self.require_free(expected_bytes)
        return UploadWriter(self, job_id)

    def require_free(self, more_bytes: int) -> None:
        """Check that ``more_bytes`` fit.

        Raises:
            DiskFull: They do not.
        """
        with storage_errors():
            free_bytes = shutil.disk_usage(self.root).free
        if free_bytes - more_bytes < self.min_free_bytes:
            raise DiskFull

    def space(self) -> Space:
        """Look up how much room there is.

        Raises:
            StorageUnavailable: The store is not mounted, or does not answer.
        """
        with storage_errors():
            if not (self.root / MARKER).is_file():
                raise StorageUnavailable
            usage = shutil.disk_usage(self.root)
        return Space(free_bytes=usage.free, total_bytes=usage.total)

    def find(self, job_id: uuid.UUID) -> Path:
        """Path of a stored upload.

        Raises:
            UploadMissing: It is gone for good.
            StorageUnavailable: The whole store is: its disk is not mounted, or does not answer.
        """
        path = self.path(job_id)
        with storage_errors():
            try:
                found = path.lstat()
            except FileNotFoundError:
                raise self._absence() from None
        if not stat.S_ISREG(found.st_mode):  # such as a link, which we never make
            raise UploadMissing
        return path

    def share(self, job_id: uuid.UUID, new_id: uuid.UUID) -> None:
        """Keep an upload for another job as well; each may be deleted without the other.

        It takes no room where the file system has links, and is copied where it has none.

        Raises:
            UploadMissing, StorageUnavailable: See ``find``.
            DiskFull: The disk is at its floor, or there is no room for a copy.
        """
        path, shared = self.find(job_id), self.path(new_id)
        self.require_free(0)
        with storage_errors():
            try:
                os.link(path, shared, follow_symlinks=False)
                os.utime(shared)  # as new as its job: see `stored_before`
            except FileNotFoundError:
                raise self._absence() from None
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                self._copy(path, new_id)
            else:
                _sync_folder(shared.parent)

    def _copy(self, path: Path, new_id: uuid.UUID) -> None:
        with (
            path.open("rb") as file,
            self.writer(new_id, expected_bytes=path.stat().st_size) as writer,
        ):
            while chunk := file.read(CHUNK_BYTES):
                writer.write(chunk)
            writer.finish()

    def verify(
        self,
        job_id: uuid.UUID,
        *,
        size_bytes: int,
        sha256: bytes,
        attend: Callable[[], object] = lambda: None,
    ) -> Path:
        """Path of a stored upload that is, byte for byte, what was sent.

        Reading all of it for that costs little: whoever decodes it next finds it in memory.

        Args:
            attend: Called every few megabytes; what it raises ends it.

        Raises:
            UploadAltered: Something else is there.
            UploadMissing, StorageUnavailable: See ``find``.
        """
        path = self.path(job_id)
        with storage_errors(), self._opened(path) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size != size_bytes:
                raise UploadAltered
            if _sha256_of(file, attend) != sha256:
                raise UploadAltered
        return path

    def _opened(self, path: Path) -> BinaryIO:
        try:
            return open(path, "rb", opener=_wary)
        except FileNotFoundError:
            raise self._absence() from None
        except OSError as error:
            if error.errno in NO_FILE:
                raise UploadAltered from error
            raise

    def _absence(self) -> UploadMissing | StorageUnavailable:
        """What it means that a file is not there."""
        return UploadMissing() if (self.root / MARKER).is_file() else StorageUnavailable()

    def delete(self, job_id: uuid.UUID) -> None:
        """Delete an upload, or what is here of one that is being fetched.

        One that is gone already is as good as deleted.
        """
        with storage_errors():
            self.path(job_id).unlink(missing_ok=True)
            (self.root / PART_DIR / str(job_id)).unlink(missing_ok=True)

    def stored_before(self, horizon: float) -> Iterator[uuid.UUID]:
        """Ids of the uploads stored before a time, in seconds since the epoch."""
        with storage_errors():
            for path in self.root.glob("[0-9a-f][0-9a-f]/*-*"):
                job_id = _id_in(path.name)
                if job_id is not None and _is_older(path, horizon):
                    yield job_id

    def discard_part(self, job_id: uuid.UUID) -> None:
        """Delete what was begun of an upload and never finished."""
        with storage_errors():
            (self.root / PART_DIR / str(job_id)).unlink(missing_ok=True)

    def set_aside(self, job_id: uuid.UUID) -> None:
        """Move an upload to where no job looks for it, and nobody deletes it but an operator."""
        with storage_errors():
            (self.root / UNCLAIMED_DIR).mkdir(mode=0o700, exist_ok=True)
            self.path(job_id).rename(self.root / UNCLAIMED_DIR / str(job_id))

    def sweep(self, *, now: float | None = None) -> int:
        """Delete uploads that were begun and never finished; returns how many."""
        horizon = (time.time() if now is None else now) - STALE_PART_SECONDS
        swept = 0
        with storage_errors():
            for part in (self.root / PART_DIR).iterdir():
                if _id_in(part.name) is not None and _is_older(part, horizon):
                    part.unlink(missing_ok=True)
                    swept += 1
        return swept


def _wary(path: str, flags: int) -> int:
    # O_NONBLOCK: opening a FIFO would wait for its other end
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _sha256_of(file: BinaryIO, attend: Callable[[], object]) -> bytes:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        attend()
        digest.update(chunk)
    return digest.digest()


def _id_in(name: str) -> uuid.UUID | None:
    """The job that a file belongs to; None for a file of somebody else's."""
    try:
        return uuid.UUID(name)
    except ValueError:
        return None


def _is_older(path: Path, horizon: float) -> bool:
    try:
        return path.stat().st_mtime < horizon
    except FileNotFoundError:
        return False  # finished or deleted since it was listed


def _sync_folder(folder: Path) -> None:
    # a rename survives a power cut only when its folder is on the disk too
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
