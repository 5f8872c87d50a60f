"""Keys: made, stored, checked, entered from the setting, revoked."""

import logging
import stat
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, create_engine, select, text, update
from sqlalchemy.orm import Session, sessionmaker

import auth
from auth import FirstKeys, Grant, Principal
from errors import InvalidRequest, NotAllowed, NotAuthenticated, NotFound, SettingsError
from local_servers import PostgresServer
from models import ApiKey, Owner, Scope
from tests.conftest import fresh_database

WORDS = "an-operators-own-words"


@pytest.fixture(scope="module")
def module_engine(postgres_server: PostgresServer, migrated_database: str) -> Iterator[Engine]:
    with fresh_database(postgres_server, migrated_database) as url:
        engine = create_engine(url)
        yield engine
        engine.dispose()


@pytest.fixture
def engine(module_engine: Engine) -> Engine:
    with module_engine.begin() as connection:
        connection.execute(text("TRUNCATE owners CASCADE"))
    return module_engine


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
def session(sessions: sessionmaker[Session]) -> Iterator[Session]:
    with sessions.begin() as session:
        yield session


def principal(*scopes: Scope) -> Principal:
    return Principal(owner_id=uuid.uuid4(), key_prefix="stt", scopes=frozenset(scopes))


def test_minted_keys_match_the_published_pattern():
    assert auth.KEY_PATTERN.fullmatch(auth.mint())


def test_minted_keys_differ():
    assert len({auth.mint() for _ in range(100)}) == 100


def test_a_minted_key_is_well_formed():
    assert auth.is_well_formed(auth.mint())


@pytest.mark.parametrize("place", range(len(auth.mint())))
def test_a_typo_anywhere_is_noticed_before_hashing(place):
    key = auth.mint()
    typo = key[:place] + ("x" if key[place] != "x" else "y") + key[place + 1 :]

    # without the prefix it could be an operator's own words
    assert not auth.is_well_formed(typo) or place < len(auth.PREFIX)


@pytest.mark.parametrize(
    "key", ["", "short", "k" * 257, "k" * 10**6, "clé-" * 8, "new\nline" * 4, "nul\0" * 8]
)
def test_impossible_keys_are_malformed(key):
    assert not auth.is_well_formed(key)


def test_a_key_names_its_owner(session):
    key, row = auth.create(session, Grant(owner="alice"))

    assert auth.authenticate(session, key).owner_id == row.owner_id


def test_two_keys_can_be_one_owners(session):
    _, first = auth.create(session, Grant(owner="alice"))
    _, second = auth.create(session, Grant(owner="alice"))

    assert first.owner_id == second.owner_id


def test_a_key_carries_its_scopes(session):
    key, _ = auth.create(session, Grant(owner="alice", scopes=[Scope.JOBS_READ]))

    assert auth.authenticate(session, key).scopes == {Scope.JOBS_READ}


def test_a_key_says_whether_it_may_use_high(session):
    key, _ = auth.create(session, Grant(owner="alice", may_use_high=False))

    assert not auth.authenticate(session, key).may_use_high


def test_the_table_holds_no_key(engine, sessions):
    with sessions.begin() as session:
        key, _ = auth.create(session, Grant(owner="alice", note="a note"))
    with engine.connect() as connection:
        dump = str(connection.execute(text("SELECT * FROM api_keys")).all())

    assert key[len(auth.PREFIX) + auth.SHOWN_CHARS :] not in dump


def test_an_unknown_key_is_refused(session):
    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, auth.mint())


def test_a_malformed_key_is_refused(session):
    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, "é" * 40)


def test_a_revoked_key_is_refused(session):
    key, row = auth.create(session, Grant(owner="alice"))
    auth.revoke(session, row.prefix)

    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, key)


def test_a_key_is_refused_from_the_moment_it_expires(session):
    # now() is the transaction's: the key expires in this very moment
    key, _ = auth.create(session, Grant(owner="alice", valid_days=0))

    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, key)


def test_a_key_works_until_it_expires(session):
    key, _ = auth.create(session, Grant(owner="alice", valid_days=1))

    assert auth.authenticate(session, key)


def test_every_refusal_reads_the_same(session):
    expired, _ = auth.create(session, Grant(owner="alice", valid_days=0))
    told = set()
    for key in ["short", auth.mint(), expired]:
        with pytest.raises(NotAuthenticated) as caught:
            auth.authenticate(session, key)
        told.add((caught.value.message, str(caught.value.data)))

    assert len(told) == 1


def test_the_log_says_why_a_key_was_refused(session, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, auth.mint())

    assert caplog.records[-1].__dict__["reason"] == "unknown"


def test_the_first_use_is_noted(session):
    key, row = auth.create(session, Grant(owner="alice"))
    auth.authenticate(session, key)
    session.refresh(row)

    assert row.last_used_at is not None


def test_a_use_within_the_minute_is_not_written_again(session):
    key, row = auth.create(session, Grant(owner="alice"))
    just_now = select(text("now() - interval '50 seconds'")).scalar_subquery()
    session.execute(update(ApiKey).values(last_used_at=just_now))
    session.refresh(row)
    before = row.last_used_at
    auth.authenticate(session, key)
    session.refresh(row)

    assert row.last_used_at == before


def test_a_use_after_the_minute_is_written(session):
    key, row = auth.create(session, Grant(owner="alice"))
    earlier = select(text("now() - interval '70 seconds'")).scalar_subquery()
    session.execute(update(ApiKey).values(last_used_at=earlier))
    session.refresh(row)
    before = row.last_used_at
    auth.authenticate(session, key)
    session.refresh(row)

    assert before is not None
    assert row.last_used_at is not None
    assert row.last_used_at > before


def test_a_missing_scope_is_refused_by_name():
    with pytest.raises(NotAllowed, match="jobs:write"):
        principal(Scope.JOBS_READ).require(Scope.JOBS_WRITE)


def test_admin_reads_without_the_scope_for_it():
    principal(Scope.ADMIN).require(Scope.JOBS_READ)


def test_admin_writes_only_with_the_scope_for_it():
    with pytest.raises(NotAllowed):
        principal(Scope.ADMIN).require(Scope.JOBS_WRITE)


def test_admin_reaches_everybodys_jobs():
    assert principal(Scope.ADMIN).reach is None


def test_others_reach_their_own_jobs():
    caller = principal(Scope.JOBS_READ)

    assert caller.reach == caller.owner_id


def test_a_key_can_be_revoked_by_id(session):
    _, row = auth.create(session, Grant(owner="alice"))
    auth.revoke(session, str(row.id))
    session.refresh(row)

    assert row.revoked_at is not None


def test_revoking_needs_one_key_to_be_meant(session):
    auth.create(session, Grant(owner="alice"))
    auth.create(session, Grant(owner="alice"))

    with pytest.raises(InvalidRequest):
        auth.revoke(session, auth.PREFIX)


@pytest.mark.parametrize("which", ["", "%", "stt_live_nothing", str(uuid.UUID(int=1))])
def test_revoking_what_is_not_there_is_refused(session, which):
    auth.create(session, Grant(owner="alice"))

    with pytest.raises(NotFound):
        auth.revoke(session, which)


def test_the_first_start_makes_an_admin_key(sessions, session, tmp_path):
    FirstKeys([], tmp_path / "admin.key").ensure(sessions.begin)
    key = (tmp_path / "admin.key").read_text().strip()

    assert auth.authenticate(session, key).scopes == set(Scope)


def test_the_admin_key_is_for_its_owners_eyes(sessions, tmp_path):
    FirstKeys([], tmp_path / "new" / "admin.key").ensure(sessions.begin)

    assert stat.S_IMODE((tmp_path / "new" / "admin.key").stat().st_mode) == 0o600


def test_nothing_is_left_beside_the_admin_key(sessions, tmp_path):
    FirstKeys([], tmp_path / "admin.key").ensure(sessions.begin)

    assert [path.name for path in tmp_path.iterdir()] == ["admin.key"]


def test_the_admin_key_is_not_logged(sessions, tmp_path, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    FirstKeys([], tmp_path / "admin.key").ensure(sessions.begin)
    key = (tmp_path / "admin.key").read_text().strip()

    assert key not in caplog.text + str([r.__dict__ for r in caplog.records])
    assert key not in capsys.readouterr().out


def test_the_log_says_how_to_see_the_admin_key(sessions, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    FirstKeys([], tmp_path / "admin.key").ensure(sessions.begin)

    assert str(tmp_path / "admin.key") in caplog.records[-1].__dict__["show_it_with"]


def test_starts_at_once_make_one_key(sessions, session, tmp_path):
    starts = [FirstKeys([], tmp_path / f"{number}.key") for number in range(4)]
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda keys: keys.ensure(sessions.begin), starts))

    assert len(auth.everyone(session)) == 1


def test_a_second_start_makes_no_key(sessions, tmp_path):
    FirstKeys([], tmp_path / "admin.key").ensure(sessions.begin)
    before = (tmp_path / "admin.key").read_text()
    FirstKeys([], tmp_path / "admin.key").ensure(sessions.begin)

    assert (tmp_path / "admin.key").read_text() == before


def test_a_revoked_key_is_no_reason_for_a_new_one(sessions, tmp_path):
    with sessions.begin() as session:
        _, row = auth.create(session, Grant(owner="alice"))
        auth.revoke(session, row.prefix)
    FirstKeys([], tmp_path / "admin.key").ensure(sessions.begin)

    assert not (tmp_path / "admin.key").exists()


def test_a_folder_that_cannot_be_written_is_named(sessions, tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match="STATE_DIR"):
        FirstKeys([], tmp_path / "file" / "admin.key").ensure(sessions.begin)


def test_a_key_that_could_not_be_written_down_is_not_kept(sessions, session, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError):
        FirstKeys([], tmp_path / "file" / "admin.key").ensure(sessions.begin)

    assert session.scalars(select(ApiKey)).all() == []


def test_keys_of_the_setting_work(sessions, session, tmp_path):
    FirstKeys([WORDS], tmp_path / "admin.key").ensure(sessions.begin)

    assert auth.authenticate(session, WORDS).scopes == set(Scope)


def test_keys_of_the_setting_spare_the_first_key(sessions, tmp_path):
    FirstKeys([WORDS], tmp_path / "admin.key").ensure(sessions.begin)

    assert not (tmp_path / "admin.key").exists()


def test_keys_of_the_setting_belong_to_admin(sessions, session, tmp_path):
    FirstKeys([WORDS], tmp_path / "admin.key").ensure(sessions.begin)
    owner = session.get(Owner, auth.authenticate(session, WORDS).owner_id)

    assert owner.name == "admin"


def test_a_list_of_keys_shows_nothing_of_the_setting(sessions, session, tmp_path):
    FirstKeys([WORDS], tmp_path / "admin.key").ensure(sessions.begin)
    (row,) = auth.everyone(session)

    assert not set(WORDS.split("-")) & {row.prefix.removeprefix("env_"), row.note}


def test_a_key_taken_from_the_setting_stops_working(sessions, session, tmp_path):
    FirstKeys([WORDS], tmp_path / "admin.key").ensure(sessions.begin)
    FirstKeys(["other-words-of-the-operator"], tmp_path / "admin.key").ensure(sessions.begin)

    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, WORDS)


def test_minted_keys_stay_when_the_setting_changes(sessions, session, tmp_path):
    with sessions.begin() as setup:
        key, _ = auth.create(setup, Grant(owner="alice"))
    FirstKeys([WORDS], tmp_path / "admin.key").ensure(sessions.begin)
    FirstKeys([], tmp_path / "admin.key").ensure(sessions.begin)

    assert auth.authenticate(session, key)


def test_a_revoked_key_of_the_setting_stays_revoked(sessions, session, tmp_path):
    FirstKeys([WORDS], tmp_path / "admin.key").ensure(sessions.begin)
    with sessions.begin() as setup:
        auth.revoke(setup, auth.FROM_SETTING)
    FirstKeys([WORDS], tmp_path / "admin.key").ensure(sessions.begin)

    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, WORDS)


def test_keys_are_entered_once_in_a_process(sessions, session, tmp_path):
    keys = FirstKeys([WORDS], tmp_path / "admin.key")
    keys.ensure(sessions.begin)
    with sessions.begin() as setup:
        setup.execute(text("DELETE FROM api_keys"))
    keys.ensure(sessions.begin)

    assert auth.everyone(session) == []


@pytest.mark.parametrize("key", ["clé-de-l-opérateur", auth.PREFIX + "x" * 49])
def test_a_setting_that_could_never_match_stops_the_start(key, tmp_path):
    with pytest.raises(SettingsError, match="API_KEYS"):
        FirstKeys([key], tmp_path / "admin.key")


def test_without_a_key_there_is_one_owner(session):
    assert auth.anonymous(session).owner_id == auth.anonymous(session).owner_id


def test_without_a_key_nobody_is_admin(session):
    assert not auth.anonymous(session).is_admin
