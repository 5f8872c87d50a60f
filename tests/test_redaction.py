"""What is taken out of logs, and what has to stay readable."""

import pytest

import auth
from redaction import make_mask

mask = make_mask()


@pytest.mark.security("logs", "what identifies or opens, in a line of a log")
@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("card 4111 1111 1111 1111 declined", "card [card] declined"),
        ("4111-1111-1111-1111", "[card]"),
        ("amex 378282246310005.", "amex [card]."),
        ("ssn=078-05-1120", "ssn=[ssn]"),
        ("write to jane.doe+x@mail.example.org now", "write to [e-mail] now"),
        ("call +49 30 901820 today", "call [phone] today"),
        ("call (212) 555-0187", "call [phone]"),
        ("212-555-0187", "[phone]"),
        ("+1.212.555.0187", "[phone]"),
        ("Authorization: Bearer abcdefghijkl.mnop", "Authorization: Bearer [token]"),
        ("{'X-API-Key': 'my own words'}", "{'X-API-Key': '[secret]'}"),
        ('{"password": "hunter22"}', '{"password": "[secret]"}'),
        ("GET /jobs/?api_key=abcdefgh&limit=2", "GET /jobs/?api_key=[secret]&limit=2"),
        ("PGPASSWORD=hunter22 psql", "PGPASSWORD=[secret] psql"),
        ("redis://:s3cr3t@redis:6379/0", "redis://:[password]@redis:6379/0"),
        ("postgresql://me:s3cr3t@db/x", "postgresql://me:[password]@db/x"),
    ],
)
def test_what_identifies_or_opens_is_taken_out(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_a_key_of_ours_is_taken_out() -> None:
    assert mask(f"no such key {auth.mint()}!") == "no such key [key]!"


def test_the_shown_part_of_a_key_stays() -> None:
    key = auth.mint()
    shown = key[: len(auth.PREFIX) + auth.SHOWN_CHARS]

    assert mask(f"key={shown}") == f"key={shown}"


@pytest.mark.parametrize(
    "text",
    [
        "12:04:33 INFO    tasks: job completed job_id=019341e2-7c4a-7000-8000-0123456789ab",
        "job_id=01934172-7123-7000-8000-012345678901",
        '{"time": "2026-11-22T23:04:33.123456+00:00", "bytes": 5741324}',
        "free_bytes=1099511627776 ns=1732310448123456787",
        "worker=host-1:4242:9f86d081",
        "listening on 127.0.0.1:8000 and [::1]:8000",
        "postgresql://db:5432/transcription",
        "took 1234567890123456 ns",
        "sha256=21c75168db87098995882002c90e928f11cb7884d2fc4892efaa51d9da7d8212",
        'File "/app/tasks.py", line 212, in run',
        "token_count=1448 tokens: 51865",
        "4111 1111 1111 1112",  # fails the check that cards pass
        "2026-11-22 23:04:33,123",
        "10.0.0.1 - 10.0.0.2",
    ],
)
def test_what_an_operator_needs_stays(text: str) -> None:
    assert mask(text) == text


def test_a_known_secret_is_taken_out_wherever_it_stands() -> None:
    knowing = make_mask(["correct horse battery", "horse", ""])

    assert knowing("x=correct horse battery; a horse") == "x=[secret]; a horse"


def test_the_longer_of_two_secrets_goes_first() -> None:
    assert make_mask(["abcdefgh", "abcdefghijkl"])("abcdefghijkl") == "[secret]"


def test_a_token_of_the_page_is_taken_out() -> None:
    assert make_mask()("the cookie was stt_page_" + "aB-_" * 10) == "the cookie was [token]"
