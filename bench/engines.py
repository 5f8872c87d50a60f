"""Audio seconds a second of each engine, on the same random weights and unique audio.

Each engine in a process of its own, by turns, all cores for each. A job is as long as some windows
of 30 s; a number of jobs of mixed length is queued at once, as a queue has them: what can only be
batched within a file is. Every window's tokens are counted, so nobody saves time by stopping early.
``python -m bench engines``; ``BENCH_SIZES=tiny,base`` for others than tiny.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.weights import TOKENS, operations, write_checkpoint
from config import PROJECT_DIR

RATE: Final = 16_000
WINDOW_SECONDS: Final = 30
#: Windows of each of 16 jobs.
MIXED: Final = (1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4)
ROUNDS: Final = 3
#: Our engine against each of the others.
GOALS: Final = {
    "tiny": {"openai-whisper": 6.0, "faster-whisper batched": 1.6},
    "base": {"openai-whisper": 5.0, "faster-whisper batched": 1.6},
}
#: One-window jobs: 16 queued against one alone.
SCALING: Final = (1, 2, 4, 8, 16, 32)
SCALING_GOAL: Final = 1.8
OURS: Final = "batch-whisper"

Samples = np.ndarray[Any, np.dtype[np.float32]]
#: Transcribes one recording; returns how many tokens each of its windows got.
Transcribe = Callable[[Samples], list[int]]


# In a process of an engine's own


def recordings(windows: Sequence[int], seed: int) -> list[Samples]:
    """Noise that nothing has heard before; not a frame short of whole windows."""
    noise = np.random.default_rng(seed)
    return [
        (0.1 * noise.standard_normal(count * WINDOW_SECONDS * RATE)).astype(np.float32)
        for count in windows
    ]


def openai_whisper(folder: Path, cores: int) -> tuple[Transcribe, int]:
    """As ``whisper.transcribe`` runs it: one window after the other, on all cores."""
    import torch
    import whisper

    torch.set_num_threads(cores)
    model = whisper.load_model(str(folder / "model.pt"), device="cpu")

    def transcribe(samples: Samples) -> list[int]:
        found = model.transcribe(
            samples,
            language="en",
            temperature=0.0,
            compression_ratio_threshold=None,
            logprob_threshold=None,
            no_speech_threshold=None,
            condition_on_previous_text=False,
            fp16=False,
        )
        return [len(segment["tokens"]) for segment in found["segments"]]

    return transcribe, 1


def faster_whisper(folder: Path, cores: int) -> tuple[Transcribe, int]:
    """Its defaults, but greedy: int8, all cores for one file."""
    from faster_whisper import WhisperModel

    model = WhisperModel(str(folder / "converted"), compute_type="int8", cpu_threads=cores)

    def transcribe(samples: Samples) -> list[int]:
        segments, _ = model.transcribe(samples, condition_on_previous_text=False, **_GREEDY)
        return [len(segment.tokens) for segment in segments]

    return transcribe, 1


def faster_whisper_batched(folder: Path, cores: int) -> tuple[Transcribe, int]:
    """Its batched pipeline at its best: windows of one file at a time, as many files as cores."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(
        str(folder / "converted"), compute_type="int8", cpu_threads=1, num_workers=cores
    )

    def transcribe(samples: Samples) -> list[int]:
        # one pipeline object a file: it keeps state
        count = len(samples) // (WINDOW_SECONDS * RATE)
        clips = [
            {"start": n * WINDOW_SECONDS, "end": (n + 1) * WINDOW_SECONDS} for n in range(count)
        ]
        segments, _ = BatchedInferencePipeline(model).transcribe(
            samples, batch_size=8, clip_timestamps=clips, vad_filter=False, **_GREEDY
        )
        return [len(segment.tokens) for segment in segments]

    return transcribe, cores


_GREEDY: Final[dict[str, Any]] = {
    "language": "en",
    "beam_size": 1,
    "temperature": 0.0,
    "compression_ratio_threshold": None,
    "log_prob_threshold": None,
    "no_speech_threshold": None,
}


def batch_whisper(folder: Path, cores: int) -> tuple[Transcribe, int]:
    """Ours: as many jobs at a time as there are, one thread a core."""
    import dataclasses
    import math

    from speech.engines import ModelKey, hardware
    from speech.engines.batch_whisper import load
    from speech.engines.catalogue import BATCH_WHISPER, resolve
    from speech.engines.fitting import resolve_compute_type
    from speech.transcript import TranscribeOptions

    kind = resolve_compute_type(
        "auto", engine=BATCH_WHISPER, device="cpu", hardware=hardware(BATCH_WHISPER)
    )
    spec = dataclasses.replace(
        resolve("tiny"), compression_ratio_limit=math.inf, avg_logprob_limit=-math.inf
    )
    key = ModelKey(BATCH_WHISPER, "tiny", "cpu", kind)
    engine = load(key, folder / "converted", threads=1, runners=cores, spec=spec)
    options = TranscribeOptions(language="en", condition_on_previous_text=False)

    def transcribe(samples: Samples) -> list[int]:
        windows = engine.transcribe(samples, options)
        return [len(segment.tokens) for window in windows for segment in window.segments]

    return transcribe, 64


ENGINES: Final = {
    "openai-whisper": openai_whisper,
    "faster-whisper": faster_whisper,
    "faster-whisper batched": faster_whisper_batched,
    OURS: batch_whisper,
}


def serve(name: str, folder: Path) -> None:
    """Answer lines of window counts with how long these jobs took together."""
    transcribe, at_once = ENGINES[name](folder, _cores())
    transcribe(recordings([1], seed=0)[0])
    print("ready", flush=True)
    for seed, line in enumerate(sys.stdin, start=1):
        work = recordings(json.loads(line), seed)
        wall, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(at_once) as threads:
            tokens = [count for found in threads.map(transcribe, work) for count in found]
        told = {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "tokens": tokens,
        }
        print(json.dumps(told), flush=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Beside them all


class Peer:
    """An engine in its process."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        command = [sys.executable, "-m", "bench.engines", name, str(folder)]
        self._process = subprocess.Popen(
            command, cwd=PROJECT_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read("ready")

    def run(self, windows: Sequence[int]) -> dict[str, Any]:
        """Have jobs done; returns audio seconds per second of the clock and of one core."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(windows) + "\n")
        self._process.stdin.flush()
        told = json.loads(self._read())
        # an engine may count the timestamps at a window's ends or not
        assert len(told["tokens"]) == sum(windows), f"{self.name}: {len(told['tokens'])} windows"
        assert all(abs(count - TOKENS) <= 2 for count in told["tokens"]), (
            self.name,
            told["tokens"],
        )
        audio = sum(windows) * WINDOW_SECONDS
        return {"speed": audio / told["wall"], "per_core": audio / told["cpu"]}

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def _read(self, wanted: str = "") -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith((wanted, "{")):
                return line
        raise AssertionError(f"{self.name} ended")


def ceiling(cores: int) -> float:
    """Operations a second that a product of matrices reaches here, in bfloat16 on all cores."""
    import torch

    torch.set_num_threads(cores)
    a, b = (torch.randn(1536, 1536).bfloat16() for _ in range(2))
    best = 0.0
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(5):
            torch.mm(a, b)
        best = max(best, 5 * 2 * 1536**3 / (time.perf_counter() - began))
    return best


def prepare(size: str, folder: Path) -> None:
    from speech.engines import convert_checkpoint
    from speech.engines.converted import encoder_beside
    from speech.engines.encoder import convert

    write_checkpoint(size, folder / "model.pt")
    convert_checkpoint(folder / "model.pt", folder / "converted")
    convert(folder / "model.pt", encoder_beside(folder / "converted"))


def compare(size: str, folder: Path) -> bool:
    prepare(size, folder)
    peers = [Peer(name, folder) for name in ENGINES]
    found: dict[str, list[dict[str, Any]]] = {peer.name: [] for peer in peers}
    try:
        for number in range(ROUNDS):
            for peer in peers if number % 2 == 0 else reversed(peers):
                found[peer.name].append(peer.run(MIXED))
        ours = next(peer for peer in peers if peer.name == OURS)
        scaling = {count: ours.run([1] * count)["speed"] for count in SCALING}
    finally:
        for peer in peers:
            peer.close()
    return _report(size, found, scaling)


def _report(size: str, found: dict[str, list[dict[str, Any]]], scaling: dict[int, float]) -> bool:
    roof = ceiling(_cores()) / operations(size) * WINDOW_SECONDS
    print(f"{size}: {len(MIXED)} jobs, {sum(MIXED)} windows of {TOKENS} tokens, {_cores()} cores;")
    print(f"  a bf16 product of matrices would do {roof:.0f} audio s/s")
    reached = True
    for name, runs in found.items():
        speeds = [run["speed"] for run in runs]
        ratios = [ours["speed"] / run["speed"] for ours, run in zip(found[OURS], runs, strict=True)]
        goal = GOALS.get(size, {}).get(name)
        ratio = statistics.median(ratios)
        reached &= goal is None or ratio >= goal
        print(
            f"  {name:<24}{statistics.median(speeds):>7.1f} audio s/s"
            f" ({min(speeds):.1f} to {max(speeds):.1f}),"
            f" {statistics.median(run['per_core'] for run in runs):>6.1f} a core's second,"
            f" {statistics.median(speeds) / roof:>4.0%} of the roof; ours is {ratio:.2f} times that"
            f" ({min(ratios):.2f} to {max(ratios):.2f}{f', goal {goal}' if goal else ''})"
        )
    gain = scaling[16] / scaling[1]
    curve = ", ".join(f"{count}: {speed:.1f}" for count, speed in scaling.items())
    print(f"  one-window jobs queued, audio s/s: {curve}")
    print(f"  16 of them against one: {gain:.2f} times (goal {SCALING_GOAL})")
    return reached and gain >= SCALING_GOAL


def main() -> bool:
    reached = True
    for size in os.environ.get("BENCH_SIZES", "tiny").split(","):
        with tempfile.TemporaryDirectory() as folder:
            reached &= compare(size, Path(folder))
    return reached


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]))
