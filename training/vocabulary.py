"""The demo model's words, and the cut-down token table it is trained with.

Whisper's vocabulary head (51,865 tokens) would dominate the training of so small a model, so
training keeps one row per token that can occur and two shared rows: one for the blank tokens,
which the model answers silence with, and one for all tokens that are never spoken.  A shared
row's logit gets log(number of tokens) added, which makes the softmax exactly that of the full
table in which every one of those tokens has the shared row.
"""

from __future__ import annotations

import functools

import numpy as np
from whisper.tokenizer import Tokenizer, get_tokenizer

WORDS: dict[str, tuple[str, ...]] = {
    "en": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    "es": ("cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"),
    "de": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
}
LANGUAGES: tuple[str, ...] = tuple(WORDS)
VOCABULARY_SIZE = 51865
TIMESTAMPS = 1501
SECONDS_PER_TIMESTAMP = 0.02
BLANK_TOKENS = (197, 198, 199, 200, 201, 216, 217, 218, 219)


@functools.cache
def tokenizer_for(language: str, task: str = "transcribe") -> Tokenizer:
    """Whisper's own multilingual tokenizer, set to a language and a task."""
    return get_tokenizer(True, num_languages=99, language=language, task=task)


@functools.cache
def word_tokens(language: str) -> tuple[tuple[int, ...], ...]:
    """The tokens of each digit's word, with the space before it that Whisper writes."""
    tokenizer = tokenizer_for(language)
    return tuple(tuple(tokenizer.encode(" " + word)) for word in WORDS[language])


def kept_tokens() -> list[int]:
    """The tokens that have a row of their own, timestamps last and in order."""
    tokenizer = tokenizer_for("en")
    kept = {token for language in LANGUAGES for word in word_tokens(language) for token in word}
    kept |= {tokenizer_for(language).language_token for language in LANGUAGES}
    kept |= {tokenizer.eot, tokenizer.sot, tokenizer.sot_prev, tokenizer.no_speech}
    kept |= {tokenizer.no_timestamps, tokenizer.transcribe, tokenizer.translate}
    return sorted(kept) + list(range(tokenizer.timestamp_begin, VOCABULARY_SIZE))


class ReducedVocabulary:
    """Maps Whisper's tokens to the rows used in training, and says what each row counts for."""

    def __init__(self) -> None:
        self.kept = kept_tokens()
        self.blank_row = len(self.kept)
        self.other_row = len(self.kept) + 1
        self.size = len(self.kept) + 2
        self.timestamp_row = len(self.kept) - TIMESTAMPS
        self.row_of_token = np.full(VOCABULARY_SIZE, self.other_row, dtype=np.int64)
        self.row_of_token[self.kept] = np.arange(len(self.kept))
        self.row_of_token[list(BLANK_TOKENS)] = self.blank_row

    def log_counts(self) -> np.ndarray:
        """What is added to each row's logit: the logarithm of the tokens that share the row."""
        counts = np.bincount(self.row_of_token, minlength=self.size)
        return np.log(counts).astype(np.float32)
