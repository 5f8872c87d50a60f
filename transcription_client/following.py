"""Waits for jobs, and writes down what came of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from transcription_client.display import FINAL
from transcription_client.server import Job, Server
from transcription_client.troubles import JobTrouble, Trouble, WrongUse

#: Between two questions after one job.
PAUSE_SECONDS: Final = 1.0
#: Of many jobs together so many are asked after in a second: a key may ask some hundred times a
#: minute, and after a job ten times as often.
QUESTIONS_PER_SECOND: Final = 8.0

#: Told of a job whenever it was asked after.
Told = Callable[[Job], object]


def wait(
    server: Server, job_ids: Iterable[str], told: Told, pause: Callable[[float], None]
) -> dict[str, Job | Trouble]:
    """Ask after jobs until all have ended; returns them by their ids, or why they are no more.

    Raises:
        NotAllowed, Unreachable: None of them can be asked after.
    """
    ended: dict[str, Job | Trouble] = {}
    open_ids = list(dict.fromkeys(job_ids))
    while open_ids:
        for job_id in open_ids:
            try:
                job = server.job(job_id)
            except (JobTrouble, WrongUse) as trouble:
                ended[job_id] = trouble
                continue
            told(job)
            if job["status"] in FINAL:
                ended[job_id] = job
        open_ids = [job_id for job_id in open_ids if job_id not in ended]
        if open_ids:
            pause(max(PAUSE_SECONDS, len(open_ids) / QUESTIONS_PER_SECOND))
    return ended


def write(path: Path, content: bytes) -> None:
    """Write a file whole, or not at all.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        new = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            new.unlink(missing_ok=True)
            raise
    new.chmod(0o666 & ~_umask())
    new.replace(path)


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def free_names(wanted: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """A name for each file's transcript, without its ending: its own, where two would share one.

    Args:
        wanted: What each file is known by, and its name.
    """
    pairs = list(wanted)
    stems = [Path(name).stem for _, name in pairs]
    chosen: dict[str, str] = {}
    taken: set[str] = set()
    for (key, name), stem in zip(pairs, stems, strict=True):
        first = stem if stems.count(stem) == 1 else name
        free, number = first, 2
        while free in taken:
            free, number = f"{first} {number}", number + 1
        taken.add(free)
        chosen[key] = free
    return chosen
