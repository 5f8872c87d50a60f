"""Matroska by hand, for what no program would write."""

import struct
import zlib

from tests import media

#: So many zeros make a few kilobytes of zlib.
BOMB_BYTES = 60 << 20


def element(name: str, *contents: bytes) -> bytes:
    """Write an element by its id in hexadecimal; its length takes eight bytes."""
    body = b"".join(contents)
    return bytes.fromhex(name) + (1 << 56 | len(body)).to_bytes(8) + body


def number(name: str, value: int) -> bytes:
    return element(name, value.to_bytes(max(1, (value.bit_length() + 7) // 8)))


def bomb() -> bytes:
    return zlib.compress(bytes(BOMB_BYTES), 9)


def film(
    *blocks: bytes, info: bytes = b"", more: bytes = b"", track: bytes = b"", rate_hz: float = 16e3
) -> bytes:
    """A segment of one track of 16 bit PCM; without blocks with a tone of a second.

    Args:
        info: of the segment.
        more: before the track.
        track: what it says of itself beside its sound.
    """
    sound = element(
        "E1", element("B5", struct.pack(">d", rate_hz)), number("9F", 1), number("6264", 16)
    )
    one = [number("D7", 1), number("73C5", 1), number("83", 2), element("86", b"A_PCM/INT/LIT")]
    cluster = [
        element("1F43B675", number("E7", place), element("A3", b"\x81\0\0\x80" + block))
        for place, block in enumerate(blocks or (media.tone(1.0),))
    ]
    head = element("1A45DFA3", element("4282", b"matroska"), number("4287", 4), number("4285", 2))
    return head + element(
        "18538067",
        element("1549A966", number("2AD7B1", 1_000_000), info),
        more,
        element("1654AE6B", element("AE", *one, sound, track)),
        *cluster,
    )


def linked(path: str, url: str) -> bytes:
    """A film that names the films before and after it, as files."""
    uid = b"\x22" * 16
    names = element("3C83AB", path.encode()) + element("3E83BB", url.encode())
    return film(info=element("3CB923", uid) + element("3EB923", uid) + names)


def with_attachments(count: int, *, size: int = 10) -> bytes:
    """A film with fonts, whose names climb out of every folder."""
    name, kind = element("466E", b"../../x.ttf"), element("4660", b"application/x-truetype-font")
    files = [
        element("61A7", name, kind, element("465C", bytes(size)), number("46AE", place + 1))
        for place in range(count)
    ]
    return film(more=element("1941A469", *files))


def with_tags(count: int) -> bytes:
    tags = [
        element("67C8", element("45A3", b"T%d" % place), element("4487", b"x"))
        for place in range(count)
    ]
    return film(more=element("1254C367", *(element("7373", tag) for tag in tags)))


def packed(*blocks: bytes) -> bytes:
    """A film whose blocks are said to be compressed by zlib (RFC 9559, section 5.1.4.1.31)."""
    algorithm = element("5034", number("4254", 0))
    coding = element("6240", number("5031", 0), number("5032", 1), number("5033", 0), algorithm)
    return film(*blocks, track=element("6D80", coding))
