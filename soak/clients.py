"""Clients that behave well: they send at their pace, try again when told to, and remember promises.

A job counts as accepted if and only if its client has read ``202``.
"""

from __future__ import annotations

import heapq
import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from config import PROJECT_DIR
from rig.engines import null_upload
from rig.ledger import Ledger
from soak.plan import PlannedJob
from soak.service import NULL_MODEL

#: Answers after which the same request may succeed.
TRY_AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504, 507})
PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 2.0
TIMEOUT_SECONDS: Final = 30.0
SAMPLES: Final = PROJECT_DIR / "samples"
RUBBISH: Final = b"This is no audio."


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A promise: the service said that it will do this job."""

    job: PlannedJob
    job_id: uuid.UUID
    at: float
    #: From the request to the answer.
    seconds: float


@dataclass
class Promises:
    """All that clients were told."""

    ledger: Ledger
    accepted: list[Accepted] = field(default_factory=list)
    #: Jobs whose cancelling was accepted, and those where the answer was lost on the way.
    cancelled: set[uuid.UUID] = field(default_factory=set)
    perhaps_cancelled: set[uuid.UUID] = field(default_factory=set)
    #: HTTP statuses; 0 where there was no answer.
    answers: Counter[int] = field(default_factory=Counter)

    def accept(self, accepted: Accepted) -> None:
        self.accepted.append(accepted)
        self.ledger.note("accepted", job=str(accepted.job_id), number=accepted.job.number)


Request = Callable[[PlannedJob], dict[str, Any]]


def as_form(job: PlannedJob) -> dict[str, Any]:
    """What the service is sent."""
    form = {"priority": job.priority, "metadata": json.dumps({"number": job.number})}
    if job.script is not None:
        form |= {"model_size": NULL_MODEL, "initial_prompt": str(job.script)}
        content = null_upload(job.script)
    else:
        content = (SAMPLES / job.sample).read_bytes() if job.sample else RUBBISH
    return {"data": form, "files": {"file": (f"{job.number}.wav", content)}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When jobs are sent: in bursts, so that faults meet queues as well as idle slots."""

    seconds_between: float
    burst: int
    threads: int = 4

    def due_seconds(self, number: int) -> float:
        return self.seconds_between * (number - number % self.burst)


class Clients:
    """Threads that send the jobs of a plan, and one that cancels some."""

    def __init__(
        self,
        url: str,
        keys: Sequence[str],
        promises: Promises,
        *,
        request: Request,
        pace: Pace,
    ) -> None:
        self._url = url
        self._keys = keys
        self._promises = promises
        self._request = request
        self._pace = pace
        self._jobs: Iterator[PlannedJob] = iter(())
        self._began = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._cancels: list[tuple[float, uuid.UUID, int]] = []
        self._senders = [
            threading.Thread(target=self._send_all, name=f"client-{number}", daemon=True)
            for number in range(pace.threads)
        ]
        self._canceller = threading.Thread(target=self._cancel_all, name="canceller", daemon=True)

    def start(self, jobs: Sequence[PlannedJob]) -> None:
        self._jobs = iter(jobs)
        self._began = time.monotonic()
        for thread in (*self._senders, self._canceller):
            thread.start()

    @property
    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self._senders)

    def close(self) -> None:
        """Send nothing more; what is still to be cancelled is cancelled now."""
        self._closed.set()
        for thread in (*self._senders, self._canceller):
            if thread.is_alive():
                thread.join(2 * TIMEOUT_SECONDS)

    def send(self, jobs: Sequence[PlannedJob]) -> list[Accepted]:
        """Send some jobs at once, from here."""
        before = len(self._promises.accepted)
        with self._client() as client:
            for job in jobs:
                while not self._submit(client, job):
                    time.sleep(PAUSE_SECONDS)
        return self._promises.accepted[before:]

    def _client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self._url, timeout=TIMEOUT_SECONDS)

    def _send_all(self) -> None:
        with self._client() as client:
            while not self._closed.is_set():
                with self._lock:
                    job = next(self._jobs, None)
                if job is None:
                    return
                due = self._began + self._pace.due_seconds(job.number)
                if self._closed.wait(max(0.0, due - time.monotonic())):
                    return
                while not self._submit(client, job) and not self._closed.is_set():
                    pass

    def _submit(self, client: httpx2.Client, job: PlannedJob) -> bool:
        """Try once, and wait as told when that was in vain; returns whether it was accepted."""
        began = time.time()
        request = {**self._request(job), "headers": {"Idempotency-Key": job.name}}
        answer = self._try(client, "POST", "/transcribe", job.owner, request)
        if answer is None or answer.status_code in TRY_AGAIN | {httpx2.codes.CONFLICT}:
            self._closed.wait(_pause(answer))
            return False
        if answer.status_code != httpx2.codes.ACCEPTED:
            raise RuntimeError(f"refused with {answer.status_code}: {answer.text}")
        now = time.time()
        job_id = uuid.UUID(answer.json()["job_id"])
        self._promises.accept(Accepted(job=job, job_id=job_id, at=now, seconds=now - began))
        if job.cancel_after is not None:
            with self._lock:
                heapq.heappush(self._cancels, (now + job.cancel_after, job_id, job.owner))
        return True

    def _try(
        self, client: httpx2.Client, method: str, path: str, owner: int, request: dict[str, Any]
    ) -> httpx2.Response | None:
        try:
            headers = {"X-API-Key": self._keys[owner], **request.pop("headers", {})}
            answer = client.request(method, path, headers=headers, **request)
        except httpx2.HTTPError:
            self._promises.answers[0] += 1
            return None
        self._promises.answers[answer.status_code] += 1
        return answer

    def _cancel_all(self) -> None:
        with self._client() as client:
            while not self._closed.wait(PAUSE_SECONDS / 4) or self._cancels:
                with self._lock:
                    due = self._cancels and (
                        self._cancels[0][0] <= time.time() or self._closed.is_set()
                    )
                    found = heapq.heappop(self._cancels) if due else None
                if found is not None:
                    self._cancel(client, *found[1:])

    def _cancel(self, client: httpx2.Client, job_id: uuid.UUID, owner: int) -> None:
        until = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < until:
            answer = self._try(client, "POST", f"/jobs/{job_id}/cancel", owner, {})
            if answer is None:
                self._promises.perhaps_cancelled.add(job_id)
            elif answer.is_success:
                self._promises.cancelled.add(job_id)
                return
            elif answer.status_code not in TRY_AGAIN:
                return  # it had ended already
            time.sleep(_pause(answer))


def _pause(answer: httpx2.Response | None) -> float:
    told = 0.0 if answer is None else float(answer.headers.get("Retry-After", 0))
    return min(max(told, PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)


def samples_text() -> dict[str, str]:
    """What is said in each recording."""
    said = json.loads(Path(SAMPLES / "samples.json").read_text("utf-8"))
    return {name: str(recording["text"]) for name, recording in said.items()}
