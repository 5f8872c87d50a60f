"""A spectrogram made in blocks is the one made whole."""

from functools import partial

import numpy as np
import pytest
import torch
from faster_whisper.feature_extractor import FeatureExtractor
from whisper.audio import N_SAMPLES, log_mel_spectrogram

from speech.engines import faster_whisper, openai_whisper
from speech.engines.spectrogram import Spectrogram

#: Shorter and longer than a frame, a block, several; whole frames and not.
LENGTHS = [160, 161, 399, 4000, 480_000, 480_001, 959_900, 1_500_077]
MELS = [80, 128]


def noise(length: int):
    """Noise with its loudest part anywhere, and some of it faint enough to be clamped."""
    random = np.random.default_rng(length)
    loudness = np.interp(np.arange(length), np.linspace(0, length, 9), random.random(9) ** 8)
    return (random.standard_normal(length) * loudness).astype(np.float32)


def of_openai(samples, n_mels: int) -> Spectrogram:
    log_mel = partial(openai_whisper._log_mel, n_mels=n_mels)
    return Spectrogram(samples, silence=N_SAMPLES, log_mel=log_mel)


def of_faster(samples, n_mels: int) -> Spectrogram:
    extractor = FeatureExtractor(feature_size=n_mels)
    log_mel = partial(faster_whisper._log_mel, extractor=extractor)
    return Spectrogram(samples, silence=160, log_mel=log_mel)


def in_blocks(spectrogram: Spectrogram, frames: int):
    """All of it, in windows as the seek logic might take them."""
    starts = [0, 1, 1700, 4700, 7700, 10_700]
    stops = [*starts[1:], frames]
    windows = [
        spectrogram.window(start, min(stop, frames))
        for start, stop in zip(starts, stops, strict=True)
        if start < min(stop, frames)
    ]
    return np.concatenate(windows, axis=1)


@pytest.mark.parametrize("n_mels", MELS)
@pytest.mark.parametrize("length", LENGTHS)
def test_blocks_are_openai_whisper_s_whole(length, n_mels):
    samples = noise(length)
    whole = log_mel_spectrogram(torch.from_numpy(samples), n_mels, padding=N_SAMPLES).numpy()

    blocks = in_blocks(of_openai(samples, n_mels), whole.shape[1])

    np.testing.assert_allclose(blocks, whole, atol=1e-6)


@pytest.mark.parametrize("n_mels", MELS)
@pytest.mark.parametrize("length", LENGTHS)
def test_blocks_are_faster_whisper_s_whole(length, n_mels):
    samples = noise(length)
    whole = FeatureExtractor(feature_size=n_mels)(samples)

    blocks = in_blocks(of_faster(samples, n_mels), whole.shape[1])

    np.testing.assert_allclose(blocks, whole, atol=1e-6)


@pytest.mark.parametrize("length", LENGTHS)
def test_frames_are_those_of_the_recording(length):
    assert of_openai(noise(length), 80).frames == length // 160


def test_a_window_past_the_end_is_filled_up_with_zeros():
    window = of_openai(noise(16_000), 80).window_of_30_seconds(40, 100)

    assert window.shape == (80, 3000)
    assert window[:, :60].any()
    assert not window[:, 60:].any()


def test_silence_is_as_quiet_as_can_be():
    spectrogram = of_openai(np.zeros(16_000, np.float32), 80)

    assert spectrogram.window(0, 100).max() == np.float32(-1.5)


def test_a_read_only_memory_map_is_enough(tmp_path):
    noise(50_000).tofile(tmp_path / "samples")
    samples = np.memmap(tmp_path / "samples", np.float32, mode="r")

    window = of_openai(samples, 80).window(0, 300)

    np.testing.assert_array_equal(window, of_openai(noise(50_000), 80).window(0, 300))
