"""Figures and names as people read them, and as no terminal takes them for commands."""

from __future__ import annotations

import unicodedata
from typing import Final

#: What turns the direction of writing, and makes a name look like another.
TURNS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
#: Control characters, and bytes of a name that are no text.
NO_TEXT: Final = frozenset({"Cc", "Cs"})
#: Units of bytes, with how many digits they are shown.
UNITS: Final = (("bytes", 0), ("kB", 0), ("MB", 1))
THOUSAND: Final = 1000


def size(count: int) -> str:
    """Bytes, in the unit that fits."""
    number = float(count)
    for unit, digits in UNITS:
        if number < THOUSAND:
            return f"{number:.{digits}f} {unit}"
        number /= THOUSAND
    return f"{number:.2f} GB"


def duration(seconds: float) -> str:
    """Seconds, in hours and minutes where there are such."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def plain(text: str) -> str:
    """The text in one line, without what would steer a terminal."""
    return "".join("\ufffd" if _steers(character) else character for character in text)


def _steers(character: str) -> bool:
    return character in TURNS or unicodedata.category(character) in NO_TEXT
