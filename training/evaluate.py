"""Measure a checkpoint through `whisper.load_model` and `whisper.transcribe`, as users would.

    python -m training.evaluate speech/engines/demo.pt --check

Only voices that training never heard are used.  With the cache made without people's
recordings, the held-out person's line is left out.  The seed is fixed, so that the figures are
repeatable; --check makes the exit status say whether every target is met.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whisper

from training.dataset import SEGMENT_GAP, clicks, coloured, noise_of_some_kind, tones
from training.recordings import Recording, by_voice, record, weathered
from training.synthesise import RATE, Bank
from training.vocabulary import LANGUAGES

Transcribe = Callable[..., dict[str, Any]]


@dataclass
class Score:
    """Errors among words, and the times of those recordings whose words were all right."""

    errors: int = 0
    words: int = 0
    recordings: int = 0
    languages_right: int = 0
    word_starts: list[float] = field(default_factory=list)
    word_ends: list[float] = field(default_factory=list)
    segment_starts: list[float] = field(default_factory=list)
    segment_ends: list[float] = field(default_factory=list)

    @property
    def wer(self) -> float:
        """Word errors in per cent."""
        return 100 * self.errors / max(self.words, 1)


def word_errors(wanted: list[str], found: list[str]) -> int:
    """The least number of substitutions, insertions and deletions between two word lists."""
    row = list(range(len(found) + 1))
    for i, word in enumerate(wanted, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(found, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1]


def true_segments(recording: Recording) -> list[tuple[float, float]]:
    """Beginnings and ends of the stretches without a pause."""
    segments: list[list[float]] = []
    for _, start, end in recording.words:
        if not segments or start - segments[-1][1] >= SEGMENT_GAP:
            segments.append([start, end])
        segments[-1][1] = end
    return [(start, end) for start, end in segments]


def add_times(score: Score, recording: Recording, timed: dict[str, Any], plain: dict[str, Any],
              ) -> None:
    """Compare words' and segments' times with the true ones."""
    words = [word for segment in timed["segments"] for word in segment["words"]]
    if [w["word"].strip() for w in words] == recording.text().split():
        for word, (_, start, end) in zip(words, recording.words):
            score.word_starts.append(abs(word["start"] - start))
            score.word_ends.append(abs(word["end"] - end))
    starts = [start for start, _ in true_segments(recording)]
    ends = [end for _, end in true_segments(recording)]
    for segment in plain["segments"]:
        score.segment_starts.append(min(abs(segment["start"] - start) for start in starts))
        score.segment_ends.append(min(abs(segment["end"] - end) for end in ends))


def score_recordings(transcribe: Transcribe, recordings: list[Recording], *, times: bool = False,
                     language: str | None = None, verbose: bool = False, **options: Any) -> Score:
    """Transcribe all and add up; `language` is the one the text should be in, if not its own."""
    score = Score()
    for recording in recordings:
        result = transcribe(recording.samples, **options)
        wanted = recording.text(language).split()
        errors = word_errors(wanted, result["text"].split())
        if errors and verbose:
            print(f"  {recording.voice} ({result['language']}): {' '.join(wanted)}\n"
                  f"    ->{result['text']}")
        score.errors += errors
        score.words += len(wanted)
        score.recordings += 1
        score.languages_right += result["language"] == recording.language
        if times:
            timed = transcribe(recording.samples, word_timestamps=True, **options)
            add_times(score, recording, timed, result)
    return score


def strings(bank: Bank, language: str, count: int, seed: int) -> list[Recording]:
    """Recordings of 5 to 12 digits, in turn by every voice, half of them spoilt."""
    chance, voices = random.Random(f"{seed}/{language}"), by_voice(bank, language)
    made = []
    for index in range(count):
        units = voices[index * 7 % len(voices)]
        recording = record(units, chance, words=chance.randint(5, 12))
        made.append(weathered(recording, seed + index) if index % 2 else recording)
    return made


def long_ones(bank: Bank, language: str, count: int, seed: int) -> list[Recording]:
    """Recordings of 60 to 90 seconds, which take several windows."""
    chance, voices = random.Random(f"{seed}/long/{language}"), by_voice(bank, language)
    return [
        record(chance.choice(voices), chance, seconds=chance.uniform(60, 90), pause_share=0.25)
        for _ in range(count)
    ]


def without_speech(seed: int) -> list[np.ndarray]:
    """Silence and noises of several kinds, of several lengths and levels."""
    chance = np.random.default_rng(seed)
    sounds: list[np.ndarray] = [np.zeros(RATE * s, np.float32) for s in (1, 5, 30, 45)]
    kinds = [
        lambda n: coloured(chance, n, 0.0), lambda n: coloured(chance, n, 1.0),
        lambda n: coloured(chance, n, 2.0), lambda n: tones(chance, n),
        lambda n: clicks(chance, n), lambda n: noise_of_some_kind(chance, n),
    ]
    for index in range(42):
        length = int(chance.uniform(2, 35) * RATE)
        level = 10 ** (-chance.uniform(10, 60) / 20)
        sounds.append(np.clip(kinds[index % 6](length) * level, -1, 1).astype(np.float32))
    return sounds


def no_speech_probability(model: whisper.Whisper, samples: np.ndarray) -> float:
    """What the decoder gives <|nospeech|> in the first window."""
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(samples), model.dims.n_mels)
    options = whisper.DecodingOptions(language="en", fp16=False)
    return float(model.decode(mel, options).no_speech_prob)


@dataclass
class Line:
    """One figure of the table and what it has to be."""

    name: str
    value: float
    target: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.value >= self.target if self.at_least else self.value <= self.target

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "" if self.met else "  MISSED"
        return f"{self.name:<58}{self.value:8.2f}   {sign} {self.target:g}{verdict}"


def median(values: list[float]) -> float:
    """The median, or a number that misses any target where there is nothing to measure."""
    return statistics.median(values) if values else 99.0


def time_lines(scores: list[Score]) -> list[Line]:
    """Errors of the times, over all languages."""
    lines = []
    for name, attribute in (("word start", "word_starts"), ("word end", "word_ends"),
                            ("segment start", "segment_starts"), ("segment end", "segment_ends")):
        values = [value for score in scores for value in getattr(score, attribute)]
        lines.append(Line(f"{name}, median error, s", median(values), 0.2))
        ninetieth = float(np.quantile(values, 0.9)) if values else 99.0
        lines.append(Line(f"{name}, 90th percentile of error, s", ninetieth, 0.6))
    return lines


def measure(model: whisper.Whisper, cache: Path, count: int, seed: int,
            verbose: bool) -> list[Line]:
    """All figures."""
    def transcribe(samples: np.ndarray, **options: Any) -> dict[str, Any]:
        torch.manual_seed(seed)
        return model.transcribe(samples, fp16=False, **options)

    bank = Bank.load(cache / "held_out.npz")
    lines, scores, right, total = [], [], 0, 0
    for language in LANGUAGES:
        short = strings(bank, language, count, seed)
        score = score_recordings(transcribe, short, times=True, verbose=verbose)
        scores.append(score)
        right, total = right + score.languages_right, total + score.recordings
        lines.append(Line(f"{language}: WER, unheard voices, %", score.wer, 5))
        score = score_recordings(transcribe, long_ones(bank, language, 3, seed), verbose=verbose)
        lines.append(Line(f"{language}: WER, 60-90 s, unheard voices, %", score.wer, 5))
        few = short[: count // 2]
        score = score_recordings(transcribe, few, without_timestamps=True)
        lines.append(Line(f"{language}: WER without timestamps, %", score.wer, 5))
        score = score_recordings(transcribe, few, initial_prompt=few[0].text())
        lines.append(Line(f"{language}: WER with an initial prompt, %", score.wer, 5))
        if language != "en":
            score = score_recordings(transcribe, few, language="en", task="translate")
            lines.append(Line(f"{language}: WER translated to English, %", score.wer, 5))
    if (cache / "held_out_person.npz").exists():
        person = Bank.load(cache / "held_out_person.npz")
        score = score_recordings(transcribe, strings(person, "en", count, seed), times=True,
                                 verbose=verbose)
        right, total = right + score.languages_right, total + score.recordings
        scores.append(score)
        lines.append(Line("en: WER, unheard person, %", score.wer, 15))
        score = score_recordings(transcribe, long_ones(person, "en", 2, seed), verbose=verbose)
        lines.append(Line("en: WER, 60-90 s, unheard person, %", score.wer, 15))
    lines.append(Line("language told right, %", 100 * right / total, 95, at_least=True))
    lines += time_lines(scores)
    sounds = without_speech(seed)
    texts = [transcribe(sound)["text"].strip() for sound in sounds]
    told = [no_speech_probability(model, sound) > 0.6 for sound in sounds]
    lines.append(Line("silence and noise given text, %", 100 * np.mean([t != "" for t in texts]), 5))
    lines.append(Line("silence and noise told, %", 100 * float(np.mean(told)), 95, at_least=True))
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(".training"))
    parser.add_argument("--count", type=int, default=24, help="recordings for each figure")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--check", action="store_true", help="fail if a target is missed")
    parser.add_argument("--verbose", action="store_true", help="show what was misread")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    began = time.monotonic()
    model = whisper.load_model(str(arguments.checkpoint), device="cpu")
    lines = measure(model, arguments.cache, arguments.count, arguments.seed, arguments.verbose)
    print("\n".join(str(line) for line in lines))
    print(f"{time.monotonic() - began:.0f} s")
    if arguments.check and not all(line.met for line in lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
