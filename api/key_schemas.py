"""The bodies of what is told and said of API keys."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, field_validator

import keys
from api.schemas import Answer, Body, Instant, Text, Time
from auth import JOB_SCOPES, Allowance
from keys import Grant
from models import ApiKey, Scope

MAX_OWNER_CHARS: Final = 200
MAX_NOTE_CHARS: Final = 4_000
MAX_GRACE: Final = timedelta(days=30)

#: More than anybody counts to, and no more than PostgreSQL's integer holds.
MAX_AMOUNT: Final = 10**9

Amount = Annotated[int, Field(ge=0, le=MAX_AMOUNT)]
Owner = Annotated[Text, Field(min_length=1, max_length=MAX_OWNER_CHARS)]
Note = Annotated[Text, Field(max_length=MAX_NOTE_CHARS)]
Scopes = Annotated[list[Annotated[Scope, Field(strict=False)]], Field(min_length=1)]
Force = Annotated[
    bool, Field(description="Also where no other key with the scope `admin` would be left.")
]


class KeyLimits(Body):
    """What a key may take; null: the service's default, which `/limits` tells; 0: any amount."""

    model_config = ConfigDict(from_attributes=True)

    requests: Annotated[Amount | None, Field(description="In each RATE_LIMIT_WINDOW.")] = None
    audio_seconds_per_hour: Annotated[float, Field(ge=0, le=MAX_AMOUNT)] | None = None
    jobs_at_once: Annotated[
        Amount | None, Field(description="Jobs that are pending or processing.")
    ] = None
    bytes_stored: Annotated[
        Annotated[int, Field(ge=0, le=2**62)] | None, Field(description="Of uploads that are kept.")
    ] = None


Weight = Annotated[
    float,
    Field(
        ge=keys.MIN_WEIGHT,
        le=keys.MAX_WEIGHT,
        description="Its share of the workers: twice the weight of another key, twice as many.",
    ),
]


#: A hundred years.
MAX_RETENTION: Final = 100 * 365 * 86_400.0
_KEPT: Final = "after their end; null: as `/limits` tells, 0: for ever."
Retention = Annotated[float, Field(ge=0, le=MAX_RETENTION)]
AudioRetention = Annotated[
    Retention | None, Field(description=f"Uploads of its jobs are deleted so long {_KEPT}")
]
TranscriptRetention = Annotated[
    Retention | None,
    Field(description=f"Its jobs are deleted, with all they hold, so long {_KEPT}"),
]


class NewKey(Body):
    """What a new key is to be."""

    owner: Owner = Field(description="Whom its jobs belong to; a new name is a new owner.")
    scopes: Scopes = Field(list(JOB_SCOPES), description="What it may do.")
    may_use_high: bool = Field(True, description="Whether its jobs may ask for `high`.")
    expires_at: Instant | None = Field(None, description="Works until then; null: for ever.")
    note: Note | None = Field(None, description="What it is for.")
    weight: Weight = 1.0
    audio_retention_seconds: AudioRetention = None
    transcript_retention_seconds: TranscriptRetention = None
    limits: KeyLimits = Field(default_factory=KeyLimits)

    @field_validator("owner")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("it should not be blank")
        return value.strip()

    @property
    def grant(self) -> Grant:
        allowance = Allowance(**self.limits.model_dump())
        return Grant(**self.model_dump(exclude={"limits"}), allowance=allowance)


class KeyPatch(Body):
    """What is to be changed of a key; what is left out stays."""

    # left out, these have no value that is read
    scopes: Scopes = Field([], description="What it may do.")
    may_use_high: bool = Field(True, description="Whether its jobs may ask for `high`.")
    expires_at: Instant | None = Field(None, description="Works until then; null: for ever.")
    note: Note | None = Field(None, description="What it is for.")
    weight: Weight = 1.0
    audio_retention_seconds: AudioRetention = None
    transcript_retention_seconds: TranscriptRetention = None
    limits: KeyLimits = Field(
        default_factory=KeyLimits, description="Those that are left out stay."
    )
    force: Force = False

    @property
    def values(self) -> dict[str, Any]:
        """The columns that are to be set."""
        limits = keys.columns(self.limits.model_dump(exclude_unset=True))
        return {**self.model_dump(include=self.model_fields_set - {"force", "limits"}), **limits}


class Rotation(Body):
    """How a key is rotated."""

    grace_seconds: float = Field(
        keys.GRACE.total_seconds(),
        ge=0,
        le=MAX_GRACE.total_seconds(),
        description="For so long the secret that it had works beside the new one.",
    )


class Revocation(Body):
    """How a key is revoked."""

    force: Force = False


class Previous(Answer):
    """The secret that a key had before it was rotated."""

    prefix: str
    expires_at: Time = Field(description="It works until then.")
    last_used_at: Time | None = Field(description="Since the rotation; to the minute.")

    @classmethod
    def of(cls, key: ApiKey) -> Previous | None:
        if key.previous_prefix is None or key.previous_expires_at is None:
            return None
        return cls(
            prefix=key.previous_prefix,
            expires_at=key.previous_expires_at,
            last_used_at=key.previous_used_at,
        )


class Key(Answer):
    """An API key, without its secret."""

    id: uuid.UUID = Field(description="Stays the same when the key is rotated.")
    owner: str
    prefix: str = Field(description="The secret's first characters.")
    state: Literal["works", "expired", "revoked"]
    scopes: list[Scope]
    may_use_high: bool
    weight: float = Field(description="Its share of the workers beside other keys.")
    audio_retention_seconds: AudioRetention
    transcript_retention_seconds: TranscriptRetention
    limits: KeyLimits
    note: str | None
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    last_used_at: Time | None = Field(description="To the minute.")
    previous: Previous | None = Field(description="The secret before the last rotation, if any.")

    @classmethod
    def of(cls, row: ApiKey, **more: Any) -> Self:
        """Show a key, with the fields of a subclass."""
        ours: dict[str, Any] = {
            "owner": row.owner.name,
            "state": state(row),
            "previous": Previous.of(row),
            "limits": Allowance.of(row),
        }
        theirs = {name: getattr(row, name) for name in Key.model_fields if name not in ours}
        return cls(**theirs, **ours, **more)


class KeyWithSecret(Key):
    """An API key as it is told once."""

    key: str = Field(description="The secret. It is not shown again.")


class KeyList(Answer):
    """A page of keys, newest first."""

    keys: list[Key]
    total: int = Field(description="How many there are on all pages.")
    next_cursor: str | None = Field(description="For the next page; null on the last.")


class OwnerOfKeys(Answer):
    """Whom jobs belong to."""

    name: str
    created_at: Time
    working_keys: int = Field(description="Keys that are neither revoked nor expired.")


class OwnerList(Answer):
    """All owners, by name."""

    owners: list[OwnerOfKeys]


def state(key: ApiKey) -> Literal["works", "expired", "revoked"]:
    """How a key is, in a word."""
    if key.revoked_at is not None:
        return "revoked"
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return "expired" if expired else "works"
