"""Recordings for the engines, made of those that come with the program."""

import functools
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

SAMPLES_DIR = Path(__file__).resolve().parents[3] / "samples"
RATE = 16_000


@functools.cache
def recording(name: str) -> Samples:
    """Decode a file of ``samples/``: float32, mono, 16 kHz."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    with av.open(str(SAMPLES_DIR / name)) as container:
        frames = [f for frame in container.decode(audio=0) for f in resampler.resample(frame)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames])


def joined(*parts: str | float) -> Samples:
    """Recordings one after the other, with so many seconds of silence where a number stands."""
    return np.concatenate(
        [
            recording(part) if isinstance(part, str) else np.zeros(round(part * RATE), np.float32)
            for part in parts
        ]
    )


DIGITS = "digits-en.wav"


def long_recording() -> Samples:
    """Several windows: one that ends within speech, a silent one, a short one at the end."""
    return joined(DIGITS, 14.0, DIGITS, 1.0, DIGITS, 45.0, DIGITS, 1.237)
