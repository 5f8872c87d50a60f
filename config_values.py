"""What the text of a setting means: pure functions that raise ``ValueError`` with what is allowed.

No message holds a value, since many are secret.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from psycopg2 import ProgrammingError
from psycopg2.extensions import make_dsn
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

_DATABASE_FORM: Final = "Input should be postgresql://user:password@host:port/database"
_REDIS_FORM: Final = "Input should be redis://:password@host:port/number, or rediss:// for TLS"
_HOST_FORM: Final = (
    "Input should be names such as example.com, *.example.com or 192.0.2.1,"
    " without scheme, port and path"
)

_ORIGIN_FORM: Final = (
    "Input should be origins such as https://app.example.com or http://localhost:3000, each by name"
)

_ROOT: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)*")
_ROOT_CHARS: Final = 200

#: What may be said of TLS: kombu and redis-py both know it, and take the text alike.
TLS_OPTIONS: Final = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_keyfile",
        "ssl_password",
    }
)
#: By the spelling of it that Python's ssl module and kombu have, and redis-py does not.
_CERT_REQS: Final = {
    **{name: name for name in ("none", "optional", "required")},
    **{f"CERT_{name.upper()}": name for name in ("none", "optional", "required")},
}
_NETWORK_FORM: Final = (
    "Input should be networks such as 10.0.0.0/8 or fd00::/8, without bits beyond the prefix,"
    " or single addresses"
)
#: How to keep something that is never deleted; 0 is no limit here as in every other setting.
FOREVER: Final = frozenset({"forever", "0"})
_DURATION_FORM: Final = (
    "Input should be a number with its unit, such as 90m, 12h, 7d or 4w, or forever"
)
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
_DURATION: Final = re.compile(r"(?P<number>\d{1,8}(?:\.\d{1,6})?) ?(?P<unit>[smhdw])", re.ASCII)
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_HOST_CHARS: Final = 253
_ORIGIN: Final = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(?::(?P<port>\d{{1,5}}))?"
)


def root_path(value: str) -> str:
    """Read a path that stands before ours, without a slash at its end."""
    path = value.strip().rstrip("/")
    if not _ROOT.fullmatch(path) or len(path) > _ROOT_CHARS:
        raise ValueError("Input should be a path such as /stt or /tools/stt")
    return path


def duration(value: str) -> float:
    """Read how long something is kept, in seconds; 0 is for ever.

    A number alone is refused: nobody could tell hours from days.
    """
    wanted = value.strip().lower()
    if wanted in FOREVER:
        return 0.0
    found = _DURATION.fullmatch(wanted)
    if found is None or not float(found["number"]):
        raise ValueError(_DURATION_FORM)
    return float(found["number"]) * _UNITS[found["unit"]]


def names(value: str) -> tuple[str, ...]:
    """Take apart what commas separate."""
    return tuple(item.strip() for item in value.split(",") if item.strip())


def database_url(value: str) -> str:
    """Check a URL of PostgreSQL, options of libpq in its query included."""
    scheme, _, rest = value.partition("://")
    if scheme not in {"postgres", "postgresql", "postgresql+psycopg2"}:
        raise ValueError(_DATABASE_FORM)
    try:
        # SQLAlchemy 2.1 takes plain postgresql:// for psycopg 3, which is not installed.
        url = make_url(f"postgresql+psycopg2://{rest}")
        _, options = url.get_dialect()().create_connect_args(url)
    except (ArgumentError, ValueError):
        raise ValueError(_DATABASE_FORM) from None
    if not _is_known_to_libpq(options):
        raise ValueError(_slip_in(url))
    return f"postgresql+psycopg2://{rest}"


def _is_known_to_libpq(options: Mapping[str, Any]) -> bool:
    try:
        make_dsn(**options)
    except (ProgrammingError, TypeError):
        return False
    return True


def _slip_in(url: URL) -> str:
    wrong = next((name for name in url.query if not _is_known_to_libpq({name: "1"})), "")
    # what follows a question mark in a password looks like an option, too
    if not re.fullmatch(r"[a-z_]{1,32}", wrong):
        return _DATABASE_FORM
    return f"Input should have options of libpq, such as sslmode=require, and not {wrong}"


def redis_url(value: str) -> str:
    """Check a URL for what both kombu and redis-py understand, and alike.

    Neither knows the other's spelling of a socket's URL, and only redis-py takes the database's
    number from the query.
    """
    try:
        parts = urlsplit(value)
        port, options = parts.port, dict(parse_qsl(parts.query))
    except ValueError:
        raise ValueError(_REDIS_FORM) from None
    number = parts.path.removeprefix("/") or "0"
    if parts.scheme not in {"redis", "rediss"} or port == 0 or not number.isdecimal():
        raise ValueError(_REDIS_FORM)
    if parts.fragment:  # of a password with a # in it
        raise ValueError(_REDIS_FORM)
    if options and (parts.scheme == "redis" or options.keys() - TLS_OPTIONS):
        raise ValueError(_REDIS_FORM)
    if parts.scheme == "redis":
        return value
    return f"{value.partition('?')[0]}?{urlencode(_tls(options), safe='/')}"


def _tls(options: dict[str, str]) -> dict[str, str]:
    # without a word of it kombu would look at nobody's certificate
    asked = options.get("ssl_cert_reqs", "required")
    if asked not in _CERT_REQS:
        raise ValueError("Input should have ssl_cert_reqs=none, optional or required")
    # each takes another set of words for no
    if options.get("ssl_check_hostname", "true") not in {"true", "false"}:
        raise ValueError("Input should have ssl_check_hostname=true or false")
    return {**options, "ssl_cert_reqs": _CERT_REQS[asked]}


def host_name(value: str) -> str:
    """Check a pattern for the ``Host`` header, and write it as it stands there."""
    name = value.lower()
    if name == "*" or (_HOST.fullmatch(name) and len(name) <= _HOST_CHARS):
        return name
    try:
        return f"[{ipaddress.IPv6Address(name.removeprefix('[').removesuffix(']'))}]"
    except ValueError:
        raise ValueError(_HOST_FORM) from None


def origin(value: str) -> str:
    """Check an origin, and write it as browsers do."""
    found = _ORIGIN.fullmatch(value.lower().removesuffix("/"))
    if found is None:
        raise ValueError(_ORIGIN_FORM)
    scheme, port = found["scheme"], found["port"]
    usual = {"http": "80", "https": "443"}[scheme]
    return f"{scheme}://{found['host']}" + (f":{port}" if port and port != usual else "")


def network(value: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Read a network, or an address as a network of one."""
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        raise ValueError(_NETWORK_FORM) from None


def proxies(value: str) -> str:
    """Check a network of proxies: not everybody, for anybody could say that they are another."""
    if network(value).prefixlen == 0:
        raise ValueError(_NETWORK_FORM)
    return value


def queues(given: Iterable[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """Bring the names of queues into their order of urgency."""
    # the first version called them transcription.high and so on
    wanted = {name.removeprefix("transcription.") for name in given}
    if not wanted or wanted - {*known}:
        raise ValueError(f"Input should be one or more of {', '.join(known)}")
    return tuple(queue for queue in known if queue in wanted)
