"""Which addresses may be called: pure functions on numbers.

Python's own ``is_global`` is no such rule: it calls multicast, site-local and translated addresses
global, and other ones in other versions.

Source: IANA's special-purpose address registries for IPv4 and IPv6, and RFC 6052, 6890, 8215.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: Everything of IPv4 that is not the public internet.
_NOT_PUBLIC: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
#: All that is public of IPv6 lies in here, ...
_PUBLIC: Final = IPv6Network("2000::/3")
#: ... but for protocols' own (Teredo among them), documentation, and 6to4.
_NOT_PUBLIC_IN_IT: Final = tuple(
    IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)

#: Only an operator who names such an address by itself can mean it. A larger network is listed for
#: the machines in it; these are services of the cloud's that give out its credentials, link-local
#: ones above all, and addresses that a translator or a tunnel turns into others.
_NAMED_ALONE: Final[tuple[Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",
        "168.63.129.16",  # Azure's host, public by its number
        "100.100.100.200",  # Alibaba Cloud
        "192.0.0.192",  # Oracle Cloud
        "fe80::/10",
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS, credentials of pods
        "fd20:ce::254",  # Google Cloud
        "::/96",  # IPv4-compatible; also :: and ::1
        "::ffff:0:0/96",  # IPv4-mapped
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b:1::/48",  # NAT64 of somebody's own: where the IPv4 address stands is unknown
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
    )
)
#: NAT64. On networks without IPv4 it is the only way to it, and may be listed as a whole.
_NAT64: Final = IPv6Network("64:ff9b::/96")
#: The interface identifiers of ISATAP, a tunnel to the IPv4 address behind them.
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})


@dataclass(frozen=True, slots=True)
class AddressRule:
    """The public internet, and what an operator has listed beside it."""

    listed: tuple[Network, ...] = ()

    def permits(self, address: Address) -> bool:
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return False
        if any(_is_single(network) and address in network for network in self.listed):
            return True
        if _is_in(address, _NAMED_ALONE) or _is_tunnel(address):
            return False
        if address in _NAT64:
            behind = IPv4Address(int(address) & 0xFFFFFFFF)
            return _is_in(address, self.listed) and self.permits(behind)
        return is_public(address) or _is_in(address, self.listed)

    def permits_all(self, addresses: Iterable[str]) -> bool:
        """Whether each may be called; text that is no address may not."""
        try:
            return all(self.permits(ip_address(text)) for text in addresses)
        except ValueError:
            return False


def is_public(address: Address) -> bool:
    """Whether anybody on the internet would reach the same machine by that address."""
    if isinstance(address, IPv4Address):
        return not _is_in(address, _NOT_PUBLIC)
    return address in _PUBLIC and not _is_in(address, _NOT_PUBLIC_IN_IT)


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _is_single(network: Network) -> bool:
    return network.num_addresses == 1


def _is_tunnel(address: Address) -> bool:
    return isinstance(address, IPv6Address) and int(address) >> 32 & 0xFFFFFFFF in _ISATAP
