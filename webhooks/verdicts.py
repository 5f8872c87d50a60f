"""What follows a try: pure functions of how it ended."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from models import DeliveryStatus

#: Pauses between tries, in WEBHOOK_RETRY_SECONDS; with its default of 5 they are 5 s, 5 min,
#: 30 min, 2, 5, 10, 14, 20 and 24 hours, as Standard Webhooks has them: over three days in all.
PAUSES: Final = (1, 60, 360, 1_440, 3_600, 7_200, 10_080, 14_400, 17_280)
#: So much longer at most, so that what failed together does not come back together.
JITTER: Final = 0.2
#: No receiver may ask for more.
LONGEST_SECONDS: Final = 86_400.0
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_BUSY: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a delivery."""

    status: DeliveryStatus
    #: Until the next try.
    pause_seconds: float = 0.0
    #: The receiver wants nothing more, ever.
    gone: bool = False


def judge(
    status: int | None,
    headers: Mapping[str, str],
    *,
    round_number: int,
    retry_seconds: float,
    chance: Callable[[], float] = random.random,
) -> Verdict:
    """Decide after a try.

    Args:
        status: Of the reply; None where none came.
        headers: Of the reply, by names in lower case.
        round_number: Which try it was, from 1.
        retry_seconds: WEBHOOK_RETRY_SECONDS.
        chance: From 0 to 1.
    """
    if status is not None and HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Verdict(status=DeliveryStatus.DELIVERED)
    if status == HTTPStatus.GONE:
        return Verdict(status=DeliveryStatus.FAILED, gone=True)
    if round_number > len(PAUSES):
        return Verdict(status=DeliveryStatus.FAILED)
    pause = PAUSES[round_number - 1] * retry_seconds * (1 + JITTER * chance())
    if status in _BUSY:
        pause = max(pause, _asked_for(headers.get("retry-after", "")))
    return Verdict(status=DeliveryStatus.PENDING, pause_seconds=pause)


def _asked_for(retry_after: str) -> float:
    """Seconds; a date would need their clock to be ours."""
    if not _SECONDS.fullmatch(retry_after.strip()):
        return 0.0
    return min(float(retry_after), LONGEST_SECONDS)
