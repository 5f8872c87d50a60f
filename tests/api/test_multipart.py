"""The form as it arrives, in pieces of any size."""

from collections.abc import Callable, Collection, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from api import multipart
from api.multipart import FormReader, boundary_of
from errors import ClientError, InvalidRequest

KNOWN = ["language", "metadata"]
FILE = bytes(range(256)) * 40 + b"\r\n--not the boundary\r\n"


def part(name: str, value: bytes, extra: str = "") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return b"--XX\r\n" + disposition.encode() + value + b"\r\n"


def file_part(value: bytes = FILE, filename: str = "a.mp3") -> bytes:
    return part("file", value, f'; filename="{filename}"\r\nContent-Type: audio/mpeg')


def body(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--XX--\r\n"


def reader(
    known: Collection[str] = KNOWN,
    before_file: Callable[[Mapping[str, str]], object] = lambda fields: None,
) -> FormReader:
    return FormReader(b"XX", known=known, before_file=before_file)


def read(data: bytes, step: int = 0) -> tuple[FormReader, bytes]:
    form, received = reader(), b""
    step = step or len(data)
    for start in range(0, len(data), step):
        form.feed(data[start : start + step])
        received += form.take()
    return form, received


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 1000, 10**6])
def test_the_file_arrives_whole_however_it_is_cut(step):
    _, received = read(body(part("language", b"en"), file_part()), step)

    assert received == FILE


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_file_arrives_whole(data, step):
    assert read(body(file_part(data)), step)[1] == data


@pytest.mark.parametrize("step", [1, 5, 10**6])
def test_fields_are_read_before_and_after_the_file(step):
    form, _ = read(body(part("language", b"en"), file_part(), part("metadata", b"{}")), step)

    assert form.fields == {"language": "en", "metadata": "{}"}


def test_the_filename_is_cleaned():
    assert read(body(file_part(filename="../../etc/passwd")))[0].require_end() == "passwd"


def test_a_name_of_5000_characters_is_shortened():
    assert len(read(body(file_part(filename="é" * 5000)))[0].require_end().encode()) <= 255


def test_a_file_needs_no_name():
    assert read(body(part("file", b"sound")))[0].require_end() == "audio"


def test_a_form_without_end_is_refused():
    form, _ = read(body(file_part())[:-8])

    with pytest.raises(ClientError, match="ended"):
        form.require_end()


def test_a_form_without_file_is_refused():
    form, _ = read(body(part("language", b"en")))

    with pytest.raises(InvalidRequest, match="file"):
        form.require_end()


def test_what_follows_the_end_is_ignored():
    assert read(body(file_part()) + b"epilogue")[1] == FILE


def test_two_files_are_refused():
    with pytest.raises(InvalidRequest, match="One file"):
        read(body(file_part(), file_part()))


def test_a_field_given_twice_is_refused():
    with pytest.raises(InvalidRequest, match="more than once"):
        read(body(part("language", b"en"), part("language", b"en")))


@pytest.mark.parametrize("name", ["owner_id", "status", "id", "files", "", "é", "x" * 5000])
def test_an_unknown_field_is_refused_with_the_known_ones(name):
    with pytest.raises(InvalidRequest) as caught:
        read(body(part(name, b"1"), file_part()))

    assert caught.value.data["fields"] == ["file", *KNOWN]


def test_an_unknown_file_is_refused():
    with pytest.raises(InvalidRequest):
        read(body(part("other", b"sound", '; filename="a.mp3"')))


def test_fields_before_the_file_are_looked_at_before_the_file():
    seen: list[dict[str, str]] = []
    form = reader(before_file=lambda fields: seen.append(dict(fields)))
    form.feed(body(part("language", b"en"), file_part())[:-100])

    assert seen == [{"language": "en"}]


def test_a_field_that_is_not_utf8_is_refused():
    with pytest.raises(InvalidRequest, match="UTF-8"):
        read(body(part("language", b"\xff\xfe")))


def test_a_field_of_a_megabyte_is_refused():
    with pytest.raises(InvalidRequest, match="language"):
        read(body(part("language", b"x" * 2**20)))


def test_many_long_fields_are_refused():
    known = [f"field{number}" for number in range(20)]
    form = reader(known=known)

    with pytest.raises(HTTPException) as caught:
        form.feed(body(*(part(name, b"x" * 60_000) for name in known)))
    assert caught.value.status_code == 413


def test_a_long_tail_is_refused():
    form, _ = read(body(file_part()))

    with pytest.raises(HTTPException):
        form.feed(b"x" * (multipart.MAX_OVERHEAD_BYTES + 1))


def test_1500_fields_are_refused():
    known = [f"field{number}" for number in range(1500)]

    with pytest.raises(InvalidRequest, match="too many"):
        reader(known=known).feed(body(*(part(name, b"") for name in known)))


def test_a_part_with_many_headers_is_refused():
    with pytest.raises(ClientError):
        read(body(part("file", b"", "\r\nX-Header: 1" * 5000)))


def test_a_header_of_a_megabyte_is_refused():
    with pytest.raises(ClientError):
        read(body(file_part(filename="x" * 2**20)))


@pytest.mark.parametrize("data", [b"{}", b"--YY\r\n", b"\0" * 100, b"--XX", b"GET / HTTP/1.1\r\n"])
def test_what_is_no_form_is_refused(data):
    with pytest.raises(ClientError):
        read(data)[0].require_end()


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "x"])
def test_an_encoded_part_is_refused(encoding):
    with pytest.raises(InvalidRequest, match="encoding"):
        read(body(part("file", b"", f"\r\nContent-Transfer-Encoding: {encoding}")))


@pytest.mark.parametrize("encoding", ["binary", "8bit", "7BIT"])
def test_a_part_called_plain_is_taken(encoding):
    assert read(body(part("file", b"x", f"\r\nContent-Transfer-Encoding: {encoding}")))[1] == b"x"


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/json",
        "application/x-www-form-urlencoded",
        "audio/mpeg",
        "multipart/mixed",
    ],
)
def test_another_media_type_is_refused(content_type):
    with pytest.raises(HTTPException) as caught:
        boundary_of(content_type)
    assert caught.value.status_code == 415


@pytest.mark.parametrize(
    "parameters", ["", "; boundary=", '; boundary=""', "; boundary=" + "x" * 71, "; boundary=é"]
)
def test_a_form_without_a_boundary_is_refused(parameters):
    with pytest.raises(ClientError):
        boundary_of("multipart/form-data" + parameters)


def test_a_quoted_boundary_is_read():
    assert boundary_of('Multipart/Form-Data; boundary="a b"') == b"a b"
