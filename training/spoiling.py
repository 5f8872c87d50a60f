"""Spoil clean sound as recordings are: a room, a telephone's bandwidth, a level, noise."""

from __future__ import annotations

import numpy as np

from training.synthesise import RATE


def at_unit_level(sound: np.ndarray) -> np.ndarray:
    """The sound with a deviation of 1."""
    level: np.ndarray = sound / (sound.std() + 1e-9)
    return level


def coloured(chance: np.random.Generator, length: int, slope: float) -> np.ndarray:
    """Noise whose power falls with frequency as f to the minus `slope`, at unit level."""
    spectrum = np.fft.rfft(chance.standard_normal(length).astype(np.float32))
    frequency = np.fft.rfftfreq(length, 1 / RATE)
    spectrum *= np.maximum(frequency, 30.0) ** (-slope / 2)
    noise = np.fft.irfft(spectrum, length).astype(np.float32)
    return at_unit_level(noise)


def tones(chance: np.random.Generator, length: int) -> np.ndarray:
    """Hum, whistles or chords: a few steady or slowly changing tones, at unit level."""
    time = np.arange(length, dtype=np.float32) / RATE
    base = chance.choice([50.0, 60.0, chance.uniform(80, 1200)])
    sound = np.zeros(length, np.float32)
    for _ in range(chance.integers(1, 6)):
        pitch = base * chance.choice([1, 2, 3, 4, 5, 1.25, 1.5])
        swell = 1 + 0.5 * np.sin(2 * np.pi * chance.uniform(0.05, 4) * time)
        sound += swell * np.sin(2 * np.pi * pitch * time + chance.uniform(0, 6)).astype(np.float32)
    if chance.random() < 0.4:
        sound *= np.repeat(chance.random(length // 4000 + 1) > 0.5, 4000)[:length]
    return at_unit_level(sound)


def clicks(chance: np.random.Generator, length: int) -> np.ndarray:
    """Knocks and crackle: short decaying bursts at random times, at unit level."""
    sound = np.zeros(length, np.float32)
    for at in chance.integers(0, length, chance.integers(2, 10 + length // 4000)):
        size = min(int(chance.integers(20, 1200)), length - int(at))
        burst = chance.standard_normal(size) * np.exp(-np.arange(size) / (size / 5))
        sound[at : at + size] += (burst * chance.uniform(0.2, 1)).astype(np.float32)
    return at_unit_level(sound)


def noise_of_some_kind(chance: np.random.Generator, length: int) -> np.ndarray:
    """One of the kinds of noise there are, or two together, at unit level."""
    kind = chance.random()
    if kind < 0.6:
        noise = coloured(chance, length, chance.uniform(-0.3, 2.2))
        if chance.random() < 0.3:
            points = chance.uniform(0.1, 1, length // 8000 + 2)
            noise *= np.interp(np.arange(length) / 8000, np.arange(len(points)), points)
    elif kind < 0.75:
        noise = tones(chance, length)
    elif kind < 0.88:
        noise = clicks(chance, length)
    else:
        noise = tones(chance, length) + coloured(chance, length, 1.0) * chance.uniform(0.1, 1)
    return noise.astype(np.float32)


def room_and_line(chance: np.random.Generator, samples: np.ndarray) -> np.ndarray:
    """Give the sound a tone curve, and some of the time a room and a telephone's bandwidth."""
    length = len(samples) + 8000
    spectrum = np.fft.rfft(samples, length)
    frequency = np.fft.rfftfreq(length, 1 / RATE)
    points = np.array([50, 200, 500, 1200, 2500, 4000, 8000.0])
    curve = np.interp(np.log(frequency + 1), np.log(points), chance.uniform(-8, 8, len(points)))
    spectrum *= 10 ** (curve * chance.random() / 20)
    if chance.random() < 0.45:
        spectrum *= frequency < chance.choice([3400, 3700, 3950, 5500])
    if chance.random() < 0.2:
        spectrum *= frequency > chance.uniform(80, 300)
    if chance.random() < 0.3:
        decay = chance.uniform(0.05, 0.35)
        echo = chance.standard_normal(6400) * np.exp(-np.arange(6400) / RATE * 6.9 / decay)
        echo *= chance.uniform(0.02, 0.25) / np.sqrt((echo**2).sum()) * 2
        echo[0] = 1.0
        spectrum *= np.fft.rfft(echo, length)
    return np.fft.irfft(spectrum, length)[: len(samples)].astype(np.float32)


def spoilt(chance: np.random.Generator, samples: np.ndarray) -> np.ndarray:
    """The sound in a room, on a line, at some level, with some noise."""
    if chance.random() < 0.75:
        samples = room_and_line(chance, samples)
    sounding = np.abs(samples) > 0.02
    level = samples[sounding].std() if sounding.sum() > 100 else 0.1
    kind = chance.random()
    if kind < 0.65:
        ratio = chance.uniform(5, 40)
        samples = samples + noise_of_some_kind(chance, len(samples)) * level * 10 ** (-ratio / 20)
    peak = float(np.abs(samples).max()) + 1e-6
    return (samples / peak * 10 ** (-chance.uniform(0.3, 30) / 20)).astype(np.float32)


def no_speech(chance: np.random.Generator, seconds: float) -> np.ndarray:
    """Silence, or noise alone."""
    length = int(seconds * RATE)
    if chance.random() < 0.2:
        return np.zeros(length, np.float32)
    noise = noise_of_some_kind(chance, length)
    level = 10 ** (-chance.uniform(3, 80) / 20)
    noise = noise * level
    return np.clip(noise, -1, 1).astype(np.float32)
