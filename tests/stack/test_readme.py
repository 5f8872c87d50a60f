"""The README's examples, run as they stand against a service of the test's own."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from api.submission import FIELDS
from config import Settings
from speech.engines import catalogue
from speech.formats import FORMATS
from tests.recordings import PROJECT_DIR, sample
from tests.stack.conftest import Stack, wait_for

README = (PROJECT_DIR / "README.md").read_text("utf-8")
HERE = "http://127.0.0.1:8000"


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


class Service:
    """A running service, and how the README's words are meant for it."""

    def __init__(self, stack: Stack) -> None:
        stack.worker()
        _, self.url = stack.web()
        wait_for(self._ready, "the service is ready")
        self.key = (stack.folder / "admin.key").read_text("utf-8").strip()

    def _ready(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/ready").status_code == 200
        except httpx2.HTTPError:
            return False

    def here(self, example: str) -> str:
        return example.replace(HERE, self.url).replace(
            "talk.mp3", str(sample("digits-en.wav").path)
        )

    def shell(self, example: str, **variables: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", self.here(example)],
            env={"PATH": "/usr/bin:/bin", "KEY": self.key, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


@pytest.mark.stack
@pytest.mark.model
def test_the_examples_do_what_they_say(stack: Stack, tmp_path: Path) -> None:
    service = Service(stack)
    submit, ask, fetch, submit_once = examples("sh")

    job = json.loads(service.shell(submit))
    stack.wait_for_status(job["job_id"], "completed")
    found = json.loads(service.shell(ask, JOB=job["job_id"]))
    subtitles = service.shell(fetch, JOB=job["job_id"])
    once, again = (json.loads(service.shell(submit_once)) for _ in range(2))
    (program,) = examples("python")
    script = tmp_path / "example.py"
    script.write_text(f"key = {service.key!r}\n{service.here(program)}")
    printed = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True
    ).stdout

    assert found["transcription"] == sample("digits-en.wav").text
    assert subtitles.startswith("1\n00:00:0")
    assert again["job_id"] == once["job_id"] != job["job_id"]
    assert printed.strip() == sample("digits-en.wav").text


def test_the_answer_that_is_shown_has_keys_that_there_are() -> None:
    (answer,) = examples("json")
    from api.schemas import JobDetail

    assert set(json.loads(answer)) <= set(JobDetail.model_fields) | set(
        JobDetail.model_computed_fields
    )


def table(heading: str) -> list[list[str]]:
    section = README.split(heading, 1)[1].split("\n#", 1)[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]


def test_every_field_that_may_be_sent_is_told() -> None:
    told = {
        name for row in table("### What may be sent") for name in re.findall(r"`(\w+)`", row[0])
    }

    assert told == set(FIELDS) - {"file"}


def test_the_settings_that_are_told_have_these_defaults() -> None:
    for names, default, _ in table("## Settings"):
        for name in re.findall(r"`([A-Z_]+)`", names):
            field = Settings.model_fields[name.lower()]
            if field.default is not None:
                shown = str(field.default).lower() if isinstance(field.default, bool) else None
                wanted = (
                    shown or f"{field.default:g}"
                    if not isinstance(field.default, str)
                    else field.default
                )
                assert default.strip("`").split("`")[0].strip() == wanted, name


def test_every_format_is_told() -> None:
    line = next(line for line in README.splitlines() if "/result?format=`" in line)

    assert set(re.findall(r"`(\w+)`", line.split("|")[2])) == set(FORMATS)


def test_the_models_that_are_told_are_there() -> None:
    cell = next(row for row in table("### What may be sent") if row[0] == "`model_size`")[1]
    names = re.findall(r"`([\w-]+)`", cell)

    assert len(names) > 5
    for name in names:
        catalogue.resolve(name)
