"""SECURITY.md: each promise stands beside a test that there is."""

import ast
import re

import pytest

from tests.recordings import PROJECT_DIR

PAGE = (PROJECT_DIR / "SECURITY.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.partition("| promise | done in | held by |")[2]
    .partition("\n\n")[0]
    .split("\n")
    if line.startswith("| ")
]


def test_there_are_promises() -> None:
    assert len(ROWS) > 30
    assert {len(row) for row in ROWS} == {3}


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:60] for row in ROWS])
def test_a_promise_is_held_by_tests_that_there_are(row: list[str]) -> None:
    named = re.findall(r"`(tests/[^`]+)`", row[2])

    assert named
    for name in named:
        path, _, test = name.partition("::")
        assert (PROJECT_DIR / path).exists(), name
        if test:
            tree = ast.parse((PROJECT_DIR / path).read_text("utf-8"))
            assert test in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, name


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:60] for row in ROWS])
def test_a_promise_is_done_in_files_that_there_are(row: list[str]) -> None:
    named = re.findall(r"`([\w./-]+(?:/|\.\w+))`", row[1])

    assert row[1]
    assert all((PROJECT_DIR / name).exists() for name in named), named
