"""Shows what is under way, on standard error: bars on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from transcription_client.words import duration, plain, size

#: Lines tell of progress so many times.
STEP_PERCENT: Final = 10
FINAL: Final = frozenset({"completed", "failed", "cancelled"})

Job = Mapping[str, Any]


class Display(Protocol):
    """What a command tells of, by the recording's name."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def sending(self, name: str, sent: int, total: int) -> None: ...

    def follow(self, name: str, job: Job) -> None: ...

    def say(self, sentence: str) -> None: ...


def make_display(*, quiet: bool = False) -> Display:
    """Bars where somebody looks at a terminal; nothing where nobody wants to hear of it."""
    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    return Bars(console) if console.is_terminal and not quiet else Lines(console)


class Lines:
    """A line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: dict[str, str] = {}
        self._percent: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def sending(self, name: str, sent: int, total: int) -> None:
        step = 100 * sent // total // STEP_PERCENT * STEP_PERCENT
        if step > self._percent.get(name, -1):
            self._percent[name] = step
            self.say(f"{name}: {step} % of {size(total)} sent")

    def follow(self, name: str, job: Job) -> None:
        if job["status"] == "failed":
            return  # whoever asked says why
        line = f"{name}: {state(job, step=STEP_PERCENT)}"
        if self._told.get(name) != line:
            self._told[name] = line
            self.say(line)

    def say(self, sentence: str) -> None:
        self._console.print(plain(sentence), markup=False)


class Bars:
    """A bar for each recording: while it is sent, and while it is transcribed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(),
            Rest(),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def sending(self, name: str, sent: int, total: int) -> None:
        task = self._task(name)
        rest = f"{size(sent)} of {size(total)} sent"
        self._progress.update(task, total=total, completed=sent, rest=rest, sending=True)

    def follow(self, name: str, job: Job) -> None:
        ended = job["status"] in FINAL
        done = 100.0 if ended else job["progress"]
        rest = job["status"] if ended else state(job)
        task = self._task(name)
        self._progress.update(task, total=100, completed=done, rest=rest, sending=False)
        if ended:
            self._progress.stop_task(self._tasks[name])

    def say(self, sentence: str) -> None:
        self._console.print(plain(sentence), markup=False)

    def _task(self, name: str) -> TaskID:
        if name not in self._tasks:
            shown = plain(name)
            self._tasks[name] = self._progress.add_task("", name=shown, rest="", sending=True)
        return self._tasks[name]


class Rest(ProgressColumn):
    """What stands behind a bar."""

    def render(self, task: Task) -> Text:
        """Draw it; names and messages are no markup."""
        left = task.time_remaining if task.fields["sending"] else None
        rest = plain(task.fields["rest"])
        return Text(f"{rest}, about {duration(left)} left" if left else rest)


def state(job: Job, *, step: int = 1) -> str:
    """What is to be said of a job, in a few words."""
    status = job["status"]
    if status == "failed":
        return f"failed: {job['error_message'] or job['error_code']}"
    if status == "pending":
        place = job.get("queue_position")
        return f"waiting, number {place}" if place else "waiting"
    if status != "processing":
        return str(status)
    percent = int(job["progress"]) // step * step
    left = job.get("eta_seconds")
    if left is None or step > 1:
        return f"transcribing, {percent} %"
    return f"transcribing, {percent} %, about {duration(left)} left"
