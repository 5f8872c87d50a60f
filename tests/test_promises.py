"""Tables of promises and conventions: each row stands beside a test that there is."""

import ast
import re

import pytest

from tests.recordings import PROJECT_DIR


def table(path: str, heads: str) -> list[list[str]]:
    """The rows of a page's table."""
    _, _, rest = (PROJECT_DIR / path).read_text("utf-8").partition(heads)
    lines = rest.partition("\n\n")[0].split("\n")
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in lines
        if line.startswith("| ")
    ]


PROMISES = table("SECURITY.md", "| promise | done in | held by |")
CONVENTIONS = table("docs/conventions.md", "| convention | here | held by |")
HELD = [*PROMISES, *CONVENTIONS]


def test_there_are_promises_and_conventions() -> None:
    assert len(PROMISES) > 30
    assert len(CONVENTIONS) > 20
    assert {len(row) for row in HELD} == {3}


@pytest.mark.parametrize("row", HELD, ids=[row[0][:60] for row in HELD])
def test_a_promise_is_held_by_tests_that_there_are(row: list[str]) -> None:
    named = re.findall(r"`(tests/[^`]+)`", row[2])

    assert named
    for name in named:
        path, _, test = name.partition("::")
        assert (PROJECT_DIR / path).exists(), name
        if test:
            tree = ast.parse((PROJECT_DIR / path).read_text("utf-8"))
            assert test in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, name


@pytest.mark.parametrize("row", PROMISES, ids=[row[0][:60] for row in PROMISES])
def test_a_promise_is_done_in_files_that_there_are(row: list[str]) -> None:
    named = re.findall(r"`([\w./-]+(?:/|\.\w+))`", row[1])

    assert row[1]
    assert all((PROJECT_DIR / name).exists() for name in named), named
