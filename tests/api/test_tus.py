"""Resumable uploads by tus 1.0.0: what is kept, what is refused, and the one job at the end."""

import base64
import hashlib
import threading
import uuid
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from sqlalchemy import select, text
from starlette.testclient import TestClient

from api import origins
from api.services import Services
from app import create_app
from auth import Allowance
from errors import DatabaseUnavailable
from jobs import resumable
from jobs.parts import RESUMABLE_DIR, Part, Parts
from models import Priority, ResumableUpload, TranscriptionJob
from tests.api.conftest import Jobs, connected, poll, read_all, serving, stored

SOUND = bytes(range(256)) * 40
HALF = len(SOUND) // 2
TUS = {"Tus-Resumable": "1.0.0"}
CHUNK = {**TUS, "Content-Type": "application/offset+octet-stream"}


def metadata(**said: str | bytes) -> str:
    def pair(name: str, value: str | bytes) -> str:
        data = value.encode() if isinstance(value, str) else value
        return f"{name} {base64.b64encode(data).decode()}"

    return ",".join(pair(name, value) for name, value in said.items())


class Caller:
    """Who sends in pieces."""

    def __init__(self, client: TestClient, key: dict[str, str]) -> None:
        self.client = client
        self.key = key

    def create(
        self, length: int | str = len(SOUND), content: bytes = b"", **given: Any
    ) -> httpx2.Response:
        headers = {**TUS, **self.key, "Upload-Length": str(length), **given.pop("more", {})}
        if content:
            headers |= CHUNK
        if said := given.pop("said", {"filename": "talk.wav"}):
            headers["Upload-Metadata"] = metadata(**said)
        answer: httpx2.Response = self.client.post(
            "/uploads", headers=headers, content=content, **given
        )
        return answer

    def begun(self, length: int = len(SOUND), **given: Any) -> str:
        answer = self.create(length, **given)
        assert answer.status_code == 201, answer.text
        path: str = answer.headers["location"]
        return path

    def patch(self, path: str, content: bytes, offset: int | str, **more: str) -> httpx2.Response:
        headers = {**CHUNK, **self.key, "Upload-Offset": str(offset)}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        answer: httpx2.Response = self.client.patch(path, headers=headers, content=content)
        return answer

    def head(self, path: str) -> httpx2.Response:
        answer: httpx2.Response = self.client.head(path, headers={**TUS, **self.key})
        return answer

    def offset(self, path: str) -> int:
        return int(self.head(path).headers["upload-offset"])

    def show(self, path: str) -> Any:
        return self.client.get(path, headers=self.key).json()

    def delete(self, path: str) -> httpx2.Response:
        answer: httpx2.Response = self.client.delete(path, headers={**TUS, **self.key})
        return answer

    def sent(self, **given: Any) -> str:
        path = self.begun(**given)
        assert self.patch(path, SOUND, 0).status_code == 204
        return path


@pytest.fixture
def settings(make_settings):
    return make_settings(rate_limit_requests=100_000)  # tests ask again and again


@pytest.fixture
def caller(client: TestClient, alice: dict[str, str]) -> Caller:
    return Caller(client, alice)


@pytest.fixture
def services(client: TestClient) -> Services:
    found: Services = client.app.state.services  # type: ignore[attr-defined]  # FastAPI's
    return found


@pytest.fixture
def parts(services: Services) -> Parts:
    return Parts(services.uploads)


@pytest.fixture
def rows(sessions) -> Callable[[], list[ResumableUpload]]:
    def read() -> list[ResumableUpload]:
        with sessions() as session:
            return list(session.scalars(select(ResumableUpload)))

    return read


def id_of(path: str) -> uuid.UUID:
    return uuid.UUID(path.rpartition("/")[2])


def job_of(jobs: Jobs, answer: httpx2.Response) -> TranscriptionJob:
    job = jobs.row(answer.headers["x-job-id"])
    assert job is not None
    return job


# The protocol


def test_what_is_spoken_is_told_to_everybody(client, settings):
    answer = client.options("/uploads")

    assert (answer.status_code, answer.content) == (204, b"")
    told = {name: answer.headers[f"tus-{name}"] for name in ("version", "max-size", "extension")}
    assert told == {
        "version": "1.0.0",
        "max-size": str(settings.max_upload_bytes),
        "extension": "creation,creation-with-upload,expiration,termination,checksum",
    }
    assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256"


def test_pieces_become_one_job(caller, jobs, settings):
    created = caller.create(said={"filename": "talk.wav", "language": "de", "priority": "high"})
    path = created.headers["location"]
    assert (created.status_code, created.headers["upload-offset"]) == (201, "0")
    assert created.headers["tus-resumable"] == "1.0.0"
    assert caller.patch(path, SOUND[:100], 0).headers["upload-offset"] == "100"
    assert caller.patch(path, SOUND[100:HALF], 100).headers["upload-offset"] == str(HALF)
    assert "x-job-id" not in caller.head(path).headers
    assert jobs.count() == 0
    last = caller.patch(path, SOUND[HALF:], HALF)
    job = job_of(jobs, last)

    assert (last.status_code, last.content) == (204, b"")
    assert last.headers["link"] == f'</jobs/{job.id}>; rel="related"'
    assert (job.status, job.language, job.priority) == ("pending", "de", Priority.HIGH)
    assert (job.client_filename, job.upload_bytes) == ("talk.wav", len(SOUND))
    assert job.upload_sha256 == hashlib.sha256(SOUND).digest()
    (kept,) = stored(settings)
    assert (kept.name, kept.read_bytes()) == (str(job.id), SOUND)


def test_the_state_is_told_at_any_time(caller):
    path = caller.begun(said={"filename": "a.wav", "filetype": "audio/wav"})
    caller.patch(path, SOUND[:7], 0)
    told = caller.head(path)

    assert (told.status_code, told.headers["cache-control"]) == (200, "no-store")
    assert (told.headers["upload-offset"], told.headers["upload-length"]) == ("7", str(len(SOUND)))
    assert told.headers["upload-metadata"] == metadata(filename="a.wav", filetype="audio/wav")
    assert told.headers["upload-expires"].endswith(" GMT")
    shown = caller.show(path)
    assert (shown["status"], shown["offset"], shown["length"]) == ("receiving", 7, len(SOUND))
    assert (shown["filename"], shown["job_id"]) == ("a.wav", None)
    assert shown["links"] == {"self": path, "job": None}


def test_the_job_is_told_of_afterwards(caller, jobs):
    path = caller.sent()
    told, shown = caller.head(path), caller.show(path)

    assert told.headers["upload-offset"] == told.headers["upload-length"]
    job_id = str(job_of(jobs, told).id)
    assert (shown["status"], shown["job_id"]) == ("submitted", job_id)
    assert shown["links"]["job"] == f"/jobs/{job_id}"
    assert caller.patch(path, b"", len(SOUND)).headers["x-job-id"] == job_id
    assert jobs.count() == 1


def test_the_first_piece_may_come_with_the_announcement(caller, jobs):
    part = caller.create(content=SOUND[:HALF])
    assert (part.status_code, part.headers["upload-offset"]) == (201, str(HALF))
    assert jobs.count() == 0
    whole = caller.create(content=SOUND)

    assert (whole.status_code, whole.headers["upload-offset"]) == (201, str(len(SOUND)))
    assert job_of(jobs, whole).upload_bytes == len(SOUND)


def test_an_announcement_whose_piece_is_wrong_leaves_nothing(caller, rows, settings):
    answer = caller.create(4, content=b"12345")
    assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
    checksum = {"Upload-Checksum": f"sha256 {base64.b64encode(bytes(32)).decode()}"}
    assert caller.create(5, content=b"12345", more=checksum).status_code == 460

    assert (rows(), stored(settings)) == ([], [])


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0.1", ""])
def test_another_version_is_refused(caller, version):
    path = caller.begun()
    headers = {**caller.key} if version is None else {**caller.key, "Tus-Resumable": version}
    for method, url in (("post", "/uploads"), ("head", path), ("patch", path), ("delete", path)):
        answer = caller.client.request(method, url, headers=headers)
        assert (answer.status_code, answer.headers["tus-version"]) == (412, "1.0.0")
        assert method == "head" or answer.json()["code"] == "tus_version"


def test_errors_say_the_version_as_well(client):
    answer = client.post("/uploads")

    assert (answer.status_code, answer.headers["tus-resumable"]) == (401, "1.0.0")
    assert answer.headers["content-type"] == "application/problem+json"


# Announcements


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ({"model_size": "enormous"}, 422, "unknown_model"),
        ({"language": "tlhIngan"}, 422, "invalid_request"),
        ({"priority": "urgent"}, 422, "invalid_request"),
        ({"nonsense": "1"}, 422, "invalid_request"),
        ({"initial_prompt": "a\0b"}, 422, "invalid_request"),
        ({"initial_prompt": b"\xff"}, 422, "invalid_request"),
        ({"initial_prompt": "x" * 4001}, 422, "invalid_request"),
        ({"start_seconds": "9", "end_seconds": "3"}, 422, "invalid_request"),
        ({"batch_id": "mine"}, 422, "invalid_request"),
        ({"batch_id": str(uuid.UUID(int=1))}, 404, "not_found"),
        ({"callback_url": "https://a.test/"}, 403, "not_allowed"),
    ],
)
def test_a_field_that_is_wrong_is_refused_at_once(caller, rows, settings, said, status, code):
    answer = caller.create(said=said)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (rows(), stored(settings)) == ([], [])


@pytest.mark.parametrize(
    "sent", ["filename ???", "language ZW4=,language ZGU=", "a b c", "filename YQ==,,x y"]
)
def test_metadata_that_cannot_be_read_is_refused(caller, rows, sent):
    answer = caller.create(said=None, more={"Upload-Metadata": sent})

    assert answer.status_code in {400, 422}
    assert rows() == []


@pytest.mark.parametrize(
    ("length", "status", "code"),
    [
        (0, 422, "empty_file"),
        (2**20 + 1, 413, "upload_too_large"),
        (10**15, 413, "upload_too_large"),
        (-1, 400, "bad_request"),
        ("many", 400, "bad_request"),
        ("9" * 30, 400, "bad_request"),
        ("", 400, "bad_request"),
    ],
)
def test_a_length_that_cannot_be_is_refused(caller, rows, length, status, code):
    answer = caller.create(length)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert rows() == []


def test_a_length_has_to_be_said(caller):
    headers = {**TUS, **caller.key, "Upload-Defer-Length": "1"}

    assert caller.client.post("/uploads", headers=headers).status_code == 400


def test_the_fields_may_stand_in_the_query(caller, jobs):
    path = caller.begun(params={"language": "de"}, said={"name": "x.wav", "type": "audio/wav"})
    job = job_of(jobs, caller.patch(path, SOUND, 0))

    assert (job.language, job.client_filename) == ("de", "x.wav")
    assert caller.create(params={"language": "de"}, said={"language": "en"}).status_code == 422


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\0b", "\u202egnp.mp3", "x" * 5000, ""])
def test_what_the_client_calls_it_is_no_path(caller, jobs, settings, name):
    path = caller.begun(said={"filename": name})
    (part,) = stored(settings)
    assert part.parent.name == RESUMABLE_DIR
    assert part.name == str(id_of(path))
    assert oct(part.stat().st_mode & 0o777) == "0o600"

    shown = job_of(jobs, caller.patch(path, SOUND, 0)).client_filename
    assert "/" not in shown
    assert 0 < len(shown) <= 255


# Pieces


@pytest.mark.parametrize("offset", [0, 9, 11, 10**15])
def test_a_piece_that_begins_elsewhere_is_refused(caller, offset):
    path = caller.begun()
    caller.patch(path, SOUND[:10], 0)
    answer = caller.patch(path, SOUND[10:20], offset)

    assert (answer.status_code, answer.json()["code"]) == (409, "offset_mismatch")
    assert answer.json()["offset"] == 10
    assert caller.offset(path) == 10


@pytest.mark.parametrize("offset", ["", "-1", "x", "1e3", "9" * 30])
def test_an_offset_that_is_no_number_is_refused(caller, offset):
    assert caller.patch(caller.begun(), b"1", offset).status_code == 400


@pytest.mark.parametrize("kind", ["", "audio/wav", "application/octet-stream"])
def test_a_piece_of_another_type_is_refused(caller, kind):
    answer = caller.patch(caller.begun(), b"1", 0, Content_Type=kind)

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_a_packed_piece_is_refused(caller):
    assert caller.patch(caller.begun(), b"1", 0, Content_Encoding="gzip").status_code == 415


def test_more_than_was_announced_is_refused_before_it_is_read(caller):
    path = caller.begun(10)
    answer = caller.patch(path, b"12345678901", 0)

    assert (answer.status_code, answer.json()["code"]) == (413, "upload_too_large")
    assert caller.offset(path) == 0


def test_more_than_was_announced_is_not_kept_where_nobody_said_how_much_comes(caller):
    path = caller.begun(10)
    headers = {**CHUNK, **caller.key, "Upload-Offset": "0"}
    answer = caller.client.patch(path, headers=headers, content=iter([b"12345678", b"901"]))

    assert answer.status_code == 413
    assert caller.offset(path) <= 10


@pytest.mark.parametrize("name", ["sha1", "sha256"])
def test_a_piece_that_is_what_it_should_be_is_kept(caller, name):
    path = caller.begun()
    digest = base64.b64encode(hashlib.new(name, SOUND[:10]).digest()).decode()

    assert caller.patch(path, SOUND[:10], 0, Upload_Checksum=f"{name} {digest}").is_success
    assert caller.offset(path) == 10


def test_a_piece_that_is_not_what_it_should_be_is_thrown_away(caller):
    path = caller.begun()
    caller.patch(path, SOUND[:10], 0)
    digest = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    answer = caller.patch(path, SOUND[10:], 10, Upload_Checksum=f"sha256 {digest}")

    assert (answer.status_code, answer.json()["code"]) == (460, "checksum_mismatch")
    assert answer.json()["title"] == "Checksum Mismatch"
    assert caller.offset(path) == 10


@pytest.mark.parametrize("sent", ["md5 AAAA", "sha256", "sha256 ???", "sha1 AAAA,sha1 AAAA", ""])
def test_a_checksum_that_cannot_be_checked_is_refused(caller, sent):
    path = caller.begun()

    assert caller.patch(path, b"1", 0, Upload_Checksum=sent).status_code == 400
    assert caller.offset(path) == 0


def test_a_piece_whose_sender_died_before_it_was_checked_does_not_count(caller, sessions, settings):
    path = caller.begun()
    caller.patch(path, SOUND[:10], 0)
    (part,) = stored(settings)
    # what a process that is killed in the middle of one leaves
    part.write_bytes(SOUND[:10] + b"spoilt")
    with sessions.begin() as session:
        session.execute(text("UPDATE resumable_uploads SET checked_from = 10"))

    assert caller.offset(path) == 10
    assert caller.patch(path, SOUND[10:], 10).headers["x-job-id"]
    (kept,) = stored(settings)
    assert kept.read_bytes() == SOUND


# Keys, and owners


def test_a_stranger_gets_at_nothing(caller, client, bob, rows):
    path = caller.begun()
    stranger = Caller(client, bob)
    answers = [
        stranger.head(path), stranger.patch(path, SOUND, 0), stranger.delete(path),
        client.get(path, headers=bob),
    ]  # fmt: skip

    assert [answer.status_code for answer in answers] == [404] * 4
    assert caller.offset(path) == 0
    assert len(rows()) == 1


def test_another_key_of_the_same_owner_goes_on(caller, client, make_key, jobs):
    path = caller.begun()
    caller.patch(path, SOUND[:HALF], 0)
    other = Caller(client, make_key("alice"))

    assert job_of(jobs, other.patch(path, SOUND[HALF:], HALF)).upload_bytes == len(SOUND)


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "no-such-key-here"}])
def test_nothing_of_a_body_is_read_without_a_key(caller, settings, port, headers):
    with serving(settings) as other, connected(other) as connection:
        lines = [
            f"PATCH {caller.begun()} HTTP/1.1", "Host: a", "Content-Length: 1000",
            "Upload-Offset: 0", *(f"{n}: {v}" for n, v in {**CHUNK, **headers}.items()),
        ]  # fmt: skip
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + b"evil")
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 401 ")
    assert [path.stat().st_size for path in stored(settings)] == [0]


def test_a_key_that_lost_the_right_meanwhile_makes_no_job(caller, client, make_key, jobs):
    path = caller.begun(said={"priority": "high"})
    other = Caller(client, make_key("alice", may_use_high=False))
    answer = other.patch(path, SOUND, 0)

    assert (answer.status_code, answer.json()["code"]) == (403, "not_allowed")
    assert jobs.count() == 0
    assert job_of(jobs, caller.head(path)).priority == "high"


# Limits


def test_the_disks_floor_is_kept(make_settings, alice, rows, settings):
    with TestClient(create_app(make_settings(min_free_disk_mb=2**24))) as client:
        answer = Caller(client, alice).create()

    assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
    assert (rows(), stored(settings)) == ([], [])


def test_an_owner_has_so_many_unfinished_ones(make_settings, alice, make_key, bob):
    with TestClient(create_app(make_settings(max_unfinished_uploads=2))) as client:
        caller = Caller(client, alice)
        first = caller.begun()
        caller.begun()
        answer = Caller(client, make_key("alice")).create()
        assert (answer.status_code, answer.json()["quota"]) == (429, "unfinished_uploads")
        assert (answer.json()["limit"], answer.json()["used"]) == (2, 2)
        assert answer.headers["retry-after"] == "60"
        assert Caller(client, bob).create().status_code == 201

        assert caller.patch(first, SOUND, 0).is_success
        assert caller.delete(caller.begun()).is_success
        assert caller.create().status_code == 201


def test_what_was_announced_counts_as_stored_once(client, make_key, jobs):
    caller = Caller(client, make_key("carol", allowance=Allowance(bytes_stored=2 * len(SOUND))))
    path = caller.begun()
    caller.begun()
    assert caller.create(1).json()["quota"] == "bytes_stored"
    form = client.post("/transcribe", files={"file": ("a.wav", b"1")}, headers=caller.key)
    assert form.json()["quota"] == "bytes_stored"
    used = client.get("/usage", headers=caller.key).json()["bytes_stored"]["used"]
    assert used == 2 * len(SOUND)

    assert caller.patch(path, SOUND, 0).is_success
    assert client.get("/usage", headers=caller.key).json()["bytes_stored"]["used"] == used


def test_what_is_whole_waits_for_room_for_its_job(client, make_key, jobs):
    caller = Caller(client, make_key("carol", allowance=Allowance(jobs_at_once=1)))
    first, second = caller.begun(), caller.begun()
    assert caller.patch(first, SOUND, 0).is_success
    refused = caller.patch(second, SOUND[::-1], 0)
    assert (refused.status_code, refused.json()["quota"]) == (429, "jobs_at_once")
    # nobody is told that all is well before there is a job
    assert caller.head(second).status_code == 429
    assert caller.show(second)["status"] == "receiving"
    assert jobs.count() == 1

    jobs.finish(caller.head(first).headers["x-job-id"])
    assert job_of(jobs, caller.head(second)).upload_sha256 == hashlib.sha256(SOUND[::-1]).digest()
    assert jobs.count() == 2


# One job


def test_the_same_idempotency_key_makes_one_job(caller, jobs, settings):
    more = {"Idempotency-Key": "once"}
    first, second = caller.begun(more=more), caller.begun(more=more)
    job_id = caller.patch(first, SOUND, 0).headers["x-job-id"]

    assert caller.patch(second, SOUND, 0).headers["x-job-id"] == job_id
    assert jobs.count() == 1
    assert [path.name for path in stored(settings)] == [job_id]
    form = {"file": ("talk.wav", SOUND)}
    again = caller.client.post("/transcribe", files=form, headers={**caller.key, **more})
    assert again.json()["job_id"] == job_id


def test_an_idempotency_key_of_another_file_makes_none(caller, jobs):
    more = {"Idempotency-Key": "once"}
    caller.sent(more=more)
    answer = caller.patch(caller.begun(more=more), SOUND[::-1], 0)

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")
    assert jobs.count() == 1


def test_duplicates_are_found(make_settings, alice, jobs, settings):
    with TestClient(create_app(make_settings(duplicate_detection="finished"))) as client:
        caller = Caller(client, alice)
        job_id = caller.head(caller.sent()).headers["x-job-id"]
        jobs.finish(job_id)

        assert caller.head(caller.sent()).headers["x-job-id"] == job_id
    assert jobs.count() == 1
    assert len(stored(settings)) == 1


def test_a_file_is_added_to_a_batch(caller, client, make_batch, jobs):
    made = client.post("/batches", json={"profile": {"language": "de"}}, headers=caller.key)
    batch_id = made.json()["id"]
    path = caller.begun(said={"batch_id": batch_id})
    job = job_of(jobs, caller.patch(path, SOUND, 0))

    assert (str(job.batch_id), job.language) == (batch_id, "de")
    late = caller.begun(said={"batch_id": batch_id})
    client.post(f"/batches/{batch_id}/close", headers=caller.key)
    answer = caller.patch(late, SOUND, 0)
    assert (answer.status_code, answer.json()["code"]) == (409, "batch_closed")
    assert caller.create(said={"batch_id": batch_id}).status_code == 409
    assert caller.create(said={"batch_id": str(make_batch("bob"))}).status_code == 404
    assert jobs.count() == 1


def test_the_job_is_made_by_whoever_finds_it_whole(caller, jobs, settings):
    """The process that had the last byte died before there was a job."""
    paths = [caller.begun() for _ in range(2)]
    for part in stored(settings):
        part.write_bytes(SOUND)
    by_head, by_patch = caller.head(paths[0]), caller.patch(paths[1], b"", len(SOUND))

    assert by_head.headers["upload-offset"] == str(len(SOUND))
    assert {by_head.status_code, by_patch.status_code} == {200, 204}
    assert job_of(jobs, by_head).id != job_of(jobs, by_patch).id
    assert jobs.count() == 2


def test_many_who_find_it_whole_make_one_job(caller, jobs, settings):
    path = caller.begun()
    (part,) = stored(settings)
    part.write_bytes(SOUND)
    answers: list[httpx2.Response] = []
    threads = [
        threading.Thread(target=lambda: answers.append(caller.patch(path, b"", len(SOUND))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert {answer.status_code for answer in answers} <= {204, 423}
    assert len({answer.headers["x-job-id"] for answer in answers if answer.is_success}) == 1
    assert jobs.count() == 1
    assert len(stored(settings)) == 1


def test_a_commit_whose_holder_died_makes_no_second_job(caller, jobs, sessions, settings):
    """The kernel has let the lock go, and PostgreSQL has not committed yet."""
    path = caller.begun()
    (part,) = stored(settings)
    part.write_bytes(SOUND)
    job_id = jobs.submit()
    with sessions() as session:
        assert resumable.finish(session, id_of(path))
        resumable.settle(session, id_of(path), job_id)
        answers: list[httpx2.Response] = []
        other = threading.Thread(target=lambda: answers.append(caller.patch(path, b"", len(SOUND))))
        other.start()
        with sessions() as looking:
            blocked = text("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            poll(lambda: looking.execute(blocked).first())
        session.commit()
    other.join(60)

    assert answers[0].headers["x-job-id"] == str(job_id)
    assert jobs.count() == 1


def test_a_database_that_is_away_costs_nothing_that_came(caller, services, monkeypatch, jobs):
    path = caller.begun()
    with monkeypatch.context() as broken:
        broken.setattr(
            "api.receiving.lifecycle.submit",
            lambda *_: (_ for _ in ()).throw(DatabaseUnavailable()),
        )
        assert caller.patch(path, SOUND, 0).status_code == 503
    assert jobs.count() == 0

    assert job_of(jobs, caller.head(path)).upload_bytes == len(SOUND)


# Two at once


def test_whoever_comes_second_is_told_to_wait(caller, parts):
    path = caller.begun()
    with Part(parts, id_of(path)):
        answers = [caller.patch(path, b"1", 0), caller.delete(path)]
        assert caller.offset(path) == 0

    assert [(a.status_code, a.json()["code"]) for a in answers] == [(423, "upload_busy")] * 2
    assert answers[0].headers["retry-after"] == "5"
    assert caller.patch(path, b"1", 0).is_success


def test_nobody_is_told_that_it_is_whole_while_its_job_is_made(caller, parts, settings):
    path = caller.begun()
    (part,) = stored(settings)
    part.write_bytes(SOUND)
    with Part(parts, id_of(path)):
        assert caller.head(path).status_code == 423

    assert caller.head(path).headers["x-job-id"]


# Connections that break


def begin_patch(caller: Caller, path: str, length: int, **more: str) -> bytes:
    headers = {**CHUNK, **caller.key, "Upload-Offset": "0", "Content-Length": str(length), **more}
    lines = [f"PATCH {path} HTTP/1.1", "Host: a", *(f"{n}: {v}" for n, v in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def test_what_came_before_a_connection_broke_is_kept(caller, port, jobs, rows):
    path, before = caller.begun(), rows()[0].expires_at
    with connected(port) as connection:
        connection.sendall(begin_patch(caller, path, len(SOUND)) + SOUND[:HALF])
        poll(lambda: rows()[0].expires_at > before)
    poll(lambda: caller.offset(path) == HALF)
    answer = poll(lambda: (a := caller.patch(path, SOUND[HALF:], HALF)).is_success and a)

    assert job_of(jobs, answer).upload_sha256 == hashlib.sha256(SOUND).digest()


def test_what_came_of_a_piece_that_is_to_be_checked_is_not(caller, port, jobs, rows):
    path, before = caller.begun(), rows()[0].expires_at
    digest = base64.b64encode(hashlib.sha256(SOUND).digest()).decode()
    head = begin_patch(caller, path, len(SOUND), **{"Upload-Checksum": f"sha256 {digest}"})
    with connected(port) as connection:
        connection.sendall(head + SOUND[:HALF])
        poll(lambda: rows()[0].expires_at > before)
    poll(lambda: caller.patch(path, b"", 0).is_success)

    assert caller.offset(path) == 0


def test_a_piece_that_stops_coming_is_ended_and_kept(caller, make_settings):
    path = caller.begun()
    with (
        serving(make_settings(body_timeout_seconds=0.3)) as port,
        connected(port) as connection,
    ):
        connection.sendall(begin_patch(caller, path, len(SOUND)) + SOUND[:HALF])
        answer = read_all(connection)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert caller.offset(path) == HALF


def test_a_piece_that_comes_while_the_server_stops_is_kept(caller, settings, rows):
    path, before = caller.begun(), rows()[0].expires_at
    with serving(settings, timeout_graceful_shutdown=0.2) as port, connected(port) as connection:
        connection.sendall(begin_patch(caller, path, len(SOUND)) + SOUND[:HALF])
        poll(lambda: rows()[0].expires_at > before)

    assert caller.offset(path) == HALF


# Their end


def test_what_is_given_up_is_deleted(caller, rows, settings):
    path = caller.begun()
    caller.patch(path, SOUND[:HALF], 0)

    assert caller.delete(path).status_code == 204
    assert [caller.head(path).status_code, caller.delete(path).status_code] == [404, 404]
    assert (rows(), stored(settings)) == ([], [])


def test_giving_up_what_is_finished_leaves_its_job(caller, jobs, settings):
    path = caller.sent()

    assert caller.delete(path).status_code == 204
    assert caller.head(path).status_code == 404
    assert jobs.count() == len(stored(settings)) == 1


def test_what_expired_is_gone(caller, sessions):
    path = caller.begun()
    with sessions.begin() as session:
        session.execute(text("UPDATE resumable_uploads SET expires_at = now()"))

    answers = [caller.head(path), caller.patch(path, b"1", 0), caller.delete(path)]
    assert [answer.status_code for answer in answers] == [404] * 3


def test_every_piece_lets_it_expire_later(caller, sessions, rows):
    path = caller.begun()
    with sessions.begin() as session:
        session.execute(text("UPDATE resumable_uploads SET expires_at = now() + interval '1 min'"))
    before = rows()[0].expires_at
    told = caller.patch(path, b"1", 0).headers["upload-expires"]

    assert rows()[0].expires_at > before
    assert caller.head(path).headers["upload-expires"] == told


def test_a_part_that_was_lost_is_as_good_as_none(caller, settings):
    path = caller.begun()
    for part in stored(settings):
        part.unlink()

    assert [caller.head(path).status_code, caller.patch(path, b"1", 0).status_code] == [404, 404]
    assert caller.delete(path).status_code == 204


def test_a_link_in_its_place_is_not_followed(caller, settings, tmp_path):
    path = caller.begun()
    (part,) = stored(settings)
    part.unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"secret")
    part.symlink_to(elsewhere)

    assert caller.patch(path, b"1", 6).status_code == 404
    assert elsewhere.read_bytes() == b"secret"


# Pages of other origins


def test_pages_that_are_allowed_may_send_and_read_its_headers(make_settings, alice):
    page = "https://app.test"
    with TestClient(create_app(make_settings(cors_origins=page))) as client:
        asked = {"Origin": page, "Access-Control-Request-Method": "PATCH"}
        allowed = client.options("/uploads/1", headers=asked).headers
        shown = client.options("/uploads", headers={"Origin": page}).headers

    assert "PATCH" in allowed["access-control-allow-methods"]
    sent = {"Tus-Resumable", "Upload-Length", "Upload-Metadata", "Upload-Offset", "Upload-Checksum"}
    assert sent <= set(origins.SENT)
    exposed = set(shown["access-control-expose-headers"].split(", "))
    assert {"Location", "Upload-Offset", "Upload-Length", "Upload-Expires", "x-job-id"} <= exposed
    assert shown["tus-version"] == "1.0.0"
