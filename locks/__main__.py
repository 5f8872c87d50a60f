"""Write the locks and the bill of materials anew from requirements*.txt; `make lock` runs it.

Versions that a lock has are kept where they still fit: remove a package's lines, or the file, for
newer ones. The locks hold for every platform and CPython from 3.11 on; pip is given them with
``--no-deps``, since they are complete.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent
PROJECT: Final = FOLDER.parent

#: What is installed together, by the lock's name. The first holds all the others.
SETS: Final[dict[str, Sequence[str]]] = {
    "dev": ("requirements-dev.txt",),
    "worker": ("requirements.txt",),
    "web": ("requirements-web.txt",),
    "local": ("requirements-local.txt",),
}
#: Only torch's default build on Linux needs these: gigabytes that a CPU has no use for.
CUDA: Final = re.compile(r"(cuda|nvidia)-|triton$")
CUDA_LOCK: Final = "cuda"
#: The CPU build of the torch that is locked; the rest of its files are listed at PyTorch's own
#: index alone, so with that index other platforms than CPython 3.11 on x86-64 Linux get the
#: default build.
TORCH_CPU_BUILD: Final = "sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
BILL_OF_MATERIALS: Final = FOLDER / "sbom.json"

#: A package with its version and markers, and the lines of its digests.
Entry = tuple[str, str]


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.txt"


def run_module(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", *arguments], cwd=PROJECT, check=True)


def resolve(sources: Sequence[str], target: Path, *, within: Path | None) -> None:
    """Let uv choose versions for every platform; those that ``target`` has are kept if they fit."""
    options = ["--universal", "--generate-hashes", "--python-version=3.11"]
    options += ["--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-annotate"]
    if within is not None:
        options += ["--constraints", str(within)]
    run_module("uv", "pip", "compile", *sources, *options, "--output-file", str(target))


def entries(text: str) -> list[Entry]:
    """Split a lock into packages; each with its name and its lines."""
    blocks = re.findall(r"^\w.*\n(?: .*\n)*", text, re.MULTILINE)
    return [(block.partition("==")[0], block.rstrip("\n")) for block in blocks]


def write(path: Path, chosen: Sequence[Entry]) -> None:
    path.write_text("".join(f"{lines}\n" for _, lines in chosen), "utf-8")


def with_cpu_build(entry: Entry) -> Entry:
    name, lines = entry
    if name != "torch" or TORCH_CPU_BUILD in lines:
        return entry
    return name, f"{lines} \\\n    --hash={TORCH_CPU_BUILD}"


def lock() -> None:
    """Write all locks."""
    whole = path_of("all")
    kept = [entry for path in FOLDER.glob("*.txt") for entry in entries(path.read_text("utf-8"))]
    write(whole, sorted(set(kept)))
    resolve(SETS["dev"], whole, within=None)
    for name, sources in SETS.items():
        target = path_of(name)
        target.unlink(missing_ok=True)
        resolve(sources, target, within=whole)
        needed = [entry for entry in entries(target.read_text("utf-8")) if not CUDA.match(entry[0])]
        write(target, [with_cpu_build(entry) for entry in needed])
    everything = entries(whole.read_text("utf-8"))
    write(path_of(CUDA_LOCK), [entry for entry in everything if CUDA.match(entry[0])])
    whole.unlink()


def list_materials() -> None:
    """Write the bill of materials (CycloneDX) of the largest image, the worker's."""
    options = ["--output-reproducible", "--of", "JSON", "--output-file", str(BILL_OF_MATERIALS)]
    run_module("cyclonedx_py", "requirements", str(path_of("worker")), *options)


if __name__ == "__main__":
    lock()
    list_materials()
