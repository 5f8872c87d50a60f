"""The codes that clients may meet and rely on, for the API's own documentation.

docs/errors.md says what each means and what to do; a test holds it, and these, complete.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

import errors
from api.errors import HTTP_CODES, status_of
from errors import ServiceError
from retries import Course, policy_of
from speech.engines.catalogue import DEMO_WARNING


def _below(*families: type[ServiceError]) -> set[type[ServiceError]]:
    return {*families}.union(*(_below(*family.__subclasses__()) for family in families))


def _codes(classes: Iterable[type[ServiceError]]) -> frozenset[str]:
    return frozenset(cls.code for cls in classes)


def listed(codes: Iterable[str]) -> str:
    return ", ".join(f"`{code}`" for code in sorted(codes))


#: Raised where jobs are done, and by no request.
_ONLY_IN_WORKERS: Final = {errors.CapacityError, errors.PoolTimeout}
#: Raised before there is a job.
_ONLY_IN_REQUESTS: Final[set[type[ServiceError]]] = {errors.QueueFull}
_IN_ATTEMPTS: Final[set[type[ServiceError]]] = {
    *_below(errors.MediaError, errors.EngineError),
    *_below(errors.CapacityError) - _ONLY_IN_REQUESTS,
    *_below(errors.OutgoingFailed) - {errors.ReplyTooLarge},  # which is an upload too large
    errors.EmptyFile,
    errors.UploadTooLarge,
    errors.QuotaExceeded,
    errors.NotAllowed,
    errors.DeadlineExceeded,
    errors.DecoderKilled,
    errors.InvalidRequest,
    errors.Occupied,
    errors.ServiceError,
    errors.SettingsError,
    errors.UnknownModel,
    errors.WorkerLost,
}


def _leading_to(course: Course) -> frozenset[str]:
    return _codes(cls for cls in _IN_ATTEMPTS if policy_of(cls).course is course)


#: ``code`` of a problem: what a request is refused with.
PROBLEMS: Final = frozenset({ServiceError.code, *HTTP_CODES.values()}) | _codes(
    cls
    for cls in _below(ServiceError) - _ONLY_IN_WORKERS
    if status_of(cls) != HTTPStatus.INTERNAL_SERVER_ERROR
)
#: ``error_code`` of a job: why its last attempt failed, or what it waits for.
ATTEMPTS: Final = _codes(_IN_ATTEMPTS)
#: Those of them that are no failure: the job waits until it is over, and uses up no attempt.
WAITING: Final = _leading_to(Course.WAIT)
#: ``failure_reason`` of a job: why it was given up.
REASONS: Final = _leading_to(Course.GIVE_UP) | {"attempts_exhausted", "deadline", "poison"}
#: What a job warns of.
WARNINGS: Final = frozenset({DEMO_WARNING, "truncated_input"})
