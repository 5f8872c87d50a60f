"""The papers say what is true of the code, as far as a program can see that."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import cli
import config
from config import Settings
from jobs import dispatching, lifecycle
from tests.compose.files import has_compose
from tests.recordings import PROJECT_DIR

PAPERS = sorted([*PROJECT_DIR.glob("*.md"), *PROJECT_DIR.glob("docs/*.md")])
OPERATING = (PROJECT_DIR / "docs/operating.md").read_text("utf-8")
UPGRADING = (PROJECT_DIR / "docs/upgrading.md").read_text("utf-8")
DEVELOPING = (PROJECT_DIR / "docs/developing.md").read_text("utf-8")
SETTINGS = {name.upper() for name in Settings.model_fields}
#: Settings that version 2's .env, code or README had.
OF_VERSION_2 = {
    "API_KEYS", "CELERY_BROKER_URL", "CELERY_CONCURRENCY", "CELERY_QUEUES", "CELERY_TASK_TIMEOUT",
    "CORS_ORIGINS", "DATABASE_URL", "DB_PASSWORD", "FORCE_HTTPS", "LOG_FORMAT", "LOG_LEVEL",
    "MAX_RETRIES", "MAX_UPLOAD_SIZE_MB", "MODEL_POOL_MAX_SIZE", "MODEL_POOL_SIZE",
    "RATE_LIMIT_ENABLED", "RATE_LIMIT_REQUESTS", "RATE_LIMIT_WINDOW", "REDIS_URL",
    "TRUSTED_HOSTS", "WHISPER_COMPUTE_TYPE", "WHISPER_DEVICE", "WHISPER_FP16", "WHISPER_MODEL_SIZE",
}  # fmt: skip


def name_of(paper: Path) -> str:
    return str(paper.relative_to(PROJECT_DIR))


def between(text: str, start: str, end: str) -> str:
    return text.split(start, 1)[1].split(end, 1)[0]


def variables(text: str) -> set[str]:
    return set(re.findall(r"`([A-Z][A-Z0-9_]+)`", text))


# Links


def anchors(paper: Path) -> set[str]:
    """The headings of a paper, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", paper.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[str, str]]:
    for paper in PAPERS:
        for target in re.findall(r"\]\(([^)]+)\)", paper.read_text("utf-8")):
            if "://" not in target:
                yield name_of(paper), target


@pytest.mark.parametrize(("paper", "target"), sorted(set(links())))
def test_a_link_leads_somewhere(paper: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    found = (PROJECT_DIR / paper).parent / path if path else PROJECT_DIR / paper

    assert found.exists()
    assert not anchor or anchor in anchors(found)


# Commands


def commands() -> Iterator[tuple[str, str]]:
    """Every use of cli.py that begins with what to run, with what is given to it."""
    for paper in PAPERS:
        text = paper.read_text("utf-8").replace("\\\n", " ")
        for line in re.findall(r"python cli\.py ([^`\n#|]+)", text):
            if not line.startswith("..."):
                yield name_of(paper), line.strip().rstrip(",.;)")


@pytest.mark.parametrize(("paper", "line"), sorted(set(commands())))
def test_a_command_that_is_told_is_there(paper: str, line: str) -> None:
    command: Any = typer.main.get_command(cli.app)
    words = shlex.split(line)
    while words and hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}

    assert {word for word in words if word.startswith("--")} <= known


# Compose


def overrides() -> list[str]:
    return re.findall(r"^```yaml\n(.*?)^```", OPERATING, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("index", range(len(overrides())))
def test_an_override_that_is_told_is_understood_by_compose(index: int, tmp_path: Path) -> None:
    if not has_compose():
        pytest.skip("no Compose")
    for file in ("docker-compose.yml", "Dockerfile"):
        shutil.copy(PROJECT_DIR / file, tmp_path)
    (tmp_path / "docker-compose.override.yml").write_text(overrides()[index])
    done = subprocess.run(
        ["docker", "compose", "config", "--quiet"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")


# Upgrading


def test_every_retired_setting_is_told() -> None:
    assert variables(between(UPGRADING, "Retired, each", "\n\n")) == {*config.RETIRED}


def test_every_renamed_setting_is_told() -> None:
    told = variables(between(UPGRADING, "Renamed:", "\n\n"))

    assert told >= {*config.RENAMED, *config.RENAMED.values()}


def test_every_setting_that_was_kept_is_told() -> None:
    told = variables(between(UPGRADING, "Kept as they were:", "Retired, each"))

    assert told - {*config.RENAMED} - {"STATE_DIR"} == OF_VERSION_2
    assert OF_VERSION_2 <= SETTINGS


def test_every_setting_that_is_told_is_there() -> None:
    others = {"TORCH_INDEX", "FLOWER_BASIC_AUTH", "SECRETS_DIR", "SSL_CERT_FILE"}
    others |= {"TRANSCRIPTION_KEY", "TRANSCRIPTION_URL"}  # the client's
    others |= {*config.RETIRED, *config.RENAMED}
    told = {name for paper in PAPERS for name in variables(paper.read_text("utf-8")) if "_" in name}

    assert told <= SETTINGS | others


# Developing


def test_every_room_is_told() -> None:
    rooms = {path.name for path in PROJECT_DIR.glob("*.py")}
    rooms |= {f"{path.parent.name}/" for path in PROJECT_DIR.glob("[a-z]*/__init__.py")}
    told = set(re.findall(r"`(\w+(?:\.py|/))`", DEVELOPING))

    assert rooms - {"tests/"} <= told
    assert all(
        (PROJECT_DIR / room).exists() or (PROJECT_DIR / "speech" / room).exists() for room in told
    )


def test_every_verb_is_one() -> None:
    table = between(DEVELOPING, "| verb | who |", "\n\n")
    verbs = re.findall(r"^\| (\w+) \|", table, re.MULTILINE)

    assert len(verbs) > 10
    assert all(hasattr(lifecycle, verb) or hasattr(dispatching, verb) for verb in verbs)
