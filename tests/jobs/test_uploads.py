"""Uploads on a real disk: whole and durable under our name, or not there at all."""

import errno
import hashlib
import os
import resource
import subprocess
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from uuid_utils.compat import uuid7

from errors import (
    CancelRequested,
    DiskFull,
    EmptyFile,
    StorageUnavailable,
    UploadAltered,
    UploadMissing,
    UploadTooLarge,
)
from jobs.uploads import MARKER, NO_SPACE, PART_DIR, STALE_PART_SECONDS, Upload, UploadStore

MEBIBYTE = 2**20


def make_store(root: Path, *, max_bytes: int = 100, min_free_bytes: int = 0) -> UploadStore:
    store = UploadStore(root, max_bytes=max_bytes, min_free_bytes=min_free_bytes)
    store.prepare()
    return store


@pytest.fixture
def store(tmp_path: Path) -> UploadStore:
    return make_store(tmp_path / "uploads")


@pytest.fixture
def job_id() -> uuid.UUID:
    return uuid7()


def upload(store: UploadStore, job_id: uuid.UUID, chunks: Iterable[bytes] = (b"x",)) -> Upload:
    with store.writer(job_id) as writer:
        for chunk in chunks:
            writer.write(chunk)
        return writer.finish()


def files(store: UploadStore) -> list[str]:
    """Everything that lies in the store, its marker aside."""
    found = (path for path in store.root.rglob("*") if path.is_file() and path.name != MARKER)
    return sorted(str(path.relative_to(store.root)) for path in found)


def age(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


# What is stored


def test_an_upload_is_stored_as_it_was_sent(store: UploadStore, job_id: uuid.UUID) -> None:
    stored = upload(store, job_id, [b"one ", b"", b"two"])

    assert stored.path.read_bytes() == b"one two"
    assert (stored.job_id, stored.size_bytes) == (job_id, 7)
    assert stored.sha256 == hashlib.sha256(b"one two").digest()
    assert store.find(job_id) == stored.path


def test_an_upload_bears_the_name_of_its_job_and_nothing_else(
    store: UploadStore, job_id: uuid.UUID
) -> None:
    upload(store, job_id)

    assert files(store) == [f"{job_id.hex[-2:]}/{job_id}"]


def test_folders_fill_evenly(store: UploadStore) -> None:
    folders = {store.path(uuid7()).parent for _ in range(1000)}

    assert len(folders) > 200


def test_nobody_else_may_read_an_upload(store: UploadStore, job_id: uuid.UUID) -> None:
    path = upload(store, job_id).path

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_an_upload_has_no_name_before_it_is_whole(store: UploadStore, job_id: uuid.UUID) -> None:
    with store.writer(job_id) as writer:
        writer.write(b"half")
        with pytest.raises(UploadMissing):
            store.find(job_id)
        assert files(store) == [f"{PART_DIR}/{job_id}"]


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_answer(
    store: UploadStore, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(fd: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{fd}').readlink().relative_to(store.root)}")
        fsync(fd)

    def noted_rename(source: Path, target: Path) -> None:
        done.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    upload(store, job_id)

    assert done == [f"sync {PART_DIR}/{job_id}", "rename", f"sync {job_id.hex[-2:]}"]


# What is not


@pytest.mark.parametrize("chunks", [[], [b""]])
def test_an_empty_upload_is_refused(
    chunks: list[bytes], store: UploadStore, job_id: uuid.UUID
) -> None:
    with pytest.raises(EmptyFile):
        upload(store, job_id, chunks)

    assert files(store) == []


def test_an_upload_of_just_the_cap_is_taken(store: UploadStore, job_id: uuid.UUID) -> None:
    assert upload(store, job_id, [b"x" * 60, b"x" * 40]).size_bytes == store.max_bytes


def test_the_byte_over_the_cap_ends_the_upload(store: UploadStore, job_id: uuid.UUID) -> None:
    with pytest.raises(UploadTooLarge) as caught:
        upload(store, job_id, [b"x" * 100, b"x"])

    assert caught.value.data == {"max_bytes": 100}
    assert files(store) == []


def test_what_is_announced_too_large_is_not_begun(store: UploadStore, job_id: uuid.UUID) -> None:
    with pytest.raises(UploadTooLarge):
        store.writer(job_id, expected_bytes=101)

    assert files(store) == []


def test_a_client_that_goes_away_leaves_nothing(store: UploadStore, job_id: uuid.UUID) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        upload(store, job_id, chunks())

    assert files(store) == []


def test_closing_twice_harms_nobody(store: UploadStore, job_id: uuid.UUID) -> None:
    writer = store.writer(job_id)
    writer.close()
    with (store.root / "other").open("wb") as other:  # takes the number of the closed file
        writer.close()
        other.write(b"x")

    assert (store.root / "other").read_bytes() == b"x"


def test_two_uploads_of_one_job_do_not_meet(store: UploadStore, job_id: uuid.UUID) -> None:
    with store.writer(job_id) as writer:
        writer.write(b"first")
        with pytest.raises(StorageUnavailable):
            store.writer(job_id)
        writer.finish()

    assert store.find(job_id).read_bytes() == b"first"


def test_a_link_in_the_way_is_not_followed(
    store: UploadStore, job_id: uuid.UUID, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    (store.root / PART_DIR / str(job_id)).symlink_to(target)

    with pytest.raises(StorageUnavailable):
        store.writer(job_id)

    assert not target.exists()


# The disk


def test_an_upload_leaves_the_floor_of_the_disk_free(tmp_path: Path, job_id: uuid.UUID) -> None:
    store = make_store(tmp_path, min_free_bytes=2**62)
    with pytest.raises(DiskFull):
        store.writer(job_id)

    assert files(store) == []


def test_the_announced_size_counts_against_the_floor(tmp_path: Path, job_id: uuid.UUID) -> None:
    store = make_store(tmp_path, max_bytes=2**62)
    with store.writer(job_id):
        pass
    with pytest.raises(DiskFull):
        store.writer(job_id, expected_bytes=2**61)


def test_the_floor_is_watched_while_bytes_come_in(tmp_path: Path, job_id: uuid.UUID) -> None:
    store = make_store(tmp_path)
    store.check_bytes = 4
    with store.writer(job_id) as writer:
        writer.write(b"123")
        store.min_free_bytes = 2**62
        with pytest.raises(DiskFull):
            writer.write(b"4")

    assert files(store) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEBIBYTE}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_ends_the_upload_and_is_as_free_as_before(
    small_disk: Path, job_id: uuid.UUID
) -> None:
    store = make_store(small_disk, max_bytes=10 * MEBIBYTE)
    before = os.statvfs(small_disk).f_bavail

    with pytest.raises(DiskFull):
        upload(store, job_id, [b"x" * 65_536] * 32)

    assert os.statvfs(small_disk).f_bavail == before


def test_a_file_that_may_not_grow_ends_the_upload(tmp_path: Path, job_id: uuid.UUID) -> None:
    store = make_store(tmp_path, max_bytes=MEBIBYTE)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with store.writer(job_id) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            with pytest.raises(DiskFull):
                writer.write(b"x" * 20_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert files(store) == []


def test_the_codes_of_a_full_disk_are_those_of_quota_and_space() -> None:
    assert {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} == NO_SPACE


# What became of it since


def verify(store: UploadStore, stored: Upload) -> Path:
    return store.verify(stored.job_id, size_bytes=stored.size_bytes, sha256=stored.sha256)


def test_an_upload_that_stayed_as_it_was_is_what_was_sent(
    store: UploadStore, job_id: uuid.UUID
) -> None:
    stored = upload(store, job_id, [b"one two"])

    assert verify(store, stored) == stored.path


def _change(path: Path) -> None:
    path.write_bytes(b"one tvo")


def _cut(path: Path) -> None:
    path.write_bytes(b"one")


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("alter", [_change, _cut, _link, _link_to_nothing, _folder, _fifo])
def test_an_upload_that_was_altered_is_not_what_was_sent(
    alter: Callable[[Path], None], store: UploadStore, job_id: uuid.UUID
) -> None:
    stored = upload(store, job_id, [b"one two"])
    alter(stored.path)

    with pytest.raises(UploadAltered):
        verify(store, stored)


@pytest.mark.parametrize("alter", [_link, _folder, _fifo])
def test_what_is_no_file_is_not_found(
    alter: Callable[[Path], None], store: UploadStore, job_id: uuid.UUID
) -> None:
    alter(upload(store, job_id).path)

    with pytest.raises(UploadMissing):
        store.find(job_id)


def test_an_upload_that_is_gone_cannot_be_verified(store: UploadStore, job_id: uuid.UUID) -> None:
    stored = upload(store, job_id)
    stored.path.unlink()

    with pytest.raises(UploadMissing):
        verify(store, stored)
    (store.root / MARKER).unlink()
    with pytest.raises(StorageUnavailable):
        verify(store, stored)


def test_verifying_can_be_stopped(store: UploadStore, job_id: uuid.UUID) -> None:
    stored = upload(store, job_id)

    def stop() -> None:
        raise CancelRequested

    with pytest.raises(CancelRequested):
        store.verify(job_id, size_bytes=stored.size_bytes, sha256=stored.sha256, attend=stop)


# A store that is away


def test_a_missing_file_is_gone_for_good(store: UploadStore, job_id: uuid.UUID) -> None:
    with pytest.raises(UploadMissing):
        store.find(job_id)


def test_a_missing_file_in_a_store_without_its_marker_may_come_back(
    store: UploadStore, job_id: uuid.UUID
) -> None:
    (store.root / MARKER).unlink()  # as where the volume is not mounted

    with pytest.raises(StorageUnavailable):
        store.find(job_id)


def test_a_file_that_is_there_is_found_without_a_marker(
    store: UploadStore, job_id: uuid.UUID
) -> None:
    stored = upload(store, job_id)
    (store.root / MARKER).unlink()

    assert store.find(job_id) == stored.path


def test_nothing_can_be_written_where_nothing_was_prepared(
    tmp_path: Path, job_id: uuid.UUID
) -> None:
    store = UploadStore(tmp_path / "nowhere", max_bytes=100, min_free_bytes=0)

    with pytest.raises(StorageUnavailable):
        store.writer(job_id)
    with pytest.raises(StorageUnavailable):
        store.find(job_id)
    with pytest.raises(StorageUnavailable):
        store.sweep()


def test_preparing_twice_keeps_what_is_there(store: UploadStore, job_id: uuid.UUID) -> None:
    upload(store, job_id)
    store.prepare()

    assert store.find(job_id).read_bytes() == b"x"


def test_a_store_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StorageUnavailable):
        make_store(tmp_path / "file")


# What is deleted


def test_deleting_may_be_said_twice(store: UploadStore, job_id: uuid.UUID) -> None:
    upload(store, job_id)
    for _ in range(2):
        store.delete(job_id)

    assert files(store) == []


def test_only_uploads_begun_long_ago_are_swept(store: UploadStore) -> None:
    parts = [store.root / PART_DIR / str(uuid7()) for _ in range(2)]
    for part in parts:
        part.touch()
    age(parts[0], STALE_PART_SECONDS + 60)

    assert store.sweep() == 1
    assert not parts[0].exists()
    assert parts[1].exists()


def test_sweeping_and_listing_leave_alone_what_is_not_ours(store: UploadStore) -> None:
    (store.root / PART_DIR / "notes").touch()
    (store.root / "ab" / "not-ours").touch()
    for path in (store.root / PART_DIR / "notes", store.root / "ab" / "not-ours"):
        age(path, 2 * STALE_PART_SECONDS)

    assert store.sweep() == 0
    assert list(store.stored_before(2**40)) == []
    assert files(store) == [f"{PART_DIR}/notes", "ab/not-ours"]


def test_uploads_are_listed_by_age(store: UploadStore) -> None:
    old, new = uuid7(), uuid7()
    for job_id in (old, new):
        upload(store, job_id)
    age(store.path(old), 100)
    horizon = store.path(new).stat().st_mtime - 50

    assert list(store.stored_before(horizon)) == [old]
    assert set(store.stored_before(horizon + 100)) == {old, new}


def test_what_vanishes_while_it_is_listed_is_passed_over(store: UploadStore) -> None:
    ids = [uuid.UUID(f"00000000-0000-7000-8000-00000000{number}00") for number in range(10, 14)]
    for job_id in ids:  # all in one folder, which is listed at once
        upload(store, job_id)
    listed = store.stored_before(2**40)
    first = next(listed)
    rest = [job_id for job_id in ids if job_id != first]
    store.path(rest[0]).unlink()

    assert set(listed) == {*rest[1:]}


# Kept for another job


def no_links(*_: object, **__: object) -> None:
    raise OSError(errno.ENOTSUP, "Operation not supported")


@pytest.mark.parametrize("links", [True, False])
def test_an_upload_may_be_kept_for_another_job(
    store: UploadStore, job_id: uuid.UUID, monkeypatch: pytest.MonkeyPatch, *, links: bool
) -> None:
    """Also where the file system knows one name of a file at most."""
    stored = upload(store, job_id, [b"so", b"und"])
    age(stored.path, 3600)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    new_id = uuid7()
    store.share(job_id, new_id)
    shared = store.verify(new_id, size_bytes=5, sha256=stored.sha256)
    store.delete(job_id)

    assert shared.read_bytes() == b"sound"
    # or it would be taken for one that nobody claimed
    assert [*store.stored_before(shared.stat().st_mtime)] == []


def test_what_is_not_there_is_kept_for_nobody(store: UploadStore, job_id: uuid.UUID) -> None:
    with pytest.raises(UploadMissing):
        store.share(job_id, uuid7())

    assert files(store) == []


def test_a_full_disk_takes_no_further_job(tmp_path: Path, job_id: uuid.UUID) -> None:
    stored = upload(make_store(tmp_path), job_id)
    with pytest.raises(DiskFull):
        make_store(tmp_path, min_free_bytes=2**60).share(job_id, uuid7())

    assert files(make_store(tmp_path)) == [str(stored.path.relative_to(tmp_path))]
