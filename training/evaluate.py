"""Measure a checkpoint through `whisper.load_model` and `whisper.transcribe`, as users would.

    python -m training.evaluate speech/engines/demo.pt --check

Only voices that training never heard are used.  With the cache made without people's
recordings, the held-out person's lines are left out.  The seed is fixed, so that the figures are
repeatable; --check makes the exit status say whether every target is met.

Text is read as this program's own engines read it with this model: without the text before as a
prompt, over which it loses its place, and without the two thresholds that make Whisper try again
at random, since honest strings of ten words compress so well that they look like a loop, and a
timestamp for every word is never sure to the hundredth of a second.  One line for each language
says what becomes of the long recordings with Whisper's own defaults.
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

from training.recordings import Recording, by_voice, record, weathered
from training.spoiling import clicks, coloured, noise_of_some_kind, tones
from training.synthesise import RATE, Bank
from training.vocabulary import LANGUAGES

Transcribe = Callable[..., dict[str, Any]]
OPTIONS: dict[str, Any] = {
    "compression_ratio_threshold": None,
    "logprob_threshold": None,
    "condition_on_previous_text": False,
}
WHISPER_DEFAULTS: dict[str, Any] = {
    "compression_ratio_threshold": 2.4,
    "logprob_threshold": -1.0,
    "condition_on_previous_text": True,
}


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


def add_segment_times(score: Score, recording: Recording, result: dict[str, Any]) -> None:
    """Compare the segments' times, each segment being a word, with the true ones."""
    segments = result["segments"]
    if [segment["text"].strip() for segment in segments] != recording.text().split():
        return
    for segment, (_, start, end) in zip(segments, recording.words, strict=True):
        score.segment_starts.append(abs(segment["start"] - start))
        score.segment_ends.append(abs(segment["end"] - end))


def add_word_times(score: Score, recording: Recording, result: dict[str, Any]) -> None:
    """Compare the words' times with the true ones."""
    words = [word for segment in result["segments"] for word in segment["words"]]
    if [word["word"].strip() for word in words] != recording.text().split():
        return
    for word, (_, start, end) in zip(words, recording.words, strict=True):
        score.word_starts.append(abs(word["start"] - start))
        score.word_ends.append(abs(word["end"] - end))


def score_recordings(
    transcribe: Transcribe,
    recordings: list[Recording],
    *,
    times: bool = False,
    language: str | None = None,
    **options: Any,
) -> Score:
    """Transcribe all and add up; `language` is the one the text should be in, if not its own."""
    score = Score()
    for recording in recordings:
        result = transcribe(recording.samples, **options)
        wanted = recording.text(language).split()
        score.errors += word_errors(wanted, result["text"].split())
        score.words += len(wanted)
        score.recordings += 1
        score.languages_right += result["language"] == recording.language
        if times:
            add_segment_times(score, recording, result)
            timed = transcribe(recording.samples, word_timestamps=True, **options)
            add_word_times(score, recording, timed)
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
    """Silence and noises of several kinds, of several lengths and levels, silence first."""
    chance = np.random.default_rng(seed)
    sounds: list[np.ndarray] = [np.zeros(RATE * s, np.float32) for s in (1, 30)]
    kinds = [
        lambda n: coloured(chance, n, 0.0),
        lambda n: coloured(chance, n, 1.0),
        lambda n: coloured(chance, n, 2.0),
        lambda n: tones(chance, n),
        lambda n: clicks(chance, n),
        lambda n: noise_of_some_kind(chance, n),
    ]
    for index in range(12):
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


class Table:
    """The figures, shown as they come."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.scores: list[Score] = []

    def add(self, name: str, value: float, target: float, *, at_least: bool = False) -> None:
        """Show one figure and keep it."""
        self.lines.append(Line(name, value, target, at_least))
        print(self.lines[-1], flush=True)

    def add_score(self, name: str, score: Score, target: float) -> None:
        """Show the word errors and keep the rest for the lines over all languages."""
        self.add(f"{name}, WER, % of {score.words}", score.wer, target)
        self.scores.append(score)

    def add_sums(self) -> None:
        """Show what is counted over all languages."""
        right = sum(score.languages_right for score in self.scores)
        recordings = sum(score.recordings for score in self.scores)
        self.add("language told right, %", 100 * right / recordings, 95, at_least=True)
        for name, attribute, target in (
            ("segment start", "segment_starts", 0.2),
            ("segment end", "segment_ends", 0.2),
            ("word start", "word_starts", 0.2),
            ("word end", "word_ends", 0.3),
        ):
            values = [value for score in self.scores for value in getattr(score, attribute)]
            self.add(f"{name}, median error, s (of {len(values)})", median(values), target)
            ninetieth = float(np.quantile(values, 0.9)) if values else 99.0
            self.add(f"{name}, 90th percentile of error, s", ninetieth, 3 * target)


def measure_language(
    table: Table, transcribe: Transcribe, bank: Bank, language: str, arguments: argparse.Namespace
) -> None:
    """The lines of one language, in synthesised voices."""
    short = strings(bank, language, arguments.count, arguments.seed)
    table.add_score(f"{language}: strings", score_recordings(transcribe, short, times=True), 5)
    long = long_ones(bank, language, arguments.long, arguments.seed)
    table.add_score(f"{language}: 60-90 s", score_recordings(transcribe, long), 5)
    default = score_recordings(transcribe, long, **WHISPER_DEFAULTS)
    table.add(f"{language}: 60-90 s, Whisper's defaults, WER, %", default.wer, 100)
    few = short[: max(arguments.count // 2, 1)]
    for name, options in (
        ("without timestamps", {"without_timestamps": True}),
        ("with an initial prompt", {"initial_prompt": few[0].text()}),
    ):
        score = score_recordings(transcribe, few, **options)
        table.add(f"{language}: strings, {name}, WER, %", score.wer, 5)
    if language != "en":
        score = score_recordings(transcribe, few, language="en", task="translate")
        table.add(f"{language}: strings, translated to English, WER, %", score.wer, 5)


def measure_person(
    table: Table, transcribe: Transcribe, bank: Bank, arguments: argparse.Namespace
) -> None:
    """The lines of the person whom training never heard."""
    short = strings(bank, "en", arguments.count, arguments.seed)
    table.add_score("en: strings, a person", score_recordings(transcribe, short, times=True), 15)
    long = long_ones(bank, "en", arguments.long, arguments.seed)
    table.add_score("en: 60-90 s, a person", score_recordings(transcribe, long), 15)


def measure_no_speech(
    table: Table, transcribe: Transcribe, model: whisper.Whisper, seed: int
) -> None:
    """How often silence and noise are taken for words."""
    sounds = without_speech(seed)
    texts = [transcribe(sound)["text"].strip() for sound in sounds]
    told = [no_speech_probability(model, sound) > 0.6 for sound in sounds]
    given = 100 * sum(text != "" for text in texts) / len(sounds)
    table.add(f"silence and noise given text, % of {len(sounds)}", given, 5)
    table.add("silence and noise told, %", 100 * sum(told) / len(told), 95, at_least=True)


def measure(model: whisper.Whisper, arguments: argparse.Namespace) -> Table:
    """All figures."""

    def transcribe(samples: np.ndarray, **options: Any) -> dict[str, Any]:
        torch.manual_seed(arguments.seed)
        options = {**OPTIONS, **options}
        result: dict[str, Any] = model.transcribe(samples, fp16=False, **options)
        return result

    table = Table()
    bank = Bank.load(arguments.cache / "held_out.npz")
    for language in LANGUAGES:
        measure_language(table, transcribe, bank, language, arguments)
    person = arguments.cache / "held_out_person.npz"
    if person.exists():
        measure_person(table, transcribe, Bank.load(person), arguments)
    table.add_sums()
    measure_no_speech(table, transcribe, model, arguments.seed)
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(".training"))
    parser.add_argument("--count", type=int, default=8, help="short recordings for each figure")
    parser.add_argument("--long", type=int, default=1, help="recordings of 60-90 s, likewise")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--check", action="store_true", help="fail if a target is missed")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    began = time.monotonic()
    model = whisper.load_model(str(arguments.checkpoint), device="cpu")
    table = measure(model, arguments)
    print(f"{time.monotonic() - began:.0f} s")
    if arguments.check and not all(line.met for line in table.lines):
        sys.exit(1)


if __name__ == "__main__":
    main()
