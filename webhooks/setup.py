"""What the settings make of webhooks, alike in every process."""

from __future__ import annotations

from config import Settings
from outgoing import Limits, Outgoing
from webhooks import signing
from webhooks.signing import Secrets


def make_outgoing(settings: Settings, limits: Limits | None = None) -> Outgoing:
    """What calls addresses that clients named, by the operator's rules."""
    return Outgoing(
        limits=limits,
        allow=settings.outgoing_allowed_networks,
        allow_http=settings.outgoing_allow_http,
        ports=settings.outgoing_ports,
    )


def make_secrets(settings: Settings) -> Secrets:
    """The secrets of webhooks, from the setting or from the state folder's file.

    Raises:
        SettingsError: There is neither, and none can be made.
    """
    if settings.webhook_signing_key is not None:
        return Secrets(settings.webhook_signing_key.get_secret_value())
    return Secrets(signing.key_in(settings.state_dir.expanduser().absolute() / signing.KEY_FILE))
