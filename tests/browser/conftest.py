"""A real browser that looks at the page of a real service, and what it must never see there."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright
from playwright.sync_api import expect as expect_that

import keys
from config import Settings
from keys import Grant
from models import Scope
from tests.api.conftest import NOWHERE, Jobs
from tests.stack import conftest as stack_conftest
from tests.stack.conftest import Process, Stack, wait_for

stack = stack_conftest.stack

PATIENCE_MS = 60_000
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",  # which a container's root has not
    "--disable-dev-shm-usage",  # which is small in containers
    "--disable-gpu",
    "--disable-background-networking",
    "--autoplay-policy=no-user-gesture-required",
)
UNLIMITED = {"RATE_LIMIT_REQUESTS": "100000"}
#: Where pictures of the page are to be put; nowhere, unless it is said.
PICTURES = os.environ.get("PAGE_PICTURES")
#: What a browser says by itself: an answer that the page deals with, advice for other pages.
IDLE = ("[DOM]", "Failed to load resource: the server responded with a status of 4")


def executable() -> str | None:
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in CHROMIUMS if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = executable()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium: install it, or name one by CHROMIUM")
        pytest.skip("there is no Chromium; CHROMIUM names one")
    expect_that.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        yield chromium
        chromium.close()


@dataclass
class Site:
    """A running service, and people who look at its page."""

    url: str
    stack: Stack
    jobs: Jobs
    browser: Browser
    web: Process
    #: What no page of ours may do: say something to the console, or call somebody else.
    wrong: list[str] = field(default_factory=list)
    contexts: list[BrowserContext] = field(default_factory=list)

    def key(self, owner: str = "alice", **values: Any) -> str:
        with self.stack.sessions.begin() as session:
            return keys.create(session, Grant(owner=owner, **values))[0]

    def operator(self) -> str:
        return self.key("root", scopes=tuple(Scope))

    def kill_web(self) -> None:
        """Kill the web process, and start another one in its place."""
        self.web.kill()
        self.web, _ = self.stack.web(PORT=self.url.rpartition(":")[2], **UNLIMITED)

    def look(self, *, strict: bool = True, **options: Any) -> Page:
        """Open a browser's window on the page.

        Args:
            strict: Whether what the console says counts.
        """
        given = {"viewport": {"width": 1100, "height": 800}, **options}
        context = self.browser.new_context(**given)
        context.set_default_timeout(PATIENCE_MS)
        self.contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: self._asked(request.url))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        if strict:
            page.on("console", self._said)
        page.goto(self.url)
        return page

    def signed_in(self, key: str | None = None, **options: Any) -> Page:
        page = self.look(**options)
        page.get_by_label("API key").fill(key or self.key())
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Search by name").wait_for()
        return page

    def _asked(self, url: str) -> None:
        if not url.startswith((f"{self.url}/", "data:", f"blob:{self.url}/")):
            self.wrong.append(f"asked {url}")

    def _said(self, message: ConsoleMessage) -> None:
        if not message.text.startswith(IDLE):
            self.wrong.append(f"{message.type}: {message.text}")


@pytest.fixture
def make_site(stack: Stack, browser: Browser) -> Iterator[Callable[..., Site]]:
    sites = []

    def make(**variables: str) -> Site:
        process, url = stack.web(**UNLIMITED, **variables)
        wait_for(lambda: process.said("Application startup complete"), "the web process answers")
        settings = Settings(**{**NOWHERE, "state_dir": stack.folder})
        site = Site(url, stack, Jobs(stack.sessions, settings), browser, process)
        sites.append(site)
        return site

    yield make
    for site in sites:
        for context in site.contexts:
            context.close()
        assert site.wrong == []


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@pytest.fixture
def picture() -> Callable[[Page, str], None]:
    """Takes a picture for the documentation, where that is wanted."""

    def take(page: Page, name: str) -> None:
        if PICTURES:
            page.screenshot(path=Path(PICTURES) / f"{name}.png")

    return take
