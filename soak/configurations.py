"""What is put under test: the service, the service with one thing less, and the usual recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from rig.schema import migrate
from soak import naive, observer
from soak.clients import as_form
from soak.plan import FAULTS, Kind, PlannedJob

MAINTENANCE: Final = 2
Command = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One way to run jobs, and how to look at it."""

    about: str
    worker: Command = ("-m", "rig.worker")
    maintenance: Command = ("worker.py", "--role", "maintenance")
    web: Command = ("app.py",)
    #: Makes the tables, given the database's URL; the triggers and views that look at them.
    prepare: Callable[[str], None] = migrate
    triggers: str = observer.OURS
    request: Callable[[PlannedJob], dict[str, Any]] = as_form
    #: Kinds of jobs and faults that make sense with it; all, if none is named.
    kinds: tuple[Kind, ...] = ()
    faults: tuple[str, ...] = ()
    #: Whether it is the service, with keys, slots and a janitor to look at.
    is_ours: bool = True

    def commands(self, workers: int) -> dict[str, tuple[int, Command]]:
        """What to start, by role, and how many of each."""
        maintenance = {"maintenance": (MAINTENANCE, self.maintenance)} if self.is_ours else {}
        return {"worker": (workers, self.worker), **maintenance, "web": (1, self.web)}


def _mutant(name: str) -> Command:
    return ("-m", "soak.mutant", name)


def _prepare_naive(url: str) -> None:
    import sqlalchemy  # noqa: PLC0415

    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(naive.SCHEMA)


CONFIGURATIONS: Final[dict[str, Configuration]] = {
    "ours": Configuration(about="the service as it is"),
    "no-fence": Configuration(
        about="workers write without asking whether the lease is still theirs",
        worker=_mutant("no-fence"),
    ),
    "no-redis-loss-detection": Configuration(
        about="nobody notices that Redis lost its data",
        maintenance=(*_mutant("no-redis-loss-detection"), "--role", "maintenance"),
    ),
    "prefetch": Configuration(
        about="workers reserve messages, as Celery does by default", worker=_mutant("prefetch")
    ),
    "late-ack": Configuration(
        about="the usual recipe: see soak/naive.py",
        worker=("-m", "soak.naive", "worker"),
        web=("-m", "soak.naive", "web"),
        prepare=_prepare_naive,
        triggers=naive.TRIGGERS,
        request=naive.as_json,
        kinds=("null", "long"),
        faults=tuple(kind for kind in FAULTS if not kind.startswith(("maintenance", "disk"))),
        is_ours=False,
    ),
}
