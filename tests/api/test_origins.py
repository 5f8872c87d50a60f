"""What every answer has, how one may come, and from where."""

import base64
import hashlib
import re

import httpx2
import pytest
from starlette.testclient import TestClient

from api.documentation import ASSETS
from api.errors import METHODS
from api.middleware import SECURITY_HEADERS, STRICT_TRANSPORT
from app import create_app
from tests.api.conftest import serving
from tests.api.test_ownership import OPERATIONS, call

PAGE = "https://app.example.com"


@pytest.fixture
def client_of(make_settings):
    """Start an app; its client comes as plain HTTP to ``testserver`` unless it is told to."""
    clients = []

    def start(base_url="http://testserver", **values):
        app = create_app(make_settings(**values))
        client = TestClient(
            app, base_url=base_url, raise_server_exceptions=False, follow_redirects=False
        )
        clients.append(client)
        client.__enter__()
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


# Headers


@pytest.mark.security("http", "an answer that a browser could misread")
@pytest.mark.parametrize("operation", [*OPERATIONS, ("get", "/"), ("get", "/nowhere")])
def test_every_answer_of_every_operation_has_the_security_headers(client, jobs, admin, operation):
    job_id = jobs.completed()
    jobs.keep(job_id, b"sound")
    for key in (admin, None):
        headers = call(client, operation, key, {"job_id": job_id}).headers

        assert {name: headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
        assert "strict-transport-security" not in headers
        assert "server" not in headers


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_the_documentation_has_the_security_headers(client, path):
    headers = client.get(path).headers
    own = {"Content-Security-Policy"} if path == "/docs" else set()

    for name in SECURITY_HEADERS.keys() - own:
        assert headers[name] == SECURITY_HEADERS[name]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_the_documentation_runs_its_own_script_and_no_other(client):
    page = client.get("/docs")
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in page.headers["content-security-policy"].split(";")
    )

    assert policy["script-src"].split() == ["'self'", f"'sha256-{digest}'"]
    assert policy["default-src"] == "'none'"


def test_the_documentation_loads_nothing_from_elsewhere(client):
    page = client.get("/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    answers = {path: client.get(path) for path in loaded if path != "data:,"}

    assert {*answers} == {*ASSETS}
    assert "http" not in re.sub(r"<!--.*?-->", "", page)
    for path, (_, media_type) in ASSETS.items():
        assert answers[path].headers["content-type"].startswith(media_type)
        assert len(answers[path].content) > 100_000


def test_the_documentation_can_be_switched_off(client_of):
    client = client_of(docs_enabled=False)

    paths = ("/docs", "/openapi.json", *ASSETS)
    assert [client.get(path).status_code for path in paths] == [404] * len(paths)


def test_without_documentation_the_root_leads_nowhere(client_of):
    assert "docs" not in client_of(docs_enabled=False).get("/").json()


# HTTPS


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_only_reads_by_plain_http_is_redirected(client_of, method):
    answer = client_of(force_https=True).request(method, "/jobs?limit=1")

    assert (answer.status_code, answer.headers["location"]) == (
        308,
        "https://testserver/jobs?limit=1",
    )


@pytest.mark.security("http", "a key that comes in clear")
@pytest.mark.parametrize("name", ["X-API-Key", "Authorization"])
@pytest.mark.parametrize("method", METHODS)
def test_a_key_that_came_in_clear_is_refused_and_not_asked_for_again(client_of, method, name):
    headers = {name: "Bearer something"}
    answer = client_of(force_https=True).request(method, "/jobs", headers=headers)

    assert answer.status_code == 403
    assert "location" not in answer.headers
    if method != "HEAD":
        assert answer.json()["code"] == "https_required"


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT"])
def test_what_changes_something_by_plain_http_is_refused(client_of, method):
    answer = client_of(force_https=True).request(method, "/transcribe")

    assert (answer.status_code, answer.json()["code"]) == (403, "https_required")


@pytest.mark.security("http", "a stranger who speaks for a proxy")
def test_that_it_was_https_is_not_believed_of_everybody(client_of):
    # who may say so is uvicorn's to know, which stands before the app
    answer = client_of(force_https=True).get("/jobs", headers={"X-Forwarded-Proto": "https"})

    assert answer.status_code == 308


@pytest.mark.parametrize(
    ("proxies", "status"), [("127.0.0.0/8", 401), ("127.0.0.1", 401), ("10.0.0.7", 308), (",", 308)]
)
def test_a_trusted_proxy_says_what_it_was_asked_by(make_settings, proxies, status):
    settings = make_settings(force_https=True, trusted_proxies=proxies)
    with serving(settings) as port:
        told = {"X-Forwarded-Proto": "https"}
        answer = httpx2.get(f"http://127.0.0.1:{port}/jobs", headers=told, follow_redirects=False)

    assert answer.status_code == status


def test_https_is_served_and_to_be_remembered(client_of):
    answer = client_of("https://testserver", force_https=True).get("/jobs")

    assert answer.status_code == 401
    assert answer.headers["strict-transport-security"] == STRICT_TRANSPORT


def test_plain_http_is_nothing_to_be_remembered(client_of):
    answer = client_of(force_https=True).get("/jobs")

    assert "strict-transport-security" not in answer.headers


def test_https_that_is_not_enforced_is_not_to_be_remembered(client_of):
    answer = client_of("https://testserver").get("/jobs")

    assert "strict-transport-security" not in answer.headers


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_are_answered_over_plain_http(client_of, path):
    assert client_of(force_https=True).get(path).status_code == 200


# Hosts


@pytest.mark.security("http", "a request for another host")
@pytest.mark.parametrize(
    "host",
    [
        "evil.example.org",
        "stt.example.org.evil",
        "evilstt.example.org",
        "example.net",
        "evil-example.net",
        "[::1]",
        "",
        "stt.example.org@evil",
    ],
)
def test_another_host_is_refused(client_of, host):
    client = client_of(trusted_hosts="stt.example.org,*.example.net")
    answer = client.get("/jobs", headers={"Host": host})

    assert (answer.status_code, answer.json()["code"]) == (421, "unknown_host")


@pytest.mark.parametrize(
    "host",
    ["stt.example.org", "stt.example.org:8000", "STT.example.org", "a.b.example.net", "[::1]:8000"],
)
def test_our_host_is_served(client_of, host):
    client = client_of(trusted_hosts="stt.example.org,*.example.net,::1")

    assert client.get("/jobs", headers={"Host": host}).status_code == 401


def test_every_host_is_served_where_none_is_named(client):
    assert client.get("/jobs", headers={"Host": "anything"}).status_code == 401


def test_probes_are_answered_by_address(client_of):
    client = client_of(trusted_hosts="stt.example.org")

    assert client.get("/health", headers={"Host": "10.0.0.7"}).status_code == 200


# Pages of other origins


def of_cors(answer):
    return {name for name in answer.headers if name.startswith("access-control-")}


def preflight(client, origin, method="POST", path="/transcribe"):
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "x-api-key,content-type",
    }
    return client.options(path, headers=headers)


def test_a_page_of_an_allowed_origin_may_ask(client_of):
    answer = preflight(client_of(cors_origins=PAGE), PAGE)

    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"].split(", ")
    assert "X-API-Key" in answer.headers["access-control-allow-headers"].split(", ")
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.security("http", "a page of another origin")
@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://app.example.com",
        "https://app.example.com.evil",
        "https://app.example.com:8443",
        "https://APP.example.com",
        "",
    ],
)
@pytest.mark.parametrize("allowed", ["", f"{PAGE},http://localhost:3000"])
def test_a_page_of_another_origin_is_told_nothing(client_of, allowed, origin):
    client = client_of(cors_origins=allowed)
    asked = preflight(client, origin)
    read = client.get("/jobs", headers={"Origin": origin})

    assert (asked.status_code, read.status_code) == (405, 401)
    assert of_cors(asked) == of_cors(read) == set()


def test_a_page_can_read_an_answer_and_what_stands_beside_it(client_of, alice):
    client = client_of(cors_origins=PAGE)
    answer = client.get("/jobs", headers={"Origin": PAGE, **alice})

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "Retry-After" in answer.headers["access-control-expose-headers"].split(", ")


@pytest.mark.parametrize("values", [{}, {"trusted_hosts": "else.example.org"}])
def test_a_page_can_read_an_error_too(client_of, values):
    answer = client_of(cors_origins=PAGE, **values).get("/jobs", headers={"Origin": PAGE})

    assert answer.status_code >= 400
    assert answer.headers["access-control-allow-origin"] == PAGE


@pytest.mark.security("http", "a page that would send what the browser keeps")
def test_no_page_may_send_what_the_browser_keeps(client_of):
    client = client_of(cors_origins=PAGE)
    answers = [preflight(client, PAGE), client.get("/jobs", headers={"Origin": PAGE})]

    assert all("access-control-allow-credentials" not in answer.headers for answer in answers)


def test_a_cache_keeps_the_answers_of_origins_apart(client_of, jobs, alice):
    client = client_of(cors_origins=PAGE)
    result = client.get(f"/jobs/{jobs.completed()}/result", headers=alice)

    assert client.get("/jobs").headers["vary"] == "Origin"
    assert set(result.headers["vary"].split(", ")) == {"Accept", "Origin"}


def test_a_request_for_the_methods_is_no_preflight(client_of):
    assert (
        client_of(cors_origins=PAGE).options("/jobs", headers={"Origin": PAGE}).status_code == 405
    )
