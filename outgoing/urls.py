"""What a URL that may be called looks like: one strict form, so that no two readers differ.

Everything that browsers, libraries and name servers are known to read in different ways is refused:
user names, backslashes, numbers as host names, zone ids, control characters.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final
from urllib.parse import quote

import idna

from errors import AddressRefused

_MAX_CHARS: Final = 2048
_MAX_HOST_CHARS: Final = 253
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}

#: RFC 3986, with a host that may hold letters of other scripts; [0-9], since \d matches digits
#: of every script.
_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?P<authority>[^/?#]*)"
    r"(?P<path>/[^?#]*)?"
    r"(?P<query>\?[^#]*)?"
    r"(?:#.*)?"
)
_AUTHORITY: Final = re.compile(
    r"(?:\[(?P<number>[0-9A-Fa-f:.]+)\]|(?P<name>[^\s:@%\[\]\\]+))(?::(?P<port>[0-9]{1,5}))?"
)
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
#: Where a name ends so, some take it for an IPv4 address: 2130706433, 0x7f.1, 0177.0.0.1.
_NUMBER_LIKE: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
#: What stands in a path or query as it is; the rest of ASCII has no place there.
_AS_IT_IS: Final = "-._~!$&'()*+,;=:@/?%"


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that was read; str() is its canonical form."""

    scheme: str
    #: Lower-case ASCII without a final dot; an IPv6 address without brackets.
    host: str
    port: int
    #: Path and query, as they are sent.
    path: str

    @property
    def is_number(self) -> bool:
        """Whether the host is an address, so that there is no name to look up."""
        return ":" in self.host or _NUMBER_LIKE.fullmatch(self.host) is not None

    @property
    def authority(self) -> str:
        """The header ``Host``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


def parse(url: str, *, allow_http: bool, ports: Collection[int]) -> Target:
    """Read a URL.

    Args:
        ports: Which may be called; those that plain HTTP and HTTPS have must be named as well.

    Raises:
        AddressRefused: It is none that may be called; the message says why.
    """
    if len(url) > _MAX_CHARS:
        raise AddressRefused(f"The URL is longer than {_MAX_CHARS} characters.")
    if not url.isprintable():
        raise AddressRefused("The URL holds a character that cannot be seen.")
    if (parts := _URL.fullmatch(url)) is None:
        raise AddressRefused("The URL must be https://, a host and a path.")
    scheme = parts["scheme"].lower()
    if scheme != "https" and not (scheme == "http" and allow_http):
        raise AddressRefused(f"The URL must begin with {'http:// or ' * allow_http}https://.")
    authority = _AUTHORITY.fullmatch(parts["authority"])
    if authority is None:
        raise AddressRefused("The URL must have a host, perhaps a port, and nothing beside them.")
    port = int(authority["port"] or _DEFAULT_PORTS[scheme])
    if port not in ports:
        raise AddressRefused(f"The URL's port must be {' or '.join(map(str, sorted(ports)))}.")
    host = _number(authority["number"]) if authority["number"] else _name(authority["name"])
    return Target(scheme, host, port, _path(parts["path"] or "/") + _path(parts["query"] or ""))


def _number(text: str) -> str:
    try:
        return IPv6Address(text).compressed
    except AddressValueError:
        raise AddressRefused("The URL's host is no IPv6 address.") from None


def _name(text: str) -> str:
    name = _ascii(text).lower().removesuffix(".")
    if len(name) > _MAX_HOST_CHARS or not _NAME.fullmatch(name):
        raise AddressRefused("The URL's host is no name.")
    if _NUMBER_LIKE.fullmatch(name):
        try:
            return str(IPv4Address(name))
        except AddressValueError:
            raise AddressRefused("The URL's host is a number, and no IPv4 address.") from None
    return name


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    try:
        # by IDNA 2008 itself, without the mapping that makes 1 of ①
        return idna.encode(text.lower()).decode("ascii")
    except idna.IDNAError:
        raise AddressRefused("The URL's host is no name.") from None


def _path(text: str) -> str:
    if any(char.isascii() and not (char.isalnum() or char in _AS_IT_IS) for char in text):
        raise AddressRefused("The URL holds a character that must be written as %XX.")
    return quote(text, safe=_AS_IT_IS)
