"""From what was typed or kept to a server that can be asked."""

from __future__ import annotations

import typer

from transcription_client.display import Display
from transcription_client.logins import Login, Logins
from transcription_client.server import Server
from transcription_client.words import plain


def open_server(login: Login, display: Display | None = None) -> Server:
    """A server that tells the display, or standard error, why something takes so long."""
    told = display.say if display else lambda sentence: typer.echo(plain(sentence), err=True)
    return Server(login, told=told)


def connect(url: str | None, key: str | None, display: Display | None = None) -> Server:
    """The server and key that were typed, or those that are kept."""
    return open_server(Logins().find(url, key), display)
