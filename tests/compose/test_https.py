"""HTTPS in front of the stack, with a certificate of Caddy's own: for localhost it asks nobody."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import httpx2
import pytest

from tests.compose.conftest import Compose, free_port, post, wait_for, wait_for_end
from tests.compose.files import BASE, HTTPS
from tests.recordings import sample

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

#: Other ports than the world's, which may be taken.
PORTS = """\
services:
  https: {{ports: !override ["127.0.0.1:{http}:8080", "127.0.0.1:{https}:8443"]}}
"""
ROOT = "/data/certificates/caddy/pki/authorities/local/root.crt"


@dataclass(frozen=True)
class Https:
    """The stack as the world sees it."""

    url: str
    plain_url: str
    trust: ssl.SSLContext


@pytest.fixture(scope="module")
def https(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Https]:
    port, plain_port = free_port(), free_port()
    ports = tmp_path_factory.mktemp("https") / "ports.yml"
    ports.write_text(PORTS.format(http=plain_port, https=port), "utf-8")
    files = ("--file", BASE, "--file", HTTPS, "--file", str(ports))
    try:
        compose(*files, "up", "--detach", "https", "door", "web", DOMAIN="localhost")
        root = wait_for(lambda: certificate(compose, files), "there is a certificate")
        wait_for(compose.is_up, "everything is healthy")
        yield Https(
            f"https://localhost:{port}",
            f"http://localhost:{plain_port}",
            ssl.create_default_context(cadata=root),
        )
    finally:
        compose(*files, "rm", "--stop", "--force", "https", "certificates", DOMAIN="localhost")
        compose("up", "--detach", "door", "web")


def certificate(compose: Compose, files: tuple[str, ...]) -> str:
    return compose(*files, "exec", "-T", "https", "cat", ROOT, check=False, DOMAIN="localhost")


def test_speech_comes_back_as_text_by_https(https: Https, key: str) -> None:
    said = sample("digits-en.wav")
    with httpx2.Client(
        base_url=https.url, headers={"X-API-Key": key}, verify=https.trust, timeout=60
    ) as client:
        job = wait_for_end(client, post(client, said.path))

    assert (job["status"], job["transcription"]) == ("completed", said.text)


def test_the_web_process_knows_that_it_was_https(https: Https) -> None:
    answer = httpx2.get(f"{https.url}/", verify=https.trust, timeout=60)

    assert answer.status_code == 200
    assert "max-age" in answer.headers["Strict-Transport-Security"]


@pytest.mark.security("authentication", "plain HTTP where there is HTTPS")
def test_plain_http_leads_to_https(https: Https) -> None:
    answer = httpx2.get(f"{https.plain_url}/jobs/", timeout=60)

    assert answer.status_code == 308
    assert answer.headers["Location"].startswith("https://localhost")


@pytest.mark.security("authentication", "a host name of somebody else's, by HTTPS")
def test_another_name_is_refused(https: Https) -> None:
    answer = httpx2.get(
        f"{https.url}/", headers={"Host": "example.org"}, verify=https.trust, timeout=60
    )

    assert answer.status_code in {400, 421} or answer.content == b""


def test_no_answer_tells_what_serves_it(https: Https) -> None:
    answer = httpx2.get(f"{https.url}/health", verify=https.trust, timeout=60)

    assert {"server", "via"} & {name.lower() for name in answer.headers} == set()
