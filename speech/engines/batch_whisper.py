"""Windows of many recordings at a time: encoded by OpenVINO, written down by CTranslate2.

Each transcription goes from window to window as with the other engines; what a window costs is
done for all of them together.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import openvino
from ctranslate2 import StorageView
from faster_whisper import WhisperModel
from faster_whisper.feature_extractor import FeatureExtractor
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_compression_ratio
from openvino import CompiledModel

import errors
from speech.engines import catalogue, fast, faster_whisper, windows
from speech.engines.batching import Batcher, BatchStats
from speech.engines.catalogue import ModelKey, ModelSpec
from speech.engines.converted import encoder_beside
from speech.engines.failures import translated
from speech.engines.fitting import Hardware, memory_bytes
from speech.engines.spectrogram import WINDOW_FRAMES, Array, Spectrogram
from speech.engines.windows import Decoded, Draft
from speech.transcript import Mode, ResumeState, TranscribeOptions, Window

#: Windows of one batch, at most: more are hardly faster on a CPU.
LARGEST_BATCH: Final = 8
#: As OpenVINO and CTranslate2 name what a compute type means to them.
PRECISIONS: Final = {
    "int8_bfloat16": ("bf16", "int8"),
    "int8_float32": ("f32", "int8"),
    "float32": ("f32", "float32"),
}
#: Tokens of a window, at most, and what of them may be prompt: Whisper's.
MAX_TOKENS: Final = 448
#: No first timestamp beyond a second, in tokens of 20 ms.
MAX_FIRST_TIMESTAMP: Final = 50
BF16: Final = "BF16"


def hardware() -> Hardware:
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    lacks = frozenset() if BF16 in able else frozenset({"int8_bfloat16"})
    return Hardware(cpu_lacks=lacks)


def load(
    key: ModelKey,
    folder: Path,
    *,
    threads: int = 1,
    runners: int = 1,
    spec: ModelSpec | None = None,
) -> BatchWhisper:
    """Load a folder in CTranslate2's format, and the encoder beside it.

    Args:
        threads: Of the CPU, for one batch.
        runners: Batches at a time.
        spec: What the model can do, when that is not what the catalogue says.

    Raises:
        ModelLoadFailed: they are not in those formats.
        EngineOutOfMemory: they do not fit.
    """
    precision, compute_type = PRECISIONS[key.compute_type]
    with translated(errors.ModelLoadFailed):
        encoder = openvino.Core().compile_model(
            encoder_beside(folder) / "encoder.xml",
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": precision,
                "INFERENCE_NUM_THREADS": threads * runners,
                "NUM_STREAMS": runners,
            },
        )
        model = WhisperModel(
            str(folder),
            device="cpu",
            compute_type=compute_type,
            cpu_threads=threads,
            num_workers=runners,
            local_files_only=True,
        )
        return BatchWhisper(
            key, spec or catalogue.resolve(key.model), encoder, model, runners=runners
        )


@dataclass(eq=False, slots=True)
class _Heard:
    """A window's sound, and what the encoder made of it once it was asked."""

    mel: Array | None
    #: Shape (1500, n_state).
    features: Array | None = None


@dataclass(frozen=True, slots=True)
class _Work:
    """What is to be done with one window. Without a prompt: to tell the language."""

    heard: _Heard
    prompt: tuple[int, ...] = ()
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class _Written:
    """What CTranslate2 wrote down of a window, or what languages it may be."""

    tokens: Sequence[int] = ()
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    languages: Sequence[tuple[str, float]] = field(default=())


class BatchWhisper:
    """A loaded model that works on the windows of all who use it together."""

    exclusive = False

    def __init__(
        self,
        key: ModelKey,
        spec: ModelSpec,
        encoder: CompiledModel,
        model: WhisperModel,
        *,
        runners: int,
    ) -> None:
        self.key = key
        self.spec = spec
        self.memory_bytes = memory_bytes(key, batches=runners)
        self._requests = [encoder.create_infer_request() for _ in range(runners)]
        self._model: WhisperModel | None = model
        self._extractor = FeatureExtractor(feature_size=spec.n_mels)
        self._batcher: Batcher[_Work, _Written] = Batcher(
            self._work, runners=runners, largest=LARGEST_BATCH, name=f"batch-{spec.name}"
        )

    @property
    def model(self) -> WhisperModel:
        if self._model is None:
            raise errors.EngineError("The model was closed while it was in use.")
        return self._model

    def transcribe(
        self, samples: Array, options: TranscribeOptions, resume: ResumeState | None = None
    ) -> Iterator[Window]:
        """See ``Engine.transcribe``.

        Knows both modes. Text is greedy, as ``whisper.transcribe``'s is by default. At a
        temperature above 0 it is drawn from CTranslate2's own random generator, which cannot be set
        back.
        """
        options = windows.suited(options, self.spec)
        if (resume.mode if resume else options.mode) is Mode.EXACT:
            return windows.run(partial(self._start, samples, options, resume), options)
        windows.require_language(self.spec, options.language)
        at_once = LARGEST_BATCH * len(self._requests)
        start = partial(self._start, owner=object())
        return fast.run(samples, start, options, resume, at_once=at_once)

    def stats(self) -> BatchStats:
        return self._batcher.stats()

    def close(self) -> None:
        self._batcher.close()
        if self._model is not None:
            self._model.model.unload_model()
        self._model = None
        self._requests.clear()
        gc.collect()

    def write(self, work: _Work, *, owner: object, urgent: bool) -> _Written:
        """Have a window done, together with those of others."""
        try:
            return self._batcher.submit(work, owner=owner, urgent=urgent).result()
        except CancelledError as error:
            raise errors.EngineError("The model was closed while it was in use.") from error

    def _start(
        self,
        samples: Array,
        options: TranscribeOptions,
        resume: ResumeState | None,
        owner: object = None,
    ) -> tuple[_Decoder, Spectrogram, ResumeState]:
        spectrogram = faster_whisper.spectrogram(samples, self._extractor)
        first = _FirstWindow(spectrogram)
        state = resume or windows.first_state(
            self.spec, options, partial(self._detect, first, options)
        )
        decoder = _Decoder(self, state.language or "en", options, first, owner=owner or first)
        if resume is None and options.initial_prompt is not None:
            state = replace(state, prompt_tokens=decoder.prompt(options.initial_prompt))
        return decoder, spectrogram, state

    def _detect(self, first: _FirstWindow, options: TranscribeOptions) -> tuple[str, float]:
        written = self.write(_Work(first.heard), owner=first, urgent=options.urgent)
        token, probability = written.languages[0]
        return token[2:-2], probability

    def _work(self, runner: int, batch: Sequence[_Work]) -> list[_Written]:
        for work in batch:
            self._encode(runner, work.heard)
        alike: dict[tuple[int, float], list[int]] = defaultdict(list)
        for place, work in enumerate(batch):
            # CTranslate2 wants prompts of one length, and has one temperature for all
            alike[len(work.prompt), work.temperature].append(place)
        written: dict[int, _Written] = {}
        for (length, temperature), places in alike.items():
            rows = [batch[place] for place in places]
            found = self._generate(rows, temperature) if length else self._languages(rows)
            written.update(zip(places, found, strict=True))
        return [written[place] for place in range(len(batch))]

    def _encode(self, runner: int, heard: _Heard) -> None:
        # one by one: together they are no faster on a CPU, and take many times the memory
        if heard.mel is not None:
            features = self._requests[runner].infer({0: heard.mel[None]})[0][0]
            # a copy: the next one is written over it
            heard.mel, heard.features = None, features.copy()

    def _languages(self, rows: Sequence[_Work]) -> list[_Written]:
        found = self.model.model.detect_language(_features(rows))
        return [_Written(languages=languages) for languages in found]

    def _generate(self, rows: Sequence[_Work], temperature: float) -> list[_Written]:
        drawn = {"sampling_topk": 0, "sampling_temperature": temperature} if temperature else {}
        results = self.model.model.generate(
            _features(rows),
            [list(row.prompt) for row in rows],
            beam_size=1,
            max_length=MAX_TOKENS,
            max_initial_timestamp_index=MAX_FIRST_TIMESTAMP,
            return_scores=True,
            return_no_speech_prob=True,
            **drawn,
        )
        return [_written(result) for result in results]


def _features(rows: Sequence[_Work]) -> StorageView:
    return StorageView.from_array(np.stack([cast(Array, row.heard.features) for row in rows]))


def _written(result: Any) -> _Written:
    tokens = result.sequences_ids[0]
    # CTranslate2's score is the mean over the tokens, and Whisper's counts the end as one as well
    return _Written(
        tokens=tokens,
        avg_logprob=result.scores[0] * len(tokens) / (len(tokens) + 1),
        no_speech_prob=result.no_speech_prob,
    )


class _FirstWindow:
    """What the language is told by, which is also the first that is written down."""

    def __init__(self, spectrogram: Spectrogram) -> None:
        self._spectrogram = spectrogram
        self._heard: _Heard | None = None

    @property
    def heard(self) -> _Heard:
        if self._heard is None:
            frames = min(WINDOW_FRAMES, self._spectrogram.frames)
            self._heard = _Heard(self._spectrogram.window_of_30_seconds(0, frames))
        return self._heard

    def take(self) -> _Heard | None:
        """Give it away, if it was encoded."""
        heard, self._heard = self._heard, None
        return heard


class _Decoder:
    """What one transcription needs of the model: its language, its task."""

    def __init__(
        self,
        engine: BatchWhisper,
        language: str,
        options: TranscribeOptions,
        first: _FirstWindow,
        *,
        owner: object,
    ) -> None:
        self._engine = engine
        self._owner = owner
        self._first: _FirstWindow | None = first
        self._urgent = options.urgent
        self._tokenizer = Tokenizer(
            engine.model.hf_tokenizer,
            engine.spec.multilingual,
            task="translate" if options.translate else "transcribe",
            language=language,
        )
        self.first_timestamp_token: int = self._tokenizer.timestamp_begin

    def prompt(self, text: str) -> tuple[int, ...]:
        return faster_whisper.prompt_of(self._tokenizer, text)

    def text(self, tokens: Sequence[int]) -> str:
        return cast(str, self._tokenizer.decode(list(tokens)))

    def hear(self, mel: Array) -> _Heard:
        first, self._first = self._first, None
        return (first and first.take()) or _Heard(mel)

    def decode(self, heard: _Heard, prompt: tuple[int, ...], frame: int) -> Decoded:
        *temperatures, last = windows.TEMPERATURES
        for temperature in temperatures:
            decoded = self._decode_at(temperature, heard, prompt)
            if decoded.is_settled(self._engine.spec):
                return decoded
        return self._decode_at(last, heard, prompt)

    def _decode_at(self, temperature: float, heard: _Heard, prompt: tuple[int, ...]) -> Decoded:
        tokens = tuple(self._engine.model.get_prompt(self._tokenizer, list(prompt)))
        work = _Work(heard, tokens, temperature)
        written = self._engine.write(work, owner=self._owner, urgent=self._urgent)
        return Decoded(
            tokens=written.tokens,
            avg_logprob=written.avg_logprob,
            no_speech_prob=written.no_speech_prob,
            compression_ratio=get_compression_ratio(self.text(written.tokens).strip()),
            temperature=temperature,
        )

    def time_words(
        self, heard: _Heard, drafts: list[Draft], frames: int, last_speech_seconds: float
    ) -> None:
        self._engine.model.add_word_timestamps(
            [drafts],
            self._tokenizer,
            _features([_Work(heard)]),
            frames,
            windows.PREPENDED_PUNCTUATION,
            windows.APPENDED_PUNCTUATION,
            last_speech_timestamp=last_speech_seconds,
        )
