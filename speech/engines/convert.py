"""From openai-whisper's checkpoints to the folders that CTranslate2 loads.

CTranslate2's own converter reads transformers' form of the models and needs transformers for it;
this one needs nothing that the two engines do not bring.
"""

from __future__ import annotations

import base64
import functools
import gzip
import itertools
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ctranslate2.specs import WhisperSpec
from ctranslate2.specs.common_spec import LayerNormSpec, LinearSpec
from ctranslate2.specs.model_spec import ACCEPTED_MODEL_TYPES
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor
from whisper import _ALIGNMENT_HEADS
from whisper.model import ModelDimensions
from whisper.tokenizer import Tokenizer, get_tokenizer

import errors
from speech.engines.failures import translated
from speech.engines.store import building

Weights = dict[str, Tensor]

#: Tokens of the multilingual vocabulary with 99 languages; the English one has one less.
_MULTILINGUAL = 51865


def convert(checkpoint: Path, target: Path, *, quantization: str | None = None) -> None:
    """Write a checkpoint as a folder for CTranslate2 and faster-whisper, all at once.

    Args:
        checkpoint: Its file name tells which attention heads know the times of words.
        quantization: How the weights are stored, such as "int8" or "float16"; None keeps them. It
            is loaded as any compute type all the same.

    Raises:
        InvalidRequest: CTranslate2 has no such quantization.
        ModelUnavailable: ``checkpoint`` cannot be read, ``target`` cannot be written or is there.
        ModelLoadFailed: ``checkpoint`` is none.
    """
    if quantization is not None and quantization not in ACCEPTED_MODEL_TYPES:
        raise errors.InvalidRequest(
            f"There is no quantization {quantization[:32]!r}; "
            f"there is: {', '.join(ACCEPTED_MODEL_TYPES)}."
        )
    _require_readable(checkpoint)
    refusal = functools.partial(
        errors.ModelLoadFailed, f"{checkpoint.name} is not a checkpoint of openai-whisper's."
    )
    with building(target) as folder:
        with translated(refusal):
            converted = _converted(checkpoint, quantization)
        converted.save(folder)


def _require_readable(checkpoint: Path) -> None:
    try:
        with checkpoint.open("rb"):
            pass
    except OSError as error:
        raise errors.ModelUnavailable(f"{checkpoint} cannot be read: {error.strerror}.") from error


@dataclass(frozen=True, slots=True)
class _Converted:
    spec: WhisperSpec
    tokenizer: Tokenizer
    n_mels: int

    def save(self, folder: Path) -> None:
        self.spec.save(str(folder))
        fast_tokenizer(self.tokenizer).save(str(folder / "tokenizer.json"))
        features = {"feature_size": self.n_mels, "sampling_rate": 16000, "chunk_length": 30}
        features |= {"hop_length": 160, "n_fft": 400}
        (folder / "preprocessor_config.json").write_text(json.dumps(features), encoding="utf-8")


def _converted(checkpoint: Path, quantization: str | None) -> _Converted:
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    dims = ModelDimensions(**stored["dims"])
    multilingual = dims.n_vocab >= _MULTILINGUAL
    languages = dims.n_vocab - _MULTILINGUAL + (99 if multilingual else 100)
    tokenizer = get_tokenizer(multilingual, num_languages=languages)
    spec = WhisperSpec(dims.n_audio_layer, dims.n_audio_head, dims.n_text_layer, dims.n_text_head)
    _set_weights(spec, stored["model_state_dict"])
    spec.config.suppress_ids = _suppressed(tokenizer)
    spec.config.suppress_ids_begin = [*tokenizer.encode(" "), tokenizer.eot]
    spec.config.lang_ids = sorted(tokenizer.all_language_tokens)
    spec.config.alignment_heads = _alignment_heads(checkpoint.stem, dims)
    spec.register_vocabulary(vocabulary(tokenizer))
    spec.validate()
    spec.optimize(quantization=quantization)
    return _Converted(spec, tokenizer, dims.n_mels)


def _set_weights(spec: Any, weights: Weights) -> None:
    encoder, decoder = spec.encoder, spec.decoder
    for name in ("conv1", "conv2"):
        getattr(encoder, name).weight = weights[f"encoder.{name}.weight"]
        getattr(encoder, name).bias = weights[f"encoder.{name}.bias"]
    encoder.position_encodings.encodings = weights["encoder.positional_embedding"]
    decoder.position_encodings.encodings = weights["decoder.positional_embedding"]
    decoder.embeddings.weight = weights["decoder.token_embedding.weight"]
    decoder.projection.weight = weights["decoder.token_embedding.weight"]
    _set_norm(encoder.layer_norm, weights, "encoder.ln_post")
    _set_norm(decoder.layer_norm, weights, "decoder.ln")
    for side, layers in (("encoder", encoder.layer), ("decoder", decoder.layer)):
        for index, layer in enumerate(layers):
            block = f"{side}.blocks.{index}"
            _set_norm(layer.self_attention.layer_norm, weights, f"{block}.attn_ln")
            _set_attention(layer.self_attention.linear, weights, f"{block}.attn", ["qkv"])
            if side == "decoder":
                _set_norm(layer.attention.layer_norm, weights, f"{block}.cross_attn_ln")
                _set_attention(layer.attention.linear, weights, f"{block}.cross_attn", ["q", "kv"])
            _set_norm(layer.ffn.layer_norm, weights, f"{block}.mlp_ln")
            _set_linear(layer.ffn.linear_0, weights, [f"{block}.mlp.0"])
            _set_linear(layer.ffn.linear_1, weights, [f"{block}.mlp.2"])


def _set_attention(
    linears: list[LinearSpec], weights: Weights, name: str, fused: list[str]
) -> None:
    """Set the projections, of which CTranslate2 does those of one input at once."""
    parts = {"q": f"{name}.query", "k": f"{name}.key", "v": f"{name}.value"}
    for linear, letters in zip(linears, fused, strict=False):
        _set_linear(linear, weights, [parts[letter] for letter in letters])
    _set_linear(linears[-1], weights, [f"{name}.out"])


def _set_linear(linear: LinearSpec, weights: Weights, names: list[str]) -> None:
    parts = [weights[f"{name}.weight"] for name in names]
    # Whisper's keys have no bias.
    biases = [
        weights.get(f"{name}.bias", part.new_zeros(part.shape[0]))
        for name, part in zip(names, parts, strict=True)
    ]
    linear.weight = torch.cat(parts)
    linear.bias = torch.cat(biases)


def _set_norm(norm: LayerNormSpec, weights: Weights, name: str) -> None:
    norm.gamma = weights[f"{name}.weight"]
    norm.beta = weights[f"{name}.bias"]


def _suppressed(tokenizer: Tokenizer) -> list[int]:
    """Tokens that are never wanted in a text; as openai-whisper's ``suppress_tokens="-1"``."""
    control = (
        tokenizer.transcribe,
        tokenizer.translate,
        tokenizer.sot,
        tokenizer.sot_prev,
        tokenizer.sot_lm,
        tokenizer.no_speech,
    )
    return sorted({*tokenizer.non_speech_tokens, *control})


def _alignment_heads(name: str, dims: ModelDimensions) -> list[list[int]]:
    if name not in _ALIGNMENT_HEADS:
        # As openai-whisper does for a model that it does not know: all of the later half.
        layers = range(dims.n_text_layer // 2, dims.n_text_layer)
        return [list(head) for head in itertools.product(layers, range(dims.n_text_head))]
    known = np.frombuffer(gzip.decompress(base64.b85decode(_ALIGNMENT_HEADS[name])), dtype=bool)
    heads: list[list[int]] = np.argwhere(known.reshape(dims.n_text_layer, -1)).tolist()
    return heads


def vocabulary(tokenizer: Tokenizer) -> list[str]:
    """Every token as text, in order; bytes as the characters that GPT-2 writes for them."""
    encoding = tokenizer.encoding
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    return [
        names.get(token) or _spelled(encoding.decode_single_token_bytes(token))
        for token in range(encoding.n_vocab)
    ]


def fast_tokenizer(tokenizer: Tokenizer) -> FastTokenizer:
    """openai-whisper's tokenizer in the form that faster-whisper reads."""
    ranks: dict[bytes, int] = tokenizer.encoding._mergeable_ranks  # noqa: SLF001 - nowhere else
    pairs = (_merged_pair(ranks, token) for token in sorted(ranks, key=ranks.__getitem__))
    merges = [(_spelled(left), _spelled(right)) for left, right in filter(None, pairs)]
    words = {_spelled(token): rank for token, rank in ranks.items()}
    fast = FastTokenizer(models.BPE(vocab=words, merges=merges))
    # GPT-2's pattern, which is openai-whisper's too.
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    special = sorted(tokenizer.special_tokens, key=tokenizer.special_tokens.__getitem__)
    fast.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    return fast


def _merged_pair(ranks: dict[bytes, int], token: bytes) -> tuple[bytes, bytes] | None:
    """The two tokens that byte pair encoding merges into ``token``; None for a single byte."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:  # noqa: PLR2004 - a pair
        order = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        best = order.index(min(order))
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return (parts[0], parts[1]) if len(parts) > 1 else None


def _byte_characters() -> dict[int, str]:
    """GPT-2's characters for bytes: those that can be seen stand for themselves."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    seen += range(ord("®"), ord("ÿ") + 1)
    hidden = [byte for byte in range(256) if byte not in seen]
    characters = {byte: chr(byte) for byte in seen}
    return characters | {byte: chr(256 + index) for index, byte in enumerate(hidden)}


_BYTE_CHARACTERS = _byte_characters()


def _spelled(token: bytes) -> str:
    return "".join(_BYTE_CHARACTERS[byte] for byte in token)
