"""Files from the web: whole and checked, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import errors

logger = logging.getLogger(__name__)

#: Told the bytes done and the bytes in all, if known, at every chunk and while waiting. What it
#: raises stops the download and reaches the caller: so a download is cancelled.
Progress = Callable[[int, int | None], None]

CHUNK_BYTES = 1 << 18
#: Connections for one file, at most: a server that cuts each off after a few bytes is given up.
MAX_CONNECTIONS = 1000
#: Answers that may change if asked again.
RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
RANGE_NOT_SATISFIABLE = 416

#: How often a wait looks whether it is over or cancelled.
POLL_SECONDS = 0.2
#: Longest wait for somebody else's download of the same file.
LOCK_WAIT_SECONDS = 4 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How hard a download tries."""

    #: Connections in a row that bring nothing.
    attempts: int = 5
    #: Before the second connection; doubles with each that brings nothing.
    wait_seconds: float = 1.0
    #: Silence after which a connection counts as broken.
    stall_seconds: float = 30.0


def download(
    url: str, target: Path, *, sha256: str, progress: Progress, patience: Patience
) -> None:
    """Fetch ``url`` into ``target``, going on where an earlier try stopped.

    Until the digest is right the bytes are in ``target`` with ``.part`` after its name. The caller
    holds a lock.

    Raises:
        ModelUnavailable: it cannot be had; the message says why.
    """
    if not url.startswith(("http://", "https://")):
        raise errors.ModelUnavailable(f"{url} is not an address to download from.")
    part = target.with_name(target.name + ".part")
    for _ in range(2):  # a second time, from the start, when the bytes are wrong
        _fetch(url, part, progress, patience)
        if sha256_of(part) == sha256:
            part.replace(target)
            return
        part.unlink()
        logger.warning("downloaded file has the wrong digest", extra={"url": url})
    raise errors.ModelUnavailable(f"{url} gives bytes with the wrong SHA-256.")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def exclusive(lock: Path, progress: Progress) -> Iterator[None]:
    """Keep out other threads and processes that want the same lock file.

    The system drops the lock of a process that dies. The file stays: deleting it would let two in.

    Raises:
        ModelUnavailable: the lock file cannot be made, or somebody has held it for hours.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab")
    except OSError as error:
        raise errors.ModelUnavailable(f"{lock} cannot be made: {error.strerror}.") from error
    with file:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while not _locked(file.fileno()):
            if time.monotonic() > deadline:
                raise errors.ModelUnavailable(f"{lock} has been held by another process for hours.")
            progress(0, None)
            time.sleep(POLL_SECONDS)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fetch(url: str, part: Path, progress: Progress, patience: Patience) -> None:
    """Connect until all bytes are in ``part``."""
    fruitless = 0
    for _ in range(MAX_CONNECTIONS):
        before = _size(part)
        reason = _connect(url, part, progress, patience.stall_seconds)
        if reason is None:
            return
        fruitless = 0 if _size(part) > before else fruitless + 1
        logger.warning("download broke off", extra={"url": url, "bytes": _size(part)})
        if fruitless >= patience.attempts:
            break
        _wait(patience.wait_seconds * 2 ** max(0, fruitless - 1), part, progress)
    else:
        reason = "it broke off too often"
    raise errors.ModelUnavailable(f"{url} cannot be downloaded: {reason}.")


def _connect(url: str, part: Path, progress: Progress, stall_seconds: float) -> str | None:
    """Fetch what is missing over one connection; say what broke it, if anything did."""
    offset = _size(part)
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http or https, see above
    try:
        with urllib.request.urlopen(request, timeout=stall_seconds) as response:  # noqa: S310
            return _receive(response, part, offset, progress)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == RANGE_NOT_SATISFIABLE:
                return None  # all there, or too much: the digest will tell
            if error.code in RETRYABLE_STATUSES:
                return f"the server answers {error.code}"
            raise errors.ModelUnavailable(f"{url} answers {error.code}.") from error
    except (OSError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", None) or error or type(error).__name__)


def _receive(
    response: http.client.HTTPResponse, part: Path, offset: int, progress: Progress
) -> str | None:
    if offset and not _goes_on_at(response, offset):
        offset = 0
    expected = response.headers.get("Content-Length")
    total = offset + int(expected) if expected else None
    done = offset
    with _writing(part):
        file = part.open("r+b" if offset else "wb")
    with file:
        file.seek(offset)
        while chunk := response.read1(CHUNK_BYTES):
            with _writing(part):
                file.write(chunk)
                file.flush()
            done += len(chunk)
            progress(done, total)
    return "the connection was cut" if total is not None and done < total else None


@contextlib.contextmanager
def _writing(part: Path) -> Iterator[None]:
    """Tell a full disk from a broken connection, and free what was taken of it."""
    try:
        yield
    except OSError as error:
        part.unlink(missing_ok=True)
        raise errors.ModelUnavailable(f"{part} cannot be written: {error.strerror}.") from error


def _goes_on_at(response: http.client.HTTPResponse, offset: int) -> bool:
    """Whether the server sends the rest, and not, as it may, everything from the start."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return False
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == offset


def _wait(seconds: float, part: Path, progress: Progress) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        progress(_size(part), None)
        time.sleep(min(POLL_SECONDS, left))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
