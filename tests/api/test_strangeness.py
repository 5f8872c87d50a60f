"""Requests that nobody would send: every answer is a problem at most, and never our fault."""

import json
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keys
from keys import Grant
from tests.api.conftest import ADMIN_KEY
from tests.api.test_ownership import OPERATIONS, url_of

KEY = {"X-API-Key": ADMIN_KEY}
NAMES = st.sampled_from(
    ["limit", "cursor", "status", "format", "partial", "language", "metadata", "resolved", "x", ""]
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        ["0", "-1", "1e999", "NaN", "\0", "null", "true", "{}", "[]", "'--", "9" * 400]
    ),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)  # fmt: skip
FIELDS = (
    "priority metadata model_size notes status owner scopes note expires_at grace_seconds force"
)
BODIES = st.dictionaries(st.sampled_from(FIELDS.split()), VALUES, max_size=3)
few = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def made_key(sessions) -> uuid.UUID:
    with sessions.begin() as session:
        return keys.create(session, Grant(owner="alice"))[1].id


@pytest.mark.parametrize("operation", OPERATIONS)
@few
@given(query=st.dictionaries(NAMES, TEXTS, max_size=3), body=VALUES | BODIES)
def test_no_request_is_too_strange(client, jobs, made_key, operation, query, body):
    ids = {"job_id": jobs.failed(), "key_id": made_key} if "{" in operation[1] else {}
    answer = client.request(
        operation[0], url_of(operation, ids), params=query, json=body, headers=KEY
    )

    assert answer.status_code < 500
    if answer.status_code >= 400:
        # OpenAI's packages read errors of OpenAI's own form
        form = "json" if operation[1].startswith("/v1/") else "problem+json"
        assert answer.headers["content-type"] == f"application/{form}"


@pytest.mark.security("fuzz", "headers that nobody would send")
@few
@given(
    headers=st.dictionaries(
        st.sampled_from(["Range", "Accept", "X-Request-ID", "Content-Type", "If-Range"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40),
    )
)
def test_no_header_is_too_strange(client, jobs, headers):
    kept = jobs.completed()
    jobs.keep(kept, b"sound")
    for url in (f"/jobs/{kept}/audio", f"/jobs/{kept}/result"):
        assert client.get(url, headers={**headers, **KEY}).status_code < 500


@pytest.mark.security("fuzz", "forms that nobody would send")
@few
@given(data=st.binary(max_size=300))
def test_no_form_is_too_strange(client, data):
    headers = {**KEY, "Content-Type": "multipart/form-data; boundary=XX"}
    disposition = b'--XX\r\nContent-Disposition: form-data; name="file"'
    for body in (data, b"--XX\r\n" + data, disposition + data):
        assert client.post("/transcribe", content=body, headers=headers).status_code < 500


# Bad inputs by name


def deep(depth: int) -> str:
    return '{"a": ' + "[" * depth + "]" * depth + "}"


#: What is sent as ``metadata``, which takes any JSON object, and how it is answered.
BAD_METADATA = [
    ('{"a": "\\ud800"}', 422),
    ('{"\\ud800": 1}', 422),
    ('{"a": "\\u0000"}', 422),
    ('{"a": NaN}', 422),
    ('{"a": 1e999}', 422),
    ('{"a": %s}' % ("9" * 5000), 400),
    ('{"a": 1, "a": 2}', 400),
    (deep(64), 400),
    (deep(300), 400),
    (deep(20_000), 400),
    ("{", 400),
]


@pytest.mark.security("json", "metadata that cannot be kept")
@pytest.mark.parametrize(("metadata", "status"), BAD_METADATA)
def test_metadata_that_cannot_be_kept_is_refused(client, alice, jobs, metadata, status):
    job_id = jobs.submit()
    headers = {**alice, "Content-Type": "application/json"}
    patched = client.patch(
        f"/jobs/{job_id}", headers=headers, content=f'{{"metadata": {metadata}}}'
    )
    files = {"file": ("a.mp3", b"sound")}
    posted = client.post("/transcribe", headers=alice, files=files, data={"metadata": metadata})

    assert (patched.status_code, posted.status_code) == (status, 422)
    assert client.get("/jobs", headers=alice).json()["total"] == 1


@pytest.mark.security("json", "metadata that grows when it is kept")
@pytest.mark.parametrize("number", ["1e308", "1e-300", "-1e99"])
def test_metadata_that_would_grow_is_refused(client, alice, jobs, number):
    metadata = f'{{"a": [{", ".join([number] * 1_000)}]}}'
    headers = {**alice, "Content-Type": "application/json"}
    patched = client.patch(
        f"/jobs/{jobs.submit()}", headers=headers, content=f'{{"metadata": {metadata}}}'
    )
    files = {"file": ("a.mp3", b"sound")}
    posted = client.post("/transcribe", headers=alice, files=files, data={"metadata": metadata})

    assert (patched.status_code, posted.status_code) == (422, 422)


def test_metadata_as_deep_as_it_may_be_is_shown_again(client, alice):
    metadata = deep(62)
    files = {"file": ("a.mp3", b"sound")}
    posted = client.post("/transcribe", headers=alice, files=files, data={"metadata": metadata})

    assert posted.json()["metadata"] == json.loads(metadata)
    assert client.get("/jobs", headers=alice).json()["jobs"][0]["metadata"] == json.loads(metadata)


@pytest.mark.security("query", "a number that is none")
@pytest.mark.parametrize(
    "value",
    ["0", "101", "-1", "1e1", "%EF%BC%91%EF%BC%92", "%00", "+5", "%2B5", "%205", "1_0", "5.0", "05",
     "-0", "", "0x5", "true", "9" * 5000],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/jobs", "/admin/errors"])
def test_a_number_that_is_none_is_refused(client, path, value):
    answer = client.get(f"{path}?limit={value}", headers=KEY)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


@pytest.mark.security("query", "a parameter twice, or one that does not exist")
@pytest.mark.parametrize(
    "query",
    ["limit=5&limit=99", "limit=5&limit=5", "limit[]=5", "x=1", "=1", "status=PENDING",
     "status=%00", "owner_id=1", "limit=5&x=%ED%A0%80"],
)  # fmt: skip
def test_a_query_that_can_be_taken_in_two_ways_is_refused(client, query):
    assert client.get(f"/jobs?{query}", headers=KEY).status_code == 422


@pytest.mark.security("query", "a name that cannot be kept")
@pytest.mark.parametrize(
    "query", ["/admin/keys?owner=%00", "/admin/errors?key=%00", "/admin/errors?worker=a%00"]
)
def test_a_name_with_nul_is_refused(client, query):
    assert client.get(query, headers=KEY).status_code == 422


@pytest.mark.security("query", "a cursor of nobody's")
@pytest.mark.parametrize("cursor", ["", "x", "%00", "A" * 9000, "e30", "é", "../../etc/passwd"])
def test_a_cursor_of_nobodys_is_refused(client, cursor):
    answer = client.get(f"/jobs?cursor={cursor}", headers=KEY)

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor")


@pytest.mark.security("path", "an id in another spelling")
@pytest.mark.parametrize(
    "spelled",
    [
        "{{{id}}}",
        "urn:uuid:{id}",
        "{hex}",
        "{id}%00",
        "%20{id}",
        "..%2f{id}",
        "0",
        "%00",
    ],
)
def test_an_id_in_another_spelling_is_nobodys(client, jobs, spelled):
    job_id = jobs.submit()
    path = spelled.format(id=job_id, hex=job_id.hex)

    assert client.get(f"/jobs/{path}", headers=KEY).status_code == 404


CANARY = "canary-7f3a"


@pytest.mark.security("errors", "what was sent, in the answer that refuses it")
@pytest.mark.parametrize(
    ("method", "path", "sent"),
    [
        ("GET", f"/jobs?{CANARY}=1", {}),
        ("GET", f"/jobs?status={CANARY}", {}),
        ("GET", f"/jobs?cursor={CANARY}", {}),
        ("GET", f"/jobs?limit={CANARY}", {}),
        ("PATCH", "/jobs/{id}", {"json": {CANARY: 1}}),
        ("PATCH", "/jobs/{id}", {"json": {"priority": CANARY}}),
        ("PATCH", "/jobs/{id}", {"json": CANARY}),
        ("PATCH", "/jobs/{id}", {"json": {"metadata": [CANARY]}}),
        ("GET", f"/jobs/{{id}}/result?format={CANARY}", {}),
        ("GET", f"/jobs/{{id}}/result?partial={CANARY}", {}),
        ("POST", "/transcribe", {"data": {CANARY: "1"}, "files": {"file": b"x"}}),
        ("POST", "/transcribe", {"data": {"language": CANARY}, "files": {"file": b"x"}}),
        ("POST", "/transcribe", {"data": {"model_size": CANARY}, "files": {"file": b"x"}}),
        ("POST", "/transcribe", {"headers": {"Idempotency-Key": f"{CANARY} x"}}),
        ("POST", "/transcribe", {"headers": {"Content-Type": CANARY}, "content": b"x"}),
    ],
)
def test_no_refusal_repeats_what_was_sent(client, jobs, method, path, sent):
    headers = {**KEY, **sent.pop("headers", {})}
    answer = client.request(method, path.format(id=jobs.submit()), headers=headers, **sent)

    assert answer.status_code in {400, 409, 415, 422}
    assert CANARY not in answer.text
    assert CANARY not in str(answer.headers)
