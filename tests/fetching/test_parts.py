"""What is here of an upload: a real file, with a real lock."""

import hashlib
from uuid import uuid4

import pytest

from errors import DiskFull, EmptyFile, Occupied, StorageUnavailable, UploadTooLarge
from fetching.parts import Part
from jobs.uploads import PART_DIR, UploadStore
from tests.fetching.conftest import MEGABYTE, parts_of


def test_it_is_gone_on_with_and_kept_under_its_jobs_name(uploads):
    job_id = uuid4()
    with Part(uploads, job_id) as part:
        part.write(b"one ")
    with Part(uploads, job_id) as part:
        part.cut(4)
        part.write(b"two")
        part.keep()
        digest = part.sha256

    assert uploads.find(job_id).read_bytes() == b"one two"
    assert digest == hashlib.sha256(b"one two").digest()
    assert uploads.find(job_id).stat().st_mode & 0o777 == 0o600
    assert parts_of(uploads) == []


@pytest.mark.parametrize(("kept", "rest"), [(3, b"abc"), (5, b"abcde"), (6, b""), (0, b"")])
def test_it_is_cut_to_what_counts(uploads, kept, rest):
    job_id = uuid4()
    with Part(uploads, job_id) as part:
        part.write(b"abcde")
        part.cut(kept)

        assert part.size_bytes == len(rest)
        assert part.sha256 == hashlib.sha256(rest).digest()
    assert [path.read_bytes() for path in parts_of(uploads)] == [rest]


def test_two_do_not_have_it_at_once(uploads):
    job_id = uuid4()
    with Part(uploads, job_id), pytest.raises(Occupied):
        Part(uploads, job_id)
    Part(uploads, job_id).__exit__()


def test_one_that_was_deleted_meanwhile_is_begun_anew(uploads):
    job_id = uuid4()
    with Part(uploads, job_id) as first:
        first.write(b"abc")
        uploads.delete(job_id)
        with Part(uploads, job_id) as second:
            second.cut(3)

            assert second.size_bytes == 0


def test_it_is_bounded(uploads):
    with Part(uploads, uuid4()) as part:
        part.write(bytes(4 * MEGABYTE))
        with pytest.raises(UploadTooLarge):
            part.write(b"a")


def test_nothing_is_no_upload(uploads):
    with Part(uploads, uuid4()) as part, pytest.raises(EmptyFile):
        part.keep()


def test_the_disk_has_a_floor(tmp_path):
    store = UploadStore(tmp_path, max_bytes=100 * MEGABYTE, min_free_bytes=0)
    store.prepare()
    with Part(store, uuid4()) as part:
        part.write(bytes(16 * MEGABYTE))
        store.min_free_bytes = 2**60
        with pytest.raises(DiskFull):
            part.write(b"a")


def test_a_link_is_not_followed(uploads, tmp_path):
    job_id = uuid4()
    (tmp_path / "theirs").write_bytes(b"theirs")
    (uploads.root / PART_DIR / str(job_id)).symlink_to(tmp_path / "theirs")
    with pytest.raises(StorageUnavailable):
        Part(uploads, job_id)

    assert (tmp_path / "theirs").read_bytes() == b"theirs"


def test_a_store_that_is_not_there_is_said_so(tmp_path):
    store = UploadStore(tmp_path / "nowhere", max_bytes=10, min_free_bytes=0)
    with pytest.raises(StorageUnavailable):
        Part(store, uuid4())
