"""What the API says of a transcript's quality, and to whom."""

import dataclasses

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker
from starlette.testclient import TestClient

from models import TranscriptionResult
from tests.api.conftest import SEGMENT, TRANSCRIPT, Jobs


def test_what_to_look_at_is_told(client: TestClient, alice: dict[str, str], jobs: Jobs) -> None:
    again = [
        dataclasses.replace(SEGMENT, text=" Thank you.", start_seconds=at, end_seconds=at + 1)
        for at in (2.0, 3.0, 4.0)
    ]
    transcript = dataclasses.replace(TRANSCRIPT, segments=(SEGMENT, *again))
    told = client.get(f"/jobs/{jobs.completed(transcript=transcript)}/quality", headers=alice)

    assert told.json() == {
        "findings": [{"code": "loop", "start": 2.0, "end": 5.0, "segments": [1, 2, 3]}],
        "suspect_segments": [1, 2, 3],
        "silence_share": None,
        "speech_share": pytest.approx(4.5 / 30),
        "words_per_minute": pytest.approx(8 * 60 / 4.5),
        "confidence": pytest.approx(0.9048, abs=1e-3),
    }


def test_the_sound_is_heeded(
    client: TestClient, alice: dict[str, str], jobs: Jobs, sessions: sessionmaker[Session]
) -> None:
    job_id = jobs.completed()  # of 30 s, with words in the first one and a half
    with sessions.begin() as session:
        session.execute(update(TranscriptionResult).values(peaks=bytes([200, 90] * 30)))
    told = client.get(f"/jobs/{job_id}/quality", headers=alice).json()

    assert told["findings"] == [{"code": "cut_off", "start": 2.5, "end": 30.0, "segments": []}]
    assert told["silence_share"] == 0


@pytest.mark.parametrize("state", ["submit", "processing", "failed"])
def test_there_is_none_without_a_result(
    client: TestClient, alice: dict[str, str], jobs: Jobs, state: str
) -> None:
    answer = client.get(f"/jobs/{getattr(jobs, state)()}/quality", headers=alice)

    assert answer.status_code == 409
    assert ("retry-after" in answer.headers) is (state != "failed")
