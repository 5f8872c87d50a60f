"""Disks that are away or full, uploads that vanish, models that are damaged."""

import os
from pathlib import Path

import pytest

from tests.chaos.conftest import SHORT_TEXT, Chaos, retried, words_of
from tests.stack.conftest import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.model]


@pytest.mark.fault("F42", "the upload's file is gone before its job runs")
def test_a_lost_upload_fails_its_job_once(chaos: Chaos) -> None:
    chaos.stack.maintenance()
    job_id = chaos.submit(ring=False)
    chaos.stack.uploads.delete(job_id)
    chaos.worker()
    done = chaos.end_of(job_id)

    assert (done.status, done.failure_reason, done.attempt) == ("failed", "upload_missing", 1)
    assert chaos.errors_of(job_id) == ["upload_missing"]
    chaos.check()


def _change(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        (last,) = file.read()
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.fault("D4", "an upload is changed, cut short, replaced by a link before its job runs")
def test_an_upload_that_was_altered_is_not_transcribed(chaos: Chaos) -> None:
    chaos.stack.maintenance()
    jobs = [chaos.submit(ring=False) for _ in range(4)]
    for job_id, alter in zip(jobs, (_change, _cut, _link), strict=False):
        alter(chaos.stack.uploads.path(job_id))
    chaos.worker()
    *altered, sound = [chaos.end_of(job_id) for job_id in jobs]

    assert [(job.failure_reason, job.attempt) for job in altered] == [("upload_altered", 1)] * 3
    assert [chaos.errors_of(job.id) for job in altered] == [["upload_altered"]] * 3
    assert sound.status == "completed"
    chaos.check()


@pytest.mark.fault("D1", "the uploads' disk is away, and comes back")
def test_a_disk_that_is_away_costs_no_attempt(chaos: Chaos) -> None:
    chaos.stack.maintenance()
    job_id = chaos.submit(ring=False, max_attempts=1)
    store, away = chaos.stack.uploads.root, chaos.stack.uploads.root.with_name("away")
    store.rename(away)
    store.mkdir()
    chaos.worker()
    wait_for(lambda: chaos.stack.job(job_id).put_off_count >= 3, "it is put off")
    waiting = chaos.stack.job(job_id)
    store.rmdir()
    away.rename(store)
    with chaos.recovery(retried(waiting.put_off_count + 1)):
        wait_for(lambda: chaos.stack.job(job_id).audio_seconds, "it is decoded")
    done = chaos.end_of(job_id)

    assert waiting.error_code == "storage_unavailable"
    assert (done.status, done.attempt) == ("completed", 1)
    assert words_of(chaos.stack, job_id) == SHORT_TEXT
    assert chaos.errors_of(job_id) == []
    chaos.check()


@pytest.mark.fault("D2", "the scratch folder cannot be used, and is mended")
def test_a_scratch_folder_that_cannot_be_used_costs_no_attempt(
    chaos: Chaos, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.touch()
    chaos.stack.maintenance()
    chaos.worker(SCRATCH_DIR=str(blocked))
    job_id = chaos.submit(max_attempts=1)
    wait_for(lambda: chaos.stack.job(job_id).put_off_count >= 2, "it is put off")
    waiting = chaos.stack.job(job_id)
    blocked.unlink()
    with chaos.recovery(retried(waiting.put_off_count + 1)):
        wait_for(lambda: chaos.stack.job(job_id).audio_seconds, "it is decoded")
    done = chaos.end_of(job_id)

    assert (done.status, done.attempt) == ("completed", 1)
    chaos.check()


@pytest.mark.fault("F41", "a model's file is damaged")
def test_a_damaged_model_fails_its_jobs_and_no_others(chaos: Chaos) -> None:
    chaos.stack.maintenance()
    models = chaos.stack.folder / "models"
    models.mkdir(exist_ok=True)
    (models / "tiny.pt").write_bytes(b"no checkpoint")
    worker = chaos.worker()
    bad = chaos.submit(model_name="tiny", max_attempts=2)
    good = chaos.submit()
    ends = chaos.end_of(bad), chaos.end_of(good)

    assert [job.status for job in ends] == ["failed", "completed"]
    assert (ends[0].error_code, ends[0].attempt) == ("model_unavailable", 1)
    assert worker.popen.poll() is None
    chaos.check()
