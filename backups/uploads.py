"""The uploads of a backup: as links where the disk is the same, and as copies where it is not.

A stored upload is never written to again, only deleted, so a link is as good as a copy: it stays
when the service deletes its own. ``UPLOAD_LIST`` has a line for each upload that a row needs.
"""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from backups import files
from backups.files import Digest, Packed, folder_errors
from backups.manifest import UPLOAD_LIST, UPLOADS, Uploads
from errors import BackupDamaged, StorageUnavailable, UploadAltered, UploadMissing
from jobs.uploads import MARKER, UploadStore, storage_errors

Tell = Callable[[str], object]

#: What says that a link cannot be made here, where a copy can.
NO_LINK: Final = {
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
}
#: Between two lines of progress.
TELL_SECONDS: Final = 5.0


class State(StrEnum):
    """What became of an upload in a backup."""

    KEPT = "kept"
    GONE = "gone"  #: Deleted since the moment of the backup, or before it by somebody else.
    ALTERED = "altered"  #: It is not what was sent: no job can be done with it.
    LEFT_OUT = "left_out"


@dataclass(frozen=True, slots=True)
class Entry:
    """An upload that a row needs."""

    job_id: uuid.UUID
    digest: Digest
    state: State

    def __str__(self) -> str:
        return f"{self.job_id}\t{self.digest.size_bytes}\t{self.digest.sha256}\t{self.state}\n"

    @classmethod
    def parse(cls, line: str) -> Entry:
        job_id, size, sha256, state = line.rstrip("\n").split("\t")
        return cls(uuid.UUID(job_id), Digest(int(size), sha256), State(state))


class Progress:
    """Says now and then how far something is."""

    def __init__(self, tell: Tell, what: str, total_bytes: int) -> None:
        self._tell = tell
        self._what = what
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._next_at = time.monotonic() + TELL_SECONDS

    def __call__(self, size_bytes: int) -> None:
        self._done_bytes += size_bytes
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + TELL_SECONDS
            done, total = (n / 2**20 for n in (self._done_bytes, self._total_bytes))
            self._tell(f"{self._what}: {done:,.0f} of {total:,.0f} MB")


# Taking


class Collector:
    """Takes uploads into a backup.

    Args:
        folder: Of the backup.
        previous: Of an earlier one, whose copies are linked where the store's cannot be.
    """

    def __init__(self, store: UploadStore, folder: Path, *, previous: Path | None) -> None:
        self._store = store
        self._folder = folder
        self._previous = previous
        self._counts: Counter[State] = Counter()
        self._kept_bytes = 0
        self.copied_bytes = 0

    def prepare(self) -> None:
        for number in range(256):
            (self._folder / UPLOADS / f"{number:02x}").mkdir(mode=0o700, parents=True)

    def cost(self, wanted: Iterable[Entry]) -> int:
        """How many bytes will have to be copied.

        Raises:
            StorageUnavailable: Uploads are wanted, and the whole store is away.
        """
        can_link: bool | None = None
        size_bytes = 0
        for entry in wanted:
            can_link = self._can_link() if can_link is None else can_link
            if not can_link and self._earlier(entry) is None:
                size_bytes += entry.digest.size_bytes
        return size_bytes

    def _can_link(self) -> bool:
        self._store.space()
        example = self._folder / ".example"
        linked = _link(self._store.root / MARKER, example)
        example.unlink(missing_ok=True)
        return linked

    def _earlier(self, entry: Entry) -> Path | None:
        """The copy that the backup before this one has."""
        if self._previous is None:
            return None
        path = path_in(self._previous, entry.job_id)
        same = path.is_file() and path.stat().st_size == entry.digest.size_bytes
        return path if same else None

    def take(self, wanted: Iterable[Entry], tell: Progress) -> Uploads:
        """Take all that can be had, and write the list.

        Raises:
            StorageUnavailable: The whole store is away.
        """
        with Packed(self._folder / UPLOAD_LIST) as file:
            for entry in wanted:
                state = entry.state
                if state is State.KEPT:
                    state = self._take(entry, tell)
                self._counts[state] += 1
                self._kept_bytes += entry.digest.size_bytes * (state is State.KEPT)
                file.stream.write(str(Entry(entry.job_id, entry.digest, state)).encode())
            digest = file.finish()
        return Uploads(
            kept=self._counts[State.KEPT],
            kept_bytes=self._kept_bytes,
            gone=self._counts[State.GONE],
            altered=self._counts[State.ALTERED],
            left_out=self._counts[State.LEFT_OUT],
            file=digest,
        )

    def _take(self, entry: Entry, tell: Progress) -> State:
        source = self._store.path(entry.job_id)
        target = path_in(self._folder, entry.job_id)
        with storage_errors():
            try:
                size_bytes = source.lstat().st_size
                linked = _link(source, target)
            except FileNotFoundError:
                return self._absence()
        if size_bytes != entry.digest.size_bytes:
            target.unlink(missing_ok=True)
            return State.ALTERED
        if linked:
            tell(entry.digest.size_bytes)
            return State.KEPT
        if (earlier := self._earlier(entry)) is not None and _link(earlier, target):
            tell(entry.digest.size_bytes)
            return State.KEPT
        return self._copy(entry, source, target, tell)

    def _copy(self, entry: Entry, source: Path, target: Path, tell: Progress) -> State:
        try:
            copied = files.copy(source, target, tell)
        except FileNotFoundError:
            return self._absence()
        self.copied_bytes += copied.size_bytes
        if copied == entry.digest:
            return State.KEPT
        target.unlink()
        return State.ALTERED

    def _absence(self) -> State:
        """What it means that an upload is not there."""
        if not (self._store.root / MARKER).is_file():
            raise StorageUnavailable
        return State.GONE


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name; False where that cannot be."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in NO_LINK:
            return False
        raise
    return True


def path_in(folder: Path, job_id: uuid.UUID) -> Path:
    return folder / UPLOADS / job_id.hex[-2:] / str(job_id)


# Bringing back


def entries(folder: Path) -> Iterator[Entry]:
    """The list of a backup, which has the digest that its manifest says."""
    with files.unpacked(folder / UPLOAD_LIST) as lines:
        yield from (Entry.parse(line.decode()) for line in lines)


def verify(folder: Path, tell: Progress) -> None:
    """Read every upload of a backup.

    Raises:
        BackupDamaged: One is not what was sent.
    """
    for entry in entries(folder):
        if entry.state is State.KEPT:
            files.require(path_in(folder, entry.job_id), entry.digest, tell)


class Returner:
    """Brings the uploads of a backup back into the store, and what lies there already stays.

    Done twice it does the rest, so it may be interrupted.
    """

    def __init__(self, store: UploadStore, folder: Path, *, tell: Progress) -> None:
        self._store = store
        self._folder = folder
        self._tell = tell
        self.put_back = 0
        #: Uploads that are nowhere.
        self.missing: list[Entry] = []

    def run(self, *, with_audio: bool) -> None:
        """Bring back what is not there.

        Args:
            with_audio: False takes what lies in the store alone.

        Raises:
            DiskFull, StorageUnavailable
            BackupDamaged: A file is not any more what it was when the backup was verified.
        """
        for entry in entries(self._folder):
            in_backup = with_audio and entry.state is State.KEPT
            if self._is_there(entry, trust=in_backup):
                continue
            if in_backup:
                self._put(entry)
            else:
                self.missing.append(entry)

    def _is_there(self, entry: Entry, *, trust: bool) -> bool:
        path = self._store.path(entry.job_id)
        if trust and path.exists() and path.samefile(path_in(self._folder, entry.job_id)):
            return True  # which was read a moment ago
        sha256 = bytes.fromhex(entry.digest.sha256)
        try:
            self._store.verify(entry.job_id, size_bytes=entry.digest.size_bytes, sha256=sha256)
        except UploadMissing:
            return False
        except UploadAltered:
            return not trust  # its job says so when its turn comes
        return True

    def _put(self, entry: Entry) -> None:
        with (
            folder_errors(self._folder),
            path_in(self._folder, entry.job_id).open("rb") as file,
        ):
            self._store.discard_part(entry.job_id)
            with self._store.writer(entry.job_id) as writer:
                while chunk := file.read(files.CHUNK_BYTES):
                    writer.write(chunk)
                    self._tell(len(chunk))
                upload = writer.finish()
        if upload.sha256.hex() != entry.digest.sha256:
            self._store.delete(entry.job_id)
            raise BackupDamaged(f"{path_in(self._folder, entry.job_id)} changed meanwhile.")
        _hand_over(upload.path, self._store.root)
        self.put_back += 1


def prepare(store: UploadStore) -> None:
    """Make the store ready, for whom its folder belongs to."""
    store.prepare()
    for path in store.root.iterdir():
        _hand_over(path, store.root)


def _hand_over(path: Path, like: Path) -> None:
    """Give what root has made to whom the folder belongs to, so that the service can read it."""
    if os.geteuid() == 0:
        owner = like.stat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
