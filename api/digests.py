"""Reading an upload for what it is, and keeping nothing of it: it is here already."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

from errors import EmptyFile, UploadTooLarge


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """What a file is, in short."""

    size_bytes: int
    sha256: bytes


class DigestWriter:
    """Stands where an ``UploadWriter`` does."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._size_bytes = 0
        self.open = True

    def write(self, chunk: bytes) -> None:
        self._size_bytes += len(chunk)
        if self._size_bytes > self._max_bytes:
            raise UploadTooLarge(max_bytes=self._max_bytes)
        self._hash.update(chunk)

    def finish(self) -> Digest:
        if self._size_bytes == 0:
            raise EmptyFile
        self.open = False
        return Digest(size_bytes=self._size_bytes, sha256=self._hash.digest())

    def close(self) -> None:
        self.open = False


@dataclass(frozen=True, slots=True)
class Digests:
    """Stands where an ``UploadStore`` does."""

    max_bytes: int

    def writer(self, job_id: uuid.UUID, *, expected_bytes: int = 0) -> DigestWriter:
        return DigestWriter(self.max_bytes)
