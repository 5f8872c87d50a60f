"""The faulty worker as the first process of a container: its process id is 1, whoever else has it.

Processes of one machine's name that are each number 1 differ in nothing that their names are made
of, but in what is drawn at random.
"""

from __future__ import annotations

import os
import sys
from typing import Final

#: A namespace of processes of its own, which is ended with the process that made it.
CONTAINED: Final = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def main() -> None:
    os.execvp(  # noqa: S606 - to become the worker is the point
        CONTAINED[0], [*CONTAINED, sys.executable, "-m", "rig.worker"]
    )


if __name__ == "__main__":
    main()
