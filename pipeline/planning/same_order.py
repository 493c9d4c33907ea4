"""Compare active coverages of one patient with one `order` within the files."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.planning.beside import BUMPS, FOUND_SCHEMA, Beside, lines_between, standing_rows
from pipeline.rows.groups import Bounds, Scan, shared

_OPEN_END: Final = 1 << 30


def compare_same_order(
    rows: Mapping[str, Scan], beside: Mapping[str, Beside], folder: Path, bounds: Bounds
) -> None:
    """Judge two active coverages of one patient with one `order`: never in the same period.

    The later row is rejected if the periods share more than a boundary day; if not, it gets a warning
    (docs/canvas.md, "Coverage": the new one takes the order, and the older one is moved down).
    """
    later = {name: each.in_order().found.select("seq") for name, each in beside.items()}

    def standing(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        wanted = [name for name in columns if name != "feed"]
        for number, (name, scan) in enumerate(rows.items()):
            for part in standing_rows(scan).read([*wanted, "seq", "active"]):
                alone = part.join(lines_between(later[name], part), on="seq", how="anti")
                yield (
                    alone.filter("active")
                    .with_columns(pl.lit(number, dtype=pl.UInt32).alias("feed"))
                    .select(columns)
                )

    names = list(rows)
    stands = Scan(sum(scan.most for scan in rows.values()), standing)
    columns = ["lane", "order", "feed", "seq", "file", "row", "start_day", "end_day"]
    lines: dict[int, list[tuple[int, str, int, int]]] = {
        number: [] for number, _ in enumerate(names)
    }
    found = {name: [each.found] for name, each in beside.items()}
    for pile in shared(stands, ["lane", "order"], columns, folder / "orders", bounds):
        ordered = pile.sort("lane", "order", "feed", "seq").with_columns(
            pl.col("end_day").fill_null(_OPEN_END)
        )
        for _, group in groupby(ordered.iter_rows(), key=lambda row: row[:2]):
            periods = _Periods()
            for _, _, number, seq, file, row, start, end in group:
                where = (beside[names[number]].first_file + file, row)
                other = periods.take(start, end, where)
                if other is not None:
                    lines[number].append((seq, "order|collides", *other))
                elif periods.last is not None:
                    lines[number].append((seq, BUMPS, *periods.last))
                periods.last = where
        for number, mine in lines.items():
            found[names[number]].append(pl.DataFrame(mine, schema=FOUND_SCHEMA, orient="row"))
            mine.clear()
    for name, each in beside.items():
        each.found = pl.concat(found[name])


_Where = tuple[int, int]  # file and row


class _Periods:
    """The accepted periods of one patient and one order; they share boundary days at most."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int, _Where]] = []
        self.last: _Where | None = None  # the row before, whichever it was

    def take(self, start: int, end: int, row: _Where) -> _Where | None:
        """Add a period, or return the row whose period it overlaps. Only neighbours can overlap."""
        at = bisect_left(self._spans, (start, end, (-1, -1)))
        for first, last, other in self._spans[max(at - 2, 0) : at + 2]:
            if _overlap(start, end, first, last):
                return other
        self._spans.insert(at, (start, end, row))
        return None


def _overlap(start: int, end: int, first: int, last: int) -> bool:
    """Return whether two periods share more than one boundary day (all days inclusive)."""
    begins, ends = max(start, first), min(end, last)
    return begins < ends or (
        begins == ends and begins not in {_boundary(end, first), _boundary(last, start)}
    )


def _boundary(ends: int, begins: int) -> int | None:
    return ends if ends == begins else None
