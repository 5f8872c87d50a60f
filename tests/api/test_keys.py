"""/admin/keys: what operators do with keys over HTTP."""

import logging
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

import auth
from auth import ANONYMOUS
from keys import GRACE
from models import ApiKey, Scope


@pytest.fixture
def make(client, admin):
    """Make a key over HTTP; returns what is told of it."""

    def make(owner="alice", **values):
        answer = client.post("/admin/keys", json={"owner": owner, **values}, headers=admin)
        assert answer.status_code == 201, answer.text
        return answer.json()

    return make


def later(**delta):
    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


def headers(key):
    return {"X-API-Key": key["key"]}


def status(client, key):
    return client.get("/jobs", headers=headers(key)).status_code


def test_a_new_key_works(client, make):
    assert status(client, make()) == 200


def test_a_new_key_is_told_with_all_there_is_to_it(make):
    made = make(scopes=["jobs:read"], may_use_high=False, note="a note", expires_at=later(days=1))

    assert made["key"].startswith(made["prefix"])
    assert (made["owner"], made["state"], made["note"]) == ("alice", "works", "a note")
    assert (made["scopes"], made["may_use_high"]) == (["jobs:read"], False)
    assert made["previous"] is None


def test_a_new_key_is_where_its_location_says(client, admin, make):
    answer = client.post("/admin/keys", json={"owner": "alice"}, headers=admin)
    shown = client.get(answer.headers["location"], headers=admin)

    assert shown.json()["id"] == answer.json()["id"]


def test_the_secret_is_told_once(client, admin, make):
    made = make()
    told = client.get(f"/admin/keys/{made['id']}", headers=admin).text
    told += client.get("/admin/keys", headers=admin).text

    assert made["key"] not in told


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"owner": " "}, "owner"),
        ({"owner": "x" * 201}, "owner"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes/0"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ({"note": "x" * 4001}, "note"),
        # what a client calls its fields is not repeated back
        ({"id": str(uuid.UUID(int=1))}, ""),
        ({"key": "of-my-own-choice"}, ""),
    ],
)
def test_what_makes_no_key_is_refused(client, admin, values, field):
    answer = client.post("/admin/keys", json={"owner": "alice", **values}, headers=admin)

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"#/{field}"


def test_an_owner_that_cannot_be_kept_is_refused(client, admin):
    answer = client.post("/admin/keys", json={"owner": "nul\0"}, headers=admin)

    assert answer.status_code == 422


def test_keys_are_listed_newest_first_in_pages(client, admin, make):
    made = [make("carol")["id"] for _ in range(3)]
    first = client.get("/admin/keys?owner=carol&limit=2", headers=admin)
    second = client.get(first.headers["link"].split(">")[0].strip("<"), headers=admin).json()

    assert first.json()["total"] == 3
    assert [key["id"] for key in first.json()["keys"] + second["keys"]] == made[::-1]
    assert second["next_cursor"] is None


def test_owners_are_listed(client, admin, alice):
    owners = client.get("/admin/owners", headers=admin).json()["owners"]

    assert [(owner["name"], owner["working_keys"]) for owner in owners] == [
        ("admin", 1),
        ("alice", 1),
        ("root", 1),
    ]


@pytest.mark.parametrize("key_id", ["x", uuid.UUID(int=1)])
def test_what_is_no_key_is_not_found(client, admin, key_id):
    answer = client.get(f"/admin/keys/{key_id}", headers=admin)

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_change_holds_at_the_next_call(client, admin, make):
    made = make()
    client.patch(f"/admin/keys/{made['id']}", json={"scopes": ["jobs:write"]}, headers=admin)

    assert status(client, made) == 403


def test_what_is_left_out_stays(client, admin, make):
    made = make(note="a note", expires_at=later(days=1), scopes=["jobs:read"])
    changed = client.patch(
        f"/admin/keys/{made['id']}", json={"may_use_high": False}, headers=admin
    ).json()

    assert changed == {k: v for k, v in made.items() if k != "key"} | {"may_use_high": False}


def test_the_weight_of_a_key_can_be_changed(client, admin, make):
    made = make(weight=2)
    changed = client.patch(f"/admin/keys/{made['id']}", json={"weight": 0.5}, headers=admin)

    assert (made["weight"], changed.json()["weight"]) == (2.0, 0.5)


def test_how_long_a_keys_jobs_are_kept_can_be_changed(client, admin, make):
    made = make(audio_retention_seconds=3600)
    path = f"/admin/keys/{made['id']}"
    changed = client.patch(path, json={"transcript_retention_seconds": 0}, headers=admin).json()
    told = client.get("/usage", headers={"X-API-Key": made["key"]}).json()
    default = client.patch(path, json={"audio_retention_seconds": None}, headers=admin).json()

    assert made["audio_retention_seconds"] == changed["audio_retention_seconds"] == 3600
    assert changed["transcript_retention_seconds"] == 0
    assert (told["audio_retention_seconds"], told["transcript_retention_seconds"]) == (3600, None)
    assert default["audio_retention_seconds"] is None


@pytest.mark.parametrize("seconds", [-1, 1e12, "7d", True])
def test_no_other_time_is_taken(client, admin, make, seconds):
    path = f"/admin/keys/{make()['id']}"
    answer = client.patch(path, json={"audio_retention_seconds": seconds}, headers=admin)

    assert answer.status_code == 422


@pytest.mark.parametrize("weight", [0, -1, 0.001, 101, None, "1"])
def test_a_weight_is_neither_nothing_nor_everything(client, admin, make, weight):
    path = f"/admin/keys/{make()['id']}"

    assert client.patch(path, json={"weight": weight}, headers=admin).status_code == 422


def test_null_takes_a_note_and_an_end_away(client, admin, make):
    made = make(note="a note", expires_at=later(days=1))
    changed = client.patch(
        f"/admin/keys/{made['id']}", json={"note": None, "expires_at": None}, headers=admin
    ).json()

    assert (changed["note"], changed["expires_at"]) == (None, None)


@pytest.mark.parametrize(
    "values", [{"scopes": None}, {"may_use_high": None}, {"owner": "bob"}, {"scopes": []}]
)
def test_a_key_keeps_its_owner_and_some_scope(client, admin, make, values):
    answer = client.patch(f"/admin/keys/{make()['id']}", json=values, headers=admin)

    assert answer.status_code == 422


def test_a_rotated_key_works_with_both_secrets(client, admin, make):
    made = make()
    rotated = client.post(f"/admin/keys/{made['id']}/rotate", headers=admin).json()

    assert (rotated["id"], rotated["previous"]["prefix"]) == (made["id"], made["prefix"])
    assert (status(client, made), status(client, rotated)) == (200, 200)


def test_a_rotated_key_has_a_day_of_grace(client, admin, make, sessions):
    made = make()
    client.post(f"/admin/keys/{made['id']}/rotate", headers=admin)
    with sessions() as session:
        left = session.scalar(
            select(ApiKey.previous_expires_at - func.now()).where(
                ApiKey.id == uuid.UUID(made["id"])
            )
        )

    assert GRACE - timedelta(minutes=10) < left <= GRACE


def test_a_rotated_key_may_have_no_grace(client, admin, make):
    made = make()
    path = f"/admin/keys/{made['id']}/rotate"
    rotated = client.post(path, json={"grace_seconds": 0}, headers=admin).json()

    assert (status(client, made), status(client, rotated)) == (401, 200)


@pytest.mark.parametrize("grace", [-1, 31 * 86_400, "1", None])
def test_a_grace_is_neither_negative_nor_endless(client, admin, make, grace):
    path = f"/admin/keys/{make()['id']}/rotate"

    assert client.post(path, json={"grace_seconds": grace}, headers=admin).status_code == 422


def test_a_revoked_key_is_refused_at_its_next_call(client, admin, make):
    made = make()
    revoked = client.post(f"/admin/keys/{made['id']}/revoke", headers=admin).json()

    assert revoked["state"] == "revoked"
    assert status(client, made) == 401


def test_revoking_twice_is_as_good_as_once(client, admin, make):
    path = f"/admin/keys/{make()['id']}/revoke"
    first, second = (client.post(path, headers=admin).json() for _ in range(2))

    assert first == second


@pytest.fixture
def only_admin(client, admin, sessions):
    """The id of the one key with `admin` that is left."""
    with sessions.begin() as session:
        for key in session.scalars(select(ApiKey)):
            if key.prefix.startswith(auth.FROM_SETTING):
                key.revoked_at = func.now()
        return session.scalar(select(ApiKey.id).where(ApiKey.revoked_at.is_(None)))


def test_the_last_admin_key_cannot_be_revoked_by_mistake(client, admin, only_admin):
    path = f"/admin/keys/{only_admin}/revoke"
    refused = client.post(path, headers=admin)
    forced = client.post(path, json={"force": True}, headers=admin)

    assert (refused.status_code, refused.json()["code"]) == (409, "last_admin_key")
    assert forced.json()["state"] == "revoked"


def test_the_last_admin_key_cannot_be_demoted_by_mistake(client, admin, only_admin):
    path = f"/admin/keys/{only_admin}"
    refused = client.patch(path, json={"scopes": ["jobs:read"]}, headers=admin)
    forced = client.patch(path, json={"scopes": ["jobs:read"], "force": True}, headers=admin)

    assert (refused.status_code, refused.json()["code"]) == (409, "last_admin_key")
    assert forced.json()["scopes"] == ["jobs:read"]


def test_a_key_of_the_setting_cannot_be_rotated(client, admin, sessions):
    with sessions() as session:
        key_id = session.scalar(
            select(ApiKey.id).where(ApiKey.prefix.startswith(auth.FROM_SETTING))
        )

    assert client.post(f"/admin/keys/{key_id}/rotate", headers=admin).status_code == 409


def test_the_log_says_who_did_what_to_which_key(client, admin, make, caplog):
    caplog.set_level(logging.INFO)
    made = make()
    for verb in ("rotate", "revoke"):
        client.post(f"/admin/keys/{made['id']}/{verb}", headers=admin)
    notes = [record for record in caplog.records if record.message.startswith("key ")]

    assert [note.message for note in notes] == ["key made", "key rotated", "key revoked"]
    assert {note.__dict__["by"] for note in notes} == {admin["X-API-Key"][:17]}


def test_the_log_never_says_a_secret(client, admin, make, caplog):
    caplog.set_level(logging.DEBUG)
    made = make()
    rotated = client.post(f"/admin/keys/{made['id']}/rotate", headers=admin).json()
    logged = str([record.__dict__ for record in caplog.records])

    assert made["key"] not in logged
    assert rotated["key"] not in logged


def test_a_job_knows_which_key_submitted_it(client, make, jobs):
    made = make(scopes=[Scope.JOBS_WRITE])
    job = client.post("/transcribe", files={"file": ("a.mp3", b"sound")}, headers=headers(made))

    assert str(jobs.row(job.json()["id"]).api_key_id) == made["id"]


def test_a_key_that_left_the_setting_leaves_its_jobs(client, jobs, sessions):
    submitted = jobs.submit("admin", api_key_id=key_of(sessions, auth.FROM_SETTING))
    with sessions.begin() as session:
        session.delete(session.scalars(select(ApiKey)).one())

    assert jobs.row(submitted).api_key_id is None


def key_of(sessions, prefix):
    with sessions() as session:
        return session.scalar(select(ApiKey.id).where(ApiKey.prefix.startswith(prefix)))


def test_calls_without_a_key_are_listed_as_one(client, admin, sessions):
    with sessions.begin() as session:
        auth.anonymous(session)
    listed = client.get(f"/admin/keys?owner={ANONYMOUS}", headers=admin).json()["keys"]

    assert [key["prefix"] for key in listed] == [ANONYMOUS]
