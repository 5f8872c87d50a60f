"""Names of files, as sent and as shown."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import filenames


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"speech.mp3", "speech.mp3"),
        (b"../../etc/passwd", "passwd"),
        (b"/etc/passwd", "passwd"),
        (b"..\\..\\win.ini", "win.ini"),
        (b"C:\\Users\\me\\a.wav", "a.wav"),
        (b"a\x00b.mp3", "ab.mp3"),
        (b"a\r\nX-Evil: 1.mp3", "aX-Evil: 1.mp3"),
        (b"a%0D%0Ab.mp3", "ab.mp3"),
        (b"say %22hi%22.mp3", 'say "hi".mp3'),
        (b"-i.mp3", "-i.mp3"),
        ("\u202egnp.mp3".encode(), "gnp.mp3"),
        (b"a;b$(id).mp3", "a;b$(id).mp3"),
        (b"http://127.0.0.1/x.mp3", "x.mp3"),
        (b"concat:a|b", "concat:a|b"),
        (b".htaccess", ".htaccess"),
        (b"CON.mp3", "CON.mp3"),
        (b"", "audio"),
        (b"   ", "audio"),
        (b"..", "audio"),
        (b"uploads/", "audio"),
        ("cafe\u0301.mp3".encode(), "caf\u00e9.mp3"),
        (b"caf\xe9.mp3", "café.mp3"),
        ("a\u200cb.mp3".encode(), "a\u200cb.mp3"),  # the non-joiner, which Persian needs
        ("\U0001f469\u200d\U0001f680".encode(), "\U0001f469\u200d\U0001f680"),
    ],
)
def test_a_name_is_shown_as(sent, shown):
    assert filenames.clean(sent) == shown


def test_a_long_name_keeps_its_suffix():
    assert filenames.clean(b"a" * 5000 + b".flac") == "a" * 250 + ".flac"


def test_a_long_suffix_is_none():
    assert filenames.clean(b"a." + b"b" * 5000) == "a." + "b" * 253


def test_a_character_is_not_cut_in_two():
    assert filenames.clean("é".encode() * 5000) == "é" * 127


@given(st.binary(max_size=600))
def test_any_bytes_give_a_name_to_show(sent):
    shown = filenames.clean(sent)

    assert 0 < len(shown.encode()) <= 255
    assert "/" not in shown
    assert not any(unicodedata.category(c) in {"Cc", "Cs"} for c in shown)


@pytest.mark.parametrize(
    ("name", "stem"), [("a.mp3", "a"), ("a", "a"), ("a.b.mp3", "a.b"), (".htaccess", ".htaccess")]
)
def test_a_stem_is_what_comes_before_the_suffix(name, stem):
    assert filenames.stem(name) == stem
