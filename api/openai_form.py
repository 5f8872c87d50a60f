"""What OpenAI's form says, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from api import openai_stream, submission
from api.errors import invalid
from api.multipart import FILE_FIELD
from api.openai_formats import FORMATS
from api.submission import Defaults, Wishes
from auth import Principal
from models import Scope
from speech.engines import catalogue

#: OpenAI's own models; here they are the service's default.
ALIASES: Final = (
    "whisper-1",
    "gpt-transcribe",
    "gpt-4o-transcribe",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-12-15",
)
MODELS: Final = (*ALIASES, *catalogue.NAMES)
GRANULARITIES: Final = ("segment", "word")
DEFAULT_FORMAT: Final = "json"
#: OpenAI's, and none of ours: who speaks is not found out, and one speaker would be made up.
DIARIZED: Final = "diarized_json"
MAX_TEMPERATURE: Final = 1.0
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}

#: Each field that means something, for the OpenAPI document.
FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "model": {
        "type": "string",
        "enum": list(MODELS),
        "description": "OpenAI's names mean the service's default.",
    },
    "language": {"type": "string", "description": "Language that is spoken, such as `en`."},
    "prompt": {
        "type": "string",
        "maxLength": submission.MAX_PROMPT_CHARS,
        "description": "Text that the model is told came before.",
    },
    "response_format": {"type": "string", "enum": list(FORMATS), "default": DEFAULT_FORMAT},
    "temperature": {
        "type": "number",
        "minimum": 0,
        "maximum": MAX_TEMPERATURE,
        "description": "Taken, and changes nothing.",
    },
    "timestamp_granularities[]": {
        "type": "array",
        "items": {"type": "string", "enum": list(GRANULARITIES)},
        "description": "What `verbose_json` tells the times of.",
    },
    "stream": {
        "type": "boolean",
        "default": False,
        "description": "Answer with events, as the text comes; `response_format` is `json` then,"
        " or `text`.",
    },
    "async": {
        "type": "boolean",
        "default": False,
        "description": "Answer with the job at once, as `Prefer: respond-async` does.",
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be answered, beside how the file is to be transcribed."""

    response_format: str = DEFAULT_FORMAT
    granularities: frozenset[str] = frozenset({"segment"})
    #: Whether the answer comes bit by bit.
    stream: bool = False
    #: Whether the job is the answer.
    respond_async: bool = False


class OpenAIForm:
    """Reads one submission; a form of ours is made of it, which is then read as any other.

    Args:
        respond_async: What the headers say of it.
    """

    file_field = FILE_FIELD
    preface = b""
    #: Any name: clients send fields of other servers along.
    known = None

    def __init__(
        self, defaults: Defaults, principal: Principal, *, translate: bool, respond_async: bool
    ) -> None:
        self._defaults = defaults
        self._principal = principal
        self._translate = translate
        self._respond_async = respond_async

    def wishes(self, fields: Mapping[str, str]) -> Wishes:
        """Understand how the file is to be transcribed, and refuse what is not offered.

        Raises:
            InvalidRequest, UnknownModel: A value is not allowed.
        """
        self.asked(fields)
        return submission.read(
            {}, self._ours(fields), self._defaults, may_use_high=self._principal.may_use_high
        )

    def said(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        """Say it as a submission of ours would, once it is whole.

        Raises:
            NotAllowed: The answer is a transcript, which the key may not read.
        """
        if not self.asked(fields).respond_async:
            self._principal.require(Scope.JOBS_READ)
        return submission.said({}, self._ours(fields))

    def asked(self, fields: Mapping[str, str]) -> Asked:
        fields = {name: value.strip() for name, value in fields.items() if value.strip()}
        _refuse(fields)
        _temperature(fields.get("temperature", "0"))
        name = fields.get("response_format", DEFAULT_FORMAT)
        if name == DIARIZED:
            raise invalid("response_format", "unsupported", "Speakers are not told apart here.")
        if name not in FORMATS:
            raise invalid("response_format", "unknown_format", _one_of(FORMATS))
        stream = _boolean("stream", fields.get("stream", "false"))
        if stream and name not in openai_stream.FORMATS:
            wanted = _one_of(openai_stream.FORMATS)
            raise invalid("response_format", "unsupported", f"Of what is streamed: {wanted}")
        return Asked(
            stream=stream,
            response_format=name,
            granularities=_granularities(fields) or frozenset({"segment"}),
            respond_async=self._respond_async or _boolean("async", fields.get("async", "false")),
        )

    def _ours(self, fields: Mapping[str, str]) -> dict[str, str]:
        model = fields.get("model", "").strip()
        return {
            "model_size": self._defaults.model_name if model in ALIASES else model,
            "language": fields.get("language", ""),
            "initial_prompt": fields.get("prompt", ""),
            "task": "translate" if self._translate else "",
            "word_timestamps": "true" if "word" in _granularities(fields) else "",
        }


def _refuse(fields: Mapping[str, str]) -> None:
    """Refuse what would be missed in the answer."""
    if "logprobs" in _listed(fields, "include"):
        raise invalid("include[]", "unsupported", "Log probabilities of tokens are not offered.")


def _granularities(fields: Mapping[str, str]) -> frozenset[str]:
    asked = _listed(fields, "timestamp_granularities")
    if not asked <= set(GRANULARITIES):
        raise invalid("timestamp_granularities[]", "unknown_value", _one_of(GRANULARITIES))
    return asked


def _listed(fields: Mapping[str, str], name: str) -> frozenset[str]:
    """A list's values: it may be called with brackets or without, and repeated."""
    sent = ",".join((fields.get(name, ""), fields.get(f"{name}[]", "")))
    return frozenset(value for part in sent.split(",") if (value := part.strip()))


def _temperature(sent: str) -> None:
    try:
        allowed = 0 <= float(sent) <= MAX_TEMPERATURE
    except ValueError:
        allowed = False
    if not allowed:
        raise invalid("temperature", "unknown_value", "It should be a number from 0 to 1.")


def _boolean(name: str, sent: str) -> bool:
    try:
        return _BOOLEANS[sent.lower()]
    except KeyError:
        raise invalid(name, "unknown_value", _one_of(_BOOLEANS)) from None


def _one_of(values: Any) -> str:
    return f"It should be one of: {', '.join(values)}."
