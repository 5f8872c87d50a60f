"""Fetching, against servers on loopback that break in every way."""

import hashlib
import uuid
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from errors import LeaseLost
from fetching.parts import Part
from fetching.verdicts import MOST_FAILURES
from jobs import deletion, lifecycle, sources
from jobs.lifecycle import Redrive
from jobs.sources import Standing
from models import NOT_YET, ApiKey, DeletedBy, ErrorLog, TranscriptionJob, UploadFetch
from tests.fetching.conftest import MEGABYTE, RECORDING, parts_of
from tests.outgoing.servers import Caller
from tests.stack.conftest import wait_for

HALF = len(RECORDING) // 2


@pytest.fixture
def errors_of(sessions):
    def look(job_id: uuid.UUID) -> list[ErrorLog]:
        with sessions() as session:
            query = select(ErrorLog).where(ErrorLog.job_id == job_id).order_by(ErrorLog.created_at)
            return list(session.scalars(query))

    return look


def is_whole(uploads, job, body: bytes = RECORDING) -> bool:
    digest = hashlib.sha256(body).digest()
    return (
        (job.upload_bytes, job.source_bytes, job.upload_sha256) == (len(body), len(body), digest)
        and uploads.path(job.id).read_bytes() == body
        and not parts_of(uploads)
    )


def test_a_recording_is_fetched_and_its_job_is_due(place, fetch, uploads, sessions):
    job = fetch(place)
    with sessions.begin() as session:
        rows = session.scalars(select(UploadFetch)).all()
        claimed = lifecycle.claim(session, job.id, "w1")

    assert is_whole(uploads, job)
    assert job.audio_seconds == len(RECORDING) / 16_000
    assert job.not_before < NOT_YET
    assert rows == []
    assert claimed is not None
    assert claimed.upload_sha256 == hashlib.sha256(RECORDING).digest()


def test_nobody_begins_a_job_whose_recording_is_not_here(place, make_source, sessions):
    job = make_source(place.url)
    with sessions.begin() as session:
        claims = [
            lifecycle.claim(session, job.id, "w1"),
            lifecycle.claim_next(session, ["normal"], "w1"),
        ]

    assert claims == [None, None]
    assert job.upload_awaited


def test_where_the_connection_broke_it_goes_on(place, fetch, uploads, errors_of):
    place.cuts = [HALF, HALF + 1000]
    job = fetch(place)
    ranges = [request.lower().count("\r\nrange: ") for request in place.requests]

    assert is_whole(uploads, job)
    assert place.sent == [(0, HALF), (HALF, HALF + 1000), (HALF + 1000, len(RECORDING))]
    assert ranges == [0, 1, 1]
    assert f"range: bytes={HALF}-\r\n" in place.requests[1].lower()
    assert 'if-range: "1"\r\n' in place.requests[1].lower()
    assert [error.error_code for error in errors_of(job.id)] == 2 * ["outgoing_failed"]
    assert (job.error_code, job.error_message) == (None, None)


def test_another_recording_under_the_same_address_is_fetched_from_its_beginning(
    place, fetch, uploads
):
    other = RECORDING[::-1]

    def change(_: object) -> None:
        place.body, place.etag = other, '"2"'

    place.cuts, place.after_cut = [HALF], change
    job = fetch(place)

    assert is_whole(uploads, job, other)
    assert place.sent[-1] == (0, len(other))


def test_a_server_that_goes_on_with_another_recording_is_not_believed(place, fetch, uploads):
    other = RECORDING[::-1]

    def change(_: object) -> None:
        place.body, place.etag = other, '"2"'
        place._start = lambda request: HALF if "range: bytes" in request.lower() else 0

    place.cuts, place.after_cut = [HALF], change
    job = fetch(place)

    assert is_whole(uploads, job, other)


def test_a_server_that_gives_pieces_is_asked_for_the_next(place, fetch, uploads):
    place.cuts, place.piece_bytes = [HALF], HALF // 2

    assert is_whole(uploads, fetch(place))
    assert [start for start, _ in place.sent] == [0, HALF, HALF + HALF // 2]


@pytest.mark.parametrize("etag", [None, 'W/"1"', '"1'])
def test_what_nobody_can_tell_apart_is_fetched_from_its_beginning(place, fetch, uploads, etag):
    place.etag, place.cuts = etag, [HALF]
    job = fetch(place)

    assert is_whole(uploads, job)
    assert place.sent == [(0, HALF), (0, len(RECORDING))]
    assert not any("range:" in request.lower() for request in place.requests)


def test_a_server_without_ranges_is_asked_again(place, fetch, uploads):
    place.ranges, place.cuts = False, [HALF]

    assert is_whole(uploads, fetch(place))


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_what_may_do_better_is_tried_again(place, fetch, uploads, errors_of, status):
    place.statuses = [status, status]
    job = fetch(place)
    logged = errors_of(job.id)

    assert is_whole(uploads, job)
    assert [error.context for error in logged] == 2 * [{"reason": "status", "status": status}]
    assert {error.error_message for error in logged} == {f"The other server answered {status}."}


@pytest.mark.parametrize("status", [404, 410, 403, 401, 400, 301, 302, 204, 304])
def test_what_is_not_given_out_is_given_up(place, fetch, uploads, errors_of, status):
    place.statuses = [status]
    job = fetch(place)
    (logged,) = errors_of(job.id)

    assert (job.status, job.failure_reason, job.error_code) == (
        "failed",
        "source_refused",
        "source_refused",
    )
    assert str(status) in logged.error_message
    assert "hidden" not in logged.error_message
    assert parts_of(uploads) == []


def test_what_never_does_better_is_given_up_and_may_be_sent_round_again(
    place, fetch, uploads, errors_of, sessions
):
    place.statuses = (MOST_FAILURES + 1) * [500]
    job = fetch(place, retry_seconds=0.0001)
    failed = (job.status, job.failure_reason, job.error_code)
    logged = len(errors_of(job.id))
    with sessions.begin() as session:
        lifecycle.redrive(session, [job.id], Redrive(max_attempts=3))
    again = fetch(place, job)

    assert failed == ("failed", "attempts_exhausted", "outgoing_failed")
    assert logged == MOST_FAILURES + 1
    assert is_whole(uploads, again)
    assert again.status == "pending"


def test_tries_that_bring_something_are_not_counted(place, fetch, uploads):
    place.cuts = [1000 * each for each in range(1, 2 * MOST_FAILURES)]

    assert is_whole(uploads, fetch(place, retry_seconds=0.0001))


def test_an_address_that_may_not_be_called_is_not(place, fetch, make_source):
    job = fetch(place, make_source(f"http://192.168.0.1:{place.server.port}/"))

    assert (job.status, job.failure_reason) == ("failed", "address_refused")
    assert place.server.hits() == 0


def test_an_empty_recording_is_none(place, fetch):
    place.body = b""
    job = fetch(place)

    assert (job.status, job.failure_reason) == ("failed", "empty_file")


def test_a_recording_that_says_it_is_too_large_is_not_read(place, fetch):
    place.body = bytes(4 * MEGABYTE + 1)
    job = fetch(place)

    assert (job.status, job.failure_reason) == ("failed", "upload_too_large")


def test_a_recording_without_end_is_read_to_the_cap_alone(place, fetch, uploads, serve):
    def pour(caller: Caller) -> None:
        caller.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        caller.send_for_ever(b"10000\r\n" + bytes(0x10000) + b"\r\n")

    place.server = serve(pour)
    job = fetch(place)

    assert (job.status, job.failure_reason) == ("failed", "upload_too_large")
    assert parts_of(uploads) == []


def test_more_than_its_key_may_store_is_not_fetched(place, fetch, make_source, sessions, owner_id):
    with sessions.begin() as session:
        key = ApiKey(owner_id=owner_id, prefix="a", key_sha256=b"a", scopes=[])
        session.add(key)
    place.cuts = [HALF]
    job = fetch(place, make_source(place.url, api_key_id=key.id), key_bytes=HALF - 1)

    assert (job.status, job.failure_reason, job.upload_bytes) == ("failed", "quota_exceeded", 0)


def test_the_time_ends(place, fetch):
    job = fetch(place, longest_seconds=0)

    assert (job.status, job.failure_reason) == ("failed", "deadline")
    assert place.server.hits() == 0


def test_where_it_is_turned_off_nothing_is_called(place, fetch):
    job = fetch(place, enabled=False)

    assert (job.status, job.failure_reason) == ("failed", "not_allowed")
    assert place.server.hits() == 0


@pytest.mark.parametrize("how", ["cancel", "delete"])
def test_who_does_not_want_it_any_more_ends_it(
    place, serve, make_source, make_fetcher, uploads, sessions, read, monkeypatch, how
):
    def answer(caller: Caller) -> None:
        head = f'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: {MEGABYTE}\r\n\r\n'
        caller.send(head.encode())
        caller.send_for_ever(b"abc", pause_seconds=0.05)

    monkeypatch.setattr("fetching.attempts.TELL_SECONDS", 0.1)
    place.server = serve(answer)
    job = make_source(place.url)
    fetcher = make_fetcher(place.server.port)
    fetcher.run()
    wait_for(lambda: read(job.id).upload_bytes, "something is here")
    with sessions.begin() as session:
        if how == "cancel":
            lifecycle.cancel(session, job.id)
        else:
            deletion.delete(session, [job.id], by=DeletedBy.CLIENT)
    wait_for(lambda: not fetcher._tries, "nobody fetches it")

    assert parts_of(uploads) == []
    if how == "cancel":
        assert (read(job.id).status, read(job.id).upload_bytes) == ("cancelled", 0)


def test_what_was_cancelled_between_two_tries_is_forgotten(
    place, make_source, make_fetcher, uploads, sessions
):
    job = make_source(place.url)
    with Part(uploads, job.id) as part:
        part.write(b"abc")
    with sessions.begin() as session:
        lifecycle.cancel(session, job.id)
    make_fetcher(place.server.port).run()
    with sessions() as session:
        rows = session.scalars(select(UploadFetch)).all()

    assert (rows, parts_of(uploads), place.server.hits()) == ([], [], 0)


def test_a_fetcher_that_stops_gives_back_what_it_has(
    place, serve, make_source, make_fetcher, sessions, read, fetch, uploads, monkeypatch
):
    def answer(caller: Caller) -> None:
        if len(place.server.requests) > 1:
            place.answer(caller)
            return
        head = f'HTTP/1.1 200 OK\r\nETag: "1"\r\nContent-Length: {len(RECORDING)}\r\n\r\n'
        caller.send(head.encode())
        for first in range(0, HALF, 1024):
            caller.send(RECORDING[first : first + 1024])
            caller.pause(0.01)

    monkeypatch.setattr("fetching.attempts.TELL_SECONDS", 0.1)
    place.server = serve(answer)
    job = make_source(place.url)
    fetcher = make_fetcher(place.server.port)
    fetcher.run()
    wait_for(lambda: read(job.id).upload_bytes, "something is here")
    fetcher.close(60)
    here_bytes = read(job.id).upload_bytes
    found = fetch(place, job)

    assert 0 < here_bytes < HALF
    assert place.sent == [(here_bytes, len(RECORDING))]
    assert is_whole(uploads, found)


def test_who_was_taken_for_lost_changes_nothing(place, make_source, sessions):
    make_source(place.url)
    with sessions.begin() as session:
        first = sources.claim(session)
        session.execute(update(UploadFetch).values(due_at=func.now() - timedelta(seconds=1)))
    with sessions.begin() as session:
        second = sources.claim(session)
    assert first is not None
    assert second is not None
    standing = Standing(here_bytes=1, source_bytes=2, etag=None)

    with pytest.raises(LeaseLost), sessions.begin() as session:
        sources.tell(session, first, standing)
    with pytest.raises(LeaseLost), sessions.begin() as session:
        sources.bring(session, first, upload_bytes=1, sha256=b"", audio_seconds=1)
    with sessions.begin() as session:
        sources.tell(session, second, standing)


def test_what_one_holds_nobody_else_takes(place, make_source, sessions, owner_id):
    make_source(place.url)
    with sessions.begin() as session:
        busy = sources.claim(session, busy=[owner_id])
        first = sources.claim(session)
        second = sources.claim(session)

    assert busy is None
    assert first is not None
    assert second is None


def test_a_part_that_somebody_else_still_has_is_waited_for(
    place, make_source, make_fetcher, uploads, read, sessions
):
    job = make_source(place.url)
    with Part(uploads, job.id):
        fetcher = make_fetcher(place.server.port)
        fetcher.run()
        wait_for(lambda: read(job.id).error_code, "it is put back")

    assert read(job.id).error_code == "occupied"
    assert read(job.id).status == "pending"
    assert place.server.hits() == 0


def test_an_upload_that_was_kept_and_not_noted_is_taken(place, make_source, fetch, uploads):
    job = make_source(place.url)
    uploads.path(job.id).write_bytes(RECORDING)
    found = fetch(place, job)

    assert is_whole(uploads, found)
    assert place.server.hits() == 0


def test_one_whose_last_byte_came_is_not_asked_for_again(
    place, make_source, fetch, uploads, sessions
):
    job = make_source(place.url)
    with Part(uploads, job.id) as part:
        part.write(RECORDING)
    size = len(RECORDING)
    with sessions.begin() as session:
        session.execute(update(TranscriptionJob).values(upload_bytes=size, source_bytes=size))
        session.execute(update(UploadFetch).values(etag='"1"'))
    found = fetch(place, job)

    assert is_whole(uploads, found)
    assert place.server.hits() == 0


def test_only_what_was_noted_counts_of_a_part(place, make_source, fetch, uploads, sessions):
    job = make_source(place.url)
    with Part(uploads, job.id) as part:
        part.write(RECORDING[:1000] + b"torn by a power cut")
    with sessions.begin() as session:
        session.execute(update(TranscriptionJob).values(upload_bytes=1000))
        session.execute(update(UploadFetch).values(etag='"1"'))
    found = fetch(place, job)

    assert is_whole(uploads, found)
    assert place.sent == [(1000, len(RECORDING))]


def test_a_part_that_is_lost_is_fetched_from_its_beginning(
    place, make_source, fetch, uploads, sessions
):
    job = make_source(place.url)
    with sessions.begin() as session:
        session.execute(update(TranscriptionJob).values(upload_bytes=1000))
        session.execute(update(UploadFetch).values(etag='"1"'))
    found = fetch(place, job)

    assert is_whole(uploads, found)
    assert place.sent == [(0, len(RECORDING))]


def test_a_full_disk_is_waited_for_and_counts_for_nothing(
    place, make_source, make_fetcher, uploads, read, sessions
):
    uploads.min_free_bytes = 2**60
    job = make_source(place.url)
    make_fetcher(place.server.port).run()
    wait_for(lambda: read(job.id).error_code, "it is put back")
    with sessions() as session:
        failures = session.scalars(select(UploadFetch.failures)).one()

    assert (read(job.id).error_code, failures) == ("disk_full", 0)


def test_many_are_fetched_at_once_and_none_twice(place, make_source, make_fetcher, uploads, read):
    jobs = [make_source(place.url) for _ in range(10)]
    fetchers = [make_fetcher(place.server.port) for _ in range(2)]

    def all_here() -> bool:
        for fetcher in fetchers:
            fetcher.run()
        return not any(read(job.id).upload_awaited for job in jobs)

    wait_for(all_here, "all are here")

    assert all(is_whole(uploads, read(job.id)) for job in jobs)
    assert place.server.hits() == len(jobs)
