"""The last net under the logs: takes out what may identify a person or open a door.

Our own lines hold nothing of the kind; a library's message or an exception's text may.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

Mask = Callable[[str], str]

#: A secret of fewer characters is likely to be a word that means something else as well.
SHORTEST_SECRET: Final = 8

#: ``name=value`` and ``"name": "value"``, of names that say that the value is secret.
_ASSIGNED: Final = (
    r"(?i:api[_-]?key|passw(?:or)?d|pwd|secret|token)[\"']?\s{0,8}[=:]\s{0,8}[\"']?"
    r"(?P<part>(?<=\")[^\"]+|(?<=')[^']+|[^\s\"',;&}\]\[]{4,})"
)

#: What is looked for, by what stands in its place; the second is what no match can do without,
#: looked for first since that is quick. The group ``part`` is what is taken out, where
#: it is not all. Digits begin and end where a word does, so that ids, sizes and times are left
#: alone. Every repetition is bounded: a log line may be as long as a stranger makes it.
_PATTERNS: Final = tuple(
    (name, needle, re.compile(pattern))
    for name, needle, pattern in (
        # ours, but for the first characters, which are shown on purpose
        ("key", "stt_live_", r"stt_live_\w{9,128}"),
        ("token", "stt_page_", r"stt_page_[\w-]{9,128}"),
        ("token", "", r"(?i:\bbearer\s+)(?P<part>[\w.~+/=-]{8,4096})"),
        ("secret", "", _ASSIGNED),
        ("password", "://", r"://[^\s/:@\"']{0,64}:(?P<part>[^\s/@\"'\[\]]{1,256})@"),
        ("e-mail", "@", r"\b[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"),
        ("ssn", "-", r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])"),
        ("card", "", r"(?<![\w.-])[3-6]\d(?:[ -]?\d){11,17}(?![\w-])"),
        # as people write them: with a country's code, or in the three groups of North America
        ("phone", "+", r"(?<![\w.+-])\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}(?![\w-])"),
        ("phone", "", r"(?<![\w.+-])(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])"),
    )
)


def make_mask(secrets: Iterable[str] = ()) -> Mask:
    """A function that takes out of a text these secrets and whatever looks like one.

    Args:
        secrets: Values that are known to be secret, taken out wherever they stand; those shorter
            than ``SHORTEST_SECRET`` are left to the patterns.
    """
    known = sorted({s for s in secrets if len(s) >= SHORTEST_SECRET}, key=len, reverse=True)
    patterns = _PATTERNS
    if known:
        patterns = (("secret", "", re.compile("|".join(map(re.escape, known)))), *patterns)

    def mask(text: str) -> str:
        for name, needle, pattern in patterns:
            if needle in text:
                text = pattern.sub(_Replacement(name), text)
        return text

    return mask


class _Replacement:
    """What stands in place of a match, which may be no more than a part of it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, found: re.Match[str]) -> str:
        whole = found[0]
        if self._name == "card" and not _is_card(whole):
            return whole
        if "part" not in found.re.groupindex:
            return f"[{self._name}]"
        begin, end = (position - found.start() for position in found.span("part"))
        return f"{whole[:begin]}[{self._name}]{whole[end:]}"


def _is_card(text: str) -> bool:
    """Whether the digits pass the check that card numbers pass (Luhn), unlike most numbers."""
    digits = [int(character) for character in reversed(text) if character.isdigit()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
