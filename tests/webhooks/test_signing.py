"""Signatures that receivers' own libraries verify, and secrets that are stored nowhere."""

import base64
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from openai import OpenAI
from standardwebhooks import Webhook, WebhookVerificationError

from errors import SettingsError
from webhooks import signing
from webhooks.signing import Secrets

BODY = '{"type":"job.completed","data":{"text":"é"}}'
ID = uuid.UUID(int=7)
SECRET = Secrets("a key").of(ID, 1)


def test_the_library_of_the_standard_verifies() -> None:
    said = Webhook(SECRET).verify(BODY, signing.headers(ID, BODY, [SECRET]))

    assert said["type"] == "job.completed"


def test_the_sdk_of_openai_verifies() -> None:
    client = OpenAI(api_key="none", webhook_secret=SECRET)

    client.webhooks.verify_signature(BODY, signing.headers(ID, BODY, [SECRET]))


@pytest.mark.security("webhooks", "a message that was changed")
@pytest.mark.parametrize(
    "changed",
    [
        {"body": BODY + " "},
        {"webhook-id": str(uuid.UUID(int=8))},
        {"webhook-timestamp": "1"},
        {"webhook-signature": "v1,AAAA"},
    ],
)
def test_whatever_is_changed_is_noticed(changed: dict[str, str]) -> None:
    sent = {"body": BODY, **signing.headers(ID, BODY, [SECRET]), **changed}

    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(sent.pop("body"), sent)


@pytest.mark.security("webhooks", "a message that is sent again later")
def test_an_old_message_is_refused() -> None:
    at = datetime.now(UTC) - timedelta(minutes=10)

    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, signing.headers(ID, BODY, [SECRET], at=at))


def test_both_secrets_verify_while_one_takes_over() -> None:
    old, new = (Secrets("a key").of(ID, generation) for generation in (1, 2))
    sent = signing.headers(ID, BODY, [new, old])

    assert Webhook(old).verify(BODY, sent) == Webhook(new).verify(BODY, sent)


def test_a_secret_has_as_many_bytes_as_the_standard_asks_for() -> None:
    assert len(base64.b64decode(SECRET.removeprefix("whsec_"))) == 32


def test_no_two_secrets_are_alike() -> None:
    found = {
        Secrets(key).of(uuid.UUID(int=number), generation)
        for key in ("one", "two")
        for number in (1, 2)
        for generation in (1, 2)
    }

    assert len(found) == 8


def test_the_same_key_gives_the_same_secret() -> None:
    assert Secrets("a key").of(ID, 1) == SECRET


# The service's own key


def test_the_first_to_come_makes_the_key_and_the_next_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "webhook.key"
    made = signing.key_in(path)

    assert len(made) == 64
    assert signing.key_in(path) == made


@pytest.mark.security("secrets", "a file that others may read")
def test_nobody_else_may_read_the_key(tmp_path: Path) -> None:
    signing.key_in(tmp_path / "webhook.key")

    assert (tmp_path / "webhook.key").stat().st_mode & 0o077 == 0
    assert [path.name for path in tmp_path.iterdir()] == ["webhook.key"]


def test_a_key_that_cannot_be_made_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match=r"webhook\.key"):
        signing.key_in(tmp_path / "file" / "webhook.key")
