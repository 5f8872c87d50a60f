"""From openai-whisper's checkpoints to encoders that OpenVINO runs."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import openvino
import torch
from whisper.model import AudioEncoder, ModelDimensions

import errors
from speech.engines.failures import translated
from speech.engines.spectrogram import WINDOW_FRAMES
from speech.engines.store import building

PREFIX = "encoder."


def convert(checkpoint: Path, target: Path) -> None:
    """Write a checkpoint's encoder as OpenVINO's files, weights in half precision, all at once.

    Raises:
        ModelUnavailable: ``target`` cannot be written or is there.
        ModelLoadFailed: ``checkpoint`` is none.
    """
    refusal = functools.partial(
        errors.ModelLoadFailed, f"{checkpoint.name} is not a checkpoint of openai-whisper's."
    )
    with building(target) as folder:
        with translated(refusal):
            model = _converted(checkpoint)
        openvino.save_model(model, folder / "encoder.xml", compress_to_fp16=True)


def _converted(checkpoint: Path) -> openvino.Model:
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    dims = ModelDimensions(**stored["dims"])
    encoder = AudioEncoder(
        dims.n_mels, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer
    )
    weights = stored["model_state_dict"]
    encoder.load_state_dict(
        {name.removeprefix(PREFIX): w for name, w in weights.items() if name.startswith(PREFIX)}
    )
    encoder.eval()
    # of two windows: torch would take a batch of one for a constant
    example = torch.zeros(2, dims.n_mels, WINDOW_FRAMES)
    with warnings.catch_warnings():
        # the tracer's, on an assertion about the window's length, which never changes
        warnings.simplefilter("ignore")
        return openvino.convert_model(
            encoder, example_input=example, input=[-1, dims.n_mels, WINDOW_FRAMES]
        )
