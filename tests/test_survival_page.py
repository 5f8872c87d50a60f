"""The page of promises names every fault that a test injects, and no other."""

import re
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parent.parent
PAGE = PROJECT_DIR / "docs" / "what-survives-what.md"


def test_every_fault_of_the_page_is_injected_and_the_other_way_round() -> None:
    told = re.findall(r"^\| ([A-Z]\d+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    injected: set[str] = set()
    for module in (PROJECT_DIR / "tests" / "chaos").glob("test_*.py"):
        injected |= set(re.findall(r"mark\.fault\(\"([A-Z]\d+)", module.read_text("utf-8")))

    assert len(told) == len(set(told))
    assert set(told) == injected
