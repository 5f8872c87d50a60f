"""JSON that every reader takes alike, and that PostgreSQL can keep and we can send again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, NoReturn

#: What pydantic would not write any more is several times as deep.
MAX_DEPTH: Final = 64


class NotPlain(ValueError):
    """The text is no JSON, or JSON that one cannot rely on; the message says why."""


class NotStorable(ValueError):
    """A value holds what PostgreSQL does not keep."""


def loads(text: bytes | str) -> Any:
    """Read JSON in UTF-8, with each name once, and not too deep.

    Raises:
        NotPlain: It is not that.
        NotStorable: It holds NUL, half a surrogate pair, or a number that is none.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except (NotPlain, NotStorable):
        raise
    except (ValueError, RecursionError):
        raise NotPlain("It should be JSON.") from None
    _look_through(value)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotPlain("It should have each name once.")
    return found


def _no_number(name: str) -> NoReturn:
    raise NotStorable


def stored_bytes(value: object) -> int:
    """How long JSON is once PostgreSQL has kept it: there 1e308 has 309 digits."""
    numbers = [item for item, _ in _parts(value) if isinstance(item, float)]
    grown = sum(len(f"{Decimal(repr(number)):f}") - len(repr(number)) for number in numbers)
    return len(json.dumps(value, ensure_ascii=False).encode()) + max(0, grown)


def _look_through(value: object) -> None:
    for item, depth in _parts(value):
        if depth > MAX_DEPTH:
            raise NotPlain(f"It should be no deeper than {MAX_DEPTH}.")
        if isinstance(item, str):
            _require_text(item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise NotStorable


def _parts(value: object) -> Iterator[tuple[object, int]]:
    """Give the value and whatever is in it, each with its depth."""
    # a list of what is left and no recursion: the depth is the client's choice
    rest: list[tuple[object, int]] = [(value, 1)]
    while rest:
        item, depth = rest.pop()
        yield item, depth
        if isinstance(item, dict):
            rest += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            rest += [(part, depth + 1) for part in item]


def _require_text(text: str) -> None:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise NotStorable
