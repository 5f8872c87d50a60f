"""What becomes of a job whose attempt failed: one table, by class of error.

A class that does not stand in it follows its nearest ancestor that does. How often and for how long
are multiples of settings; docs/errors.md shows the same table, and a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import errors
from errors import ServiceError


class Course(StrEnum):
    """Where a failed attempt leads."""

    #: Another attempt would fail as well: the job is given up, and the queue ``dlq`` hears of it.
    GIVE_UP = "give up"
    #: Another attempt may do better, MAX_RETRIES times; the job waits in the queue ``retry``.
    RETRY = "retry"
    #: The process died or hung. No attempt is used up, however often; the deaths are counted, and
    #: the job runs alone from now on: MAX_SOLO_CRASHES, MAX_CRASHES. It waits in ``retry``.
    ISOLATE = "isolate"
    #: Something that is not the job's fault is missing. No attempt is used up, however often; the
    #: job keeps its queue.
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Policy:
    """What follows an error, and how long it is waited for."""

    course: Course
    #: Longest pause after the first time, in RETRY_BASE_SECONDS; it doubles each time.
    pause: float = 1.0
    #: Longest pause of all, in RETRY_CAP_SECONDS.
    longest: float = 1.0


GIVE_UP: Final = Policy(Course.GIVE_UP)
RETRY: Final = Policy(Course.RETRY)
ISOLATE: Final = Policy(Course.ISOLATE)
WAIT: Final = Policy(Course.WAIT)

TABLE: Final[Mapping[type[ServiceError], Policy]] = {
    # what nobody foresaw, the engine's own failures, a deadline
    ServiceError: RETRY,
    # the request or the file is wrong, and will be the next time
    errors.ClientError: GIVE_UP,
    errors.MediaError: GIVE_UP,
    errors.ConflictError: GIVE_UP,
    # the message says what an operator has to do; then it is redriven
    errors.ModelUnavailable: GIVE_UP,
    errors.SettingsError: GIVE_UP,
    errors.LocalServerFailed: GIVE_UP,
    # the URL is, or what it leads to
    errors.AddressRefused: GIVE_UP,
    errors.ReplyTooLarge: GIVE_UP,
    errors.ReplyRefused: GIVE_UP,
    errors.SourceRefused: GIVE_UP,
    # until the jobs beside it have ended
    errors.EngineOutOfMemory: Policy(Course.RETRY, pause=6),
    errors.DecoderKilled: Policy(Course.RETRY, pause=6),
    # minutes: somebody has to replace a file
    errors.ModelLoadFailed: Policy(Course.RETRY, pause=12),
    errors.ProcessDied: ISOLATE,
    errors.Stalled: ISOLATE,
    errors.WorkerLost: ISOLATE,
    # a newer web process took the job: for a worker that is as new
    errors.UnknownModel: WAIT,
    errors.CapacityError: WAIT,
    # other jobs' files go when those end
    errors.DiskFull: Policy(Course.WAIT, pause=6),
    # a model, or the turn to run alone, comes free when one job ends: ask often
    errors.PoolTimeout: Policy(Course.WAIT, longest=0.1),
    errors.Occupied: Policy(Course.WAIT, longest=0.1),
}


#: No error asks for a longer wait; for those who do not know which it was.
LONGEST: Final = Policy(
    Course.WAIT,
    pause=max(policy.pause for policy in TABLE.values()),
    longest=max(policy.longest for policy in TABLE.values()),
)


def policy_of(kind: type[ServiceError]) -> Policy:
    """Look a class of error up, or its nearest ancestor."""
    return next(TABLE[cls] for cls in kind.__mro__ if cls in TABLE)
