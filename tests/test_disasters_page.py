"""The page of disasters: each is told with what to type, and with tests that there are."""

import ast
import re

import pytest

from tests.recordings import PROJECT_DIR

PAGE = (PROJECT_DIR / "docs" / "disasters.md").read_text("utf-8")


def rows(head: str) -> list[list[str]]:
    """The rows of the table with such a head."""
    table = PAGE.partition(head)[2].partition("\n\n")[0].splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in table
        if line.startswith("| ")
    ]


DISASTERS = rows("| disaster | lost | jobs are done again after |")
SHOWN = {row[0]: row[1] for row in rows("| disaster | shown by |")}


def plain(name: str) -> str:
    """A disaster's name, without its link and what is said beside it."""
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", name).partition(",")[0]


def anchors() -> set[str]:
    titles = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_disaster_is_shown() -> None:
    assert len(DISASTERS) > 8
    assert {plain(row[0]) for row in DISASTERS} <= SHOWN.keys()


@pytest.mark.parametrize("row", DISASTERS, ids=[plain(row[0]) for row in DISASTERS])
def test_every_disaster_has_what_to_type(row: list[str]) -> None:
    (anchor,) = re.findall(r"\(#([^)]+)\)", row[0]) or ["redis"]

    assert len(row) == 3
    assert anchor in anchors()


@pytest.mark.parametrize("name", SHOWN)
def test_what_shows_it_is_there(name: str) -> None:
    named = re.findall(r"`(tests/[^`]+)`", SHOWN[name])

    assert named
    for told in named:
        path, _, test = told.partition("::")
        tree = ast.parse((PROJECT_DIR / path).read_text("utf-8"))
        assert test in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}, told
