"""What a submission may say beside its file, in the form or in the query, and what it means."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from api import plain_json
from api.errors import field_error, invalid
from api.plain_json import NotPlain, NotStorable
from config import Settings
from errors import InvalidRequest, NotAllowed, SettingsError, UnknownModel
from models import Priority
from speech.engines import catalogue
from speech.engines.languages import LANGUAGES

MAX_PROMPT_CHARS: Final = 4_000
MAX_METADATA_BYTES: Final = 16 * 1024
MAX_URL_CHARS: Final = 2_048
AUTO: Final = "auto"
MAX_TRACK: Final = 32
#: A day; how long audio may be is the service's to say.
MAX_SECONDS: Final = 86_400
NOT_STORABLE: Final = "It holds NUL, half a surrogate pair, or no number."
#: Compressed speech at 128 kbit/s. Only the order of magnitude matters, until the file is opened.
BYTES_PER_SECOND: Final = 16_000

_BOOLEANS: Final = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}
_LANGUAGE_CODES: Final = {
    **{code: code for code in LANGUAGES},
    **{name: code for code, name in LANGUAGES.items()},
}
_TASKS: Final = {"transcribe": False, "translate": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """How a client wants its file transcribed."""

    engine_name: str
    #: The model's own name, also where an alias was asked for.
    model_name: str
    #: None means detect.
    language: str | None = None
    translate: bool = False
    priority: Priority = Priority.NORMAL
    initial_prompt: str | None = None
    word_timestamps: bool = False
    #: Of the file's tracks of sound, from 1; None means the best.
    track: int | None = None
    start_seconds: float = 0.0
    #: None means to the end.
    end_seconds: float | None = None
    client_metadata: dict[str, Any] = field(default_factory=dict)
    callback_url: str | None = None
    #: Where its file is to be fetched, where none is sent.
    source_url: str | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Codes of what the client should know from the start."""
        return catalogue.resolve(self.model_name).warnings

    @property
    def version(self) -> int:
        """The least version that knows all of these: see ``models.WISHES_VERSION``."""
        whole = self.track is None and self.start_seconds == 0 and self.end_seconds is None
        return 1 if whole else 2

    @property
    def most_seconds(self) -> float:
        """No more than this is transcribed."""
        return math.inf if self.end_seconds is None else self.end_seconds - self.start_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What holds where a client says nothing."""

    engine_name: str
    model_name: str
    #: Whether a file's address may be named instead of sending it.
    source_urls: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Defaults:
        """Take them from the settings.

        Raises:
            SettingsError: The default model does not exist.
        """
        try:
            spec = catalogue.resolve(settings.whisper_model_size)
        except UnknownModel as error:
            names = ", ".join(catalogue.NAMES)
            raise SettingsError(
                f"WHISPER_MODEL_SIZE={settings.whisper_model_size}: Input should be one of {names}"
            ) from error
        return cls(
            engine_name=settings.whisper_engine,
            model_name=spec.name,
            source_urls=settings.source_urls,
        )


def model_name(sent: str) -> str:
    """Read a model's name or alias.

    Raises:
        UnknownModel: There is none.
    """
    try:
        return catalogue.resolve(sent).name
    except UnknownModel as error:
        message = f"It should be one of: {', '.join(catalogue.NAMES)}."
        raise UnknownModel(
            "There is no model of that name.",
            errors=[field_error("model_size", UnknownModel.code, message)],
        ) from error


def language(sent: str) -> str | None:
    """Read a language: a code, an English name, a tag such as en-GB, or ``auto``."""
    name = sent.lower()
    if name == AUTO:
        return None
    code = _LANGUAGE_CODES.get(name) or _LANGUAGE_CODES.get(name.replace("_", "-").split("-")[0])
    if code is None:
        raise invalid(
            "language", "unknown_language", "It should be a code such as en, es, de; or auto."
        )
    return code


def metadata(sent: str) -> dict[str, Any]:
    """Read a JSON object that PostgreSQL can keep."""
    if len(sent.encode()) > MAX_METADATA_BYTES:
        raise invalid("metadata", "too_long", f"It may have {MAX_METADATA_BYTES} bytes.")
    try:
        value = plain_json.loads(sent)
    except NotStorable:
        raise invalid("metadata", "not_storable", NOT_STORABLE) from None
    except NotPlain as error:
        raise invalid("metadata", "json_invalid", str(error)) from None
    if not isinstance(value, dict):
        raise invalid("metadata", "dict_type", "It should be a JSON object.")
    return short(value)


def short(value: dict[str, Any]) -> dict[str, Any]:
    """Make sure that metadata is not too much."""
    if plain_json.stored_bytes(value) > MAX_METADATA_BYTES:
        raise invalid("metadata", "too_long", f"It may have {MAX_METADATA_BYTES} bytes.")
    return value


def _prompt(sent: str) -> str:
    if len(sent) > MAX_PROMPT_CHARS:
        raise invalid("initial_prompt", "too_long", f"It may have {MAX_PROMPT_CHARS} characters.")
    return sent


def _track(sent: str) -> int:
    if not re.fullmatch(r"[0-9]{1,2}", sent) or not 1 <= int(sent) <= MAX_TRACK:
        raise invalid("track", "number_expected", f"It should be a number from 1 to {MAX_TRACK}.")
    return int(sent)


def _seconds(name: str) -> Callable[[str], float]:
    def read(sent: str) -> float:
        if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,6})?", sent) or float(sent) > MAX_SECONDS:
            raise invalid(
                name, "number_expected", f"It should be seconds, such as 90.5, up to {MAX_SECONDS}."
            )
        return float(sent)

    return read


def _url(name: str) -> Callable[[str], str]:
    def read(sent: str) -> str:
        if len(sent) > MAX_URL_CHARS:
            raise invalid(name, "too_long", f"It may have {MAX_URL_CHARS} characters.")
        return sent

    return read


def _one_of(name: str, choices: Mapping[str, Any]) -> Callable[[str], Any]:
    def read(sent: str) -> Any:
        try:
            return choices[sent.lower()]
        except KeyError:
            raise invalid(
                name, "unknown_value", f"It should be one of: {', '.join(choices)}."
            ) from None

    return read


def boolean(name: str, sent: str) -> bool:
    """Read a yes or a no.

    Raises:
        InvalidRequest: It is neither.
    """
    value: bool = _one_of(name, _BOOLEANS)(sent)
    return value


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that a client may say."""

    #: Its name in ``Wishes``.
    wish: str
    read: Callable[[str], Any]
    description: str
    schema: Mapping[str, Any] = field(default_factory=lambda: {"type": "string"})


FIELDS: Final[Mapping[str, Field]] = {
    "model_size": Field(
        "model_name",
        model_name,
        "Model; the service's default where it is not given.",
        {"type": "string", "enum": list(catalogue.NAMES)},
    ),
    "language": Field(
        "language",
        language,
        "Language that is spoken: a code such as `en`, or `auto` to detect it.",
        {"type": "string", "default": AUTO, "examples": ["en"]},
    ),
    "task": Field(
        "translate",
        _one_of("task", _TASKS),
        "Write down what is said, or translate it into English.",
        {"type": "string", "enum": list(_TASKS), "default": "transcribe"},
    ),
    "priority": Field(
        "priority",
        _one_of("priority", {str(priority): priority for priority in Priority}),
        "Jobs of priority `high` go first; whether a key may ask for it is on the key.",
        {"type": "string", "enum": [str(p) for p in Priority], "default": str(Priority.NORMAL)},
    ),
    "word_timestamps": Field(
        "word_timestamps",
        _one_of("word_timestamps", _BOOLEANS),
        "Whether the result tells when each word was said.",
        {"type": "boolean", "default": False},
    ),
    "initial_prompt": Field(
        "initial_prompt",
        _prompt,
        "Text that the model is told came before: names, spelling, style.",
        {"type": "string", "maxLength": MAX_PROMPT_CHARS},
    ),
    "track": Field(
        "track",
        _track,
        "Which of the file's tracks of sound, from 1; the best where it is not given.",
        {"type": "integer", "minimum": 1, "maximum": MAX_TRACK},
    ),
    "start_seconds": Field(
        "start_seconds",
        _seconds("start_seconds"),
        "Transcribe from here. Times in the result are those of the whole file.",
        {"type": "number", "minimum": 0, "maximum": MAX_SECONDS, "default": 0},
    ),
    "end_seconds": Field(
        "end_seconds",
        _seconds("end_seconds"),
        "Transcribe to here; to the end where it is not given.",
        {"type": "number", "minimum": 0, "maximum": MAX_SECONDS},
    ),
    "engine": Field(
        "engine_name",
        _one_of("engine", {name: name for name in catalogue.ENGINES}),
        "Software that transcribes; the service's default where it is not given.",
        {"type": "string", "enum": list(catalogue.ENGINES)},
    ),
    "metadata": Field(
        "client_metadata",
        metadata,
        f"A JSON object of your own, up to {MAX_METADATA_BYTES} bytes; kept with the job.",
        {"type": "string", "contentMediaType": "application/json"},
    ),
    "callback_url": Field(
        "callback_url",
        _url("callback_url"),
        "Called when the job has ended, as a webhook: needs the scope `webhooks`, and a secret made"
        " before by `POST /webhooks` without a `url`.",
        {"type": "string", "maxLength": MAX_URL_CHARS},
    ),
    "source_url": Field(
        "source_url",
        _url("source_url"),
        "Where the file is fetched instead of being sent, if the service allows that:"
        " `https://`, without a password in it. Redirects are not followed.",
        {"type": "string", "maxLength": MAX_URL_CHARS},
    ),
}


def read(
    query: Mapping[str, str],
    form: Mapping[str, str],
    defaults: Defaults,
    *,
    may_use_high: bool,
) -> Wishes:
    """Understand what a client wants.

    Raises:
        InvalidRequest, UnknownModel: A field does not exist, has a value that is not allowed, or
            another one in the form than in the query.
        NotAllowed: The key may not ask for the priority ``high``.
    """
    values: dict[str, Any] = {
        "engine_name": defaults.engine_name,
        "model_name": defaults.model_name,
    }
    for name, sent in said(query, form).items():
        values[FIELDS[name].wish] = FIELDS[name].read(sent)
    wishes = Wishes(**values)
    require_ability(wishes.model_name, language=wishes.language, translate=wishes.translate)
    if wishes.most_seconds <= 0:
        raise invalid("end_seconds", "out_of_range", "It should come after start_seconds.")
    if wishes.priority is Priority.HIGH and not may_use_high:
        raise NotAllowed("This key may not ask for the priority high.")
    return wishes


def said(query: Mapping[str, str], form: Mapping[str, str]) -> dict[str, str]:
    """Lay query and form over each other; what is blank was not said.

    Raises:
        InvalidRequest: A field does not exist, or has another value in one than in the other.
    """
    merged: dict[str, str] = {}
    for name, sent in [*query.items(), *form.items()]:
        if name not in FIELDS:
            raise InvalidRequest("There is no field of that name.", fields=list(FIELDS))
        value = sent.strip()
        if "\0" in value:
            raise invalid(name, "not_text", "It should hold no NUL.")
        if not value:
            continue
        if merged.setdefault(name, value) != value:
            raise invalid(name, "contradiction", "Query and form say different things.")
    return merged


def require_ability(model_name: str, *, language: str | None, translate: bool) -> None:
    """Do nothing, or refuse a model that cannot do what is asked.

    Raises:
        InvalidRequest: It cannot.
    """
    spec = catalogue.resolve(model_name)
    match spec.unfit_for(language=language, translate=translate):
        case "unknown_language":
            raise invalid(
                "language",
                "unknown_language",
                f"The model {spec.name} does not know this language.",
            )
        case "cannot_translate":
            raise invalid("task", "cannot_translate", f"The model {spec.name} cannot translate.")
