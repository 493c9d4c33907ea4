"""The request rate of a run over time: its requests in bins of equal length. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

import polars as pl

_BINS_MAX: Final = 120
_WIDTHS_S: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400)  # fmt: skip
_DRAWN_MIN: Final = 3  # bins
_LINES_MAX: Final = 24  # of the table with the same data
_PAUSE_S_MIN: Final = 1.0  # a shorter one is no pause,
_PAUSE_GAPS: Final = 10  # nor is one that is not this many times the usual gap between two requests
_PAUSES_SHOWN: Final = 100


@dataclass(frozen=True, slots=True)
class Bin:
    """Some seconds of a run. Latencies are None if no request was answered."""

    at: datetime
    requests: int
    p50_ms: float | None
    p95_ms: float | None
    retried: int  # writes sent again
    lost: int  # writes whose answer does not say whether they were applied


@dataclass(frozen=True, slots=True)
class Pace:
    """A run's requests over time."""

    width_s: int
    bins: tuple[Bin, ...]
    lines: tuple[Bin, ...]  # the same in fewer bins, for the table
    line_s: int
    pauses: tuple[tuple[float, float], ...]  # seconds since 1970: from, to
    pause_count: int
    pause_s: float  # all together
    retried: int
    lost: int

    @property
    def is_drawn(self) -> bool:
        """Return whether there is enough for a chart, and for a meaningful rate."""
        return len(self.bins) >= _DRAWN_MIN

    @property
    def chart(self) -> dict[str, Any]:
        """Return the data of the chart: numbers only."""
        return {
            "at": [each.at.timestamp() for each in self.bins],
            "rate": [round(each.requests / self.width_s, 3) for each in self.bins],
            "p50": [each.p50_ms for each in self.bins],
            "p95": [each.p95_ms for each in self.bins],
            "retried": [each.retried for each in self.bins],
            "lost": [each.lost for each in self.bins],
            "pauses": self.pauses,
        }


def pace(exchanges: pl.DataFrame) -> Pace | None:
    """Return the pace of the requests that `runs.exchanges` returns; None if there was none.

    A pause is a second or more in which no request began, and ten times the usual gap.
    """
    if exchanges.is_empty():
        return None
    lines = exchanges.select(
        (pl.col("sent_at").str.to_datetime(time_zone="UTC").dt.epoch("ms") / 1000).alias("at"),
        "latency_ms",
        ((pl.col("purpose") == "write") & (pl.col("attempt") > 1)).alias("retried"),
        (pl.col("verdict") == "lost").alias("lost"),
    ).sort("at")
    start, end = lines["at"][0], lines["at"][-1]
    width_s, line_s = _width(end - start, _BINS_MAX), _width(end - start, _LINES_MAX)
    pauses = _pauses(lines["at"].to_list())
    return Pace(
        width_s=width_s,
        bins=_bins(lines, start, end, width_s),
        lines=_bins(lines, start, end, line_s),
        line_s=line_s,
        pauses=tuple(pauses[:_PAUSES_SHOWN]),
        pause_count=len(pauses),
        pause_s=sum(until - since for since, until in pauses),
        retried=int(lines["retried"].sum()),
        lost=int(lines["lost"].sum()),
    )


def _width(span_s: float, bins_max: int) -> int:
    """Return the smallest round width with which a span fits into `bins_max` bins.

    It is at least a second: within less time more may be sent than `rate_per_s`, and the chart would show it.
    """
    return next(
        (width_s for width_s in _WIDTHS_S if span_s / width_s < bins_max - 1),
        int(span_s // (bins_max - 1)) + 1,
    )


def _bins(lines: pl.DataFrame, start: float, end: float, width_s: int) -> tuple[Bin, ...]:
    first = start // width_s
    number = (pl.col("at") / width_s).floor().cast(pl.Int64) - int(first)
    grouped = lines.group_by(number.alias("number")).agg(
        pl.len(),
        pl.col("latency_ms").quantile(0.5, "nearest").alias("p50"),
        pl.col("latency_ms").quantile(0.95, "nearest").alias("p95"),
        pl.col("retried").sum(),
        pl.col("lost").sum(),
    )
    found = {line[0]: line[1:] for line in grouped.iter_rows()}
    count = int(end // width_s - first) + 1
    return tuple(
        Bin(
            datetime.fromtimestamp((first + each) * width_s, UTC),
            *found.get(each, (0, None, None, 0, 0)),
        )
        for each in range(count)
    )


def _pauses(at: Sequence[float]) -> list[tuple[float, float]]:
    gaps = [after - before for before, after in pairwise(at)]
    if not gaps:
        return []
    least_s = max(_PAUSE_S_MIN, _PAUSE_GAPS * sorted(gaps)[len(gaps) // 2])
    return [(before, after) for before, after in pairwise(at) if after - before >= least_s]
