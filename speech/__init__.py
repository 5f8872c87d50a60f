"""Bytes of media in, a transcript out, text out: a library that knows no database and no HTTP."""
