"""Streams of OpenAI's routes: the events, their text, and how they end."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from openai.types.audio import TranscriptionStreamEvent
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from api.openai_stream import Deltas
from app import create_app
from jobs import lifecycle
from jobs.queries import WindowView
from models import AuditAction, AuditEvent
from tests.api.conftest import SEGMENT, TRANSCRIPT, WINDOW, Jobs
from tests.api.test_openai import ask

EVENTS: TypeAdapter[Any] = TypeAdapter(TranscriptionStreamEvent)


def events(text: str) -> Iterator[dict[str, Any]]:
    """What is told, up to the end that OpenAI's clients look for."""
    for block in text.split("\n\n"):
        if block.startswith("data: {"):
            yield json.loads(block.removeprefix("data: "))


@pytest.fixture
def ended(client, alice, jobs: Jobs) -> Callable[..., list[dict[str, Any]]]:
    """Have a job end in some way, and stream it then."""

    def stream(end: Callable[[Any], object], **fields: str) -> list[dict[str, Any]]:
        end(ask(client, alice).headers["x-job-id"])
        answer = ask(client, alice, stream="true", **fields)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(events(answer.text))

    return stream


def in_windows(jobs: Jobs, job_id: Any, count: int) -> None:
    lease = jobs.claim(job_id)
    for index in range(count):
        with jobs.sessions.begin() as session:
            lifecycle.save_window(session, lease, index, WINDOW, progress=0.5, model_used="m")
    whole = replace(TRANSCRIPT, segments=(SEGMENT,) * count)
    with jobs.sessions.begin() as session:
        lifecycle.complete(session, lease, whole, lifecycle.Outcome(model_used="m"))


def test_each_window_is_a_delta_and_all_are_the_text(ended, jobs):
    *deltas, done = ended(lambda job_id: in_windows(jobs, job_id, 3))

    assert [event["delta"] for event in deltas] == ["one two", " one two", " one two"]
    assert done["type"] == "transcript.text.done"
    assert done["text"] == "".join(event["delta"] for event in deltas)


def test_every_event_is_one_of_the_packages(ended, jobs):
    for event in ended(lambda job_id: in_windows(jobs, job_id, 2)):
        read = EVENTS.validate_python(event)

        assert read.to_dict() == event


def test_the_last_event_counts_tokens_and_names_the_language(ended, jobs):
    *_, done = ended(lambda job_id: in_windows(jobs, job_id, 1))

    assert done["languages"] == [{"code": "en"}]
    assert done["usage"] == {
        "type": "tokens",
        "input_tokens": 1500,
        "input_token_details": {"audio_tokens": 1500},
        "output_tokens": 0,
        "total_tokens": 1500,
    }


def test_a_transcript_without_windows_is_streamed_too(ended, jobs):
    delta, done = ended(jobs.finish)

    assert delta["delta"] == done["text"] == "one two"


def test_what_is_streamed_ends_as_openais_streams_do(client, alice, jobs):
    jobs.finish(ask(client, alice).headers["x-job-id"])

    assert ask(client, alice, stream="true").text.endswith("\n\ndata: [DONE]\n\n")


def test_a_stream_finds_the_job_of_the_request_before(client, alice, jobs):
    first = ask(client, alice, stream="true")
    second = ask(client, alice, stream="true")
    third = ask(client, alice)

    assert len({answer.headers["x-job-id"] for answer in (first, second, third)}) == 1
    assert jobs.count() == 1


def test_a_job_that_fails_ends_it_with_an_error(patient_stream, jobs):
    (error,) = patient_stream(lambda job_id: jobs.fail(jobs.claim(job_id)))

    assert error["error"]["code"] == "engine_error"
    assert error["error"]["type"] == "server_error"


def test_a_job_that_is_cancelled_ends_it_with_an_error(patient_stream, jobs):
    def cancel(job_id):
        with jobs.sessions.begin() as session:
            lifecycle.cancel(session, job_id, owner_id=None)

    (error,) = patient_stream(cancel)

    assert error["error"]["code"] == "no_result"


def test_a_job_that_is_deleted_ends_it_with_an_error(patient_stream, patient, alice):
    def delete(job_id):
        assert patient.delete(f"/jobs/{job_id}", headers=alice).status_code == 204

    (error,) = patient_stream(delete)

    assert error["error"]["code"] == "job_deleted"


def test_where_nothing_happens_for_too_long_it_ends(client, alice):
    (error,) = events(ask(client, alice, stream="true").text)

    assert error["error"]["code"] == "still_transcribing"


@pytest.mark.parametrize("name", ["srt", "vtt", "verbose_json"])
def test_events_have_no_other_format(client, alice, jobs, name):
    answer = ask(client, alice, stream="true", response_format=name)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")
    assert jobs.count() == 0


def test_a_translation_is_streamed_too(client, alice, jobs):
    path = "/v1/audio/translations"
    jobs.finish(ask(client, alice, path).headers["x-job-id"])

    assert len(list(events(ask(client, alice, path, stream="true").text))) == 2


def test_streaming_it_makes_one_audit_event(ended, jobs, sessions):
    ended(lambda job_id: in_windows(jobs, job_id, 3))
    with sessions() as session:
        found = session.query(AuditEvent).filter_by(action=AuditAction.TRANSCRIPT_READ)

        assert found.count() == 1


@pytest.fixture
def patient(make_settings) -> Iterator[TestClient]:
    with TestClient(create_app(make_settings(openai_wait_seconds=60))) as client:
        yield client


@pytest.fixture
def patient_stream(patient, alice, finishing) -> Callable[..., list[dict[str, Any]]]:
    """Stream a job that ends in some way meanwhile."""

    def stream(end: Callable[[Any], object]) -> list[dict[str, Any]]:
        finishing(end)
        return list(events(ask(patient, alice, stream="true").text))

    return stream


# Text


def window(*texts: str) -> WindowView:
    segments = tuple(replace(SEGMENT, text=text) for text in texts)
    return WindowView(
        index=0, segments_before=0, start_seconds=0.0, end_seconds=1.0, segments=segments
    )


@pytest.mark.parametrize(
    "windows",
    [
        ([" one", " two "], [" three"]),
        ([], [" "], ["  one"], [], [" ", "two"], [" "]),
        (["\n"], ["一二", "三"]),
        ([],),
    ],
)
def test_deltas_add_up_to_the_text(windows):
    deltas = Deltas()
    given = [deltas.of(window(*texts)) for texts in windows]
    whole = replace(
        TRANSCRIPT, segments=tuple(s for texts in windows for s in window(*texts).segments)
    )

    assert "".join(given) == whole.text
