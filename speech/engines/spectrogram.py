"""The log-mel spectrogram of a recording of any length, a block at a time.

Both engines' own make the whole of it at once, which takes gigabytes for hours of audio. They
clamp it 8 (80 dB) below its loudest value, wherever in the recording that is, so the loudest value
is looked for first; after that each window comes out as if it had been cut from the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SAMPLE_RATE = 16_000
#: Samples from one frame to the next, and in one frame.
HOP, FRAME = 160, 400
#: Frames in a second, and in the window of 30 s that the models take.
FRAMES_PER_SECOND, WINDOW_FRAMES = 100, 3000
#: The faintest that is told from silence, below the loudest, as a power of ten.
RANGE = 8.0


class Spectrogram:
    """Frames of 10 ms, of which each is centred on its time.

    Args:
        samples: float32, shape (n_samples,), 16 kHz; only read, in blocks.
        silence: Samples of silence that follow the recording; the end of these is mirrored, as the
            start of the recording is, to fill up the outermost frames.
        log_mel: Makes log10 of the mel powers, shape (n_mels, n), of a signal that n frames cover,
            shape (HOP * (n - 1) + FRAME,).
    """

    def __init__(self, samples: Array, *, silence: int, log_mel: Callable[[Array], Array]) -> None:
        self._samples = samples
        self._length = len(samples) + silence
        self._log_mel = log_mel
        #: Frames of the recording itself.
        self.frames = len(samples) // HOP
        self._loudest = self._find_loudest()

    def window(self, start: int, stop: int) -> Array:
        """Return frames ``start`` to ``stop``, shape (n_mels, stop - start)."""
        power = self._log_mel(self._signal(start, stop))
        return cast(Array, (np.maximum(power, self._loudest - RANGE) + 4.0) / 4.0)

    def window_of_30_seconds(self, start: int, stop: int) -> Array:
        """Return frames ``start`` to ``stop`` and zeros after them, shape (n_mels, 3000)."""
        window = self.window(start, stop)
        return np.pad(window, ((0, 0), (0, WINDOW_FRAMES - window.shape[1])))

    def _find_loudest(self) -> np.float32:
        # Frames that hear only the silence after the recording cannot be the loudest.
        stop = min(self._length // HOP, (len(self._samples) + FRAME // 2) // HOP + 1)
        blocks = range(0, stop, WINDOW_FRAMES)
        return max(
            (self._log_mel(self._signal(b, min(b + WINDOW_FRAMES, stop))).max() for b in blocks),
            default=np.float32(-10.0),
        )

    def _signal(self, start: int, stop: int) -> Array:
        """Return what frames ``start`` to ``stop`` cover, mirrored at both ends."""
        low, high = start * HOP - FRAME // 2, (stop - 1) * HOP + FRAME // 2
        signal = self._padded(max(low, 0), min(high, self._length))
        if low < 0:
            signal = np.concatenate([self._padded(1, 1 - low)[::-1], signal])
        if high > self._length:
            last = self._length - 1
            mirrored = self._padded(last - (high - self._length), last)[::-1]
            signal = np.concatenate([signal, mirrored])
        return signal

    def _padded(self, low: int, high: int) -> Array:
        """Copy samples ``low`` to ``high``; zeros where the recording has ended."""
        signal = np.zeros(high - low, dtype=np.float32)
        inside = self._samples[low:high]
        signal[: len(inside)] = inside
        return signal
