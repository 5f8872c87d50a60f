"""What follows a reply, and a try that failed."""

import pytest

from errors import (
    AddressRefused,
    DeadlineExceeded,
    DiskFull,
    OutgoingFailed,
    ServiceError,
    SourceRefused,
    UploadTooLarge,
)
from fetching.verdicts import LONGEST_SECONDS, MOST_FAILURES, judge, require_given, validator


def decide(error, failures=0, *, progressed=False, chance=0.0):
    return judge(
        error,
        failures=failures,
        progressed=progressed,
        retry_seconds=5,
        chance=lambda: chance,
    )


def test_pauses_double_up_to_an_hour():
    pauses = [decide(OutgoingFailed(), n).pause_seconds for n in range(MOST_FAILURES)]

    assert pauses == [5, 10, 20, 40, 80, 160, 320, 640, 1280]
    assert decide(OutgoingFailed(), 1, chance=1.0).pause_seconds == 5


def test_after_the_last_try_it_is_given_up():
    assert decide(OutgoingFailed(), MOST_FAILURES).reason == "attempts_exhausted"
    assert decide(OutgoingFailed(), MOST_FAILURES - 1).reason is None


def test_a_try_that_brought_something_is_the_first_of_a_row():
    verdict = decide(OutgoingFailed(), MOST_FAILURES, progressed=True)

    assert (verdict.reason, verdict.failures, verdict.pause_seconds) == (None, 1, 5)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SourceRefused(), "source_refused"),
        (AddressRefused(), "address_refused"),
        (UploadTooLarge(), "upload_too_large"),
        (DeadlineExceeded(), "deadline"),
    ],
)
def test_what_no_try_can_mend_is_given_up_at_once(error, reason):
    assert decide(error).reason == reason


@pytest.mark.parametrize("error", [ServiceError(), RuntimeError("what nobody foresaw")])
def test_what_nobody_foresaw_is_tried_again(error):
    assert decide(error).failures == 1


def test_what_we_lack_ourselves_is_no_failure():
    assert [decide(DiskFull(), n).failures for n in (0, MOST_FAILURES)] == [0, MOST_FAILURES]
    assert decide(DiskFull(), MOST_FAILURES).reason is None


@pytest.mark.parametrize(
    ("asked", "pause"),
    [("120", 120), ("1", 5), ("9999999", LONGEST_SECONDS), ("tomorrow", 5), ("", 5), ("-1", 5)],
)
def test_a_server_may_ask_for_a_longer_pause(asked, pause):
    with pytest.raises(OutgoingFailed) as caught:
        require_given(503, {"retry-after": asked})

    assert decide(caught.value).pause_seconds == pause


@pytest.mark.parametrize("status", [200, 206])
def test_these_give_the_recording(status):
    require_given(status, {})


@pytest.mark.parametrize(
    ("sent", "etag"),
    [('"a"', '"a"'), (' "a" ', '"a"'), ('W/"a"', None), ("a", None), ("", None), ('"a b"', None)],
)
def test_a_validator_is_strong(sent, etag):
    assert validator({"etag": sent}) == etag


def test_a_validator_is_not_stored_at_any_length():
    assert validator({"etag": '"' + "a" * 5000 + '"'}) is None
    assert validator({}) is None
