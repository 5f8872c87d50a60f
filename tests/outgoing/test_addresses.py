"""Which numbers may be called."""

from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outgoing.addresses import AddressRule, is_public

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.215.14",
    "100.63.255.255",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "223.255.255.255",
    "2001:200::1",
    "2001:4860:4860::8888",
    "2606:4700::1111",
    "2a00:1450::1",
]
REFUSED = [
    # loopback, and what systems take for it
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "127.0.0.1",
    "127.255.255.254",
    "::",
    "::1",
    # networks of somebody's own
    "10.0.0.1",
    "100.64.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "fc00::1",
    "fd12:3456::1",
    "fec0::1",
    # link-local
    "169.254.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1111%eth0",
    # services of clouds that hand out credentials
    "169.254.169.254",
    "169.254.170.2",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::a9fe:a9fe",
    # many at once
    "224.0.0.1",
    "239.255.255.255",
    "255.255.255.255",
    "ff02::1",
    "ff0e::1",
    # kept for something
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "240.0.0.1",
    "100::1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    # one address that another hides in, here or behind a translator
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::808:808",
    "64:ff9b:1::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2002:808:808::1",
    "2001:0:7f00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2606:4700::5efe:7f00:1",
    "2606:4700::200:5efe:a9fe:a9fe",
]


def rule(*listed: str) -> AddressRule:
    return AddressRule(tuple(ip_network(text) for text in listed))


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_internet_may_be_called(address: str) -> None:
    assert rule().permits(ip_address(address))


@pytest.mark.security("address", "an address that is not the public internet's")
@pytest.mark.parametrize("address", REFUSED)
def test_everything_else_may_not(address: str) -> None:
    assert not rule().permits(ip_address(address))


@given(st.ip_addresses())
def test_what_is_public_is_so_for_python_as_well(address: IPv4Address) -> None:
    if is_public(address):
        assert address.is_global
        assert not address.is_multicast
        assert not address.is_reserved


@pytest.mark.parametrize("prefix", ["64:ff9b::", "::ffff:", "::ffff:0:", "::"])
@given(address=st.ip_addresses(v=4))
def test_no_address_hides_in_another(prefix: str, address: IPv4Address) -> None:
    assert not rule().permits(ip_address(f"{prefix}{address}"))


@pytest.mark.parametrize(
    ("listed", "address"),
    [
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("100.64.0.0/10", "100.101.102.103"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("fd00::/8", "fd12::1"),
        ("64:ff9b::/96", "64:ff9b::808:808"),
        ("169.254.169.254", "169.254.169.254"),
        ("fd00:ec2::254", "fd00:ec2::254"),
        ("168.63.129.16", "168.63.129.16"),
    ],
)
def test_what_is_listed_may_be_called(listed: str, address: str) -> None:
    assert rule(listed).permits(ip_address(address))


@pytest.mark.parametrize(
    ("listed", "address"),
    [
        ("10.0.0.0/8", "192.168.0.1"),
        ("10.0.0.0/8", "::ffff:10.1.2.3"),
        ("10.0.0.0/8", "64:ff9b::a00:1"),
        ("fd00::/8", "fd00::1%eth0"),
    ],
)
def test_listing_one_network_opens_no_other(listed: str, address: str) -> None:
    assert not rule(listed).permits(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "169.254.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "100.100.100.200",
        "fe80::a9fe:a9fe",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "2002:a9fe:a9fe::",
        "2606:4700::5efe:a9fe:a9fe",
    ],
)
def test_what_hands_out_credentials_must_be_listed_by_itself(address: str) -> None:
    everything = ("0.0.0.0/0", "169.254.0.0/16", "::/0", "fe80::/10", "64:ff9b::/96")

    assert not rule(*everything).permits(ip_address(address))


def test_behind_a_listed_translator_the_same_rule_holds() -> None:
    assert not rule("64:ff9b::/96").permits(ip_address("64:ff9b::a00:1"))
    assert rule("64:ff9b::/96", "10.0.0.0/8").permits(ip_address("64:ff9b::a00:1"))


@pytest.mark.parametrize("found", [["8.8.8.8", "10.0.0.1"], ["10.0.0.1", "8.8.8.8"], ["8.8.8"]])
def test_one_bad_address_spoils_a_name(found: list[str]) -> None:
    assert not rule().permits_all(found)
