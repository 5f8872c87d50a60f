"""OpenAI's routes: what is asked, what is answered, and the job behind it."""

import re
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from api.openai_errors import CODES
from api.openai_form import ALIASES, FIELDS
from api.openai_formats import FORMATS
from app import create_app
from config import Settings
from errors import NotAudio
from jobs.lifecycle import Failure
from models import ApiKey, AuditAction, AuditEvent, JobStatus, Scope
from tests.api.conftest import serving, stored
from tests.recordings import PROJECT_DIR

PAPER = (PROJECT_DIR / "docs/openai.md").read_text("utf-8")
TRANSCRIBE = "/v1/audio/transcriptions"
Headers = dict[str, str]


def ask(client: TestClient, key: Headers, path: str = TRANSCRIBE, **fields: Any) -> httpx2.Response:
    content = fields.pop("content", b"sound")
    headers = {**key, **fields.pop("headers", {})}
    files = {"file": ("talk.mp3", content)}
    answer: httpx2.Response = client.post(path, files=files, data=fields, headers=headers)
    return answer


@pytest.fixture
def patient(make_settings: Callable[..., Settings]) -> Any:
    with TestClient(create_app(make_settings(openai_wait_seconds=60))) as client:
        yield client


def test_the_answer_is_the_transcript(patient, alice, finishing):
    finishing()
    answer = ask(patient, alice, model="whisper-1")

    assert answer.status_code == 200
    assert answer.json() == {"text": "one two", "usage": {"type": "duration", "seconds": 30}}


def test_the_answer_names_its_job(patient, alice, finishing, jobs):
    finishing()
    answer = ask(patient, alice)

    assert jobs.row(answer.headers["x-job-id"]).status == JobStatus.COMPLETED


def test_the_job_is_listed_with_the_others(client, alice):
    job_id = ask(client, alice).headers["x-job-id"]

    assert [job["job_id"] for job in client.get("/jobs", headers=alice).json()["jobs"]] == [job_id]


def test_reading_by_it_makes_an_audit_event(patient, alice, finishing, sessions):
    finishing()
    job_id = ask(patient, alice).headers["x-job-id"]
    with sessions() as session:
        query = select(AuditEvent.action).where(AuditEvent.job_id == uuid.UUID(job_id))

        assert AuditAction.TRANSCRIPT_READ in session.scalars(query).all()


def test_whoever_waits_for_too_long_is_told_to_come_again(client, alice):
    answer = ask(client, alice)

    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "still_transcribing")
    assert answer.headers["x-should-retry"] == "true"
    assert int(answer.headers["retry-after"]) > 0


def test_whose_key_is_revoked_meanwhile_reads_no_transcript(patient, alice, jobs, finishing):
    def revoke_and_end(job_id: uuid.UUID) -> None:
        with jobs.sessions.begin() as session:
            session.execute(update(ApiKey).values(revoked_at=func.now()))
        jobs.finish(job_id)

    finishing(revoke_and_end)
    answer = ask(patient, alice)

    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_whoever_waits_too_often_at_once_is_told_so_before_anything_is_read(
    make_settings, alice, jobs
):
    settings = make_settings(openai_wait_seconds=60, key_waits_at_once=1)
    job_id = jobs.submit()
    with serving(settings) as port:
        url = f"http://127.0.0.1:{port}"
        with httpx2.stream("GET", f"{url}/jobs/{job_id}/events", headers=alice) as held:
            lines = held.iter_lines()  # whoever forgets it hangs up
            next(lines)
            sound = {"file": ("a.mp3", b"sound")}
            answer = httpx2.post(url + TRANSCRIBE, files=sound, headers=alice)

    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_waits")
    assert answer.headers["x-should-retry"] == "true"
    assert jobs.count() == 1


def test_what_is_sent_again_finds_its_job(client, alice, jobs, settings):
    first, second = ask(client, alice), ask(client, alice)

    assert first.headers["x-job-id"] == second.headers["x-job-id"]
    assert (jobs.count(), len(stored(settings))) == (1, 1)


def test_of_several_that_come_at_once_one_makes_the_job(client, alice, jobs):
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: ask(client, alice), range(4)))

    assert len({answer.headers["x-job-id"] for answer in answers}) == jobs.count() == 1


def test_another_format_of_it_needs_no_second_job(client, alice, jobs):
    ask(client, alice)
    ask(client, alice, response_format="srt")

    assert jobs.count() == 1


@pytest.mark.parametrize(
    "other", [{"content": b"more"}, {"language": "de"}, {"prompt": "Names"}, {"model": "base"}]
)
def test_what_differs_is_another_job(client, alice, jobs, other):
    ask(client, alice)
    ask(client, alice, **other)

    assert jobs.count() == 2


def test_somebody_elses_is_another_job(client, alice, bob, jobs):
    ask(client, alice)
    ask(client, bob)

    assert jobs.count() == 2


def test_a_job_that_failed_is_tried_anew_when_it_is_sent_again(client, alice, jobs):
    job_id = ask(client, alice).headers["x-job-id"]
    jobs.fail(jobs.claim(uuid.UUID(job_id)))

    assert ask(client, alice).headers["x-job-id"] != job_id


def test_a_key_that_has_no_room_finds_the_job_that_takes_it(make_settings, alice):
    with TestClient(create_app(make_settings(key_jobs_at_once=1))) as client:
        first, second = ask(client, alice), ask(client, alice)
        other = ask(client, alice, content=b"more")

    assert first.headers["x-job-id"] == second.headers["x-job-id"]
    assert (other.status_code, other.json()["error"]["code"]) == (429, "insufficient_quota")


def test_a_fault_of_the_recording_is_the_clients(patient, alice, finishing, jobs):
    failure = Failure(code=NotAudio.code, message="No sound.", traceback="")
    finishing(lambda job_id: jobs.fail(jobs.claim(job_id), failure))
    answer = ask(patient, alice)

    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "No sound.",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_audio",
    }


def test_a_fault_of_ours_is_not_tried_again_by_the_client(patient, alice, finishing, jobs):
    finishing(lambda job_id: jobs.fail(jobs.claim(job_id)))
    answer = ask(patient, alice)

    assert (answer.status_code, answer.headers["x-should-retry"]) == (500, "false")
    assert answer.json()["error"]["type"] == "server_error"


def test_a_cancelled_job_is_told_of_at_once(patient, alice, finishing):
    finishing(lambda job_id: patient.post(f"/jobs/{job_id}/cancel", headers=alice))
    answer = ask(patient, alice)

    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")
    assert answer.json()["error"]["code"] == "no_result"


def test_a_deleted_job_is_told_of_at_once(patient, alice, finishing):
    finishing(lambda job_id: patient.delete(f"/jobs/{job_id}", headers=alice))

    assert ask(patient, alice).status_code == 410


@pytest.mark.parametrize("asked", [{"async": "true"}, {"headers": {"Prefer": "respond-async"}}])
def test_the_job_itself_can_be_the_answer(client, alice, asked):
    answer = ask(client, alice, **asked)

    assert answer.status_code == 202
    assert answer.json()["job_id"] == answer.headers["x-job-id"]
    assert answer.headers["location"] == f"/jobs/{answer.headers['x-job-id']}"


def test_a_key_that_may_not_read_gets_no_transcript(client, make_key, jobs):
    key = make_key("alice", scopes=[Scope.JOBS_WRITE])

    assert ask(client, key).status_code == 403
    assert jobs.count() == 0
    assert ask(client, key, **{"async": "true"}).status_code == 202


# Fields


@pytest.mark.parametrize("model", ALIASES)
def test_openais_names_mean_the_default(client, alice, jobs, model):
    answer = ask(client, alice, model=model)

    assert jobs.row(answer.headers["x-job-id"]).model_name == "tiny"


@pytest.mark.parametrize(
    ("field", "value", "column", "stored_as"),
    [
        ("model", "base", "model_name", "base"),
        ("language", "de", "language", "de"),
        ("prompt", "Names: Ada", "initial_prompt", "Names: Ada"),
        ("timestamp_granularities[]", "word", "word_timestamps", True),
        ("timestamp_granularities[]", ["word", "segment"], "word_timestamps", True),
        ("timestamp_granularities", "word", "word_timestamps", True),
        ("timestamp_granularities[]", "segment", "word_timestamps", False),
        ("temperature", "0.4", "language", None),
        ("include[]", "nothing", "language", None),
        ("chunking_strategy", "auto", "language", None),
        ("languages[]", ["en", "de"], "language", None),
        ("keywords[]", ["Ada"], "initial_prompt", None),
        ("hotwords", "Ada", "initial_prompt", None),
        ("stream", "false", "language", None),
    ],
)
def test_a_field_does_what_is_told_of_it(client, alice, jobs, field, value, column, stored_as):
    answer = ask(client, alice, **{field: value})

    assert answer.status_code == 504
    assert getattr(jobs.row(answer.headers["x-job-id"]), column) == stored_as


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("stream", "perhaps", "stream"),
        ("include[]", "logprobs", "include[]"),
        ("response_format", "diarized_json", "response_format"),
        ("timestamp_granularities[]", "phoneme", "timestamp_granularities[]"),
        ("temperature", "hot", "temperature"),
        ("temperature", "2", "temperature"),
        ("language", "elvish", "language"),
        ("prompt", "x" * 4001, "prompt"),
        ("async", "perhaps", "async"),
    ],
)
def test_a_value_that_is_not_offered_is_a_bad_request(client, alice, jobs, field, value, param):
    answer = ask(client, alice, **{field: value})

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert answer.headers["x-should-retry"] == "false"
    assert jobs.count() == 0


def test_a_model_that_is_none_is_not_found(client, alice):
    answer = ask(client, alice, model="gpt-9")

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert answer.json()["error"]["param"] == "model"


def test_a_translation_asks_for_one(client, alice, jobs):
    answer = ask(client, alice, "/v1/audio/translations")

    assert jobs.row(answer.headers["x-job-id"]).translate is True


def test_a_translation_is_no_transcription(client, alice, jobs):
    ask(client, alice)
    ask(client, alice, "/v1/audio/translations")

    assert jobs.count() == 2


# Documentation

TABLES = re.findall(r"^\| (`.*?) \|", PAPER, re.MULTILINE)


def test_every_field_and_format_is_told_of():
    told = {name for cell in TABLES for name in re.findall(r"`([^`]+)`", cell)}

    assert {"file", *FIELDS, *FORMATS} <= told


def test_every_alias_is_told_of():
    assert all(f"`{name}`" in PAPER for name in ALIASES)


def test_every_code_that_has_another_name_is_told_of():
    assert all(f"| `{ours}` | `{theirs}`" in PAPER for ours, theirs in CODES.items())


# Models


def test_every_model_is_listed_with_openais_names(client, alice):
    shown = client.get("/v1/models", headers=alice).json()

    assert shown["object"] == "list"
    assert {"whisper-1", "large-v3"} <= {model["id"] for model in shown["data"]}


def test_a_model_is_shown(client, alice):
    assert client.get("/v1/models/whisper-1", headers=alice).json() == {
        "id": "whisper-1",
        "object": "model",
        "created": 1_663_718_400,
        "owned_by": "openai",
    }
