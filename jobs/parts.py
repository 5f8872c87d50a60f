"""The files of resumable uploads until they are jobs': they outlive requests and processes.

A part is as long as what was received of it. Its lock is the kernel's (flock): it holds between the
web processes that share the folder, and ends with whoever holds it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from errors import NotFound, StorageUnavailable, UploadBusy, UploadMissing, UploadTooLarge
from jobs.uploads import CHUNK_BYTES, MARKER, NO_LINKS, UploadStore, storage_errors

#: Under the folder of uploads.
RESUMABLE_DIR: Final = ".resumable"
NOT_FOUND: Final = "There is no such upload."
#: What a chunk can be checked with, as tus calls it.
ALGORITHMS: Final[Mapping[str, Callable[[], Any]]] = {
    # tus asks for it; it guards against accidents of the network, not against anybody
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
}


@dataclass(frozen=True, slots=True)
class Whole:
    """What a part is, once it has all its bytes."""

    size_bytes: int
    sha256: bytes


class Part:
    """One part, held by its lock; use as a context manager.

    Raises:
        NotFound: It is gone.
        UploadBusy: Somebody else holds it.
    """

    def __init__(self, parts: Parts, upload_id: uuid.UUID) -> None:
        self._parts = parts
        self._checked_bytes = 0
        self._fd = parts.open(upload_id, os.O_RDWR)
        try:
            self.size_bytes = self._lock()
        except BaseException:
            os.close(self._fd)
            raise

    def _lock(self) -> int:
        with storage_errors():
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UploadBusy from None
            found = os.fstat(self._fd)
        if not found.st_nlink:  # deleted since it was opened
            raise NotFound(NOT_FOUND)
        return found.st_size

    def cut(self, size_bytes: int) -> None:
        """Throw away what comes after this many bytes."""
        with storage_errors():
            os.ftruncate(self._fd, size_bytes)
            os.fsync(self._fd)
        self.size_bytes = size_bytes

    def append(self, data: bytes, *, most_bytes: int) -> None:
        """Append, up to the length that was announced.

        Raises:
            UploadTooLarge: It would be more than that; nothing of it is written.
            DiskFull: The disk is at its floor.
        """
        if self.size_bytes + len(data) > most_bytes:
            raise UploadTooLarge("More came than Upload-Length says.", max_bytes=most_bytes)
        store = self._parts.store
        self._checked_bytes += len(data)
        if self._checked_bytes >= store.check_bytes:
            store.require_free(0)
            self._checked_bytes = 0
        with storage_errors():
            view = memoryview(data)
            while view:
                written = os.pwrite(self._fd, view, self.size_bytes)
                self.size_bytes += written
                view = view[written:]

    def sync(self) -> None:
        """Have all that was appended on the disk."""
        with storage_errors():
            os.fsync(self._fd)

    def digest(self) -> Whole:
        """Read all of it for what it is."""
        whole, place = hashlib.sha256(), 0
        with storage_errors():
            os.fsync(self._fd)
            while chunk := os.pread(self._fd, CHUNK_BYTES, place):
                whole.update(chunk)
                place += len(chunk)
        return Whole(place, whole.digest())

    def close(self) -> None:
        """Let it go."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Parts:
    """The folder of parts, on the disk of the uploads."""

    def __init__(self, store: UploadStore) -> None:
        self.store = store
        self._folder = store.root / RESUMABLE_DIR

    def _path(self, upload_id: uuid.UUID) -> Path:
        return self._folder / str(upload_id)

    def create(self, upload_id: uuid.UUID, *, expected_bytes: int) -> None:
        """Begin a part, of which nothing is here yet.

        Raises:
            UploadTooLarge, DiskFull: What was announced alone is too much.
        """
        if expected_bytes > self.store.max_bytes:
            raise UploadTooLarge(max_bytes=self.store.max_bytes)
        self.store.require_free(expected_bytes)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with storage_errors():
            self._folder.mkdir(mode=0o700, exist_ok=True)
            os.close(os.open(self._path(upload_id), flags, 0o600))
            self._sync()

    def open(self, upload_id: uuid.UUID, flags: int = os.O_RDONLY) -> int:
        """Open a part; returns its descriptor.

        Raises:
            NotFound: It is gone.
            StorageUnavailable: The whole store is.
        """
        with storage_errors():
            try:
                return os.open(self._path(upload_id), flags | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                raise self._absence() from None
            except OSError as error:
                if error.errno == errno.ELOOP:  # a link, which we never make
                    raise NotFound(NOT_FOUND) from None
                raise

    def _absence(self) -> NotFound | StorageUnavailable:
        if (self.store.root / MARKER).is_file():
            return NotFound(NOT_FOUND)
        return StorageUnavailable()

    def size(self, upload_id: uuid.UUID) -> int:
        """How much of it is on the disk, whatever happens to the machine from here on.

        Raises:
            NotFound, StorageUnavailable: See ``open``.
        """
        fd = self.open(upload_id)
        try:
            with storage_errors():
                size_bytes = os.fstat(fd).st_size
                os.fsync(fd)
        finally:
            os.close(fd)
        return size_bytes

    def is_there(self, upload_id: uuid.UUID) -> bool:
        """Whether there is one.

        Raises:
            StorageUnavailable: Nobody can tell.
        """
        try:
            os.close(self.open(upload_id))
        except NotFound:
            return False
        return True

    def keep(self, upload_id: uuid.UUID, job_id: uuid.UUID) -> None:
        """Keep a whole part as a job's upload; the part itself stays until it is deleted.

        It takes no room where the file system has links, and is copied where it has none.

        Raises:
            UploadMissing: It is gone.
            DiskFull: There is no room for a copy.
        """
        path, kept = self._path(upload_id), self.store.path(job_id)
        with storage_errors():
            try:
                os.link(path, kept, follow_symlinks=False)
                os.utime(kept)  # as new as its job: see `UploadStore.stored_before`
            except FileNotFoundError:
                raise UploadMissing from None
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                self._copy(path, job_id)
            else:
                _sync_folder(kept.parent)

    def _copy(self, path: Path, job_id: uuid.UUID) -> None:
        size_bytes = path.stat().st_size
        with (
            path.open("rb") as file,
            self.store.writer(job_id, expected_bytes=size_bytes) as writer,
        ):
            while chunk := file.read(CHUNK_BYTES):
                writer.write(chunk)
            writer.finish()

    def delete(self, upload_id: uuid.UUID) -> None:
        """Delete a part; one that is gone already is as good as deleted."""
        with storage_errors():
            self._path(upload_id).unlink(missing_ok=True)

    def touched_before(self, horizon: float) -> Iterator[uuid.UUID]:
        """Ids of the parts that nothing was written to since a time, in seconds since the epoch."""
        with storage_errors():
            if not self._folder.is_dir():
                return
            for path in self._folder.iterdir():
                try:
                    upload_id, found = uuid.UUID(path.name), path.stat()
                except (ValueError, FileNotFoundError):
                    continue
                if found.st_mtime < horizon:
                    yield upload_id

    def _sync(self) -> None:
        _sync_folder(self._folder)


def _sync_folder(folder: Path) -> None:
    # a name survives a power cut only when its folder is on the disk too
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
