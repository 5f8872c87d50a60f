"""``cli.py transcribe --local``: a transcript without a service."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import cli
from tests.recordings import sample

pytestmark = pytest.mark.model

SAMPLE = sample("digits-en.wav").path
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Type a command where there is no service; returns its status, output and messages."""
    for name in ("DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("WHISPER_MODEL_SIZE", "demo")
    monkeypatch.setenv("WHISPER_THREADS", "1")
    monkeypatch.chdir(tmp_path)

    def command(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["transcribe", "--local", *map(str, words)])
        said = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    return command


def test_a_file_is_transcribed_here_and_now(run: Run) -> None:
    status, out, err = run(SAMPLE)

    assert (status, out.split()) == (0, sample("digits-en.wav").text.split())
    assert "completed" in err


def test_a_part_is_transcribed_with_the_times_of_the_whole(run: Run) -> None:
    status, out, _ = run(SAMPLE, "--start", 3, "-f", "json", "--words", "--language", "en")
    segments = json.loads(out)["segments"]

    assert status == 0
    assert segments[0]["start"] >= 3
    assert segments[0]["words"]


def test_one_that_fails_stops_no_other(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp3"
    bad.write_bytes(b"this is no sound")
    status, out, err = run(bad, SAMPLE, "-o", tmp_path / "out")

    assert (status, out) == (1, f"{tmp_path}/out/digits-en.txt\n")
    assert "bad.mp3: failed" in err
    assert "not_audio" in err


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--language", "xx"], 2, "xx is no code"),
        (["--start", 5, "--end", 2], 2, "before it begins"),
        (["--model", "huge"], 1, "unknown_model"),
        (["--engine", "none"], 1, "unknown_model"),
        (["--model", "tiny"], 1, "model_unavailable"),
    ],
)
def test_what_cannot_be_done_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, words: list[object], status: int, says: str
) -> None:
    monkeypatch.setenv("MODEL_DOWNLOAD", "false")
    ended, out, err = run(SAMPLE, *words)

    assert (ended, out) == (status, "")
    assert says in err


def test_an_address_is_not_fetched(run: Run) -> None:
    status, _, err = run("http://127.0.0.1:9/a.mp3")

    assert (status, "fetches none" in err) == (2, True)
