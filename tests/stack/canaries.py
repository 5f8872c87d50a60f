"""What no log may hold, sent through every test of the stack, and looked for when it ends."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: An operator's key, for whoever needs one in API_KEYS.
KEY = "canary-key-5b1d0c6e9f27"
#: In the URL of PostgreSQL, and of Redis: neither asks for one here, and both take it.
PASSWORD = "canary-password-83ac14f70d"
#: What clients call their files.
NAME = "canary-file-1f0e7a.wav"
#: What clients say of their jobs.
LABEL = "canary-label-c92be4"
#: So many words in a row are said in a transcript alone.
PHRASE_WORDS = 3


def with_password(url: str, user: str) -> str:
    """The same URL with the canary, unless there is a password in it."""
    parts = urlsplit(url)
    if parts.password is not None:
        return url
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{parts.username or user}:{PASSWORD}@{host}"
    return parts._replace(netloc=netloc).geturl()


def secrets_of(environment: Mapping[str, str]) -> Iterator[str]:
    """Keys and passwords that a process was given."""
    for name in ("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL"):
        yield unquote(urlsplit(environment.get(name, "")).password or "")
    yield from environment.get("API_KEYS", "").split(",")


def phrases(texts: Iterable[str]) -> Iterator[str]:
    """All runs of words of these transcripts."""
    for text in texts:
        words = text.split()
        for start in range(len(words) - PHRASE_WORDS + 1):
            yield " ".join(words[start : start + PHRASE_WORDS])


def found(logs: Iterable[Path], words: Iterable[str]) -> list[str]:
    """Which of these words is in which log, and in which line."""
    wanted = sorted({word for word in words if word})
    return [
        f"{log.name}:{number} holds {word!r}"
        for log in logs
        for number, line in enumerate(_lines(log), 1)
        for word in wanted
        if word in line
    ]


def _lines(log: Path) -> Iterator[str]:
    with log.open(encoding="utf-8", errors="replace") as file:
        # a line without an end is held as well
        yield from (line.rstrip(os.linesep) for line in file)
