"""What is shown beside what is counted: how things are now. One table, and who reads each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tallies import COUNTED

PREFIX: Final = "transcription_"


@dataclass(frozen=True, slots=True)
class Gauge:
    """``transcription_NAME``."""

    means: str
    labels: tuple[str, ...] = ()


_MODEL: Final = ("engine", "model", "device")

GAUGES: Final[Mapping[str, Gauge]] = {
    "up": Gauge("1 while PostgreSQL answers; at 0 only what needs none of it is shown."),
    "info": Gauge("1, with the version of whoever shows this.", ("version",)),
    "read_seconds": Gauge("How long reading what is shown took, last."),
    "read_age_seconds": Gauge("How long ago that was."),
    "jobs": Gauge(
        "Jobs that have not ended. `state`: `due`, `later` (after a failed attempt, or waiting for"
        " something), `fetching`, `processing`.",
        ("lane", "state"),
    ),
    "audio_seconds": Gauge(
        "Their audio; of what is processed, what is left of it. Guessed from the size until the"
        " header was read.",
        ("lane", "state"),
    ),
    "oldest_due_seconds": Gauge("For how long the job has been due that waits longest.", ("lane",)),
    "oldest_processing_seconds": Gauge("How long ago the job was begun that has run longest."),
    "queue_paused": Gauge("1 while an operator keeps the lane's jobs from starting.", ("lane",)),
    "queue_messages": Gauge("Messages that lie in Redis.", ("lane",)),
    "dead_letters": Gauge("Jobs given up for no fault of their input, that nobody dealt with."),
    "processes": Gauge("Processes that live, by role.", ("role",)),
    "slots": Gauge("Jobs that living workers which take new ones can run at once."),
    "slots_busy": Gauge("Jobs that all living workers are running."),
    "workers_draining": Gauge("Living workers that take nothing new."),
    "loaded_models": Gauge("Models loaded, in all workers.", _MODEL),
    "loaded_model_bytes": Gauge("About the memory that they take.", _MODEL),
    "loaded_models_in_use": Gauge("Attempts that have one of them on loan.", _MODEL),
    "condition": Gauge(
        "1 while it holds: [what may be wrong](operating.md#what-may-be-wrong), but for"
        " `database_pool_busy`, which only a web process knows of itself.",
        ("condition", "severity"),
    ),
    "webhook_deliveries_pending": Gauge("Deliveries that are to be tried, now or later."),
    "webhook_due_seconds": Gauge(
        "For how long the call has been due that waits longest, of a webhook or for a recording."
    ),
    "redis_up": Gauge("1 while Redis answers."),
    "upload_disk_free_bytes": Gauge("Free where uploads are kept; absent if that cannot be read."),
    "upload_disk_size_bytes": Gauge("How large that disk is."),
    "database_size_bytes": Gauge("The whole database."),
    "database_connections": Gauge("Connections to it, everybody's."),
    "database_connections_max": Gauge("As many as PostgreSQL takes for everything."),
    "last_backup_timestamp_seconds": Gauge(
        "When `cli.py backup` last took one; absent if it never did."
    ),
}


def kind_of(name: str) -> str:
    """``counter``, ``gauge`` or ``histogram``."""
    if name in GAUGES:
        return "gauge"
    return "histogram" if COUNTED[name].bounds else "counter"


def shown_names() -> Iterator[str]:
    """The names that queries use, without those that a histogram has beside its own."""
    for name in (*GAUGES, *COUNTED):
        yield f"{PREFIX}{name}{'_total' if kind_of(name) == 'counter' else ''}"
