"""The decode child: a program of its own, and the only one that ever looks inside an upload.

It reads media from one descriptor and writes samples to another. It takes nothing else from the
service, no name, no environment, only the standard library, PyAV,
``resampling`` and ``sandbox``, which it enters before the first byte is read. So whatever a file
makes it do, it can neither read another file nor reach a network or another process.

    main('{"source": 3, "target": 4, "limits": {...}, "part": {...}}')
    (target null: read the header)

Standard input is a lifeline: the child ends when it does. The first line of standard output is
``{"fences": [...]}``, those of the sandbox; the next one ``{"header": true}``, once it is read; the
last one is the answer, ``{"media": {...}}`` or
``{"error": code, "data": {...}}`` with a code of ``errors.py``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import av
import av.subtitles.codeccontext  # PyAV would import these two late, when nothing can be opened
import av.subtitles.stream
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.packet import Packet
from av.stream import Discard, Disposition

from speech import sandbox
from speech.resampling import SAMPLE_RATE_HZ, converter

#: The demuxers that may look at an upload. Those that follow names in a file (hls, concat, dash,
#: sdp, image2 …) are absent, and so is whatever is seldom used and seldom looked after.
CONTAINERS = (
    "aac,ac3,aiff,amr,asf,au,avi,caf,eac3,flac,flv,matroska,mov,mp3,mpeg,mpegts,ogg,w64,wav,wv"
)
#: The decoders that may run: none for pictures, because probing opens those of streams that nobody
#: asked for, and they are the ones with the bad record (CVE-2026-8461).
DECODERS = (
    "aac,aac_latm,ac3,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,alac,amrnb,amrwb,dca,eac3,flac,g722,g726,"
    "gsm,gsm_ms,libopus,mp1,mp1float,mp2,mp2float,mp3,mp3float,opus,pcm_alaw,pcm_bluray,pcm_f32be,"
    "pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16le,pcm_s24be,pcm_s24le,pcm_s32be,"
    "pcm_s32le,pcm_s8,pcm_u8,speex,vorbis,wavpack,wmalossless,wmapro,wmav1,wmav2,wmavoice"
)
LENGTHLESS = {"aac", "ac3", "amr", "eac3", "mp3"}  # FFmpeg guesses, from the bit rate
_OUT_OF_MEMORY = b'{"error": "resource_limit", "data": {}}'  # no memory to write it with


class Refused(Exception):
    """The file is not accepted, for a reason that has a code."""

    def __init__(self, code: str, **figures: float) -> None:
        self.reply = json.dumps({"error": code, "data": figures}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``speech.audio.DecodeLimits``, as it came over."""

    max_audio_seconds: float
    max_memory_bytes: int
    timeout_seconds: float
    max_channels: int
    max_streams: int
    min_sample_rate_hz: int
    max_sample_rate_hz: int
    max_damaged_packets: int
    header_seconds: float  # our parent's to measure


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """``speech.transcript.Part``, as it came over."""

    track: int | None
    start_seconds: float
    end_seconds: float | None


class Upload:
    """The upload as FFmpeg may see it: with no name to guess from or to resolve others against."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._offset = 0
        self.error: OSError | None = None  # the disk's fault, not the file's

    def read(self, size: int) -> bytes:
        data = self.peek(self._offset, size)
        self._offset += len(data)
        return data

    def peek(self, offset: int, size: int) -> bytes:
        left = self._size - offset
        if left < 0:  # the system would refuse an offset that a hostile file has made up
            return b""
        try:
            return os.pread(self._descriptor, min(size, left), offset)
        except OSError as error:
            self.error = error
            raise

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = (0, self._offset, self._size)[whence]
        if base + offset < 0:
            raise ValueError("before the start")
        self._offset = base + offset
        return self._offset

    def tell(self) -> int:
        return self._offset


def main(asked: str) -> NoReturn:
    """Answer and end at once, without goodbyes: FFmpeg may be in any state."""
    try:
        request = json.loads(asked)
        limits, part = Limits(**request["limits"]), Part(**request["part"])
        upload = Upload(request["source"])
        samples = None if request["target"] is None else io.FileIO(request["target"], "wb")
        status = _own_status()
        _enter_sandbox(limits, writes=samples is not None)
        media = _answer(upload, samples, limits, part)
        media["peak_memory_bytes"] = _peak_memory_bytes(status)
        reply = json.dumps({"media": media}).encode()
    except Refused as refused:
        reply = refused.reply
    except MemoryError:
        reply = _OUT_OF_MEMORY
    except BaseException:  # noqa: BLE001 - the outermost frame of a program
        os.write(1, traceback.format_exc()[-4096:].encode(errors="replace"))
        os._exit(1)
    os.write(1, b"\n" + reply)
    os._exit(0)


def _enter_sandbox(limits: Limits, *, writes: bool) -> None:
    fences = sandbox.enter(
        memory_bytes=limits.max_memory_bytes,
        seconds=limits.timeout_seconds,
        output_bytes=int(writes * (limits.max_audio_seconds + 1) * SAMPLE_RATE_HZ * 4),
    )
    os.write(1, json.dumps({"fences": fences}).encode() + b"\n")


def _own_status() -> int | None:
    """A descriptor of the file that tells of our memory, on Linux."""
    with contextlib.suppress(OSError):  # /proc may be hidden
        return os.open("/proc/self/status", os.O_RDONLY)
    return None


def _peak_memory_bytes(status: int | None) -> int | None:
    """Return the most that was resident at once (``ru_maxrss`` would include our parent's)."""
    found = status and re.search(rb"VmHWM:\s+(\d+) kB", os.pread(status, 8192, 0))
    return int(found[1]) * 1024 if found else None


def _answer(
    upload: Upload, samples: io.FileIO | None, limits: Limits, part: Part
) -> dict[str, Any]:
    try:
        with _open(upload) as container:
            stream = _choose(container, limits, part.track)
            media = _describe(container, stream, upload)
            os.write(1, b'{"header": true}\n')
            if media["declared_seconds"] and not media["estimated"]:
                _check_length(media["declared_seconds"], limits)
            _check_shape(media["sample_rate_hz"], media["channels"], limits)
            if samples is not None:
                media |= _Decoding(limits, samples, part).run(container, stream)
            return media
    finally:
        # FFmpeg takes a disk that fails for a file that ends; only we know better.
        if upload.error is not None:
            raise Refused("storage_unavailable") from upload.error


def _open(upload: Upload) -> InputContainer:
    lists = {"protocol_whitelist": "none", "format_whitelist": CONTAINERS}
    lists["codec_whitelist"] = DECODERS
    try:
        return av.open(upload, "r", options=lists, io_open=_refuse, metadata_errors="replace")
    except MemoryError:
        raise
    except (FFmpegError, ValueError) as error:
        raise Refused("not_audio") from error


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("an upload opens nothing")


def _choose(container: InputContainer, limits: Limits, track: int | None) -> AudioStream:
    """Return the audio stream that is asked for, or the best that we may decode.

    The others are told to stay silent.
    """
    streams = container.streams
    if len(streams) > limits.max_streams:
        raise Refused("too_many_streams", streams=len(streams))
    if not streams.audio:
        raise Refused("no_audio_stream")
    allowed = DECODERS.split(",")
    readable = [s for s in streams.audio if s.codec_context and s.codec_context.name in allowed]
    if not readable:
        raise Refused("not_audio")
    best = streams.best("audio")
    chosen = best if best in readable and isinstance(best, AudioStream) else readable[0]
    if track is not None:
        chosen = _track(streams.audio, track)
        if chosen not in readable:
            raise Refused("not_audio")
    for stream in streams:
        if stream is not chosen:
            stream.discard = Discard.all
    return chosen


def _track(tracks: Sequence[AudioStream], number: int) -> AudioStream:
    if number > len(tracks):
        raise Refused("no_such_track", tracks=len(tracks))
    return tracks[number - 1]


def _describe(container: InputContainer, stream: AudioStream, upload: Upload) -> dict[str, Any]:
    if stream.duration is not None and stream.time_base is not None:
        seconds = float(stream.duration * stream.time_base)
    else:  # that of the longest stream
        seconds = (container.duration or 0) / av.time_base
    name = container.format.name
    pictures = (s.disposition & Disposition.attached_pic for s in container.streams.video)
    return {
        "container": name,
        "codec": stream.codec_context.codec.canonical_name,
        "channels": stream.codec_context.channels,
        "sample_rate_hz": stream.codec_context.sample_rate,
        "declared_seconds": seconds if seconds > 0 else None,
        "estimated": name in LENGTHLESS and not _counts_its_frames(upload),
        "video": not all(pictures),
    }


def _counts_its_frames(upload: Upload) -> bool:
    """Tell whether an MP3's first frame says how many follow, as LAME's do."""
    head = upload.peek(0, 10)
    start = 0
    if head.startswith(b"ID3"):  # the tag's length follows, seven bits a byte
        start = 10 + functools.reduce(lambda size, byte: size << 7 | byte, head[6:], 0)
    return re.search(rb"Xing|Info|VBRI", upload.peek(start, 2048)) is not None


def _check_length(seconds: float, limits: Limits) -> None:
    if seconds > limits.max_audio_seconds:
        raise Refused("audio_too_long", audio_seconds=seconds)


def _check_shape(sample_rate_hz: int, channels: int, limits: Limits) -> None:
    if not sample_rate_hz or not channels:
        raise Refused("not_audio")
    if not limits.min_sample_rate_hz <= sample_rate_hz <= limits.max_sample_rate_hz:
        raise Refused("bad_sample_rate", sample_rate_hz=sample_rate_hz)
    if channels > limits.max_channels:
        raise Refused("too_many_channels", channels=channels)


class _Decoding:
    """One stream on its way into a file of samples: float32, mono, 16 kHz, in [-1, 1)."""

    def __init__(self, limits: Limits, samples: io.FileIO, part: Part) -> None:
        self._limits = limits
        self._start = round(part.start_seconds * SAMPLE_RATE_HZ)
        self._end = None if part.end_seconds is None else round(part.end_seconds * SAMPLE_RATE_HZ)
        #: Samples that came out so far, those before the part with them.
        self._position = 0
        # Never closed, because closing writes what is left, which after an error nobody wants.
        self._file = io.BufferedWriter(samples, 1 << 20)
        self._graph: Graph | None = None
        self._shape: tuple[str, str, int] | None = None
        self._seconds = 0.0
        self._written = 0
        self._damaged = 0
        self._damaged_in_a_row = 0

    def run(self, container: InputContainer, stream: AudioStream) -> dict[str, int]:
        stream.codec_context.thread_count = 1
        for packet in self._packets(container, stream):
            self._decode(packet)
            if self._cut or self._damaged_in_a_row > self._limits.max_damaged_packets:
                break
        self._drain()
        with _disk_errors():
            self._file.flush()
        if self._position and not self._written:
            raise Refused("empty_part", audio_seconds=self._position / SAMPLE_RATE_HZ)
        if not self._written:  # of a few milliseconds, resampling leaves nothing
            raise Refused("not_audio" if self._damaged else "no_audio_samples")
        return {
            "damaged_packets": self._damaged,
            "damaged_at_end": self._damaged_in_a_row,
            "cut": self._cut,
        }

    @property
    def _cut(self) -> bool:
        """Whether the part is over, though the file may not be."""
        return self._end is not None and self._position >= self._end

    def _packets(self, container: InputContainer, stream: AudioStream) -> Iterator[Packet[Any]]:
        """Yield packets, past damaged places, until the end or too much damage in a row."""
        while self._damaged_in_a_row <= self._limits.max_damaged_packets:
            with self._forgiving():
                yield from container.demux(stream)
                return

    def _decode(self, packet: Packet[Any]) -> None:
        frames: list[Any] = []
        with self._forgiving():
            frames = packet.decode()
        for frame in frames:
            if isinstance(frame, AudioFrame) and frame.samples:
                self._damaged_in_a_row = 0
                self._take(frame)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except MemoryError:  # FFmpeg's is an FFmpegError too
            raise
        except FFmpegError:
            self._damaged += 1
            self._damaged_in_a_row += 1

    def _take(self, frame: AudioFrame) -> None:
        # Before resampling: three frames at 1 Hz would become gigabytes in one call.
        _check_shape(frame.sample_rate, frame.layout.nb_channels, self._limits)
        self._seconds += frame.samples / frame.sample_rate
        _check_length(self._seconds, self._limits)
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:  # a broadcast may change it as it goes
            self._drain()
            self._graph, self._shape = converter(frame), shape
        frame.pts = None  # times that a hostile file invents would overflow when rescaled
        self._push(frame)

    def _drain(self) -> None:
        self._push(None)
        self._graph = None

    def _push(self, frame: AudioFrame | None) -> None:
        if self._graph is None:
            return
        self._graph.push(frame)
        with contextlib.suppress(BlockingIOError, EOFError):  # it wants more; that was all
            while True:
                samples = self._graph.pull()
                assert isinstance(samples, AudioFrame)  # noqa: S101 - told to the type checker
                self._write(samples)

    def _write(self, samples: AudioFrame) -> None:
        first = max(0, self._start - self._position)
        last = samples.samples
        if self._end is not None:
            last = min(last, self._end - self._position)
        self._position += samples.samples
        if last > first:
            with _disk_errors():
                wanted = memoryview(samples.planes[0])[first * 4 : last * 4]
                self._written += self._file.write(wanted)


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        raise Refused("disk_full" if full else "storage_unavailable") from error
