"""What can be typed is what docs/command-line.md says, and the wheel holds all of it."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from config import VERSION
from tests.recordings import PROJECT_DIR
from tests.test_architecture import imports, modules
from transcription_client import __main__ as program
from transcription_client import troubles
from transcription_client.options import FORMATS

#: By their names; typer brings a Click of its own.
Commands = dict[str, Any]

CLIENT = PROJECT_DIR / "transcription_client"
PAGE = (PROJECT_DIR / "docs/command-line.md").read_text("utf-8")
PROJECT = tomllib.loads((CLIENT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture(scope="module")
def commands() -> Commands:
    group: Any = typer.main.get_command(program.app)
    commands: Commands = group.commands
    return commands


def options(commands: Commands) -> Iterator[Any]:
    for command in commands.values():
        yield from (p for p in command.params if p.param_type_name == "option" and not p.hidden)


def test_every_command_has_a_row(commands: Commands) -> None:
    rows = re.findall(r"^\| `(\w+)", PAGE.split("\n## ")[0], re.MULTILINE)

    assert {*rows} == {*commands}


def test_every_option_is_told_and_no_other(commands: Commands) -> None:
    told = {*re.findall(r"`(--?[a-z][a-z-]*)", PAGE)} - {"--from"}
    there = {name for option in options(commands) for name in option.opts}

    assert there - {"--help"} <= told
    assert told - {"--help"} <= there


def test_the_variables_of_version_2_are_still_read(commands: Commands) -> None:
    same = re.findall(r"^\| (`[A-Z_`, ]+`) \| the same", PAGE, re.MULTILINE)
    told = {name for row in same for name in re.findall(r"[A-Z_]+", row)}
    read = {option.envvar for option in options({"watch": commands["watch"]})}

    assert len(told) == 7
    assert told <= read


def test_every_status_has_a_row() -> None:
    rows = {int(row) for row in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    kinds = troubles.Trouble.__subclasses__()

    assert rows == {0, troubles.STOPPED, *(kind.status for kind in kinds)}


def test_every_format_is_told() -> None:
    assert f"({', '.join(f'`{name}`' for name in FORMATS)}" in PAGE


# The wheel


def test_the_wheel_names_all_that_the_client_imports() -> None:
    named = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    owners = packages_distributions()
    used = set()
    for module in modules():
        if module.partition(".")[0] == "transcription_client":
            for name in imports(module):
                top = name.partition(".")[0]
                if top != "transcription_client" and top not in sys.stdlib_module_names:
                    used |= {canonicalize_name(owner) for owner in owners[top]}

    assert used == named


def test_the_wheel_runs_without_the_service(tmp_path: Path) -> None:
    """Built by the tools that are here: nothing is fetched for it."""
    source = tmp_path / "source"
    source.mkdir()
    for path in CLIENT.iterdir():
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    offline = ["--no-deps", "--no-build-isolation", "--target", str(target), str(source)]
    subprocess.run([*pip, *offline], check=True, timeout=120)
    (script,) = (target / "bin").iterdir()
    version, where = (
        subprocess.run(
            command,
            env={"PYTHONPATH": str(target), "HOME": str(tmp_path)},
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout.strip()
        for command in (
            [sys.executable, str(script), "--version"],
            [sys.executable, "-c", "import transcription_client as t; print(t.__file__)"],
        )
    )

    assert script.name == "transcription"
    assert version == VERSION
    assert Path(where).is_relative_to(target)
    installed = {path.name for path in (target / "transcription_client").glob("*.py")}
    assert installed == {path.name for path in CLIENT.glob("*.py")}
