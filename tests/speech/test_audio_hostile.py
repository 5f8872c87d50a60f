"""What hostile files get: a refusal that says why, and nothing else done."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

import errors
from speech import audio
from speech.audio import DecodeLimits, decode, load_samples, probe
from tests import matroska, media
from tests.hostile import (
    BAD,
    CANARY_HZ,
    TIGHT,
    Bad,
    Trap,
    as_parameters,
    hears_canary,
    untouched_server,
)
from tests.wrapped import EVERY

LIMITS = DecodeLimits(timeout_seconds=30)
Upload = Callable[[bytes], Path]


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    """Writes bytes where uploads lie, beside somebody else's."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    canary = media.tone(2.0, tone_hz=CANARY_HZ)
    (folder / "private.wav").write_bytes(media.wav(canary))
    (folder / "private.ts").write_bytes(media.sound("mpegts", "aac", tone_hz=CANARY_HZ))

    def write(data: bytes) -> Path:
        path = folder / "upload"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder / "samples"


@pytest.fixture
def untouched() -> Iterator[int]:
    with untouched_server() as port:
        yield port


def test_the_canary_can_be_heard(upload: Upload, target: Path) -> None:
    decode(upload(b"").with_name("private.ts"), target, LIMITS)

    assert hears_canary(load_samples(target))


@pytest.mark.parametrize("bad", as_parameters(EVERY))
def test_a_bad_file_ends_as_it_should_and_touches_nothing(
    bad: Bad, upload: Upload, target: Path, untouched: int
) -> None:
    path = upload(b"")
    path.write_bytes(bad.make(Trap(path.parent, untouched)))
    end = None
    try:
        decode(path, target, TIGHT)
    except errors.ServiceError as error:
        end = error.code

    assert end == bad.end
    assert target.exists() == (end is None)
    if end is None:
        samples = load_samples(target)
        assert np.isfinite(samples).all()
        assert not hears_canary(samples)


def seconds_heard_naively(path: Path) -> float:
    """What PyAV reads from an open file that has a name, without any of our lists."""
    seconds = 0.0
    with (
        path.open("rb") as file,
        contextlib.suppress(av.FFmpegError),
        av.open(file, "r") as container,
    ):
        for frame in container.decode(container.streams.audio[0]):
            seconds += frame.samples / frame.sample_rate
    return seconds


@pytest.mark.parametrize(
    "what", ["HLS with a sibling", "HLS with a path", "ffconcat with a sibling"]
)
def test_a_naive_reader_walks_into_the_trap(what: str, upload: Upload) -> None:
    path = upload(b"").with_name("list.m3u8")
    path.write_bytes(BAD[what].make(Trap(path.parent, 1)))

    assert seconds_heard_naively(path) > 1


def test_a_naive_reader_calls_the_server(upload: Upload) -> None:
    path = upload(b"").with_name("list.m3u8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        called = threading.Event()

        def answer() -> None:
            server.accept()[0].close()
            called.set()

        thread = threading.Thread(target=answer)
        thread.start()
        path.write_bytes(
            BAD["HLS with an http segment"].make(Trap(path.parent, server.getsockname()[1]))
        )
        seconds_heard_naively(path)
        thread.join()

    assert called.is_set()


def test_a_refusal_tells_the_figure_and_the_limit(upload: Upload) -> None:
    with pytest.raises(errors.TooManyChannels) as caught:
        probe(upload(media.wav(media.tone(1), channels=9)), LIMITS)

    assert caught.value.data == {"channels": 9, "max_channels": 8}


@pytest.mark.security("media", "an hour of silence in FLAC, hidden")
def test_a_hidden_length_is_measured(upload: Upload, target: Path) -> None:
    limits = DecodeLimits(timeout_seconds=30, max_audio_seconds=600)
    hidden = media.flac_of_silence(3_600, claimed_seconds=0)
    assert probe(upload(hidden), limits).audio_seconds is None

    with pytest.raises(errors.AudioTooLong) as caught:
        decode(upload(hidden), target, limits)

    assert caught.value.data["audio_seconds"] < 620
    assert not target.exists()


@pytest.mark.security("media", "AAC whose sample rate grows on the way")
def test_a_shape_that_goes_bad_on_the_way_is_refused(upload: Upload, target: Path) -> None:
    data = media.sound("adts", "aac") + media.sound("adts", "aac", rate_hz=48_000)
    limits = DecodeLimits(timeout_seconds=30, max_sample_rate_hz=44_100)
    assert probe(upload(data), limits).sample_rate_hz == 16_000

    with pytest.raises(errors.BadSampleRate):
        decode(upload(data), target, limits)


@pytest.mark.security("media", "tags that take longer to read than there is time")
@pytest.mark.parametrize("read", ["probe", "decode"])
def test_a_header_without_end_does_not_cost_the_time_of_decoding(
    read: str, upload: Upload, target: Path
) -> None:
    limits = DecodeLimits(timeout_seconds=120, header_seconds=5)
    # libavformat looks through all of them for each
    path = upload(matroska.with_tags(400_000))

    with pytest.raises(errors.DecodeLimit) as caught:
        probe(path, limits) if read == "probe" else decode(path, target, limits)

    assert caught.value.data == {"header_seconds": 5}


UNCLEAR = {
    "silence": b"",
    "no text": b"\xff\xfe",
    "a traceback": b"Traceback (most recent call last):\nZeroDivisionError",
    "a list": b"[]",
    "a number": b"5",
    "nothing": b"null",
    "media that is none": b'{"media": 5}',
    "an unknown error": b'{"error": "all_your_base", "data": {}}',
    "an error that is no word": b'{"error": [], "data": {}}',
    "an error without figures": b'{"error": "not_audio"}',
    "figures that are none": b'{"error": "not_audio", "data": 5}',
    "no number": b'{"error": "audio_too_long", "data": {"audio_seconds": NaN}}',
    "a deep hole": b"[" * 16_000,
}


@pytest.mark.security("media", "decoder that answers nonsense")
@pytest.mark.parametrize("said", UNCLEAR.values(), ids=UNCLEAR)
def test_an_answer_out_of_shape_is_no_answer(said: bytes) -> None:
    with pytest.raises(errors.ServiceError) as caught:
        audio._judge(0, said, LIMITS)

    assert type(caught.value) is errors.ServiceError
    assert caught.value.data == {"exit_status": 0}


HONEST_ANSWER = {
    "container": "wav",
    "codec": "pcm_s16le",
    "channels": 1,
    "sample_rate_hz": 16_000,
    "declared_seconds": 1.0,
    "estimated": False,
    "video": False,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("container", value) for value in (None, 5, "x" * 65, "a\nb", "\ud800", "é")),
        *(("channels", value) for value in (None, 1.0, "1", True, 1 << 60)),
        *(("declared_seconds", value) for value in (1, "one", 1e300, float("inf"))),
        *(("estimated", value) for value in (None, 0, "yes")),
    ],
)
def test_a_field_out_of_shape_is_not_believed(name: str, value: object) -> None:
    assert audio._media(HONEST_ANSWER).container == "wav"

    with pytest.raises(errors.ServiceError):
        audio._media(HONEST_ANSWER | {name: value})


def test_only_sane_figures_reach_a_client() -> None:
    said = b'{"error": "audio_too_long", "data": {"audio_seconds": 1e999, "<script>": 1}}'

    with pytest.raises(errors.AudioTooLong) as caught:
        audio._judge(0, said, LIMITS)

    assert caught.value.data == {"max_audio_seconds": 21_600.0}


def test_a_full_disk_is_not_the_files_fault() -> None:
    with pytest.raises(errors.DiskFull):
        audio._judge(0, b'{"error": "disk_full", "data": {}}', LIMITS)
