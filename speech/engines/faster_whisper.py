"""faster-whisper: the same models on CTranslate2. Threads may share a loaded model."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import ctranslate2
import numpy as np
from ctranslate2 import StorageView
from faster_whisper import WhisperModel
from faster_whisper.feature_extractor import FeatureExtractor
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import TranscriptionOptions, get_suppressed_tokens

import errors
from speech.engines import catalogue, windows
from speech.engines.catalogue import ModelKey, ModelSpec
from speech.engines.failures import translated
from speech.engines.fitting import Hardware, memory_bytes
from speech.engines.spectrogram import FRAME, HOP, WINDOW_FRAMES, Array, Spectrogram
from speech.engines.windows import Decoded, Draft
from speech.transcript import ResumeState, TranscribeOptions, Window

#: Samples of silence that faster-whisper puts after a recording.
_SILENCE = 160


def hardware() -> Hardware:
    count = ctranslate2.get_cuda_device_count()
    types = [ctranslate2.get_supported_compute_types("cuda", index) for index in range(count)]
    common = frozenset.intersection(*map(frozenset, types)) if types else frozenset()
    return Hardware(cuda_devices=count, cuda_compute_types=common)


def load(
    key: ModelKey,
    folder: Path,
    *,
    threads: int = 0,
    workers: int = 1,
    spec: ModelSpec | None = None,
) -> FasterWhisper:
    """Load a folder in CTranslate2's format.

    Args:
        spec: What the model can do, when that is not what the catalogue says.

    Raises:
        ModelLoadFailed: it is not in that format, or the device fails.
        EngineOutOfMemory: it does not fit.
    """
    with translated(errors.ModelLoadFailed):
        kind, _, index = key.device.partition(":")
        model = WhisperModel(
            str(folder),
            device=kind,
            device_index=int(index or 0),
            compute_type=key.compute_type,
            cpu_threads=threads,
            num_workers=workers,
            local_files_only=True,
        )
        return FasterWhisper(key, spec or catalogue.resolve(key.model), model)


class FasterWhisper:
    """A loaded faster-whisper model."""

    exclusive = False

    def __init__(self, key: ModelKey, spec: ModelSpec, model: WhisperModel) -> None:
        self.key = key
        self.spec = spec
        self.memory_bytes = memory_bytes(key)
        self._model: WhisperModel | None = model
        self._extractor = FeatureExtractor(feature_size=model.model.n_mels)

    @property
    def model(self) -> WhisperModel:
        if self._model is None:
            raise errors.EngineError("The model was closed while it was in use.")
        return self._model

    def transcribe(
        self, samples: Array, options: TranscribeOptions, resume: ResumeState | None = None
    ) -> Iterator[Window]:
        """See ``Engine.transcribe``.

        Text at a temperature above 0 is drawn from CTranslate2's own random generator, which cannot
        be set back: another run may draw another text where the greedy one was poor.
        """
        options = windows.suited(options, self.spec)
        return windows.run(partial(self._start, samples, options, resume), options)

    def close(self) -> None:
        if self._model is not None:
            self._model.model.unload_model()
        self._model = None
        gc.collect()

    def _start(
        self, samples: Array, options: TranscribeOptions, resume: ResumeState | None
    ) -> tuple[_Decoder, Spectrogram, ResumeState]:
        made = spectrogram(samples, self._extractor)
        state = resume or windows.first_state(self.spec, options, partial(self._detect, made))
        decoder = _Decoder(self, state.language or "en", translate=options.translate)
        if resume is None and options.initial_prompt is not None:
            state = replace(state, prompt_tokens=decoder.prompt(options.initial_prompt))
        return decoder, made, state

    def _detect(self, spectrogram: Spectrogram) -> tuple[str, float]:
        # One frame more than the recording has: faster-whisper pads it with 10 ms.
        mel = spectrogram.window(0, min(WINDOW_FRAMES, spectrogram.frames + 1))
        language, probability, _ = self.model.detect_language(features=mel)
        return language, probability


class _Decoder:
    """What one transcription needs of the model: its language, its task."""

    def __init__(self, engine: FasterWhisper, language: str, *, translate: bool) -> None:
        self._engine = engine
        self._tokenizer = Tokenizer(
            engine.model.hf_tokenizer,
            engine.model.model.is_multilingual,
            task="translate" if translate else "transcribe",
            language=language,
        )
        self._options = _options(self._tokenizer, engine.spec)
        self.first_timestamp_token: int = self._tokenizer.timestamp_begin

    def prompt(self, text: str) -> tuple[int, ...]:
        return prompt_of(self._tokenizer, text)

    def text(self, tokens: Sequence[int]) -> str:
        return cast(str, self._tokenizer.decode(list(tokens)))

    def hear(self, mel: Array) -> StorageView:
        return self._engine.model.encode(mel)

    def decode(self, heard: StorageView, prompt: tuple[int, ...], frame: int) -> Decoded:
        model = self._engine.model
        result, avg_logprob, temperature, compression_ratio = model.generate_with_fallback(
            heard, model.get_prompt(self._tokenizer, list(prompt)), self._tokenizer, self._options
        )
        return Decoded(
            tokens=result.sequences_ids[0],
            avg_logprob=avg_logprob,
            no_speech_prob=result.no_speech_prob,
            compression_ratio=compression_ratio,
            temperature=temperature,
        )

    def time_words(
        self, heard: StorageView, drafts: list[Draft], frames: int, last_speech_seconds: float
    ) -> None:
        self._engine.model.add_word_timestamps(
            [drafts],
            self._tokenizer,
            heard,
            frames,
            windows.PREPENDED_PUNCTUATION,
            windows.APPENDED_PUNCTUATION,
            last_speech_timestamp=last_speech_seconds,
        )


def _options(tokenizer: Tokenizer, spec: ModelSpec) -> TranscriptionOptions:
    """``WhisperModel.transcribe``'s defaults."""
    return TranscriptionOptions(
        beam_size=5,
        best_of=5,
        patience=1,
        length_penalty=1,
        repetition_penalty=1,
        no_repeat_ngram_size=0,
        log_prob_threshold=spec.avg_logprob_limit,
        no_speech_threshold=windows.NO_SPEECH_LIMIT,
        compression_ratio_threshold=spec.compression_ratio_limit,
        condition_on_previous_text=True,
        prompt_reset_on_temperature=windows.PROMPT_TEMPERATURE_LIMIT,
        temperatures=list(windows.TEMPERATURES),
        initial_prompt=None,
        prefix=None,
        suppress_blank=True,
        suppress_tokens=get_suppressed_tokens(tokenizer, [-1]),
        without_timestamps=False,
        max_initial_timestamp=1.0,
        word_timestamps=False,
        prepend_punctuations=windows.PREPENDED_PUNCTUATION,
        append_punctuations=windows.APPENDED_PUNCTUATION,
        multilingual=False,
        max_new_tokens=None,
        clip_timestamps="0",
        hallucination_silence_threshold=None,
        hotwords=None,
    )


def prompt_of(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """What a client says came before, as tokens."""
    # Text that looks like a special token would become one.
    tokens = tokenizer.encode(" " + text.strip())
    return tuple(token for token in tokens if token < tokenizer.eot)


def spectrogram(samples: Array, extractor: FeatureExtractor) -> Spectrogram:
    """As faster-whisper makes it."""
    log_mel = partial(_log_mel, extractor=extractor)
    return Spectrogram(samples, silence=_SILENCE, log_mel=log_mel)


def _log_mel(signal: Array, *, extractor: FeatureExtractor) -> Array:
    """As ``FeatureExtractor.__call__``, of a signal that is padded already."""
    spectrum = extractor.stft(
        signal,
        FRAME,
        HOP,
        window=np.hanning(FRAME + 1)[:-1].astype(np.float32),
        center=False,
        return_complex=True,
    ).astype(np.complex64)
    mel = extractor.mel_filters @ (np.abs(spectrum) ** 2)
    return cast(Array, np.log10(np.clip(mel, a_min=1e-10, a_max=None)))
