"""Loaded by schemathesis itself: how it is to send what it does not know."""

import schemathesis

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
