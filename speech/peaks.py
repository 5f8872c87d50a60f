"""How loud a recording is from its beginning to its end: what a waveform is drawn from.

The web process imports it to read peaks, so there is no numpy here.
"""

from __future__ import annotations

import array
import math
from typing import Any, Final

#: Of the samples that peaks are made from: ``speech.audio``'s.
SAMPLE_RATE_HZ: Final = 16_000
#: More than a screen has columns of pixels.
MOST: Final = 2000
#: 10 ms: shorter stretches show nothing more.
LEAST_SAMPLES: Final = 160
_FULL: Final = 127


def samples_each(samples: int) -> int:
    """Of how many samples each peak is, so that there are at most ``MOST``."""
    return max(LEAST_SAMPLES, math.ceil(samples / MOST))


def of(samples: Any) -> bytes:
    """Find the least and the greatest sample of each stretch.

    Args:
        samples: float32, shape (n,), -1 to 1; may be mapped from a file of any length.

    Returns:
        Signed bytes, least and greatest in turn, 2 for each ``samples_each(n)`` samples.
    """
    each = samples_each(len(samples))
    whole = len(samples) // each * each
    blocks = samples[:whole].reshape(-1, each)
    low, high = blocks.min(axis=1).tolist(), blocks.max(axis=1).tolist()
    if len(rest := samples[whole:]):
        low.append(float(rest.min()))
        high.append(float(rest.max()))
    return array.array(
        "b", [_byte(x) for pair in zip(low, high, strict=True) for x in pair]
    ).tobytes()


def pairs(peaks: bytes) -> list[int]:
    """Read what ``of`` wrote: -127 to 127, least and greatest in turn."""
    return array.array("b", peaks).tolist()


def _byte(sample: float) -> int:
    return round(max(-1.0, min(sample, 1.0)) * _FULL) if math.isfinite(sample) else 0
