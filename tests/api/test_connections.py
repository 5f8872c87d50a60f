"""Who is let in, and who is not."""

import pytest

from api.connections import REFUSALS, SPARE, Door, Limits, Verdict

WELCOME, TOO_MANY, FULL, CUT = Verdict


def door(*, proxies: tuple[str, ...] = (), in_all: int = 100, each: int = 2) -> Door:
    return Door(Limits(max_connections=in_all, max_per_address=each), proxies)


@pytest.mark.security("http", "many connections from one address")
@pytest.mark.parametrize(
    ("addresses", "verdicts"),
    [
        (["192.0.2.1"] * 3, [WELCOME, WELCOME, TOO_MANY]),
        (["192.0.2.1", "192.0.2.1", "192.0.2.2"], [WELCOME] * 3),
        (["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"], [WELCOME, WELCOME, TOO_MANY]),
        (["2001:db8::1", "2001:db8::2", "2001:db8::ffff:3"], [WELCOME, WELCOME, TOO_MANY]),
        (["2001:db8::1", "2001:db8::2", "2001:db8:0:1::3"], [WELCOME] * 3),
        (["fe80::1%eth0", "fe80::2%eth0", "fe80::3%eth0"], [WELCOME, WELCOME, TOO_MANY]),
        (["127.0.0.1"] * 4, [WELCOME] * 4),
        ([None] * 4, [WELCOME] * 4),
    ],
)
def test_an_address_may_come_so_often(addresses, verdicts):
    entrance = door()

    assert [entrance.enter(address) for address in addresses] == verdicts


@pytest.mark.parametrize("proxy", ["10.0.0.7", "10.0.0.0/8", "10.0.0.9/8"])
def test_a_proxy_brings_as_many_as_it_likes(proxy):
    entrance = door(proxies=(proxy,))

    assert {entrance.enter("10.0.0.7") for _ in range(50)} == {WELCOME}


def test_a_proxy_does_not_bring_more_than_there_is_room_for():
    entrance = door(proxies=("10.0.0.0/8",), in_all=5)

    assert [entrance.enter("10.0.0.7") for _ in range(6)] == [WELCOME] * 5 + [FULL]


@pytest.mark.parametrize("near", ["127.0.0.1", "::1", None])
def test_there_is_room_to_spare_for_this_machine(near):
    entrance = door(in_all=2)
    entrance.enter("192.0.2.1")
    entrance.enter("192.0.2.2")

    assert entrance.enter("192.0.2.3") is FULL
    assert [entrance.enter(near) for _ in range(SPARE + 1)] == [WELCOME] * SPARE + [FULL]


def test_who_leaves_makes_room():
    entrance = door()
    for _ in range(10):
        entrance.leave("192.0.2.1", entrance.enter("192.0.2.1"))

    assert entrance.enter("192.0.2.1") is WELCOME


def test_who_was_refused_makes_no_room():
    entrance = door()
    verdicts = [entrance.enter("192.0.2.1") for _ in range(3)]
    entrance.leave("192.0.2.1", verdicts[2])

    assert entrance.enter("192.0.2.1") is TOO_MANY


def test_so_many_are_told_and_the_rest_is_cut():
    entrance = door(in_all=1)
    verdicts = [entrance.enter(f"192.0.2.{number}") for number in range(REFUSALS + 2)]

    assert verdicts == [WELCOME] + [FULL] * REFUSALS + [CUT]


def test_who_was_told_makes_room_for_others_to_be_told():
    entrance = door(in_all=1)
    verdicts = [entrance.enter("192.0.2.1") for _ in range(REFUSALS + 1)]
    entrance.leave("192.0.2.1", verdicts[-1])

    assert entrance.enter("192.0.2.1") is FULL
