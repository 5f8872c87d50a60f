"""``Idempotency-Key``: a submission that is sent again makes no second job.

Source: draft-ietf-httpapi-idempotency-key-header. A client that got no answer cannot know whether
its submission arrived; with a key it may send it again until it gets one.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from starlette.datastructures import Headers

from errors import InvalidRequest, SubmissionUnderWay

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
MAX_CHARS: Final = 255
#: Visible ASCII. The draft wants a quoted string, and most clients send it bare: both will do.
KEY: Final = re.compile(rf"[!#-\[\]-~]{{1,{MAX_CHARS}}}")
QUOTED: Final = re.compile(r'"(.*)"')
#: When to ask again after a submission that is on its way.
UNDER_WAY_SECONDS: Final = 5


def key_of(headers: Headers) -> str | None:
    """Find the key of a submission; None where it has none.

    Raises:
        InvalidRequest: It is given twice, or is none that can be kept.
    """
    sent = headers.getlist(HEADER)
    if not sent:
        return None
    quoted = QUOTED.fullmatch(sent[0])
    key = quoted[1] if quoted else sent[0]
    if len(sent) > 1 or not KEY.fullmatch(key):
        raise InvalidRequest(
            f"{HEADER} should stand there once, with 1 to {MAX_CHARS} visible ASCII characters"
            " and none of them a quote or a backslash."
        )
    return key


def fingerprint(said: Mapping[str, str], filename: str, sha256: bytes) -> bytes:
    """Digest all that a submission says, as it says it: defaults may change meanwhile."""
    whole = ["POST /transcribe", sorted(said.items()), filename, sha256.hex()]
    return hashlib.sha256(json.dumps(whole).encode()).digest()


class UnderWay:
    """The keys whose submissions are being received by this process.

    Two that come at once to two processes are both received, and one of them makes the job.
    """

    def __init__(self) -> None:
        self._keys: set[tuple[uuid.UUID, str]] = set()

    @contextmanager
    def hold(self, owner_id: uuid.UUID, key: str | None) -> Iterator[None]:
        """Hold a key while its submission is received; without a key, nothing is held.

        Raises:
            SubmissionUnderWay: Another submission has it.
        """
        if key is None:
            yield
            return
        held = (owner_id, key)
        if held in self._keys:
            raise SubmissionUnderWay(retry_after_seconds=UNDER_WAY_SECONDS)
        self._keys.add(held)
        try:
            yield
        finally:
            self._keys.discard(held)
