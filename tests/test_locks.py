"""The locks: every package that is installed, at one version, by the digests of its files."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from locks.__main__ import (
    BILL_OF_MATERIALS,
    LEFT_OUT,
    OF_TORCH,
    SETS,
    TORCH,
    TORCH_CPU,
    path_of,
    read,
)
from tests.recordings import PROJECT_DIR

DIGEST = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked(*names: str) -> Mapping[str, str]:
    """The lines of each package of some locks, by the package's name."""
    return {
        canonicalize_name(line.partition("==")[0]): block
        for name in names
        for line, block in read(path_of(name)).items()
    }


def version(block: str) -> str:
    return block.partition("==")[2].split()[0]


def pinned(source: str) -> list[Requirement]:
    """What a file of requirements names, with the files that it names."""
    lines = (PROJECT_DIR / source).read_text("utf-8").splitlines()
    others = [line.removeprefix("-r ") for line in lines if line.startswith("-r ")]
    own = [Requirement(line) for line in lines if line[:1].isalpha()]
    return own + [requirement for other in others for requirement in pinned(other)]


@pytest.fixture(params=[*SETS, TORCH, TORCH_CPU])
def lock(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_package_has_one_version_and_digests(lock: str) -> None:
    packages = locked(lock)

    assert packages
    for block in packages.values():
        assert re.match(r"[\w.-]+==[\w.+!]+( ;| \\)", block), block
        assert DIGEST.search(block), block


def test_a_lock_names_no_server_and_no_folder(lock: str) -> None:
    text = path_of(lock).read_text("utf-8")

    # nothing but names, versions, markers and digests
    assert not re.search(r"://|--index|--find-links|@|\.whl|(^|\s)/", text)


@pytest.mark.parametrize("name", SETS)
def test_what_is_pinned_by_hand_is_locked_at_that_version(name: str) -> None:
    packages = locked(name, TORCH)

    for source in SETS[name]:
        for requirement in pinned(source):
            locked_version = version(packages[canonicalize_name(requirement.name)])
            assert requirement.specifier.contains(locked_version), requirement


@pytest.mark.parametrize("name", SETS)
def test_a_lock_is_complete(name: str) -> None:
    """Nothing else is installed, so what these need has to be there too."""
    packages = locked(name)
    missing = set()
    for package in packages:
        try:
            needed = [Requirement(text) for text in requires(package) or ()]
        except PackageNotFoundError:  # for another platform
            continue
        missing |= {
            canonicalize_name(requirement.name)
            for requirement in needed
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        }
    missing -= locked(name, TORCH).keys()

    assert missing <= {*LEFT_OUT}


def test_what_reports_to_its_maker_is_not_installed() -> None:
    for name in SETS:
        assert locked(name).keys().isdisjoint(LEFT_OUT)
    for package in LEFT_OUT:
        assert importlib.util.find_spec(package.replace("-", "_")) is None


def test_the_web_has_no_engine() -> None:
    assert {"torch", "openai-whisper", "faster-whisper", "openvino"}.isdisjoint(locked("web"))


def test_torch_and_what_only_it_needs_are_in_its_own_locks() -> None:
    assert not [package for name in SETS for package in locked(name) if OF_TORCH.match(package)]


def test_both_builds_are_of_the_torch_that_is_pinned() -> None:
    (wanted,) = [r for r in pinned("requirements.txt") if r.name == "torch"]

    assert f"=={version(locked(TORCH)['torch'])}" == str(wanted.specifier)
    assert f"=={version(locked(TORCH_CPU)['torch'])}" == f"{wanted.specifier}+cpu"


def test_the_bill_of_materials_is_that_of_the_worker() -> None:
    components = json.loads(BILL_OF_MATERIALS.read_text("utf-8"))["components"]
    billed = {canonicalize_name(part["name"]): part["version"] for part in components}

    assert billed == {name: version(block) for name, block in locked("worker", TORCH_CPU).items()}


def test_a_file_whose_digest_differs_is_not_installed(tmp_path: Path) -> None:
    """As pip is called everywhere: on a wheel of our own that was changed after it was locked."""
    wheel = tmp_path / "honest-1.0-py3-none-any.whl"
    wheel.write_bytes(b"changed")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"honest==1.0 --hash=sha256:{'0' * 64}\n", "utf-8")

    options = ["--no-deps", "--require-hashes", "--no-index", "--find-links", str(tmp_path)]
    options += ["--target", str(tmp_path / "site")]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "-r", str(lock)],
        env={"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert "DO NOT MATCH THE HASHES" in done.stderr


@pytest.mark.parametrize("where", ["Makefile", "Dockerfile"])
def test_whatever_is_installed_is_installed_from_a_lock(where: str) -> None:
    text = (PROJECT_DIR / where).read_text("utf-8").replace("\\\n", " ")
    installs = [
        line for line in text.splitlines() if re.search(r"\binstall\b.*-r|INSTALL\) .*-r", line)
    ]

    assert installs
    for line in installs:
        assert "-r requirements" not in line
        assert "$(INSTALL)" in line or "--no-deps --require-hashes" in line, line


def test_an_audit_that_skipped_a_package_has_failed() -> None:
    """It says nothing and exits with 0 otherwise, where an index does not know a package."""
    steps = (PROJECT_DIR / ".github/workflows/ci.yml").read_text("utf-8")
    audits = [line for line in steps.splitlines() if "pip-audit" in line]

    assert audits
    assert all("--strict" in line for line in audits)


def test_what_runs_beside_it_on_github_is_named_by_its_digest() -> None:
    """A tag can be moved to other code."""
    steps = (PROJECT_DIR / ".github/workflows/ci.yml").read_text("utf-8")
    used = re.findall(r"uses: (\S+)", steps)

    assert used
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name) for name in used), used
