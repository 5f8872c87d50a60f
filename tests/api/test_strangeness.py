"""Requests that nobody would send: every answer is a problem at most, and never our fault."""

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
        assert answer.headers["content-type"] == "application/problem+json"


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


@few
@given(data=st.binary(max_size=300))
def test_no_form_is_too_strange(client, data):
    headers = {**KEY, "Content-Type": "multipart/form-data; boundary=XX"}
    disposition = b'--XX\r\nContent-Disposition: form-data; name="file"'
    for body in (data, b"--XX\r\n" + data, disposition + data):
        assert client.post("/transcribe", content=body, headers=headers).status_code < 500
