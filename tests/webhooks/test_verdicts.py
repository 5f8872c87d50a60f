"""What follows a try."""

import itertools

import pytest

from models import DeliveryStatus
from webhooks import verdicts
from webhooks.verdicts import PAUSES, judge


def after(status, *, number=1, headers=None, seconds=5.0, chance=0.0):
    return judge(
        status,
        headers or {},
        round_number=number,
        retry_seconds=seconds,
        chance=lambda: chance,
    )


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_a_2xx_is_enough(status):
    assert after(status).status is DeliveryStatus.DELIVERED


@pytest.mark.parametrize("status", [None, 199, 301, 302, 307, 400, 404, 429, 500, 503])
def test_whatever_else_is_tried_again(status):
    assert after(status).status is DeliveryStatus.PENDING


def test_pauses_grow_for_three_days():
    pauses = [after(500, number=number + 1).pause_seconds for number in range(len(PAUSES))]

    assert pauses == [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]
    assert all(first < second for first, second in itertools.pairwise(pauses))


def test_those_that_failed_together_come_back_apart():
    assert after(500, chance=1.0).pause_seconds == pytest.approx(5 * (1 + verdicts.JITTER))


def test_the_last_try_is_the_last():
    assert after(500, number=len(PAUSES)).status is DeliveryStatus.PENDING
    assert after(500, number=len(PAUSES) + 1).status is DeliveryStatus.FAILED
    assert not after(500, number=len(PAUSES) + 1).gone


def test_gone_is_gone():
    verdict = after(410)

    assert (verdict.status, verdict.gone) == (DeliveryStatus.FAILED, True)


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_receiver_says_when(status):
    assert after(status, headers={"retry-after": " 77 "}).pause_seconds == 77


@pytest.mark.parametrize(
    ("status", "asked", "seconds"),
    [
        (429, "1", 5),  # no sooner than it would be
        (429, "999999999", 86_400),
        (429, "-5", 5),
        (429, "٣٠", 5),
        (429, "Wed, 21 Oct 2015 07:28:00 GMT", 5),
        (500, "77", 5),
    ],
)
def test_and_no_receiver_says_anything_else(status, asked, seconds):
    assert after(status, headers={"retry-after": asked}).pause_seconds == seconds
