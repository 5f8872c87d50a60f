"""The model work of one job in a process of its own: for jobs that a worker died of.

The worker keeps the lease, decodes and writes; its child only loads a model and transcribes.
Whatever the job does to its process, no other job is hurt, and a child that hangs can be killed.
The two talk in lines of JSON: an errand down, then the model in use, windows and an end up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import queue
import selectors
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, TextIO

import errors
from errors import Occupied, ProcessDied, ServiceError, kind_of, message_of
from model_pool import FallbackStep, Loan
from speech import audio
from speech.engines import ModelKey
from speech.transcript import ResumeState, TranscribeOptions, Window

if TYPE_CHECKING:
    from speech.engines import Samples

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.2
#: One of them on a machine at a time: two that eat memory would look guilty of each other's death.
LOCK_NAME: Final = "solo.lock"
READ_BYTES: Final = 2**16
#: <linux/oom.h>: when memory runs out, the kernel ends the child before anything else.
FIRST_TO_GO: Final = "1000"

Answer = dict[str, Any]


class Borrow(Protocol):
    """How a model is had: ``ModelPool.borrow``."""

    def __call__(
        self, key: ModelKey, *, fallbacks: tuple[ModelKey, ...]
    ) -> contextlib.AbstractContextManager[Loan]: ...


class Solo:
    """Lends models as a pool does, each in a process that does nothing else and ends after it.

    Args:
        command: Starts the child, which calls ``serve``.
        folder: Holds the lock that lets one child run at a time.
        silence_seconds: A child that says nothing for so long hangs, and is killed.
    """

    def __init__(self, command: Sequence[str], folder: Path, *, silence_seconds: float) -> None:
        self._command = tuple(command)
        self._folder = folder
        self._silence_seconds = silence_seconds

    @contextmanager
    def borrow(
        self,
        key: ModelKey,
        samples: IO[bytes],
        *,
        fallbacks: tuple[ModelKey, ...] = (),
        cancelled: Callable[[], None] = lambda: None,
    ) -> Iterator[SoloLoan]:
        """Start a child that has loaded ``key``, or the first model down the ladder that fits.

        Args:
            samples: What ``audio.decode`` wrote; the child maps the same file.
            cancelled: Called several times a second while the child works; what it raises ends it.

        Raises:
            ProcessDied: The child did, or it hung.
            ServiceError: What the child met.
        """
        child = _Child(self._command, samples.fileno(), self._silence_seconds, cancelled)
        try:
            yield SoloLoan(child, (key, *fallbacks))
        finally:
            child.end()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the only suspect on this machine.

        Raises:
            Occupied: Another one is.
            CapacityError: The folder cannot be used.
        """
        with self._lock_file() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Occupied from None
            yield

    def _lock_file(self) -> IO[str]:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return (self._folder / LOCK_NAME).open("w")
        except OSError as error:
            raise audio.storage_error(error) from error


class SoloLoan:
    """A model in a child process; used as ``model_pool.Loan`` is."""

    def __init__(self, child: _Child, ladder: tuple[ModelKey, ...]) -> None:
        self._child = child
        self.key = ladder[0]
        self.steps: tuple[FallbackStep, ...] = ()
        child.greet()
        child.say({"ladder": [str(key) for key in ladder]})
        self._take(child.listen())

    def transcribe(
        self, _: Samples, options: TranscribeOptions, resume: ResumeState | None = None
    ) -> Iterator[Window]:
        """Yield windows as an engine does; the child has the samples already."""
        self._child.say(
            {
                "samples": self._child.samples,
                "options": dataclasses.asdict(options),
                "resume": resume and resume.to_json(),
            }
        )
        while True:
            answer = self._child.listen()
            self._take(answer)
            if "window" not in answer:
                return
            yield Window.from_json(answer["window"])

    def _take(self, answer: Answer) -> None:
        self.key = ModelKey.parse(answer["model"])
        self.steps = tuple(map(FallbackStep.from_json, answer["steps"]))


class _Child:
    """The process, seen from the worker."""

    def __init__(
        self,
        command: Sequence[str],
        samples: int,
        silence_seconds: float,
        check: Callable[[], None],
    ) -> None:
        #: The samples' file has no name: the child inherits its descriptor.
        self.samples = samples
        self._silence_seconds = silence_seconds
        self._check = check
        self._heard = bytearray()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=_environment(),
                pass_fds=[samples],
                start_new_session=True,  # Ctrl-C is for us, and a kill reaches its children
            )
        except OSError as error:
            raise errors.CapacityError("No process could be started.") from error
        logger.info("suspect runs alone", extra={"child": self._process.pid})

    def greet(self) -> None:
        """Wait until it is there.

        Raises:
            CapacityError: It did not come so far: that is not the job's fault.
        """
        try:
            self.listen()
        except ProcessDied as error:
            raise errors.CapacityError("No process could be started.") from error

    def say(self, request: Answer) -> None:
        assert self._process.stdin is not None  # noqa: S101 - told to the type checker
        with contextlib.suppress(BrokenPipeError):  # it died: `listen` says so
            self._process.stdin.write(json.dumps(request).encode() + b"\n")

    def listen(self) -> Answer:
        """Wait for its next line.

        Raises:
            ProcessDied: There will be none.
            ServiceError: What it met, or what ``check`` raises meanwhile.
        """
        answer: Answer = json.loads(self._line())
        if "error" in answer:
            raise _as_error(answer["error"])
        return answer

    def end(self) -> None:
        """Kill it, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()

    def _line(self) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 - told to the type checker
        until = time.monotonic() + self._silence_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._heard:
                self._check()
                if time.monotonic() > until:
                    raise ProcessDied("The job's own process showed no progress.")
                if selector.select(POLL_SECONDS):
                    self._hear(os.read(self._process.stdout.fileno(), READ_BYTES))
        line, _, rest = bytes(self._heard).partition(b"\n")
        self._heard = bytearray(rest)
        return line

    def _hear(self, said: bytes) -> None:
        if not said:
            status = self._process.wait()
            raise ProcessDied(exit_status=status)
        self._heard += said


def serve(borrow: Borrow, requests: TextIO, answers: TextIO) -> None:
    """Be the child: take one errand, do it, and say what became of it."""
    _let_the_kernel_choose_us()
    say = _Speaker(answers)
    heard = _listening(requests)
    say.ready()
    ladder = [ModelKey.parse(name) for name in heard.get()["ladder"]]
    try:
        with borrow(ladder[0], fallbacks=tuple(ladder[1:])) as loan:
            say.model(loan)
            errand = heard.get()
            resume = errand["resume"] and ResumeState.from_json(errand["resume"])
            options = TranscribeOptions(**errand["options"])
            samples = audio.load_samples(os.fdopen(errand["samples"], "rb"))
            for window in loan.transcribe(samples, options, resume):
                say.model(loan, window=window.to_json())
            say.model(loan, end=True)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the worker should hear of it
        say.failed(error)


class _Speaker:
    """The child's voice."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers

    def ready(self) -> None:
        self._say({"ready": True})

    def model(self, loan: Loan, **more: object) -> None:
        steps = [step.to_json() for step in loan.steps]
        self._say({"model": str(loan.key), "steps": steps, **more})

    def failed(self, error: BaseException) -> None:
        told = {
            "code": kind_of(error).code,
            "message": message_of(error),
            "traceback": "".join(traceback.format_exception(error)),
        }
        self._say({"error": told})

    def _say(self, answer: Answer) -> None:
        print(json.dumps(answer), file=self._answers, flush=True)


def _listening(requests: TextIO) -> queue.SimpleQueue[Answer]:
    """Hear requests as they come, and end when the worker does: its end of the pipe closes."""
    heard: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def listen() -> None:
        for line in requests:
            heard.put(json.loads(line))
        os._exit(1)

    threading.Thread(target=listen, name="listen", daemon=True).start()
    return heard


def _environment() -> dict[str, str]:
    # Celery tells its own children, of which there are none, about its log
    ours = os.environ.items()  # noqa: TID251 - handed on, not read
    return {name: value for name, value in ours if not name.startswith("CELERY_LOG_")}


def _let_the_kernel_choose_us() -> None:
    with contextlib.suppress(OSError):  # Linux alone has it
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)


def _as_error(told: dict[str, Any]) -> ServiceError:
    kinds = {kind.code: kind for kind in _kinds(ServiceError)}
    error = kinds.get(told["code"], ServiceError)(told["message"])
    error.add_note(told["traceback"])  # for the error log; clients never see it
    return error


def _kinds(base: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield base
    for kind in base.__subclasses__():
        yield from _kinds(kind)
