"""One spoilt file after the other through a decode child, and what must hold of each."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

import numpy as np

import errors
from speech import audio
from speech.audio import DecodeLimits
from speech.transcript import WHOLE
from tests import media
from tests.fuzz import nursery
from tests.fuzz.mutations import mutate
from tests.fuzz.nursery import Life
from tests.hostile import CANARY_HZ, Trap, hears_canary, untouched_server

#: Little audio, so that many files have their turn; the memory is that of the service.
LIMITS = DecodeLimits(max_audio_seconds=120, timeout_seconds=20)
#: What no file may take, and what a file of a megabyte with two minutes of audio has no use for.
MAX_RESIDENT_BYTES = LIMITS.max_memory_bytes
MAX_CPU_SECONDS = 10.0
PATIENCE_SECONDS = 120.0
SEED_SECONDS = 0.5
MAX_SEED_BYTES = 256 << 10


@dataclass(frozen=True, kw_only=True)
class Case:
    """One file, and what was wrong with what came of it."""

    number: int
    data: bytes
    end: str
    life: Life
    faults: tuple[str, ...]


class Fuzzer:
    """Makes cases in a folder of its own, beside a canary and a server that nobody may call."""

    def __init__(self, seed: int, folder: Path) -> None:
        self._seed = seed
        self._stack = ExitStack()
        self._port = self._stack.enter_context(untouched_server())
        self._trap = Trap(folder, self._port)
        self._upload, self._target = folder / "upload", folder / "samples"
        canary = media.tone(2.0, tone_hz=CANARY_HZ)
        (folder / "private.wav").write_bytes(media.wav(canary))
        (folder / "private.ts").write_bytes(media.sound("mpegts", "aac", tone_hz=CANARY_HZ))
        made = (make(SEED_SECONDS) for make in media.HONEST.values())
        self.seeds = [data for data in made if len(data) < MAX_SEED_BYTES]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Raise if anybody called the server."""
        self._stack.__exit__(kind, error, traceback)

    def data(self, number: int) -> bytes:
        """The file of a case: the same for the same seed and number, but for the server's port."""
        random = Random(f"{self._seed}:{number}")  # noqa: S311 - to be repeatable is what it is for
        return mutate(self.seeds, self._trap, random)

    def run(self, number: int) -> Case:
        data = self.data(number)
        self._upload.write_bytes(data)
        life = self._life()
        if life.status in {None, -signal.SIGALRM} and life.cpu_seconds < MAX_CPU_SECONDS:
            life = self._life()  # a busy machine lets a child wait; a file does so each time
        end, faults = judge(life, self._target)
        return Case(number=number, data=data, end=end, life=life, faults=tuple(faults))

    def _life(self) -> Life:
        return nursery.raise_child(self._upload, self._target, LIMITS, PATIENCE_SECONDS)


def judge(life: Life, target: Path) -> tuple[str, list[str]]:
    """How the job would end, by its code, and what should not have happened."""
    faults = list(_costs(life))
    try:
        media_ = audio._judge(life.status or 0, life.said, LIMITS)
        decoded = audio._decoded(media_, target.stat().st_size / 64_000, LIMITS, WHOLE)
    except errors.ServiceError as error:
        return error.code, [*faults, *_refusal(error, life)]
    return "decoded", [*faults, *_samples(target, decoded.audio_seconds)]


def _costs(life: Life) -> Iterator[str]:
    if life.status is None:
        yield f"does not end within {PATIENCE_SECONDS:.0f} s"
    if life.peak_bytes > MAX_RESIDENT_BYTES:
        yield f"takes {life.peak_bytes >> 20} MB"
    if life.cpu_seconds > MAX_CPU_SECONDS:
        yield f"takes {life.cpu_seconds:.1f} s of CPU"
    if life.status is not None and life.status < 0:
        yield f"dies of signal {-life.status}"


def _refusal(error: errors.ServiceError, life: Life) -> Iterator[str]:
    """A file is refused for what it is: never for our fault, a disk's or a stranger's."""
    if not isinstance(error, errors.MediaError):
        yield f"ends as {error.code}: {life.said[-300:]!r}"


def _samples(target: Path, audio_seconds: float) -> Iterator[str]:
    if target.stat().st_size % 4:
        yield "ends in the middle of a sample"
        return
    samples = audio.load_samples(target)
    if not 0 < audio_seconds <= LIMITS.max_audio_seconds + 1:
        yield f"is {audio_seconds} s long"
    if not np.isfinite(samples).all() or np.abs(samples, dtype=np.float32).max(initial=0) > 1:
        yield "has samples that are no finite number in [-1, 1]"
    if hears_canary(samples):
        yield "sounds like the file beside it"
