"""Media files in, samples out: probes and decodes uploads, each in a child process of its own.

Uploads are hostile. This process opens them, and leaves every look inside to ``decoder.py``, which
may die of a file; whatever the child then says is believed only where it has the agreed shape.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import logging
import os
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, NoReturn, TypeVar

import errors
from speech import child
from speech.transcript import WHOLE, Part

if TYPE_CHECKING:  # the maintenance role probes files, and its image has no numpy
    import numpy as np
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

#: What the Whisper models take (whisper/audio.py, SAMPLE_RATE).
SAMPLE_RATE_HZ: Final = 16_000
_BYTES_PER_SECOND: Final = 4 * SAMPLE_RATE_HZ

_DECODER: Final = "from speech import decoder; decoder.main(sys.argv[2])"
#: Audio shorter than this share of its declared length was cut off.
_WHOLE = 0.9
#: … or than this one, if its last packet is unreadable; the rest is a tag that a program appended.
_WHOLE_BUT_FOR_TAGS = 0.99

#: What the child may find, and the limits that explain it to a client.
_REFUSALS: Final[dict[str, tuple[type[errors.ServiceError], tuple[str, ...]]]] = {
    "not_audio": (errors.NotAudio, ()),
    "no_audio_stream": (errors.NoAudioStream, ()),
    "no_audio_samples": (errors.NoAudioSamples, ()),
    "no_such_track": (errors.NoSuchTrack, ()),
    "empty_part": (errors.EmptyPart, ()),
    "audio_too_long": (errors.AudioTooLong, ("max_audio_seconds",)),
    "too_many_streams": (errors.TooManyStreams, ("max_streams",)),
    "too_many_channels": (errors.TooManyChannels, ("max_channels",)),
    "bad_sample_rate": (errors.BadSampleRate, ("min_sample_rate_hz", "max_sample_rate_hz")),
    "resource_limit": (errors.DecodeLimit, ("max_memory_bytes",)),
    "storage_unavailable": (errors.StorageUnavailable, ()),
    "disk_full": (errors.DiskFull, ()),
}
#: What it may have measured for that.
_FIGURES: Final = ("audio_seconds", "streams", "tracks", "channels", "sample_rate_hz")
#: How a program ends that a file has confused.
_FAULTS: Final = {
    *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL),
    *(signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP),
}
_FAR: Final = 1e15
_MAX_NAME: Final = 64
#: What the child says when it has read the header.
_HEADER_READ: Final = b'{"header": true}'

Source = Path | BinaryIO
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What one file may cost, and what it may be."""

    #: Longest audio, in the header and decoded.
    max_audio_seconds: float = 6 * 3600.0
    #: Address space of the child. Six hours of any honest file do with 250 MB; an MP4 of 600 bytes
    #: whose index promises millions of samples takes whatever it gets.
    max_memory_bytes: int = 512 << 20
    #: Wall clock and CPU time of the child.
    timeout_seconds: float = 900.0
    #: Wall clock until the header is read, which takes milliseconds: a tag of 400,000 fields would
    #: cost all the time that there is, and nobody could tell how much audio that was for.
    header_seconds: float = 60.0
    max_channels: int = 8
    max_streams: int = 32
    min_sample_rate_hz: int = 4_000
    max_sample_rate_hz: int = 384_000
    #: Unreadable packets in a row; the file ends before them.
    max_damaged_packets: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaInfo:
    """What a file's header says. The names are FFmpeg's, the facts the uploader's."""

    #: "wav", "mp3", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm" …
    container: str
    #: "pcm_s16le", "mp3", "aac", "opus" …
    codec: str
    channels: int
    sample_rate_hz: int
    #: The declared length; None where the file does not tell.
    audio_seconds: float | None
    #: The length was reckoned from the bit rate.
    estimated: bool
    #: There are moving pictures beside the sound.
    video: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What came out of a file."""

    audio_seconds: float
    #: See ``MediaInfo.audio_seconds``.
    declared_seconds: float | None
    #: "truncated_input": there was less audio than the file declares, or its end is unreadable.
    warnings: tuple[str, ...]
    #: Unreadable packets that were left out.
    damaged_packets: int
    #: Most memory that the child had resident; None where the system does not tell.
    peak_memory_bytes: int | None


def probe(source: Source, limits: DecodeLimits) -> MediaInfo:
    """Read the header of ``source``: a path, or an open file with a descriptor.

    Raises:
        MediaError: one of its children says what is wrong with the file.
        CapacityError: the storage or this machine failed, not the file.
    """
    with _opened(source) as descriptor:
        return _media(_ask(descriptor, None, limits, WHOLE, _nothing))


def decode(
    source: Source,
    target: Path | IO[bytes],
    limits: DecodeLimits,
    *,
    part: Part = WHOLE,
    cancelled: Callable[[], bool] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Decoded:
    """Decode the best audio stream of ``source`` into ``target``; damaged files as far as they go.

    Args:
        target: becomes raw float32, mono, 16 kHz, in [-1, 1), for ``load_samples``. A path is
            replaced if it exists, and gone if this raises; an open file has to be empty. No two
            calls at a time may share it.
        part: what of it becomes samples; the first of them is that of its start.
        cancelled: asked about ten times a second; may raise what it likes instead.
        progress: told as often how many seconds are decoded.

    Raises:
        Interrupted: ``cancelled`` said so.
        MediaError: one of its children says what is wrong with the file.
        CapacityError: the storage or this machine failed, not the file.
    """
    with _opened(source) as descriptor, _created(target) as samples:

        def attend() -> None:
            if cancelled is not None and cancelled():
                raise errors.Interrupted
            if progress is not None:
                progress(os.fstat(samples).st_size / _BYTES_PER_SECOND)

        answer = _ask(descriptor, samples, limits, part, attend)
        attend()
        audio_seconds = os.fstat(samples).st_size / _BYTES_PER_SECOND
        return _decoded(answer, audio_seconds, limits, part)


def scratch_file(folder: Path) -> IO[bytes]:
    """Open a file for ``decode`` that has no name: whatever ends this process deletes it.

    Raises:
        CapacityError: the folder cannot be used.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise storage_error(error) from error


def load_samples(source: Path | IO[bytes]) -> NDArray[np.float32]:
    """Map what ``decode`` wrote.

    Returns:
        float32, shape (n_samples,), mono, 16 kHz, in [-1, 1); read-only, not in memory yet.
    """
    import numpy as np  # noqa: PLC0415 - see above

    size = source.stat().st_size if isinstance(source, Path) else os.fstat(source.fileno()).st_size
    if size == 0:  # an empty file cannot be mapped
        empty = np.zeros(0, dtype=np.float32)
        empty.flags.writeable = False
        return empty
    return np.memmap(source, dtype=np.float32, mode="r")


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[int]:
    if not isinstance(source, Path):
        yield source.fileno()
        return
    try:
        # O_NONBLOCK: opening a FIFO would wait for its other end.
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.UploadMissing from error
    except OSError as error:
        if error.errno == errno.ELOOP:  # a symbolic link, which we never make
            raise errors.UploadMissing from error
        raise errors.StorageUnavailable from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise errors.UploadMissing
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _created(target: Path | IO[bytes]) -> Iterator[int]:
    """A new, empty file at ``target`` that goes away again if the body raises."""
    if not isinstance(target, Path):
        yield target.fileno()
        return
    try:
        target.unlink(missing_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise storage_error(error) from error
    try:
        yield descriptor
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def storage_error(error: OSError) -> errors.CapacityError:
    """What an error of the scratch folder's disk means."""
    full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return errors.DiskFull() if full else errors.StorageUnavailable()


def _nothing() -> None:
    pass


def _ask(
    source: int,
    target: int | None,
    limits: DecodeLimits,
    part: Part,
    attend: Callable[[], None],
) -> dict[str, Any]:
    """Have a child read ``source``, and return the fields of its answer, which are not checked."""
    request = {
        "source": source,
        "target": target,
        "limits": dataclasses.asdict(limits),
        "part": dataclasses.asdict(part),
    }
    descriptors = [source] if target is None else [source, target]
    began = time.monotonic()

    def watch(said: bytes) -> None:
        if _HEADER_READ not in said and time.monotonic() - began > limits.header_seconds:
            raise errors.DecodeLimit(header_seconds=limits.header_seconds)
        attend()

    ending = child.run(
        _DECODER,
        json.dumps(request),
        descriptors,
        timeout_seconds=limits.timeout_seconds,
        attend=watch,
    )
    _note_fences(ending.said.partition(b"\n")[0])
    return _judge(ending.status, ending.said, limits)


@functools.cache  # said once a process, not once a file
def _note_fences(said: bytes) -> None:
    if b"fences" in said and b"seccomp" not in said:
        fences = said[:_MAX_NAME].decode(errors="replace")
        logger.warning("decoding without a filter of system calls", extra={"decoder": fences})


def _judge(status: int, said: bytes, limits: DecodeLimits) -> dict[str, Any]:
    """Tell what the child's end means: the fields of its answer, or an error."""
    if status < 0:
        raise _died(-status, limits)
    try:
        answer = json.loads(said.splitlines()[-1], parse_constant=_refuse)
        if status == 0 and "media" in answer:
            return dict(answer["media"])
        refusal, told = _REFUSALS[answer["error"]]
        data = {name: answer["data"].get(name) for name in _FIGURES}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        unclear = errors.ServiceError("The decoder gave no clear answer.", exit_status=status)
        unclear.add_note(said.decode(errors="replace"))  # for our log; clients never see it
        raise unclear from error
    figures = {k: v for k, v in data.items() if not isinstance(v, str) and _is_sane(v)}
    raise refusal(**figures, **{name: getattr(limits, name) for name in told})


def _died(signal_number: int, limits: DecodeLimits) -> errors.ServiceError:
    if signal_number in {signal.SIGALRM, signal.SIGXCPU}:
        return errors.DecodeLimit(timeout_seconds=limits.timeout_seconds)
    if signal_number in _FAULTS:
        return errors.DecodeLimit(signal=signal_number)
    # From outside: something else may have filled the memory, or everything is being stopped.
    return errors.DecoderKilled()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _media(answer: dict[str, Any]) -> MediaInfo:
    return MediaInfo(
        container=_field(answer, "container", str),
        codec=_field(answer, "codec", str),
        channels=_field(answer, "channels", int),
        sample_rate_hz=_field(answer, "sample_rate_hz", int),
        audio_seconds=_optional(answer, "declared_seconds", float),
        estimated=_field(answer, "estimated", bool),
        video=_field(answer, "video", bool),
    )


def _decoded(
    answer: dict[str, Any], audio_seconds: float, limits: DecodeLimits, part: Part
) -> Decoded:
    media = _media(answer)
    damaged_at_end = _field(answer, "damaged_at_end", int)
    truncated = damaged_at_end > limits.max_damaged_packets or _is_truncated(
        part.start_seconds + audio_seconds, media, damaged_at_end=damaged_at_end > 0
    )
    return Decoded(
        audio_seconds=audio_seconds,
        declared_seconds=media.audio_seconds,
        # what comes after the part is not looked at
        warnings=("truncated_input",) if truncated and not _field(answer, "cut", bool) else (),
        damaged_packets=_field(answer, "damaged_packets", int),
        peak_memory_bytes=_optional(answer, "peak_memory_bytes", int),
    )


def _is_truncated(audio_seconds: float, media: MediaInfo, *, damaged_at_end: bool) -> bool:
    if not media.audio_seconds:
        return damaged_at_end
    if media.estimated:
        return False  # a guess proves nothing, and tags at the end look like damage
    share = audio_seconds / media.audio_seconds
    return share < _WHOLE or (damaged_at_end and share < _WHOLE_BUT_FOR_TAGS)


def _optional(answer: dict[str, Any], name: str, kind: type[T]) -> T | None:
    return None if answer.get(name) is None else _field(answer, name, kind)


def _field(answer: dict[str, Any], name: str, kind: type[T]) -> T:
    value = answer.get(name)
    if type(value) is not kind or not _is_sane(value):
        raise errors.ServiceError("The decoder gave no clear answer.")
    return value


def _is_sane(value: object) -> bool:
    """Whether a number is finite and no monster, and a text a name."""
    if isinstance(value, str):
        return len(value) <= _MAX_NAME and value.isascii() and value.isprintable()
    return isinstance(value, int | float) and abs(value) < _FAR
