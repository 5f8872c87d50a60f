"""The waveform of a job: as players read it, for whoever may read the job."""

import numpy as np
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from models import TranscriptionResult
from speech import peaks
from tests.api.conftest import Jobs


def keep(sessions: sessionmaker[Session], job_id: object, found: bytes | None) -> None:
    with sessions.begin() as session:
        session.execute(
            update(TranscriptionResult)
            .where(TranscriptionResult.job_id == job_id)
            .values(peaks=found)
        )


def test_peaks_are_told_as_players_read_them(
    client: TestClient, alice: dict[str, str], jobs: Jobs, sessions: sessionmaker[Session]
) -> None:
    job_id = jobs.completed()  # of 30 seconds
    sound = np.zeros(30 * 16_000, np.float32)
    sound[240_000:] = 0.5
    keep(sessions, job_id, peaks.of(sound))
    told = client.get(f"/jobs/{job_id}/peaks", headers=alice).json()

    assert (told["version"], told["channels"], told["bits"]) == (2, 1, 8)
    assert told["length"] * told["samples_per_pixel"] / told["sample_rate"] == 30
    assert told["data"][::2] == [0] * (told["length"] // 2) + [64] * (told["length"] // 2)
    assert (told["start_seconds"], told["audio_seconds"]) == (0, 30)


def test_where_nobody_looked_there_are_none(
    client: TestClient, alice: dict[str, str], jobs: Jobs
) -> None:
    told = client.get(f"/jobs/{jobs.completed()}/peaks", headers=alice).json()

    assert (told["length"], told["data"]) == (0, [])


@pytest.mark.parametrize("state", ["submit", "processing", "failed"])
def test_there_are_none_without_a_result(
    client: TestClient, alice: dict[str, str], jobs: Jobs, state: str
) -> None:
    answer = client.get(f"/jobs/{getattr(jobs, state)()}/peaks", headers=alice)

    assert answer.status_code == 409
    assert ("retry-after" in answer.headers) is (state in {"submit", "processing"})
