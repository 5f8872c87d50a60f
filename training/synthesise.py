"""Speak the training words with espeak-ng, once, into a cache.

Stringing cached words together costs far less than calling a synthesiser for every training
example, and because each unit's sounding part is known, so are the true times of every word.
The library is called directly (no process per word) because it reports, for words spoken in
one breath, where each begins.  People's recordings (the Free Spoken Digit Dataset) are added
when their folder is given; they are never copied into the repository.

    python -m training.synthesise --fsdd "$FSDD_DIR"
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from training.vocabulary import LANGUAGES, WORDS

RATE = 16000
ACCENTS: dict[str, tuple[str, ...]] = {
    "en": ("en-us", "en-us", "en", "en-GB-x-gbclan", "en-GB-x-gbcwmd", "en-GB-scotland"),
    "es": ("es", "es-419"),
    "de": ("de",),
}
HELD_OUT_ACCENTS: dict[str, tuple[str, ...]] = {
    "en": ("en-us", "en", "en-GB-x-rp"),
    "es": ("es", "es-419"),
    "de": ("de",),
}
TRAINING_VARIANTS: tuple[str, ...] = (
    "", "m1", "m2", "m4", "m5", "m6", "m8", "f1", "f2", "f3", "f5",
    "croak", "whisper", "whisperf", "klatt", "klatt2", "klatt3", "klatt6", "adam", "Alex",
    "Alicia", "Andrea", "Andy", "antonio", "aunty", "benjamin", "boris", "caleb", "david",
    "Denis", "Diogo", "ed", "edward", "edward2", "Gene", "gustave", "Henrique", "Hugo", "Iven",
    "Iven3", "Jacky", "john", "kaukovalta", "Lee", "Linda", "marcelo", "Marco", "Mario", "max",
    "michel", "miguel", "Mr", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert",
    "sandro", "steph", "steph3", "travis", "Tweaky", "victor", "zac", "anika", "grandma",
    "RicishayMax", "robosoft", "robosoft4", "robosoft6",
)  # fmt: skip
HELD_OUT_VARIANTS: tuple[str, ...] = (
    "m3", "m7", "f4", "Annie", "belinda", "Michael", "mike", "klatt4", "shelby", "steph2",
    "Nguyen", "grandpa",
)  # fmt: skip
TRAINING_SPEAKERS: tuple[str, ...] = ("george", "jackson", "nicolas")
HELD_OUT_SPEAKER = "yweweler"

_SYNCHRONOUS, _UTF8, _POSITION_CHARACTER = 2, 1, 1
_RATE, _PITCH, _RANGE, _WORD_EVENT = 1, 3, 4, 1


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    ]


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Espeak:
    """The espeak-ng library: text in, samples and the words' beginnings out."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
        self._library = ctypes.CDLL(name)
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, 0)
        self._samples: list[np.ndarray] = []
        self._word_starts: list[int] = []
        self._callback = _Callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self._samples.append(np.ctypeslib.as_array(samples, (count,)).copy())
        index = 0
        while events and events[index].type:
            if events[index].type == _WORD_EVENT:
                self._word_starts.append(events[index].sample)
            index += 1
        return 0

    def voice(self, name: str, *, rate: int, pitch: int, pitch_range: int) -> None:
        """Choose the voice that `speak` uses from now on."""
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {name!r}")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)

    def speak(self, text: str) -> tuple[np.ndarray, list[float]]:
        """The text's samples at 16 kHz, and where each word begins, in seconds."""
        self._samples, self._word_starts = [], []
        data = text.encode()
        self._library.espeak_Synth(
            data, ctypes.c_size_t(len(data) + 1), 0, _POSITION_CHARACTER, 0, _UTF8, None, None
        )
        samples = np.concatenate(self._samples or [np.zeros(1, np.int16)])
        starts = [sample / self._rate for sample in self._word_starts]
        return resample(samples.astype(np.float32) / 32768, self._rate, RATE), starts


def resample(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Change a short clip's rate exactly, by cutting or padding its spectrum."""
    length = round(len(samples) * target / rate)
    spectrum = np.fft.rfft(samples)[: length // 2 + 1]
    return np.fft.irfft(spectrum, length).astype(np.float32) * (length / max(len(samples), 1))


def sounding_part(samples: np.ndarray, decibels: float = -38.0) -> tuple[int, int]:
    """The first and last sample of what sounds, judged by 10 ms of energy against the peak."""
    hop = RATE // 100
    frames = samples[: len(samples) // hop * hop].reshape(-1, hop)
    energy = np.sqrt((frames**2).mean(axis=1) + 1e-12)
    loud = np.flatnonzero(energy > energy.max() * 10 ** (decibels / 20))
    return int(loud[0]) * hop, (int(loud[-1]) + 1) * hop


@dataclass
class Unit:
    """Something said in one breath: one digit or several, with their times in it."""

    group: str
    language: str
    samples: np.ndarray
    digits: list[int]
    starts: list[float]
    ends: list[float]


@dataclass
class Bank:
    """All units of a set of voices; `groups` are the voices, each of one language."""

    units: list[Unit] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the units as a few flat arrays."""
        np.savez(
            path,
            samples=np.concatenate([to_int16(u.samples) for u in self.units]),
            lengths=np.array([len(u.samples) for u in self.units]),
            groups=np.array([u.group for u in self.units]),
            languages=np.array([u.language for u in self.units]),
            counts=np.array([len(u.digits) for u in self.units]),
            digits=np.array([d for u in self.units for d in u.digits]),
            starts=np.array([s for u in self.units for s in u.starts]),
            ends=np.array([e for u in self.units for e in u.ends]),
        )

    @staticmethod
    def load(path: Path) -> Bank:
        """Read what `save` wrote; samples stay 16-bit until they are used."""
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        offsets = np.concatenate([[0], np.cumsum(arrays["lengths"])])
        words = np.concatenate([[0], np.cumsum(arrays["counts"])])
        bank = Bank()
        for i, (group, language) in enumerate(
            zip(arrays["groups"], arrays["languages"], strict=True)
        ):
            span = slice(words[i], words[i + 1])
            bank.units.append(
                Unit(
                    str(group),
                    str(language),
                    arrays["samples"][offsets[i] : offsets[i + 1]],
                    arrays["digits"][span].tolist(),
                    arrays["starts"][span].tolist(),
                    arrays["ends"][span].tolist(),
                )
            )
        return bank


def to_int16(samples: np.ndarray) -> np.ndarray:
    """16-bit samples, clipped rather than wrapped."""
    clipped: np.ndarray = np.clip(samples, -1, 1) * 32767
    return clipped.astype(np.int16)


def trimmed_unit(
    group: str, language: str, samples: np.ndarray, digits: list[int], starts: list[float]
) -> Unit | None:
    """A unit without the quiet around it; None if its words' beginnings do not fit."""
    first, last = sounding_part(samples)
    begin = [max(0.0, start - first / RATE) for start in starts]
    begin[0] = 0.0
    length = (last - first) / RATE
    ends = [*begin[1:], length]
    if any(end - start < 0.08 for start, end in zip(begin, ends, strict=True)):
        return None
    cut = samples[first:last]
    cut = cut / max(float(np.abs(cut).max()), 1e-4) * 0.9
    return Unit(group, language, cut, digits, begin, ends)


def voice_units(
    espeak: Espeak, chance: random.Random, language: str, accent: str, variant: str, phrases: int
) -> Iterator[Unit]:
    """Every digit alone, and some digits said in one breath, in one voice at one setting."""
    rate, pitch = chance.randint(110, 220), chance.randint(15, 85)
    name = f"{accent}+{variant}" if variant else accent
    espeak.voice(name, rate=rate, pitch=pitch, pitch_range=chance.randint(20, 80))
    group = f"{language}/{name}/r{rate}p{pitch}"
    said = [[digit] for digit in range(10)]
    said += [[chance.randrange(10) for _ in range(chance.randint(3, 6))] for _ in range(phrases)]
    for digits in said:
        samples, starts = espeak.speak(" ".join(WORDS[language][digit] for digit in digits))
        if len(starts) != len(digits) or len(samples) < RATE // 10:
            continue
        unit = trimmed_unit(group, language, samples, digits, starts)
        if unit is not None:
            yield unit


def synthesise(
    variants: tuple[str, ...], accents: dict[str, tuple[str, ...]], *, settings: int, seed: int
) -> Bank:
    """All the variants of all languages, each at several settings of rate and pitch."""
    espeak, chance, bank = Espeak(), random.Random(seed), Bank()
    for language in LANGUAGES:
        for variant in variants:
            for _ in range(settings):
                accent = chance.choice(accents[language])
                bank.units += voice_units(espeak, chance, language, accent, variant, 4)
    return bank


def people(folder: Path, speakers: tuple[str, ...]) -> Bank:
    """The people's recordings named {digit}_{speaker}_{n}.wav in a folder, at 16 kHz."""
    bank = Bank()
    for path in sorted(folder.glob("*.wav")):
        digit, speaker, _ = path.stem.split("_")
        if speaker in speakers:
            samples, rate = soundfile.read(path, dtype="float32")
            wide = resample(samples, rate, RATE)
            unit = trimmed_unit(f"en/{speaker}", "en", wide, [int(digit)], [0.0])
            if unit is not None:
                bank.units.append(unit)
    return bank


def main() -> None:
    """Write train.npz and held_out.npz (and people.npz, held_out_person.npz) to the cache."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(".training"))
    parser.add_argument("--settings", type=int, default=3, help="rates and pitches per voice")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fsdd", type=Path, default=os.environ.get("FSDD_DIR"))
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    banks = {
        "train": synthesise(
            TRAINING_VARIANTS, ACCENTS, settings=arguments.settings, seed=arguments.seed
        ),
        "held_out": synthesise(
            HELD_OUT_VARIANTS, HELD_OUT_ACCENTS, settings=2, seed=arguments.seed + 1
        ),
    }
    if arguments.fsdd:
        banks["people"] = people(Path(arguments.fsdd), TRAINING_SPEAKERS)
        banks["held_out_person"] = people(Path(arguments.fsdd), (HELD_OUT_SPEAKER,))
    for name, bank in banks.items():
        bank.save(arguments.cache / f"{name}.npz")
        print(f"{name}: {len(bank.units)} units of {len({u.group for u in bank.units})} voices")


if __name__ == "__main__":
    main()
