"""`make bench`: how fast it is, as ratios measured in one run on one core.

    python -m bench [--quick] [--fhir-resources PYTHON] [NAMES]      NAMES: validate

Prints one table. It never fails for being slow: machines differ, and this one may be busy.
"""

import argparse
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version

from rich.console import Console
from rich.table import Table

from bench import validate
from bench.rounds import HEADER

BENCHMARKS = {"validate": validate.measure}
ROUNDS, ROUNDS_QUICK = 7, 3
ROWS, ROWS_QUICK = 200_000, 20_000
_WIDTH = 132
_SHOWN = ("polars", "pydantic", "orjson")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAMES", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds")
    parser.add_argument(
        "--fhir-resources",
        default=sys.executable,
        metavar="PYTHON",
        help="of an environment that has it",
    )
    asked = parser.parse_args()
    unknown = set(asked.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there is {', '.join(BENCHMARKS)}")
    if hasattr(os, "sched_setaffinity"):  # for the contestants too, which are started from here
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows, rounds = (ROWS_QUICK, ROUNDS_QUICK) if asked.quick else (ROWS, ROUNDS)
    versions = ", ".join(f"{name} {version(name)}" for name in _SHOWN)
    table = Table(
        *HEADER,
        title=f"{rows:,} rows, {rounds} rounds on one core, {datetime.now(UTC):%Y-%m-%d}, "
        f"Python {platform.python_version()}, {versions}",
    )
    for name in asked.names or BENCHMARKS:
        for line in BENCHMARKS[name](rows, rounds, asked.fhir_resources):
            table.add_row(*line.cells())
    Console(width=_WIDTH).print(table)


if __name__ == "__main__":
    main()
