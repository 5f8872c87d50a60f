"""Models of the real sizes whose weights are random, and which write a fixed number of tokens.

Nothing is learnt, so no speed depends on luck with a text: the rows of all timestamps and of the
end of text are zero in the vocabulary, so that each window begins at 0.00 and its text ends where
Whisper's limit ends it, at half of the decoder's context.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from whisper.model import ModelDimensions, Whisper

END_OF_TEXT = 50257
FIRST_TIMESTAMP = 50364
VOCABULARY = 51865
#: Of each window: the timestamp, and text until the limit.
TOKENS = 224


@dataclass(frozen=True)
class Size:
    """What makes a model larger than another."""

    state: int
    heads: int
    layers: int


SIZES = {"tiny": Size(384, 6, 4), "base": Size(512, 8, 6), "small": Size(768, 12, 12)}


def dimensions(name: str) -> ModelDimensions:
    size = SIZES[name]
    return ModelDimensions(
        n_mels=80,
        n_audio_ctx=1500,
        n_audio_state=size.state,
        n_audio_head=size.heads,
        n_audio_layer=size.layers,
        n_vocab=VOCABULARY,
        n_text_ctx=448,
        n_text_state=size.state,
        n_text_head=size.heads,
        n_text_layer=size.layers,
    )


def write_checkpoint(name: str, path: Path, *, seed: int = 0) -> None:
    """Write such a model as openai-whisper's checkpoint."""
    torch.manual_seed(seed)
    model = Whisper(dimensions(name))
    with torch.no_grad():
        embedding = model.decoder.token_embedding.weight
        embedding[END_OF_TEXT] = 0.0
        embedding[FIRST_TIMESTAMP:] = 0.0
        model.decoder.positional_embedding.normal_(std=0.02)
    torch.save({"dims": asdict(dimensions(name)), "model_state_dict": model.state_dict()}, path)


def operations(name: str, tokens: int = TOKENS) -> float:
    """Multiplications and additions for one window of 30 s, greedy: what a roofline is made of."""
    d, layers, sound = SIZES[name].state, SIZES[name].layers, 1500
    convolutions = 2 * 3 * 80 * d * 2 * sound + 2 * 3 * d * d * sound
    encoder = layers * (24 * d * d * sound + 4 * sound * sound * d)
    heard_once = layers * 4 * d * d * sound
    step = layers * (28 * d * d + 4 * sound * d + 2 * tokens * d) + 2 * d * VOCABULARY
    return float(convolutions + encoder + heard_once + tokens * step)
