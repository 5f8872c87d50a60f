"""A real PostgreSQL and a real Valkey from wheels, for whoever has not set up their own.

We run the wheels' programs and never import the wheels' Python: a server outlives whoever
started it, is found again by its next user, and ends with its last one.
"""

from local_servers.postgres import PostgresServer
from local_servers.valkey import ValkeyServer

__all__ = ["PostgresServer", "ValkeyServer"]
