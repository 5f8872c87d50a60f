"""Transcribe files here and now: no server, no queue, no database; what stops it stops the work."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import model_setup
from config import Settings
from errors import ServiceError
from model_pool import Loan, ModelPool
from speech import audio
from speech.audio import DecodeLimits
from speech.engines import ModelKey, catalogue, fitting
from speech.engines.languages import LANGUAGES
from speech.formats import FORMATS
from speech.transcript import (
    Mode,
    Part,
    TranscribeOptions,
    Transcript,
    Window,
    storable,
)
from transcription_client.display import Display
from transcription_client.troubles import JobTrouble, WrongUse

#: ISO 639-2's code for "undetermined".
NO_LANGUAGE: Final = "und"
#: Thirty years of audio.
ANY_SECONDS: Final = 1e9


class LocalTranscriber:
    """Loads a model when it is first needed, and keeps it for the next file."""

    def __call__(
        self, path: Path, fields: Mapping[str, str], formats: Sequence[str], display: Display
    ) -> dict[str, bytes]:
        """Transcribe one file; returns its transcript in each format.

        Args:
            fields: Those of a submission.

        Raises:
            JobTrouble: It cannot be transcribed.
            WrongUse: A field is wrong.
        """
        try:
            transcript = self._transcribe(path, fields, display)
        except ServiceError as error:
            raise JobTrouble(f"failed: {error.message} ({error.code})") from None
        return {name: FORMATS[name].render(transcript).encode() for name in formats}

    @functools.cached_property
    def _settings(self) -> Settings:
        return Settings.from_env()

    @functools.cached_property
    def _pool(self) -> ModelPool:
        return model_setup.make_pool(self._settings, model_setup.make_loader(self._settings))

    def _transcribe(self, path: Path, fields: Mapping[str, str], display: Display) -> Transcript:
        settings, options = self._settings, _options(fields)
        part = _part(fields)
        with audio.scratch_file(settings.scratch_path) as scratch:
            audio.decode(path, scratch, self._limits, part=part)
            samples = audio.load_samples(scratch)
            seconds = len(samples) / audio.SAMPLE_RATE_HZ
            key = model_setup.model_key(
                settings,
                fields.get("engine", settings.whisper_engine),
                fields.get("model_size", settings.whisper_model_size),
            )
            model_setup.make_fetch(settings)(key, lambda _done, _total: None)
            windows: list[Window] = []
            with self._borrow(key, options) as engine:
                for found in engine.transcribe(samples, options):
                    windows.append(storable(found).later(part.start_seconds))
                    done = 100 * min(1.0, found.end_seconds / seconds)
                    display.follow(path.name, _job("processing", done))
        display.follow(path.name, _job("completed", 100.0))
        return _put_together(windows, options, seconds)

    def _borrow(self, key: ModelKey, options: TranscribeOptions) -> AbstractContextManager[Loan]:
        ladder = fitting.fallbacks(key, language=options.language, translate=options.translate)
        return self._pool.borrow(key, fallbacks=ladder)

    @property
    def _limits(self) -> DecodeLimits:
        # a server's limits are for what strangers send
        return DecodeLimits(
            max_audio_seconds=ANY_SECONDS,
            max_memory_bytes=self._settings.decode_memory_mb * 2**20,
            timeout_seconds=self._settings.decode_timeout_seconds,
        )


def _put_together(
    windows: Sequence[Window], options: TranscribeOptions, audio_seconds: float
) -> Transcript:
    last = windows[-1].resume if windows else None
    return Transcript(
        language=(last and last.language) or options.language or NO_LANGUAGE,
        language_probability=last.language_probability if last else None,
        audio_seconds=audio_seconds,
        segments=tuple(segment for window in windows for segment in window.segments),
    )


def _options(fields: Mapping[str, str]) -> TranscribeOptions:
    language = fields.get("language")
    if language == "auto":
        language = None
    if language is not None and language not in LANGUAGES:
        raise WrongUse(f"language: {language} is no code of a language, such as en.")
    catalogue.resolve(fields.get("model_size", catalogue.DEMO))
    return TranscribeOptions(
        language=language,
        translate=fields.get("task") == "translate",
        initial_prompt=fields.get("initial_prompt"),
        word_timestamps=fields.get("word_timestamps") == "true",
        mode=Mode.EXACT,
    )


def _part(fields: Mapping[str, str]) -> Part:
    start = float(fields.get("start_seconds", 0))
    end = float(fields["end_seconds"]) if "end_seconds" in fields else None
    if end is not None and end <= start:
        raise WrongUse("It ends before it begins: --end has to be greater than --start.")
    track = int(fields["track"]) if "track" in fields else None
    return Part(track=track, start_seconds=start, end_seconds=end)


def _job(status: str, progress: float) -> dict[str, Any]:
    """As much of a job as a display looks at."""
    return {"status": status, "progress": progress, "eta_seconds": None}
