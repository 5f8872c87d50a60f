"""Every error that the OpenAPI document tells of, on every route, is one that can be seen.

That nothing else is answered is schemathesis' to find. A route that is new, or tells of an error
that is new, fails here until somebody says how one comes by it.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import httpx2
import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from api.dependencies import MAX_JSON_BYTES
from api.openai_errors import Envelope
from api.schemas import Problem
from api.services import Services
from app import create_app
from config import Settings
from jobs.parts import Part, Parts
from models import ApiKey, Scope, TranscriptionJob
from tests.api.conftest import (
    ADMIN_KEY,
    Jobs,
    MakeKey,
    OneWebhook,
    connected,
    poll,
    serving,
    stored,
)
from tests.api.test_ownership import (
    DOCUMENT,
    METHODS,
    Operation,
    body,
    demanded,
    needed,
    url_of,
)
from tests.api.test_uploading import HEAD, length, request

DOCUMENTED: Final = [
    (operation, int(status))
    for operation, description in METHODS.items()
    for status in sorted(description["responses"])
    if int(status) >= 400
]
SUBMIT: Final = ("post", "/transcribe")
OPENAI: Final = (("post", "/v1/audio/transcriptions"), ("post", "/v1/audio/translations"))
ASR: Final = (("post", "/asr"), ("post", "/detect-language"))
ADDING: Final = ("post", "/batches/{batch_id}/files")
RERUN: Final = ("post", "/jobs/{job_id}/rerun")
SUBMITTING: Final = (SUBMIT, *OPENAI, *ASR, ADDING)
ANNOUNCING: Final = ("post", "/uploads")
APPENDING: Final = ("patch", "/uploads/{upload_id}")
DISCARDING: Final = ("delete", "/uploads/{upload_id}")
SENDING: Final = (ANNOUNCING, APPENDING)
#: What asks for a job that another answer would not be refused with.
CHANGES: Final = {("patch", "/jobs/{job_id}"): {"priority": "high"}}
MB: Final = 2**20


@dataclass
class Attempt:
    """One operation, and all that a request to it may need."""

    operation: Operation
    client: TestClient
    make_settings: Callable[..., Settings]
    make_key: MakeKey
    jobs: Jobs
    settings: Settings
    make_webhook: Callable[..., OneWebhook]
    make_batch: Callable[..., uuid.UUID]
    make_upload: Callable[..., uuid.UUID]

    @cached_property
    def ids(self) -> dict[str, uuid.UUID]:
        """Of what every path needs, and is the caller's."""
        if "{upload_id}" in self.operation[1]:
            return {"upload_id": self.make_upload("admin", size_bytes=2)}
        return {"batch_id": self.make_batch("admin")} if "{batch_id}" in self.operation[1] else {}

    @property
    def path(self) -> str:
        return url_of(self.operation, self.ids)

    @property
    def key(self) -> dict[str, str]:
        """A key that may do everything, by the name of the one from the setting."""
        return {"X-API-Key": ADMIN_KEY}

    def call(self, headers: Mapping[str, str] | None = None, **given: Any) -> httpx2.Response:
        """Send the least that the document allows, but for what is given."""
        client, ids = given.pop("client", self.client), given.pop("ids", {})
        url = given.pop("url", None) or url_of(self.operation, {**self.ids, **ids})
        if not {"json", "content", "files"} & given.keys():
            given |= body(self.operation)
            if self.operation in CHANGES:
                given["json"] = CHANGES[self.operation]
        headers = {
            **demanded(self.operation),
            **(self.key if headers is None else headers),
            **given.pop("more", {}),
        }
        answer: httpx2.Response = client.request(self.operation[0], url, headers=headers, **given)
        return answer

    def on(self, job_id: uuid.UUID, **given: Any) -> httpx2.Response:
        return self.call(ids={"job_id": job_id}, **given)

    def with_settings(self, *before: str, **values: Any) -> httpx2.Response:
        """Call an app with other settings, after some GETs."""
        app = create_app(self.make_settings(**values))
        with TestClient(app, raise_server_exceptions=False) as client:
            for path in before:
                client.get(path, headers=self.key)
            return self.call(client=client)

    def by_hand(self, head: bytes, part: bytes) -> httpx2.Response:
        """Send a part of a request, and nothing more."""
        settings = self.make_settings(body_timeout_seconds=0.3)
        with serving(settings) as port, connected(port) as connection:
            connection.sendall(head + part)
            answer = connection.recv(65536)
        return read(answer)


def read(answer: bytes) -> httpx2.Response:
    head, _, content = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name: value for name, _, value in (line.partition(": ") for line in lines)}
    return httpx2.Response(int(status.split()[1]), headers=headers, content=content)


# How one comes by each


def no_key(attempt: Attempt) -> httpx2.Response:
    return attempt.call(headers={})


def no_scope(attempt: Attempt) -> httpx2.Response:
    wanted = needed(attempt.operation)
    other = next(scope for scope in Scope if scope not in {wanted, Scope.ADMIN})
    return attempt.call(attempt.make_key("alice", scopes=[other]))


def nobodys(attempt: Attempt) -> httpx2.Response:
    if "{name}" in attempt.operation[1]:
        return attempt.call(url=attempt.operation[1].replace("{name}", "nothing"))
    return attempt.call(url=url_of(attempt.operation))


def twice(attempt: Attempt) -> httpx2.Response:
    return attempt.call(url=f"{url_of(attempt.operation)}?a=1&a=2")


def too_often(attempt: Attempt) -> httpx2.Response:
    return attempt.with_settings("/usage", rate_limit_requests=1)


def no_database(attempt: Attempt) -> httpx2.Response:
    return attempt.with_settings(database_url="postgresql://127.0.0.1:1/nowhere")


def no_json(attempt: Attempt) -> httpx2.Response:
    return attempt.call(content=b"{", more={"Content-Type": "application/json"})


def no_cursor(attempt: Attempt) -> httpx2.Response:
    return attempt.call(params={"cursor": "nobody's"})


def no_cursor_of_one(attempt: Attempt) -> httpx2.Response:
    ids = asdict(attempt.make_webhook("admin"))
    return attempt.call(ids=ids, params={"cursor": "nobody's"})


def twice_for_callbacks(attempt: Attempt) -> httpx2.Response:
    attempt.call()
    return attempt.call()


def disabled(attempt: Attempt) -> httpx2.Response:
    ids = asdict(attempt.make_webhook("admin"))
    path = f"/webhooks/{ids['webhook_id']}"
    attempt.client.patch(path, json={"enabled": False}, headers=attempt.key)
    return attempt.call(ids=ids)


def half_json(attempt: Attempt) -> httpx2.Response:
    lines = [
        f"{attempt.operation[0].upper()} {url_of(attempt.operation)} HTTP/1.1",
        "Host: a",
        f"X-API-Key: {attempt.key['X-API-Key']}",
        "Content-Type: application/json",
        "Content-Length: 10",
    ]
    return attempt.by_hand("\r\n".join(lines).encode() + b"\r\n\r\n", b"{")


def large_json(attempt: Attempt) -> httpx2.Response:
    content = json.dumps({"note": MAX_JSON_BYTES * "x"}).encode()
    return attempt.call(content=content, more={"Content-Type": "application/json"})


def other_media(attempt: Attempt) -> httpx2.Response:
    return attempt.call(content=b"{}", more={"Content-Type": "text/plain"})


def wrong_state(attempt: Attempt) -> httpx2.Response:
    """A job that has failed, to whom it can no longer happen; for an operator, one that has not."""
    if attempt.operation[1].startswith("/admin/errors"):
        return attempt.on(attempt.jobs.submit())
    return attempt.on(attempt.jobs.failed())


def last_of_its_kind(attempt: Attempt) -> httpx2.Response:
    """The only key that could undo it."""
    attempt.client.get("/usage", headers=attempt.key)  # which enters the keys of the setting
    with attempt.jobs.sessions() as session:
        (key_id,) = session.scalars(select(ApiKey.id)).all()
    given: dict[str, Any] = (
        {"json": {"scopes": ["jobs:read"]}} if attempt.operation[0] == "patch" else {}
    )
    return attempt.call(ids={"key_id": key_id}, **given)


def under_way(attempt: Attempt) -> httpx2.Response:
    name = b"Idempotency-Key: one"
    with serving(attempt.settings) as port, connected(port) as first, connected(port) as second:
        path = attempt.path
        first.sendall(request(length(1000), name, key=attempt.key, path=path) + HEAD)
        assert poll(lambda: stored(attempt.settings))
        second.sendall(request(length(1000), name, key=attempt.key, path=path) + HEAD)
        return read(second.recv(65536))


def deleted_meanwhile(attempt: Attempt) -> httpx2.Response:
    first = attempt.call(more={"Idempotency-Key": "one"})
    attempt.client.delete(f"/jobs/{first.json()['job_id']}", headers=attempt.key)
    return attempt.call(more={"Idempotency-Key": "one"})


def deleted(attempt: Attempt) -> httpx2.Response:
    job_id = attempt.jobs.completed()
    attempt.client.delete(f"/jobs/{job_id}", headers=attempt.key)
    return attempt.on(job_id)


def half_upload(attempt: Attempt) -> httpx2.Response:
    path = attempt.path
    return attempt.by_hand(request(length(MB), key=attempt.key, path=path), HEAD + b"x")


def no_form(attempt: Attempt) -> httpx2.Response:
    kind = {"Content-Type": "multipart/form-data; boundary=XX"}
    return attempt.call(content=b"--YY", more=kind)


def large_upload(attempt: Attempt) -> httpx2.Response:
    given = body(attempt.operation)
    (field,) = given["files"]
    return attempt.call(**{**given, "files": {field: ("a.mp3", bytes(MB + 1))}})


def no_model(attempt: Attempt) -> httpx2.Response:
    return attempt.call(**{**body(attempt.operation), "data": {"model": "nobody's"}})


def too_late(attempt: Attempt) -> httpx2.Response:
    return attempt.call(**{**body(attempt.operation), "data": {}, "params": {}})


def no_such_switch(attempt: Attempt) -> httpx2.Response:
    return attempt.call(**{**body(attempt.operation), "params": {"encode": "perhaps"}})


def full_disk(attempt: Attempt) -> httpx2.Response:
    return attempt.with_settings(min_free_disk_mb=2**24)


def own(attempt: Attempt) -> uuid.UUID:
    """A job of the caller's whose upload is kept."""
    job_id = attempt.jobs.failed("admin")
    attempt.jobs.keep(job_id, b"sound")
    return job_id


def same_key_at_once(attempt: Attempt) -> httpx2.Response:
    job_id = own(attempt)
    services: Services = attempt.client.app.state.services  # type: ignore[attr-defined]  # FastAPI's
    with attempt.jobs.sessions() as session:
        owner_id = session.get_one(TranscriptionJob, job_id).owner_id
    with services.under_way.hold(owner_id, "one"):
        return attempt.on(job_id, more={"Idempotency-Key": "one"})


def full_disk_for_its_own(attempt: Attempt) -> httpx2.Response:
    job_id = own(attempt)
    app = create_app(attempt.make_settings(min_free_disk_mb=2**24))
    with TestClient(app, raise_server_exceptions=False) as client:
        return attempt.call(client=client, ids={"job_id": job_id})


def without_upload(attempt: Attempt) -> httpx2.Response:
    job_id = attempt.jobs.failed()
    with attempt.jobs.sessions.begin() as session:
        session.get_one(TranscriptionJob, job_id).upload_deleted_at = func.now()
    return attempt.on(job_id)


def no_length(attempt: Attempt) -> httpx2.Response:
    name = "Upload-Length" if attempt.operation == ANNOUNCING else "Upload-Offset"
    return attempt.call(more={name: "many"})


def half_chunk(attempt: Attempt) -> httpx2.Response:
    headers = {**demanded(attempt.operation), **attempt.key, "Content-Length": "2"}
    if attempt.operation == ANNOUNCING:
        headers["Upload-Length"] = "2"
    lines = [f"{attempt.operation[0].upper()} {attempt.path} HTTP/1.1", "Host: a"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return attempt.by_hand("\r\n".join(lines).encode() + b"\r\n\r\n", b"x")


def named_before(attempt: Attempt) -> httpx2.Response:
    """The job that this submission's key made was deleted."""
    named, form = {**attempt.key, "Idempotency-Key": "one"}, {"file": ("a.mp3", b"x")}
    first = attempt.client.post("/transcribe", files=form, headers=named)
    attempt.client.delete(f"/jobs/{first.json()['job_id']}", headers=attempt.key)
    more = {**demanded(ANNOUNCING), "Idempotency-Key": "one", "Upload-Length": "1"}
    if attempt.operation == ANNOUNCING:
        return attempt.call(more=more)
    headers = {**attempt.key, **more}
    made = attempt.client.post("/uploads", headers=headers)
    return attempt.call(url=made.headers["location"])


def closed_batch(attempt: Attempt) -> httpx2.Response:
    batch_id = attempt.make_batch("admin")
    attempt.client.post(f"/batches/{batch_id}/close", headers=attempt.key)
    said = base64.b64encode(str(batch_id).encode()).decode()
    return attempt.call(more={"Upload-Metadata": f"batch_id {said}"})


def no_batch(attempt: Attempt) -> httpx2.Response:
    said = base64.b64encode(str(uuid.uuid4()).encode()).decode()
    return attempt.call(more={"Upload-Metadata": f"batch_id {said}"})


def other_offset(attempt: Attempt) -> httpx2.Response:
    return attempt.call(more={"Upload-Offset": "1"})


def other_version(attempt: Attempt) -> httpx2.Response:
    return attempt.call(more={"Tus-Resumable": "0.2.2"})


def large_chunk(attempt: Attempt) -> httpx2.Response:
    return attempt.call(content=b"xyz")


def sent_by_another(attempt: Attempt) -> httpx2.Response:
    services: Services = attempt.client.app.state.services  # type: ignore[attr-defined]  # FastAPI's
    with Part(Parts(services.uploads), attempt.ids["upload_id"]):
        return attempt.call()


def other_checksum(attempt: Attempt) -> httpx2.Response:
    digest = base64.b64encode(bytes(32)).decode()
    more = {"Upload-Checksum": f"sha256 {digest}"}
    return attempt.call(more=more)


def full_disk_for_its_upload(attempt: Attempt) -> httpx2.Response:
    """There is no room for a copy, where the file system has no links."""
    services: Services = attempt.client.app.state.services  # type: ignore[attr-defined]  # FastAPI's
    services.uploads.min_free_bytes, services.uploads.check_bytes = 2**50, 1
    return attempt.call()


def no_such_range(attempt: Attempt, asked: str) -> httpx2.Response:
    job_id = attempt.jobs.failed()
    attempt.jobs.keep(job_id, b"sound")
    return attempt.on(job_id, more={"Range": asked})


def no_format(attempt: Attempt) -> httpx2.Response:
    return attempt.on(attempt.jobs.completed(), more={"Accept": "image/png"})


Way = Callable[[Attempt], httpx2.Response]
JSON: Final[dict[int, Way]] = {400: no_json, 408: half_json, 413: large_json, 415: other_media}
WAYS: Final[dict[int, Way]] = {
    401: no_key,
    403: no_scope,
    404: nobodys,
    409: wrong_state,
    410: deleted,
    422: twice,
    429: too_often,
    503: no_database,
}
OF_ONE: Final[dict[tuple[Operation, int], Way]] = {
    **{(operation, 400): no_form for operation in SUBMITTING},
    **{(operation, 408): half_upload for operation in SUBMITTING},
    **{(operation, 409): under_way for operation in SUBMITTING},
    **{(operation, 410): deleted_meanwhile for operation in SUBMITTING},
    **{(operation, 413): large_upload for operation in SUBMITTING},
    **{(operation, 415): other_media for operation in SUBMITTING},
    **{(operation, 507): full_disk for operation in SUBMITTING},
    **{(operation, 404): no_model for operation in OPENAI},
    **{(operation, 504): too_late for operation in (*OPENAI, *ASR)},
    **{(operation, 422): no_such_switch for operation in ASR},
    (APPENDING, 409): other_offset,
    (APPENDING, 507): full_disk_for_its_upload,
    (ANNOUNCING, 404): no_batch,
    (ANNOUNCING, 409): closed_batch,
    (ANNOUNCING, 507): full_disk,
    **{(operation, 400): no_length for operation in SENDING},
    **{(operation, 408): half_chunk for operation in SENDING},
    **{(operation, 410): named_before for operation in SENDING},
    **{(operation, 412): other_version for operation in (*SENDING, DISCARDING)},
    **{(operation, 413): large_chunk for operation in SENDING},
    **{(operation, 415): other_media for operation in SENDING},
    **{(operation, 423): sent_by_another for operation in (APPENDING, DISCARDING)},
    **{(operation, 460): other_checksum for operation in SENDING},
    (RERUN, 409): same_key_at_once,
    (RERUN, 507): full_disk_for_its_own,
    (("get", "/v1/models"), 400): twice,
    (("get", "/v1/models/{name}"), 400): twice,
    (("get", "/jobs"), 400): no_cursor,
    (("get", "/admin/errors"), 400): no_cursor,
    (("get", "/admin/keys"), 400): no_cursor,
    (("get", "/batches"), 400): no_cursor,
    (("get", "/webhooks"), 400): no_cursor,
    (("get", "/webhooks/{webhook_id}/deliveries"), 400): no_cursor_of_one,
    (("post", "/webhooks"), 409): twice_for_callbacks,
    (("post", "/webhooks/{webhook_id}/test"), 409): disabled,
    (("post", "/webhooks/{webhook_id}/deliveries/{delivery_id}/resend"), 409): disabled,
    (("get", "/jobs/{job_id}/result"), 406): no_format,
    (("get", "/jobs/{job_id}/audio"), 400): lambda attempt: no_such_range(attempt, "items=0-1"),
    (("get", "/jobs/{job_id}/audio"), 410): without_upload,
    (("get", "/jobs/{job_id}/audio"), 416): lambda attempt: no_such_range(attempt, "bytes=99-"),
    (("post", "/admin/errors/{job_id}/retry"), 410): without_upload,
    (("patch", "/admin/keys/{key_id}"), 409): last_of_its_kind,
    (("post", "/admin/keys/{key_id}/revoke"), 409): last_of_its_kind,
    (("post", "/admin/keys/{key_id}/rotate"), 409): last_of_its_kind,
}


def way_to(operation: Operation, status: int) -> Way:
    if way := OF_ONE.get((operation, status)):
        return way
    return (JSON | WAYS if "json" in body(operation) else WAYS)[status]


@pytest.mark.security("errors", "what leads to each error that the document tells of")
@pytest.mark.parametrize(
    ("operation", "status"),
    [pytest.param(o, s, id=f"{o[0]} {o[1]} {s}") for o, s in DOCUMENTED],
)
def test_every_error_that_the_document_tells_of_is_seen(
    client: TestClient,
    make_settings: Callable[..., Settings],
    make_key: MakeKey,
    jobs: Jobs,
    settings: Settings,
    make_webhook: Callable[..., OneWebhook],
    make_batch: Callable[..., uuid.UUID],
    make_upload: Callable[..., uuid.UUID],
    operation: Operation,
    status: int,
) -> None:
    given = (make_settings, make_key, jobs, settings, make_webhook, make_batch, make_upload)
    attempt = Attempt(operation, client, *given)
    answer = way_to(operation, status)(attempt)

    assert answer.status_code == status, answer.text
    if operation[1].startswith("/v1/"):
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-should-retry"] in {"true", "false"}
        assert Envelope.model_validate_json(answer.content).error.message
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        assert Problem.model_validate_json(answer.content).status == status


@pytest.mark.parametrize(
    "operation",
    [pytest.param(o, id=f"{o[0]} {o[1]}") for o in METHODS if "json" in body(o)],
)
def test_a_body_that_would_have_to_be_unpacked_is_not_read(
    client: TestClient, operation: Operation
) -> None:
    headers = {"X-API-Key": ADMIN_KEY, "Content-Encoding": "gzip"}
    answer = client.request(operation[0], url_of(operation), headers=headers, **body(operation))

    # the others are of nobody's id, which is told first
    nobodys = "{" in operation[1] and answer.status_code == 404
    assert answer.status_code == 415 or nobodys, answer.text


def test_one_schema_is_told_of_for_every_error() -> None:
    contents = {
        json.dumps(METHODS[operation]["responses"][str(status)]["content"])
        for operation, status in DOCUMENTED
        if not operation[1].startswith("/v1/")
    }
    schema = {"$ref": "#/components/schemas/Problem"}

    assert contents == {json.dumps({"application/problem+json": {"schema": schema}})}
    assert "Problem" in DOCUMENT["components"]["schemas"]
