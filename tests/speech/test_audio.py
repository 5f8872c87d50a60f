"""What comes out of honest files, whole or cut short, and where they come from."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import errors
from speech import audio
from speech.audio import DecodeLimits, decode, load_samples, probe
from tests import boxes, media

LIMITS = DecodeLimits(timeout_seconds=30)
TIGHT = DecodeLimits(timeout_seconds=30, max_memory_bytes=256 << 20)
Upload = Callable[[bytes], Path]


@pytest.fixture
def upload(tmp_path: Path) -> Upload:
    def write(data: bytes) -> Path:
        path = tmp_path / "upload"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "samples"


def rms(path: Path) -> float:
    return float(np.sqrt(np.mean(np.square(load_samples(path)))))


@pytest.mark.parametrize("make", media.HONEST.values(), ids=media.HONEST)
def test_honest_files_decode_to_what_was_put_in(
    make: Callable[[float], bytes], upload: Upload, target: Path
) -> None:
    decoded = decode(upload(make(2.0)), target, LIMITS)

    assert decoded.audio_seconds == pytest.approx(2.0, abs=0.12)
    assert decoded.warnings == ()
    samples = load_samples(target)
    assert samples.shape == (round(decoded.audio_seconds * 16_000),)
    assert np.argmax(np.abs(np.fft.rfft(samples[8_000:24_000]))) == pytest.approx(440, abs=2)
    assert rms(target) == pytest.approx(0.5 / math.sqrt(2), rel=0.2)


@pytest.mark.parametrize(
    "layout", ["mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1", "LFE", "BL+BR", "FL+LFE"]
)
def test_any_loudspeakers_become_one(layout: str, upload: Upload, target: Path) -> None:
    decode(upload(media.sound("wav", "pcm_s16le", layout=layout)), target, LIMITS)

    assert rms(target) == pytest.approx(0.5 / math.sqrt(2), rel=0.02)


def test_both_channels_are_heard(upload: Upload, target: Path) -> None:
    left = np.frombuffer(media.tone(1.0), dtype="<i2")
    both = np.stack([left, np.zeros_like(left)], axis=1)

    decode(upload(media.wav(both.tobytes(), channels=2)), target, LIMITS)

    assert rms(target) == pytest.approx(0.25 / math.sqrt(2), rel=0.02)


def test_samples_are_those_of_the_file(upload: Upload, target: Path) -> None:
    pcm = media.tone(1.0)

    decode(upload(media.wav(pcm)), target, LIMITS)

    expected = np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32_768
    np.testing.assert_array_equal(load_samples(target), expected)


def test_samples_cannot_be_changed(upload: Upload, target: Path) -> None:
    decode(upload(media.wav()), target, LIMITS)

    with pytest.raises(ValueError, match="read-only"):
        load_samples(target)[0] = 1


def test_no_samples_can_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()

    assert load_samples(path).shape == (0,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_samples_are_finite_and_in_range(value: float, upload: Upload, target: Path) -> None:
    decode(upload(media.float_wav([value, 0.25] * 8_000)), target, LIMITS)

    samples = load_samples(target)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1


def test_a_sample_rate_may_change_on_the_way(upload: Upload, target: Path) -> None:
    data = media.sound("adts", "aac") + media.sound("adts", "aac", rate_hz=48_000)

    assert decode(upload(data), target, LIMITS).audio_seconds == pytest.approx(4.0, abs=0.25)


def test_a_header_that_claims_four_gigabytes_is_not_believed(upload: Upload, target: Path) -> None:
    decoded = decode(upload(media.wav(claimed_bytes=0xFFFFFFFF)), target, LIMITS)

    assert (decoded.audio_seconds, decoded.warnings) == (1.0, ())


def test_probe_reads_the_header(upload: Upload) -> None:
    info = probe(upload(media.sound("ipod", "aac", layout="stereo", rate_hz=44_100)), LIMITS)

    assert info == audio.MediaInfo(
        container="mov,mp4,m4a,3gp,3g2,mj2",
        codec="aac",
        channels=2,
        sample_rate_hz=44_100,
        audio_seconds=2.0,
        estimated=False,
        video=False,
    )


def test_probe_takes_an_open_file_and_leaves_its_position(upload: Upload) -> None:
    with upload(media.wav()).open("rb") as file:
        file.seek(7)

        assert probe(file, LIMITS).audio_seconds == 1.0
        assert file.tell() == 7


def test_the_index_of_six_hours_fits_into_little_memory(upload: Upload) -> None:
    seconds, rate_hz = 6 * 3_600, 48_000
    data = boxes.mp4(
        seconds * rate_hz // 1_024, timescale=rate_hz, duration=seconds * rate_hz, tracks=2
    )

    assert probe(upload(data), TIGHT).audio_seconds == seconds


def test_a_length_reckoned_from_the_bit_rate_is_an_estimate(upload: Upload) -> None:
    headerless = media.sound("mp3", "libmp3lame", options={"write_xing": "0"})

    assert probe(upload(headerless), LIMITS).estimated
    assert not probe(upload(media.sound("mp3", "libmp3lame")), LIMITS).estimated


def test_a_film_is_video_and_a_cover_is_not(upload: Upload) -> None:
    assert probe(upload(media.video()), LIMITS).video
    cover = media.cover_art() + media.sound("mp3", "libmp3lame")
    assert not probe(upload(cover), LIMITS).video


def faststart() -> bytes:
    return media.sound("ipod", "aac", seconds=10, options={"movflags": "faststart"})


CUT: dict[str, Callable[[], tuple[bytes, float]]] = {
    "faststart m4a": lambda: (faststart(), 0.2),
    "flac": lambda: (media.sound("flac", "flac", seconds=10), 0.5),
    "flac, near its end": lambda: (media.sound("flac", "flac", seconds=10), 0.97),
    "mp3": lambda: (media.sound("mp3", "libmp3lame", seconds=10), 0.5),
    "mkv": lambda: (media.video("matroska", "libx264", sound_codec="libopus", seconds=10), 0.5),
}


@pytest.mark.parametrize("make", CUT.values(), ids=CUT)
def test_a_file_cut_short_is_read_as_far_as_it_goes(
    make: Callable[[], tuple[bytes, float]], upload: Upload, target: Path
) -> None:
    whole, share = make()

    decoded = decode(upload(whole[: int(len(whole) * share)]), target, LIMITS)

    assert decoded.warnings == ("truncated_input",)
    assert decoded.declared_seconds == pytest.approx(10.0, abs=0.1)
    assert decoded.audio_seconds == pytest.approx(10.0 * share, abs=1.2)


def test_a_tag_behind_the_end_is_no_truncation(upload: Upload, target: Path) -> None:
    data = media.sound("flac", "flac", seconds=10) + b"TAG" + b"x" * 125

    assert decode(upload(data), target, LIMITS).warnings == ()


def test_damage_in_the_middle_is_skipped(upload: Upload, target: Path) -> None:
    data = bytearray(media.sound("ipod", "aac", seconds=30))
    data[20_000:22_000] = b"\xa5" * 2_000

    decoded = decode(upload(bytes(data)), target, LIMITS)

    assert decoded.damaged_packets > 0
    assert decoded.audio_seconds == pytest.approx(29.6, abs=0.3)


def test_too_much_damage_in_a_row_ends_the_file(upload: Upload, target: Path) -> None:
    data = bytearray(media.sound("ipod", "aac", seconds=30))
    data[20_000:60_000] = b"\xa5" * 40_000
    limits = DecodeLimits(timeout_seconds=30, max_damaged_packets=5)

    decoded = decode(upload(bytes(data)), target, limits)

    assert decoded.warnings == ("truncated_input",)
    assert decoded.audio_seconds < 10


def test_a_missing_upload_is_not_taken_for_a_store_that_is_away(tmp_path: Path) -> None:
    with pytest.raises(errors.UploadMissing):
        probe(tmp_path / "gone", LIMITS)


def test_a_symbolic_link_is_no_upload(upload: Upload, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(upload(media.wav()))

    with pytest.raises(errors.UploadMissing):
        probe(link, LIMITS)


def test_a_pipe_with_a_name_is_no_upload(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(errors.UploadMissing):
        probe(tmp_path / "fifo", LIMITS)


def test_storage_that_cannot_be_read_is_not_the_files_fault() -> None:
    reader, writer = os.pipe()
    with (
        os.fdopen(reader, "rb") as pipe,
        os.fdopen(writer, "wb"),
        pytest.raises(errors.StorageUnavailable),
    ):
        probe(pipe, LIMITS)


def test_a_target_that_cannot_be_made_is_not_the_files_fault(
    upload: Upload, tmp_path: Path
) -> None:
    with pytest.raises(errors.StorageUnavailable):
        decode(upload(media.wav()), tmp_path / "nowhere" / "samples", LIMITS)


def test_a_target_left_by_a_dead_attempt_is_replaced(upload: Upload, target: Path) -> None:
    target.write_bytes(bytes(1_000_000))

    assert decode(upload(media.wav()), target, LIMITS).audio_seconds == 1.0
    assert target.stat().st_size == 64_000


def test_no_python_means_later(
    upload: Upload, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")

    with pytest.raises(errors.CapacityError):
        decode(upload(media.wav()), target, LIMITS)


def test_importing_us_loads_neither_ffmpeg_nor_numpy() -> None:
    code = "import speech.audio, sys; print({'av', 'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout == "set()\n", done.stderr


#: Seconds that the recordings of a folder last, which this repository does not carry.
RECORDINGS = {"jfk.flac": 11.0, "multilingual.mp3": 59.9, "stereo_diarization.wav": 5.0}


@pytest.mark.parametrize(("name", "seconds"), RECORDINGS.items())
def test_recordings_of_people_decode(name: str, seconds: float, target: Path) -> None:
    folder = os.environ.get("SPEECH_DATA_DIR")
    if not folder:
        pytest.skip("SPEECH_DATA_DIR is not set")

    decoded = decode(Path(folder) / name, target, LIMITS)

    assert decoded.warnings == ()
    assert decoded.audio_seconds == pytest.approx(seconds, abs=0.1)
    assert 0.01 < rms(target) < 0.5
