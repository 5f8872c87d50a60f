"""The child alone: what it may still do, how it ends, and what it leaves behind."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av.logging
import psutil
import pytest

import errors
from speech import audio, decoder
from speech.audio import DecodeLimits, decode, probe
from tests import media
from tests.fakes import eventually

LIMITS = DecodeLimits(timeout_seconds=30)
#: Takes a worker a good while, and its file grows all the time.
DAY = DecodeLimits(timeout_seconds=60, max_audio_seconds=1e6)
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def day() -> bytes:
    return media.flac_of_silence(24 * 3_600)


@pytest.fixture
def upload(tmp_path: Path, day: bytes) -> Path:
    path = tmp_path / "upload"
    path.write_bytes(day)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "samples"


def the_child() -> psutil.Process:
    alive = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    [found] = [process for process in alive if any("decoder" in a for a in process.cmdline())]
    return found


def while_decoding(look: Callable[[psutil.Process], Any], upload: Path, target: Path) -> Any:
    """What ``look`` sees of a child that is at work; it is cancelled afterwards."""
    seen: list[Any] = []

    def progress(seconds: float) -> None:
        if seconds > 0:
            seen.append(look(the_child()))
            raise errors.CancelRequested

    with pytest.raises(errors.CancelRequested):
        decode(upload, target, DAY, progress=progress)
    return seen[0]


@contextlib.contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """No file, no descriptor and no process more than before."""

    def belongings() -> tuple[set[Path], int, list[psutil.Process]]:
        return set(folder.iterdir()), psutil.Process().num_fds(), psutil.Process().children()

    before = belongings()
    yield
    assert belongings() == before


def test_it_is_killed_when_cancelled(upload: Path, target: Path) -> None:
    answers = iter([False, False, True])

    with nothing_left(upload.parent), pytest.raises(errors.Interrupted):
        decode(upload, target, DAY, cancelled=lambda: next(answers))


def test_whoever_is_asked_may_raise_instead(upload: Path, target: Path) -> None:
    def cancelled() -> bool:
        raise errors.Draining

    with nothing_left(upload.parent), pytest.raises(errors.Draining):
        decode(upload, target, DAY, cancelled=cancelled)


def test_progress_is_told_in_seconds_of_audio(upload: Path, target: Path) -> None:
    told: list[float] = []
    upload.write_bytes(media.flac_of_silence(1_200))

    decode(upload, target, LIMITS, progress=told.append)

    assert told == sorted(told)
    assert told[-1] == 1_200.0


@pytest.mark.security("media", "decoder that takes more time than it may")
def test_it_ends_when_its_time_is_up(upload: Path, target: Path) -> None:
    limits = DecodeLimits(timeout_seconds=0.2, max_audio_seconds=1e6)

    with nothing_left(upload.parent), pytest.raises(errors.DecodeLimit) as caught:
        decode(upload, target, limits)

    assert caught.value.data == {"timeout_seconds": 0.2}


def send(number: signal.Signals) -> Callable[[float], None]:
    def send_when_it_decodes(seconds: float) -> None:
        if seconds > 0:
            the_child().send_signal(number)

    return send_when_it_decodes


def test_its_death_is_the_files_fault(upload: Path, target: Path) -> None:
    with nothing_left(upload.parent), pytest.raises(errors.DecodeLimit) as caught:
        decode(upload, target, DAY, progress=send(signal.SIGSEGV))

    assert caught.value.data == {"signal": signal.SIGSEGV}


def test_its_being_killed_may_have_been_the_machines_fault(upload: Path, target: Path) -> None:
    with nothing_left(upload.parent), pytest.raises(errors.DecoderKilled):
        decode(upload, target, DAY, progress=send(signal.SIGKILL))


def test_the_worker_goes_on_after_its_death(upload: Path, target: Path) -> None:
    with pytest.raises(errors.DecoderKilled):
        decode(upload, target, DAY, progress=send(signal.SIGKILL))

    upload.write_bytes(media.wav())
    assert decode(upload, target, LIMITS).audio_seconds == 1.0


@pytest.mark.security("media", "decoder that takes more memory than it may")
def test_it_dies_of_too_much_memory_alone(upload: Path, target: Path) -> None:
    limits = DecodeLimits(timeout_seconds=30, max_memory_bytes=64 << 20)

    with nothing_left(upload.parent), pytest.raises(errors.DecodeLimit):
        decode(upload, target, limits)


def test_its_memory_does_not_grow_with_the_length(upload: Path, target: Path) -> None:
    peaks = []
    for seconds in (120, 3_600):
        upload.write_bytes(media.flac_of_silence(seconds))
        peaks.append(decode(upload, target, LIMITS).peak_memory_bytes or 0)

    assert 0 < peaks[1] < peaks[0] + (4 << 20)


def test_good_and_refused_files_leave_nothing_behind(upload: Path, target: Path) -> None:
    with nothing_left(upload.parent):
        upload.write_bytes(media.wav())
        decode(upload, target, LIMITS)
        target.unlink()
        with pytest.raises(errors.AudioTooLong):
            probe_and_decode(media.flac_of_silence(7 * 3_600), upload, target)
        with pytest.raises(errors.NotAudio):
            probe_and_decode(media.TEXT, upload, target)


def probe_and_decode(data: bytes, upload: Path, target: Path) -> None:
    upload.write_bytes(data)
    with contextlib.suppress(errors.MediaError):
        probe(upload, LIMITS)
    decode(upload, target, LIMITS)


def test_threads_decode_side_by_side(tmp_path: Path) -> None:
    lengths: dict[int, float] = {}

    def work(seconds: int) -> None:
        upload = tmp_path / f"upload{seconds}"
        upload.write_bytes(media.wav(media.tone(seconds)))
        lengths[seconds] = decode(upload, tmp_path / f"{seconds}", LIMITS).audio_seconds

    threads = [threading.Thread(target=work, args=(seconds,)) for seconds in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert lengths == {seconds: float(seconds) for seconds in range(1, 7)}


def test_it_does_not_outlive_a_killed_worker(upload: Path, target: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from speech.audio import DecodeLimits, decode\n"
        "say = lambda seconds: seconds and print('at work', flush=True)\n"
        "limits = DecodeLimits(timeout_seconds=60, max_audio_seconds=1e6)\n"
        "decode(Path(sys.argv[1]), Path(sys.argv[2]), limits, progress=say)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, upload, target], stdout=subprocess.PIPE, cwd=PROJECT
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"at work\n"
        [child] = psutil.Process(worker.pid).children()

        worker.kill()

        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_it_is_the_first_to_go_when_memory_runs_out(upload: Path, target: Path) -> None:
    def score(child: psutil.Process) -> str:
        return Path(f"/proc/{child.pid}/oom_score_adj").read_text().strip()

    assert while_decoding(score, upload, target) == "1000"


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
def test_it_works_in_the_sandbox_and_in_one_thread(upload: Path, target: Path) -> None:
    def status(child: psutil.Process) -> dict[str, str]:
        lines = Path(f"/proc/{child.pid}/status").read_text("ascii").splitlines()
        return dict(line.split(":\t", 1) for line in lines)

    seen = while_decoding(status, upload, target)

    assert (seen["Seccomp"], seen["NoNewPrivs"], seen["Threads"]) == ("2", "1", "1")


@pytest.mark.skipif(sys.platform != "linux", reason="the limits are read from /proc")
def test_it_has_these_limits(upload: Path, target: Path) -> None:
    def limits(child: psutil.Process) -> str:
        return Path(f"/proc/{child.pid}/limits").read_text("ascii")

    seen = while_decoding(limits, upload, target)

    for name, value in {
        "Max core file size": 0,
        "Max processes": 0,
        "Max open files": 0,
        "Max cpu time": 61,
        "Max address space": DAY.max_memory_bytes,
    }.items():
        assert re.search(rf"^{name} +{value} ", seen, re.MULTILINE), name


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(media.wav(media.tone(30)))
    with Path("/dev/full").open("wb") as full, pytest.raises(errors.DiskFull):
        decode(tmp_path / "upload", full, LIMITS)


ON_AN_OLDER_KERNEL = """
import logging, sys
from pathlib import Path
from speech.audio import DecodeLimits, decode
from tests.speech import older_kernel

logging.basicConfig(format="%(message)s %(decoder)s", stream=sys.stdout)
older_kernel.without_landlock()
older_kernel.without_seccomp()
for _ in range(2):
    print(decode(Path(sys.argv[1]), Path(sys.argv[2]), DecodeLimits()).audio_seconds)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")
def test_without_a_sandbox_it_works_on_and_a_warning_is_logged_once(
    upload: Path, target: Path
) -> None:
    upload.write_bytes(media.wav())
    done = subprocess.run(
        [sys.executable, "-c", ON_AN_OLDER_KERNEL, upload, target],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )

    warning = 'decoding without a filter of system calls {"fences": []}\n'
    assert done.stdout == f"{warning}1.0\n1.0\n", done.stderr


def test_every_refusal_has_a_class() -> None:
    raised = re.findall(r"raise Refused\(.*", Path(decoder.__file__).read_text())
    codes = set(re.findall(r'"(\w+)"', " ".join(raised)))

    assert {"not_audio", "no_audio_samples", "disk_full"} <= codes
    assert codes <= set(audio._REFUSALS)


def test_every_code_is_that_of_its_class() -> None:
    assert all(code == refusal.code for code, (refusal, _) in audio._REFUSALS.items())


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[bytes], av.container.InputContainer]]:
    """Opens bytes with all that FFmpeg is told, but in this process, which gave up nothing."""
    with contextlib.ExitStack() as stack:

        def open_(data: bytes) -> av.container.InputContainer:
            path = tmp_path / "upload"
            path.write_bytes(data)
            file = stack.enter_context(path.open("rb"))
            return stack.enter_context(decoder._open(decoder.Upload(file.fileno())))

        yield open_


@pytest.mark.parametrize("make", ["hls", "ffconcat", "sdp", "dash"])
def test_ffmpeg_itself_refuses_what_names_others(
    make: str, opened: Callable[[bytes], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "private.ts").write_bytes(media.sound("mpegts", "aac"))
    monkeypatch.chdir(tmp_path)
    data = {
        "hls": media.hls("private.ts"),
        "ffconcat": media.ffconcat("private.ts"),
        "sdp": media.sdp(5_004),
        "dash": media.dash("private.ts"),
    }[make]

    with pytest.raises(decoder.Refused):
        opened(data)


@pytest.mark.parametrize(
    ("container", "codec"), [("avi", "magicyuv"), ("mp4", "mpeg4"), ("matroska", "libx264")]
)
def test_no_picture_is_ever_decoded(
    container: str, codec: str, opened: Callable[[bytes], av.container.InputContainer]
) -> None:
    data = media.video(container, codec, sound_codec="mp3")
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture(local=False) as logs:
            opened(data)
    finally:
        av.logging.set_level(None)

    assert any("not on whitelist" in message for _, _, message in logs)


def test_it_loads_no_library_but_ffmpegs() -> None:
    code = (
        f"import sys; sys.path.append({str(PROJECT)!r}); from speech import decoder\n"
        "print({'numpy', 'torch', 'errors', 'speech.audio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)

    assert done.stdout == "set()\n", done.stderr
