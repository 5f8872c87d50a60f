"""A backup is restored as a whole or not at all, and nobody's work is lost unasked."""

import gzip
import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

import auth
import keys
from audit import chain
from audit.events import CLI, record
from backups import uploads
from backups.manifest import MANIFEST, MANIFEST_SUM, table_path
from backups.restoring import Restorer
from backups.tables import LEFT_OUT
from errors import (
    BackupDamaged,
    DatabaseUnavailable,
    LeaseLost,
    NotAuthenticated,
    RestoreRefused,
)
from jobs import lifecycle
from jobs.lifecycle import Backoff, Beat, Failure
from jobs.uploads import PART_DIR, UNCLAIMED_DIR
from keys import Grant
from models import AuditAction, JobStatus, TranscriptionJob
from tests.backups.conftest import Service, files

#: Tables that a restore itself changes.
CHANGED: Final = frozenset({"audit_events", "transcription_jobs", *LEFT_OUT})
FAILURE: Final = Failure(code="engine_error", message="No.")
NO_PAUSE: Final = Backoff(base_seconds=0.0, cap_seconds=0.0)


def job(service: Service, job_id: uuid.UUID) -> TranscriptionJob:
    with service.sessions() as session:
        return session.get_one(TranscriptionJob, job_id)


def make_key(service: Service, owner: str = "alice", **values: Any) -> tuple[str, uuid.UUID]:
    with service.sessions.begin() as session:
        secret, key = keys.create(session, Grant(owner=owner, **values))
        return secret, key.id


def works(service: Service, secret: str) -> bool:
    try:
        with service.sessions.begin() as session:
            auth.authenticate(session, secret)
    except NotAuthenticated:
        return False
    return True


# All of it


def test_everything_is_what_it_was(service: Service, empty: Service, folder: Path) -> None:
    for content in (b"one", b"two"):
        service.submit(content)
    make_key(service)
    before = service.rows(without=CHANGED)
    service.take(folder)
    _, restored, brought = empty.restore(folder)

    assert empty.rows(without=CHANGED) == before
    assert files(empty.uploads.root) == files(service.uploads.root)
    assert (restored.jobs, restored.waiting) == (2, 2)
    assert (brought.put_back, brought.missing, brought.unclaimed) == (2, 0, 0)


def test_the_chain_of_audit_events_is_the_same(
    service: Service, empty: Service, folder: Path
) -> None:
    for number in range(5):
        with service.sessions.begin() as session:
            record(session, CLI, AuditAction.QUEUE_PAUSED, detail={"number": number})
    with service.sessions.begin() as session:
        chain.seal(session)
        head = chain.head(session)
    service.take(folder)
    empty.restore(folder)
    with empty.sessions.begin() as session:
        before = chain.verify(session, [head])
        chain.seal(session)
        after = chain.verify(session, [head])

    assert (before.events, before.waiting, before.broken) == (5, 1, None)
    assert (after.events, after.waiting, after.broken) == (6, 0, None)
    (told,) = empty.execute("SELECT action, actor, detail FROM audit_events WHERE position = 6")
    assert (told.action, told.actor) == ("backup_restored", "cli")


def test_what_is_left_out_is_empty_afterwards(
    service: Service, empty: Service, folder: Path
) -> None:
    _, key_id = make_key(service)
    service.execute("INSERT INTO request_counts VALUES (:id, now(), 1)", id=key_id)
    service.execute("INSERT INTO page_sessions VALUES ('t', :id, 'k', now(), now())", id=key_id)
    service.submit()
    assert service.rows()["tallies"]
    service.take(folder)
    empty.restore(folder)

    assert [empty.rows()[name] for name in LEFT_OUT] == [[] for _ in LEFT_OUT]


# Jobs go on, and nobody from before may write


def test_what_was_being_processed_goes_on(service: Service, empty: Service, folder: Path) -> None:
    job_id = service.submit()
    service.claim(job_id)
    service.take(folder)
    empty.restore(folder)
    found = job(empty, job_id)

    assert (found.status, found.attempt, found.worker_name) == ("pending", 0, None)
    assert (found.crash_count, found.isolate) == (0, False)
    assert empty.claim(job_id).lease.attempt == 1


def test_what_was_being_cancelled_is_cancelled(
    service: Service, empty: Service, folder: Path
) -> None:
    job_id = service.submit()
    service.claim(job_id)
    with service.sessions.begin() as session:
        lifecycle.cancel(session, job_id)
    service.take(folder)
    empty.restore(folder)

    assert job(empty, job_id).status == JobStatus.CANCELLED


def test_what_waits_is_due_at_once(service: Service, empty: Service, folder: Path) -> None:
    job_id = service.submit()
    service.execute(
        "UPDATE transcription_jobs SET dispatch_count = 9, dispatch_due_at = now() + interval '9 h'"
    )
    service.take(folder)
    empty.restore(folder)
    found = job(empty, job_id)

    assert found.dispatch_count == 0
    assert empty.execute(
        "SELECT FROM transcription_jobs WHERE dispatch_due_at <= now() AND not_before <= now()"
    )


@pytest.mark.parametrize("state", ["pending", "processing", "failed"])
def test_a_lease_from_before_writes_nothing(
    state: str, service: Service, empty: Service, folder: Path
) -> None:
    """Not even when it was given after the backup, so that the backup does not know of it."""
    job_id = service.submit()
    if state == "processing":
        service.claim(job_id)
    if state == "failed":
        with service.sessions.begin() as session:
            lifecycle.fail(session, claim(session, job_id), FAILURE)
    service.take(folder)
    with service.sessions.begin() as session:
        if state == "processing":
            lease = lease_of(session, job_id)
            lifecycle.retry(session, lease, FAILURE, NO_PAUSE)
        if state == "failed":
            lifecycle.redrive(session, [job_id], lifecycle.Redrive(max_attempts=3))
        zombie = claim(session, job_id)
    empty.restore(folder)
    with empty.sessions.begin() as session:
        if state == "failed":
            lifecycle.redrive(session, [job_id], lifecycle.Redrive(max_attempts=3))
        for _ in range(3):  # as often as it takes for the numbers to meet, if they could
            lease = claim(session, job_id)
            assert lifecycle.heartbeat(session, [Beat(lease=zombie, progress=1.0)]) == {}
            with pytest.raises(LeaseLost):
                lifecycle.fail(session, zombie, FAILURE)
            lifecycle.hand_back(session, lease)


def claim(session: Session, job_id: uuid.UUID) -> lifecycle.Lease:
    claimed = lifecycle.claim(session, job_id, "worker:1")
    assert claimed is not None
    return claimed.lease


def lease_of(session: Session, job_id: uuid.UUID) -> lifecycle.Lease:
    found = session.get_one(TranscriptionJob, job_id)
    return lifecycle.Lease(
        job_id=job_id, epoch=found.lease_epoch, worker_name="worker:1", attempt=found.attempt
    )


def test_two_restores_of_one_backup_give_other_leases(
    service: Service, empty: Service, folder: Path
) -> None:
    job_id = service.submit()
    service.take(folder)
    empty.restore(folder)
    first = empty.claim(job_id).lease.epoch
    empty.restore(folder, replace=True)

    assert empty.claim(job_id).lease.epoch > first


def test_a_completed_job_keeps_the_lease_of_its_result(
    service: Service, empty: Service, folder: Path
) -> None:
    job_id = service.submit()
    service.claim(job_id)
    service.execute(
        "UPDATE transcription_jobs"
        "   SET status = 'completed', completed_at = now(), worker_name = NULL"
    )
    service.take(folder)
    before = service.rows()["transcription_jobs"]
    empty.restore(folder)

    assert empty.rows()["transcription_jobs"] == before


# Uploads


def test_an_upload_that_is_nowhere_ends_its_job(
    service: Service, empty: Service, folder: Path
) -> None:
    waiting, running, done = (service.submit() for _ in range(3))
    service.claim(running)
    service.execute("UPDATE transcription_jobs SET status = 'cancelled', completed_at = now(),"
                    " cancel_requested_at = now() WHERE id = :id", id=done)  # fmt: skip
    for job_id in (waiting, running, done):
        service.uploads.delete(job_id)
    service.take(folder)
    _, _, brought = empty.restore(folder)

    assert [job(empty, i).failure_reason for i in (waiting, running)] == ["upload_missing"] * 2
    assert job(empty, done).upload_deleted_at is not None
    assert brought.missing == 3


def test_uploads_that_are_there_stay(service: Service, folder: Path, empty: Service) -> None:
    """Where only the database was lost."""
    service.submit()
    service.take(folder)
    empty.uploads.root = service.uploads.root
    before = files(service.uploads.root)
    _, _, brought = empty.restore(folder)

    assert files(service.uploads.root) == before
    assert (brought.put_back, brought.missing) == (0, 0)


def test_an_upload_that_was_altered_is_brought_back(
    service: Service, folder: Path, tmp_path: Path
) -> None:
    job_id = service.submit(b"sound")
    service.take(folder)
    shutil.copytree(folder, tmp_path / "elsewhere")
    service.uploads.delete(job_id)
    service.uploads.path(job_id).write_bytes(b"noise")
    _, _, brought = service.restore(tmp_path / "elsewhere", replace=True)

    assert service.uploads.path(job_id).read_bytes() == b"sound"
    assert brought.put_back == 1


def test_uploads_that_came_later_are_set_aside(service: Service, folder: Path) -> None:
    known = service.submit(b"known")
    service.take(folder)
    later = service.submit(b"later")
    _, _, brought = service.restore(folder, replace=True)

    assert (service.uploads.root / UNCLAIMED_DIR / str(later)).read_bytes() == b"later"
    assert service.uploads.path(known).exists()
    assert brought.unclaimed == 1


def test_a_restore_that_was_cut_off_while_it_brought_uploads_goes_on(
    service: Service, empty: Service, folder: Path
) -> None:
    half, whole = (service.submit() for _ in range(2))
    service.take(folder)
    empty.uploads.prepare()
    (empty.uploads.root / PART_DIR / str(half)).write_bytes(b"so")
    shutil.copy(uploads.path_in(folder, whole), empty.uploads.path(whole))
    _, _, brought = empty.restore(folder)

    assert files(empty.uploads.root) == files(service.uploads.root)
    assert brought.put_back == 1


def test_a_backup_without_uploads_wants_them_to_be_there(
    service: Service, empty: Service, folder: Path
) -> None:
    job_id = service.submit()
    service.take(folder, with_audio=False)
    with pytest.raises(RestoreRefused, match="is no folder of uploads"):
        empty.restore(folder)
    empty.uploads.prepare()
    with pytest.raises(RestoreRefused, match="1 uploads are neither in the backup nor in"):
        empty.restore(folder)
    assert empty.execute("SELECT to_regclass('owners') AS found")[0].found is None
    shutil.copy(service.uploads.path(job_id), empty.uploads.path(job_id))
    empty.restore(folder)

    assert job(empty, job_id).status == "pending"


def test_a_backup_without_uploads_is_restored_without_when_asked_for(
    service: Service, empty: Service, folder: Path
) -> None:
    job_id = service.submit()
    service.take(folder, with_audio=False)
    empty.restore(folder, with_audio=False)

    assert job(empty, job_id).failure_reason == "upload_missing"


# Damage is found before anything is touched

Damage = Callable[[Path, uuid.UUID], object]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # it may be a link to the store's
    path.write_bytes(content)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1])


def claim_more(folder: Path, _: uuid.UUID) -> None:
    """Alter the manifest as somebody would who knows of its digest: a row that is not there."""
    told = json.loads((folder / MANIFEST).read_bytes())
    for table in told["tables"]:
        table["rows"] += table["name"] == "owners"
    content = json.dumps(told).encode()
    (folder / MANIFEST).write_bytes(content)
    (folder / MANIFEST_SUM).write_text(f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n")


DAMAGES: dict[str, Damage] = {
    "a table is missing": lambda folder, _: table_path(folder, "owners").unlink(),
    "a table's byte is flipped": lambda folder, _: flip(table_path(folder, "transcription_jobs")),
    "a table is cut short": lambda folder, _: cut(table_path(folder, "transcription_jobs")),
    "the list of uploads is missing": lambda folder, _: (folder / "uploads.tsv.gz").unlink(),
    "the list of uploads is another": lambda folder, _: (folder / "uploads.tsv.gz").write_bytes(
        gzip.compress(b"")
    ),
    "an upload is missing": lambda folder, job_id: uploads.path_in(folder, job_id).unlink(),
    "an upload's byte is flipped": lambda folder, job_id: flip(uploads.path_in(folder, job_id)),
    "an upload is cut short": lambda folder, job_id: cut(uploads.path_in(folder, job_id)),
    "the manifest is missing": lambda folder, _: (folder / MANIFEST).unlink(),
    "the manifest's digest is missing": lambda folder, _: (folder / MANIFEST_SUM).unlink(),
    "the manifest is altered": lambda folder, _: flip(folder / MANIFEST),
    "the manifest is cut short": lambda folder, _: cut(folder / MANIFEST),
    "the manifest claims more": claim_more,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_backup_changes_nothing(damage: str, service: Service, folder: Path) -> None:
    job_id = service.submit(b"sound")
    service.take(folder)
    later = service.submit(b"later")
    DAMAGES[damage](folder, job_id)
    before = service.rows(), files(service.uploads.root)

    with pytest.raises(BackupDamaged):
        service.restore(folder, replace=True)
    assert (service.rows(), files(service.uploads.root)) == before
    assert service.uploads.path(later).exists()


# A restore that does not come to its end


@pytest.mark.parametrize("at", ["DROP TABLE owners", "COPY", "lease_epoch", "INTO audit_events"])
def test_a_restore_that_is_cut_off_leaves_the_database_as_it_was(
    at: str, service: Service, folder: Path
) -> None:
    service.submit()
    service.take(folder)
    service.submit()
    before = service.rows()
    other = Service(service.url, service.uploads.root)
    wanted = "ANALYZE" if at == "COPY" else at  # which follows the first table's

    def end(connection: Any, _: Any, statement: str, *__: Any) -> None:
        if wanted in statement:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )

    event.listen(service.engine, "before_cursor_execute", end)
    with pytest.raises(DatabaseUnavailable):
        service.restore(folder, replace=True)
    other.engine.dispose()
    event.remove(service.engine, "before_cursor_execute", end)

    assert service.rows() == before


# What other means restored


def test_after_other_means_leases_are_void_and_uploads_of_no_job_are_spared(
    service: Service,
) -> None:
    job_id = service.submit()
    zombie = service.claim(job_id).lease
    later = service.submit(b"later")
    service.execute("DELETE FROM transcription_jobs WHERE id = :id", id=later)
    restorer = Restorer(engine=service.engine, uploads=service.uploads, tell=service.told.append)
    settled = restorer.settle()

    assert settled == (1, 1)
    assert job(service, job_id).status == "pending"
    assert (service.uploads.root / UNCLAIMED_DIR / str(later)).read_bytes() == b"later"
    with service.sessions() as session, pytest.raises(LeaseLost):
        lifecycle.fail(session, zombie, FAILURE)


def test_nothing_is_settled_while_the_service_runs(service: Service) -> None:
    service.execute(
        "INSERT INTO workers (name, role, version, queues, slots)"
        " VALUES ('gpu1:17:ab', 'worker', '3.0.0', '{high}', 1)"
    )
    restorer = Restorer(engine=service.engine, uploads=service.uploads, tell=service.told.append)

    with pytest.raises(RestoreRefused, match="gpu1:17:ab"):
        restorer.settle()


# Where it may not be restored


def test_jobs_are_not_replaced_unasked(service: Service, folder: Path) -> None:
    service.submit()
    service.take(folder)
    service.submit()
    before = service.rows()

    with pytest.raises(RestoreRefused, match="2 jobs, of which 1 were submitted after") as refused:
        service.restore(folder)
    assert "--replace" in refused.value.message
    assert service.rows() == before


def test_a_database_without_jobs_is_filled(service: Service, empty: Service, folder: Path) -> None:
    """As a new machine's is, once its web process has made its first key."""
    service.submit()
    service.take(folder)
    empty.restore(folder)
    empty.execute("TRUNCATE transcription_jobs CASCADE")
    stale, _ = make_key(empty, "admin")
    _, restored, _ = empty.restore(folder)

    assert restored.jobs == 1
    assert not works(empty, stale)
    assert len(restored.keys_lost) == 1


def test_other_peoples_tables_stay(service: Service, empty: Service, folder: Path) -> None:
    empty.execute("CREATE TABLE recipes AS SELECT 'soup' AS name")
    service.take(folder)
    empty.restore(folder)

    assert empty.execute("SELECT name FROM recipes")[0].name == "soup"


@pytest.mark.parametrize("revision", ["yet_to_come", "5e05da7b7d89"])
def test_a_database_of_another_version_is_left_alone(
    revision: str, service: Service, folder: Path
) -> None:
    service.take(folder)
    service.execute("UPDATE alembic_version SET version_num = :revision", revision=revision)
    before = service.rows()

    with pytest.raises(RestoreRefused, match="does not know"):
        service.restore(folder, replace=True)
    assert service.rows() == before


def test_a_backup_of_a_later_version_is_refused(
    service: Service, empty: Service, folder: Path
) -> None:
    service.take(folder)
    told = json.loads((folder / MANIFEST).read_bytes())
    content = json.dumps({**told, "revision": "yet_to_come", "version": "9.0"}).encode()
    (folder / MANIFEST).write_bytes(content)
    (folder / MANIFEST_SUM).write_text(f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n")

    with pytest.raises(RestoreRefused, match=r"of version 9\.0"):
        empty.restore(folder)
    assert empty.execute("SELECT to_regclass('owners') AS found")[0].found is None


def test_a_database_that_is_used_is_left_alone(service: Service, folder: Path) -> None:
    service.take(folder)
    service.execute(
        "INSERT INTO workers (name, role, version, queues, slots)"
        " VALUES ('gpu1:17:ab', 'worker', '3.0.0', '{high}', 1)"
    )
    with pytest.raises(RestoreRefused, match="gpu1:17:ab"):
        service.restore(folder, replace=True)
    service.execute("UPDATE workers SET seen_at = now() - interval '61 s'")
    service.restore(folder, replace=True)


# Keys


def test_a_key_that_was_revoked_since_stays_revoked(service: Service, folder: Path) -> None:
    stolen, stolen_id = make_key(service)
    kept, _ = make_key(service)
    service.take(folder)
    with service.sessions.begin() as session:
        keys.revoke(session, keys.find(session, stolen_id))
    _, restored, _ = service.restore(folder, replace=True)

    assert not works(service, stolen)
    assert works(service, kept)
    assert (restored.keys_kept, restored.keys_back) == (2, [])


def test_a_key_that_was_rotated_since_stays_rotated(service: Service, folder: Path) -> None:
    old, key_id = make_key(service)
    service.take(folder)
    with service.sessions.begin() as session:
        new = keys.rotate(session, keys.find(session, key_id), grace=timedelta(0))
    service.restore(folder, replace=True)

    assert not works(service, old)
    assert works(service, new)


def test_a_key_of_which_nothing_is_known_works_again_and_is_told_of(
    service: Service, empty: Service, folder: Path
) -> None:
    secret, _ = make_key(service)
    _, revoked_id = make_key(service)
    with service.sessions.begin() as session:
        keys.revoke(session, keys.find(session, revoked_id))
    service.take(folder)
    _, restored, _ = empty.restore(folder)

    assert works(empty, secret)
    assert [secret.startswith(prefix) for prefix in restored.keys_back] == [True]


def test_a_key_that_was_made_since_is_told_of(service: Service, folder: Path) -> None:
    service.take(folder)
    secret, _ = make_key(service)
    _, restored, _ = service.restore(folder, replace=True)

    assert not works(service, secret)
    assert [secret.startswith(prefix) for prefix in restored.keys_lost] == [True]
