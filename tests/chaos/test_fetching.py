"""Recordings that are elsewhere, while whoever fetches them dies."""

import pytest

from fetching.attempts import TELL_SECONDS
from fetching.fetcher import POLL_SECONDS
from jobs.sources import TRY_SECONDS
from tests.chaos.conftest import SHORT, SHORT_TEXT, Chaos, words_of
from tests.fetching.conftest import Place
from tests.outgoing.conftest import serve
from tests.outgoing.servers import Serve
from tests.stack.conftest import wait_for

__all__ = ["serve"]

pytestmark = [pytest.mark.chaos, pytest.mark.model]


@pytest.mark.fault("F49", "whoever fetches a recording is killed in the middle of it")
def test_a_recording_is_gone_on_with(chaos: Chaos, serve: Serve) -> None:
    body = SHORT.read_bytes()
    place = Place(body=body, drips=True)
    place.server = serve(place.answer)
    chaos.stack.environment |= {
        "SOURCE_URLS": "true",
        "OUTGOING_ALLOWED_NETWORKS": "127.0.0.0/8",
        "OUTGOING_ALLOW_HTTP": "true",
        "OUTGOING_PORTS": str(place.server.port),
    }
    job_id = chaos.submit(ring=False, upload_bytes=0, upload_sha256=b"", source_url=place.url)
    chaos.stack.uploads.delete(job_id)
    first = chaos.stack.webhooks()
    wait_for(lambda: chaos.stack.job(job_id).upload_bytes, "something is here")
    first.kill()
    place.drips = False
    chaos.stack.webhooks()
    with chaos.recovery(TRY_SECONDS + TELL_SECONDS + POLL_SECONDS):
        wait_for(lambda: not chaos.stack.job(job_id).upload_awaited, "all of it is here")
    chaos.worker()
    chaos.stack.maintenance()
    done = chaos.end_of(job_id)

    assert (done.status, done.attempt) == ("completed", 1)
    assert words_of(chaos.stack, job_id) == SHORT_TEXT
    assert len(place.sent) == 2
    assert len(body) // 2 <= place.sent[1][0] < place.sent[1][1] == len(body)
