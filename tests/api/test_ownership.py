"""Who may do what, on every route: the OpenAPI document is the list of them, and its rules hold.

A new route is tried by every test here without being named. One that is open to everybody, takes
an id of another kind, or needs another scope than its method tells, fails until it is thought of.
"""

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy import select

from api import tus
from api.documentation import ASSETS
from app import create_app
from auth import JOB_SCOPES
from config import Settings
from models import ApiKey, Batch, ResumableUpload, Scope, TranscriptionJob, Webhook, WebhookDelivery
from tests.api.conftest import NOWHERE, Jobs, MakeKey

Operation = tuple[str, str]

APP: Final = create_app(Settings(**NOWHERE))
DOCUMENT: Final = APP.openapi()
METHODS: Final = {
    (method, path): description
    for path, methods in DOCUMENT["paths"].items()
    for method, description in methods.items()
}
#: Served, and left out of the document: they tell what the documentation does, and our name.
PAGES: Final = {"/", "/page/{digest}/{name:path}", "/docs", "/openapi.json", *ASSETS}

# The rules

#: Open to everybody.
PUBLIC: Final = {
    ("get", "/health"), ("get", "/ready"), ("get", "/limits"), ("options", "/uploads"),
}  # fmt: skip
#: Open to every key: they tell of the key itself.
OF_THE_KEY: Final = {
    ("get", "/usage"),
    ("get", "/session"),
    ("post", "/session"),
    ("delete", "/session"),
}
SCOPES: Final = {
    "get": Scope.JOBS_READ,
    "head": Scope.JOBS_READ,
    "patch": Scope.JOBS_WRITE,
    "post": Scope.JOBS_WRITE,
    "delete": Scope.JOBS_DELETE,
}
EXCEPTIONS: Final[Mapping[Operation, Scope]] = {
    # cancels, and deletes nothing
    ("delete", "/transcribe/{job_id}"): Scope.JOBS_WRITE,
    # of what is being sent; HEAD makes the job, where nobody has
    ("delete", "/uploads/{upload_id}"): Scope.JOBS_WRITE,
    ("head", "/uploads/{upload_id}"): Scope.JOBS_WRITE,
}
#: Of whom a path may speak, and how the tests come by one of Alice's.
OWNED: Final = {"job_id", "key_id", "webhook_id", "delivery_id", "batch_id", "upload_id"}
#: Not even an operator does it to another's: whose would the job be?
HIS_ALONE: Final = {
    ("post", "/batches/{batch_id}/files"),
    ("post", "/jobs/{job_id}/rerun"),
    ("head", "/uploads/{upload_id}"),
    ("patch", "/uploads/{upload_id}"),
}
#: What an owner's key may do in here.
HIS: Final = (*JOB_SCOPES, Scope.WEBHOOKS)


def needed(operation: Operation) -> Scope | None:
    """The scope that a key has to have; None where any will do."""
    method, path = operation
    if operation in OF_THE_KEY | PUBLIC:
        return None
    if path.startswith("/admin/"):
        return Scope.ADMIN
    if path.startswith("/webhooks"):
        return Scope.WEBHOOKS
    return EXCEPTIONS.get(operation) or SCOPES[method]


def served() -> set[Operation]:
    return {
        (method.lower(), context.path or "")
        for context in iter_route_contexts(APP.routes)
        for method in context.methods or ()
        if context.path not in PAGES
    }


#: With what the document leaves out: HEAD beside a GET.
OPERATIONS: Final = sorted(served())
GUARDED: Final = [(m, p) for m, p in OPERATIONS if (m.replace("head", "get"), p) not in PUBLIC]
OF_OWNERS: Final = [(m, p) for m, p in GUARDED if not p.startswith("/admin/")]
OF_ONE: Final = [(m, p) for m, p in OF_OWNERS if re.search(r"{(job|webhook|batch|upload)_id}", p)]
OF_MANY: Final = [(m, p) for m, p in OF_OWNERS if m == "get" and "{" not in p]


# Calling what the document describes


def example(schema: Mapping[str, Any]) -> Any:
    """The least value that a schema allows."""
    if "$ref" in schema:
        return example(DOCUMENT["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
    if "anyOf" in schema:
        return example(schema["anyOf"][0])
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return {name: example(schema["properties"][name]) for name in schema.get("required", ())}
    if schema["type"] == "array":
        return [example(schema["items"])] if schema.get("minItems") else []
    return {"string": "x", "integer": schema.get("minimum", 1), "number": 1.0, "boolean": False}[
        schema["type"]
    ]


def body(operation: Operation) -> dict[str, Any]:
    content = METHODS.get(operation, {}).get("requestBody", {}).get("content", {})
    if form := content.get("multipart/form-data"):
        # of several ways the first one is a file
        either = form["schema"].get("anyOf", [form["schema"]])
        (field,) = either[0]["required"]
        given: dict[str, Any] = {"files": {field: ("a.mp3", b"sound")}}
        # nobody here does the job that an answer would wait for
        if "async" in form["schema"]["properties"]:
            given["data"] = {"async": "true"}
        if any(each["name"] == "async" for each in METHODS[operation].get("parameters", ())):
            given["params"] = {"async": "true"}
        return given
    if "application/json" in content:
        return {"json": example(content["application/json"]["schema"])}
    return {"content": b"x"} if tus.MEDIA_TYPE in content else {}


def demanded(operation: Operation) -> dict[str, str]:
    """The headers that a request cannot do without."""
    described = METHODS.get(operation, {})
    if operation[0] == "head":
        described = METHODS.get(("delete", operation[1]), {})
    parameters = described.get("parameters", [])
    headers = {
        parameter["name"]: str(example(parameter["schema"]))
        for parameter in parameters
        if parameter["in"] == "header" and parameter["required"]
    }
    is_chunk = "content" in body(operation)
    return {**headers, "Content-Type": tus.MEDIA_TYPE} if is_chunk else headers


def chosen(operation: Operation) -> dict[str, str]:
    """The parts of a path that are a choice of few, and nobody's."""
    described = METHODS.get((operation[0].replace("head", "get"), operation[1]), {})
    parameters = described.get("parameters", [])
    return {
        parameter["name"]: example(parameter["schema"])
        for parameter in parameters
        if parameter["in"] == "path" and "enum" in parameter["schema"]
    }


def url_of(operation: Operation, ids: Mapping[str, uuid.UUID] | None = None) -> str:
    """The path, with nobody's ids where none are given."""
    values = {**chosen(operation), **(ids or {})}
    return re.sub(r"{(\w+)}", lambda part: str(values.get(part[1], uuid.uuid4())), operation[1])


def call(client, operation, headers=None, ids=None):
    url = url_of(operation, ids)
    headers = {**demanded(operation), **(headers or {})}
    return client.request(operation[0], url, headers=headers, **body(operation))


def told(answer):
    """A problem without what differs between any two."""
    return {k: v for k, v in answer.json().items() if k not in {"instance", "request_id"}}


def code_of(answer):
    """What a refusal is called, in our words or OpenAI's."""
    said = answer.json()
    return said["error"]["code"] if "error" in said else said["code"]


@pytest.fixture
def alice(make_key: MakeKey) -> dict[str, str]:
    return make_key("alice", scopes=HIS)


@pytest.fixture
def bob(make_key: MakeKey) -> dict[str, str]:
    return make_key("bob", scopes=HIS)


@pytest.fixture
def failed_job(jobs: Jobs) -> uuid.UUID:
    """A job of Alice's that every operation has something to do with."""
    job_id = jobs.failed()
    jobs.keep(job_id, b"sound")
    return job_id


@pytest.fixture
def of_alice(
    failed_job: uuid.UUID, make_key: MakeKey, make_webhook, make_batch, make_upload, sessions
) -> dict[str, uuid.UUID]:
    make_key("alice", note="hers")
    webhook = make_webhook("alice")
    with sessions() as session:
        key_id = session.scalar(select(ApiKey.id).where(ApiKey.note == "hers"))
    batch_id = make_batch("alice", failed_job)
    ids = {"job_id": failed_job, "key_id": key_id, "batch_id": batch_id}
    return {**ids, "upload_id": make_upload("alice"), **asdict(webhook)}


@pytest.fixture
def snapshot(jobs: Jobs, of_alice: dict[str, uuid.UUID]) -> Callable[[], list[Any]]:
    """All that the database knows of what is Alice's."""
    rows = (
        (TranscriptionJob, of_alice["job_id"]),
        (Webhook, of_alice["webhook_id"]),
        (WebhookDelivery, of_alice["delivery_id"]),
        (Batch, of_alice["batch_id"]),
        (ResumableUpload, of_alice["upload_id"]),
    )

    def take() -> list[Any]:
        with jobs.sessions() as session:
            found = [session.get(model, key) for model, key in rows]
        return [row and {**row.__dict__, "_sa_instance_state": None} for row in found]

    return take


# What is told of every route


def test_every_route_is_in_the_document():
    documented = set(METHODS) | {("head", path) for method, path in METHODS if method == "get"}

    assert {*OPERATIONS} - documented == set()


@pytest.mark.parametrize("operation", METHODS)
def test_the_document_tells_who_may_call(operation):
    ways = [scopes for way in METHODS[operation].get("security", []) for scopes in way.values()]

    scope = needed(operation)
    asked = [] if scope is None else [scope]

    assert ways == ([] if operation in PUBLIC else [asked] * 2)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_matrix_knows_whose_every_id_is(operation):
    assert {*re.findall(r"{(\w+)}", operation[1])} <= {*OWNED, *chosen(operation)}


# No key, and keys that are no good


@pytest.mark.security("authentication", "no key")
@pytest.mark.parametrize("operation", GUARDED)
def test_nothing_is_done_without_a_key(client, of_alice, snapshot, operation):
    before = snapshot()
    answer = call(client, operation, None, of_alice)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert operation[0] == "head" or code_of(answer) in {"not_authenticated", "invalid_api_key"}
    assert snapshot() == before


@pytest.mark.security("authentication", "a key that is unknown, malformed or of another kind")
@pytest.mark.parametrize("operation", [(m, p) for m, p in GUARDED if m != "head"])
@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "unknown-but-long-enough"},
        {"Authorization": "Bearer unknown-but-long-enough"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"X-API-Key": ""},
    ],
)
def test_every_refused_key_is_answered_alike(client, of_alice, operation, headers):
    assert told(call(client, operation, headers, of_alice)) == told(call(client, operation))


# Scopes


@pytest.mark.security("authorisation", "a key without the scope")
@pytest.mark.parametrize("operation", GUARDED)
@pytest.mark.parametrize("scope", Scope)
def test_a_key_does_what_its_scope_says_and_no_more(client, make_key, of_alice, operation, scope):
    answer = call(client, operation, make_key("alice", scopes=[scope]), of_alice)
    wanted = needed(operation)
    allowed = wanted in {None, scope} or (scope is Scope.ADMIN and wanted is Scope.JOBS_READ)

    assert (answer.status_code == 403) == (not allowed)
    if not allowed and operation[0] != "head":
        assert code_of(answer) == "not_allowed"
        assert "error" in answer.json() or answer.json()["scope"] == wanted


# Owners and strangers


@pytest.mark.parametrize("operation", OF_OWNERS)
def test_an_owner_gets_at_what_is_his(client, alice, of_alice, operation):
    # 409: there is such a job, but it has failed
    assert call(client, operation, alice, of_alice).status_code in {200, 201, 202, 204, 409}


@pytest.mark.parametrize("operation", GUARDED)
def test_admin_gets_at_everything(client, admin, of_alice, operation):
    # 422: the least body may be too little to do anything
    told = call(client, operation, admin, of_alice).status_code
    allowed = {200, 201, 202, 204, 409, 422}

    assert told in ({404} if operation in HIS_ALONE else allowed)


@pytest.mark.security("authorisation", "somebody else's id")
@pytest.mark.parametrize("operation", OF_ONE)
def test_what_is_a_strangers_is_as_good_as_none(client, bob, of_alice, operation):
    strange = call(client, operation, bob, of_alice)
    random = call(client, operation, bob)

    assert strange.status_code == random.status_code == 404
    assert operation[0] == "head" or told(strange) == told(random)


@pytest.mark.security("authorisation", "a stranger changes something")
@pytest.mark.parametrize("operation", OF_OWNERS)
def test_a_stranger_changes_nothing(client, bob, of_alice, snapshot, operation):
    before = snapshot()
    call(client, operation, bob, of_alice)

    assert snapshot() == before


@pytest.mark.security("authorisation", "a list of somebody else's")
@pytest.mark.parametrize("operation", OF_MANY)
def test_what_a_stranger_is_told_does_not_speak_of_the_job(client, bob, of_alice, operation):
    answer = call(client, operation, bob)

    assert answer.status_code == 200
    assert not [name for name in of_alice.values() if str(name) in answer.text]
