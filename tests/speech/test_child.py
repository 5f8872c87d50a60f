"""A child alone: what it inherits, how it is heard, and how it ends."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from speech import child
from tests.recordings import PROJECT_DIR


def nothing(said: bytes) -> None:
    pass


def run(program: str, *descriptors: int, timeout_seconds: float = 60.0) -> child.Ending:
    return child.run(program, "", descriptors, timeout_seconds=timeout_seconds, attend=nothing)


def told(expression: str, *descriptors: int) -> Any:
    """What an expression gives in a child."""
    said = run(f"import json, os; print(json.dumps({expression}))", *descriptors).said
    return json.loads(said)


def test_it_says_what_it_is_asked() -> None:
    ending = child.run("print(sys.argv[2])", "a word", (), timeout_seconds=60, attend=nothing)

    assert ending == (0, b"a word\n")


def test_what_it_complains_of_is_heard_as_well() -> None:
    status, said = run("raise SystemExit('no')")

    assert (status, said) == (1, b"no\n")


@pytest.mark.security("media", "decoder that looks for secrets in its environment")
def test_it_inherits_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@host/base")

    assert set(told("dict(os.environ)")) <= {"LC_CTYPE"}  # that is Python's own


@pytest.mark.security("media", "decoder that looks for the worker's open files and sockets")
def test_it_inherits_no_descriptor_but_those_it_is_given(tmp_path: Path) -> None:
    open_ones = "[n for n in range(999) if os.path.exists(f'/dev/fd/{n}')]"
    with (tmp_path / "upload").open("wb") as upload, (tmp_path / "other").open("wb") as other:
        os.set_inheritable(other.fileno(), True)

        assert told(open_ones, upload.fileno()) == [0, 1, 2, upload.fileno()]


def test_it_hears_no_ctrl_c() -> None:
    assert told("os.getsid(0)") != os.getsid(0)


def test_it_is_nowhere_near_the_uploads() -> None:
    assert told("os.getcwd()") == "/"


def test_it_finds_the_libraries_before_our_modules() -> None:
    path = told("__import__('sys').path")

    assert path[-1] == str(PROJECT_DIR)
    assert path.count(str(PROJECT_DIR)) == 1


def test_one_that_says_too_much_is_ended() -> None:
    status, said = run("import time\nwhile True: print('x' * 999)")

    assert status != 0
    assert len(said) < 2**16
