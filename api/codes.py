"""The codes that clients may meet and rely on, for the API's own documentation.

docs/errors.md says what each means and what to do; a test holds it, and these, complete.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

import errors
from api.errors import HTTP_CODES, status_of
from api.submission import DEMO_WARNING
from errors import ServiceError


def _below(*families: type[ServiceError]) -> set[type[ServiceError]]:
    return {*families}.union(*(_below(*family.__subclasses__()) for family in families))


def _codes(classes: Iterable[type[ServiceError]]) -> frozenset[str]:
    return frozenset(cls.code for cls in classes)


def listed(codes: Iterable[str]) -> str:
    return ", ".join(f"`{code}`" for code in sorted(codes))


#: Raised where jobs are done, and by no request.
_ONLY_IN_WORKERS: Final = {errors.CapacityError, errors.PoolTimeout}
_WAITED_FOR: Final = {*_below(errors.CapacityError), errors.Occupied}
_IN_ATTEMPTS: Final[set[type[ServiceError]]] = {
    *_below(errors.MediaError, errors.EngineError),
    *_WAITED_FOR,
    errors.DeadlineExceeded,
    errors.DecoderKilled,
    errors.InvalidRequest,
    errors.ServiceError,
    errors.SettingsError,
    errors.UnknownModel,
}

#: ``code`` of a problem: what a request is refused with.
PROBLEMS: Final = frozenset({ServiceError.code, *HTTP_CODES.values()}) | _codes(
    cls
    for cls in _below(ServiceError) - _ONLY_IN_WORKERS
    if status_of(cls) != HTTPStatus.INTERNAL_SERVER_ERROR
)
#: ``error_code`` of a job: why its last attempt failed, or what it waits for.
ATTEMPTS: Final = _codes(_IN_ATTEMPTS) | {"worker_lost"}
#: Those of them that are no failure: the job waits until it is over, and uses up no attempt.
WAITING: Final = _codes(_WAITED_FOR)
#: ``failure_reason`` of a job: why it was given up.
REASONS: Final = _codes(cls for cls in _IN_ATTEMPTS if not cls.retryable) | {
    "attempts_exhausted",
    "deadline",
    "poison",
}
#: What a job warns of.
WARNINGS: Final = frozenset({DEMO_WARNING, "truncated_input"})
