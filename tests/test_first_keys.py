"""The keys of the setting API_KEYS, and the first one of a new installation."""

import logging
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session, sessionmaker

import auth
import keys
from errors import (
    NotAuthenticated,
    SettingsError,
)
from first_keys import FirstKeys
from keys import Grant
from models import ApiKey, Owner, Scope

WORDS = "an-operators-own-words"


@pytest.fixture
def sessions(emptied_engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(emptied_engine, expire_on_commit=False)


@pytest.fixture
def session(sessions: sessionmaker[Session]) -> Iterator[Session]:
    with sessions.begin() as session:
        yield session


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
        list(executor.map(lambda first: first.ensure(sessions.begin), starts))

    assert len(keys.everyone(session)) == 1


def test_a_second_start_makes_no_key(sessions, tmp_path):
    FirstKeys([], tmp_path / "admin.key").ensure(sessions.begin)
    before = (tmp_path / "admin.key").read_text()
    FirstKeys([], tmp_path / "admin.key").ensure(sessions.begin)

    assert (tmp_path / "admin.key").read_text() == before


def test_a_revoked_key_is_no_reason_for_a_new_one(sessions, tmp_path):
    with sessions.begin() as session:
        _, row = keys.create(session, Grant(owner="alice"))
        keys.revoke(session, keys.find_working(session, row.prefix))
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
    (row,) = keys.everyone(session)

    assert not set(WORDS.split("-")) & {row.prefix.removeprefix("env_"), row.note}


def test_a_key_taken_from_the_setting_stops_working(sessions, session, tmp_path):
    FirstKeys([WORDS], tmp_path / "admin.key").ensure(sessions.begin)
    FirstKeys(["other-words-of-the-operator"], tmp_path / "admin.key").ensure(sessions.begin)

    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, WORDS)


def test_minted_keys_stay_when_the_setting_changes(sessions, session, tmp_path):
    with sessions.begin() as setup:
        key, _ = keys.create(setup, Grant(owner="alice"))
    FirstKeys([WORDS], tmp_path / "admin.key").ensure(sessions.begin)
    FirstKeys([], tmp_path / "admin.key").ensure(sessions.begin)

    assert auth.authenticate(session, key)


def test_a_revoked_key_of_the_setting_stays_revoked(sessions, session, tmp_path):
    FirstKeys([WORDS], tmp_path / "admin.key").ensure(sessions.begin)
    with sessions.begin() as setup:
        keys.revoke(setup, keys.find_working(setup, auth.FROM_SETTING), force=True)
    FirstKeys([WORDS], tmp_path / "admin.key").ensure(sessions.begin)

    with pytest.raises(NotAuthenticated):
        auth.authenticate(session, WORDS)


def test_keys_are_entered_once_in_a_process(sessions, session, tmp_path):
    first = FirstKeys([WORDS], tmp_path / "admin.key")
    first.ensure(sessions.begin)
    with sessions.begin() as setup:
        setup.execute(text("DELETE FROM api_keys"))
    first.ensure(sessions.begin)

    assert keys.everyone(session) == []


@pytest.mark.parametrize("key", ["clé-de-l-opérateur", auth.PREFIX + "x" * 49])
def test_a_setting_that_could_never_match_stops_the_start(key, tmp_path):
    with pytest.raises(SettingsError, match="API_KEYS"):
        FirstKeys([key], tmp_path / "admin.key")


def test_calls_without_a_key_do_not_keep_the_first_key_from_being_made(sessions, tmp_path):
    with sessions.begin() as session:
        auth.anonymous(session)
    FirstKeys([], tmp_path / "admin.key").ensure(sessions.begin)

    assert (tmp_path / "admin.key").exists()
