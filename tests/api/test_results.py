"""Transcripts in every format, and the recording."""

import re
from urllib.parse import unquote

import pytest

from api import results
from speech.formats import FORMATS
from tests.api.conftest import TRANSCRIPT

SOUND = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(range(200))


@pytest.mark.parametrize("name", FORMATS)
def test_a_result_comes_in_every_format(client, alice, jobs, name):
    answer = client.get(f"/jobs/{jobs.completed()}/result?format={name}", headers=alice)

    assert answer.headers["content-type"] == FORMATS[name].media_type
    assert answer.text == FORMATS[name].render(TRANSCRIPT)


@pytest.mark.parametrize(
    ("accept", "name"),
    [
        ("*/*", "json"),
        ("", "json"),
        (" , ", "json"),
        ("application/json", "json"),
        ("text/plain", "txt"),
        ("text/*", "txt"),
        ("text/vtt", "vtt"),
        ("application/x-subrip", "srt"),
        ("TEXT/VTT;q=0.5, text/plain;q=0.4", "vtt"),
        ("text/html, application/json;q=0.9", "json"),
        ("application/json;q=0, */*;q=0.1", "json"),
        ("text/tab-separated-values; charset=utf-8", "tsv"),
    ],
)
def test_a_client_can_say_what_it_accepts(client, alice, jobs, accept, name):
    headers = {**alice, "Accept": accept}
    answer = client.get(f"/jobs/{jobs.completed()}/result", headers=headers)

    assert answer.headers["content-type"] == FORMATS[name].media_type


def test_what_is_accepted_may_stand_in_several_headers(client, alice, jobs):
    headers = [*alice.items(), ("Accept", "text/html"), ("Accept", "text/vtt")]
    answer = client.get(f"/jobs/{jobs.completed()}/result", headers=headers)

    assert answer.headers["content-type"] == FORMATS["vtt"].media_type


def test_the_format_outweighs_what_is_accepted(client, alice, jobs):
    headers = {**alice, "Accept": "text/vtt"}
    answer = client.get(f"/jobs/{jobs.completed()}/result?format=srt", headers=headers)

    assert answer.headers["content-type"] == FORMATS["srt"].media_type


@pytest.mark.parametrize("accept", ["text/html", "image/*", "text/vtt;q=0", "text/vtt;q=x", "x"])
def test_what_we_do_not_have_is_not_acceptable(client, alice, jobs, accept):
    headers = {**alice, "Accept": accept}
    answer = client.get(f"/jobs/{jobs.completed()}/result", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")


@pytest.mark.parametrize("name", ["pdf", "../etc", "%00", "SRT", "é"])
def test_a_format_that_is_not_there_is_refused(client, alice, jobs, name):
    answer = client.get(f"/jobs/{jobs.completed()}/result?format={name}", headers=alice)

    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "unknown_format")


@pytest.mark.parametrize("status", ["submit", "processing"])
def test_a_result_is_not_there_before_the_end(client, alice, jobs, status):
    answer = client.get(f"/jobs/{getattr(jobs, status)()}/result", headers=alice)

    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_finished")
    assert int(answer.headers["retry-after"]) > 0


def test_a_failed_job_will_never_have_a_result(client, alice, jobs):
    answer = client.get(f"/jobs/{jobs.failed()}/result", headers=alice)

    assert (answer.status_code, answer.json()["code"]) == (409, "no_result")
    assert "retry-after" not in answer.headers


def test_what_is_finished_so_far_can_be_read(client, alice, jobs):
    answer = client.get(
        f"/jobs/{jobs.transcribing()}/result?partial=true&format=txt", headers=alice
    )

    assert (answer.text, answer.headers["transcript-complete"]) == ("one two\n", "false")


def test_a_partial_result_knows_the_language(client, alice, jobs):
    answer = client.get(f"/jobs/{jobs.transcribing()}/result?partial=true", headers=alice)

    assert (answer.json()["language"], answer.json()["audio_seconds"]) == ("en", 28.0)


def test_a_partial_result_may_be_empty(client, alice, jobs):
    answer = client.get(f"/jobs/{jobs.submit()}/result?partial=true", headers=alice)

    assert (answer.json()["text"], answer.json()["language"]) == ("", "und")


def test_a_whole_result_says_that_it_is_whole(client, alice, jobs):
    answer = client.get(f"/jobs/{jobs.completed()}/result?partial=true", headers=alice)

    assert answer.headers["transcript-complete"] == "true"


def test_a_result_is_named_after_its_recording(client, alice, jobs):
    job_id = jobs.completed(client_filename='my "film".mp4')
    answer = client.get(f"/jobs/{job_id}/result?format=srt", headers=alice)

    assert filename(answer.headers["content-disposition"]) == 'my "film".srt'


def filename(disposition: str) -> str:
    """Read the name as a browser would."""
    found = re.search(r"; filename\*=UTF-8''([^ ;]+)$", disposition)
    assert found is not None
    return unquote(found[1])


def plain_filename(disposition: str) -> str:
    """Read the name as who has not heard of RFC 8187, such as curl."""
    found = re.match(r'attachment; filename="([^"\\]*)";', disposition)
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("talk (1).mp3", "talk (1).srt"),
        ('a "b"\\.mp3', "a _b__.srt"),
        ("Übung;$(id).mp3", "_bung__(id).srt"),
    ],
)
def test_a_result_has_a_plain_name_too(client, alice, jobs, name, plain):
    job_id = jobs.completed(client_filename=name)
    answer = client.get(f"/jobs/{job_id}/result?format=srt", headers=alice)

    assert plain_filename(answer.headers["content-disposition"]) == plain


@pytest.mark.parametrize("name", ['a "b".mp3', "é.mp3", "a;b$(id).mp3", "👩.mp3", "a%0d.mp3"])
def test_the_recordings_name_survives(client, alice, jobs, name):
    job_id = jobs.submit(client_filename=name)
    jobs.keep(job_id, SOUND)
    answer = client.get(f"/jobs/{job_id}/audio", headers=alice)

    assert filename(answer.headers["content-disposition"]) == name


def test_the_recording_comes_back(client, alice, jobs):
    job_id = jobs.submit()
    jobs.keep(job_id, SOUND)

    assert client.get(f"/jobs/{job_id}/audio", headers=alice).content == SOUND


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("bytes=0-3", SOUND[:4]),
        ("bytes=10-", SOUND[10:]),
        ("bytes=-5", SOUND[-5:]),
        ("bytes=0-99999", SOUND),
    ],
)
def test_a_part_of_the_recording_can_be_asked_for(client, alice, jobs, asked, given):
    job_id = jobs.submit()
    jobs.keep(job_id, SOUND)
    answer = client.get(f"/jobs/{job_id}/audio", headers={**alice, "Range": asked})

    assert (answer.status_code, answer.content) == (206, given)


@pytest.mark.parametrize(
    ("asked", "status"),
    [("bytes=99999-", 416), ("bytes=5-2", 400), ("items=0-1", 400), ("abc", 400)],
)
def test_a_range_that_cannot_be_is_refused(client, alice, jobs, asked, status):
    job_id = jobs.submit()
    jobs.keep(job_id, SOUND)
    answer = client.get(f"/jobs/{job_id}/audio", headers={**alice, "Range": asked})

    assert (answer.status_code, answer.headers["content-type"]) == (
        status,
        "application/problem+json",
    )


def test_a_range_outside_says_how_long_the_recording_is(client, alice, jobs):
    job_id = jobs.submit()
    jobs.keep(job_id, SOUND)
    answer = client.get(f"/jobs/{job_id}/audio", headers={**alice, "Range": "bytes=99999-"})

    assert answer.headers["content-range"] == f"bytes */{len(SOUND)}"


def test_4000_ranges_are_answered_by_the_whole(client, alice, jobs):
    job_id = jobs.submit()
    jobs.keep(job_id, SOUND)
    ranges = ",".join(f"{n}-{n}" for n in range(0, 4000, 1))
    answer = client.get(f"/jobs/{job_id}/audio", headers={**alice, "Range": f"bytes={ranges}"})

    assert (answer.status_code, answer.content) == (200, SOUND)


def test_the_recordings_headers_can_be_asked_for_alone(client, alice, jobs):
    job_id = jobs.submit()
    jobs.keep(job_id, SOUND)
    answer = client.head(f"/jobs/{job_id}/audio", headers=alice)

    assert (answer.headers["content-length"], answer.content) == (str(len(SOUND)), b"")


def test_a_recording_that_was_deleted_is_gone(client, alice, jobs):
    answer = client.get(f"/jobs/{jobs.submit()}/audio", headers=alice)

    assert (answer.status_code, answer.json()["code"]) == (410, "upload_missing")


def test_a_recording_past_its_time_is_gone(client, alice, jobs, engine):
    job_id = jobs.completed()
    jobs.keep(job_id, SOUND)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE transcription_jobs SET upload_deleted_at = now()")

    assert client.get(f"/jobs/{job_id}/audio", headers=alice).status_code == 410


def test_a_store_that_is_away_is_no_deleted_recording(client, alice, jobs, settings):
    (settings.uploads_path / ".transcription-uploads").unlink()
    answer = client.get(f"/jobs/{jobs.submit()}/audio", headers=alice)

    assert (answer.status_code, answer.json()["code"]) == (503, "storage_unavailable")


@pytest.mark.parametrize(
    ("beginning", "media_type"),
    [
        (b"RIFF\0\0\0\0WAVE", "audio/wav"),
        (b"ID3\4", "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"),
        (b"fLaC", "audio/flac"),
        (b"OggS", "audio/ogg"),
        (b"\0\0\0\x20ftypM4A ", "video/mp4"),
        (b"\x1aE\xdf\xa3", "video/webm"),
        (b"<html><script>", "application/octet-stream"),
        (b"%PDF-1.4", "application/octet-stream"),
        (b"", "application/octet-stream"),
    ],
)
def test_the_type_of_a_recording_is_ours_to_say(tmp_path, beginning, media_type):
    (tmp_path / "upload").write_bytes(beginning)

    assert results.media_type_of(tmp_path / "upload") == media_type


def test_a_recording_is_never_run_by_a_browser(client, alice, jobs):
    job_id = jobs.submit(client_filename="x.html")
    jobs.keep(job_id, b"<html><script>alert(1)</script>")
    headers = client.get(f"/jobs/{job_id}/audio", headers=alice).headers

    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
    assert headers["content-disposition"].startswith("attachment")
