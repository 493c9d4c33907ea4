"""The peak memory of a plan, by the rows of its file."""

from collections.abc import Iterator, Sequence
from typing import Final

from bench.growth import peak_mb, plans
from bench.rounds import Asked, Line
from bench.validate import MAPPED

_SIZES: Final = (200_000, 1_000_000, 5_000_000)
_SIZES_QUICK: Final = (500, 2_000)
_MB_MAX: Final = 400.0
_GROWTH_MAX: Final = 1.25


def measure(asked: Asked) -> Iterator[Line]:
    """The lines of the table."""
    sizes = _SIZES_QUICK if asked.quick else _SIZES
    for kind, peaks_mb in peaks(sizes).items():
        what = f"plan, {kind}: peak memory"
        *_, before, most = sizes
        for size in sizes:
            goal = _MB_MAX if size == most and not asked.quick else None
            yield Line(what, f"{size:,} rows", [peaks_mb[size]], "MB", goal, at_most=True)
        grown = peaks_mb[most] / peaks_mb[before]
        yield Line(what, f"{most:,} to {before:,} rows", [grown], "x", _GROWTH_MAX, at_most=True)


def peaks(sizes: Sequence[int]) -> dict[str, dict[int, float]]:
    """The peak in MB of planning a file of so many rows, by kind and rows."""
    return {
        kind: {size: peak_mb(usages) for size, usages in plans(kind, sizes).items()}
        for kind in MAPPED
    }
