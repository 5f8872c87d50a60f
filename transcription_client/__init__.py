"""The command line for a transcription service that runs somewhere: sends, waits, fetches, watches.

It knows the service by its HTTP alone, imports nothing of its code, and is a wheel of its own.
"""

from __future__ import annotations

from typing import Final

VERSION: Final = "3.0.0"
