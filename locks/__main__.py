"""Write the locks and the bill of materials anew from requirements*.txt; `make lock` runs it.

Versions that a lock has are kept where they still fit: remove a package's lines, or the file, for
newer ones. The locks hold for every platform and CPython from 3.11 on; pip is given them with
``--no-deps``, since they are complete. torch has locks of its own, since it is one of two builds.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
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
#: torch as PyPI has it, with CUDA's libraries where that build needs them: gigabytes on Linux.
TORCH: Final = "torch"
OF_TORCH: Final = re.compile(r"torch$|triton$|(cuda|nvidia)-")
#: torch for CPUs: what PyTorch's own index has for CPython 3.11 on x86-64 Linux, as the image is.
#: Where pip is shown no such file, the other build is installed.
TORCH_CPU: Final = "torch-cpu"
TORCH_CPU_LINES: Final = """\
torch==2.13.0+cpu \\
    --hash=sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
"""
#: Asked for by packages that do without: this one tells their maker what is done with them.
LEFT_OUT: Final = ("openvino-telemetry",)
BILL_OF_MATERIALS: Final = FOLDER / "sbom.json"


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.txt"


def read(path: Path) -> dict[str, str]:
    """Each package's lines in a lock, by its first line's name, version and markers."""
    blocks = re.findall(r"^\w.*\n(?: .*\n)*", path.read_text("utf-8"), re.MULTILINE)
    return {block.splitlines()[0].rstrip(" \\"): block for block in blocks}


def write(name: str, blocks: Iterable[str]) -> None:
    path_of(name).write_text("".join(blocks), "utf-8")


def run_module(*arguments: str, given: str | None = None) -> None:
    subprocess.run(
        [sys.executable, "-m", *arguments], cwd=PROJECT, check=True, input=given, text=True
    )


def resolve(sources: Sequence[str], target: Path, *, within: Path | None) -> dict[str, str]:
    """Let uv choose versions for every platform; those that ``target`` has are kept if they fit."""
    options = ["--universal", "--generate-hashes", "--python-version=3.11"]
    options += ["--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-annotate"]
    options += [f"--no-emit-package={name}" for name in LEFT_OUT]
    if within is not None:
        options += ["--constraints", str(within)]
    run_module("uv", "pip", "compile", *sources, *options, "--output-file", str(target))
    return read(target)


def lock() -> None:
    """Write all locks."""
    whole = path_of("whole")
    kept = {**read(path_of("dev")), **read(path_of(TORCH))}
    write("whole", (kept[line] for line in sorted(kept)))
    everything = resolve(SETS["dev"], whole, within=None)
    for name, sources in SETS.items():
        target = path_of(name)
        target.unlink(missing_ok=True)
        found = resolve(sources, target, within=whole)
        write(name, (block for line, block in found.items() if not is_of_torch(line)))
    write(TORCH, (block for line, block in everything.items() if is_of_torch(line)))
    write(TORCH_CPU, [TORCH_CPU_LINES])
    whole.unlink()


def is_of_torch(line: str) -> bool:
    return OF_TORCH.match(line.partition("==")[0]) is not None


def list_materials() -> None:
    """Write the bill of materials (CycloneDX) of the largest image, the worker's."""
    image = path_of("worker").read_text("utf-8") + TORCH_CPU_LINES
    options = ["--output-reproducible", "--of", "JSON", "--output-file", str(BILL_OF_MATERIALS)]
    run_module("cyclonedx_py", "requirements", "-", *options, given=image)


if __name__ == "__main__":
    lock()
    list_materials()
