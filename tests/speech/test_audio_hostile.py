"""What hostile files get: a refusal that says why, and nothing else done."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import errors
from speech import audio
from speech.audio import DecodeLimits, decode, probe
from tests import media

LIMITS = DecodeLimits(timeout_seconds=30)
Upload = Callable[[bytes], Path]


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    """Writes bytes where uploads lie, beside somebody else's."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    (folder / "private.wav").write_bytes(media.wav())
    (folder / "private.ts").write_bytes(media.sound("mpegts", "aac"))

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
def listener() -> Iterator[socket.socket]:
    """A server that a hostile file may try to reach; nobody has, while accepting would block."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


REFUSED: dict[str, tuple[type[errors.ServiceError], Callable[[], bytes]]] = {
    "nothing": (errors.NotAudio, bytes),
    "one byte": (errors.NotAudio, lambda: b"\xff"),
    "text": (errors.NotAudio, lambda: media.TEXT),
    "html": (errors.NotAudio, lambda: media.HTML),
    "zip": (errors.NotAudio, media.zip_file),
    "elf": (errors.NotAudio, lambda: media.ELF),
    "png": (errors.NotAudio, lambda: media.PNG),
    "1 MB of NUL": (errors.NotAudio, lambda: bytes(1 << 20)),
    "m4a cut before its index": (
        errors.NotAudio,
        lambda: media.sound("ipod", "aac")[:8_000],
    ),
    "wav without samples": (errors.NoAudioSamples, lambda: media.wav(b"")),
    "silent film": (errors.NoAudioStream, lambda: media.video(sound_codec=None)),
    "200 streams": (errors.TooManyStreams, lambda: media.many_streams(200)),
    "wav, 0 channels": (errors.NotAudio, lambda: media.wav(media.tone(1), channels=0)),
    "wav, 9 channels": (errors.TooManyChannels, lambda: media.wav(media.tone(1), channels=9)),
    "wav, 1024 channels": (errors.NotAudio, lambda: media.wav(media.tone(1), channels=1_024)),
    "wav, 65535 channels": (errors.NotAudio, lambda: media.wav(media.tone(1), channels=65_535)),
    "wav, 0 bits": (errors.NotAudio, lambda: media.wav(media.tone(1), bits=0)),
    "wav, 0 Hz": (errors.NotAudio, lambda: media.wav(media.tone(1), rate_hz=0)),
    "wav, 1 Hz": (errors.BadSampleRate, lambda: media.wav(media.tone(1), rate_hz=1)),
    "wav, 384,001 Hz": (errors.BadSampleRate, lambda: media.wav(media.tone(1), rate_hz=384_001)),
    "wav, 2^32 - 1 Hz": (errors.NotAudio, lambda: media.wav(media.tone(1), rate_hz=2**32 - 1)),
    "81 bytes of flac, 54 h": (
        errors.AudioTooLong,
        lambda: media.flac_of_silence(196_605, rate_hz=1),
    ),
    "81 bytes of flac, length hidden": (
        errors.BadSampleRate,
        lambda: media.flac_of_silence(196_605, rate_hz=1, claimed_seconds=0),
    ),
    "24 h of silence in 156 kB": (
        errors.AudioTooLong,
        lambda: media.flac_of_silence(24 * 3_600),
    ),
}


@pytest.mark.parametrize(("refusal", "make"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_transcribed_is_refused(
    refusal: type[errors.ServiceError], make: Callable[[], bytes], upload: Upload, target: Path
) -> None:
    with pytest.raises(refusal) as caught:
        decode(upload(make()), target, LIMITS)

    assert type(caught.value) is refusal
    assert not target.exists()


def test_a_refusal_tells_the_figure_and_the_limit(upload: Upload) -> None:
    with pytest.raises(errors.TooManyChannels) as caught:
        probe(upload(media.wav(media.tone(1), channels=9)), LIMITS)

    assert caught.value.data == {"channels": 9, "max_channels": 8}


def test_a_hidden_length_is_measured(upload: Upload, target: Path) -> None:
    limits = DecodeLimits(timeout_seconds=30, max_audio_seconds=600)
    hidden = media.flac_of_silence(3_600, claimed_seconds=0)
    assert probe(upload(hidden), limits).audio_seconds is None

    with pytest.raises(errors.AudioTooLong) as caught:
        decode(upload(hidden), target, limits)

    assert caught.value.data["audio_seconds"] < 620
    assert not target.exists()


def test_a_shape_that_goes_bad_on_the_way_is_refused(upload: Upload, target: Path) -> None:
    data = media.sound("adts", "aac") + media.sound("adts", "aac", rate_hz=48_000)
    limits = DecodeLimits(timeout_seconds=30, max_sample_rate_hz=44_100)
    assert probe(upload(data), limits).sample_rate_hz == 16_000

    with pytest.raises(errors.BadSampleRate):
        decode(upload(data), target, limits)


HOSTILE: dict[str, Callable[[str, int], bytes]] = {
    "hls, sibling": lambda folder, port: media.hls("private.ts"),
    "hls, absolute": lambda folder, port: media.hls(f"{folder}/private.ts"),
    "hls, file URL": lambda folder, port: media.hls(f"file://{folder}/private.ts"),
    "hls, http": lambda folder, port: media.hls(f"http://127.0.0.1:{port}/private.ts"),
    "hls, key over http": lambda folder, port: media.hls(
        "private.ts", key_url=f"http://127.0.0.1:{port}/key"
    ),
    "ffconcat, sibling": lambda folder, port: media.ffconcat("private.wav"),
    "ffconcat, absolute": lambda folder, port: media.ffconcat(f"{folder}/private.wav"),
    "ffconcat, http": lambda folder, port: media.ffconcat(f"http://127.0.0.1:{port}/x.wav"),
    "sdp": lambda folder, port: media.sdp(port),
    "dash": lambda folder, port: media.dash(f"http://127.0.0.1:{port}/x.mp4"),
    "pls": lambda folder, port: media.pls(f"http://127.0.0.1:{port}/x.mp3"),
    "xspf": lambda folder, port: media.xspf(f"http://127.0.0.1:{port}/x.mp3"),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_names_others_opens_none(
    make: Callable[[str, int], bytes], upload: Upload, target: Path, listener: socket.socket
) -> None:
    path = upload(b"")
    path.write_bytes(make(str(path.parent), listener.getsockname()[1]))

    with pytest.raises(errors.NotAudio):
        decode(path.rename(path.with_suffix(".m3u8")), target, LIMITS)

    with pytest.raises(BlockingIOError):
        listener.accept()


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
