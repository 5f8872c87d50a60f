"""Where a page of a list ends, and what comes after it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, literal, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from models import TranscriptionJob


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job stands in a list. Its id alone would not do: version 2's ids tell no age."""

    #: The time that the list is in order of.
    at: datetime
    id: uuid.UUID


def after(place: Place | None, column: InstrumentedAttribute[Any]) -> list[ColumnElement[bool]]:
    """What a list that begins with the latest still has after a place; None is its beginning."""
    if place is None:
        return []
    here = tuple_(column, TranscriptionJob.id)
    return [here < tuple_(literal(place.at), literal(place.id))]
