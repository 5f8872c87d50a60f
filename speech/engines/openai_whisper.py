"""openai-whisper: the reference. One thread at a time may use a loaded model."""

from __future__ import annotations

import gc
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from whisper import _ALIGNMENT_HEADS
from whisper.audio import N_SAMPLES, mel_filters
from whisper.decoding import DecodingOptions, DecodingTask
from whisper.model import Conv1d, Linear, ModelDimensions, Whisper
from whisper.timing import add_word_timestamps
from whisper.tokenizer import get_tokenizer

import errors
from speech.engines import catalogue, windows
from speech.engines.catalogue import ModelKey, ModelSpec
from speech.engines.failures import translated
from speech.engines.fitting import Hardware, memory_bytes
from speech.engines.spectrogram import FRAME, HOP, WINDOW_FRAMES, Array, Spectrogram
from speech.engines.windows import Decoded, Draft
from speech.transcript import ResumeState, TranscribeOptions, Window

#: Below it a GPU has no fast half precision.
_FP16_CAPABILITY = (7, 0)

# Word timing sets a switch of the class, for all models of the process, and its numba code may not
# run twice at a time where numba has no thread-safe layer: it then ends the process.
_timing_words = threading.Lock()


def hardware() -> Hardware:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    capabilities = [torch.cuda.get_device_capability(index) for index in range(count)]
    types = {"float32"} if count else set()
    if count and min(capabilities) >= _FP16_CAPABILITY:
        types.add("float16")
    return Hardware(
        cuda_devices=count,
        cuda_compute_types=frozenset(types),
        mps=torch.backends.mps.is_available(),
    )


def load(
    key: ModelKey, checkpoint: Path, *, threads: int = 0, spec: ModelSpec | None = None
) -> OpenAIWhisper:
    """Load a checkpoint in openai-whisper's format.

    Args:
        spec: What the model can do, when that is not what the catalogue says.

    Raises:
        ModelLoadFailed: it is not in that format, or the device fails.
        EngineOutOfMemory: it does not fit.
    """
    with translated(errors.ModelLoadFailed, on_out_of_memory=partial(_free_cached, key)):
        model = _load_model(key, checkpoint)
        return OpenAIWhisper(key, spec or catalogue.resolve(key.model), model, threads=threads)


class OpenAIWhisper:
    """A loaded openai-whisper model."""

    exclusive = True

    def __init__(self, key: ModelKey, spec: ModelSpec, model: Whisper, *, threads: int) -> None:
        self.key = key
        self.spec = spec
        self.memory_bytes = memory_bytes(key)
        self._model: Whisper | None = model
        self._threads = threads

    @property
    def model(self) -> Whisper:
        if self._model is None:
            raise errors.EngineError("The model was closed while it was in use.")
        return self._model

    def transcribe(
        self, samples: Array, options: TranscribeOptions, resume: ResumeState | None = None
    ) -> Iterator[Window]:
        """See ``Engine.transcribe``.

        Text at a temperature above 0 is drawn with a seed that the window's place gives: another
        run on the same kind of device, also one that was resumed, draws the same.
        """
        options = windows.suited(options, self.spec)
        return windows.run(
            partial(self._start, samples, options, resume),
            options,
            on_out_of_memory=partial(_free_cached, self.key),
        )

    def close(self) -> None:
        self._model = None
        gc.collect()
        _free_cached(self.key)

    def _start(
        self, samples: Array, options: TranscribeOptions, resume: ResumeState | None
    ) -> tuple[_Decoder, Spectrogram, ResumeState]:
        if self._threads:
            torch.set_num_threads(self._threads)
        log_mel = partial(_log_mel, n_mels=self.model.dims.n_mels)
        spectrogram = Spectrogram(samples, silence=N_SAMPLES, log_mel=log_mel)
        state = resume or windows.first_state(
            self.spec, options, partial(self._detect, spectrogram)
        )
        decoder = _Decoder(self, state.language or "en", translate=options.translate)
        if resume is None and options.initial_prompt is not None:
            state = replace(state, prompt_tokens=decoder.prompt(options.initial_prompt))
        return decoder, spectrogram, state

    def _detect(self, spectrogram: Spectrogram) -> tuple[str, float]:
        mel = self.tensor(spectrogram.window(0, WINDOW_FRAMES))
        probabilities: dict[str, float] = self.model.detect_language(mel)[1]
        return max(probabilities.items(), key=lambda item: item[1])

    def tensor(self, mel: Array) -> Tensor:
        dtype = torch.float16 if self.key.compute_type == "float16" else torch.float32
        return torch.from_numpy(mel).to(self.model.device).to(dtype)


@dataclass(frozen=True, slots=True)
class _Heard:
    """One window, before and after the encoder."""

    mel: Tensor
    features: Tensor


class _Decoder:
    """What one transcription needs of the model: its language, its task."""

    def __init__(self, engine: OpenAIWhisper, language: str, *, translate: bool) -> None:
        self._engine = engine
        self._language = language
        self._task = "translate" if translate else "transcribe"
        self._tokenizer = get_tokenizer(
            engine.model.is_multilingual,
            num_languages=engine.model.num_languages,
            language=language,
            task=self._task,
        )
        self.first_timestamp_token: int = self._tokenizer.timestamp_begin

    def prompt(self, text: str) -> tuple[int, ...]:
        # Text of a client that looks like a special token is text, and no error.
        return tuple(self._tokenizer.encode(" " + text.strip(), disallowed_special=()))

    def text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode([t for t in tokens if t < self._tokenizer.eot])
        return text

    @torch.no_grad()
    def hear(self, mel: Array) -> _Heard:
        tensor = self._engine.tensor(mel)
        return _Heard(tensor, self._engine.model.encoder(tensor[None]))

    def decode(self, heard: _Heard, prompt: tuple[int, ...], frame: int) -> Decoded:
        *temperatures, last = windows.TEMPERATURES
        for temperature in temperatures:
            decoded = self._decode_at(temperature, heard, prompt, frame)
            if decoded.is_settled(self._engine.spec):
                return decoded
        return self._decode_at(last, heard, prompt, frame)

    def _decode_at(
        self, temperature: float, heard: _Heard, prompt: tuple[int, ...], frame: int
    ) -> Decoded:
        task = DecodingTask(
            self._engine.model,
            DecodingOptions(
                task=self._task,
                language=self._language,
                temperature=temperature,
                prompt=list(prompt),
                fp16=heard.mel.dtype == torch.float16,
            ),
        )
        if temperature > 0:
            seed = 10 * frame + round(10 * temperature)
            task.decoder = _SeededSampler(temperature, self._tokenizer.eot, seed)
        [result] = task.run(heard.features)
        return Decoded(
            tokens=result.tokens,
            avg_logprob=result.avg_logprob,
            no_speech_prob=result.no_speech_prob,
            compression_ratio=result.compression_ratio,
            temperature=temperature,
        )

    def time_words(
        self, heard: _Heard, drafts: list[Draft], frames: int, last_speech_seconds: float
    ) -> None:
        model = self._engine.model
        with _timing_words:
            try:
                add_word_timestamps(
                    segments=drafts,
                    model=model,
                    tokenizer=self._tokenizer,
                    mel=heard.mel,
                    num_frames=frames,
                    prepend_punctuations=windows.PREPENDED_PUNCTUATION,
                    append_punctuations=windows.APPENDED_PUNCTUATION,
                    last_speech_timestamp=last_speech_seconds,
                )
            except BaseException:
                # Its own hooks, left behind, would hold on to every later window.
                for block in model.decoder.blocks:
                    block.cross_attn._forward_hooks.clear()  # noqa: SLF001 - no public way
                raise


class _SeededSampler:
    """A ``whisper.decoding.TokenDecoder`` that draws tokens from a random generator of its own.

    openai-whisper draws from torch's, which all threads of the process share.
    """

    def __init__(self, temperature: float, eot: int, seed: int) -> None:
        self._temperature = temperature
        self._eot = eot
        self._seed = seed
        self._generator: torch.Generator | None = None

    def reset(self) -> None:
        self._generator = None

    def update(self, tokens: Tensor, logits: Tensor, sum_logprobs: Tensor) -> tuple[Tensor, Tensor]:
        if self._generator is None:
            self._generator = torch.Generator(logits.device).manual_seed(self._seed)
        weights = functional.softmax(logits.float() / self._temperature, dim=-1)
        drawn = torch.multinomial(weights, 1, generator=self._generator)
        logprobs = functional.log_softmax(logits.float(), dim=-1).gather(1, drawn)
        ended = tokens[:, -1] == self._eot
        sum_logprobs += logprobs[:, 0] * ~ended
        drawn[ended] = self._eot
        return torch.cat([tokens, drawn], dim=-1), (drawn == self._eot).all()

    def finalize(self, tokens: Tensor, sum_logprobs: Tensor) -> tuple[Tensor, list[float]]:
        return functional.pad(tokens, (0, 1), value=self._eot), sum_logprobs.tolist()


class _Uninitialised(TorchFunctionMode):
    """Leaves new weights as they are: random ones for large-v3 take 15 s, and are not wanted."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.uniform_, Tensor.normal_):
            return args[0]
        return func(*args, **(kwargs or {}))


def _load_model(key: ModelKey, path: Path) -> Whisper:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_mappable(path))
    with _Uninitialised():
        model = Whisper(ModelDimensions(**checkpoint["dims"]))
    if key.compute_type == "float16":
        # They are rounded to it at every use anyway; the result is the same, in half the memory.
        for module in model.modules():
            if isinstance(module, Linear | Conv1d):
                module.half()
    model.load_state_dict(checkpoint["model_state_dict"])
    if heads := _ALIGNMENT_HEADS.get(key.model):
        model.set_alignment_heads(heads)
    # A sparse table that only Python reads: Apple's GPU has none, and no other needs it there.
    heads_table = model._buffers.pop("alignment_heads")  # noqa: SLF001 - no public way
    model.to(key.device).eval().requires_grad_(requires_grad=False)
    model.alignment_heads = heads_table
    return model


def _is_mappable(path: Path) -> bool:
    """Whether a checkpoint can be read in place, not first all of it into memory.

    The demo model's is compressed, and torch would take the compressed bytes for weights.
    """
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _log_mel(signal: Array, *, n_mels: int) -> Array:
    """As ``whisper.audio.log_mel_spectrogram``, of a signal that is padded already."""
    spectrum = torch.stft(
        torch.from_numpy(signal),
        FRAME,
        HOP,
        window=torch.hann_window(FRAME),
        center=False,
        return_complex=True,
    )
    mel = mel_filters("cpu", n_mels) @ (spectrum.abs() ** 2)
    return cast(Array, torch.clamp(mel, min=1e-10).log10().numpy())


def _free_cached(key: ModelKey) -> None:
    if key.device_kind == "cuda":
        torch.cuda.empty_cache()
