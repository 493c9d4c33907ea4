"""Growth of a plan's time and memory with the file, from ten thousand rows to ten million.

Each plan is the command, `canvas-ingest plan`, in a process of its own: start, inspection, plan and
report are in it. The full form writes the picture, `docs/growth.svg`.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from typing import Final

from bench.plot import Panel, log_log
from bench.rounds import ROOT, Asked, Line, Usage, environment, used
from bench.validate import MAPPED, NOWHERE, feed_of, grown

_SIZES: Final = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
_SIZES_QUICK: Final = (500, 2_000)
_ROUNDS: Final = 3
_OFTEN_MAX: Final = 300_000  # rows; larger files are measured once
_PICTURE: Final = ROOT / "docs" / "growth.svg"


def measure(asked: Asked) -> Iterator[Line]:
    """Yield the lines of the table, and draw the picture."""
    sizes = [size for size in _SIZES if size <= asked.rows_max] if not asked.quick else _SIZES_QUICK
    taken = {kind: plans(kind, sizes, 1 if asked.quick else _ROUNDS) for kind in MAPPED}
    for kind, usages in taken.items():
        before: tuple[int, float] | None = None
        for size, each in usages.items():
            seconds = [usage.clock_s for usage in each]
            note = f"{median(seconds) / size * 1e6:,.1f} us a row, peak {peak_mb(each):,.0f} MB"
            if before is not None:
                power = math.log(median(seconds) / before[1]) / math.log(size / before[0])
                note += f"; time grows by the power {power:.2f}"
            yield Line(f"plan, {kind}", f"{size:,} rows", seconds, "s", note=note)
            before = size, median(seconds)
    picture = _picture(taken)
    if not asked.quick:
        _PICTURE.write_text(picture)
        print(f"written: {_PICTURE}", file=sys.stderr)


def plans(kind: str, sizes: Sequence[int], rounds: int = 1) -> dict[int, list[Usage]]:
    """Return the usage of planning, by number of rows; the largest files once."""
    taken: dict[int, list[Usage]] = {}
    with TemporaryDirectory() as name:
        path = Path(name) / f"{kind}.csv"
        for size in grown(kind, path, sizes):
            times = rounds if size <= _OFTEN_MAX else 1
            taken[size] = [planned(kind, path) for _ in range(times)]
    return taken


def planned(kind: str, path: Path) -> Usage:
    """Return the usage of one plan, as a command in a process of its own."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.toml").write_text(NOWHERE + feed_of(kind))
        given = f"{kind}={path}"
        command = [sys.executable, "-m", "pipeline", "plan", "config.toml", "-q", "--input", given]
        usage = used(command, folder, environment(), DEVNULL)
        assert usage.exit_code == 0
    return usage


def peak_mb(usages: Sequence[Usage]) -> float:
    """Return the median of the peaks."""
    return median(usage.peak_mb for usage in usages)


def _picture(taken: Mapping[str, Mapping[int, Sequence[Usage]]]) -> str:
    times, peaks = (
        {
            kind: [(size, measured(each)) for size, each in usages.items()]
            for kind, usages in taken.items()
        }
        for measured in (lambda each: median(usage.clock_s for usage in each), peak_mb)
    )
    return log_log(
        "Planning: time and memory by the rows of the file",
        [Panel("seconds", times), Panel("peak memory, MB", peaks)],
    )
