"""The page of promises names every fault that a test injects, and the test, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parent.parent
PAGE = (PROJECT_DIR / "docs" / "what-survives-what.md").read_text("utf-8")


def injected() -> Iterator[tuple[str, str]]:
    """Each fault that is injected, with the test that does it."""
    for path in sorted((PROJECT_DIR / "tests" / "chaos").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                marks = [ast.unparse(decorator) for decorator in node.decorator_list]
                for mark in marks:
                    # a parameter's mark stands within the decorator that has the parameters
                    for fault in re.findall(r"mark\.fault\('([A-Z]\d+)'", mark):
                        yield fault, f"tests/chaos/{path.name}::{node.name}"


def index() -> list[str]:
    """The lines of the page's last table."""
    tests: dict[str, list[str]] = {}
    for fault, test in injected():
        if test not in tests.setdefault(fault, []):
            tests[fault].append(test)
    order = sorted(tests, key=lambda fault: (fault[0], int(fault[1:])))
    return [f"| {fault} | {', '.join(f'`{test}`' for test in tests[fault])} |" for fault in order]


def test_every_fault_of_the_page_is_injected_and_the_other_way_round() -> None:
    promises, _, _ = PAGE.partition("## Which test shows it")
    told = re.findall(r"^\| ([A-Z]\d+) \|", promises, re.MULTILINE)

    assert len(told) == len(set(told))
    assert set(told) == {fault for fault, _ in injected()}


def within() -> Iterator[tuple[str, str]]:
    """Each fault of a table with a column for the bound, with what stands in it."""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"[A-Z]\d+", cells[0]):
            yield cells[0], cells[3]


def test_every_fault_has_a_bound_or_nothing_that_waits() -> None:
    bounds = dict(within())

    assert len(bounds) > 0
    assert [fault for fault, bound in bounds.items() if not bound] == []


def bounded(tree: ast.Module) -> Iterator[str]:
    """The functions of a module that hold something to a bound, themselves or by another one."""
    calls = {
        node.name: {
            call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
            for call in ast.walk(node)
            if isinstance(call, ast.Call)
        }
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }
    direct = {name for name, called in calls.items() if "recovery" in called}
    yield from (name for name, called in calls.items() if name in direct or called & direct)


def test_every_bound_is_asserted() -> None:
    held = {
        f"tests/chaos/{path.name}::{name}"
        for path in (PROJECT_DIR / "tests" / "chaos").glob("test_*.py")
        for name in bounded(ast.parse(path.read_text("utf-8")))
    }
    kept = {fault for fault, test in injected() if test in held}
    waits = {fault for fault, bound in within() if not bound.startswith(("none", "at once"))}

    assert waits - kept == set()


def test_the_page_says_which_test_shows_what() -> None:
    _, _, told = PAGE.partition("## Which test shows it")

    assert re.findall(r"^\| [A-Z]\d+ \|.*", told, re.MULTILINE) == index()
