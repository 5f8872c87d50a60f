"""What to look at again in a transcript: where a model went round in circles, or guessed.

Judged from the transcript and the loudness of the audio alone, so it costs nothing to ask for. The
limits are openai-whisper's own where it has some; nothing here is a measure of how good the text
is, only of where it is likely to be bad.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from speech.transcript import Segment, Transcript

#: The same text in so many segments in a row is a loop; so often in a row within one, too.
LOOP_SEGMENTS: Final = 3
LOOP_PHRASES: Final = 4
#: Words of the longest phrase that is looked for.
LONGEST_PHRASE: Final = 8
#: Above, a text repeats itself (``compression_ratio_threshold`` of openai-whisper).
MOST_COMPRESSION: Final = 2.4
#: Below, it was guessed (its ``logprob_threshold``).
LEAST_LOGPROB: Final = -1.0
#: Nobody speaks faster, in characters a second; the times are wrong, or the text is.
MOST_CHARACTERS: Final = 40.0
#: What is looked at as silence, as a share of how loud the loud tenth of the audio is.
QUIET: Final = 0.1
QUIET_LEAST: Final = 2
#: Of a segment; shorter ones may well lie between two stretches.
SILENT_SHARE: Final = 0.9
SILENT_SECONDS: Final = 1.0
#: Sound that lasts so long and has no word.
GAP_SECONDS: Final = 10.0
#: Words begin and end a little beside their times.
MARGIN_SECONDS: Final = 1.0

Range = tuple[float, float]


class Doubt(StrEnum):
    """Why somebody should look."""

    LOOP = "loop"  #: The same again and again.
    REPETITIVE = "repetitive"  #: Compresses as no speech does.
    LOW_CONFIDENCE = "low_confidence"  #: The model was guessing.
    TOO_FAST = "too_fast"  #: More than anybody says in that time.
    IN_SILENCE = "in_silence"  #: There is nothing to be heard.
    NO_WORDS = "no_words"  #: There is something to be heard, and no word.
    CUT_OFF = "cut_off"  #: The same, at the end.


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A stretch to look at."""

    doubt: Doubt
    start_seconds: float
    end_seconds: float
    #: The numbers of its segments, from 0; none where there should be some.
    segments: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What there is to say of a transcript."""

    #: In the order of the audio.
    findings: tuple[Finding, ...]
    #: 0 to 1; None where nobody knows how loud the audio is.
    silence_share: float | None
    #: Of the audio that segments lie over, 0 to 1.
    speech_share: float
    #: While somebody speaks; None without a word.
    words_per_minute: float | None

    @property
    def suspects(self) -> list[int]:
        """The numbers of the segments that somebody should look at."""
        return sorted({number for finding in self.findings for number in finding.segments})


def judge(transcript: Transcript, pairs: Sequence[int], *, start_seconds: float = 0.0) -> Quality:
    """Look a transcript over.

    Args:
        pairs: How loud the audio is: see ``speech.peaks``; none where nobody knows.
        start_seconds: Where in its recording the audio begins, as the transcript's times say it.
    """
    segments, length = transcript.segments, transcript.audio_seconds
    spoken = _joined((each.start_seconds, each.end_seconds) for each in segments)
    speech_seconds = sum(end - start for start, end in spoken)
    loud = _loud(pairs, length, start_seconds)
    findings = [*_loops(segments), *_doubtful(segments)]
    if loud is not None:
        findings += _in_silence(segments, loud, length / (len(pairs) // 2))
        findings += _without_words(spoken, loud, end_seconds=start_seconds + length)
    words = transcript.word_count
    return Quality(
        findings=tuple(sorted(findings, key=lambda each: (each.start_seconds, each.doubt))),
        silence_share=None if loud is None else 1 - _share(sum(e - s for s, e in loud), length),
        speech_share=_share(speech_seconds, length),
        words_per_minute=60 * words / speech_seconds if words and speech_seconds else None,
    )


# What the text says of itself


def _loops(segments: Sequence[Segment]) -> Iterator[Finding]:
    numbered = enumerate(_plain(each.text) for each in segments)
    for text, run in itertools.groupby(numbered, key=lambda pair: pair[1]):
        numbers = tuple(number for number, _ in run)
        # of single words, as some models cut, people do say some in a row
        least = LOOP_SEGMENTS if len(text) > 1 else 2 * LOOP_SEGMENTS
        if text and len(numbers) >= least:
            yield _finding(Doubt.LOOP, segments, numbers)
    for number, segment in enumerate(segments):
        if _repeats(_plain(segment.text)):
            yield _finding(Doubt.LOOP, segments, (number,))


def _plain(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


def _repeats(words: Sequence[str]) -> bool:
    """Whether a phrase stands there again and again, and most of the text is that."""
    for size in range(1, LONGEST_PHRASE + 1):
        same = 0
        least = LOOP_PHRASES if size == 1 else size * (LOOP_PHRASES - 1)
        for at in range(size, len(words)):
            same = same + 1 if words[at] == words[at - size] else 0
            if same >= least and same + size > len(words) / 2:
                return True
    return False


def _doubtful(segments: Sequence[Segment]) -> Iterator[Finding]:
    for number, each in enumerate(segments):
        if each.compression_ratio > MOST_COMPRESSION:
            yield _finding(Doubt.REPETITIVE, segments, (number,))
        if each.avg_logprob < LEAST_LOGPROB:
            yield _finding(Doubt.LOW_CONFIDENCE, segments, (number,))
        seconds = each.end_seconds - each.start_seconds
        if len(each.text.strip()) > MOST_CHARACTERS * max(seconds, 0.5):
            yield _finding(Doubt.TOO_FAST, segments, (number,))


def _finding(doubt: Doubt, segments: Sequence[Segment], numbers: tuple[int, ...]) -> Finding:
    return Finding(
        doubt=doubt,
        start_seconds=segments[numbers[0]].start_seconds,
        end_seconds=segments[numbers[-1]].end_seconds,
        segments=numbers,
    )


# What the sound says of it


def _loud(pairs: Sequence[int], length: float, start_seconds: float) -> list[Range] | None:
    """The stretches in which there is something to be heard; None where nobody knows."""
    count = len(pairs) // 2
    if not count or not length:
        return None
    loudness = [max(-low, high) for low, high in zip(pairs[::2], pairs[1::2], strict=True)]
    least = max(QUIET_LEAST, QUIET * sorted(loudness)[count * 9 // 10])
    each = length / count
    return _joined(
        (start_seconds + at * each, start_seconds + (at + 1) * each)
        for at, loud in enumerate(loudness)
        if loud > least
    )


def _in_silence(
    segments: Sequence[Segment], loud: Sequence[Range], each: float
) -> Iterator[Finding]:
    for number, segment in enumerate(segments):
        own = (segment.start_seconds, segment.end_seconds)
        seconds = own[1] - own[0]
        heard = seconds - sum(end - start for start, end in _rest(own, loud))
        if seconds >= max(SILENT_SECONDS, each) and heard <= (1 - SILENT_SHARE) * seconds:
            yield _finding(Doubt.IN_SILENCE, segments, (number,))


def _without_words(
    spoken: Sequence[Range], loud: Sequence[Range], *, end_seconds: float
) -> Iterator[Finding]:
    wide = _joined((start - MARGIN_SECONDS, end + MARGIN_SECONDS) for start, end in spoken)
    last = spoken[-1][1] if spoken else None
    for start, end in itertools.chain.from_iterable(_rest(each, wide) for each in loud):
        if end - start >= GAP_SECONDS:
            at_end = last is not None and start >= last and end_seconds - end < GAP_SECONDS
            doubt = Doubt.CUT_OFF if at_end else Doubt.NO_WORDS
            yield Finding(doubt=doubt, start_seconds=start, end_seconds=end)


def _joined(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in their order, those that touch made one."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1] + 1e-6:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _rest(own: Range, taken: Sequence[Range]) -> Iterator[Range]:
    """What is left of a range without others, which are in order and apart."""
    begin, end = own
    for at in range(bisect.bisect(taken, begin, key=lambda one: one[1]), len(taken)):
        left, right = taken[at]
        if left >= end:
            break
        if left > begin:
            yield begin, left
        begin = max(begin, right)
    if begin < end:
        yield begin, end


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole else 0.0
