"""What ``make run`` does once the service answers: finds a key, tries a sample, says how to go on.

Whatever comes of it, the service runs on.
"""

from __future__ import annotations

import re
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

import auth
import first_keys
from config import PROJECT_DIR, Settings
from errors import SettingsError

SAMPLE: Final = PROJECT_DIR / "samples" / "digits-en.wav"
POLL_SECONDS: Final = 1.0
SAMPLE_SECONDS: Final = 120.0
#: Where the web process leaves the first key, in STATE_DIR.
ADMIN_KEY_FILE: Final = "admin.key"
#: Where a key of API_KEYS lies for the curl line while the service runs.
SET_KEY_FILE: Final = "api.key"
SHOWN_CHARS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to call the service."""

    #: What every request needs beside a key.
    headers: dict[str, str]
    #: What stands for the key in a shell; None where none is needed.
    key: str | None
    #: Whether requests with it, or without one, are answered.
    works: bool

    @property
    def curl_headers(self) -> str:
        headers = {**self.headers, **({"X-API-Key": self.key} if self.key else {})}
        return "".join(f'-H "{name}: {value}" ' for name, value in headers.items())


def address(settings: Settings) -> str:
    """The URL of the service, as seen from this machine."""
    return f"http://{_host(settings)}:{settings.port}"


def _host(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"[{host}]" if ":" in host else host


def headers_of(settings: Settings) -> dict[str, str]:
    """What a proxy would say in front of the service, where its settings ask for one."""
    headers = {}
    hosts = settings.trusted_hosts
    if hosts and not {"*", _host(settings)} & {*hosts}:
        headers["Host"] = hosts[0].replace("*", "www")
    if settings.force_https:
        headers["X-Forwarded-Proto"] = "https"
    return headers


def find_access(client: httpx2.Client, settings: Settings) -> Access:
    """Find out how to call the service: with the first key, or with one of API_KEYS.

    The client sends all of it from then on.
    """
    headers = headers_of(settings)
    client.headers.update(headers)
    if not settings.auth_required:
        return Access(headers=headers, key=None, works=True)
    for key, file in _candidates(settings):
        if _works(client, key):
            client.headers["X-API-Key"] = key
            where = file or _left_in_file(key, settings.state_dir / SET_KEY_FILE)
            shown = f"$(cat {shlex.quote(str(where))})" if where else "KEY"
            return Access(headers=headers, key=shown, works=True)
    return Access(headers=headers, key="KEY", works=False)


def _candidates(settings: Settings) -> Iterator[tuple[str, Path | None]]:
    """Keys that may work, each with the file that holds it."""
    first = settings.state_dir / ADMIN_KEY_FILE
    # there is none where API_KEYS was set from the start
    with suppress(OSError, UnicodeDecodeError):
        yield first.read_text("utf-8").strip(), first
    for key in settings.api_keys:
        yield key.get_secret_value(), None


def _left_in_file(key: str, file: Path) -> Path | None:
    # in the curl line itself it would be on the screen and in the shell's history
    try:
        first_keys.write_secret(file, key)
    except SettingsError:
        return None
    return file


def forget_key(settings: Settings) -> None:
    """Remove the key that lay there for the curl line."""
    (settings.state_dir / SET_KEY_FILE).unlink(missing_ok=True)


def _works(client: httpx2.Client, key: str) -> bool:
    if not auth.is_well_formed(key):
        return False
    try:
        answer = client.get("/jobs", params={"limit": 1}, headers={"X-API-Key": key})
    except httpx2.HTTPError:
        return False
    return answer.is_success


def try_sample(client: httpx2.Client, stop: threading.Event) -> str:
    """Transcribe the sample as a client would; returns what to tell of it."""
    began = time.monotonic()
    try:
        with SAMPLE.open("rb") as file:
            files = {"file": (SAMPLE.name, file)}
            answer = client.post("/transcribe/", data={"priority": "high"}, files=files)
        while answer.is_success:
            job = answer.json()
            if job["status"] not in {"pending", "processing"}:
                return _told_of(job, time.monotonic() - began)
            if stop.wait(POLL_SECONDS) or time.monotonic() - began > SAMPLE_SECONDS:
                return "The sample is still being transcribed."
            answer = client.get(f"/jobs/{job['job_id']}")
    except (httpx2.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
        return f"The sample could not be tried: {error!r}"
    shown = " ".join(answer.text.split())[:SHOWN_CHARS]
    return f"The sample was refused: {answer.status_code} {shown}".rstrip()


def _told_of(job: dict[str, Any], took_seconds: float) -> str:
    if job["status"] != "completed":
        return f"The sample {job['status']}: {job.get('error_message')}"
    return (
        f"{SAMPLE.name} ({job['duration']:.1f} s of speech) took {took_seconds:.1f} s "
        f"with the model {job['model_size']}:\n\n    {job['transcription']}\n"
    )


def greeting(settings: Settings, access: Access, model: str) -> Iterator[str]:
    """Lines that say how to go on."""
    url = address(settings)
    if not access.works:
        yield "No key that works is known here, so the sample was not tried. Make one with:\n"
        yield f"    {_make_key(settings)}\n"
    if settings.page_enabled:
        yield f"Open {url} in a browser{_with(access)}, and drop a file.\n"
    yield f"Serving at {url} (documentation at {url}/docs). Transcribe a file of yours:\n"
    # [::1] is a pattern to some shells
    target = shlex.quote(f"{url}/transcribe/")
    yield f"    curl {access.curl_headers}-F file=@talk.mp3 {target}\n"
    if model == "demo":
        yield "The model is `demo`: it knows spoken digits in English, Spanish and German, and"
        yield "nothing else. A real one is downloaded when you start with, for example:\n"
        yield "    WHISPER_MODEL_SIZE=turbo make run\n"
    yield f"Logs are in {settings.state_dir / 'logs'}. Ctrl-C stops everything and loses no job."


def _with(access: Access) -> str:
    """Say where the key is that the page asks for."""
    if access.key is None:
        return ""
    shown = re.fullmatch(r"\$\((.*)\)", access.key)
    return (
        f", sign in with the key that `{shown[1]}` prints" if shown else ", sign in with your key"
    )


def _make_key(settings: Settings) -> str:
    words = [sys.executable, str(PROJECT_DIR / "cli.py"), "keys", "create", "--owner", "me"]
    if settings.state_dir != PROJECT_DIR / Settings.model_fields["state_dir"].default:
        words = ["env", f"STATE_DIR={settings.state_dir}", *words]
    return shlex.join(words)
