"""What a soak does, all of it from one seed: the jobs that clients send, and the faults."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rig.engines import Script

Kind = Literal["null", "long", "demo", "bad-input", "error", "error-once", "poison"]

#: Of a thousand jobs.
MIX: Final[dict[Kind, int]] = {
    "null": 879,
    "long": 40,
    "demo": 10,
    "bad-input": 20,
    "error": 20,
    "error-once": 30,
    "poison": 1,
}
#: What the engine raises in a job that fails for cause.
ERRORS: Final = ("error", "exit", "interrupt", "memory-error")
SAMPLES: Final = ("digits-en.wav", "digits-de.wav", "digits-es.wav")
OWNERS: Final = 2
HIGH_SHARE: Final = 0.2
#: Of null and long jobs; within so many seconds of their submission.
CANCEL_SHARE: Final = 0.08
CANCEL_WITHIN_SECONDS: Final = 4.0

#: How often each fault comes, in one pass through all of them.
FAULTS: Final[dict[str, int]] = {
    "worker-kill": 3,
    "worker-term": 2,
    "worker-freeze": 2,
    "worker-duel": 2,
    "maintenance-kill": 2,
    "maintenance-freeze": 1,
    "web-kill": 1,
    "web-term": 1,
    "redis-flush": 2,
    "redis-delete": 2,
    "redis-cut": 2,
    "redis-repeat": 2,
    "redis-garbage": 2,
    "redis-kill": 1,
    "redis-wipe": 1,
    "redis-freeze": 1,
    "postgres-restart": 1,
    "postgres-kill": 1,
    "postgres-cut": 2,
    "disk-full": 1,
}
#: Seconds between two faults.
PAUSES: Final = (3.0, 7.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """One job that a client will send."""

    number: int
    kind: Kind
    #: None for a job that holds a real recording, or rubbish.
    script: Script | None
    sample: str | None
    #: Which of the owners sends it.
    owner: int
    priority: str
    #: Seconds after its submission; None for a job that is left alone.
    cancel_after: float | None = None

    @property
    def name(self) -> str:
        """What tells it from every other job of the run."""
        return self.script.tag if self.script else f"T{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFault:
    """One fault, and the two numbers, 0 to 1, that settle whom it meets and how long it lasts."""

    number: int
    kind: str
    #: After the fault before it.
    pause_seconds: float
    target: float
    length: float


class Plan:
    """All that happens, as far as it is up to us."""

    def __init__(
        self, seed: int, jobs: int, *, kinds: Sequence[Kind] = (), faults: Sequence[str] = ()
    ) -> None:
        """Draw a plan.

        Args:
            kinds: Of jobs; all, if none is named.
            faults: Their kinds; all, if none is named.
        """
        self._random = random.Random(seed)
        self._faults = [
            kind for kind, times in FAULTS.items() if not faults or kind in faults
            for _ in range(times)
        ]  # fmt: skip
        self.jobs = self._draw_jobs(jobs, {kind: MIX[kind] for kind in kinds or MIX})

    def _draw_jobs(self, count: int, mix: dict[Kind, int]) -> list[PlannedJob]:
        kinds = self._random.choices(list(mix), list(mix.values()), k=count)
        # a short run should meet every kind as well
        for place, kind in zip(self._random.sample(range(count), k=len(mix)), mix, strict=True):
            kinds[place] = kind
        return [self._draw_job(number, kind) for number, kind in enumerate(kinds)]

    def _draw_job(self, number: int, kind: Kind) -> PlannedJob:
        draw = self._random
        is_plain = kind in {"null", "long"}
        return PlannedJob(
            number=number,
            kind=kind,
            script=self._draw_script(number, kind),
            sample=draw.choice(SAMPLES) if kind == "demo" else None,
            owner=draw.randrange(OWNERS),
            priority="high" if draw.random() < HIGH_SHARE else "normal",
            cancel_after=draw.uniform(0, CANCEL_WITHIN_SECONDS)
            if is_plain and draw.random() < CANCEL_SHARE
            else None,
        )

    def _draw_script(self, number: int, kind: Kind) -> Script | None:
        draw = self._random
        if kind in {"demo", "bad-input"}:
            return None
        if kind == "long":
            windows, seconds = draw.randint(20, 40), draw.choice((0.1, 0.15, 0.2))
        else:
            windows, seconds = draw.randint(1, 6), draw.choice((0.02, 0.1, 0.25))
        fault = {"poison": "kill", "error": draw.choice(ERRORS), "error-once": draw.choice(ERRORS)}
        return Script(
            windows=windows,
            seconds=seconds,
            tag=f"T{number}",
            fault=fault.get(kind),
            once=kind == "error-once",
        )

    def faults(self) -> Iterator[PlannedFault]:
        """Faults for as long as they are asked for: in turn each kind, in an order of its own."""
        number = 0
        while self._faults:
            deck = self._random.sample(self._faults, k=len(self._faults))
            for kind in deck:
                yield PlannedFault(
                    number=number,
                    kind=kind,
                    pause_seconds=self._random.uniform(*PAUSES),
                    target=self._random.random(),
                    length=self._random.random(),
                )
                number += 1
