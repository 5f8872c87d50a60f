"""How much of us one connection may take, and how many there may be."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

#: Kept free for whoever asks from this machine: probes, when everything else is taken.
SPARE: Final = 8
#: Connections beyond the limits that are told so; further ones are cut without a word.
REFUSALS: Final = 64
#: What one subscriber is commonly given: more addresses than anybody could count one by one.
SUBSCRIBER_BITS: Final = 64

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a connection may take."""

    #: From the first byte of a request, or from the beginning, to the end of the head.
    head_seconds: float = 10.0
    #: An answer of which too little is taken for so long is cut.
    stall_seconds: float = 60.0
    #: How slowly an answer may be taken.
    least_bytes_per_second: float = 500.0
    #: How long a refused client is listened to, so that it reads why.
    linger_seconds: float = 2.0
    max_head_bytes: int = 32 * 1024
    max_headers: int = 100
    #: Requests that were sent before the one in front of them is answered.
    max_pipelined: int = 16
    max_connections: int = 400
    max_per_address: int = 100


class Verdict(Enum):
    """What becomes of a new connection."""

    WELCOME = auto()
    #: There are too many from its address.
    TOO_MANY = auto()
    #: There are too many in all.
    FULL = auto()
    #: There are so many that it is not even told.
    CUT = auto()


class Door:
    """Counts who is in. Proxies bring many clients, so only the whole is limited for them.

    Args:
        proxies: Their addresses and networks.
    """

    def __init__(self, limits: Limits, proxies: Collection[str] = ()) -> None:
        self._limits = limits
        self._proxies = [ipaddress.ip_network(proxy, strict=False) for proxy in proxies]
        self._inside: Counter[str] = Counter()
        self._refused = 0

    def enter(self, address: str | None) -> Verdict:
        """Let a connection in or not; ``leave`` with what this said when it has ended.

        Args:
            address: None for a socket in the file system.
        """
        verdict = self._judge(_parsed(address))
        if verdict is Verdict.WELCOME:
            self._inside[party(address)] += 1
        elif verdict is not Verdict.CUT:
            self._refused += 1
        return verdict

    def leave(self, address: str | None, verdict: Verdict) -> None:
        if verdict is Verdict.WELCOME:
            guest = party(address)
            self._inside[guest] -= 1
            if not self._inside[guest]:
                del self._inside[guest]
        elif verdict is not Verdict.CUT:
            self._refused -= 1

    def _judge(self, address: IPv4Address | IPv6Address | None) -> Verdict:
        near = address is None or address.is_loopback
        room = self._limits.max_connections + (SPARE if near else 0)
        if self._inside.total() >= room:
            return self._refusal(Verdict.FULL)
        if near or any(address in network for network in self._proxies):
            return Verdict.WELCOME
        if self._inside[party(str(address))] >= self._limits.max_per_address:
            return self._refusal(Verdict.TOO_MANY)
        return Verdict.WELCOME

    def _refusal(self, verdict: Verdict) -> Verdict:
        return verdict if self._refused < REFUSALS else Verdict.CUT


def _parsed(address: str | None) -> IPv4Address | IPv6Address | None:
    if address is None:
        return None
    # a link-local address may name its interface
    found = ipaddress.ip_address(address.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


def party(address: str | None) -> str:
    """Who counts as one: an IPv4 address, or the network of an IPv6 one."""
    found = _parsed(address)
    if isinstance(found, IPv6Address):
        return str(ipaddress.ip_network((found, SUBSCRIBER_BITS), strict=False))
    return str(found)
