"""That the look through the logs finds what it looks for."""

from pathlib import Path

import pytest

from tests.stack import canaries


@pytest.mark.parametrize("word", [canaries.NAME, canaries.LABEL, canaries.KEY, "two zero five"])
def test_a_word_in_a_log_is_found_with_its_line(word: str, tmp_path: Path) -> None:
    log = tmp_path / "0-web.log"
    log.write_text(f'ready\n{{"message": "got {word} \\n"}}', encoding="utf-8")
    words = {canaries.NAME, canaries.LABEL, canaries.KEY, *canaries.phrases(["two zero five one"])}

    assert canaries.found([log], words) == [f"0-web.log:2 holds {word!r}"]


def test_the_password_stands_in_the_url_and_is_looked_for() -> None:
    url = canaries.with_password("postgresql://postgres@/db?host=%2Ftmp&port=5432", "postgres")

    assert next(iter(canaries.secrets_of({"DATABASE_URL": url}))) == canaries.PASSWORD
    assert url.endswith("@/db?host=%2Ftmp&port=5432")


def test_a_password_that_is_there_already_stays() -> None:
    url = "redis://:its-own@127.0.0.1:6379/3"

    assert canaries.with_password(url, "default") == url
    assert "its-own" in canaries.secrets_of({"REDIS_URL": url})
