"""What a browser is given at ``/``: nothing from elsewhere, and nothing runs but our scripts."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from starlette.testclient import TestClient

from api import page
from app import create_app
from config import Settings

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FILES = sorted(path.relative_to(page.FOLDER).as_posix() for path in page.FOLDER.rglob("*.*"))
OURS = [name for name in FILES if not name.startswith("vendor/")]


class Parts(HTMLParser):
    """Finds what a page loads, and what runs in it."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        loaded = given.get("src") or (given.get("href") if tag == "link" else None)
        if loaded is not None:
            self.loaded.append(loaded)
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if tag in {"style", "script"} and "src" not in given:
            self.inline.append(tag)


def parts(client: TestClient, path: str = "/") -> Parts:
    found = Parts()
    found.feed(client.get(path, headers=BROWSER).text)
    return found


def test_a_browser_gets_the_page_and_a_program_what_it_got_before(client: TestClient) -> None:
    shown, told = client.get("/", headers=BROWSER), client.get("/")

    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert shown.headers["cache-control"] == "no-store"
    assert shown.headers["vary"] == "Accept"
    assert told.json()["status"] == "healthy"


def test_only_what_is_ours_runs_in_it(client: TestClient) -> None:
    first, second = (
        client.get("/", headers=BROWSER).headers["content-security-policy"] for _ in range(2)
    )
    policy = dict(part.strip().split(" ", 1) for part in first.split(";"))

    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["media-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert re.fullmatch(r"'self' 'nonce-[\w-]{22}'", policy["style-src"])
    assert first != second
    assert parts(client).inline == []


def test_all_that_it_loads_is_here_and_may_be_kept(client: TestClient) -> None:
    loaded = parts(client).loaded
    answers = [client.get(path) for path in loaded]

    assert len(loaded) == 3
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert {answer.headers["cache-control"] for answer in answers} == {page.FOR_EVER}
    types = {answer.headers["content-type"].partition(";")[0] for answer in answers}
    assert types == {"text/javascript", "text/css", "image/svg+xml"}


def test_another_versions_file_is_not_kept(client: TestClient) -> None:
    answer = client.get("/page/0000000000000000/app.js")

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "name",
    ["nothing.js", "index.html", "../config.py", "..%2fconfig.py", "vendor/vendored.json", ""],
)
def test_there_is_nothing_else(client: TestClient, name: str) -> None:
    assert client.get(f"/page/0000000000000000/{name}").status_code == 404


def test_behind_a_proxy_its_paths_are_below_the_proxys(
    make_settings: Callable[..., Settings],
) -> None:
    with TestClient(create_app(make_settings(root_path="/speech"))) as client:
        loaded = parts(client, "/speech/").loaded

        assert all(path.startswith("/speech/page/") for path in loaded)
        assert client.get(loaded[0]).status_code == 200


def test_it_may_be_left_out(make_settings: Callable[..., Settings]) -> None:
    with TestClient(create_app(make_settings(page_enabled=False))) as client:
        assert client.get("/", headers=BROWSER).json()["status"] == "healthy"
        assert client.get("/page/0000000000000000/app.js").status_code == 404


@pytest.mark.parametrize("name", OURS)
def test_no_file_names_another_host(name: str) -> None:
    text = (page.FOLDER / name).read_text("utf-8")

    assert set(re.findall(r"(?:https?:)?//[\w-]+\.[\w.-]+", text)) <= {"http://www.w3.org"}


@pytest.mark.parametrize("name", [name for name in OURS if name.endswith(".js")])
def test_no_script_makes_markup_of_text(name: str) -> None:
    """What a client calls its file, or what was said in it, is only ever text."""
    text = (page.FOLDER / name).read_text("utf-8")

    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text)


def test_what_is_of_others_is_as_they_made_it() -> None:
    known = json.loads((page.FOLDER / "vendor" / "vendored.json").read_text("utf-8"))
    found = {name.removeprefix("vendor/") for name in FILES if name.startswith("vendor/")}

    assert {name for name in found if name.endswith(".js")} == {*known}
    for name, of in known.items():
        digest = hashlib.sha384((page.FOLDER / "vendor" / name).read_bytes()).digest()
        assert of["integrity"] == f"sha384-{base64.b64encode(digest).decode()}"
        assert name.removesuffix(".js") + ".LICENSE" in found
