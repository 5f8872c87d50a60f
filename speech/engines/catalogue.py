"""Every model there is, by name.

Imports no engine: the web process reads this too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import errors
from speech.engines.languages import LANGUAGES
from speech.transcript import ResumeState

OPENAI_WHISPER = "openai-whisper"
FASTER_WHISPER = "faster-whisper"
#: The windows of many jobs at a time; on the CPU.
BATCH_WHISPER = "batch-whisper"
ENGINES = (OPENAI_WHISPER, FASTER_WHISPER, BATCH_WHISPER)

#: The model that we trained ourselves and ship: small enough to try the service with, offline.
DEMO = "demo"
#: Warning of a job whose model knows a few words only.
DEMO_WARNING = "demo_model"

#: Text tokens of the two vocabularies; after these come end of text, start of transcript, one
#: token for each language, six more, and the timestamps.
_TEXT_TOKENS = {True: 50257, False: 50256}

#: Mel bands of large-v3 and its descendants; they also know one language more.
_MANY_MELS = 128


@dataclass(frozen=True, slots=True)
class ModelKey:
    """A loaded model, as the pool tells them apart."""

    engine: str
    model: str
    #: "cpu", "cuda", "cuda:1" or "mps".
    device: str
    compute_type: str

    @classmethod
    def parse(cls, text: str) -> ModelKey:
        """Read what ``str`` wrote."""
        return cls(*text.split("/"))

    def __str__(self) -> str:
        return f"{self.engine}/{self.model}/{self.device}/{self.compute_type}"

    @property
    def device_kind(self) -> str:
        """The device without its number."""
        return self.device.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One model: where it comes from, how large it is, what it knows."""

    name: str
    #: Numbers in the checkpoint.
    parameters: int
    n_mels: int = 80
    #: Of openai-whisper's checkpoint; None for ``demo``, which is part of this program.
    sha256: str | None = None
    #: faster-whisper's own repository at Hugging Face; None for ``demo``.
    hub_repository: str | None = None
    #: The commit that we take from there, so that what was tested is what runs; None: the newest.
    hub_revision: str | None = None
    #: Text that gzip makes smaller by more than this repeats itself: it is decoded once more.
    #: ``demo`` knows ten words, so honest text of it does.
    compression_ratio_limit: float = 2.4
    #: Text that the model is less sure of is decoded once more. ``demo`` writes two timestamps for
    #: each word, and is never sure to the hundredth of a second.
    avg_logprob_limit: float = -1.0
    #: Whether it was trained to translate. One that was not, asked to, writes down what was said.
    translates: bool = True
    #: Whether the text so far helps with the next window. ``demo`` loses its place over it.
    takes_previous_text: bool = True

    @property
    def multilingual(self) -> bool:
        return not self.name.endswith(".en")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Codes of what to know about any transcript of it."""
        return (DEMO_WARNING,) if self.name == DEMO else ()

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that this model knows."""
        if not self.multilingual:
            return ("en",)
        known = tuple(LANGUAGES)
        return known if self.n_mels == _MANY_MELS else known[:-1]

    def unfit_for(self, *, language: str | None, translate: bool) -> str | None:
        """Tell by a code why this model cannot do a job that asks for this; None if it can."""
        if language is not None and language not in self.languages:
            return "unknown_language"
        return "cannot_translate" if translate and not self.translates else None

    @property
    def first_timestamp_token(self) -> int:
        """The token that says 0.00 s."""
        # English-only models have tokens for 99 languages too.
        return _TEXT_TOKENS[self.multilingual] + 2 + max(99, len(self.languages)) + 6

    @property
    def checkpoint_name(self) -> str:
        return f"{self.name}.pt"

    @property
    def checkpoint_url(self) -> str | None:
        """Where OpenAI publishes the checkpoint; None for ``demo``."""
        if self.sha256 is None:
            return None
        return (
            "https://openaipublic.azureedge.net/main/whisper/models"
            f"/{self.sha256}/{self.checkpoint_name}"
        )

    @property
    def download_bytes(self) -> int:
        """About what a download brings, from either source: two bytes a number; 0 for ``demo``."""
        return 0 if self.sha256 is None else 2 * self.parameters


# The digests are openai-whisper's (the tests compare). Each commit of a Hugging Face repository
# was compared with several independent projects that pin the same one.
_SPECS = (
    ModelSpec(
        name=DEMO,
        parameters=8_356_096,
        compression_ratio_limit=math.inf,
        avg_logprob_limit=-math.inf,
        takes_previous_text=False,
    ),
    ModelSpec(
        name="tiny.en",
        parameters=37_760_256,
        sha256="d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03",
        hub_repository="Systran/faster-whisper-tiny.en",
        hub_revision="0d3d19a32d3338f10357c0889762bd8d64bbdeba",
    ),
    ModelSpec(
        name="tiny",
        parameters=37_760_640,
        sha256="65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9",
        hub_repository="Systran/faster-whisper-tiny",
        hub_revision="d90ca5fe260221311c53c58e660288d3deb8d356",
    ),
    ModelSpec(
        name="base.en",
        parameters=72_593_408,
        sha256="25a8566e1d0c1e2231d1c762132cd20e0f96a85d16145c3a00adf5d1ac670ead",
        hub_repository="Systran/faster-whisper-base.en",
        hub_revision="3d3d5dee26484f91867d81cb899cfcf72b96be6c",
    ),
    ModelSpec(
        name="base",
        parameters=72_593_920,
        sha256="ed3a0b6b1c0edf879ad9b11b1af5a0e6ab5db9205f891f668f8b0e6c6326e34e",
        hub_repository="Systran/faster-whisper-base",
        hub_revision="ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
    ),
    ModelSpec(
        name="small.en",
        parameters=241_734_144,
        sha256="f953ad0fd29cacd07d5a9eda5624af0f6bcf2258be67c92b79389873d91e0872",
        hub_repository="Systran/faster-whisper-small.en",
        hub_revision="d1d751a5f8271d482d14ca55d9e2deeebbae577f",
    ),
    ModelSpec(
        name="small",
        parameters=241_734_912,
        sha256="9ecf779972d90ba49c06d968637d720dd632c55bbf19d441fb42bf17a411e794",
        hub_repository="Systran/faster-whisper-small",
        hub_revision="536b0662742c02347bc0e980a01041f333bce120",
    ),
    ModelSpec(
        name="medium.en",
        parameters=763_856_896,
        sha256="d7440d1dc186f76616474e0ff0b3b6b879abc9d1a4926b7adfa41db2d497ab4f",
        hub_repository="Systran/faster-whisper-medium.en",
        hub_revision="a29b04bd15381511a9af671baec01072039215e3",
    ),
    ModelSpec(
        name="medium",
        parameters=763_857_920,
        sha256="345ae4da62f9b3d59415adc60127b97c714f32e89e936602e85993674d08dcb1",
        hub_repository="Systran/faster-whisper-medium",
        hub_revision="08e178d48790749d25932bbc082711ddcfdfbc4f",
    ),
    ModelSpec(
        name="large-v1",
        parameters=1_543_304_960,
        sha256="e4b87e7e0bf463eb8e6956e646f1e277e901512310def2c24bf0e11bd3c28e9a",
        hub_repository="Systran/faster-whisper-large-v1",
    ),
    ModelSpec(
        name="large-v2",
        parameters=1_543_304_960,
        sha256="81f7c96c852ee8fc832187b0132e569d6c3065a3252ed18e56effd0b6a73e524",
        hub_repository="Systran/faster-whisper-large-v2",
        hub_revision="f0fe81560cb8b68660e564f55dd99207059c092e",
    ),
    ModelSpec(
        name="large-v3",
        parameters=1_543_490_560,
        n_mels=_MANY_MELS,
        sha256="e5b1a55b89c1367dacf97e3e19bfd829a01529dbfdeefa8caeb59b3f1b81dadb",
        hub_repository="Systran/faster-whisper-large-v3",
        hub_revision="edaa852ec7e145841d8ffdb056a99866b5f0a478",
    ),
    ModelSpec(
        name="large-v3-turbo",
        translates=False,
        parameters=808_878_080,
        n_mels=_MANY_MELS,
        sha256="aff26ae408abcba5fbf8813c21e62b0941638c5f6eebfb145be0c9839262a19a",
        hub_repository="mobiuslabsgmbh/faster-whisper-large-v3-turbo",
        hub_revision="0a363e9161cbc7ed1431c9597a8ceaf0c4f78fcf",
    ),
)

#: Every model by its own name.
MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in _SPECS}

#: Other names for the same models, as openai-whisper has them.
ALIASES: dict[str, str] = {"large": "large-v3", "turbo": "large-v3-turbo"}

#: Every name that a client may ask for.
NAMES: tuple[str, ...] = (*MODELS, *ALIASES)


def resolve(name: str) -> ModelSpec:
    """Find a model by its name or alias.

    Raises:
        UnknownModel: there is none; ``data["models"]`` lists those that there are.
    """
    spec = MODELS.get(ALIASES.get(name, name))
    if spec is None:
        raise errors.UnknownModel(f"There is no model named {name[:64]!r}.", models=list(NAMES))
    return spec


def carry_over(state: ResumeState, from_model: str, to_model: str) -> ResumeState:
    """Make what one model left fit for another to go on with.

    The models with more languages have their timestamps at higher tokens, and the English-only ones
    another vocabulary altogether, for which the text so far is forgotten.
    """
    old, new = resolve(from_model), resolve(to_model)
    if old.multilingual != new.multilingual:
        return replace(state, prompt_tokens=())
    shift = new.first_timestamp_token - old.first_timestamp_token
    tokens = (t + shift if t >= old.first_timestamp_token else t for t in state.prompt_tokens)
    return replace(state, prompt_tokens=tuple(tokens))
