"""Calls to addresses that a client named: everything that leaves goes through `Outgoing`.

A name is looked up once, every address of it is judged, and the connection goes to an address that
was judged, so that no answer of a name server can change between the check and the call.
"""

from outgoing.client import Download, Limits, Outgoing, Reply
from outgoing.names import Resolver

__all__ = ["Download", "Limits", "Outgoing", "Reply", "Resolver"]
