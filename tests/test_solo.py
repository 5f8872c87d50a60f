"""A model in a process of its own: the same text, and nothing that happens to it reaches us."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

import psutil
import pytest

from errors import (
    CancelRequested,
    CapacityError,
    EngineOutOfMemory,
    InvalidRequest,
    ModelUnavailable,
    Occupied,
    ProcessDied,
    StorageUnavailable,
)
from solo import LOCK_NAME, Solo
from speech import audio
from speech.audio import DecodeLimits
from speech.engines import ModelKey, ModelStore, load
from speech.transcript import TranscribeOptions, Window
from tests.fakes import eventually
from tests.recordings import PROJECT_DIR, repeated

KEY = ModelKey("openai-whisper", "demo", "cpu", "float32")
OPTIONS = TranscribeOptions(language="en")
SILENCE_SECONDS = 60.0

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IO[bytes]]:
    """Decoded samples in a file without a name."""
    folder = tmp_path_factory.mktemp("samples")
    recording = repeated("digits-en.wav", 12, folder / "long.wav")
    with audio.scratch_file(folder) as file:
        audio.decode(recording, file, DecodeLimits())
        yield file


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIR", str(tmp_path))
    monkeypatch.setenv("WHISPER_MODEL_SIZE", "demo")
    monkeypatch.setenv("MODEL_DOWNLOAD", "false")


MakeSolo = Callable[..., Solo]


@pytest.fixture
def make_solo(tmp_path: Path, environment: None) -> MakeSolo:
    def make(*command: str, silence_seconds: float = SILENCE_SECONDS) -> Solo:
        child = command or (sys.executable, str(PROJECT_DIR / "worker.py"), "--role", "solo")
        return Solo(child, tmp_path / "scratch", silence_seconds=silence_seconds)

    return make


def saying(*lines: Mapping[str, object], then: str = "pass") -> tuple[str, ...]:
    """A child that says something, whatever it is asked, and then does something."""
    said = "".join(f"{json.dumps(line)}\n" for line in ({"ready": True}, *lines))
    program = f"import time\nprint({said!r}, end='', flush=True)\n{then}"
    return sys.executable, "-c", program


def the_children() -> list[psutil.Process]:
    return psutil.Process().children()


@contextlib.contextmanager
def none_left() -> Iterator[None]:
    before = {child.pid for child in the_children()}
    yield
    assert {child.pid for child in the_children()} <= before


def test_the_windows_are_those_of_the_engine_itself(
    make_solo: MakeSolo, scratch: IO[bytes], tmp_path: Path
) -> None:
    samples = audio.load_samples(scratch)
    store = ModelStore(tmp_path / "models", download_allowed=False)
    here = list(load(KEY, store=store).transcribe(samples, OPTIONS))
    with none_left(), make_solo().borrow(KEY, scratch) as loan:
        there = list(loan.transcribe(samples, OPTIONS))

    assert len(here) > 2
    assert [text_of(window) for window in there] == [text_of(window) for window in here]
    assert [window.resume for window in there] == [window.resume for window in here]
    assert (loan.key, loan.steps) == (KEY, ())


def test_it_goes_on_after_a_window(make_solo: MakeSolo, scratch: IO[bytes]) -> None:
    samples = audio.load_samples(scratch)
    with make_solo().borrow(KEY, scratch) as loan:
        whole = list(loan.transcribe(samples, OPTIONS))
    with make_solo().borrow(KEY, scratch) as loan:
        rest = list(loan.transcribe(samples, OPTIONS, whole[0].resume))

    assert [text_of(window) for window in rest] == [text_of(window) for window in whole[1:]]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_its_death_is_told(number: signal.Signals, make_solo: MakeSolo, scratch: IO[bytes]) -> None:
    samples = audio.load_samples(scratch)
    with none_left(), make_solo().borrow(KEY, scratch) as loan:
        windows = loan.transcribe(samples, OPTIONS)
        next(windows)
        the_children()[-1].send_signal(number)
        with pytest.raises(ProcessDied) as caught:
            list(windows)

    assert caught.value.data == {"exit_status": -number}


def test_one_that_says_nothing_hangs_and_is_killed(make_solo: MakeSolo, scratch: IO[bytes]) -> None:
    hanging = saying(then="time.sleep(1000)")
    solo = make_solo(*hanging, silence_seconds=0.5)

    with none_left(), pytest.raises(ProcessDied), solo.borrow(KEY, scratch):
        pass


@pytest.mark.parametrize("program", ["import nowhere", "import os; os.abort()"])
def test_one_that_never_began_is_not_the_jobs_fault(
    program: str, make_solo: MakeSolo, scratch: IO[bytes]
) -> None:
    solo = make_solo(sys.executable, "-c", program)

    with none_left(), pytest.raises(CapacityError), solo.borrow(KEY, scratch):
        pass


def test_what_it_should_stop_for_stops_it(make_solo: MakeSolo, scratch: IO[bytes]) -> None:
    asked: list[None] = []

    def cancelled() -> None:
        asked.append(None)
        if len(asked) > 3:
            raise CancelRequested

    hanging = make_solo(*saying(then="time.sleep(1000)"))
    with (
        none_left(),
        pytest.raises(CancelRequested),
        hanging.borrow(KEY, scratch, cancelled=cancelled),
    ):
        pass


def test_two_never_run_at_once(make_solo: MakeSolo, tmp_path: Path) -> None:
    with make_solo().turn(), pytest.raises(Occupied), make_solo().turn():
        pass

    with make_solo().turn():
        assert (tmp_path / "scratch" / LOCK_NAME).exists()


def test_a_scratch_folder_that_cannot_be_used_is_not_the_jobs_fault(
    make_solo: MakeSolo, tmp_path: Path
) -> None:
    (tmp_path / "scratch").touch()

    with pytest.raises(StorageUnavailable), make_solo().turn():
        pass


@pytest.mark.parametrize(
    ("code", "kind"),
    [("out_of_memory", EngineOutOfMemory), ("model_unavailable", ModelUnavailable)],
)
def test_what_it_met_is_what_we_meet(
    code: str, kind: type[Exception], make_solo: MakeSolo, scratch: IO[bytes]
) -> None:
    error = {"code": code, "message": "Told.", "traceback": "in line 3"}
    with (
        pytest.raises(kind, match=r"Told\.") as caught,
        make_solo(*saying({"error": error})).borrow(KEY, scratch),
    ):
        pass

    assert caught.value.__notes__ == ["in line 3"]


def test_an_option_that_is_wrong_comes_back_as_such(
    make_solo: MakeSolo, scratch: IO[bytes]
) -> None:
    wrong = TranscribeOptions(language="xx")
    with make_solo().borrow(KEY, scratch) as loan, pytest.raises(InvalidRequest):
        list(loan.transcribe(audio.load_samples(scratch), wrong))


def test_it_does_not_outlive_a_killed_worker(
    environment: None, scratch: IO[bytes], tmp_path: Path
) -> None:
    program = (
        "import sys, tempfile; from pathlib import Path; from solo import Solo\n"
        "from speech.engines import ModelKey\n"
        f"solo = Solo({[sys.executable, 'worker.py', '--role', 'solo']!r},"
        f" Path({str(tmp_path)!r}), silence_seconds=60)\n"
        f"with solo.borrow(ModelKey(*{str(KEY)!r}.split('/')), tempfile.TemporaryFile()):\n"
        "    print('has it', flush=True); sys.stdin.read()"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=PROJECT_DIR,
        env=dict(os.environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"has it\n"
    (child,) = psutil.Process(worker.pid).children()
    worker.kill()
    worker.communicate()

    eventually(lambda: not child.is_running())


def text_of(window: Window) -> tuple[float, float, str]:
    text = "".join(segment.text for segment in window.segments)
    return window.start_seconds, window.end_seconds, text
