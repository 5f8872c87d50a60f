"""Typography: how text looks on screen: its width, what sticks together, where a line may end."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
#: The byte order mark and the controls that reorder text; LRM, RLM and ALM only mark and stay.
_REORDERING = re.compile("[\ufeff\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")

_SENTENCE_END = re.compile(r"[.!?…。！？｡؟۔।][\"'”’»›)\]」』）】]*\Z")
_CLAUSE_END = re.compile(r"[,;:、，；：､،؛–—][\"'”’»›)\]」』）】]*\Z")
#: Scripts that write no space between words: Thai and Lao, Burmese, Khmer, Chinese and Japanese
#: (not Hangul, which has spaces), their full-width forms, emoji.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uff00-\uffef\U0001f300-\U0003ffff]"
)
_HIRAGANA = re.compile("[\u3041-\u309f]")
_KATAKANA = re.compile("[\u30a1-\u30ff]")
_SMALL_KANA = frozenset("ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶ")
#: Thai and Lao vowels written before (after) the consonant that they belong to.
_LEADING_VOWELS = frozenset("\u0e40\u0e41\u0e42\u0e43\u0e44\u0ec0\u0ec1\u0ec2\u0ec3\u0ec4")
_TRAILING_VOWELS = frozenset("\u0e2f\u0e30\u0e32\u0e33\u0e45\u0e46\u0eb0\u0eb2\u0eb3\u0ec6")
_ZERO_WIDTH_JOINER = "\u200d"


def well_formed(text: str) -> str:
    """Replace surrogates, which UTF-8 cannot hold."""
    return _SURROGATE.sub("\ufffd", text)


def one_line(text: str) -> str:
    """Reduce text to one line that shows what it says: no line ends, no control characters."""
    text = _REORDERING.sub("", _CONTROL.sub(" ", well_formed(text)))
    return " ".join(text.split())


@lru_cache(maxsize=4096)  # Asked for every character, and a language has few.
def columns(char: str) -> int:
    """Width of a character in a fixed-width font: 0, 1, or 2 where it is full-width."""
    if unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def glyph_spans(text: str) -> list[tuple[int, int]]:
    """Find where the pieces of text that must stay together start and stop."""
    starts = [i for i in range(len(text)) if i == 0 or not _sticks(text[i - 1], text[i])]
    return list(pairwise([*starts, len(text)]))


def _sticks(before: str, char: str) -> bool:
    return (
        unicodedata.category(char) in {"Mn", "Mc", "Me", "Cf"}
        or char in _TRAILING_VOWELS
        or "\U0001f3fb" <= char <= "\U0001f3ff"  # Skin colour of the emoji before.
        or before == _ZERO_WIDTH_JOINER
        or before in _LEADING_VOWELS
    )


def may_break(before: str, after: str) -> bool:
    """Tell whether a line may end between two glyphs; before a space, never after it."""
    if after == " " or before == " ":
        return after == " "
    return (
        bool(_UNSPACED.match(before) or _UNSPACED.match(after))
        and unicodedata.category(before[0]) not in {"Ps", "Pi"}
        and unicodedata.category(after[0]) not in {"Pe", "Pf", "Po", "Lm"}
        and after[0] not in _SMALL_KANA
    )


def break_cost(before: str, after: str) -> float:
    """Say how bad a line's end reads between a few glyphs and the one after: 0 good, 3 bad."""
    if _SENTENCE_END.search(before):
        return 0.0
    if _CLAUSE_END.search(before):
        return 0.2
    if after == " ":
        return 0.5
    if not may_break(before[-1], after):
        return 3.0
    return _unspaced_cost(before[-1], after)


def _unspaced_cost(before: str, after: str) -> float:
    """Guess at words: Japanese ones start with kanji or katakana and mostly end in hiragana."""
    if _HIRAGANA.match(after) or (_KATAKANA.match(before) and _KATAKANA.match(after)):
        return 1.2
    if _HIRAGANA.match(before) or _KATAKANA.match(after):
        return 0.5
    return 0.8
