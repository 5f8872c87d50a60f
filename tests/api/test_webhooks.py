"""/webhooks, and the address that a job names for itself."""

import uuid

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from api.webhook_schemas import NewWebhook
from app import create_app
from models import WANTED_EVENTS, Scope, WebhookDelivery
from webhooks.endpoints import MOST

URL = "https://receiver.test/hook?of=alice"
FILE = {"file": ("a.mp3", b"sound")}


@pytest.fixture
def hers(make_key):
    """A key of Alice's that may have others called."""
    return make_key("alice", scopes=[*Scope])


@pytest.fixture
def make(client, hers):
    def make_one(**wanted):
        answer = client.post("/webhooks", json=wanted, headers=hers)
        assert answer.status_code == 201, answer.text
        return answer.json()

    return make_one


@pytest.fixture
def deliveries_of(client, hers):
    def read(webhook, **query):
        answer = client.get(f"/webhooks/{webhook['id']}/deliveries", params=query, headers=hers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return read


def code_of(answer):
    return answer.status_code, answer.json()["errors"][0]["code"]


# Making them


def test_a_webhook_is_made_and_its_secret_is_told_once(client, hers, make):
    made = make(url=URL, events=["job.failed"], description="mine")
    secret = made.pop("secret")
    shown = client.get(f"/webhooks/{made['id']}", headers=hers).json()

    assert secret.startswith("whsec_")
    assert shown == made
    assert (shown["url"], shown["events"], shown["enabled"]) == (URL, ["job.failed"], True)
    assert client.get("/webhooks", headers=hers).json()["webhooks"] == [made]


def test_its_secret_is_its_own_and_stays_what_it_was(make, make_settings, hers):
    first, second = make(url=URL), make(url=URL)
    with TestClient(create_app(make_settings())) as other:
        rotated = other.post(f"/webhooks/{first['id']}/rotate", headers=hers).json()

    assert len({first["secret"], second["secret"], rotated["secret"]}) == 3


@pytest.mark.security("secrets", "a webhook's secret in the database")
def test_no_secret_is_stored(make, sessions):
    secret = make(url=URL)["secret"]
    with sessions() as session:
        rows = session.connection().exec_driver_sql("SELECT webhooks::text FROM webhooks")

        assert secret.removeprefix("whsec_")[:20] not in rows.scalar_one()


def test_what_is_left_out_is_every_event(make):
    assert make(url=URL)["events"] == sorted(WANTED_EVENTS)


def test_the_events_are_those_that_there_are():
    schema = NewWebhook.model_json_schema()

    assert schema["properties"]["events"]["items"]["enum"] == sorted(WANTED_EVENTS)


@pytest.mark.security("outgoing calls", "a webhook at an address that may not be called")
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0/",
        "https://[::]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://localhost/",
        "http://example.com/",
        "https://example.com:22/",
        "https://example.com:6379/",
        "https://alice:secret@example.com/",
        "https://example.com\\@127.0.0.1/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "ftp://example.com/",
        "https://example.com/\r\nX: y",
        "//example.com/",
        "example.com",
        "https://",
    ],
)
@pytest.mark.parametrize("where", ["webhook", "patch", "callback_url"])
def test_an_address_that_may_not_be_called_is_refused(client, hers, make, jobs, url, where):
    if where == "webhook":
        answer = client.post("/webhooks", json={"url": url}, headers=hers)
    elif where == "patch":
        answer = client.patch(f"/webhooks/{make(url=URL)['id']}", json={"url": url}, headers=hers)
    else:
        make()
        data = {"callback_url": url}
        answer = client.post("/transcribe", files=FILE, data=data, headers=hers)

    assert code_of(answer) == (422, "address_refused")
    assert url not in answer.text
    assert jobs.count() == 0


@pytest.mark.parametrize(
    "wanted",
    [
        {"url": 5},
        {"url": ""},
        {"url": URL, "events": []},
        {"url": URL, "events": ["job.started"]},
        {"url": URL, "events": "job.failed"},
        {"url": URL, "secret": "whsec_mine"},
        {"url": URL, "description": "x" * 1_001},
        {"url": "https://example.com/" + "x" * 2_048},
    ],
)
def test_what_is_no_webhook_is_refused(client, hers, wanted):
    assert client.post("/webhooks", json=wanted, headers=hers).status_code == 422


def test_an_owner_has_only_so_many(client, hers, make):
    for _ in range(MOST):
        make(url=URL)
    answer = client.post("/webhooks", json={"url": URL}, headers=hers)

    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_pages_follow_one_another(client, hers, make):
    made = [make(url=URL)["id"] for _ in range(3)]
    first = client.get("/webhooks?limit=2", headers=hers)
    query = {"limit": 2, "cursor": first.json()["next_cursor"]}
    second = client.get("/webhooks", params=query, headers=hers).json()
    shown = first.json()["webhooks"] + second["webhooks"]

    assert [webhook["id"] for webhook in shown] == made[::-1]
    assert 'rel="next"' in first.headers["link"]
    assert (second["total"], second["next_cursor"]) == (3, None)


# Changing them


def test_what_is_named_is_changed_and_all_else_stays(client, hers, make):
    made = make(url=URL, events=["job.failed"], description="mine")
    path = f"/webhooks/{made['id']}"
    changed = client.patch(path, json={"events": ["job.completed"]}, headers=hers).json()

    assert changed == {
        **{name: value for name, value in made.items() if name != "secret"},
        "events": ["job.completed"],
    }


def test_it_is_disabled_and_enabled_again(client, hers, make):
    path = f"/webhooks/{make(url=URL)['id']}"
    off = client.patch(path, json={"enabled": False}, headers=hers).json()
    on = client.patch(path, json={"enabled": True}, headers=hers).json()

    assert (off["enabled"], off["disabled_reason"]) == (False, "client")
    assert (on["enabled"], on["disabled_reason"], on["disabled_at"]) == (True, None, None)


def test_the_one_for_callbacks_has_no_address(client, hers, make):
    path = f"/webhooks/{make()['id']}"

    assert code_of(client.patch(path, json={"url": URL}, headers=hers)) == (422, "no_url")


def test_a_rotation_gives_another_secret_and_a_time_for_the_old_one(client, hers, make):
    made = make(url=URL)
    path = f"/webhooks/{made['id']}/rotate"
    rotated = client.post(path, json={"grace_seconds": 60}, headers=hers).json()

    assert rotated["secret"] != made["secret"]
    assert rotated["previous_secret_until"] is not None


def test_what_is_deleted_is_gone(client, hers, make):
    path = f"/webhooks/{make(url=URL)['id']}"

    assert client.delete(path, headers=hers).status_code == 204
    assert client.get(path, headers=hers).status_code == 404


@pytest.mark.parametrize("part", ["nobody", "%00", str(uuid.UUID(int=7))])
def test_what_is_no_webhook_is_not_found(client, hers, part):
    answer = client.get(f"/webhooks/{part}", headers=hers)

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


# What became of events


def test_a_job_that_ends_is_among_the_deliveries(make, jobs, deliveries_of):
    webhook = make(url=URL)
    job_id = jobs.completed()
    (delivery,) = deliveries_of(webhook)["deliveries"]

    assert (delivery["event"], delivery["job_id"]) == ("job.completed", str(job_id))
    assert (delivery["status"], delivery["tries"]) == ("pending", [])
    assert delivery["next_try_at"] is not None


def test_deliveries_are_told_by_status_and_in_pages(make, jobs, deliveries_of):
    webhook = make(url=URL)
    ended = [str(jobs.completed()) for _ in range(3)]
    first = deliveries_of(webhook, limit=2, status="pending")
    second = deliveries_of(webhook, limit=2, status="pending", cursor=first["next_cursor"])
    shown = first["deliveries"] + second["deliveries"]

    assert [delivery["job_id"] for delivery in shown] == ended[::-1]
    assert deliveries_of(webhook, status="failed") == {
        "deliveries": [],
        "total": 0,
        "next_cursor": None,
    }


def test_a_test_is_sent(client, hers, make, deliveries_of):
    webhook = make(url=URL)
    sent = client.post(f"/webhooks/{webhook['id']}/test", headers=hers)

    assert sent.status_code == 202
    assert sent.json()["event"] == "webhook.test"
    assert deliveries_of(webhook)["deliveries"] == [sent.json()]


def test_one_is_sent_again_under_its_id(client, hers, make, sessions):
    webhook = make(url=URL)
    path = f"/webhooks/{webhook['id']}"
    sent = client.post(f"{path}/test", headers=hers).json()
    again = client.post(f"{path}/deliveries/{sent['id']}/resend", headers=hers)
    with sessions() as session:
        only = session.scalars(select(WebhookDelivery)).one()

    assert again.status_code == 202
    assert again.json()["id"] == sent["id"] == str(only.id)


# A job's own address


def test_a_job_names_its_own_address(client, hers, make, jobs, deliveries_of):
    callbacks = make()
    answer = client.post("/transcribe", files=FILE, data={"callback_url": URL}, headers=hers)
    jobs.finish(answer.json()["job_id"])
    (delivery,) = deliveries_of(callbacks)["deliveries"]

    assert (answer.status_code, answer.json()["callback_url"]) == (202, URL)
    assert delivery["job_id"] == answer.json()["job_id"]


def test_nothing_is_sent_that_nothing_signs(client, hers, jobs):
    answer = client.post("/transcribe", files=FILE, data={"callback_url": URL}, headers=hers)

    assert code_of(answer) == (422, "no_secret")
    assert jobs.count() == 0


def test_nothing_is_sent_by_what_is_disabled(client, hers, make):
    path = f"/webhooks/{make()['id']}"
    client.patch(path, json={"enabled": False}, headers=hers)
    answer = client.post("/transcribe", files=FILE, data={"callback_url": URL}, headers=hers)

    assert code_of(answer) == (422, "disabled")


@pytest.mark.security("authorisation", "a key that may not have others called")
def test_a_key_without_the_scope_has_nobody_called(client, hers, alice, make, jobs):
    make()
    answer = client.post("/transcribe", files=FILE, data={"callback_url": URL}, headers=alice)

    assert (answer.status_code, answer.json()["scope"]) == (403, "webhooks")
    assert jobs.count() == 0


def test_a_refused_address_leaves_no_file(client, hers, make, settings):
    make()
    client.post(
        "/transcribe", files=FILE, data={"callback_url": "https://localhost/"}, headers=hers
    )

    assert [path for path in settings.uploads_path.rglob("*") if path.suffix == ".part"] == []
    assert not [p for p in settings.uploads_path.rglob("*") if p.is_file() and p.name[0] != "."]


def test_what_was_done_before_is_done_again_for_whoever_wants_a_call(make_settings, make_key, jobs):
    settings = make_settings(duplicate_detection="finished")
    headers = make_key("alice", scopes=[*Scope])
    with TestClient(create_app(settings)) as client:
        client.post("/webhooks", json={}, headers=headers)
        first = client.post("/transcribe", files=FILE, headers=headers).json()
        jobs.finish(first["job_id"])
        again = client.post("/transcribe", files=FILE, headers=headers)
        called = client.post("/transcribe", files=FILE, data={"callback_url": URL}, headers=headers)

    assert (again.status_code, again.json()["job_id"]) == (200, first["job_id"])
    assert called.status_code == 202
    assert called.json()["job_id"] != first["job_id"]
