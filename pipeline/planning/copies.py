"""Files of one plan that hold the same payments, although the keys of their rows differ.

With repeats = "count" an equal row of another file is another payment, and so is one of another feed. A
few such rows are true pairs. If most rows of a file are in another file, the two are one delivery in two
forms: compressed, with other line ends or columns, as part of a larger file, or under two feeds.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.planning.tables import STANDING
from pipeline.planning.writer import PlanWriter
from pipeline.records import Interaction
from pipeline.rows import groups
from pipeline.rows.feed import Feed

_FEW: Final = 3  # up to that many equal rows of larger files may be true pairs
_SAME: Final = ("lane", "amount_cents", "claim", "start_day", "source_id")
_COLUMNS: Final = (*_SAME, "file", "disposition", "interaction")


@dataclass(frozen=True, slots=True)
class Copied:
    """The payments of a file that are in another file, too, and would be created."""

    rows: int
    file: str
    other: str


@dataclass(frozen=True, slots=True)
class _Counts:
    """Rows by the number of their file, and equal rows by the numbers of two files."""

    rows: Counter[int] = field(default_factory=Counter)
    equal: Counter[tuple[int, int]] = field(default_factory=Counter)
    created: Counter[tuple[int, int]] = field(default_factory=Counter)  # of `equal`: to be created


def find_copies(
    writer: PlanWriter,
    feeds: Sequence[Feed],
    files: Mapping[str, Sequence[str]],
    folder: Path,
    check_stop: Callable[[], None],
) -> dict[str, Copied]:
    """Return by feed the file that repeats most of another one, or that another one repeats.

    Args:
        writer: The plan, with all verdicts.
        feeds: All feeds of the run; coverages are left out.
        files: The names of each feed's files, by number.
        folder: For rows that do not fit into memory.
        check_stop: Raises Stopped if the run is to end.
    """
    money = [feed for feed in feeds if feed.traits.has_money]
    places = [(feed, name) for feed in money for name in files[feed.name]]
    if len(places) < 2:  # noqa: PLR2004 - a pair
        return {}
    first = {feed.name: [each for each, _ in places].index(feed) for feed in money}

    def standing() -> Iterator[pl.DataFrame]:
        for feed in money:
            for rows in writer.rows(feed.name).judged(list(_COLUMNS)):
                check_stop()
                is_create = pl.col("interaction") == Interaction.CREATE.value
                yield rows.filter(pl.col("disposition").is_in(STANDING)).select(
                    *_SAME,
                    pl.col("file").cast(pl.UInt32) + first[feed.name],
                    is_create.alias("is_create"),
                )

    most = sum(len(writer.rows(feed.name)) for feed in money) * groups.BOUNDS.whole
    return _repeated(places, _count(standing(), folder, most))


def _count(standing: Iterator[pl.DataFrame], folder: Path, most: int) -> _Counts:
    counts = _Counts()
    for pile in groups.deal(
        standing, groups.by_hash(list(_SAME)), folder, most, groups.BOUNDS.narrow
    ):
        counted = pile.group_by(*_SAME, "file").agg(pl.len().alias("n"), pl.col("is_create").sum())
        counts.rows.update(dict(counted.group_by("file").agg(pl.col("n").sum()).iter_rows()))
        pairs = counted.join(counted, on=_SAME, nulls_equal=True).filter(
            pl.col("file") != pl.col("file_right")
        )
        sums = pairs.group_by("file", "file_right").agg(
            pl.min_horizontal("n", "n_right").sum(),
            pl.min_horizontal("is_create", "n_right").sum().alias("create"),
        )
        for one, other, same, new in sums.iter_rows():
            counts.equal[one, other] += same
            counts.created[one, other] += new
    return counts


def _repeated(places: Sequence[tuple[Feed, str]], counts: _Counts) -> dict[str, Copied]:
    """Return by feed the file with the most rows to be created that another file has too."""
    rows = counts.rows
    found: dict[str, Copied] = {}
    for (one, other), same in sorted(counts.equal.items(), reverse=True):
        (feed, file), (with_feed, with_file) = places[one], places[other]
        may_be = feed is not with_feed or feed.repeats == "count"
        is_whole = same == rows[one] == rows[other]
        is_most = same > _FEW and 2 * same > min(rows[one], rows[other])
        new = counts.created[one, other]
        if may_be and new and (is_whole or is_most):
            known = found.get(feed.name)
            if known is None or known.rows < new:
                found[feed.name] = Copied(new, file, _named(with_feed, with_file, feed))
    return found


def _named(feed: Feed, file: str, beside: Feed) -> str:
    return file if feed is beside else f"{file} of feed {feed.name}"
