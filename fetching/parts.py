"""What is here of an upload that is being fetched: a file that one process at a time adds to."""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from errors import EmptyFile, Occupied, UploadTooLarge
from jobs.uploads import CHUNK_BYTES, PART_DIR, UploadStore, storage_errors

#: Free space is looked up again after so many bytes.
CHECK_BYTES: Final = 16 * 2**20


class Part:
    """An upload's beginning; use as a context manager. Whatever happens, the file stays.

    Whoever was frozen and taken for lost still has the file: so it is locked, and the next one
    waits.
    """

    def __init__(self, store: UploadStore, job_id: uuid.UUID) -> None:
        """Open it, or begin it.

        Raises:
            Occupied: Somebody else has it open.
            StorageUnavailable: The store cannot be used.
        """
        self._store = store
        self._job_id = job_id
        self._path = store.root / PART_DIR / str(job_id)
        with storage_errors():
            self._fd = _locked(self._path)
        self._hash = hashlib.sha256()
        #: What is here, after ``cut``.
        self.size_bytes = 0
        self._checked_bytes = 0

    def cut(self, size_bytes: int, attend: Callable[[], object] = lambda: None) -> None:
        """Keep so many bytes, or none where fewer are here.

        What was written last may not have reached the disk when the power went, whatever length the
        file has; so it counts as far as somebody noted after ``sync``.

        Args:
            attend: Called every few megabytes; what it raises ends it.
        """
        with storage_errors():
            if os.fstat(self._fd).st_size < size_bytes:
                size_bytes = 0
            os.ftruncate(self._fd, size_bytes)
            os.fsync(self._fd)
            self._hash = hashlib.sha256()
            os.lseek(self._fd, 0, os.SEEK_SET)
            left = size_bytes
            while left and (chunk := os.read(self._fd, min(left, CHUNK_BYTES))):
                self._hash.update(chunk)
                left -= len(chunk)
                attend()
        self.size_bytes = size_bytes

    def write(self, chunk: bytes) -> None:
        """Append.

        Raises:
            UploadTooLarge: It is over the cap of uploads.
            DiskFull: The disk is at its floor.
        """
        if self.size_bytes + len(chunk) > self._store.max_bytes:
            raise UploadTooLarge(max_bytes=self._store.max_bytes)
        if self.size_bytes - self._checked_bytes >= CHECK_BYTES:
            self._store.require_free(0)
            self._checked_bytes = self.size_bytes
        with storage_errors():
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._fd, view) :]
        self._hash.update(chunk)
        self.size_bytes += len(chunk)

    def sync(self) -> None:
        """Have what was written survive a power cut."""
        with storage_errors():
            os.fsync(self._fd)

    @property
    def sha256(self) -> bytes:
        return self._hash.digest()

    def keep(self) -> None:
        """Give the whole upload its name.

        Raises:
            EmptyFile: Nothing was written.
        """
        if not self.size_bytes:
            raise EmptyFile
        self.sync()
        final = self._store.path(self._job_id)
        with storage_errors():
            self._path.rename(final)
            _sync_folder(final.parent)

    def discard(self) -> None:
        """Delete it; it may be gone already."""
        with storage_errors():
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with storage_errors():
            os.close(self._fd)


def _locked(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                return fd
        except BlockingIOError:
            os.close(fd)
            raise Occupied("Another process still has what was fetched so far.") from None
        except OSError:
            os.close(fd)
            raise
        os.close(fd)  # deleted since it was opened


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
