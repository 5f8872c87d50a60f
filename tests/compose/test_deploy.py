"""A deployment while jobs run and others are sent: nothing is lost, and no attempt is used up."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx2
import pytest

from tests.compose.conftest import Compose, inspect, post, wait_for, wait_for_end
from tests.recordings import repeated, sample

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

#: Three recordings of a minute for each worker: whenever it is told to stop, it is at one.
JOBS = 6
TIMES = 8
#: Between two submissions of others, which are to be few: each is work.
PAUSE_SECONDS = 1.0


@dataclass
class Submitter:
    """A client that sends again what was not taken, as the README tells it to."""

    url: str
    key: str
    seen: Counter[str] = field(default_factory=Counter)
    jobs: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        number = 0
        while not self.ended.wait(PAUSE_SECONDS):
            number += 1
            while (answer := self._send(f"deploy-{number}")) is None:
                time.sleep(0.2)
            self.jobs.append(answer.json()["job_id"])

    def _send(self, name: str) -> httpx2.Response | None:
        said = sample("digits-en.wav").path
        headers = {"X-API-Key": self.key, "Idempotency-Key": name}
        try:
            with said.open("rb") as file:
                answer = httpx2.post(
                    f"{self.url}/transcribe/", files={"file": file}, headers=headers, timeout=60
                )
        except httpx2.TransportError as error:
            self.seen[type(error).__name__] += 1
            return None
        self.seen[str(answer.status_code)] += 1
        if answer.status_code == 503:
            assert answer.headers["Retry-After"]
        return answer if answer.status_code == 202 else None


@dataclass(frozen=True)
class Deployment:
    """What a deployment left."""

    long_jobs: list[dict[str, object]]
    short_jobs: list[dict[str, object]]
    seen: Counter[str]
    #: Long jobs that had not ended when everything was new.
    left: int
    started: dict[str, str]


@pytest.fixture(scope="module")
def deployment(compose: Compose, key: str, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    recording = repeated("digits-en.wav", TIMES, tmp_path_factory.mktemp("deploy") / "long.wav")
    with httpx2.Client(base_url=compose.url, headers={"X-API-Key": key}, timeout=60) as client:
        long_ids = [post(client, recording) for _ in range(JOBS)]
        wait_for(
            lambda: sum(client.get(f"/jobs/{j}").json()["progress"] > 0 for j in long_ids) >= 1,
            "the first is under way",
        )
        submitter = Submitter(compose.url, key)
        thread = threading.Thread(target=submitter.run)
        thread.start()
        try:
            wait_for(lambda: submitter.jobs, "the first was taken")
            compose(
                "up", "--detach", "--force-recreate", "--scale", "worker=2", "worker", "web",
                LOG_LEVEL="DEBUG",
            )  # fmt: skip
            wait_for(compose.is_up, "everything is healthy again")
            left = sum(client.get(f"/jobs/{j}").json()["completed_at"] is None for j in long_ids)
        finally:
            submitter.ended.set()
            thread.join()
        return Deployment(
            [wait_for_end(client, job_id) for job_id in long_ids],
            [wait_for_end(client, job_id) for job_id in submitter.jobs],
            submitter.seen,
            left,
            {name: started(compose, name) for name in ("migrations", "web", "worker", "door")},
        )


def started(compose: Compose, service: str) -> str:
    (container, *_) = compose.containers(service, "--all")
    return str(inspect("container", container)["State"]["StartedAt"])


def test_no_running_job_is_lost_and_none_uses_up_an_attempt(deployment: Deployment) -> None:
    said = TIMES * sample("digits-en.wav").text.split()

    assert deployment.left > 0
    assert [job["status"] for job in deployment.long_jobs] == JOBS * ["completed"]
    assert [job["attempt"] for job in deployment.long_jobs] == JOBS * [1]
    assert all(str(job["transcription"]).split() == said for job in deployment.long_jobs)


def test_what_is_sent_meanwhile_is_done(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        print(f"\nwhat clients saw of a deployment: {dict(deployment.seen)}")
    said = sample("digits-en.wav").text

    assert {job["status"] for job in deployment.short_jobs} == {"completed"}
    assert {job["transcription"] for job in deployment.short_jobs} == {said}


def test_whoever_sends_meanwhile_is_told_to_try_again_at_worst(deployment: Deployment) -> None:
    assert deployment.seen["202"] > 1
    assert deployment.seen.keys() <= {"202", "503", "409"}


def test_the_migration_comes_first(deployment: Deployment) -> None:
    assert deployment.started["migrations"] < deployment.started["web"]
    assert deployment.started["migrations"] < deployment.started["worker"]


def test_the_door_stays_open(deployment: Deployment) -> None:
    assert deployment.started["door"] < deployment.started["migrations"]
