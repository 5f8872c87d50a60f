"""Engines that do what a job's prompt says."""

import io
from pathlib import Path

import pytest

from rig import ledger
from rig.engines import (
    FaultyEngine,
    NullEngine,
    Script,
    is_null,
    null_decode,
    null_upload,
)
from rig.ledger import Ledger
from speech.audio import load_samples
from speech.engines import ModelKey
from speech.transcript import TranscribeOptions

KEY = ModelKey("openai-whisper", "tiny", "cpu", "float32")
SCRIPT = Script(windows=3, seconds=0.0, tag="T7")


@pytest.mark.parametrize(
    "script",
    [
        SCRIPT,
        Script(windows=1, seconds=0.25, tag="T1", fault="kill", after=2, once=True),
        Script(fault="hang", after=1),
    ],
)
def test_a_script_is_read_as_it_was_written(script: Script) -> None:
    """It goes to the engine as a prompt."""
    assert Script.of(str(script)) == script


@pytest.mark.parametrize("prompt", [None, "", "Call me Ishmael."])
def test_an_ordinary_prompt_is_no_script(prompt: str | None) -> None:
    """The real engine may be told anything."""
    assert Script.of(prompt) is None


def test_a_null_job_goes_on_where_it_was() -> None:
    """As every engine does."""
    options = TranscribeOptions(initial_prompt=str(SCRIPT))
    windows = list(NullEngine(KEY).transcribe(None, options))
    rest = list(NullEngine(KEY).transcribe(None, options, windows[0].resume))

    assert "".join(w.segments[0].text for w in windows).strip() == SCRIPT.text
    assert rest == windows[1:]


def test_a_fault_that_happens_once_happens_to_the_first(tmp_path: Path) -> None:
    """Whichever process meets it; each window and fault is noted."""
    script = Script(windows=2, tag="T7", fault="error", after=1, once=True)
    options = TranscribeOptions(initial_prompt=str(script))
    engine = FaultyEngine(NullEngine(KEY), tmp_path, Ledger(tmp_path / "ledger"))
    with pytest.raises(RuntimeError):
        list(engine.transcribe(None, options))

    assert len(list(engine.transcribe(None, options))) == 2
    noted = [event["what"] for event in ledger.events(tmp_path / "ledger")]
    assert noted == ["window", "fault", "window", "window"]


def test_the_upload_of_a_null_job_becomes_silence_of_its_length(tmp_path: Path) -> None:
    """Three windows of thirty seconds, that take no room on the disk."""
    source = tmp_path / "upload"
    source.write_bytes(null_upload(SCRIPT))
    with (tmp_path / "samples").open("w+b") as target:
        decoded = null_decode(source, target)

        assert is_null(source)
        assert decoded.audio_seconds == 90.0
        assert len(load_samples(target)) == 90 * 16_000
        assert (tmp_path / "samples").stat().st_blocks == 0


def test_a_recording_is_no_null_upload(tmp_path: Path) -> None:
    """It is decoded."""
    source = tmp_path / "upload"
    source.write_bytes(io.BytesIO(b"RIFF").getvalue())

    assert not is_null(source)
