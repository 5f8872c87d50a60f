"""More hostile uploads: what containers wrap up, and figures that nobody reads."""

import math
import struct
import zlib
from collections.abc import Callable

from tests import boxes, matroska, media
from tests.hostile import BAD, Bad, Trap, mp3, tone


def _matroska(end: str | None, make: Callable[[], bytes]) -> Bad:
    return Bad(end, lambda _: make(), "x.mkv")


def _mov(end: str | None, *contents: bytes) -> Bad:
    head = boxes.box("ftyp", b"qt  \0\0\0\0qt  ")
    return Bad(end, lambda _: head + boxes.box("moov", *contents), "x.mov")


def _flac_with_pictures(_: Trap) -> bytes:
    whole = media.flac_of_silence(2)
    picture = struct.pack(">II9sI", 3, 9, b"image/png", 0) + struct.pack(">IIII", 9, 9, 32, 0)
    size = 2**24 - 1
    body = picture + struct.pack(">I", size - len(picture) - 4)
    one = b"\x06" + size.to_bytes(3) + body.ljust(size, b"\0")
    return b"fLaC\0" + whole[5:42] + one * 3 + b"\x81\0\0\0" + whole[42:]


def _rf64(_: Trap) -> bytes:
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, 2**63, 2**63 - 1, 2**62, 0)
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + media.wav(tone())[12:]


def _sidx(_: Trap) -> bytes:
    index = struct.pack(">IIIIHH", 1, 16_000, 0, 0, 0, 65_535) + b"\xff" * 12 * 65_535
    film = boxes.mp4(500, codec="sowt", payload=tone())
    return film + boxes.full_box("sidx", index) * 10


def _compressed_index() -> bytes:
    bomb = struct.pack(">I", 2**31 - 1) + zlib.compress(bytes(64 << 20), 9)
    return boxes.box("cmov", boxes.box("dcom", b"zlib"), boxes.box("cmvd", bomb))


def _elsewhere(trap: Trap) -> bytes:
    reference = boxes.full_box("rdrf", b"url ", struct.pack(">I", 99), trap.http().encode())
    movie = boxes.box("rmra", boxes.box("rmda", reference))
    return boxes.box("ftyp", b"qt  \0\0\0\0qt  ") + boxes.box("moov", movie)


WRAPPED = {
    "a Matroska film with the films before and after it": Bad(
        None, lambda trap: matroska.linked(trap.path("private.wav"), trap.http()), "x.mkv"
    ),
    "200 fonts in Matroska": _matroska("too_many_streams", lambda: matroska.with_attachments(200)),
    "60 MB of zeros in 60 kB of Matroska": _matroska(
        "no_audio_samples", lambda: matroska.packed(matroska.bomb())
    ),
    "300 MB of zeros in Matroska, block by block": _matroska(
        "no_audio_samples", lambda: matroska.packed(*[matroska.bomb()] * 5)
    ),
    "a Matroska film at NaN Hz": _matroska(None, lambda: matroska.film(rate_hz=math.nan)),
    "a QuickTime movie that only says where another one lies": Bad(
        "no_audio_stream", _elsewhere, "x.mov"
    ),
    "an index of QuickTime that is 2 GB when unpacked": _mov("resource_limit", _compressed_index()),
    "10 indices of MP4 fragments that are not there": Bad(None, _sidx, "x.mp4"),
    "a FLAC after 48 MB of pictures": Bad(None, _flac_with_pictures, "x.flac"),
    "an RF64 of 2^62 samples": Bad("audio_too_long", _rf64, "x.wav"),
    "an MP3 after 50 pictures": Bad(
        "too_many_streams",
        lambda _: (
            media.id3_tag(
                *(("APIC", b"\0image/png\0\3%d\0" % place + media.PNG) for place in range(50))
            )
            + mp3()
        ),
    ),
    "metadata of FFmpeg": Bad("not_audio", lambda _: b";FFMETADATA1\ntitle=x\n", "x.mp3"),
    "1,000 Opus files in one, an hour long": Bad(
        "audio_too_long", lambda _: boxes.opus_of_silence(4) * 1_000, "x.opus"
    ),
}

#: All that are tried.
EVERY = BAD | WRAPPED
