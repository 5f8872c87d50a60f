"""A few hundred spoilt files, always the same; and that the judge sees what is wrong."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from speech.audio import decode
from tests import media
from tests.fuzz import cases
from tests.fuzz.nursery import Life
from tests.hostile import CANARY_HZ
from tests.recordings import PROJECT_DIR

#: About fifteen seconds' worth.
CASES = 300


@pytest.mark.security("media", f"{CASES} files of 37 kinds, spoilt at random")
def test_no_spoilt_file_does_harm(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "tests.fuzz", "--cases", str(CASES), "--keep", str(tmp_path)]
    done = subprocess.run(run, cwd=PROJECT_DIR, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{CASES} files, 0 findings")


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cases.Fuzzer]:
    with cases.Fuzzer(7, tmp_path_factory.mktemp("fuzz")) as fuzzer:
        yield fuzzer


def test_a_case_can_be_made_again(fuzzer: cases.Fuzzer) -> None:
    assert fuzzer.data(1) == fuzzer.data(1)
    assert fuzzer.data(1) != fuzzer.data(2)


def test_there_are_twenty_kinds_of_file_to_spoil(fuzzer: cases.Fuzzer) -> None:
    assert len({seed[:12] for seed in fuzzer.seeds}) >= 20


def life(**figures: object) -> Life:
    whole = {"status": 0, "said": b"", "peak_bytes": 0, "cpu_seconds": 0.0, **figures}
    return Life(**whole)  # type: ignore[arg-type]


DECODED = json.dumps(
    {
        "media": {
            "container": "wav",
            "codec": "pcm_s16le",
            "channels": 1,
            "sample_rate_hz": 16_000,
            "declared_seconds": 1.0,
            "estimated": False,
            "video": False,
            "damaged_packets": 0,
            "damaged_at_end": 0,
            "cut": False,
        }
    }
).encode()
REFUSED = b'{"error": "not_audio", "data": {}}'
WRONG = {
    "a crash": life(status=-11),
    "a hang": life(status=None, said=REFUSED),
    "much memory": life(said=REFUSED, peak_bytes=1 << 30),
    "much time": life(said=REFUSED, cpu_seconds=60.0),
    "a traceback": life(status=1, said=b"Traceback (most recent call last):"),
    "blame of the disk": life(said=b'{"error": "disk_full", "data": {}}'),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_judge_sees(what: str, tmp_path: Path) -> None:
    assert cases.judge(WRONG[what], tmp_path / "samples")[1] != []


def test_the_judge_has_nothing_against_a_refusal(tmp_path: Path) -> None:
    assert cases.judge(life(said=REFUSED), tmp_path / "samples") == ("not_audio", [])


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        (b"\0\0\xc0\x7f" * 16_000, "finite"),
        (b"\0\0\0\x40" * 16_000, "finite"),
        (bytes(7), "middle"),
        (bytes(4 * 16_000 * 200), "long"),
        (b"", "long"),
    ],
)
def test_the_judge_sees_bad_samples(written: bytes, fault: str, tmp_path: Path) -> None:
    (tmp_path / "samples").write_bytes(written)

    assert fault in cases.judge(life(said=DECODED), tmp_path / "samples")[1][0]


def test_the_judge_hears_the_canary(tmp_path: Path) -> None:
    (tmp_path / "private.wav").write_bytes(media.wav(media.tone(2.0, tone_hz=CANARY_HZ)))
    decode(tmp_path / "private.wav", tmp_path / "samples", cases.LIMITS)

    faults = cases.judge(life(said=DECODED), tmp_path / "samples")[1]
    assert faults == ["sounds like the file beside it"]
