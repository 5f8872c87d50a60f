"""Word error rate of every engine and mode with the demo model, beside openai-whisper's own.

In voices that the model never heard: short strings of digits, and recordings of some minutes, which
take several windows. What is faster must not be worse by more than ``MARGIN`` points.
The voices are those that training set aside; without them there is nothing to measure:
``python -m training.train --help`` says how they are made.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

from config import PROJECT_DIR

#: Points of word error rate that an engine or mode of ours may cost.
MARGIN: Final = 0.5
#: In each language.
STRINGS: Final = 20
LONG: Final = 3
LONG_SECONDS: Final = (150.0, 240.0)
SEED: Final = 7
REFERENCE: Final = "openai-whisper"
LANGUAGES: Final = ("en", "es", "de")

Samples = np.ndarray[Any, np.dtype[np.float32]]
Transcribe = Callable[[Samples], str]


def recordings(path: Path) -> dict[str, list[Any]]:
    from training.evaluate import strings
    from training.recordings import by_voice, record
    from training.synthesise import Bank

    bank = Bank.load(path)
    made: dict[str, list[Any]] = {"strings": [], "minutes": []}
    for language in LANGUAGES:
        made["strings"] += strings(bank, language, STRINGS, SEED)
        chance, voices = random.Random(f"{SEED}/minutes/{language}"), by_voice(bank, language)
        made["minutes"] += [
            record(
                chance.choice(voices),
                chance,
                seconds=chance.uniform(*LONG_SECONDS),
                pause_share=0.25,
            )
            for _ in range(LONG)
        ]
    return made


def engines(folder: Path) -> Iterator[tuple[str, Transcribe]]:
    """Each engine and mode of ours, one loaded at a time, the reference first."""
    from speech.engines import ModelKey, ModelStore, hardware, load
    from speech.engines.catalogue import BATCH_WHISPER, FASTER_WHISPER, OPENAI_WHISPER
    from speech.engines.fitting import resolve_compute_type
    from speech.transcript import Mode, TranscribeOptions

    store = ModelStore(folder, download_allowed=False)
    for name in (OPENAI_WHISPER, FASTER_WHISPER, BATCH_WHISPER):
        kind = resolve_compute_type("auto", engine=name, device="cpu", hardware=hardware(name))
        with closing(load(ModelKey(name, "demo", "cpu", kind), store, threads=1)) as engine:
            for mode in Mode if name == BATCH_WHISPER else (Mode.EXACT,):

                def transcribe(samples: Samples, mode: Mode = mode) -> str:
                    windows = engine.transcribe(samples, TranscribeOptions(mode=mode))
                    return "".join(s.text for window in windows for s in window.segments)

                yield f"{name} {mode} {kind}" if name != REFERENCE else name, transcribe


def rate(transcribe: Transcribe, made: list[Any]) -> float:
    """Words in a hundred that are wrong."""
    from training.evaluate import word_errors

    wrong = total = 0
    for recording in made:
        wanted = recording.text().split()
        wrong += word_errors(wanted, transcribe(recording.samples).split())
        total += len(wanted)
    return 100 * wrong / total


def main() -> bool:
    voices = Path(os.environ.get("BENCH_VOICES", PROJECT_DIR / ".training" / "held_out.npz"))
    if not voices.exists():
        print(f"SKIPPED: no {voices}")
        return True
    made = recordings(voices)
    reached = True
    with tempfile.TemporaryDirectory() as folder:
        reference: dict[str, float] = {}
        for name, transcribe in engines(Path(folder)):
            rates = {kind: rate(transcribe, some) for kind, some in made.items()}
            reference = reference or rates
            worse = {kind: rates[kind] - reference[kind] for kind in rates}
            reached &= max(worse.values()) <= MARGIN
            figures = ", ".join(
                f"{kind} {rates[kind]:.1f} % ({worse[kind]:+.1f})" for kind in rates
            )
            print(f"  {name:<36}{figures}")
    print(f"  at most {MARGIN:+g} points")
    return reached


if __name__ == "__main__":
    main()
