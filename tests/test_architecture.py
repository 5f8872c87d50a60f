"""The contract of imports: which module may know which, and what a process may load.

Rows stand from the ground up. A module may import what stands in a lower row, and what belongs to
its own unit; it does not know its neighbours. What needs two of them is written one row up.
"""

import ast
import functools
import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT_DIR = Path(__file__).resolve().parent.parent

ROWS = (
    {"errors", "transcription_client"},
    {"config", "config_values", "machine", "redaction", "retries", "telemetry"},
    {"speech", "local_servers", "outgoing"},
    {"models"},
    {"database"},
    {"audit"},
    {
        "auth",
        "celery_app",
        "first_keys",
        "jobs",
        "keys",
        "lookout",
        "model_pool",
        "model_shelf",
        "page_sessions",
        "request_counts",
        "solo",
        "tallies",
    },
    {"fetching", "webhooks"},
    {
        "api",
        "attempts",
        "auditor",
        "backups",
        "janitor",
        "maintenance",
        "metrics",
        "model_setup",
        "reaper",
        "tasks",
        "workbench",
    },
    {
        "app",
        "cli",
        "commands",
        "courier",
        "migrations",
        "presence",
        "serve",
        "welcome",
        "worker",
    },  # entry points
    {"rig", "training"},  # what tools and tests share; what makes the demo model, and judges it
    {"bench", "compose", "locks", "soak"},  # tools beside the service
)
#: Modules that are one thing in two files.
UNITS = {
    "attempts": "tasks",
    "auditor": "maintenance",
    "courier": "worker",
    "presence": "worker",
    "commands": "cli",
    "config_values": "config",
    "first_keys": "auth",
    "janitor": "maintenance",
    "keys": "auth",
    "model_shelf": "model_pool",
    "page_sessions": "auth",
    "reaper": "maintenance",
    "request_counts": "auth",
    "redaction": "telemetry",
    "solo": "model_pool",
    "welcome": "serve",
    "workbench": "tasks",
}
ENGINES = {"ctranslate2", "faster_whisper", "openvino", "torch", "whisper"}
HTTP = {"fastapi", "starlette", "uvicorn"}
DATABASE = {"alembic", "psycopg2", "sqlalchemy"}
BROKER = {"celery", "kombu", "redis"}
#: What HTTP is spoken with.
CLIENTS = {"http.client", "httpcore2", "httpx2", "requests", "urllib.request", "urllib3"}
#: Who speaks it beside the client for addresses that clients name, to whom operators named.
CALLERS = {
    "serve": "its own web process",
    "welcome": "the same",
    "speech.engines.converted": "Hugging Face",
    "speech.engines.downloads": "openai-whisper's servers, or MODEL_BASE_URL",
    "transcription_client.logins": "nobody: it takes addresses apart",
    "transcription_client.server": "the service that whoever types it names",
}
#: What stands below a module and is none of its business all the same; and other people's code.
NEVER: Mapping[str, set[str]] = {
    "api": {"model_pool", "model_shelf", "speech.audio", "tasks", *ENGINES},
    "app": {"model_pool", "model_shelf", "speech.audio", "tasks", *ENGINES},
    "audit": {"config", "database", "speech", *BROKER, *ENGINES, *HTTP},
    "auth": {"celery_app", "config", "speech", *BROKER, *ENGINES, *HTTP},
    "backups": {"celery_app", "speech", *BROKER, *ENGINES, *HTTP},
    "celery_app": {"database", "models", "speech", *DATABASE, *ENGINES, *HTTP},
    "cli": {"api", "app", "tasks", *ENGINES, *HTTP},
    "commands": {"api", "app", "tasks", *ENGINES, *HTTP},
    "config": {*BROKER, *ENGINES, *HTTP},
    "database": {"speech", *BROKER, *ENGINES, *HTTP},
    "fetching": {"celery_app", "config", "speech", *BROKER, *ENGINES, *HTTP},
    "jobs": {"config", "speech.engines", *BROKER, *ENGINES, *HTTP},
    "local_servers": {"config", "speech", "telemetry", *BROKER - {"redis"}, *ENGINES, *HTTP},
    "lookout": {"config", "database", "jobs", "models", "speech", *DATABASE, *ENGINES, *HTTP},
    "maintenance": {"model_pool", "speech.engines", *ENGINES, *HTTP},
    "metrics": {"model_pool", "model_shelf", "speech", *ENGINES, *HTTP},
    "migrations": {"jobs", "speech", "telemetry", *BROKER, *ENGINES, *HTTP},
    "model_pool": {"config", "database", "models", *BROKER, *DATABASE, *ENGINES, *HTTP},
    "outgoing": {"config", "telemetry", *BROKER, *DATABASE, *ENGINES, *HTTP},
    "models": {"config", "speech", "telemetry", *BROKER, *ENGINES, *HTTP},
    "reaper": {"celery_app", "model_pool", "speech", *BROKER, *ENGINES, *HTTP},
    "solo": {"config", "database", "models", *BROKER, *DATABASE, *ENGINES, *HTTP},
    "serve": {"api", "jobs", "models", "speech", "tasks", *BROKER, *ENGINES, *HTTP},
    "speech": {"config", "telemetry", *BROKER, *DATABASE, *HTTP},
    "attempts": {"api", "app", "celery", "kombu", *ENGINES, *HTTP},
    "tallies": {"config", "jobs", "speech", *BROKER, *ENGINES, *HTTP},
    "tasks": {"api", "app", *ENGINES, *HTTP},
    "telemetry": {"config", *BROKER, *DATABASE, *ENGINES, *HTTP},
    # a wheel of its own, for machines that have nothing else of ours
    "transcription_client": {*BROKER, *DATABASE, *ENGINES, *HTTP},
    "webhooks": {"celery_app", "speech", *BROKER, *ENGINES, *HTTP},
    "workbench": {"api", "app", "celery", "kombu", *ENGINES, *HTTP},
    "worker": {"api", "app", *ENGINES, *HTTP},
}
#: Pure tables of names: the only part of the engines that the web may look at.
TABLES = {"speech.engines.catalogue", "speech.engines.languages"}
#: The only modules that may load an engine's library.
LOADERS = "speech.engines"

ROW_OF = {name: number for number, row in enumerate(ROWS) for name in row}


def is_ours(path: Path) -> bool:
    parts = path.relative_to(PROJECT_DIR).parts
    return parts[0] != "tests" and not any(part.startswith(".") for part in parts)


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for path in sorted(PROJECT_DIR.glob("*.py")) + sorted(PROJECT_DIR.glob("[!.]*/**/*.py")):
        if is_ours(path):
            parts = path.relative_to(PROJECT_DIR).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


@functools.cache
def imports(module: str) -> frozenset[str]:
    """What a module imports anywhere in it; ``from a import b`` is ``a.b`` where that is one."""
    return frozenset(_imports(ast.parse(modules()[module].read_text("utf-8"))))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules() else node.module


def top(module: str) -> str:
    return module.partition(".")[0]


def unit(module: str) -> str:
    return UNITS.get(top(module), top(module))


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.fixture(params=sorted(modules()))
def module(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# The contract


def test_every_module_has_a_row_and_every_name_in_a_row_is_one() -> None:
    assert {top(module) for module in modules()} == ROW_OF.keys()


def test_no_name_stands_in_two_rows() -> None:
    assert len(ROW_OF) == sum(map(len, ROWS))


def test_imports_point_down(module: str) -> None:
    ours = {name for name in imports(module) if top(name) in ROW_OF}
    wrong = {
        name
        for name in ours
        if unit(name) != unit(module) and ROW_OF[top(name)] >= ROW_OF[top(module)]
    }

    assert wrong == set()


def test_nobody_imports_what_is_none_of_his_business(module: str) -> None:
    forbidden = NEVER.get(unit(module), set())
    allowed = TABLES if unit(module) in {"api", "app"} else set()
    wrong = {
        name
        for name in imports(module) - allowed
        if any(is_within(name, package) for package in forbidden)
    }

    assert wrong == set()


def test_the_web_looks_at_the_tables_of_the_engines_and_at_nothing_else() -> None:
    web = {module for module in modules() if top(module) in {"api", "app"}}
    seen = {name for module in web for name in imports(module) if is_within(name, LOADERS)}

    assert seen <= TABLES


def test_only_engines_load_engines() -> None:
    loaders = {module for module in modules() if {*map(top, imports(module))} & ENGINES}
    served = {module for module in loaders if top(module) not in {"bench", "training"}}

    assert served
    assert all(is_within(module, LOADERS) for module in served)


def test_nobody_else_calls_out() -> None:
    served = {module for module in modules() if top(module) not in {"bench", "soak", "training"}}
    callers = {module for module in served if imports(module) & CLIENTS}

    assert {module for module in callers if not is_within(module, "outgoing")} == {*CALLERS}


def test_the_tables_know_nothing_of_engines() -> None:
    for table in TABLES:
        assert {name for name in imports(table) if is_within(name, LOADERS)} <= TABLES


def test_no_import_leads_back_to_where_it_began() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module in done:
            return
        for name in imports(module) & modules().keys():
            if name != module and not is_within(module, name):  # a package holds its modules
                visit(name, (*path, module))
        done.add(module)

    for module in modules():
        visit(module, ())


def test_every_row_with_a_rule_is_a_row() -> None:
    assert NEVER.keys() <= ROW_OF.keys()


# What a process loads

LOAD = """
import importlib, json, sys
absent, engines, names = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(absent))  # importing one of these fails
for name in names:
    importlib.import_module(name)
print(json.dumps([name for name in engines if sys.modules.get(name) is not None]))
"""


def loaded(*names: str, absent: Collection[str] = ()) -> list[str]:
    """Import modules in a process of their own; returns the engines that came with them."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps([sorted(absent), sorted(ENGINES), names])],
        cwd=PROJECT_DIR,
        env={**os.environ, "PYTHONPATH": str(PROJECT_DIR)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    engines: list[str] = json.loads(done.stdout.splitlines()[-1])
    return engines


def applies(requirement: Requirement, extras: set[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)


def installed_by(requirements: str) -> set[str]:
    """The distributions that a file of requirements brings, with all that they need."""
    found: set[str] = set()
    lines = (PROJECT_DIR / requirements).read_text("utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line[:1].isalpha()]
    while wanted:
        requirement = wanted.pop()
        extras = {"", *requirement.extras}
        for text in distribution(requirement.name).requires or ():
            needed = Requirement(text)
            known = canonicalize_name(needed.name) in found and not needed.extras
            if not known and applies(needed, extras):
                wanted.append(needed)
        found.add(canonicalize_name(requirement.name))
    return found


def absent_from_web() -> set[str]:
    """Packages that are installed here and not in an image with requirements-web.txt alone."""
    present = installed_by("requirements-web.txt")
    return {
        package
        for package, owners in packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & present
    }


def test_the_images_have_every_room_that_their_processes_use() -> None:
    let_in = (PROJECT_DIR / ".dockerignore").read_text("utf-8").splitlines()
    # what only `make run` uses, and what no process does
    outside = {"local_servers", *ROWS[-2], *ROWS[-1]}
    rooms = {name for name in ROW_OF if (PROJECT_DIR / name).is_dir()} - outside

    assert {f"!{room}" for room in rooms} <= set(let_in)


def test_the_processes_without_a_model_load_no_engine() -> None:
    assert loaded("app", "celery_app", "tasks", "maintenance", "cli") == []


def test_what_the_web_image_lacks_are_the_engines_and_their_needs() -> None:
    assert absent_from_web() >= {"torch", "whisper", "faster_whisper", "ctranslate2", "numpy"}


def test_the_web_image_has_all_that_its_processes_import() -> None:
    # worker is its maintenance role there; database is what migrations import
    names = ("app", "celery_app", "tasks", "maintenance", "cli", "worker", "database")

    assert loaded(*names, absent=absent_from_web()) == []
