"""Which server, and with which key: kept in one file that only its owner can read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2
import platformdirs

from transcription_client.troubles import NotAllowed, WrongUse

DEFAULT_URL: Final = "http://127.0.0.1:8000"
#: Where nobody listens in.
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Login:
    """A server's address, without a slash at its end, and a key for it; None: it asks for none."""

    url: str
    key: str | None

    @property
    def in_the_clear(self) -> bool:
        """Whether the key goes over a network as everybody can read it."""
        parts = httpx2.URL(self.url)
        return parts.scheme == "http" and parts.host not in LOOPBACK


class Logins:
    """The keys by their servers' addresses, in ``login.json``."""

    def __init__(self, folder: Path | None = None) -> None:
        self._path = (folder or platformdirs.user_config_path("transcription")) / "login.json"

    def find(self, url: str | None, key: str | None) -> Login:
        """What a command is to use, from what it was told and what is kept.

        A kept key is sent to the server that it was given for, and to no other.

        Raises:
            NotAllowed: A server is named, others are kept, and there is no key for this one.
        """
        kept = self._read()
        chosen = clean(url) if url else kept.get("server", DEFAULT_URL)
        keys = kept.get("keys", {})
        if key is None and chosen not in keys and keys:
            raise NotAllowed(f"No key is kept for {chosen}: sign in with `login {chosen}`.")
        return Login(chosen, key or keys.get(chosen))

    def keep(self, login: Login) -> Path:
        """Use this one from now on; returns the file that it is in."""
        kept = self._read()
        keys = {**kept.get("keys", {}), login.url: login.key}
        self._write({"server": login.url, "keys": keys})
        return self._path

    def forget(self, url: str | None) -> str | None:
        """Forget a server, or the one that is used; returns its address, if it was kept."""
        kept = self._read()
        gone = clean(url) if url else kept.get("server")
        keys = kept.get("keys", {})
        if gone not in keys:
            return None
        del keys[gone]
        self._write({"server": next(iter(keys), DEFAULT_URL), "keys": keys} if keys else {})
        return str(gone)

    def _read(self) -> dict[str, Any]:
        try:
            read = json.loads(self._path.read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise WrongUse(f"{self._path} cannot be read: {error}") from None
        if not isinstance(read, dict):
            raise WrongUse(f"{self._path} cannot be read: sign in anew with `login`.")
        return read

    def _write(self, content: dict[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self._path.with_suffix(".new")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
        new.replace(self._path)


def clean(url: str) -> str:
    """The address as it is kept and compared.

    Raises:
        WrongUse: It is none, or holds more than an address.
    """
    given = url if "://" in url else f"http://{url}"
    try:
        parts = httpx2.URL(given)
    except httpx2.InvalidURL:
        parts = httpx2.URL("")
    if parts.scheme not in {"http", "https"} or not parts.host:
        raise WrongUse(f"{url} is no address of a server, such as {DEFAULT_URL}.")
    if parts.userinfo or parts.query or parts.fragment:
        raise WrongUse("The address has only a name, a port and a path; the key is asked for.")
    return str(parts).rstrip("/")
