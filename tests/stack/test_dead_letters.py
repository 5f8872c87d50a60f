"""Working through the dead letter queue of a service that works."""

import httpx2
import pytest

from tests.recordings import SAMPLES, sample
from tests.stack.conftest import Stack, wait_for

pytestmark = [pytest.mark.stack, pytest.mark.model]

KEY = "an-operators-own-words"
SHORT = SAMPLES / "digits-en.wav"
JOBS = 20


def test_many_jobs_whose_model_is_missing_are_done_with_another(stack: Stack) -> None:
    stack.environment["LEASE_SECONDS"] = "60"
    stack.maintenance()
    stack.worker()
    _, url = stack.web(API_KEYS=KEY)
    jobs = [stack.submit(SHORT, ring=False, model_name="tiny") for _ in range(JOBS)]
    aside = jobs.pop()
    for job_id in (*jobs, aside):
        assert stack.wait_for_status(job_id, "failed").failure_reason == "model_unavailable"
    with httpx2.Client(
        base_url=f"{url}/admin/errors", headers={"X-API-Key": KEY}, timeout=60, trust_env=False
    ) as client:
        wait_for(lambda: answers(client), "the web process answers")
        client.post(f"/{aside}/quarantine").raise_for_status()
        asked = {"filter": {"code": "model_unavailable", "worker": worker_of(client)}}
        told = client.post("/retry", json={**asked, "model_size": "demo"}).json()

    assert (told["retried"], told["skipped"]) == (len(jobs), [])
    for job_id in jobs:
        assert stack.wait_for_status(job_id, "completed", "failed").model_name == "demo"
        result = stack.result(job_id)
        assert result is not None
        assert result.text == sample("digits-en.wav").text
    assert stack.job(aside).status == "failed"


def answers(client: httpx2.Client) -> bool:
    try:
        return client.get("").status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


def worker_of(client: httpx2.Client) -> str:
    """The host that the jobs failed on."""
    name: str = client.get("").json()["errors"][0]["attempts"][0]["worker"]
    return name.partition(":")[0]
