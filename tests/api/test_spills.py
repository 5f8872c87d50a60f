"""That the logs of these tests are looked at, and that what is in them would be seen."""

import logging

import pytest

from tests.api import spills
from tests.api.spills import Watcher, spilled

logger = logging.getLogger("api.somewhere")


@pytest.mark.parametrize("extra", [{"name_of_file": "talk.mp3"}, {"said": "it said one two three"}])
def test_a_field_that_spills_is_seen(log_watcher: Watcher, extra: dict[str, str]) -> None:
    logger.info("job submitted", extra=extra)
    seen = log_watcher.spilled.copy()
    log_watcher.spilled.clear()

    assert len(seen) == 1


def test_a_traceback_that_spills_is_seen(log_watcher: Watcher) -> None:
    try:
        int("talk.mp3")
    except ValueError:
        logger.exception("round failed")
    seen = log_watcher.spilled.copy()
    log_watcher.spilled.clear()

    assert len(seen) == 1


def test_a_test_whose_log_spills_fails(log_watcher: Watcher) -> None:
    with spills.watched() as watcher:
        logger.info("key refused", extra={"key": "an-operators-own-words"})
    with pytest.raises(AssertionError, match="key refused"):
        spills.judge(watcher)
    log_watcher.spilled.clear()


@pytest.mark.parametrize(
    "secret", [f"stt_live_{'a1' * 20}", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]
)
def test_a_secret_is_seen_by_its_form(secret: str) -> None:
    assert spilled([f'{{"message": "key {secret} is used"}}'])


def test_what_is_shown_of_a_key_is_no_spill() -> None:
    assert spilled(['{"prefix": "stt_live_a1b2c3"}']) == []


def test_requests_are_among_what_is_looked_at(log_watcher: Watcher, client, alice) -> None:
    client.get("/jobs/", headers=alice)

    assert log_watcher.lines > 0
