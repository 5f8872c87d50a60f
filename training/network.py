"""The demo model during training: Whisper's own modules, run so that they can be taught more.

Whisper's encoder insists on 30 seconds and its attention hides its weights from the gradient.
The same parameters are run here on windows of any length and place, and return, next to the
logits, the cross-attention of the layers that `whisper.timing` reads by default and the last
encoder layer's guess of the word said in every frame.  Both are taught with the known times,
which makes the attention settle within minutes and the word times true.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from whisper.model import ModelDimensions, MultiHeadAttention, Whisper, sinusoids

from training.dataset import IGNORED, MOST_WORDS, TEXT_PLACES, WORD_CLASSES
from training.vocabulary import TIMESTAMPS, VOCABULARY_SIZE, ReducedVocabulary

DIMENSIONS = ModelDimensions(
    n_mels=80,
    n_audio_ctx=1500,
    n_audio_state=128,
    n_audio_head=4,
    n_audio_layer=3,
    n_vocab=VOCABULARY_SIZE,
    n_text_ctx=TEXT_PLACES,
    n_text_state=128,
    n_text_head=4,
    n_text_layer=3,
)

# For each encoder layer, how coarse its heads' look is (the index of the first of Whisper's place
# frequencies that they compare) and how many frames away each looks at first.
LOCAL_HEADS: tuple[tuple[int, tuple[int, ...]], ...] = (
    (10, (-9, -3, 3, 9)),
    (18, (-24, -8, 8, 24)),
    (22, (-30, 30)),
)


class TrainedWhisper(nn.Module):
    """Whisper with the reduced token table and the heads that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary = ReducedVocabulary()
        dims = ModelDimensions(**{**DIMENSIONS.__dict__, "n_vocab": self.vocabulary.size})
        self.whisper = Whisper(dims)
        self.frame_words = nn.Linear(dims.n_audio_state, 3 * WORD_CLASSES)
        self.ordinals = nn.Linear(dims.n_audio_state, MOST_WORDS)
        self.register_buffer("log_counts", torch.from_numpy(self.vocabulary.log_counts()))
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Make sound as loud as places in the encoder's input, and tokens small.

        Timestamps start out resembling the encoder's places.
        """
        encoder, decoder, dims = self.whisper.encoder, self.whisper.decoder, self.whisper.dims
        encoder.conv1.weight *= 2
        encoder.conv2.weight *= 5
        for block, (coarseness, offsets) in zip(encoder.blocks, LOCAL_HEADS, strict=True):
            for head, offset in enumerate(offsets):
                look_nearby(block.attn, head, offset, coarseness)
        decoder.token_embedding.weight.normal_(0, 0.05)
        places = sinusoids(TIMESTAMPS, dims.n_text_state)
        first = self.vocabulary.timestamp_row
        decoder.token_embedding.weight[first : first + TIMESTAMPS] += 0.07 * places
        decoder.positional_embedding.copy_(
            0.05 * sinusoids(dims.n_text_ctx, dims.n_text_state, max_timescale=1000)
        )

    def encode(self, mel: Tensor, shift: int) -> Tensor:
        """The audio features of a window that begins `shift` frames after the 30 seconds do."""
        encoder = self.whisper.encoder
        x = functional.gelu(encoder.conv1(mel))
        x = functional.gelu(encoder.conv2(x)).permute(0, 2, 1)
        x = x + encoder.positional_embedding[shift : shift + x.shape[1]]
        for block in encoder.blocks:
            x = block(x)
        features: Tensor = encoder.ln_post(x)
        return features

    def decode(self, tokens: Tensor, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and the log attention on the audio of the layers that tell word times."""
        decoder = self.whisper.decoder
        x = decoder.token_embedding(tokens) + decoder.positional_embedding[: tokens.shape[1]]
        taught = len(decoder.blocks) // 2
        attentions = []
        for index, block in enumerate(decoder.blocks):
            x = x + block.attn(block.attn_ln(x), mask=decoder.mask)[0]
            if index < taught:
                x = x + block.cross_attn(block.cross_attn_ln(x), audio)[0]
            else:
                seen, attention = attend(block.cross_attn, block.cross_attn_ln(x), audio)
                x = x + seen
                attentions.append(attention)
            x = x + block.mlp(block.mlp_ln(x))
        logits = decoder.ln(x) @ decoder.token_embedding.weight.T
        return logits + self.log_counts, attentions

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What training minimises: tokens, attention and the frames' words."""
        with torch.autocast("cpu", torch.bfloat16):
            audio = self.encode(batch["mel"], int(batch["shift"])).float()
        logits, attentions = self.decode(batch["tokens"][:, :-1], audio)
        guesses = self.frame_words(audio).unflatten(2, (3, WORD_CLASSES))
        return {
            "tokens": self.token_loss(logits, batch["targets"]),
            "attention": torch.stack(
                [attention_loss(attention, batch["spans"]) for attention in attentions]
            ).mean(),
            "frames": frame_loss(guesses[:, :, 0], batch["classes"][:, 0]),
            "history": frame_loss(guesses[:, :, 1], batch["classes"][:, 1])
            + frame_loss(guesses[:, :, 2], batch["classes"][:, 2]),
            "ordinals": frame_loss(self.ordinals(audio), batch["classes"][:, 3]),
        }

    def token_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy, with timestamps a little blurred over their neighbours."""
        learnt = targets != IGNORED
        log_probabilities = functional.log_softmax(logits[learnt], dim=-1)
        wanted = targets[learnt]
        first = self.vocabulary.timestamp_row
        last = first + TIMESTAMPS - 1
        timed = (wanted >= first) & (wanted <= last)
        exact = -log_probabilities.gather(1, wanted[:, None])[:, 0]
        blurred = torch.zeros_like(exact)
        for offset, weight in ((-1, 0.2), (0, 0.6), (1, 0.2)):
            near = torch.where(timed, (wanted + offset).clamp(first, last), wanted)
            blurred = blurred - weight * log_probabilities.gather(1, near[:, None])[:, 0]
        return torch.where(timed, blurred, exact).mean()


def look_nearby(attention: MultiHeadAttention, head: int, offset: int, coarseness: int) -> None:
    """Make a head begin by looking a number of frames away from where it is.

    The encoder knows only absolute places, and would have to learn to look nearby anew at every
    place; comparing sines and cosines of places, turned by the offset, does it at all of them.
    """
    width = attention.query.weight.shape[0]
    size = width // attention.n_head
    pairs = coarseness + 2 * torch.arange(size // 2)
    frequencies = torch.exp(-math.log(10000) / (width // 2 - 1) * pairs)
    turn = frequencies * offset
    rows = head * size + torch.arange(size // 2)
    gain = 2.2
    for weight in (attention.query.weight, attention.key.weight):
        weight[head * size : (head + 1) * size] *= 0.3
    attention.key.weight[rows, pairs] += gain
    attention.key.weight[rows + size // 2, pairs + width // 2] += gain
    attention.query.weight[rows, pairs] += gain * turn.cos()
    attention.query.weight[rows, pairs + width // 2] += gain * turn.sin()
    attention.query.weight[rows + size // 2, pairs + width // 2] += gain * turn.cos()
    attention.query.weight[rows + size // 2, pairs] -= gain * turn.sin()


def attend(attention: MultiHeadAttention, x: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-attention that also returns its log weights, with their gradient."""
    heads = attention.n_head

    def split(y: Tensor) -> Tensor:
        return torch.unflatten(y, 2, (heads, -1)).transpose(1, 2)

    query, key = split(attention.query(x)), split(attention.key(audio))
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    weights = functional.log_softmax(scores, dim=-1)
    seen = weights.exp() @ split(attention.value(audio))
    given: Tensor = attention.out(seen.transpose(1, 2).flatten(2))
    return given, weights


def frame_loss(guesses: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy of a word's class in every frame."""
    return functional.cross_entropy(guesses.transpose(1, 2), classes)


def attention_loss(weights: Tensor, spans: Tensor) -> Tensor:
    """How far the attention of each token is from being even over the frames it is said in."""
    rows, queries = torch.nonzero(spans[..., 1] > spans[..., 0], as_tuple=True)
    if not len(rows):
        return weights.new_zeros(())
    chosen = weights[rows, :, queries].mean(dim=1)
    frames = torch.arange(chosen.shape[-1])
    first, last = spans[rows, queries].unbind(-1)
    inside = (frames >= first[:, None]) & (frames < last[:, None])
    return -((chosen * inside).sum(dim=1) / inside.sum(dim=1)).mean()
