"""Archives that are sent while they are made."""

import io
import zipfile
from datetime import UTC, datetime, timedelta, timezone

import pytest

from api.archives import Names, zipped

AT = datetime(2026, 11, 22, 18, 30, tzinfo=timezone(timedelta(hours=2)))


def test_what_comes_out_is_what_went_in():
    files = [("a.txt", AT, b"one"), ("ä/b.txt".replace("/", "_"), AT, b"two" * 100_000)]
    archive = zipfile.ZipFile(io.BytesIO(b"".join(zipped(files))))

    assert archive.testzip() is None
    assert [(info.filename, archive.read(info)) for info in archive.infolist()] == [
        (name, content) for name, _, content in files
    ]
    assert archive.infolist()[0].date_time == AT.astimezone(UTC).timetuple()[:6]


def test_nothing_makes_an_empty_archive():
    assert zipfile.ZipFile(io.BytesIO(b"".join(zipped([])))).namelist() == []


def test_each_file_is_sent_before_the_next_is_made():
    made = []

    def files():
        for name in ("a", "b"):
            made.append(name)
            yield name, AT, name.encode()

    chunks = zipped(files())

    assert b"a" in next(chunks)
    assert made == ["a"]


def test_names_are_taken_once_on_every_system():
    names = Names()
    taken = [names.take(stem, ".txt") for stem in ("talk", "Talk", "talk", "talk (2)")]

    assert taken == ["talk.txt", "Talk (2).txt", "talk (3).txt", "talk (2) (2).txt"]


@pytest.mark.security("storage", "a file name that leads out of an archive")
@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("..", "audio.txt"),
        ("../../etc/passwd", "_.._etc_passwd.txt"),
        ("a\\b", "a_b.txt"),
        ("c:x", "c_x.txt"),
        (" . ", "audio.txt"),
        (".hidden", "hidden.txt"),
    ],
)
def test_no_name_leads_anywhere(stem, name):
    assert Names().take(stem, ".txt") == name
