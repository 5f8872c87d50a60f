"""Containers laid out byte by byte, with whatever figures a hostile file may hold."""

import struct
import zlib
from collections.abc import Iterator

_SAMPLES_PER_PACKET = 1024


def box(name: str, *contents: bytes) -> bytes:
    """A box of an MP4 file."""
    body = b"".join(contents)
    return struct.pack(">I4s", 8 + len(body), name.encode()) + body


def full_box(name: str, *contents: bytes, flags: int = 0) -> bytes:
    return box(name, struct.pack(">I", flags), *contents)


#: Where the samples lie: in this file.
HERE = full_box("url ", flags=1)


def elsewhere(url: str) -> bytes:
    """A reference to samples that lie in another file, as a URL."""
    return full_box("url ", url.encode() + b"\0")


def alias(path: str) -> bytes:
    """The same in QuickTime's form: a record of a volume, a name and a path."""
    name = path.rpartition("/")[2].encode()[:63]
    head = bytes(10) + bytes(28) + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0")
    levels = struct.pack(">hh", 1, 1) + bytes(12)
    written = path.encode()
    record = struct.pack(">hh", 2, len(written)) + written + b"\0" * (len(written) % 2)
    return full_box("alis", (head + levels + record + struct.pack(">hh", -1, 0)).ljust(160, b"\0"))


def mp4(
    samples: int,
    *,
    codec: str = "mp4a",
    rate_hz: int = 16_000,
    channels: int = 1,
    timescale: int = 16_000,
    duration: int = 16_000,
    tracks: int = 1,
    reference: bytes = HERE,
    payload: bytes = bytes(64),
) -> bytes:
    """A file whose index says that there are ``samples`` packets of two bytes each."""
    track = box(
        "trak",
        full_box("tkhd", bytes(80), flags=7),
        _media(_track_index(samples, codec, rate_hz, channels), timescale, duration, reference),
    )
    movie = full_box("mvhd", struct.pack(">IIII", 0, 0, 1000, 1000), bytes(80))
    head = box("ftyp", b"M4A \0\0\0\0M4A isom")
    return head + box("mdat", payload) + box("moov", movie, *[track] * tracks)


def fragmented_mp4(samples: int, *, rate_hz: int = 16_000) -> bytes:
    """A file whose only fragment says in four bytes how many packets it has."""
    none = bytes(4)
    index = box(
        "stbl",
        full_box("stsd", struct.pack(">I", 1), _sample_entry("mp4a", rate_hz, 1)),
        full_box("stts", none),
        full_box("stsc", none),
        full_box("stsz", none, none),
        full_box("stco", none),
    )
    track = box(
        "trak",
        full_box("tkhd", struct.pack(">III", 0, 0, 1), bytes(68), flags=7),
        _media(index, rate_hz, 0, HERE),
    )
    defaults = full_box("trex", struct.pack(">IIIII", 1, 1, _SAMPLES_PER_PACKET, 1, 0))
    movie = full_box("mvhd", struct.pack(">IIII", 0, 0, 1000, 0), bytes(80))
    run = full_box("trun", struct.pack(">Ii", samples, 100), flags=1)
    header = full_box("tfhd", struct.pack(">I", 1), flags=0x20000)
    fragment = box("moof", full_box("mfhd", struct.pack(">I", 1)), box("traf", header, run))
    head = box("ftyp", b"isom\0\0\0\0isom") + box("moov", movie, track, box("mvex", defaults))
    return head + fragment + box("mdat", bytes(1000))


def nested_boxes(depth: int) -> bytes:
    """Boxes in boxes in boxes."""
    sizes = (16 + 8 * (depth - level) for level in range(depth))
    return box("ftyp", b"M4A \0\0\0\0") + b"".join(struct.pack(">I4s", s, b"moov") for s in sizes)


def _media(index: bytes, timescale: int, duration: int, reference: bytes) -> bytes:
    header = struct.pack(">IIIIHH", 0, 0, timescale, duration, 0x55C4, 0)
    handler = full_box("hdlr", b"\0\0\0\0soun", bytes(13))
    references = box("dinf", full_box("dref", struct.pack(">I", 1), reference))
    information = box("minf", full_box("smhd", bytes(4)), references, index)
    return box("mdia", full_box("mdhd", header), handler, information)


def _track_index(samples: int, codec: str, rate_hz: int, channels: int) -> bytes:
    return box(
        "stbl",
        full_box("stsd", struct.pack(">I", 1), _sample_entry(codec, rate_hz, channels)),
        full_box("stts", struct.pack(">III", 1, samples, _SAMPLES_PER_PACKET)),
        full_box("stsc", struct.pack(">IIII", 1, 1, samples, 1)),
        full_box("stsz", struct.pack(">II", 2, samples)),
        full_box("stco", struct.pack(">II", 1, 36)),  # the payload
    )


def _sample_entry(codec: str, rate_hz: int, channels: int) -> bytes:
    sound = struct.pack(">HHHHI", channels, 16, 0, 0, (rate_hz & 0xFFFF) << 16)
    aac = full_box("esds", bytes.fromhex("0319000000041140150000000000fa000000fa0005021408060102"))
    return box(codec, bytes(6), struct.pack(">H", 1), bytes(8), sound, aac * (codec == "mp4a"))


def riff(kind: str, *chunks: bytes) -> bytes:
    body = kind.encode() + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def chunk(name: str, *contents: bytes) -> bytes:
    """A chunk of a RIFF file."""
    body = b"".join(contents)
    return name.encode() + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def avi(pcm: bytes, *, subtitle: bytes | None = None, streams: int = 1) -> bytes:
    """Sound at 16 kHz, and what FFmpeg may take for a subtitle file inside (GAB2)."""

    def stream(kind: str, form: bytes, scale: int, rate: int) -> bytes:
        header = kind.encode() + bytes(16) + struct.pack("<IIIIIII", scale, rate, 0, 100, 0, 0, 2)
        return chunk("LIST", b"strl", chunk("strh", header, bytes(8)), chunk("strf", form))

    sound = stream("auds", struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16), 2, 32_000)
    words = stream("txts", b"", 1, 1) if subtitle else b""
    count = streams + bool(subtitle)
    main = struct.pack("<IIIIIIIIII", 40_000, 0, 0, 0x10, 1, 0, count, 0, 64, 48) + bytes(16)
    header = chunk("LIST", b"hdrl", chunk("avih", main), sound * streams, words)
    title = "x\0".encode("utf-16-le")
    lines = b"GAB2\0\2\0" + struct.pack("<I", len(title)) + title
    lines += struct.pack("<HI", 4, len(subtitle or b"")) + (subtitle or b"")
    packets = chunk(f"{streams:02}tx", lines) if subtitle else b""
    return riff("AVI ", header, chunk("LIST", b"movi", packets, chunk("00wb", pcm)))


def caf(
    *chunks: tuple[str, int | None, bytes],
    rate_hz: float = 16_000.0,
    codec: str = "lpcm",
    shape: tuple[int, int, int, int] = (2, 1, 1, 16),
) -> bytes:
    """A Core Audio file of chunks: name, claimed size (None: the true one), content.

    Args:
        shape: bytes and frames a packet, channels, bits.
    """
    form = struct.pack(">d4sIIIII", rate_hz, codec.encode(), 0, *shape)
    parts = [("desc", None, form), *chunks]
    return b"caff\0\1\0\0" + b"".join(
        name.encode() + struct.pack(">q", len(content) if size is None else size) + content
        for name, size, content in parts
    )


def au(pcm: bytes, *, rate_hz: int = 16_000, channels: int = 1, offset: int = 24) -> bytes:
    return b".snd" + struct.pack(">IIIII", offset, len(pcm), 3, rate_hz, channels) + pcm


def aiff(pcm: bytes, *, rate: bytes, channels: int = 1) -> bytes:
    """``rate`` is a number of 80 bits, as the format has them."""
    common = struct.pack(">hIh", channels, len(pcm) // 2, 16) + rate
    sound = bytes(8) + pcm
    body = b"AIFFCOMM" + struct.pack(">I", 18) + common
    body += b"SSND" + struct.pack(">I", len(sound)) + sound
    return b"FORM" + struct.pack(">I", len(body)) + body


def opus_of_silence(seconds: int) -> bytes:
    """Ogg pages of one second each."""
    return b"".join(_ogg_pages(seconds))


def _ogg_pages(seconds: int) -> Iterator[bytes]:
    head = b"OpusHead\1\1" + struct.pack("<HIhB", 0, 48_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<II", 0, 0)
    yield _ogg_page(0, 0, [head], first=True)
    yield _ogg_page(1, 0, [tags])
    silence = [b"\x18\xff\xfe"] * 16  # 60 ms each, and one of 40 ms
    for second in range(seconds):
        yield _ogg_page(second + 2, (second + 1) * 48_000, [*silence, b"\x10\xff\xfe"])


def _ogg_page(number: int, position: int, packets: list[bytes], *, first: bool = False) -> bytes:
    lengths = bytes(len(packet) for packet in packets)
    head = b"OggS\0" + bytes([2 * first]) + struct.pack("<qII", position, 1, number)
    page = head + bytes(4) + bytes([len(packets)]) + lengths + b"".join(packets)
    return page[:22] + struct.pack("<I", _ogg_checksum(page)) + page[26:]


#: Ogg's checksum is zlib's with the bits of everything the other way round.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    mirrored = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
