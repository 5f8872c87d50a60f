"""Make the short recordings in samples/, spoken by voices the model never heard in training.

Each is kept only if the checkpoint reads it without any error, with its default options, with
word times, and (for Spanish and German) translated, because end-to-end tests assert its words;
otherwise the next seed is tried.  What is truly said, and when, goes to samples/samples.json.

    python -m training.make_samples speech/engines/demo.pt --output samples
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import warnings
from pathlib import Path
from typing import Any

import soundfile
import torch
import whisper

from training.recordings import Recording, by_voice, record
from training.synthesise import RATE, Bank
from training.vocabulary import WORDS

SAMPLES: tuple[tuple[str, str, float], ...] = (
    ("digits-en.wav", "en", 8.0),
    ("digits-es.wav", "es", 8.0),
    ("digits-de.wav", "de", 8.0),
    ("digits-long-en.flac", "en", 75.0),
)


def attempt(bank: Bank, language: str, seconds: float, seed: int) -> Recording:
    """One recording of about so many seconds, cut to exactly as many if it is longer."""
    chance = random.Random(f"{seed}/{language}/{seconds}")
    units = chance.choice(by_voice(bank, language))
    share = 0.3 if seconds > 30 else 0.12
    made = record(units, chance, seconds=seconds, pause_share=share, gap=0.2)
    return made


def read_without_error(model: whisper.Whisper, recording: Recording) -> bool:
    """Whether the words, the language and roughly the times come out right in every way."""
    def transcribe(**options: Any) -> dict[str, Any]:
        torch.manual_seed(0)
        return model.transcribe(recording.samples, fp16=False, **options)

    wanted = recording.text()
    result = transcribe()
    if result["language"] != recording.language or result["text"].strip() != wanted:
        return False
    if any(segment["temperature"] > 0 for segment in result["segments"]):
        return False
    if transcribe(task="translate")["text"].strip() != recording.text("en"):
        return False
    if transcribe(condition_on_previous_text=False)["text"].strip() != wanted:
        return False
    timed = transcribe(word_timestamps=True)
    words = [word for segment in timed["segments"] for word in segment["words"]]
    if [word["word"].strip() for word in words] != wanted.split():
        return False
    errors = [abs(w["start"] - start) for w, (_, start, _) in zip(words, recording.words)]
    return max(errors) < 0.3


def described(recording: Recording) -> dict[str, Any]:
    """What samples.json says of a recording."""
    return {
        "language": recording.language,
        "text": recording.text(),
        "translation": recording.text("en"),
        "duration_seconds": round(len(recording.samples) / RATE, 2),
        "voice": recording.voice.split("/")[1],
        "words": [
            {"word": WORDS[recording.language][digit], "start_seconds": round(start, 2),
             "end_seconds": round(end, 2)}
            for digit, start, end in recording.words
        ],
    }


def main() -> None:
    """Make all samples and their description."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(".training"))
    parser.add_argument("--output", type=Path, default=Path("samples"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--attempts", type=int, default=60)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    model = whisper.load_model(str(arguments.checkpoint), device="cpu")
    bank = Bank.load(arguments.cache / "held_out.npz")
    arguments.output.mkdir(parents=True, exist_ok=True)
    descriptions = {}
    for name, language, seconds in SAMPLES:
        for seed in itertools.islice(itertools.count(arguments.seed), arguments.attempts):
            recording = attempt(bank, language, seconds, seed)
            if read_without_error(model, recording):
                break
        else:
            raise SystemExit(f"{name}: no attempt of {arguments.attempts} was read without error")
        soundfile.write(arguments.output / name, recording.samples, RATE, subtype="PCM_16")
        descriptions[name] = described(recording)
        print(f"{name}: seed {seed}, {len(recording.words)} words, {recording.voice}", flush=True)
    text = json.dumps(descriptions, indent=1, ensure_ascii=False)
    (arguments.output / "samples.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
