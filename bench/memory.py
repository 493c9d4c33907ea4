"""The peak memory of a plan, by the rows of its file: CSV, and the same as Parquet.

A process that is started counts the memory of the one that starts it among its own peak, so this one
stays small: a Parquet file is made by `python -m bench.memory FROM TO`.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.growth import planned
from bench.rounds import Asked, Line, environment
from bench.validate import MAPPED, grown

_SIZES: Final = (200_000, 1_000_000, 5_000_000)
_SIZES_QUICK: Final = (500, 2_000)
_MB_MAX: Final = 400.0
_GROWTH_MAX: Final = 1.25


def measure(asked: Asked) -> Iterator[Line]:
    """Yield the lines of the table."""
    sizes = _SIZES_QUICK if asked.quick else _SIZES
    *_, before, most = sizes
    for kind in MAPPED:
        for form, peaks_mb in peaks(kind, sizes).items():
            what = f"plan, {kind} as {form}: peak memory"
            for size in sizes:
                goal = _MB_MAX if size == most and not asked.quick else None
                yield Line(what, f"{size:,} rows", [peaks_mb[size]], "MB", goal, at_most=True)
            growth = [peaks_mb[most] / peaks_mb[before]]
            yield Line(what, f"{most:,} to {before:,} rows", growth, "x", _GROWTH_MAX, at_most=True)


def peaks(kind: str, sizes: Sequence[int]) -> dict[str, dict[int, float]]:
    """Return the peaks in MB of planning, by form of the file and number of rows."""
    taken: dict[str, dict[int, float]] = {"CSV": {}, "Parquet": {}}
    with TemporaryDirectory() as name:
        text = Path(name) / f"{kind}.csv"
        columns = text.with_suffix(".parquet")
        for size in grown(kind, text, sizes):
            made = [sys.executable, "-m", "bench.memory", str(text), str(columns)]
            subprocess.run(made, env=environment(), check=True)
            taken["CSV"][size] = planned(kind, text).peak_mb
            taken["Parquet"][size] = planned(kind, columns).peak_mb
    return taken


if __name__ == "__main__":
    import polars as pl

    pl.scan_csv(sys.argv[1], infer_schema=False).sink_parquet(sys.argv[2])
