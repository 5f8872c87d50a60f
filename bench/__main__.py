"""``python -m bench`` runs all benches, or those that are named: ``submit engines``."""

from __future__ import annotations

import sys

from bench import accuracy, engines, leases, listeners, memory, overhead, scale, submit

BENCHES = {
    "submit": submit.main,
    "overhead": overhead.main,
    "leases": leases.main,
    "scale": scale.main,
    "listeners": listeners.main,
    "memory": memory.main,
    "engines": engines.main,
    "accuracy": accuracy.main,
}


def main(names: list[str]) -> int:
    missed = []
    for name in names or list(BENCHES):
        print(f"== {name}", flush=True)
        if not BENCHES[name]():
            missed.append(name)
    if missed:
        print(f"missed: {', '.join(missed)}")
    return len(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
