"""What a reply means, and what follows a try that failed: pure functions."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from errors import DeadlineExceeded, OutgoingFailed, ServiceError, SourceRefused, kind_of
from retries import Course, policy_of

#: Tries in a row that brought nothing; with the default pauses, over 20 minutes.
MOST_FAILURES: Final = 9
#: No pause is longer, also none that a server asks for.
LONGEST_SECONDS: Final = 3_600.0
#: Pauses are up to so much shorter, so that what failed together does not come back together.
JITTER: Final = 0.5

_STRONG_ETAG: Final = re.compile(r'"[!#-~]{0,200}"')
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_GIVEN: Final = frozenset({HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT})
#: What a server says that may do better later, beside everything from 500 on.
_LATER: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.LOCKED,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a try that failed."""

    #: Why the job is given up; None where it is tried again.
    reason: str | None = None
    failures: int = 0
    pause_seconds: float = 0.0


def require_given(status: int, headers: Mapping[str, str]) -> None:
    """Do nothing, or say what it means that a server does not give the recording.

    Args:
        headers: By names in lower case.

    Raises:
        SourceRefused: It never will.
        OutgoingFailed: It may later.
    """
    if status in _GIVEN:
        return
    if status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise OutgoingFailed(
            f"The other server answered {status}.",
            reason="status",
            status=status,
            retry_after_seconds=_asked_for(headers.get("retry-after", "")),
        )
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        raise SourceRefused(
            f"The other server answered {status}: redirects are not followed; name the address"
            " that it leads to.",
            status=status,
        )
    raise SourceRefused(f"The other server answered {status}.", status=status)


def validator(headers: Mapping[str, str]) -> str | None:
    """The ETag by which a recording can be gone on with; None where it cannot."""
    etag = headers.get("etag", "").strip()
    return etag if _STRONG_ETAG.fullmatch(etag) else None


def judge(
    error: BaseException,
    *,
    failures: int,
    progressed: bool,
    retry_seconds: float,
    chance: Callable[[], float] = random.random,
) -> Verdict:
    """Decide after a try that failed.

    Args:
        failures: Tries in a row before this one that brought nothing.
        progressed: Whether this one did bring something.
        retry_seconds: SOURCE_RETRY_SECONDS.
        chance: From 0 to 1.
    """
    if isinstance(error, DeadlineExceeded):
        return Verdict(reason=DeadlineExceeded.code)
    kind = kind_of(error)
    policy = policy_of(kind)
    if policy.course is Course.GIVE_UP:
        return Verdict(reason=kind.code)
    waits = policy.course is Course.WAIT
    failures = (0 if progressed else failures) + (not waits)
    if failures > MOST_FAILURES:
        return Verdict(reason="attempts_exhausted")
    pause = policy.pause * retry_seconds * 2 ** max(0, failures - 1) * (1 - JITTER * chance())
    asked = error.data.get("retry_after_seconds", 0) if isinstance(error, ServiceError) else 0
    return Verdict(failures=failures, pause_seconds=min(max(pause, asked), LONGEST_SECONDS))


def _asked_for(retry_after: str) -> float:
    """Seconds; a date would need their clock to be ours."""
    if not _SECONDS.fullmatch(retry_after.strip()):
        return 0.0
    return min(float(retry_after), LONGEST_SECONDS)
