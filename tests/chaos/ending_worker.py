"""The faulty worker, whose Celery ends by an error when it is to start its second attempt."""

from __future__ import annotations

from typing import Any

import worker
from celery_app import Threads
from rig.worker import main


class Refusing(Threads):
    """Starts one attempt and no other."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._begun = 0

    def on_apply(self, *args: Any, **options: Any) -> Any:
        self._begun += 1
        if self._begun > 1:
            raise RuntimeError("can't start new thread")
        return super().on_apply(*args, **options)


if __name__ == "__main__":
    worker.Threads = Refusing  # type: ignore[attr-defined]
    main()
