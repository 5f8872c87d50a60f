"""``python -m soak --jobs 300 --seed 7``: exits with 0 if and only if every promise was kept."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from soak import report
from soak.configurations import CONFIGURATIONS
from soak.plan import FAULTS
from soak.run import JOBS_PER_SECOND, Options, run
from soak.service import SETTINGS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, help="of load; 10 jobs a second, if not given")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--configuration", choices=CONFIGURATIONS, default="ours")
    parser.add_argument("--faults", default="", help=f"of {', '.join(FAULTS)}; all, if not given")
    parser.add_argument(
        "--drain", type=float, default=300.0, help="seconds until all has to be done"
    )
    parser.add_argument("--report", type=Path, help="file for the figures, as JSON")
    arguments = parser.parse_args()
    options = Options(
        jobs=arguments.jobs,
        seed=arguments.seed,
        seconds=60 * arguments.minutes if arguments.minutes else arguments.jobs / JOBS_PER_SECOND,
        workers=arguments.workers,
        configuration=arguments.configuration,
        faults=tuple(filter(None, arguments.faults.split(","))),
        drain_seconds=arguments.drain,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up then, too
    print(options, "\n", SETTINGS, flush=True)
    try:
        outcome = run(options, lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # everything is ended by now
    for line in report.lines(outcome):
        print(line)
    if arguments.report is not None:
        arguments.report.write_text(json.dumps(report.as_json(outcome), indent=1), "utf-8")
    return int(bool(outcome.verdict.broken))


if __name__ == "__main__":
    sys.exit(main())
