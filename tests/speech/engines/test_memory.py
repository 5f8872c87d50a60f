"""Hours of audio take no more memory than a minute of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from speech.engines.catalogue import ENGINES

pytestmark = pytest.mark.model

HOURS = 3
#: The whole of it as float32 would be 690 MB, its log-mel spectrogram 350, openai-whisper's way to
#: make that 5,900.
LIMIT_MEGABYTES = 60

MEASURE = """
import itertools, json, sys
from pathlib import Path

import numpy as np

from speech.engines import ModelKey, ModelStore, load
from speech.transcript import ResumeState, TranscribeOptions

engine_name, samples_file, cache = sys.argv[1:]
samples = np.memmap(samples_file, np.float32, mode="r")
key = ModelKey(engine_name, "demo", "cpu", "float32")
engine = load(key, ModelStore(Path(cache), download_allowed=False), threads=1)
options = TranscribeOptions(language="en", word_timestamps=True)


def transcribe(samples, resume=None, most=2):
    return list(itertools.islice(engine.transcribe(samples, options, resume), most))


def own_megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


transcribe(samples[: 40 * 16_000])
before = own_megabytes()
first = transcribe(samples)
after_start = own_megabytes()
last = transcribe(samples, ResumeState(next_frame=len(samples) // 160 - 4000, language="en"))
print(json.dumps({
    "grown": max(after_start, own_megabytes()) - before,
    "windows": len(first) + len(last),
    "end_seconds": last[-1].end_seconds,
}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_long_recording_is_never_held_whole(tmp_path: Path, engine: str) -> None:
    samples = tmp_path / "samples"
    with samples.open("wb") as file:
        file.truncate(HOURS * 3600 * 16_000 * 4)  # silence, which takes no room on the disk

    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, engine, samples, tmp_path / "models"],
        capture_output=True,
        text=True,
        check=True,
    )

    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["windows"] == 4
    assert found["end_seconds"] == HOURS * 3600
    assert found["grown"] < LIMIT_MEGABYTES
