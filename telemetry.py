"""The form of a log line, and what every line of an attempt says of it.

A message is a constant sentence; data goes into fields. No line holds a client's file name, a
transcript's text or a key; what a library lets slip is masked (see ``redaction``).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from pythonjsonlogger.json import JsonFormatter

from redaction import Mask, make_mask

_context: ContextVar[dict[str, object]] = ContextVar("log_context", default={})  # noqa: B039

#: What a LogRecord has by itself; everything else on it came from ``extra`` or ``bind``.
_OWN_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
#: uvicorn's message once more, with colours.
_NOISE: Final = "color_message"
#: Loggers that say at INFO what we say better, or what nobody reads.
_QUIET: Final = ("celery.app.trace", "celery.worker.strategy", "alembic.runtime.plugins", "httpx2")


@contextmanager
def bind(**fields: object) -> Iterator[None]:
    """Add fields to every log line written in the block, in this thread or task."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


class _Bound(logging.Filter):
    """Puts the bound fields on the record."""

    def filter(self, record: logging.LogRecord) -> bool:
        vars(record).pop(_NOISE, None)
        for name, value in _context.get().items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


class HumanFormatter(logging.Formatter):
    """``time LEVEL logger: sentence key=value``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = " ".join(
            f"{name}={_one_line(value)}" for name, value in sorted(extras(record).items())
        )
        return f"{super().formatMessage(record)} {fields}".rstrip()


class _Masking(logging.Formatter):
    """Masks what another formatter made: message, fields and traceback alike."""

    def __init__(self, inner: logging.Formatter, mask: Mask) -> None:
        super().__init__()
        self._inner = inner
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        return self._mask(self._inner.format(record))


def extras(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _OWN_FIELDS}


def configure_logging(level: str, form: str, *, secrets: Iterable[str] = ()) -> None:
    """Send all logs to standard error; called by entry points only.

    Args:
        level: A level's name, such as INFO.
        form: ``human`` or ``json``.
        secrets: What no line may hold, whoever writes it.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Bound())
    formatter = HumanFormatter() if form == "human" else _json_formatter()
    handler.setFormatter(_Masking(formatter, make_mask(secrets)))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET if level == "DEBUG" else logging.WARNING)


def _json_formatter() -> JsonFormatter:
    return JsonFormatter(
        "{levelname}{name}{message}",
        style="{",
        timestamp="time",
        rename_fields={"levelname": "level", "name": "logger"},
    )


def _one_line(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(c.isspace() or not c.isprintable() for c in text) else text
