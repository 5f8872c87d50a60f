"""What a query of whisper-asr-webservice's says, in our words."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from api import submission
from api.errors import field_error, invalid
from api.openai_form import ALIASES, MODELS
from api.submission import Defaults, Wishes, boolean
from auth import Principal
from errors import UnknownModel
from models import Scope

FILE_FIELD: Final = "audio_file"
DEFAULT_OUTPUT: Final = "txt"
OUTPUTS: Final = ("txt", "vtt", "srt", "tsv", "json")
TASKS: Final = ("transcribe", "translate")
#: Of Whisper's window: no more is needed to tell a language.
DETECTION_SECONDS: Final = 30
#: Stands for a length that nobody knows yet; FFmpeg then reads to the end of the file.
_UNKNOWN: Final = 0xFFFFFFFF
#: Put before samples that come without one: 16 bits, 16 kHz, one channel.
RAW_HEADER: Final = struct.pack(
    "<4sI4s4sIHHIIHH4sI",
    *(b"RIFF", _UNKNOWN, b"WAVE", b"fmt ", 16),
    *(1, 1, 16_000, 32_000, 2, 16),
    *(b"data", _UNKNOWN),
)

_SWITCH: Final[Mapping[str, Any]] = {"type": "boolean", "default": False}
_ENCODE: Final[Mapping[str, Mapping[str, Any]]] = {
    "encode": {
        "type": "boolean",
        "default": True,
        "description": "`false`: the file is samples of 16 bits (signed, little-endian), 16 kHz,"
        " one channel, without a header.",
    }
}
_OURS: Final[Mapping[str, Mapping[str, Any]]] = {
    "model": {
        "type": "string",
        "enum": list(MODELS),
        "description": "OpenAI's names mean the service's default.",
    },
    "async": {**_SWITCH, "description": "Answer with the job at once."},
}
#: Each parameter of ``/asr`` that is looked at, for the OpenAPI document.
FIELDS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        **_ENCODE,
        "task": {"type": "string", "enum": list(TASKS), "default": TASKS[0]},
        "language": {"type": "string", "description": "Language that is spoken, such as `en`."},
        "initial_prompt": {
            "type": "string",
            "description": "Text that the model is told came before, up to"
            f" {submission.MAX_PROMPT_CHARS} characters; the address has an end, too.",
        },
        "word_timestamps": {**_SWITCH, "description": "Whether `json` tells of words."},
        "vad_filter": {**_SWITCH, "description": "Taken, and changes nothing."},
        "diarize": {**_SWITCH, "description": "Taken, and changes nothing."},
        "enable_diarization": {**_SWITCH, "description": "Taken, and changes nothing."},
        "output": {"type": "string", "enum": list(OUTPUTS), "default": DEFAULT_OUTPUT},
        "output_format": {
            "type": "string",
            "enum": list(OUTPUTS),
            "description": "The same as `output`.",
        },
        **_OURS,
    }
)
#: Those of ``/detect-language``.
DETECTION_FIELDS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType({**_ENCODE, **_OURS})
_SWITCHES: Final = ("vad_filter", "diarize", "enable_diarization")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be answered, beside how the file is to be transcribed."""

    output: str = DEFAULT_OUTPUT
    #: Whether the job is the answer.
    respond_async: bool = False


class AsrForm:
    """Reads one submission; all that it says stands in the query.

    Args:
        detects: Whether the language alone is asked for.
        respond_async: What the headers say of it.

    Raises:
        InvalidRequest, UnknownModel: A value is not allowed.
    """

    file_field = FILE_FIELD
    #: Any name: whatever the form holds beside its file is ignored.
    known = None

    def __init__(
        self,
        query: Mapping[str, str],
        defaults: Defaults,
        principal: Principal,
        *,
        detects: bool,
        respond_async: bool,
    ) -> None:
        fields = DETECTION_FIELDS if detects else FIELDS
        self._query = {
            name: value.strip() for name, value in query.items() if name in fields and value.strip()
        }
        self._defaults = defaults
        self._principal = principal
        self._detects = detects
        self.preface = b"" if self._switch("encode", "true") else RAW_HEADER
        self.asked = Asked(
            output=_output(self._query),
            respond_async=respond_async or self._switch("async"),
        )
        for name in _SWITCHES:
            self._switch(name)

    def wishes(self, fields: Mapping[str, str]) -> Wishes:
        """Understand how the file is to be transcribed.

        Raises:
            InvalidRequest, UnknownModel: A value is not allowed.
        """
        return submission.read(
            {}, self._ours(), self._defaults, may_use_high=self._principal.may_use_high
        )

    def said(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        """Say it as a submission of ours would, once it is whole.

        Raises:
            NotAllowed: The answer is what was said, which the key may not read.
        """
        if not self.asked.respond_async:
            self._principal.require(Scope.JOBS_READ)
        return submission.said({}, self._ours())

    def _ours(self) -> dict[str, str]:
        model = {"model_size": self._model()}
        if self._detects:
            return {**model, "end_seconds": str(DETECTION_SECONDS)}
        names = ("task", "language", "initial_prompt", "word_timestamps")
        return {**model, **{name: self._query.get(name, "") for name in names}}

    def _model(self) -> str:
        name = self._query.get("model", "")
        if not name or name in ALIASES:
            return self._defaults.model_name
        if name not in MODELS:
            message = f"It should be one of: {', '.join(MODELS)}."
            raise UnknownModel(
                "There is no model of that name.",
                errors=[field_error("model", UnknownModel.code, message)],
            )
        return name

    def _switch(self, name: str, otherwise: str = "false") -> bool:
        return boolean(name, self._query.get(name, otherwise))


def _output(query: Mapping[str, str]) -> str:
    asked = {name: query[name] for name in ("output", "output_format") if name in query}
    for name, value in asked.items():
        if value not in OUTPUTS:
            raise invalid(name, "unknown_format", f"It should be one of: {', '.join(OUTPUTS)}.")
    if len({*asked.values()}) > 1:
        raise invalid("output_format", "contradiction", "output says something else.")
    return next(iter(asked.values()), DEFAULT_OUTPUT)
