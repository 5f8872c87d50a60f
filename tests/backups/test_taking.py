"""A backup is of one moment, has the uploads that its rows need, and is whole or not there."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backups import uploads
from backups.manifest import UPLOADS
from backups.taking import Taker
from backups.uploads import State
from errors import BackupFailed, DiskFull, StorageUnavailable
from jobs.uploads import MARKER, UploadStore
from tests.backups.conftest import Service, files


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder to which nothing of the test's own can be linked."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        if Path(folder).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("no second file system")
        yield Path(folder)


def states(folder: Path) -> list[State]:
    return [entry.state for entry in uploads.entries(folder)]


def contents(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in (folder / UPLOADS).rglob("*") if path.is_file()}


def test_it_has_every_upload_that_a_job_has_and_no_other(service: Service, folder: Path) -> None:
    for content in (b"one", b"two"):
        service.submit(content)
    deleted = service.submit(b"deleted")
    service.execute("UPDATE transcription_jobs SET upload_deleted_at = now() WHERE id = :id",
                    id=deleted)  # fmt: skip
    taken = service.take(folder)

    assert contents(folder) == {b"one", b"two"}
    assert states(folder) == [State.KEPT] * 2
    assert (taken.manifest.uploads.kept, taken.manifest.uploads.kept_bytes) == (2, 6)


def test_uploads_on_the_same_disk_are_links(service: Service, folder: Path) -> None:
    job_id = service.submit()
    taken = service.take(folder)

    assert service.uploads.path(job_id).samefile(uploads.path_in(folder, job_id))
    assert taken.copied_bytes == 0


def test_a_linked_upload_outlives_its_deletion(service: Service, folder: Path) -> None:
    job_id = service.submit(b"sound")
    service.take(folder)
    service.uploads.delete(job_id)

    assert contents(folder) == {b"sound"}


def test_uploads_on_another_disk_are_copies(service: Service, other_disk: Path) -> None:
    service.submit(b"sound")
    taken = service.take(other_disk / "backup")

    assert contents(other_disk / "backup") == {b"sound"}
    assert taken.copied_bytes == 5


def test_what_an_earlier_backup_has_is_not_copied_again(service: Service, other_disk: Path) -> None:
    old = service.submit(b"old")
    service.take(other_disk / "first")
    service.submit(b"young")
    taken = service.take(other_disk / "second", previous=other_disk / "first")
    shutil.rmtree(other_disk / "first")

    assert contents(other_disk / "second") == {b"old", b"young"}
    assert taken.copied_bytes == len(b"young")
    assert uploads.path_in(other_disk / "second", old).stat().st_nlink == 1


def test_an_upload_that_was_deleted_meanwhile_is_gone(
    service: Service, folder: Path, other_disk: Path
) -> None:
    job_id = service.submit()
    service.uploads.delete(job_id)
    for place in (folder, other_disk / "backup"):
        taken = service.take(place)

        assert states(place) == [State.GONE]
        assert taken.manifest.uploads.gone == 1


@pytest.mark.parametrize("content", [b"sound and more", b"noise"])
def test_an_upload_that_was_altered_is_not_kept_where_it_is_read(
    content: bytes, service: Service, other_disk: Path
) -> None:
    service.uploads.path(service.submit(b"sound")).write_bytes(content)
    taken = service.take(other_disk / "backup")

    assert states(other_disk / "backup") == [State.ALTERED]
    assert contents(other_disk / "backup") == set()
    assert taken.manifest.uploads.altered == 1


def test_no_upload_is_taken_for_deleted_because_the_disk_is_away(
    service: Service, folder: Path
) -> None:
    service.submit()
    shutil.rmtree(service.uploads.root)
    service.uploads.root.mkdir()

    with pytest.raises(StorageUnavailable):
        service.take(folder)
    assert not folder.exists()


def test_uploads_are_left_out_when_asked_for(service: Service, folder: Path) -> None:
    service.submit()
    taken = service.take(folder, with_audio=False)

    assert (taken.manifest.uploads.kept, taken.manifest.uploads.left_out) == (0, 1)
    assert contents(folder) == set()
    assert taken.manifest.jobs == 1


def test_a_backup_that_does_not_fit_is_not_begun(service: Service, other_disk: Path) -> None:
    service.submit()
    store = UploadStore(service.uploads.root, max_bytes=100, min_free_bytes=2**60)
    taker = Taker(engine=service.engine, uploads=store, tell=service.told.append)

    with pytest.raises(DiskFull):
        taker.take(other_disk / "backup", with_audio=True)
    assert list(other_disk.iterdir()) == []
    assert service.told == []


@pytest.mark.parametrize("revision", ["yet_to_come", "604d"])
def test_tables_of_another_version_are_not_taken(
    revision: str, service: Service, folder: Path
) -> None:
    service.execute("UPDATE alembic_version SET version_num = :revision", revision=revision)

    with pytest.raises(BackupFailed, match="the version that the database belongs to"):
        service.take(folder)
    assert not folder.exists()


def test_it_says_how_far_it_is(service: Service, folder: Path) -> None:
    service.submit()
    service.take(folder)

    assert "transcription_jobs: 1 rows" in service.told


def test_nothing_is_left_in_it_that_is_not_its_own(service: Service, folder: Path) -> None:
    service.submit()
    service.take(folder)
    kinds = {name.partition("/")[0] for name in files(folder)}

    assert kinds == {"manifest.json", "manifest.sha256", "tables", "uploads", "uploads.tsv.gz"}
    assert (service.uploads.root / MARKER).stat().st_nlink == 1
