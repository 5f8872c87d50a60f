"""Reading a multipart form as it arrives: a few small fields, and one file of any size.

Starlette's own form parser spools the whole body first. This one hands the file's bytes on as
they come, so an upload is hashed and written while it is received, and capped while it is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

from api import filenames
from api.errors import invalid
from errors import ClientError, InvalidRequest

FORM_DATA: Final = b"multipart/form-data"
FILE_FIELD: Final = "file"
MAX_PARTS: Final = 24
MAX_HEADERS_EACH: Final = 8
#: A name of 5,000 characters fits; it is shortened later.
MAX_HEADER_BYTES: Final = 32 * 1024
MAX_FIELD_BYTES: Final = 64 * 1024
#: Everything that is not the file: the other fields, headers, boundaries.
MAX_OVERHEAD_BYTES: Final = 256 * 1024
#: RFC 2046, section 5.1.1
BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
PLAIN_ENCODINGS: Final = {b"", b"7bit", b"8bit", b"binary"}


def boundary_of(content_type: str | None) -> bytes:
    """Find the boundary in a Content-Type.

    Raises:
        HTTPException: 415, it is no multipart form.
        ClientError: It names no boundary that can be.
    """
    kind, options = parse_options_header(content_type)
    if kind != FORM_DATA:
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Send the file as multipart/form-data."
        )
    boundary = options.get(b"boundary", b"")
    if not BOUNDARY.fullmatch(boundary):
        raise ClientError("The Content-Type has no boundary that can be used.")
    return boundary


class FormReader:
    """Takes the body in pieces; keeps the fields and gives the file's bytes on.

    Args:
        file_field: Name of the part that is the file.
        known: Names of the fields that there are, beside the file's; None: any will do, and one
            that comes again is joined to what it said before with a comma.
        before_file: Called with the fields that came before the file, before a byte of it is
            kept: whatever is wrong with them is known in time.
    """

    def __init__(
        self,
        boundary: bytes,
        *,
        file_field: str = FILE_FIELD,
        known: Collection[str] | None,
        before_file: Callable[[Mapping[str, str]], object],
    ) -> None:
        self.fields: dict[str, str] = {}
        #: As shown; None until the file's part has begun.
        self.filename: str | None = None
        #: Whether the form's end was seen.
        self.complete = False
        #: Bytes of the file that were not taken yet.
        self.waiting_bytes = 0
        self._file_field = file_field
        self._known = known
        self._before_file = before_file
        self._chunks: list[bytes] = []
        self._overhead_bytes = 0
        self._parts = 0
        self._part = _Part()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
            max_header_count=MAX_HEADERS_EACH,
            max_header_size=MAX_HEADER_BYTES,
        )

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body.

        Raises:
            ClientError: The body is no multipart form, or one of its fields is wrong.
            HTTPException: 413, there is too much beside the file.
        """
        self._overhead_bytes += len(data)
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise ClientError("The body is not a multipart form that can be read.") from error
        if self._overhead_bytes > MAX_OVERHEAD_BYTES:
            raise HTTPException(413, "The form holds too much beside its file.")

    def take(self) -> bytes:
        """Take the file's bytes that came since the last time."""
        data = b"".join(self._chunks)
        self._chunks.clear()
        self.waiting_bytes = 0
        return data

    def require_end(self) -> str:
        """Make sure that the form is whole; returns the file's name.

        Raises:
            ClientError: The body ended too early.
            InvalidRequest: It has no file in it.
        """
        self.require_whole()
        if self.filename is None:
            raise invalid(self._file_field, "missing", "A file is needed.")
        return self.filename

    def require_whole(self) -> None:
        """Make sure that the form is whole, whatever is in it.

        Raises:
            ClientError: The body ended too early.
        """
        if not self.complete:
            raise ClientError("The body ended before the form did.")

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidRequest("The form has too many fields.")
        self._part = _Part()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._part.header_name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def _header_end(self) -> None:
        self._part.add_header()

    def _headers_finished(self) -> None:
        part = self._part
        part.name = self._name_of(part)
        if part.headers.get(b"content-transfer-encoding", b"").strip().lower() not in (
            PLAIN_ENCODINGS
        ):
            raise invalid(part.name, "encoding", "Its transfer encoding is not supported.")
        if part.name == self._file_field:
            self.filename = filenames.clean(part.option(b"filename"))
            self._before_file(self.fields)

    def _name_of(self, part: _Part) -> str:
        name = part.option(b"name").decode(errors="replace")
        if name == self._file_field:
            if self.filename is not None:
                raise invalid(self._file_field, "too_many", "One file at a time.")
        elif self._known is None:
            pass
        elif name not in self._known:
            raise InvalidRequest(
                "The form has a field that does not exist.", fields=[self._file_field, *self._known]
            )
        elif name in self.fields:
            raise invalid(name, "too_many", "It is given more than once.")
        return name

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part.name == self._file_field:
            self._overhead_bytes -= end - start
            self.waiting_bytes += end - start
            # the whole of a bytes object is not copied
            self._chunks.append(data[start:end])
            return
        self._part.value += data[start:end]
        if len(self._part.value) > MAX_FIELD_BYTES:
            raise invalid(self._part.name, "too_long", f"It may have {MAX_FIELD_BYTES} bytes.")

    def _end(self) -> None:
        if self._part.name == self._file_field:
            return
        name = self._part.name
        try:
            value = self._part.value.decode()
        except UnicodeDecodeError:
            raise invalid(name, "encoding", "It should be UTF-8.") from None
        self.fields[name] = f"{self.fields[name]},{value}" if name in self.fields else value

    def _finish(self) -> None:
        self.complete = True


class _Part:
    """One part of the form while it is read."""

    def __init__(self) -> None:
        self.name = ""
        self.value = bytearray()
        self.header_name = bytearray()
        self.header_value = bytearray()
        self.headers: dict[bytes, bytes] = {}

    def add_header(self) -> None:
        self.headers[bytes(self.header_name).lower()] = bytes(self.header_value)
        self.header_name.clear()
        self.header_value.clear()

    def option(self, name: bytes) -> bytes:
        """A parameter of the part's Content-Disposition; empty where there is none."""
        _, options = parse_options_header(self.headers.get(b"content-disposition"))
        return options.get(name, b"")
