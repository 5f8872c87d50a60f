"""Speech engines behind one Protocol. Nothing of an engine is imported before it is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from speech.engines.catalogue import (
    BATCH_WHISPER,
    FASTER_WHISPER,
    OPENAI_WHISPER,
    ModelKey,
    resolve,
)
from speech.engines.downloads import Progress
from speech.engines.fitting import Hardware
from speech.engines.store import ModelStore, ignore
from speech.transcript import ResumeState, TranscribeOptions, Window

if TYPE_CHECKING:  # the web process has no numpy
    import numpy as np
    from numpy.typing import NDArray

    #: float32, shape (n_samples,), mono, 16 kHz, in [-1, 1]; may be a read-only memory map.
    Samples = NDArray[np.float32]

__all__ = [
    "Engine",
    "Hardware",
    "ModelKey",
    "ModelStore",
    "convert_checkpoint",
    "fetch",
    "find",
    "hardware",
    "load",
]


class Engine(Protocol):
    """A loaded model."""

    @property
    def key(self) -> ModelKey: ...

    @property
    def exclusive(self) -> bool:
        """Whether only one thread may use it at a time."""

    @property
    def memory_bytes(self) -> int:
        """About what it takes on its device while it works."""

    def transcribe(
        self, samples: Samples, options: TranscribeOptions, resume: ResumeState | None = None
    ) -> Iterator[Window]:
        """Transcribe, one window at a time; stop by no longer asking.

        Neither the samples nor anything made of them is held whole: six hours take no more memory
        than a minute. Audio shorter than 10 ms gives no window.

        Args:
            samples: float32, shape (n_samples,), mono, 16 kHz, in [-1, 1].
            resume: What the last window of an earlier run left; that of another model has to go
                through ``catalogue.carry_over`` first.

        Raises:
            EngineOutOfMemory: the device, or the machine, has too little.
            EngineError: the engine failed in any other way.
            InvalidRequest: the model does not know ``options.language``.
        """

    def close(self) -> None:
        """Free everything. The engine cannot be used afterwards."""


def hardware(engine: str) -> Hardware:
    """What ``engine`` can use on this machine. Imports its library, which takes seconds."""
    if engine == BATCH_WHISPER:
        from speech.engines.batch_whisper import hardware as of_batch_whisper

        return of_batch_whisper()
    if engine == FASTER_WHISPER:
        from speech.engines.faster_whisper import hardware as of_faster_whisper

        return of_faster_whisper()
    from speech.engines.openai_whisper import hardware as of_openai_whisper

    return of_openai_whisper()


def fetch(key: ModelKey, store: ModelStore, *, progress: Progress = ignore) -> Path:
    """Make sure that the files of a model are here; return the file or folder.

    Args:
        progress: Told bytes done and in all, at least every second or so while bytes come; what it
            raises stops the download and comes out here.

    Raises:
        ModelUnavailable: they are not here and cannot be had; the message says what to put where.
        UnknownModel: there is no such model.
    """
    spec = resolve(key.model)
    if key.engine == OPENAI_WHISPER:
        return store.checkpoint(spec, progress)
    from speech.engines import converted

    fetch_form = converted.fetch_halves if key.engine == BATCH_WHISPER else converted.fetch
    return fetch_form(spec, store, progress=progress)


def find(key: ModelKey, store: ModelStore) -> Path | None:
    """Where a model's files are, whole; None when they would have to be fetched.

    Raises:
        UnknownModel: there is no such model.
    """
    spec = resolve(key.model)
    checkpoint = store.checkpoint_path(spec) if store.has_checkpoint(spec) else None
    if key.engine == OPENAI_WHISPER:
        return checkpoint
    from speech.engines import converted

    find_form = converted.find_halves if key.engine == BATCH_WHISPER else converted.find
    # a checkpoint is converted by whoever loads it
    return find_form(spec, store) or checkpoint


def load(
    key: ModelKey,
    store: ModelStore,
    *,
    threads: int = 0,
    workers: int = 1,
    progress: Progress = ignore,
) -> Engine:
    """Load a model, downloading it first if need be.

    Args:
        threads: Of the CPU, for one window; 0 leaves it to the library.
        workers: Windows at a time, for engines that are not exclusive.

    Raises:
        ModelUnavailable: its files are not here and cannot be had.
        ModelLoadFailed: they are here and cannot be loaded.
        EngineOutOfMemory: the model does not fit.
    """
    path = fetch(key, store, progress=progress)
    if key.engine == BATCH_WHISPER:
        from speech.engines.batch_whisper import load as load_batch_whisper

        return load_batch_whisper(key, path, threads=threads or 1, runners=workers)
    if key.engine == FASTER_WHISPER:
        from speech.engines.faster_whisper import load as load_faster_whisper

        return load_faster_whisper(key, path, threads=threads, workers=workers)
    from speech.engines.openai_whisper import load as load_openai_whisper

    return load_openai_whisper(key, path, threads=threads)


# Not "convert": importing the module of that name would take its place.
def convert_checkpoint(checkpoint: Path, target: Path, *, quantization: str | None = None) -> None:
    """Make a folder for ``faster-whisper`` of a checkpoint; see ``speech.engines.convert``."""
    from speech.engines.convert import convert

    convert(checkpoint, target, quantization=quantization)
