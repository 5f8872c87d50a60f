"""Compose recordings whose words and times are known, for measuring and for the samples."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from training.spoiling import noise_of_some_kind, room_and_line
from training.synthesise import RATE, Bank, Unit
from training.vocabulary import WORDS


@dataclass
class Recording:
    """Sound, and the digits said in it with their beginnings and ends in seconds."""

    samples: np.ndarray
    language: str
    voice: str
    words: list[tuple[int, float, float]]

    def text(self, language: str | None = None) -> str:
        """The words said, in their own language or another."""
        return " ".join(WORDS[language or self.language][digit] for digit, _, _ in self.words)


def by_voice(bank: Bank, language: str) -> list[list[Unit]]:
    """The units of a language, gathered by voice, in a fixed order."""
    voices: dict[str, list[Unit]] = {}
    for unit in bank.units:
        if unit.language == language:
            voices.setdefault(unit.group, []).append(unit)
    return [voices[name] for name in sorted(voices)]


def record(
    units: list[Unit],
    chance: random.Random,
    *,
    words: int = 0,
    seconds: float = 0.0,
    pause_share: float = 0.15,
    gap: float = 0.25,
) -> Recording:
    """So many words, or words for so many seconds, with gaps and now and then a pause."""
    time = chance.uniform(0.1, 0.7)
    pieces: list[tuple[float, np.ndarray]] = []
    said: list[tuple[int, float, float]] = []
    single = [unit for unit in units if len(unit.digits) == 1]
    while (len(said) < words) if words else (time < seconds - 1.5):
        room = words - len(said) if words else 3
        unit = chance.choice(units if chance.random() < 0.2 else single)
        if len(unit.digits) > max(room, 1):
            continue
        pieces.append((time, unit.samples.astype(np.float32) / 32768))
        said += [
            (digit, time + start, time + end)
            for digit, start, end in zip(unit.digits, unit.starts, unit.ends, strict=True)
        ]
        time += len(unit.samples) / RATE + chance.uniform(0.02, 2 * gap)
        if chance.random() < pause_share:
            time += chance.uniform(0.8, 1.6)
    length = int(max(time + chance.uniform(0.1, 0.6), seconds) * RATE)
    samples = np.zeros(length, np.float32)
    for start, piece in pieces:
        at = int(start * RATE)
        samples[at : at + len(piece)] += piece[: length - at]
    return Recording(samples * 0.6, units[0].language, units[0].group, said)


def weathered(recording: Recording, seed: int) -> Recording:
    """The recording in a room, on some line, with some noise, at some level."""
    chance = np.random.default_rng(seed)
    samples = recording.samples
    if chance.random() < 0.6:
        samples = room_and_line(chance, samples)
    if chance.random() < 0.6:
        level = samples[np.abs(samples) > 0.02].std() * 10 ** (-chance.uniform(10, 35) / 20)
        samples = samples + noise_of_some_kind(chance, len(samples)) * level
    peak = float(np.abs(samples).max())
    samples = samples / peak * 10 ** (-chance.uniform(1, 24) / 20)
    return Recording(
        samples.astype(np.float32), recording.language, recording.voice, recording.words
    )
