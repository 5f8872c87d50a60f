"""Make training examples: strings of cached words with true times.

A window is composed from units of one voice with gaps and pauses, spoilt as recordings are, cut
where a window would end, and written as the tokens Whisper would be asked for: with or without
timestamps, translated or not, sometimes after a previous-text prompt.  A word cut by the window's
end is left out, and the window then ends with a lone start timestamp.
Next to the tokens come the frames each token is said in and the word said in each frame, which
training uses to teach the attention (and so the word times) directly.

Every word is a segment of its own, between two timestamps: each start says where to look for the
word, and each end where to go on, so that the model need not count.  Written as one segment a
phrase, the attention took several times as many steps to find the words.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import IterableDataset
from whisper.audio import mel_filters

from training.spoiling import no_speech, spoilt
from training.synthesise import RATE, Bank, Unit
from training.vocabulary import (
    BLANK_TOKENS,
    LANGUAGES,
    SECONDS_PER_TIMESTAMP,
    ReducedVocabulary,
    tokenizer_for,
    word_tokens,
)

WINDOW = 30.0
FRAME = 0.02
IGNORED = -100
MOST_WORDS = 96
#: What the decoder has positions for.
TEXT_PLACES = 448
WORD_CLASSES = 1 + 10 * len(LANGUAGES)


@dataclass
class Clip:
    """Some seconds of sound and the words said in it; `cut` is where an unfinished one begins."""

    samples: np.ndarray
    language: str
    words: list[tuple[int, float, float]] = field(default_factory=list)
    cut: float | None = None


class Voices:
    """Units by language and voice, with people chosen for part of the English clips."""

    def __init__(self, banks: list[Bank], people: Bank | None, people_share: float) -> None:
        self._voices: dict[str, dict[str, list[Unit]]] = {name: {} for name in LANGUAGES}
        self._people: dict[str, list[Unit]] = {}
        self._people_share = people_share
        for unit in (unit for bank in banks for unit in bank.units):
            self._voices[unit.language].setdefault(unit.group, []).append(unit)
        for unit in people.units if people else []:
            self._people.setdefault(unit.group, []).append(unit)
        self._names = {language: sorted(voices) for language, voices in self._voices.items()}

    def choose(self, chance: random.Random, language: str) -> list[Unit]:
        """All units of one voice."""
        if language == "en" and self._people and chance.random() < self._people_share:
            return self._people[chance.choice(sorted(self._people))]
        return self._voices[language][chance.choice(self._names[language])]


def stretched(unit: Unit, factor: float) -> tuple[np.ndarray, list[tuple[int, float, float]]]:
    """A unit's samples played slower or faster, and its words' times in it."""
    samples = unit.samples.astype(np.float32)
    if samples.dtype != unit.samples.dtype:
        samples /= 32768
    if abs(factor - 1) > 0.01:
        length = int(len(samples) * factor)
        places = np.arange(length, dtype=np.float32) / factor
        samples = np.interp(places, np.arange(len(samples)), samples).astype(np.float32)
    times = zip(unit.digits, unit.starts, unit.ends, strict=True)
    return samples, [(d, s * factor, e * factor) for d, s, e in times]


def compose(
    voices: Voices, chance: random.Random, seconds: float, stretch: tuple[float, float]
) -> Clip:
    """A string of digits over a window, whose end may cut a word."""
    language = chance.choice(LANGUAGES)
    samples = np.zeros(int(seconds * RATE), np.float32)
    words: list[tuple[int, float, float]] = []
    units, factor = voices.choose(chance, language), chance.uniform(*stretch)
    gap_scale, pause_share = chance.uniform(0.02, 0.5), chance.choice((0.0, 0.1, 0.2, 0.4))
    stop = seconds if chance.random() < 0.7 else chance.uniform(0.15, 1.0) * seconds
    lead = chance.random()
    time = chance.uniform(0.0, 0.6) if lead < 0.75 else chance.uniform(0.0, 0.5) * seconds
    time = 0.0 if lead < 0.12 else time
    cut = None
    while time < stop:
        sound, said = stretched(chance.choice(units), factor * chance.uniform(0.95, 1.05))
        sound = sound * chance.uniform(0.6, 1.0)
        if time + len(sound) / RATE > stop and stop < seconds:
            break
        at = int(time * RATE)
        room = min(len(sound), len(samples) - at)
        samples[at : at + room] += sound[:room]
        for digit, start, end in said:
            if time + end <= seconds + 0.03:
                words.append((digit, time + start, min(time + end, seconds)))
            elif time + start < seconds - 0.06 and cut is None:
                cut = time + start
        time += len(sound) / RATE + chance.uniform(0.0, 1.0) * gap_scale
        if chance.random() < pause_share:
            time += chance.uniform(0.8, 2.5) if chance.random() < 0.9 else chance.uniform(2.5, 6)
            if chance.random() < 0.2:
                units, factor = voices.choose(chance, language), chance.uniform(*stretch)
    return Clip(samples, language, words, cut)


@functools.cache
def warped_filters(warp: float) -> torch.Tensor:
    """Whisper's mel filters for a voice whose formants lie so many times as high."""
    filters: torch.Tensor = mel_filters("cpu", 80)
    bins = torch.arange(filters.shape[1], dtype=torch.float32)
    # to the Nyquist frequency in two straight lines, so that nothing falls off the end
    knee = 0.8 * (len(bins) - 1) / max(warp, 1.0)
    above = (len(bins) - 1 - warp * knee) / (len(bins) - 1 - knee)
    heard_at = torch.where(bins < knee, warp * bins, warp * knee + above * (bins - knee))
    low = heard_at.floor().long().clamp(max=len(bins) - 2)
    share = heard_at - low
    return filters[:, low] * (1 - share) + filters[:, low + 1] * share


def log_mel(samples: torch.Tensor, headroom: torch.Tensor, warps: list[float]) -> torch.Tensor:
    """Whisper's spectrogram of a batch; headroom is how much louder the rest of the file was."""
    window = torch.hann_window(400)
    stft = torch.stft(samples, 400, 160, window=window, return_complex=True)
    power = torch.stack([warped_filters(warp) for warp in warps]) @ stft[..., :-1].abs() ** 2
    spectrum = torch.clamp(power, min=1e-10).log10()
    loudest = spectrum.amax(dim=(1, 2)) + headroom
    spectrum = torch.maximum(spectrum, loudest[:, None, None] - 8.0)
    return (spectrum + 4.0) / 4.0


@dataclass
class Written:
    """A window's tokens, which of them are learnt, and the seconds each is said in."""

    tokens: list[int]
    learnt: list[bool]
    said: list[tuple[float, float] | None]

    def add(self, token: int, *, learnt: bool, said: tuple[float, float] | None = None) -> None:
        """Append one token."""
        self.tokens.append(token)
        self.learnt.append(learnt)
        self.said.append(said)

    def cut(self, most: int) -> None:
        """Leave out what the decoder has no place for: a long prompt before quick speech."""
        for column in (self.tokens, self.learnt, self.said):
            del column[most:]


def timestamp(seconds: float) -> int:
    """The token of a time in the window."""
    steps = round(min(max(seconds, 0.0), WINDOW) / SECONDS_PER_TIMESTAMP)
    return int(tokenizer_for("en").timestamp_begin) + steps


def around(seconds: float) -> tuple[float, float]:
    """Where attention belongs when a time is to be told."""
    return seconds - 0.08, seconds + 0.08


def in_turn(words: list[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """The words with none beginning before the last has ended, nor ending as it begins."""
    turns: list[tuple[int, float, float]] = []
    for digit, start, end in words:
        begin = max(start, turns[-1][2]) if turns else start
        turns.append((digit, begin, max(end, begin + FRAME)))
    return turns


def write_words(written: Written, words: list[tuple[int, float, float]], language: str) -> None:
    """The words' tokens."""
    for digit, start, end in words:
        for token in word_tokens(language)[digit]:
            written.add(token, learnt=True, said=(start, end))


def write_timed(written: Written, clip: Clip, language: str, chance: random.Random) -> None:
    """Each word between timestamps; a cut word leaves its start at the end."""
    for index, (digit, start, end) in enumerate(in_turn(clip.words)):
        if index == 0 and start > 1.0 and chance.random() < 0.5:
            written.add(timestamp(1.0), learnt=True)
        else:
            written.add(timestamp(start), learnt=True, said=around(start))
        write_words(written, [(digit, start, end)], language)
        written.add(timestamp(end), learnt=True, said=around(end))
    if clip.cut is not None:
        last = clip.words[-1][2] if clip.words else 0.0
        margin = min(0.1, (clip.cut - last) / 2)
        written.add(timestamp(clip.cut - margin), learnt=True, said=around(clip.cut))


def write_silence(written: Written, timed: bool, chance: random.Random) -> None:
    """What is answered to no speech.

    Nothing printable, and with so little certainty that Whisper's own thresholds skip the window.
    """
    if timed:
        written.add(timestamp(chance.randrange(51) * SECONDS_PER_TIMESTAMP), learnt=True)
    else:
        for _ in range(2):
            written.add(chance.choice(BLANK_TOKENS), learnt=True)


def prompt_tokens(chance: random.Random, language: str, longest: int) -> list[int]:
    """Text said before, as the decoder is shown it: digits, with times or not, or any words."""
    tokens: list[int] = []
    length = chance.randint(2, longest)
    kind, time = chance.random(), chance.uniform(0, 2)
    while len(tokens) < length:
        if kind < 0.15:
            tokens.append(chance.randrange(300, 50000))
            continue
        if kind < 0.6:
            tokens.append(timestamp(time))
        for _ in range(chance.randint(2, 12)):
            tokens += word_tokens(language)[chance.randrange(10)]
        time += chance.uniform(1, 6)
        if kind < 0.6:
            tokens.append(timestamp(time))
        time = time + chance.uniform(0.6, 2) if time < 26 else chance.uniform(0, 2)
    return tokens[-length:]


def write(
    clip: Clip | None,
    chance: random.Random,
    *,
    prompt: int,
    shift: float,
    timed_share: float,
) -> Written:
    """A window's whole token sequence; `prompt` is the longest previous text, 0 for none."""
    language = clip.language if clip else chance.choice(LANGUAGES)
    translate = chance.random() < (0.1 if language == "en" else 0.25)
    tokenizer = tokenizer_for(language, "translate" if translate else "transcribe")
    timed = chance.random() < timed_share
    written = Written([], [], [])
    spoken = "en" if translate else language
    if prompt and chance.random() < 0.85:
        written.add(tokenizer.sot_prev, learnt=False)
        for token in prompt_tokens(chance, spoken, prompt):
            written.add(token, learnt=False)
    written.add(tokenizer.sot, learnt=False)
    written.add(tokenizer.sot_sequence[1], learnt=clip is not None)
    written.add(tokenizer.sot_sequence[2], learnt=False)
    if not timed:
        written.add(tokenizer.no_timestamps, learnt=False)
    if clip is None:
        write_silence(written, timed, chance)
    elif timed:
        moved = Clip(
            clip.samples,
            clip.language,
            [(d, s + shift, e + shift) for d, s, e in clip.words],
            None if clip.cut is None else clip.cut + shift,
        )
        write_timed(written, moved, spoken, chance)
        written.said = [s and (s[0] - shift, s[1] - shift) for s in written.said]
    else:
        write_words(written, clip.words, spoken)
    after = (clip.words[-1][2], clip.words[-1][2] + 0.5) if clip and clip.words else None
    written.add(tokenizer.eot, learnt=True, said=None if timed else after)
    written.cut(TEXT_PLACES + 1)
    return written


def frame_classes(clip: Clip | None, frames: int) -> np.ndarray:
    """For each frame the word being said (0 for none), the two before it, and how many began."""
    classes = np.zeros((4, frames), np.int64)
    if clip is None:
        return classes
    base = 1 + 10 * LANGUAGES.index(clip.language)
    history = [0, 0]
    for count, (digit, start, end) in enumerate(clip.words, 1):
        first, last = int(start / FRAME), max(int(end / FRAME), int(start / FRAME) + 1)
        classes[3, first:] = min(count, MOST_WORDS - 1)
        classes[0, first:last] = base + digit
        classes[1, first:last], classes[2, first:last] = history
        history = [base + digit, history[0]]
        classes[1, last:], classes[2, last:] = history
    return classes


Mix = dict[float, float]


@dataclass(frozen=True)
class Recipe:
    """What batches are made of."""

    #: From each step on, the share of each window length in seconds.
    mixes: tuple[tuple[int, Mix], ...]
    seconds_per_batch: float
    #: How many of the short windows are said to be later than at the beginning of 30 seconds.
    shifted_share: float
    #: How many windows are written with timestamps.
    timed_share: float = 0.9
    #: Least and most that a voice is slowed down, which also lowers it.
    stretch: tuple[float, float] = (0.88, 1.15)
    #: How much of the English is said by people, where there are recordings of some.
    people_share: float = 0.4
    #: Of the windows with speech, how many are spoilt, in each of the stages above.
    spoilt_shares: tuple[float, ...] = (0.2, 0.5, 0.8, 0.8)
    #: Least and most that a voice's formants are moved, as if its throat had another length.
    warp: tuple[float, float] = (1.0, 1.0)
    #: How many windows lose some bands of frequencies.
    masked_share: float = 0.0


class Windows(IterableDataset[dict[str, torch.Tensor]]):
    """Endless batches; the share of each window length depends on how far training is."""

    def __init__(self, cache: Path, seed: int, recipe: Recipe, first_step: int = 0) -> None:
        super().__init__()
        self._cache, self._seed, self._recipe = cache, seed, recipe
        self._first_step, self._spoilt_share = first_step, 1.0
        self._vocabulary = ReducedVocabulary()

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker else (0, 1)
        chance = random.Random(f"{self._seed}/{self._first_step}/{index}")
        noise = np.random.default_rng(chance.randrange(2**32))
        people = self._cache / "people.npz"
        voices = Voices(
            [Bank.load(self._cache / "train.npz")],
            Bank.load(people) if people.exists() else None,
            self._recipe.people_share,
        )
        step = self._first_step + index
        while True:
            mix = next(mix for until, mix in reversed(self._recipe.mixes) if step >= until)
            seconds = chance.choices(list(mix), list(mix.values()))[0]
            stage = sum(step >= until for until, _ in self._recipe.mixes) - 1
            self._spoilt_share = self._recipe.spoilt_shares[stage]
            yield self._batch(voices, chance, noise, seconds)
            step += count

    def _batch(
        self, voices: Voices, chance: random.Random, noise: np.random.Generator, seconds: float
    ) -> dict[str, torch.Tensor]:
        size = max(2, round(self._recipe.seconds_per_batch / seconds))
        prompt = 0
        if chance.random() < 0.2:
            prompt = chance.choice((30, 80, 223) if seconds > 8 else (20, 50))
        shift = 0.0
        if seconds < WINDOW and chance.random() < self._recipe.shifted_share:
            shift = round(chance.uniform(0, WINDOW - seconds) / FRAME) * FRAME
        clips: list[Clip | None] = []
        sounds = []
        for _ in range(size):
            clip = (
                None
                if chance.random() < 0.12
                else compose(voices, chance, seconds, self._recipe.stretch)
            )
            if clip is not None and not clip.words:
                clip = (
                    None
                    if clip.cut is None
                    else compose(voices, chance, seconds, self._recipe.stretch)
                )
            clip = clip if clip is not None and clip.words else None
            clips.append(clip)
            sounds.append(self._sound(clip, noise, seconds))
        timed_share = self._recipe.timed_share
        written = [
            write(clip, chance, prompt=prompt, shift=shift, timed_share=timed_share)
            for clip in clips
        ]
        # rounded, so that there are few filters to keep
        warps = [round(chance.uniform(*self._recipe.warp), 2) for _ in range(size)]
        mel = log_mel(torch.from_numpy(np.stack(sounds)), self._headroom(chance, size), warps)
        for row, clip in zip(mel, clips, strict=True):
            if chance.random() < self._recipe.masked_share:
                mask_bands(row, chance)
            blank_end(row, clip, chance)
        return self._tensors(mel, clips, written, shift, seconds)

    def _sound(self, clip: Clip | None, noise: np.random.Generator, seconds: float) -> np.ndarray:
        if clip is None:
            return no_speech(noise, seconds)
        return spoilt(noise, clip.samples) if noise.random() < self._spoilt_share else clip.samples

    @staticmethod
    def _headroom(chance: random.Random, size: int) -> torch.Tensor:
        return torch.tensor(
            [chance.uniform(0, 2) if chance.random() < 0.25 else 0.0 for _ in range(size)]
        )

    def _tensors(
        self,
        mel: torch.Tensor,
        clips: list[Clip | None],
        written: list[Written],
        shift: float,
        seconds: float,
    ) -> dict[str, torch.Tensor]:
        length = max(len(w.tokens) for w in written)
        frames = round(seconds / FRAME)
        eot = int(self._vocabulary.row_of_token[tokenizer_for("en").eot])
        tokens = np.full((len(written), length), eot, np.int64)
        targets = np.full((len(written), length - 1), IGNORED, np.int64)
        spans = np.zeros((len(written), length - 1, 2), np.int64)
        no_speech_row = self._vocabulary.row_of_token[tokenizer_for("en").no_speech]
        for i, (clip, one) in enumerate(zip(clips, written, strict=True)):
            rows = self._vocabulary.row_of_token[one.tokens]
            tokens[i, : len(rows)] = rows
            learnt = np.array(one.learnt[1:])
            targets[i, : len(rows) - 1][learnt] = rows[1:][learnt]
            if clip is None:
                sot = one.tokens.index(tokenizer_for("en").sot)
                targets[i, sot] = no_speech_row
            for j, said in enumerate(one.said[1:]):
                if said is not None:
                    first = min(max(round(said[0] / FRAME), 0), frames)
                    spans[i, j] = first, min(max(round(said[1] / FRAME), first), frames)
        classes = np.stack([frame_classes(clip, frames) for clip in clips])
        return {
            "mel": mel,
            "shift": torch.tensor(round(shift / FRAME)),
            "tokens": torch.from_numpy(tokens),
            "targets": torch.from_numpy(targets),
            "spans": torch.from_numpy(spans),
            "classes": torch.from_numpy(classes),
        }


def mask_bands(mel: torch.Tensor, chance: random.Random) -> None:
    """Take up to two bands out: no single one is to be relied on (SpecAugment)."""
    quiet = float(mel.mean())
    for _ in range(chance.randint(1, 2)):
        width = chance.randint(3, 14)
        first = chance.randrange(mel.shape[0] - width)
        mel[first : first + width] = quiet


def blank_end(mel: torch.Tensor, clip: Clip | None, chance: random.Random) -> None:
    """Half the time, end the recording before the window: Whisper fills the rest with zeros."""
    if chance.random() < 0.5 or (clip and clip.cut is not None):
        return
    said = round((clip.words[-1][2] if clip else 0.2) * 100)
    if said + 5 < mel.shape[1]:
        mel[:, chance.randint(said + 5, mel.shape[1]) :] = 0.0
