"""What a client calls its file, made fit to show. It is never used as a path."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

MAX_BYTES: Final = 255
#: Of a longer name, a suffix up to so many bytes is kept.
MAX_SUFFIX_BYTES: Final = 16
DEFAULT: Final = "audio"

#: Marks that turn the direction of what follows: "\u202egnp.mp3" would be shown as "3pm.png".
_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
#: Control characters, surrogates, line and paragraph separators.
_UNSHOWABLE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})
#: How browsers and curl write what a quoted name cannot hold (WHATWG HTML, multipart/form-data).
_ESCAPES: Final = {"%22": '"', "%0D": "", "%0A": ""}


def clean(sent: bytes) -> str:
    """Make a name that any screen, header and column can hold, from the bytes that were sent."""
    try:
        name = sent.decode()
    except UnicodeDecodeError:
        name = sent.decode("latin-1")
    for escape, meant in _ESCAPES.items():
        name = re.sub(escape, meant, name, flags=re.IGNORECASE)
    name = unicodedata.normalize("NFC", name)
    name = "".join(filter(_is_shown, name))
    name = re.split(r"[/\\]", name)[-1].strip()
    return DEFAULT if name in {"", ".", ".."} else _shortened(name)


def stem(name: str) -> str:
    """A name without its suffix."""
    return name.rpartition(".")[0] or name


def _is_shown(character: str) -> bool:
    return character not in _BIDI and unicodedata.category(character) not in _UNSHOWABLE


def _shortened(name: str) -> str:
    if len(name.encode()) <= MAX_BYTES:
        return name
    _, dot, suffix = name.rpartition(".")
    ending = (dot + suffix).encode() if dot else b""
    if len(ending) > MAX_SUFFIX_BYTES:
        ending = b""
    beginning = name.encode()[: MAX_BYTES - len(ending)]
    # a character that was cut in two is dropped
    return beginning.decode(errors="ignore") + ending.decode()
