"""The real worker or maintenance process with one thing taken away: the soak must notice.

``python -m soak.mutant no-fence``; nothing of this is a switch of the service's own. With ``--role
maintenance`` or ``--role solo`` after it, that is what it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Final

from celery import Celery
from sqlalchemy import TextClause

import celery_app
import lookout
import maintenance
import rig.worker
import worker
from jobs import statements
from lookout import Lookout

#: How a statement says that the lease must still be the worker's own.
FENCE: Final = re.compile(r"\b(?:job\.)?lease_epoch = (?::epoch|mine\.epoch)")
#: Celery's own default.
PREFETCH: Final = 4


def without_fence() -> None:
    """Let every worker write whose job is being processed, by whomever."""
    fenced = 0
    for statement in vars(statements).values():
        if isinstance(statement, TextClause):
            statement.text, count = FENCE.subn(r"(\g<0> OR true)", statement.text)
            fenced += count
    assert fenced, "no fence was found to take away"  # noqa: S101 - a mutant that is none


def with_prefetch() -> None:
    """Let workers reserve messages beyond those that they run, as Celery does by default."""
    celery_app.CONFIGURATION["worker_disable_prefetch"] = False
    celery_app.CONFIGURATION["worker_prefetch_multiplier"] = PREFETCH
    # the lookout keeps Celery from fetching more than there is room for, whatever Celery is told
    worker.attach = _attach_without_limit  # type: ignore[assignment, attr-defined]


def _attach_without_limit(app: Celery, watch: Lookout, _: Callable[[], bool]) -> None:
    lookout.attach(app, watch, lambda: True)


def without_loss_detection() -> None:
    """Leave what Redis forgot to the next dispatch."""

    def overlook(self: maintenance.Dispatcher) -> None:
        """Do nothing."""

    maintenance.Dispatcher._notice_loss = overlook  # type: ignore[method-assign] # noqa: SLF001


MUTATIONS: Final[dict[str, Callable[[], None]]] = {
    "no-fence": without_fence,
    "no-redis-loss-detection": without_loss_detection,
    "prefetch": with_prefetch,
}


def main() -> None:
    name = sys.argv.pop(1)
    MUTATIONS[name]()
    if "maintenance" in sys.argv:
        worker.main()
    else:
        rig.worker.main()


if __name__ == "__main__":
    main()
