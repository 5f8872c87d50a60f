"""How loud a recording is, in at most so many pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech import audio, peaks


def test_the_rate_is_that_of_samples() -> None:
    """Which the web process cannot import."""
    assert peaks.SAMPLE_RATE_HZ == audio.SAMPLE_RATE_HZ


@given(st.integers(0, 700_000))
def test_there_are_as_many_pairs_as_stretches(samples: int) -> None:
    found = peaks.pairs(peaks.of(np.zeros(samples, np.float32)))
    each = peaks.samples_each(samples)

    assert len(found) == 2 * -(-samples // each)
    assert len(found) <= 2 * peaks.MOST


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 100_000, 999_999])
def test_every_stretch_has_its_least_and_its_greatest(samples: int) -> None:
    sound = np.random.default_rng(7).uniform(-1, 1, samples).astype(np.float32)
    each = peaks.samples_each(samples)
    found = peaks.pairs(peaks.of(sound))

    for number in range(len(found) // 2):
        stretch = sound[number * each : (number + 1) * each]
        assert found[2 * number] == round(float(stretch.min()) * 127)
        assert found[2 * number + 1] == round(float(stretch.max()) * 127)


def test_what_is_too_loud_or_no_number_does_no_harm() -> None:
    sound = np.array([9.0, -9.0], np.float32).repeat(160)
    nothing = np.full(160, np.nan, np.float32)

    assert peaks.pairs(peaks.of(sound)) == [127, 127, -127, -127]
    assert peaks.pairs(peaks.of(nothing)) == [0, 0]
