"""Make the recordings in samples/, spoken by voices the model never heard in training.

End-to-end tests assert the samples' words, so each is kept only if both engines read it without
any error: the language detected, with word times, translated, and the English one also strung
together with itself as the tests do to have long recordings.  Otherwise the next seed, which is
another voice with other digits, is tried.  What is truly said, and when, goes to samples.json.

    python -m training.make_samples speech/engines/demo.pt --output samples
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from speech.engines import Engine, ModelKey, convert_checkpoint
from speech.engines.catalogue import FASTER_WHISPER, OPENAI_WHISPER
from speech.engines.faster_whisper import load as load_faster_whisper
from speech.engines.openai_whisper import load as load_openai_whisper
from speech.transcript import Segment, TranscribeOptions
from training.recordings import Recording, by_voice
from training.synthesise import RATE, Bank, Unit, to_int16
from training.vocabulary import WORDS

#: A sample may be strung together with itself without its words running into one another.
QUIET_SECONDS = 0.4
WORST_TIME_ERROR_SECONDS = 2.0


@dataclass(frozen=True)
class Sample:
    """What a sample is to be, and how often in a row it must be read right."""

    name: str
    language: str
    seconds: float
    words: int
    repeats: tuple[int, ...] = ()


# Four of the first fill one of Whisper's windows, so that a long string of them is many times the
# same window.
SAMPLES: tuple[Sample, ...] = (
    Sample("digits-en.wav", "en", 7.5, 8, repeats=(6, 60)),
    Sample("digits-es.wav", "es", 8.0, 7),
    Sample("digits-de.wav", "de", 8.0, 7),
)


def shuffled(chance: random.Random, digits: list[int], count: int) -> Iterator[int]:
    """So many of the digits: none follows itself, each is about as frequent as any other."""
    last = -1
    while count:
        order = chance.sample(digits, len(digits))
        if order[0] != last:
            yield from order[:count]
            count, last = max(count - len(order), 0), order[-1]


def composed(bank: Bank, sample: Sample, seed: int) -> Recording:
    """One recording, unhurried."""
    chance = random.Random(f"{seed}/{sample.name}")
    units = chance.choice(by_voice(bank, sample.language))
    single: dict[int, Unit] = {unit.digits[0]: unit for unit in units if len(unit.digits) == 1}
    said: list[tuple[int, float, float]] = []
    order = list(shuffled(chance, sorted(single), sample.words))
    spoken = sum(len(single[digit].samples) for digit in order) / RATE
    shares = np.array([chance.uniform(0.8, 1.2) for _ in order[1:]] + [0.0])
    gaps = shares / shares.sum() * (sample.seconds - spoken - 2 * QUIET_SECONDS)
    samples = np.zeros(round(sample.seconds * RATE), np.float32)
    time = QUIET_SECONDS
    for digit, gap in zip(order, gaps, strict=True):
        unit, at = single[digit], round(time * RATE)
        samples[at : at + len(unit.samples)] = unit.samples.astype(np.float32) / 32768
        said.append((digit, time, time + unit.ends[0]))
        time += len(unit.samples) / RATE + float(gap)
    heard = to_int16(samples * 0.6).astype(np.float32) / 32768
    return Recording(heard, sample.language, units[0].group, said)


def engines(checkpoint: Path, folder: Path) -> list[Engine]:
    """Both engines with the checkpoint loaded; CTranslate2's files go to the folder."""
    convert_checkpoint(checkpoint, folder / "converted")
    return [
        load_openai_whisper(ModelKey(OPENAI_WHISPER, "demo", "cpu", "float32"), checkpoint),
        *(
            load_faster_whisper(
                ModelKey(FASTER_WHISPER, "demo", "cpu", kind), folder / "converted", threads=1
            )
            for kind in ("int8", "float32")
        ),
    ]


def read(engine: Engine, samples: np.ndarray, **options: Any) -> tuple[str | None, list[Segment]]:
    """The language and the segments that an engine finds."""
    windows = list(engine.transcribe(samples, TranscribeOptions(**options)))
    segments = [segment for window in windows for segment in window.segments]
    return windows[-1].resume.language, segments


def words_of(segments: list[Segment]) -> list[str]:
    """The words of the text."""
    return "".join(segment.text for segment in segments).split()


def timed_rightly(recording: Recording, segments: list[Segment]) -> bool:
    """Whether there is a word for each word, begun about when it was."""
    words = [word for segment in segments for word in segment.words]
    if [word.text.strip() for word in words] != recording.text().split():
        return False
    wrong = [
        abs(w.start_seconds - start)
        for w, (_, start, _) in zip(words, recording.words, strict=True)
    ]
    return max(wrong) < WORST_TIME_ERROR_SECONDS


def complaint(engine: Engine, recording: Recording, sample: Sample) -> str | None:
    """What an engine gets wrong, cheapest to find first; None if nothing."""
    samples, wanted = recording.samples, recording.text().split()
    language, segments = read(engine, samples)
    if language != sample.language or words_of(segments) != wanted:
        return f"read as {language} {' '.join(words_of(segments))}"
    if not timed_rightly(recording, read(engine, samples, word_timestamps=True)[1]):
        return "word times"
    translated = read(engine, samples, translate=True, language=sample.language)[1]
    if words_of(translated) != recording.text("en").split():
        return "translation"
    for times in sample.repeats:
        if times > 6 and engine.key.engine != OPENAI_WHISPER:
            continue  # it takes minutes
        language, segments = read(engine, np.tile(samples, times))
        if language != sample.language or words_of(segments) != times * wanted:
            return f"{times} in a row"
    return None


def described(recording: Recording) -> dict[str, Any]:
    """What samples.json says of a recording."""
    return {
        "language": recording.language,
        "text": recording.text(),
        "translation": recording.text("en"),
        "duration_seconds": round(len(recording.samples) / RATE, 2),
        "voice": recording.voice.split("/")[1],
        "words": [
            {
                "word": WORDS[recording.language][digit],
                "start_seconds": round(start, 2),
                "end_seconds": round(end, 2),
            }
            for digit, start, end in recording.words
        ],
    }


def found(readers: list[Engine], bank: Bank, sample: Sample, seeds: range) -> Recording:
    """The first seed's recording that every engine reads without error."""
    for seed in seeds:
        recording = composed(bank, sample, seed)
        wrong = next((w for e in readers if (w := complaint(e, recording, sample))), None)
        print(f"{sample.name}: seed {seed}, {recording.voice}: {wrong or 'right'}", flush=True)
        if wrong is None:
            return recording
    raise SystemExit(f"{sample.name}: no seed in {seeds} gave one that is read without error")


def main() -> None:
    """Make the samples and their description."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(".training"))
    parser.add_argument("--output", type=Path, default=Path("samples"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attempts", type=int, default=60)
    parser.add_argument("--only", nargs="*", help="names of samples; the others stay as they are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bank = Bank.load(arguments.cache / "held_out.npz")
    arguments.output.mkdir(parents=True, exist_ok=True)
    listing = arguments.output / "samples.json"
    descriptions = json.loads(listing.read_text("utf-8")) if listing.exists() else {}
    seeds = range(arguments.seed, arguments.seed + arguments.attempts)
    with tempfile.TemporaryDirectory() as folder:
        readers = engines(arguments.checkpoint, Path(folder))
        for sample in SAMPLES:
            if arguments.only and sample.name not in arguments.only:
                continue
            recording = found(readers, bank, sample, seeds)
            soundfile.write(
                arguments.output / sample.name, recording.samples, RATE, subtype="PCM_16"
            )
            descriptions[sample.name] = described(recording)
            text = json.dumps(descriptions, indent=1, ensure_ascii=False)
            listing.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
