"""Documents, dashboard and rules name what is shown, and promtool agrees with the rules."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # uvicorn brings it, without types

from metrics.gauges import GAUGES, PREFIX, Gauge, kind_of, shown_names
from tallies import COUNTED, Counted
from tests.recordings import PROJECT_DIR

FOLDER = PROJECT_DIR / "compose/monitoring"
DOCUMENT = (PROJECT_DIR / "docs/metrics.md").read_text("utf-8")
RULES = yaml.safe_load((FOLDER / "rules.yml").read_text("utf-8"))["groups"][0]["rules"]
DASHBOARD = json.loads((FOLDER / "grafana/dashboards/transcription.json").read_text("utf-8"))
ENDINGS = ("_bucket", "_sum", "_count")


def shown() -> set[str]:
    histograms = {f"{PREFIX}{name}" for name in COUNTED if kind_of(name) == "histogram"}
    return {*shown_names()} | {f"{name}{ending}" for name in histograms for ending in ENDINGS}


def queries() -> Iterator[str]:
    yield from (rule["expr"] for rule in RULES)
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def labels_of(name: str) -> set[str]:
    base = name.removeprefix(PREFIX).removesuffix("_total")
    histogram = base.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
    one: Gauge | Counted | None = GAUGES.get(base) or COUNTED.get(base) or COUNTED.get(histogram)
    assert one is not None
    return {*one.labels} | ({"le"} if name.endswith("_bucket") else set())


@pytest.mark.parametrize("query", sorted({*queries()}))
def test_a_query_names_what_is_shown(query: str) -> None:
    records = {rule["record"] for rule in RULES if "record" in rule}

    assert {*re.findall(r"\btranscription_\w+", query)} <= shown()
    assert {*re.findall(r"\btranscription:\w+", query)} <= records
    for name, selector in re.findall(r"\b(transcription_\w+)\{([^}]*)\}", query):
        assert {*re.findall(r"(\w+)[!=]~?=?\"", selector)} <= labels_of(name)


@pytest.mark.parametrize("query", sorted({*queries()}))
def test_two_maintenance_processes_are_not_added_up(query: str) -> None:
    assert not re.search(
        r"(sum|count|avg)( by \([^)]*\))? ?\((rate|increase|transcription_)", query
    )


def test_the_dashboard_shows_everything() -> None:
    named = {name for query in queries() for name in re.findall(r"\btranscription_\w+", query)}
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}

    assert {*shown_names()} <= bases | named


def rows(table: Mapping[str, Any]) -> Iterator[str]:
    for name, one in table.items():
        full = f"{PREFIX}{name}{'_total' if kind_of(name) == 'counter' else ''}"
        yield f"| `{full}` | {', '.join(f'`{label}`' for label in one.labels)} | {one.means} |"


def test_the_document_lists_every_metric_and_no_other() -> None:
    listed = [line for line in DOCUMENT.splitlines() if line.startswith(f"| `{PREFIX}")]

    assert sorted(listed) == sorted([*rows(GAUGES), *rows(COUNTED)])


def test_no_label_is_anything_that_a_client_may_choose() -> None:
    every: list[Gauge | Counted] = [*GAUGES.values(), *COUNTED.values()]
    labels = {label for one in every for label in one.labels}

    assert labels == {
        "code", "condition", "device", "engine", "lane", "method", "model", "outcome", "priority",
        "reason", "result", "role", "route", "severity", "state", "status", "version",
    }  # fmt: skip


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in RULES:
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert {*rule["annotations"]} == {"summary", "description"}


def test_every_alert_is_tried() -> None:
    tried = (FOLDER / "rules_test.yml").read_text("utf-8")

    for rule in RULES:
        assert rule.get("alert", rule.get("record")) in tried


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool: Debian's package `prometheus` has it")
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
