"""Audit events of the web process: one of each act and read, none of polls, no client's text."""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from sqlalchemy import event as events_of
from sqlalchemy import func, select
from starlette.testclient import TestClient
from uuid_utils.compat import uuid7

import auth
from api.trail import MAX_REMEMBERED, READ_SECONDS, USE_SECONDS, Recent, Trail
from app import create_app
from audit.events import Actor
from jobs import batches, dead_letters, resumable
from jobs.batches import NewBatch
from jobs.parts import Parts
from jobs.uploads import UploadStore
from models import ApiKey, AuditAction, AuditEvent, Scope, TranscriptionJob
from redaction import make_mask
from tests.api.conftest import TRANSCRIPT, Jobs
from tests.api.test_ownership import OPERATIONS, demanded
from tests.fakes import FakeClock
from webhooks import deliveries, endpoints
from webhooks.endpoints import NewWebhook

FILE = {"file": ("a.mp3", b"sound")}


@pytest.fixture
def told(sessions) -> Callable[..., list[AuditEvent]]:
    """The events so far; of one action, or of all callers' but that they used their keys."""

    def wanted(event: AuditEvent, action: AuditAction | None) -> bool:
        if action is not None:
            return event.action == action
        return event.action != AuditAction.KEY_USED and event.actor != "web"

    def read(action: AuditAction | None = None) -> list[AuditEvent]:
        with sessions() as session:
            found = session.scalars(select(AuditEvent).order_by(AuditEvent.id)).all()
        return [event for event in found if wanted(event, action)]

    return read


@pytest.fixture
def key_of(sessions) -> Callable[[dict[str, str]], ApiKey]:
    """The key that headers carry."""

    def find(headers: dict[str, str]) -> ApiKey:
        shown = headers["X-API-Key"]
        with sessions() as session:
            query = select(ApiKey).where(func.starts_with(shown, ApiKey.prefix))
            key: ApiKey = session.scalars(query).one()
            return key

    return find


def actions(found: list[AuditEvent]) -> list[str]:
    return [event.action for event in found]


# Acts: each route that changes something


def of_job(make: str) -> Callable[..., Mapping[str, uuid.UUID]]:
    def ids(jobs, key_id):
        return {"job_id": getattr(jobs, make)()}

    return ids


def in_quarantine(jobs, key_id):
    job_id = jobs.failed()
    with jobs.sessions.begin() as session:
        dead_letters.quarantine(session, job_id, by=None, notes=None)
    return {"job_id": job_id}


def kept(jobs, key_id):
    job_id = jobs.failed()
    jobs.keep(job_id, b"sound")
    return {"job_id": job_id}


def callers_job(jobs, key_id):
    """Nobody repeats somebody else's."""
    job_id = jobs.failed("root")
    jobs.keep(job_id, b"sound")
    return {"job_id": job_id}


def of_key(jobs, key_id):
    return {"key_id": key_id}


def nothing(jobs, key_id):
    return {}


def of_webhook(jobs, key_id):
    with jobs.sessions.begin() as session:
        owner_id = auth.owner_id(session, "alice")
        webhook = endpoints.create(session, owner_id, NewWebhook(url="https://receiver.test/"))
        delivery = deliveries.test(session, webhook)
        return {"webhook_id": webhook.id, "delivery_id": delivery.id}


def of_batch(jobs, key_id):
    job_id = jobs.failed()
    jobs.keep(job_id, b"sound")
    return {"batch_id": batch_of(jobs, "alice", job_id)}


def of_empty_batch(jobs, key_id):
    return {"batch_id": batch_of(jobs, "alice")}


def of_callers_batch(jobs, key_id):
    """Nobody adds to somebody else's."""
    return {"batch_id": batch_of(jobs, "root")}


def batch_of(jobs, owner, *job_ids):
    with jobs.sessions.begin() as session:
        wanted = NewBatch(owner_id=auth.owner_id(session, owner), api_key_id=None)
        batch = batches.create(session, wanted)
        for job_id in job_ids:
            session.get_one(TranscriptionJob, job_id).batch_id = batch.id
        return batch.id


def whole_upload(jobs, key_id):
    """Nobody sends somebody else's."""
    return {"upload_id": upload_of(jobs, "root")}


def of_upload(jobs, key_id):
    return {"upload_id": upload_of(jobs, "alice")}


def upload_of(jobs, owner):
    uploads = UploadStore(jobs.settings.uploads_path, max_bytes=100, min_free_bytes=0)
    upload_id = uuid7()
    Parts(uploads).create(upload_id, expected_bytes=1)
    with jobs.sessions.begin() as session:
        wanted = resumable.NewUpload(
            id=upload_id,
            owner_id=auth.owner_id(session, owner),
            api_key_id=None,
            batch_id=None,
            idempotency_key=None,
            size_bytes=1,
            filename="a.mp3",
            said={},
            metadata_sent=None,
        )
        resumable.create(session, wanted, keep_seconds=60.0, most=9)
    return upload_id


ADDING = ("post", "/batches/{batch_id}/files")
APPENDING = ("patch", "/uploads/{upload_id}")
RERUN = ("post", "/jobs/{job_id}/rerun")
#: What each of them leaves, what it is done to, and what it says.
ACTS: dict[tuple[str, str], tuple[AuditAction, Any, Any]] = {
    ("post", "/transcribe"): (AuditAction.JOB_SUBMITTED, nothing, None),
    ("post", "/v1/audio/transcriptions"): (AuditAction.JOB_SUBMITTED, nothing, None),
    ("post", "/v1/audio/translations"): (AuditAction.JOB_SUBMITTED, nothing, None),
    ("post", "/asr"): (AuditAction.JOB_SUBMITTED, nothing, None),
    ("post", "/detect-language"): (AuditAction.JOB_SUBMITTED, nothing, None),
    ("patch", "/jobs/{job_id}"): (AuditAction.JOB_CHANGED, of_job("submit"), {"priority": "high"}),
    ("post", "/jobs/{job_id}/cancel"): (AuditAction.JOB_CANCELLED, of_job("submit"), None),
    ("delete", "/transcribe/{job_id}"): (AuditAction.JOB_CANCELLED, of_job("processing"), None),
    ("delete", "/jobs/{job_id}"): (AuditAction.JOB_DELETED, of_job("completed"), None),
    ("post", "/admin/errors/retry"): (AuditAction.ERROR_RETRIED, kept, {"all": True}),
    ("post", "/admin/errors/resolve"): (AuditAction.ERROR_RESOLVED, kept, {"all": True}),
    ("post", "/admin/errors/{job_id}/retry"): (AuditAction.ERROR_RETRIED, kept, {}),
    ("post", "/admin/errors/{job_id}/resolve"): (AuditAction.ERROR_RESOLVED, kept, {}),
    ("post", "/admin/errors/{job_id}/quarantine"): (AuditAction.ERROR_QUARANTINED, kept, {}),
    ("post", "/admin/errors/{job_id}/release"): (AuditAction.ERROR_RELEASED, in_quarantine, None),
    ("delete", "/admin/errors/{job_id}/quarantine"): (
        AuditAction.ERROR_RELEASED,
        in_quarantine,
        None,
    ),
    ("post", "/admin/queues/{name}/pause"): (AuditAction.QUEUE_PAUSED, nothing, {}),
    ("post", "/admin/queues/{name}/resume"): (AuditAction.QUEUE_RESUMED, nothing, None),
    ("post", "/admin/keys"): (AuditAction.KEY_CREATED, nothing, {"owner": "carol"}),
    ("patch", "/admin/keys/{key_id}"): (AuditAction.KEY_CHANGED, of_key, {"weight": 2}),
    ("post", "/admin/keys/{key_id}/rotate"): (AuditAction.KEY_ROTATED, of_key, {}),
    ("post", "/admin/keys/{key_id}/revoke"): (AuditAction.KEY_REVOKED, of_key, {}),
    ("post", "/batches"): (AuditAction.BATCH_CREATED, nothing, {}),
    ADDING: (AuditAction.JOB_SUBMITTED, of_callers_batch, None),
    RERUN: (AuditAction.JOB_SUBMITTED, callers_job, {}),
    ("post", "/session"): (AuditAction.SIGNED_IN, nothing, None),
    ("post", "/uploads"): (AuditAction.UPLOAD_BEGUN, nothing, None),
    APPENDING: (AuditAction.JOB_SUBMITTED, whole_upload, None),
    ("delete", "/uploads/{upload_id}"): (AuditAction.UPLOAD_DISCARDED, of_upload, None),
    ("post", "/batches/{batch_id}/close"): (AuditAction.BATCH_CLOSED, of_batch, None),
    ("post", "/batches/{batch_id}/cancel"): (AuditAction.BATCH_CANCELLED, of_batch, None),
    ("post", "/batches/{batch_id}/retry"): (AuditAction.ERROR_RETRIED, of_batch, None),
    ("delete", "/batches/{batch_id}"): (AuditAction.BATCH_DELETED, of_empty_batch, None),
    ("post", "/webhooks"): (AuditAction.WEBHOOK_CREATED, nothing, {}),
    ("patch", "/webhooks/{webhook_id}"): (AuditAction.WEBHOOK_CHANGED, of_webhook, {}),
    ("delete", "/webhooks/{webhook_id}"): (AuditAction.WEBHOOK_DELETED, of_webhook, None),
    ("post", "/webhooks/{webhook_id}/rotate"): (AuditAction.WEBHOOK_ROTATED, of_webhook, {}),
    ("post", "/webhooks/{webhook_id}/test"): (AuditAction.WEBHOOK_SENT, of_webhook, None),
    ("post", "/webhooks/{webhook_id}/deliveries/{delivery_id}/resend"): (
        AuditAction.WEBHOOK_SENT,
        of_webhook,
        None,
    ),
}
#: Beside its event an act may show a job, which is an operator's read of somebody else's.
READS = {AuditAction.JOB_READ, AuditAction.TRANSCRIPT_READ}


def test_every_route_that_changes_something_is_an_act():
    # signing out leaves one where somebody had signed in: see test_sessions.py
    assert {*ACTS, ("delete", "/session")} == {
        (m, p) for m, p in OPERATIONS if m not in {"get", "head", "options"}
    }


def do(client, operation, headers, ids, said):
    method, path = operation
    for name, value in ids.items():
        path = path.replace(f"{{{name}}}", str(value))
    body: dict[str, Any] = {} if said is None else {"json": said}
    if operation in {("post", "/transcribe"), ADDING}:
        body = {"files": FILE}
    if path.startswith("/v1/audio/"):
        body = {"files": FILE, "data": {"model": "whisper-1", "async": "true"}}
    if path in {"/asr", "/detect-language"}:
        body = {"files": {"audio_file": FILE["file"]}, "params": {"async": "true"}}
    if path.startswith("/uploads"):
        headers = {**demanded(operation), "Upload-Length": "5", **headers}
        body = {"content": b"x"} if operation == APPENDING else {}
    return client.request(method, path.replace("{name}", "high"), headers=headers, **body)


@pytest.mark.parametrize("operation", ACTS)
def test_an_act_leaves_one_event(operation, client, admin, alice, jobs, told, key_of):
    action, make, said = ACTS[operation]
    of_alice = key_of(alice)
    ids = make(jobs, of_alice.id)
    answer = do(client, operation, admin, ids, said)
    assert answer.is_success, answer.text
    (event,) = [each for each in told() if each.action not in READS]
    root = key_of(admin)

    assert (event.action, event.outcome, event.count) == (action, "done", 1)
    assert (event.actor, event.key_id, event.owner_id) == (root.prefix, root.id, root.owner_id)
    assert event.route == f"{operation[0].upper()} {operation[1]}"
    assert event.request_id == answer.headers["x-request-id"]
    assert event.address == "unknown"  # as the test's client calls itself
    if ids:
        # a rerun is another job
        of = {"job_id": None if operation == RERUN else event.job_id}
        of |= {"key_id": event.target_key_id}
        of["webhook_id"] = event.detail.get("webhook")
        of["upload_id"] = event.detail.get("upload")
        if "batch" in event.detail:
            of["batch_id"] = event.detail["batch"]
        assert all(str(of[name]) == str(ids[name]) for name in ids.keys() & of.keys() if of[name])
        owner = root if operation in {ADDING, APPENDING, RERUN} else of_alice
        assert event.target_owner_id == owner.owner_id


@pytest.mark.parametrize("operation", [op for op in ACTS if "{job_id}" in op[1]])
def test_what_did_not_happen_leaves_none(operation, client, admin, told):
    ids = {"job_id": uuid.uuid4()}

    assert do(client, operation, admin, ids, ACTS[operation][2]).status_code == 404
    assert told() == []


def test_what_is_refused_by_the_state_leaves_none(client, alice, jobs, told):
    job_id = jobs.completed()

    assert client.post(f"/jobs/{job_id}/cancel", headers=alice).status_code == 409
    assert AuditAction.JOB_CANCELLED not in actions(told())


def test_many_at_once_leave_an_event_each(client, admin, jobs, told):
    ids = {jobs.failed() for _ in range(5)}
    client.post("/admin/errors/resolve", json={"all": True}, headers=admin)

    assert {event.job_id for event in told(AuditAction.ERROR_RESOLVED)} == ids


def test_a_dry_run_leaves_none(client, admin, jobs, told):
    jobs.failed()
    client.post("/admin/errors/resolve", json={"all": True, "dry_run": True}, headers=admin)

    assert told() == []


def test_a_submission_that_is_sent_again_is_one(client, alice, told):
    headers = {**alice, "Idempotency-Key": "once"}
    for _ in range(3):
        assert client.post("/transcribe", files=FILE, headers=headers).status_code == 202

    assert actions(told()) == ["job_submitted"]


def test_a_deleted_job_is_told_of_with_its_owner(client, admin, alice, jobs, told, key_of):
    job_id = jobs.submit()
    client.delete(f"/jobs/{job_id}", headers=admin)
    (event,) = told()

    assert (event.job_id, event.target_owner_id) == (job_id, key_of(alice).owner_id)


# Reads


@pytest.mark.parametrize("path", ["", "/result", "/result?format=srt"])
def test_reading_a_transcript_is_an_event(path, client, alice, jobs, told):
    job_id = jobs.completed()
    assert client.get(f"/jobs/{job_id}{path}", headers=alice).is_success
    (event,) = told()

    assert (event.action, event.job_id) == ("transcript_read", job_id)


def test_reading_half_a_transcript_is_too(client, alice, jobs, told):
    job_id = jobs.transcribing()
    client.get(f"/jobs/{job_id}/result?partial=true", headers=alice)

    assert actions(told()) == ["transcript_read"]


def test_reading_the_audio_is_an_event_and_asking_for_its_head_is_none(client, alice, jobs, told):
    job_id = jobs.submit()
    jobs.keep(job_id, b"sound")
    assert client.head(f"/jobs/{job_id}/audio", headers=alice).is_success
    assert told() == []
    assert client.get(f"/jobs/{job_id}/audio", headers=alice).is_success

    assert actions(told()) == ["audio_read"]


def test_audio_that_is_gone_was_not_read(client, alice, jobs, told):
    job_id = jobs.submit()

    assert client.get(f"/jobs/{job_id}/audio", headers=alice).status_code == 410
    assert told() == []


def test_asking_how_ones_own_job_is_going_is_no_event(client, alice, jobs, told):
    for job_id in (jobs.submit(), jobs.transcribing(), jobs.failed()):
        assert client.get(f"/jobs/{job_id}", headers=alice).is_success
    assert client.get("/jobs", headers=alice).is_success
    assert client.get("/usage", headers=alice).is_success

    assert told() == []


def test_an_operator_who_looks_at_others_jobs_leaves_events(client, admin, jobs, told):
    failed = jobs.failed()
    for path in (f"/jobs/{failed}", "/jobs", f"/admin/errors/{failed}"):
        assert client.get(path, headers=admin).is_success

    assert actions(told()) == ["job_read", "jobs_listed", "error_read"]


def test_the_same_read_within_a_minute_is_one_event(client, alice, jobs, told):
    first, second = jobs.completed(), jobs.completed()
    for job_id in (first, second):
        for _ in range(5):
            client.get(f"/jobs/{job_id}", headers=alice)
            client.get(f"/jobs/{job_id}/result", headers=alice)

    assert [event.job_id for event in told()] == [first, second]


def test_another_key_that_reads_the_same_is_another_event(client, make_key, jobs, told):
    job_id = jobs.completed()
    for _ in range(2):
        client.get(f"/jobs/{job_id}", headers=make_key("alice"))

    assert len(told()) == 2


def test_who_may_not_read_is_not_told_to_have_read(client, make_key, jobs, told):
    writer = make_key("alice", scopes=[Scope.JOBS_WRITE])
    job_id = jobs.completed()
    client.patch(f"/jobs/{job_id}", json={"metadata": {}}, headers=writer)

    assert actions(told()) == ["job_changed"]


# Keys


def test_a_key_that_is_used_is_told_once(client, alice, bob, told, key_of):
    for headers in (alice, bob, alice, bob):
        client.get("/jobs", headers=headers)

    used = [event.actor for event in told(AuditAction.KEY_USED)]
    assert used == [key_of(alice).prefix, key_of(bob).prefix]


def test_calls_without_a_key_are_somebody_too(make_settings, told):
    with TestClient(create_app(make_settings(auth_required=False))) as client:
        client.get("/jobs")

    assert [event.actor for event in told(AuditAction.KEY_USED)] == ["anonymous"]


def test_keys_of_the_setting_are_told_of_when_they_come_and_go(make_settings, told):
    for keys in ("first-key-of-mine", "another-key-of-mine"):
        with TestClient(create_app(make_settings(api_keys=keys))) as client:
            client.get("/jobs", headers={"X-API-Key": keys})

    found = [*told(AuditAction.KEY_CREATED), *told(AuditAction.KEY_REMOVED)]
    assert Counter((event.actor, event.action) for event in found) == {
        ("web", "key_created"): 2,
        ("web", "key_removed"): 1,
    }


# What is remembered


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def trail(sessions, clock):
    return Trail(sessions.begin, mask=make_mask(), clock=clock)


ACTOR = Actor(name="stt_live_x", key_id=uuid.uuid4(), address="192.0.2.7")


def test_a_read_is_told_again_after_a_while(trail, sessions, clock, told):
    for wait in (0.0, READ_SECONDS - 1, 1.0):
        clock.advance(wait)
        with sessions.begin() as session:
            trail.read(session, ACTOR, AuditAction.TRANSCRIPT_READ)

    assert len(told()) == 2


@pytest.mark.security("audit", "a read whose event was lost with its transaction")
def test_a_read_that_was_rolled_back_is_told_the_next_time(trail, sessions, told):
    with sessions() as session:
        trail.read(session, ACTOR, AuditAction.TRANSCRIPT_READ)
        session.rollback()
    with sessions.begin() as session:
        trail.read(session, ACTOR, AuditAction.TRANSCRIPT_READ)

    assert len(told()) == 1


@pytest.mark.parametrize(
    ("other", "rows"),
    [("192.0.2.7", 1), ("192.0.2.8", 2)],
)
def test_a_key_is_told_again_from_another_address(trail, sessions, told, other, rows):
    for address in (ACTOR.address, other):
        with sessions.begin() as session:
            trail.used(session, Actor(name=ACTOR.name, key_id=ACTOR.key_id, address=address))

    assert len(told(AuditAction.KEY_USED)) == rows


@pytest.mark.security("audit", "a subscriber's many IPv6 addresses")
def test_addresses_of_one_subscriber_are_one(trail, sessions, told):
    for number in range(50):
        with sessions.begin() as session:
            address = f"2001:db8::{number:x}"
            trail.used(session, Actor(name=ACTOR.name, key_id=ACTOR.key_id, address=address))

    assert [event.address for event in told(AuditAction.KEY_USED)] == ["2001:db8::0"]


def test_a_key_is_told_again_after_a_while(trail, sessions, clock, told):
    for wait in (0.0, USE_SECONDS - 1, 1.0):
        clock.advance(wait)
        with sessions.begin() as session:
            trail.used(session, ACTOR)

    assert len(told(AuditAction.KEY_USED)) == 2


def test_what_is_remembered_has_an_end():
    recent = Recent(60)
    for number in range(MAX_REMEMBERED + 1):
        recent.add(number)

    assert (0 in recent, 1 in recent, MAX_REMEMBERED in recent) == (False, True, True)


# What it costs


@pytest.fixture
def statements(client):
    """What the web process asks PostgreSQL from now on."""
    ran: list[str] = []
    engine = client.app.state.services.engine
    events_of.listen(engine, "before_cursor_execute", lambda *args: ran.append(args[2]))
    return ran


def of_audit(ran: list[str]) -> list[str]:
    return [statement for statement in ran if "audit_events" in statement]


def test_a_submission_costs_one_statement_more(client, alice, statements):
    client.get("/jobs", headers=alice)  # which tells that the key is used
    statements.clear()
    client.post("/transcribe", files=FILE, headers=alice)

    assert len(of_audit(statements)) == 1


def test_a_poll_costs_none(client, alice, jobs, statements):
    job_id = jobs.processing()
    client.get("/jobs", headers=alice)
    statements.clear()
    for _ in range(5):
        client.get(f"/jobs/{job_id}", headers=alice)

    assert statements
    assert of_audit(statements) == []


def test_reading_again_costs_none(client, alice, jobs, statements):
    job_id = jobs.completed()
    client.get(f"/jobs/{job_id}", headers=alice)
    statements.clear()
    client.get(f"/jobs/{job_id}", headers=alice)

    assert of_audit(statements) == []


# What no event holds

CANARY = "canary-Zq9xW"
SECRET = f"secret-{CANARY}"


@pytest.fixture
def busy(make_settings) -> Iterator[TestClient]:
    """A service whose operator chose a key of his own."""
    settings = make_settings(api_keys=f"{SECRET},an-operators-own-words")
    with TestClient(create_app(settings)) as client:
        yield client


def use(client: TestClient, headers: dict[str, str], jobs: Jobs) -> None:
    """Do all that leaves an event, and say the canary wherever something can be said."""
    files = {"file": (f"{CANARY}.mp3", f"sound of {headers}".encode())}
    wishes = {"initial_prompt": CANARY, "metadata": json.dumps({CANARY: CANARY})}
    sent = {**headers, "Idempotency-Key": CANARY}
    job_id = client.post("/transcribe", files=files, data=wishes, headers=sent).json()["id"]
    jobs.finish(job_id)
    # a request's id is its client's own word, and here it is a key
    named = {**headers, "X-Request-ID": headers["X-API-Key"], "User-Agent": CANARY}
    paths = (f"/jobs/{job_id}", f"/jobs/{job_id}/result", f"/jobs/{job_id}/audio")
    for path in (*paths, f"/jobs?cursor={CANARY}", f"/jobs/{CANARY}", "/admin/keys"):
        client.get(path, headers=named)
    client.patch(f"/jobs/{job_id}", json={"metadata": {"x": CANARY}}, headers=named)


def administer(client: TestClient, headers: dict[str, str], failed: uuid.UUID) -> None:
    client.post("/admin/queues/high/pause", json={"note": CANARY}, headers=headers)
    client.post("/admin/keys", json={"owner": "dave", "note": CANARY}, headers=headers)
    client.post(f"/admin/errors/{failed}/resolve", json={"notes": CANARY}, headers=headers)


def guess(client: TestClient, near: str) -> None:
    for wrong in (f"wrong-{CANARY}", near[:-1] + "x", ""):
        headers = {"X-API-Key": wrong, "X-Forwarded-For": CANARY, "X-Request-ID": near}
        client.get(f"/jobs?api_key={CANARY}", headers=headers)


@pytest.mark.security("audit", "secrets and clients' text in events")
def test_no_event_holds_a_secret_or_a_clients_text(busy, alice, jobs, sessions):
    admin = {"X-API-Key": SECRET}
    use(busy, alice, jobs)
    use(busy, admin, jobs)
    administer(busy, admin, jobs.failed())
    guess(busy, alice["X-API-Key"])
    busy.app.state.services.trail.denials.write()
    with sessions() as session:
        rows = session.scalars(select(AuditEvent)).all()
    columns = AuditEvent.__table__.columns.keys()
    text = json.dumps([{name: getattr(row, name) for name in columns} for row in rows], default=str)

    assert {*actions(rows)} >= {"denied", "key_used", "job_submitted", "audio_read", "key_created"}
    unseen = (CANARY, TRANSCRIPT.segments[0].text.strip(), "sound", "an-operators-own-words")
    assert [word for word in unseen if word in text] == []
    assert alice["X-API-Key"][17:] not in text  # but for what is shown of a key
