"""Whisper models of random weights, in openai-whisper's format: small, and they say nonsense."""

import dataclasses
from pathlib import Path
from typing import IO

import torch
from whisper.model import ModelDimensions, Whisper

ENGLISH = ModelDimensions(
    n_mels=80, n_audio_ctx=1500, n_audio_state=64, n_audio_head=2, n_audio_layer=2,
    n_vocab=51864, n_text_ctx=448, n_text_state=64, n_text_head=2, n_text_layer=2,
)  # fmt: skip
MULTILINGUAL = dataclasses.replace(ENGLISH, n_vocab=51865)
LARGE_V3 = dataclasses.replace(ENGLISH, n_vocab=51866, n_mels=128)


def write_checkpoint(file: Path | IO[bytes], dims: ModelDimensions = MULTILINGUAL) -> Whisper:
    """Write random weights, and return the model that has them."""
    torch.manual_seed(0)
    model = Whisper(dims)
    with torch.no_grad():
        # Made to differ, so that mixing two up shows.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        model.decoder.positional_embedding.normal_(std=0.1)
    state = {"dims": dataclasses.asdict(dims), "model_state_dict": model.state_dict()}
    torch.save(state, file)
    return model.eval()
