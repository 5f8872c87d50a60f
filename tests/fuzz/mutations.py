"""Ways to spoil a media file: each takes bytes and gives others, as its random numbers say."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from random import Random

from tests import media
from tests.hostile import Trap

#: Where a file keeps its figures: headers stand here, and most chunks have a name of four letters.
_HEAD_BYTES = 256
_CHUNK = re.compile(rb"[A-Za-z][A-Za-z0-9_ ]{3}")
_MAX_BYTES = 1 << 20
#: Of 1, 2, 4 and 8 bytes, cut to size.
_EXTREMES = (
    *(0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 2**24, 10**8),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1),
)

Mutation = Callable[[bytearray, Random], bytearray]


def mutate(seeds: Sequence[bytes], trap: Trap, random: Random) -> bytes:
    """One of the seeds, spoilt in one to four ways."""
    data = bytearray(random.choice(seeds))
    for _ in range(random.randint(1, 4)):
        way = random.choice(("spoil", "spoil", "spoil", "spoil", "splice", "lure"))
        if way == "splice":
            data = _splice(data, random.choice(seeds), random)
        elif way == "lure":
            data = _lure(data, trap, random)
        else:
            data = random.choice(_MUTATIONS)(data, random)
        del data[_MAX_BYTES:]
    return bytes(data)


def _place(data: bytearray, random: Random) -> int:
    """Somewhere, but mostly near what decides."""
    if not data:
        return 0
    kind = random.random()
    if kind < 0.4:
        return random.randrange(min(len(data), _HEAD_BYTES))
    if kind < 0.8:
        chunks = [found.start() for found in _CHUNK.finditer(bytes(data))]
        if chunks:
            return min(max(0, random.choice(chunks) + random.randint(-8, 32)), len(data) - 1)
    return random.randrange(len(data))


def _flip_bits(data: bytearray, random: Random) -> bytearray:
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        if data:
            data[_place(data, random)] ^= 1 << random.randrange(8)
    return data


def _overwrite(data: bytearray, random: Random) -> bytearray:
    place, size = _place(data, random), random.choice((1, 2, 4, 8))
    data[place : place + size] = random.randbytes(size)
    return data


def _write_extreme(data: bytearray, random: Random) -> bytearray:
    place, size = _place(data, random), random.choice((1, 2, 4, 4, 8))
    value = random.choice(_EXTREMES) + random.choice((-1, 0, 0, 0, 1))
    written = (value % (1 << 8 * size)).to_bytes(size)
    data[place : place + size] = random.choice((written, written[::-1]))
    return data


def _write_float(data: bytearray, random: Random) -> bytearray:
    value = random.choice((0.0, -1.0, 1e300, float("nan"), float("inf"), 1e-300))
    place = _place(data, random)
    data[place : place + 8] = struct.pack(random.choice("<>") + "d", value)
    return data


def _truncate(data: bytearray, random: Random) -> bytearray:
    del data[_place(data, random) :]
    return data


def _cut_out(data: bytearray, random: Random) -> bytearray:
    start = _place(data, random)
    del data[start : start + random.choice((1, 2, 4, 8, 64, 1_024, 8_192))]
    return data


def _fill(data: bytearray, random: Random) -> bytearray:
    start, size = _place(data, random), random.choice((4, 16, 256, 4_096))
    data[start : start + size] = bytes([random.choice((0, 0xFF, 0x80, 0x41))]) * size
    return data


def _duplicate(data: bytearray, random: Random) -> bytearray:
    start = _place(data, random)
    piece = bytes(data[start : start + random.choice((4, 8, 32, 256, 4_096, 65_536))])
    data[start:start] = piece * random.choice((1, 1, 2, 10, 100))
    return data


def _repeat(data: bytearray, random: Random) -> bytearray:
    return data * random.choice((2, 3, 10))


def _move(data: bytearray, random: Random) -> bytearray:
    start, size = _place(data, random), random.choice((4, 32, 512, 4_096))
    piece = bytes(data[start : start + size])
    del data[start : start + size]
    target = _place(data, random)
    data[target:target] = piece
    return data


_MUTATIONS: tuple[Mutation, ...] = (
    *(_flip_bits, _overwrite, _write_extreme, _write_extreme, _write_extreme, _write_float),
    *(_truncate, _cut_out, _fill, _duplicate, _repeat, _move),
)


def _splice(data: bytearray, other: bytes, random: Random) -> bytearray:
    """The beginning of one file and the end of another."""
    return data[: _place(data, random)] + bytearray(other)[_place(bytearray(other), random) :]


def _lure(data: bytearray, trap: Trap, random: Random) -> bytearray:
    """Put in what names other files and servers: over what is there, between, or in front."""
    targets = (trap.path(), f"file://{trap.path()}", "private.ts", trap.http())
    lure = random.choice(
        (
            media.hls(random.choice(targets)),
            media.hls("private.ts", key_url=trap.http("key")),
            media.ffconcat(random.choice((*targets, "private.wav", trap.path("private.wav")))),
            media.sdp(trap.port),
            media.dash(trap.http()),
            random.choice(targets).encode() + b"\0",
        )
    )
    place = random.choice((0, _place(data, random), len(data)))
    data[place : place + random.choice((0, len(lure)))] = lure
    return data
