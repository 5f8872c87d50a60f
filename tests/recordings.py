"""Recordings for the tests: the samples of the repository, alone and strung together."""

import json
import wave
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parent.parent
SAMPLES = PROJECT_DIR / "samples"


@dataclass(frozen=True)
class Recording:
    """A recording, and the words that are said in it."""

    path: Path
    language: str
    text: str


@cache
def sample(name: str) -> Recording:
    said = json.loads((SAMPLES / "samples.json").read_text("utf-8"))[name]
    return Recording(SAMPLES / name, said["language"], said["text"])


def repeated(name: str, times: int, target: Path) -> Path:
    """String a WAV sample together ``times`` times."""
    with wave.open(str(SAMPLES / name), "rb") as source:
        parameters, frames = source.getparams(), source.readframes(source.getnframes())
    with wave.open(str(target), "wb") as joined:
        joined.setparams(parameters)
        for _ in range(times):
            joined.writeframes(frames)
    return target
