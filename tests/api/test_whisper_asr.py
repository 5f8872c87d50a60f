"""whisper-asr-webservice's routes: what is asked, what is answered, and the job behind it."""

import base64
import json
import re
import uuid
import wave
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from api.whisper_asr_form import DETECTION_FIELDS, FIELDS, OUTPUTS, RAW_HEADER
from app import create_app
from config import Settings
from errors import NotAudio
from jobs.lifecycle import Failure
from models import ApiKey, AuditAction, AuditEvent, JobStatus, Scope
from speech import audio
from speech.audio import DecodeLimits
from tests.api.conftest import ADMIN_KEY, stored
from tests.recordings import PROJECT_DIR, sample

PAPER = (PROJECT_DIR / "docs/whisper-asr.md").read_text("utf-8")
ASR, DETECT = "/asr", "/detect-language"
Headers = dict[str, str]


def ask(client: TestClient, key: Headers, path: str = ASR, **query: Any) -> httpx2.Response:
    content, name = query.pop("content", b"sound"), query.pop("name", "talk.mp3")
    headers = {**key, **query.pop("headers", {})}
    answer: httpx2.Response = client.post(
        path, files={"audio_file": (name, content)}, params=query, headers=headers
    )
    return answer


def basic(key: str, user: str = "bazarr") -> Headers:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{key}'.encode()).decode()}"}


@pytest.fixture
def patient(make_settings: Callable[..., Settings]) -> Any:
    with TestClient(create_app(make_settings(asr_wait_seconds=60))) as client:
        yield client


def test_the_answer_is_the_text(patient, alice, finishing):
    finishing()
    answer = ask(patient, alice)

    assert (answer.status_code, answer.text) == (200, "one two\n")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["asr-engine"] == "openai-whisper"


def test_the_answer_names_its_job(patient, alice, finishing, jobs):
    finishing()
    answer = ask(patient, alice)

    assert jobs.row(answer.headers["x-job-id"]).status == JobStatus.COMPLETED


@pytest.mark.parametrize("parameter", ["output", "output_format"])
@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("txt", "one two"),
        ("vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:01.500"),
        ("srt", "1\n00:00:00,000 --> 00:00:01,500\none two"),
        ("tsv", "start\tend\ttext\n0\t1500\tone two"),
        ("json", '{"language": "en"'),
    ],
)
def test_every_output_is_text_to_download(patient, alice, finishing, parameter, name, beginning):
    finishing()
    answer = ask(patient, alice, **{parameter: name})

    assert answer.text.startswith(beginning)
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="talk.mp3.{name}"'


def test_json_is_that_of_whisper(patient, alice, finishing):
    finishing()
    document = json.loads(ask(patient, alice, output="json").text)
    (segment,) = document.pop("segments")

    assert document == {"language": "en", "text": "one two"}
    assert {"id", "seek", "start", "end", "text", "tokens", "temperature"} <= {*segment}
    assert {"avg_logprob", "compression_ratio", "no_speech_prob"} <= {*segment}


@pytest.mark.parametrize("name", ['a "b"\r\nX: y.mp3', "Über uns/ä;b.mp3"])
def test_no_name_of_a_file_is_more_than_a_name(patient, alice, finishing, name):
    finishing()
    told = ask(patient, alice, name=name).headers["content-disposition"]

    assert re.fullmatch(r'attachment; filename="[\w.%~-]+\.txt"', told, re.ASCII)


def test_the_language_is_told(patient, alice, finishing):
    finishing()
    answer = ask(patient, alice, DETECT)

    assert answer.json() == {
        "detected_language": "english",
        "language_code": "en",
        "confidence": 0.9,
    }
    assert answer.headers["x-job-id"]


def test_for_the_language_the_beginning_is_enough(client, alice, jobs):
    row = jobs.row(ask(client, alice, DETECT, language="de").headers["x-job-id"])

    assert (row.start_seconds, row.end_seconds, row.language) == (0, 30, None)


def test_a_language_is_another_job_than_a_transcript(client, alice, jobs):
    ask(client, alice)
    ask(client, alice, DETECT)

    assert jobs.count() == 2


@pytest.mark.parametrize("path", [ASR, DETECT])
def test_reading_by_it_makes_an_audit_event(patient, alice, finishing, sessions, path):
    finishing()
    job_id = ask(patient, alice, path).headers["x-job-id"]
    with sessions() as session:
        query = select(AuditEvent.action).where(AuditEvent.job_id == uuid.UUID(job_id))

        assert AuditAction.TRANSCRIPT_READ in session.scalars(query).all()


# Waiting


@pytest.mark.parametrize("path", [ASR, DETECT])
def test_whoever_waits_for_too_long_is_told_to_come_again(client, alice, path):
    answer = ask(client, alice, path)

    assert (answer.status_code, answer.json()["code"]) == (504, "still_transcribing")
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["x-job-id"]


@pytest.mark.parametrize("path", [ASR, DETECT])
def test_what_is_sent_again_finds_its_job(client, alice, jobs, settings, path):
    first, second = ask(client, alice, path), ask(client, alice, path)

    assert first.headers["x-job-id"] == second.headers["x-job-id"]
    assert (jobs.count(), len(stored(settings))) == (1, 1)


def test_raw_sound_that_is_sent_again_finds_its_job(client, alice, jobs, settings):
    first, second = ask(client, alice, encode="false"), ask(client, alice, encode="false")

    assert first.headers["x-job-id"] == second.headers["x-job-id"]
    assert (jobs.count(), len(stored(settings))) == (1, 1)


@pytest.mark.parametrize(
    "more", [{"output": "srt"}, {"video_file": "/a.mkv"}, {"vad_filter": "true"}]
)
def test_what_changes_no_word_needs_no_second_job(client, alice, jobs, more):
    ask(client, alice)
    ask(client, alice, **more)

    assert jobs.count() == 1


@pytest.mark.parametrize(
    "other", [{"content": b"more"}, {"language": "de"}, {"task": "translate"}, {"encode": "false"}]
)
def test_what_differs_is_another_job(client, alice, jobs, other):
    ask(client, alice, model="base")
    ask(client, alice, model="base", **other)

    assert jobs.count() == 2


def test_somebody_elses_is_another_job(client, alice, bob, jobs):
    ask(client, alice)
    ask(client, bob)

    assert jobs.count() == 2


def test_whose_key_is_revoked_meanwhile_reads_no_transcript(patient, alice, jobs, finishing):
    def revoke_and_end(job_id: uuid.UUID) -> None:
        with jobs.sessions.begin() as session:
            session.execute(update(ApiKey).values(revoked_at=func.now()))
        jobs.finish(job_id)

    finishing(revoke_and_end)

    assert ask(patient, alice).status_code == 401


def test_a_fault_of_the_recording_is_the_clients(patient, alice, finishing, jobs):
    failure = Failure(code=NotAudio.code, message="No sound.", traceback="")
    finishing(lambda job_id: jobs.fail(jobs.claim(job_id), failure))
    answer = ask(patient, alice)

    assert (answer.status_code, answer.json()["code"]) == (400, "not_audio")
    assert answer.json()["detail"] == "No sound."


def test_a_cancelled_job_is_told_of_at_once(patient, alice, finishing):
    finishing(lambda job_id: patient.post(f"/jobs/{job_id}/cancel", headers=alice))

    assert ask(patient, alice).status_code == 409


@pytest.mark.parametrize("asked", [{"async": "true"}, {"headers": {"Prefer": "respond-async"}}])
@pytest.mark.parametrize("path", [ASR, DETECT])
def test_the_job_itself_can_be_the_answer(client, alice, asked, path):
    answer = ask(client, alice, path, **asked)

    assert answer.status_code == 202
    assert answer.json()["job_id"] == answer.headers["x-job-id"]


def test_a_key_that_may_not_read_gets_no_transcript(client, make_key, jobs):
    key = make_key("alice", scopes=[Scope.JOBS_WRITE])

    assert ask(client, key).status_code == 403
    assert jobs.count() == 0
    assert ask(client, key, **{"async": "true"}).status_code == 202


# Parameters


@pytest.mark.parametrize(
    ("parameter", "value", "column", "stored_as"),
    [
        ("encode", "true", "upload_bytes", 5),
        ("encode", "True", "upload_bytes", 5),
        ("encode", "false", "upload_bytes", 5 + len(RAW_HEADER)),
        ("task", "transcribe", "translate", False),
        ("language", "de", "language", "de"),
        ("language", "", "language", None),
        ("initial_prompt", "Names: Ada", "initial_prompt", "Names: Ada"),
        ("word_timestamps", "true", "word_timestamps", True),
        ("vad_filter", "true", "word_timestamps", False),
        ("diarize", "true", "word_timestamps", False),
        ("enable_diarization", "true", "word_timestamps", False),
        ("min_speakers", "1", "word_timestamps", False),
        ("max_speakers", "2", "word_timestamps", False),
        ("num_speakers", "2", "word_timestamps", False),
        ("return_speaker_embeddings", "true", "word_timestamps", False),
        ("hotwords", "Ada", "initial_prompt", None),
        ("model", "base", "model_name", "base"),
        ("model", "whisper-1", "model_name", "tiny"),
        ("video_file", "/films/Ä b.mkv", "client_filename", "talk.mp3"),
    ],
)
def test_a_parameter_does_what_is_told_of_it(
    client, alice, jobs, parameter, value, column, stored_as
):
    answer = ask(client, alice, **{parameter: value})

    assert answer.status_code == 504
    assert getattr(jobs.row(answer.headers["x-job-id"]), column) == stored_as
    assert f"`{parameter}`" in PAPER


def test_a_translation_asks_for_one(client, alice, jobs):
    answer = ask(client, alice, task="translate", model="base")

    assert jobs.row(answer.headers["x-job-id"]).translate is True


@pytest.mark.parametrize(
    ("query", "pointer", "code"),
    [
        ({"encode": "perhaps"}, "encode", "unknown_value"),
        ({"task": "sing"}, "task", "unknown_value"),
        ({"language": "elvish"}, "language", "unknown_language"),
        ({"initial_prompt": "x" * 4001}, "initial_prompt", "too_long"),
        ({"word_timestamps": "perhaps"}, "word_timestamps", "unknown_value"),
        ({"vad_filter": "perhaps"}, "vad_filter", "unknown_value"),
        ({"diarize": "perhaps"}, "diarize", "unknown_value"),
        ({"enable_diarization": "perhaps"}, "enable_diarization", "unknown_value"),
        ({"output": "docx"}, "output", "unknown_format"),
        ({"output_format": "docx"}, "output_format", "unknown_format"),
        ({"output": "srt", "output_format": "vtt"}, "output_format", "contradiction"),
        ({"model": "gpt-9"}, "model", "unknown_model"),
        ({"async": "perhaps"}, "async", "unknown_value"),
    ],
)
def test_a_value_that_is_not_offered_is_refused(client, alice, jobs, query, pointer, code):
    answer = ask(client, alice, **query)

    assert answer.status_code == 422
    assert (answer.json()["errors"][0]["pointer"], answer.json()["errors"][0]["code"]) == (
        f"#/{pointer}",
        code,
    )
    assert jobs.count() == 0


def test_a_form_without_the_file_is_refused(client, alice, jobs):
    answer = client.post(ASR, files={"file": ("a.mp3", b"sound")}, headers=alice)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/audio_file"
    assert jobs.count() == 0


def test_fields_beside_the_file_are_ignored(client, alice, jobs):
    answer = client.post(
        ASR, files={"audio_file": b"sound"}, data={"language": "elvish"}, headers=alice
    )

    assert jobs.row(answer.headers["x-job-id"]).language is None


# Raw sound


def samples_of(name: str) -> bytes:
    with wave.open(str(sample(name).path), "rb") as source:
        assert source.getparams()[:3] == (1, 2, 16_000)
        return source.readframes(source.getnframes())


@pytest.mark.parametrize("missing", [0, 1])
def test_raw_sound_is_kept_as_a_file_that_can_be_decoded(
    client, alice, settings, tmp_path, missing
):
    raw = samples_of("digits-en.wav")
    raw = raw[: len(raw) - missing]
    ask(client, alice, content=raw, encode="false")
    (path,) = stored(settings)
    media = audio.probe(path, DecodeLimits())
    decoded = audio.decode(path, tmp_path / "samples", DecodeLimits())

    assert path.read_bytes() == RAW_HEADER + raw
    assert (media.container, media.codec, media.channels) == ("wav", "pcm_s16le", 1)
    assert media.sample_rate_hz == 16_000
    assert decoded.audio_seconds == len(raw) // 2 / 16_000
    assert decoded.warnings == ()


@pytest.mark.parametrize("packet", [4096, 8192, 65536])
def test_an_odd_byte_after_a_whole_packet_is_left_out(client, alice, settings, tmp_path, packet):
    ask(client, alice, content=bytes(packet * 3 + 1), encode="false")
    (path,) = stored(settings)
    decoded = audio.decode(path, tmp_path / "samples", DecodeLimits())

    assert (decoded.audio_seconds, decoded.warnings) == (packet * 3 / 32_000, ())


def test_long_raw_sound_gets_one_header(make_settings, alice):
    settings, raw = make_settings(max_upload_size_mb=8), bytes(range(256)) * 20_000
    with TestClient(create_app(settings)) as client:
        ask(client, alice, content=raw, encode="false")
    (path,) = stored(settings)

    assert path.read_bytes() == RAW_HEADER + raw


def test_no_raw_sound_is_an_empty_file(client, alice, settings):
    answer = ask(client, alice, content=b"", encode="false")

    assert (answer.status_code, answer.json()["code"]) == (422, "empty_file")
    assert stored(settings) == []


# Keys


@pytest.mark.parametrize("path", [ASR, DETECT])
def test_a_password_is_a_key_here(client, path):
    assert ask(client, basic(ADMIN_KEY), path).status_code == 504


def test_whose_password_it_is_does_not_matter(client):
    assert ask(client, basic(ADMIN_KEY, user="")).status_code == 504


@pytest.mark.security("authentication", "a password that is no key, two, or no credentials")
@pytest.mark.parametrize(
    "headers",
    [
        basic("not-a-key-of-anybodys"),
        basic(""),
        {"Authorization": f"Basic {base64.b64encode(ADMIN_KEY.encode()).decode()}"},
        {"Authorization": f"Basic {ADMIN_KEY}"},
        {"Authorization": "Basic"},
        {"Authorization": "Basic /w=="},
        {"Authorization": "Basic Ov8="},
        {"Authorization": f"Digest {ADMIN_KEY}"},
        {**basic(ADMIN_KEY), "X-API-Key": ADMIN_KEY},
    ],
)
def test_a_password_that_is_no_key_is_refused(client, headers, jobs):
    answer = ask(client, headers)

    assert answer.status_code == 401
    # what asked for a password would have browsers keep one
    assert answer.headers["www-authenticate"] == "Bearer"
    assert jobs.count() == 0


@pytest.mark.security("authentication", "a key as a password, on every other route")
def test_a_password_is_a_key_nowhere_else(make_settings):
    app = create_app(make_settings(max_auth_failures=0))
    operations = app.openapi()["paths"].items()
    with TestClient(app) as client:
        others = [
            (method, path)
            for path, methods in operations
            for method, operation in methods.items()
            if operation.get("security") and path not in {ASR, DETECT}
        ]
        answers = [
            client.request(method, re.sub(r"{\w+}", "x", path), headers=basic(ADMIN_KEY))
            for method, path in others
        ]

    assert len(others) > 20
    assert {answer.status_code for answer in answers} == {401}


def test_without_keys_nobody_needs_one(make_settings):
    with TestClient(create_app(make_settings(auth_required=False))) as client:
        assert ask(client, {}).status_code == 504


# Documentation

ROWS = re.findall(r"^\| (`.*?) \|", PAPER, re.MULTILINE)


def test_every_parameter_and_output_is_told_of():
    told = {name for cell in ROWS for name in re.findall(r"`([^`]+)`", cell)}

    assert {"audio_file", *FIELDS, *DETECTION_FIELDS} <= told
    assert all(f"`{name}`" in PAPER for name in OUTPUTS)


def test_every_row_is_tried():
    told = {name for cell in ROWS for name in re.findall(r"`([^`/ ]+)`", cell)}
    (tried,) = (
        mark.args[1]
        for mark in test_a_parameter_does_what_is_told_of_it.pytestmark
        if mark.name == "parametrize"
    )

    assert told - {"audio_file", "async", "output", "output_format"} <= {row[0] for row in tried}
