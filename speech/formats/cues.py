"""Cues: what a subtitle file shows at a time. Their length and their times are decided here."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise, takewhile
from typing import Final, NamedTuple

from speech.formats.typography import break_cost, columns, glyph_spans, may_break, one_line
from speech.transcript import Segment, Transcript

#: No recording is longer; what an engine says beyond (infinity, too) is taken for this: 1000 h.
_LONGEST_SECONDS = 3_600_000.0
#: A silence that no cue spans: its second half would be read long before it is heard.
_LONGEST_PAUSE_MS = 2000
#: A speaker's slowest pace, for estimates; below it the segment must hold silence.
_SPOKEN_COLUMNS_PER_SECOND = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Cue:
    """A few lines of plain text, not yet escaped for any format, and when to show them."""

    #: Milliseconds from the start of the audio; never before the end of the cue before.
    start_ms: int
    #: After ``start_ms``, always.
    end_ms: int
    #: At least one; none is empty or holds a control character.
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What cues may be like.

    Source: the defaults are the numbers of Netflix's Timed Text Style Guide.
    """

    #: Columns of a line; a full-width character takes two. Only a glyph wider than this exceeds it.
    max_chars: int = 42
    max_lines: int = 2
    #: Longest time that a cue is shown.
    max_seconds: float = 7.0
    #: Shortest time that a cue is shown.
    min_seconds: float = 5 / 6
    #: A viewer's reading speed: a cue stays up that long where the next one leaves room.
    chars_per_second: float = 20.0


NETFLIX: Final = Shape()


def cues(transcript: Transcript, shape: Shape = NETFLIX) -> list[Cue]:
    """Cut a transcript into cues that can be read.

    Long segments are cut at word times where there are any, else at times estimated from the
    text's length; segments too short to be read are joined with the next. The order of the text is
    kept whatever the times say: a cue waits until the one above has had its shortest time.
    """
    layout = _Layout.of(shape)
    parts = (part for segment in transcript.segments for part in _parts(segment, layout))
    return list(_timed(_join_short(parts, layout), layout))


def milliseconds(seconds: float) -> int:
    """Round to a whole number, zero or more, whatever an engine says; not-a-number is zero."""
    return round(1000 * min(seconds, _LONGEST_SECONDS)) if seconds > 0 else 0


@dataclass(frozen=True, slots=True)
class _Layout:
    max_columns: int
    max_lines: int
    max_ms: float
    min_ms: float
    ms_per_column: float

    @classmethod
    def of(cls, shape: Shape) -> _Layout:
        return cls(
            max_columns=shape.max_chars,
            max_lines=shape.max_lines,
            max_ms=1000 * shape.max_seconds,
            min_ms=1000 * shape.min_seconds,
            ms_per_column=1000 / shape.chars_per_second,
        )

    @property
    def capacity(self) -> int:
        """Columns of a cue."""
        return self.max_columns * self.max_lines


class _Glyph(NamedTuple):
    """What must stay together on a line: a character with its marks. Times in milliseconds."""

    text: str
    columns: int
    start: float
    end: float


class _Run:
    """Glyphs to be cut into cues and lines; ``start`` and ``stop`` are indexes of glyphs."""

    def __init__(self, glyphs: Sequence[_Glyph], layout: _Layout) -> None:
        self._glyphs = glyphs
        self._layout = layout
        #: The columns before each glyph; the last entry counts them all.
        self._edges = list(accumulate((glyph.columns for glyph in glyphs), initial=0))

    @cached_property
    def _silences(self) -> list[int]:
        """How many long pauses there are before each glyph."""
        silent = (b.start - a.end >= _LONGEST_PAUSE_MS for a, b in pairwise(self._glyphs))
        return list(accumulate(silent, initial=0))

    @cached_property
    def _breaks(self) -> list[int]:
        """The start, and where a line may end; inside a word only if no line can hold the word."""
        glyphs = self._glyphs
        places = [i for i in range(1, len(glyphs)) if may_break(glyphs[i - 1].text, glyphs[i].text)]
        breaks = []
        for start, stop in pairwise((0, *places, len(glyphs))):
            breaks.append(start)
            first = self._skip_space(start)
            if not self._is_line(first, stop):
                breaks += range(first + 1, stop)
        return breaks

    def is_one_cue(self) -> bool:
        return self._fits(0, len(self._glyphs))

    def cut(self) -> Iterator[Sequence[_Glyph]]:
        """Cut into the fewest parts that fit a cue, of about equal width."""
        start, stop = 0, len(self._glyphs)
        while not self._fits(start, stop):
            ends = self._ends(start, self._fits)
            end = self._best(ends, start, self._columns(start, stop) / self._parts(start, stop))
            yield self._glyphs[start:end]
            start = self._skip_space(end)
        yield self._glyphs[start:stop]

    def lines(self) -> tuple[str, ...]:
        """Break into the fewest lines, of about equal width."""
        lines = []
        start, stop = 0, len(self._glyphs)
        for left in range(self._line_count(start, stop), 1, -1):
            ends = (
                end
                for end in self._ends(start, self._is_line)
                if self._line_count(self._skip_space(end), stop) < left
            )
            end = self._best(ends, start, self._columns(start, stop) / left)
            lines.append(self._text(start, end))
            start = self._skip_space(end)
        return (*lines, self._text(start, stop))

    def _fits(self, start: int, stop: int) -> bool:
        return stop - start == 1 or (
            self._columns(start, stop) <= self._layout.capacity
            and (self._is_timely(start, stop) or next(self._breaks_after(start), stop) >= stop)
            and self._line_count(start, stop) <= self._layout.max_lines
        )

    def _is_timely(self, start: int, stop: int) -> bool:
        silences = self._silences[stop - 1] - self._silences[start]
        return not silences and self._duration(start, stop) <= self._layout.max_ms

    def _parts(self, start: int, stop: int) -> int:
        """Estimate how many cues a stretch takes that does not fit into one."""
        return max(
            2,
            math.ceil(self._columns(start, stop) / self._layout.capacity),
            math.ceil(self._duration(start, stop) / self._layout.max_ms),
        )

    def _line_count(self, start: int, stop: int) -> int:
        """Count the lines that the text takes when each is filled: the fewest possible."""
        count = 1
        while not self._is_line(start, stop):
            full = self._edges[start] + self._layout.max_columns
            index = bisect_right(self._breaks, full, key=self._edges.__getitem__) - 1
            start = self._skip_space(max(start + 1, self._breaks[index]))
            count += 1
        return count

    def _is_line(self, start: int, stop: int) -> bool:
        return stop - start == 1 or self._columns(start, stop) <= self._layout.max_columns

    def _best(self, ends: Iterable[int], start: int, share: float) -> int:
        """Choose the end that reads best and is near an equal share of columns."""

        def cost(end: int) -> float:
            before = self._text(max(start, end - 3), end)
            silence = self._glyphs[self._skip_space(end)].start - self._glyphs[end - 1].end
            uneven = abs(self._columns(start, end) - share) / share
            return uneven + break_cost(before, self._glyphs[end].text) - silence / 1000

        return min(ends, key=cost)

    def _ends(self, start: int, holds: Callable[[int, int], bool]) -> Iterator[int]:
        return takewhile(lambda end: holds(start, end), self._breaks_after(start))

    def _breaks_after(self, start: int) -> Iterator[int]:
        first = bisect_right(self._breaks, start)
        return (self._breaks[index] for index in range(first, len(self._breaks)))

    def _skip_space(self, index: int) -> int:
        return index + (self._glyphs[index].text == " ")

    def _columns(self, start: int, stop: int) -> int:
        return self._edges[stop] - self._edges[start]

    def _duration(self, start: int, stop: int) -> float:
        return self._glyphs[stop - 1].end - self._glyphs[start].start

    def _text(self, start: int, stop: int) -> str:
        return "".join(glyph.text for glyph in self._glyphs[start:stop])


def _parts(segment: Segment, layout: _Layout) -> Iterator[Sequence[_Glyph]]:
    """Cut one segment; nothing comes of one that shows nothing."""
    glyphs = _glyphs(segment)
    if not any(glyph.columns for glyph in glyphs):
        return
    *parts, last = _Run(glyphs, layout).cut()
    yield from parts
    end = max(last[-1].end, milliseconds(segment.end_seconds))
    yield [*last[:-1], last[-1]._replace(end=end)]


def _join_short(parts: Iterable[Sequence[_Glyph]], layout: _Layout) -> list[Sequence[_Glyph]]:
    """Join a part with the next where that one follows before this one could be read."""
    joined: list[Sequence[_Glyph]] = []
    for part in parts:
        if joined and part[0].start - joined[-1][0].start < layout.min_ms:
            end = joined[-1][-1].end
            both = [*joined[-1], _Glyph(" ", 1, end, end), *part]
            if _Run(both, layout).is_one_cue():
                joined[-1] = both
                continue
        joined.append(part)
    return joined


def _timed(parts: Sequence[Sequence[_Glyph]], layout: _Layout) -> Iterator[Cue]:
    """Give each part its time on screen: in order, apart, long enough where there is room."""
    shortest = max(1, round(layout.min_ms))
    starts = list(
        accumulate(
            (round(part[0].start) for part in parts),
            lambda last, start: max(last + shortest, start),
        )
    )
    for part, start, limit in zip(parts, starts, [*starts, math.inf][1:], strict=True):
        reading_ms = layout.ms_per_column * sum(glyph.columns for glyph in part)
        wanted = max(part[-1].end, start + max(shortest, reading_ms))
        end = round(min(wanted, start + layout.max_ms, limit))
        yield Cue(start_ms=start, end_ms=end, lines=_Run(part, layout).lines())


def _glyphs(segment: Segment) -> list[_Glyph]:
    text = one_line(segment.text)
    times = _word_times(segment, text) or _estimated_times(segment, text)
    return [
        _Glyph(text[i:j], sum(map(columns, text[i:j])), times[i][0], times[j - 1][1])
        for i, j in glyph_spans(text)
    ]


def _word_times(segment: Segment, text: str) -> list[tuple[float, float]]:
    """Time the characters by the words; empty where the words do not spell the text."""
    times: list[tuple[float, float]] = []
    for word in segment.words:
        spoken = one_line(word.text)
        if spoken and text.startswith(" ", len(times)):
            times.append((times[-1][1], times[-1][1]))
        if not text.startswith(spoken, len(times)):
            return []
        start, end = milliseconds(word.start_seconds), milliseconds(word.end_seconds)
        times += _spread(spoken, start, max(start, end))
    return times if len(times) == len(text) else []


def _estimated_times(segment: Segment, text: str) -> list[tuple[float, float]]:
    """Time the characters as if they were said at an even pace, though not a crawling one."""
    start, end = milliseconds(segment.start_seconds), milliseconds(segment.end_seconds)
    slowest = start + 1000 * sum(map(columns, text)) / _SPOKEN_COLUMNS_PER_SECOND
    return _spread(text, start, min(max(start, end), slowest))


def _spread(text: str, start: float, end: float) -> list[tuple[float, float]]:
    # A space takes no time: time in it would look like a pause.
    shares = [0 if char == " " else columns(char) for char in text]
    pace = (end - start) / (sum(shares) or 1)
    return list(pairwise(start + pace * share for share in accumulate(shares, initial=0)))
