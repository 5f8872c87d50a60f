"""Media files, made when a test needs them: honest ones by PyAV, hostile ones byte by byte."""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import struct
import tempfile
import zipfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream

#: A 1 x 1 PNG: cover art, and a picture that is not audio.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHI", 2, 62, 1) + bytes(4096)
HTML = b"<!doctype html><title>404</title><h1>Not found</h1><p>" + b"There is nothing here. " * 50
TEXT = b"The quick brown fox jumps over the lazy dog.\n" * 100

_SAMPLES_PER_FRAME = 1024


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", TEXT)
    return buffer.getvalue()


def tone(seconds: float, *, rate_hz: int = 16_000, channels: int = 1, tone_hz: int = 440) -> bytes:
    """A sine at half of full scale: s16, little-endian, the same in all channels."""
    period = rate_hz // math.gcd(rate_hz, tone_hz)
    wave = array(
        "h", (round(16_384 * math.sin(math.tau * tone_hz * i / rate_hz)) for i in range(period))
    )
    values = itertools.islice(itertools.cycle(wave), round(seconds * rate_hz))
    return array("h", (value for value in values for _ in range(channels))).tobytes()


def wav(
    payload: bytes | None = None,
    *,
    rate_hz: int = 16_000,
    channels: int = 1,
    bits: int = 16,
    format_tag: int = 1,
    claimed_bytes: int | None = None,
) -> bytes:
    """A canonical 44-byte header before ``payload``, which is one second of a tone unless given.

    Args:
        format_tag: 1 is PCM, 3 is IEEE float.
        claimed_bytes: the length that the header claims, where that is a lie.
    """
    if payload is None:
        payload = tone(1.0, rate_hz=rate_hz, channels=channels)
    claimed = len(payload) if claimed_bytes is None else claimed_bytes
    block = channels * bits // 8
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", min(36 + claimed, 0xFFFFFFFF), b"WAVE", b"fmt ", 16),
        *(format_tag, channels, rate_hz, rate_hz * block & 0xFFFFFFFF, block & 0xFFFF, bits),
        *(b"data", claimed),
    )
    return head + payload


def float_wav(values: Iterable[float], *, rate_hz: int = 16_000) -> bytes:
    return wav(array("f", values).tobytes(), rate_hz=rate_hz, bits=32, format_tag=3)


def sound(
    container: str,
    codec: str,
    *,
    seconds: float = 2.0,
    rate_hz: int = 16_000,
    layout: str = "mono",
    tone_hz: int = 440,
    options: dict[str, str] | None = None,
) -> bytes:
    """A tone in one stream. ``options`` are the muxer's, such as ``{"movflags": "faststart"}``."""

    def fill(output: OutputContainer) -> None:
        stream = _add_audio(output, codec, rate_hz, layout)
        _write_tone(output, stream, seconds, tone_hz)

    return _muxed(container, fill, options)


def video(
    container: str = "mp4",
    codec: str = "mpeg4",
    *,
    sound_codec: str | None = "aac",
    rate_hz: int = 48_000,
    seconds: float = 2.0,
    options: dict[str, str] | None = None,
) -> bytes:
    """A film of 64 x 48 with a tone, or, with no ``sound_codec``, a silent one."""

    def fill(output: OutputContainer) -> None:
        picture = cast("VideoStream", output.add_stream(codec, rate=25))
        picture.width, picture.height = 64, 48
        picture.pix_fmt = "yuv420p"
        audio = _add_audio(output, sound_codec, rate_hz, "mono") if sound_codec else None
        for number in range(round(seconds * 25)):
            output.mux(picture.encode(_picture(number)))
        output.mux(picture.encode(None))
        if audio is not None:
            _write_tone(output, audio, seconds)

    return _muxed(container, fill, options)


def many_streams(count: int) -> bytes:
    """A Matroska file with ``count`` audio streams of a quarter of a second each."""

    def fill(output: OutputContainer) -> None:
        streams = [_add_audio(output, "pcm_s16le", 8_000, "mono") for _ in range(count)]
        for stream in streams:
            _write_tone(output, stream, 0.25)

    return _muxed("matroska", fill)


def tracks(*tones_hz: int) -> bytes:
    """A Matroska file with a second of sound on each of its tracks."""

    def fill(output: OutputContainer) -> None:
        streams = [_add_audio(output, "pcm_s16le", 16_000, "mono") for _ in tones_hz]
        for stream, tone_hz in zip(streams, tones_hz, strict=True):
            _write_tone(output, stream, 1.0, tone_hz)

    return _muxed("matroska", fill)


def tracks_of(*paths: Path) -> bytes:
    """A Matroska file in which each of some recordings is a track."""

    def fill(output: OutputContainer) -> None:
        with contextlib.ExitStack() as opened:
            sources = [opened.enter_context(av.open(path)) for path in paths]
            pairs = [
                (source, output.add_stream_from_template(source.streams.audio[0]))
                for source in sources
            ]
            for source, stream in pairs:
                for packet in source.demux(audio=0):
                    if packet.dts is not None:
                        packet.stream = stream
                        output.mux(packet)

    return _muxed("matroska", fill)


def id3_tag(*frames: tuple[str, bytes], padding_bytes: int = 0) -> bytes:
    """An ID3v2.3 tag of ``frames`` (name, body), to stand before an MP3."""
    body = b"".join(
        struct.pack(">4sIH", name.encode(), len(content), 0) + content for name, content in frames
    )
    size = len(body) + padding_bytes
    syncsafe = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + syncsafe + body + bytes(padding_bytes)


def cover_art(picture: bytes = PNG) -> bytes:
    """An ID3 tag that holds a front cover."""
    return id3_tag(("APIC", b"\x00image/png\x00\x03\x00" + picture))


def flac_of_silence(
    seconds: float, *, rate_hz: int = 8_000, claimed_seconds: float | None = None
) -> bytes:
    """Silence, 16 bit mono, in frames of 65,535 equal samples: about 15 bytes each.

    Args:
        claimed_seconds: the length in the header; 0 hides it.
    """
    total = round(seconds * rate_hz)
    claimed = total if claimed_seconds is None else round(claimed_seconds * rate_hz)
    info = struct.pack(">HH", 65_535, 65_535) + bytes(6)
    info += (rate_hz << 44 | 0 << 41 | 15 << 36 | claimed & 0xFFFFFFFFF).to_bytes(8) + bytes(16)
    sizes = [65_535] * (total // 65_535) + ([total % 65_535] if total % 65_535 else [])
    frames = (_flac_frame(number, size) for number, size in enumerate(sizes))
    return b"fLaC\x80\x00\x00\x22" + info + b"".join(frames)


def hls(*urls: str, key_url: str | None = None) -> bytes:
    """An HLS playlist that names ``urls`` as its segments."""
    key = f'#EXT-X-KEY:METHOD=AES-128,URI="{key_url}"\n' if key_url else ""
    segments = "".join(f"#EXTINF:2.0,\n{url}\n" for url in urls)
    head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:0\n"
    return f"{head}{key}{segments}#EXT-X-ENDLIST\n".encode()


def ffconcat(*paths: str) -> bytes:
    return ("ffconcat version 1.0\n" + "".join(f"file '{path}'\n" for path in paths)).encode()


def sdp(port: int) -> bytes:
    """A session that makes a naive reader listen for RTP on ``port``."""
    return (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=audio {port} RTP/AVP 0\na=rtpmap:0 PCMU/8000\n"
    ).encode()


def dash(url: str) -> bytes:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
        ' mediaPresentationDuration="PT2S" minBufferTime="PT2S"><Period><AdaptationSet'
        ' mimeType="audio/mp4"><Representation id="1" bandwidth="64000" codecs="mp4a.40.2">'
        f"<BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    ).encode()


def pls(url: str) -> bytes:
    return f"[playlist]\nNumberOfEntries=1\nFile1={url}\nLength1=-1\nVersion=2\n".encode()


def xspf(url: str) -> bytes:
    return (
        '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/">'
        f"<trackList><track><location>{url}</location></track></trackList></playlist>"
    ).encode()


def _muxed(
    container: str,
    fill: Callable[[OutputContainer], None],
    options: dict[str, str] | None = None,
) -> bytes:
    # A file with a name: a muxer that puts the index in front reads back what it wrote.
    with tempfile.NamedTemporaryFile() as file:
        with av.open(file.name, "w", format=container, container_options=options or {}) as output:
            fill(output)
        return Path(file.name).read_bytes()


def _add_audio(output: OutputContainer, codec: str, rate_hz: int, layout: str) -> AudioStream:
    stream = output.add_stream(codec, rate=rate_hz, options={"strict": "experimental"})
    audio = cast("AudioStream", stream)
    audio.layout = layout
    audio.bit_rate = 64_000
    return audio


def _write_tone(
    output: OutputContainer, stream: AudioStream, seconds: float, tone_hz: int = 440
) -> None:
    for frame in _tone_frames(stream, seconds, tone_hz):
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def _tone_frames(stream: AudioStream, seconds: float, tone_hz: int) -> Iterator[av.AudioFrame]:
    """The tone in the encoder's own sample format and frame size."""
    rate_hz, layout = stream.rate, stream.layout.name
    stream.codec_context.open(strict=False)
    size = stream.codec_context.frame_size or _SAMPLES_PER_FRAME
    resampler = av.AudioResampler(stream.format, layout, rate_hz, frame_size=size)
    pcm = tone(seconds, rate_hz=rate_hz, channels=stream.layout.nb_channels, tone_hz=tone_hz)
    width = 2 * stream.layout.nb_channels
    for start in range(0, len(pcm), _SAMPLES_PER_FRAME * width):
        chunk = pcm[start : start + _SAMPLES_PER_FRAME * width]
        frame = av.AudioFrame("s16", layout, len(chunk) // width)
        frame.planes[0].update(chunk)
        frame.sample_rate = rate_hz
        frame.pts = start // width
        frame.time_base = Fraction(1, rate_hz)
        yield from resampler.resample(frame)
    yield from resampler.resample(None)


def _picture(number: int) -> av.VideoFrame:
    frame = av.VideoFrame(64, 48, "yuv420p")
    for plane in frame.planes:
        plane.update(bytes([number * 7 % 256]) * plane.buffer_size)
    frame.pts = number
    frame.time_base = Fraction(1, 25)
    return frame


def _flac_frame(number: int, size: int) -> bytes:
    """One frame of ``size`` zeros. Source: RFC 9639, sections 9.1 and 9.2.3."""
    coded = chr(number).encode() if number < 0xD800 else chr(number + 0x800).encode()
    head = b"\xff\xf8\x70\x08" + coded + struct.pack(">H", size - 1)
    body = head + bytes([_crc(head, 8, 0x07)]) + b"\x00\x00\x00"
    return body + struct.pack(">H", _crc(body, 16, 0x8005))


def _crc(data: bytes, width: int, polynomial: int) -> int:
    crc, top = 0, 1 << width - 1
    for byte in data:
        crc ^= byte << width - 8
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc & top else crc << 1) & (1 << width) - 1
    return crc


#: A tone of so many seconds in every container that people send.
HONEST: dict[str, Callable[[float], bytes]] = {
    "aac": lambda s: sound("adts", "aac", seconds=s),
    "ac3": lambda s: sound("ac3", "ac3", rate_hz=48_000, seconds=s),
    "eac3": lambda s: sound("eac3", "eac3", rate_hz=48_000, seconds=s),
    "aiff": lambda s: sound("aiff", "pcm_s16be", seconds=s),
    "alac in m4a": lambda s: sound("ipod", "alac", seconds=s),
    "alac in caf": lambda s: sound("caf", "alac", seconds=s),
    "amr": lambda s: sound("amr", "libopencore_amrnb", rate_hz=8_000, seconds=s),
    "au": lambda s: sound("au", "pcm_s16be", seconds=s),
    "flac": lambda s: sound("flac", "flac", seconds=s),
    "m4a, index at the end": lambda s: sound("ipod", "aac", seconds=s),
    "m4a, index in front": lambda s: sound(
        "ipod", "aac", options={"movflags": "faststart"}, seconds=s
    ),
    "m4b": lambda s: sound("mp4", "aac", layout="stereo", rate_hz=44_100, seconds=s),
    "mka": lambda s: sound("matroska", "flac", seconds=s),
    "mp2": lambda s: sound("mp2", "mp2", rate_hz=44_100, seconds=s),
    "mp3": lambda s: sound("mp3", "libmp3lame", seconds=s),
    "mp3 with cover art": lambda s: cover_art() + sound("mp3", "libmp3lame", seconds=s),
    "mp3 after 60 MB of tag": lambda s: (
        id3_tag(padding_bytes=60_000_000) + sound("mp3", "libmp3lame", seconds=s)
    ),
    "ogg vorbis": lambda s: sound("ogg", "vorbis", layout="stereo", rate_hz=44_100, seconds=s),
    "opus": lambda s: sound("ogg", "libopus", rate_hz=48_000, seconds=s),
    "3gp": lambda s: sound("3gp", "libopencore_amrnb", rate_hz=8_000, seconds=s),
    "w64": lambda s: sound("w64", "pcm_s16le", seconds=s),
    "wav": lambda s: wav(tone(s)),
    "wav, 24 bit": lambda s: sound("wav", "pcm_s24le", rate_hz=96_000, seconds=s),
    "wav, A-law": lambda s: sound("wav", "pcm_alaw", rate_hz=8_000, seconds=s),
    "wav, title in Latin-1": lambda s: (
        wav(tone(s)) + b"LIST\x12\x00\x00\x00INFOINAM\x05\x00\x00\x00caf\xe9\x00\x00"
    ),
    "wav, ADPCM": lambda s: sound("wav", "adpcm_ms", seconds=s),
    "webm audio": lambda s: sound("webm", "libopus", rate_hz=48_000, seconds=s),
    "wma": lambda s: sound("asf", "wmav2", rate_hz=44_100, seconds=s),
    "wv": lambda s: sound("wv", "wavpack", seconds=s),
    "avi": lambda s: video("avi", "magicyuv", sound_codec="mp3", seconds=s),
    "flv": lambda s: video("flv", "flv", sound_codec="aac", rate_hz=44_100, seconds=s),
    "mkv": lambda s: video("matroska", "libx264", sound_codec="libopus", seconds=s),
    "mov": lambda s: video("mov", "libx264", seconds=s),
    "mp4": lambda s: video("mp4", "mpeg4", seconds=s),
    "mpeg": lambda s: video("mpeg", "mpeg1video", sound_codec="mp2", seconds=s),
    "ts": lambda s: video("mpegts", "libx264", seconds=s),
    "webm": lambda s: video("webm", "libvpx", sound_codec="libopus", seconds=s),
    "wmv": lambda s: video("asf", "wmv2", sound_codec="wmav2", seconds=s),
}
