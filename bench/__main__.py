"""`make bench`: speed and memory as ratios, measured in one run on one core.

    python -m bench [--quick] [--others PYTHON] [--markdown] [NAMES]

Prints one table. It never fails for being slow: machines differ, and this one may be busy.
"""

import argparse
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from bench import (
    enrollments,
    growth,
    journal,
    memory,
    nightly,
    rate,
    sending,
    shared,
    start,
    validate,
)
from bench.rounds import CORES, HEADER, Asked, Line, alone_on
from bench.server import has_nginx

BENCHMARKS = {
    "validate": validate.measure,
    "sending": sending.measure,
    "rate": rate.measure,
    "shared": shared.measure,
    "journal": journal.measure,
    "unchanged": nightly.measure,
    "memory": memory.measure,
    "enrollments": enrollments.measure,
    "start": start.measure,
    "growth": growth.measure,
}
_UNASKED: Final = [name for name in BENCHMARKS if name != "growth"]  # which takes most of an hour
_WIDTH = 170
_RULE: Final = ["---"] * len(HEADER)
_SHOWN = ("polars", "pydantic", "aiohttp", "uvloop", "orjson")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAMES", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="tiny: under a minute")
    parser.add_argument(
        "--others",
        default=sys.executable,
        metavar="PYTHON",
        help="of an environment with fhir.resources and fhirpy",
    )
    parser.add_argument(
        "--rows-max", type=int, default=10_000_000, help="of the growth; all: %(default)s"
    )
    parser.add_argument("--markdown", action="store_true", help="the table of docs/performance.md")
    given = parser.parse_args()
    unknown = set(given.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there is {', '.join(BENCHMARKS)}")
    asked = Asked(given.quick, given.others, given.rows_max)
    lines: list[Line] = []
    with alone_on(-1):  # for the contestants too, which are started from here
        for name in given.names or (BENCHMARKS if given.quick else _UNASKED):
            print(f"measuring: {name}", file=sys.stderr)
            lines += BENCHMARKS[name](asked)
    rows = [line.cells(is_judged=not asked.quick) for line in lines]
    print(f"{_title(asked)}.\n")
    if given.markdown:
        print(*(f"| {' | '.join(row)} |" for row in (HEADER, _RULE, *rows)), sep="\n")
        return
    table = Table(*HEADER, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=_WIDTH).print(table)


def _title(asked: Asked) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in _SHOWN)
    cores = "one core, the server on another" if CORES > 1 else "one core, the server on it too"
    server = "nginx" if has_nginx() else "the small server of bench/"
    form = "Quick, with files too small to judge by: " if asked.quick else ""
    return (
        f"{form}{datetime.now(UTC):%Y-%m-%d}, on {cores} ({server}), "
        f"Python {platform.python_version()}, {versions}"
    )


if __name__ == "__main__":
    main()
