"""Find what rows give each other, before the parts of the plan are made: subscribers, and orders by sequence.

Only feeds that ask for it are read here, and only few columns of them are kept. Rows that belong together are dealt to
piles on disk, so memory is bounded by a pile and not by the files.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from pipeline.journal import lookups
from pipeline.journal.subscribers import last_subscribers
from pipeline.planning.given import LINES, SIXTH, Given
from pipeline.planning.numbering import SIXTH_MESSAGE, Member, Phase, number
from pipeline.planning.parts import Part, PartTask, parts_of
from pipeline.planning.passes.files import files_before
from pipeline.planning.passes.tasks import part_task
from pipeline.planning.ranks import ORDER_MAX
from pipeline.planning.state import Build
from pipeline.planning.subscribers import find_subscribers
from pipeline.planning.survey import survey_relations, survey_standings, surveyed
from pipeline.planning.workers import Shared
from pipeline.reading.source import Source
from pipeline.rows import groups
from pipeline.rows.feed import Feed

_PART: Final = "_part"
# A line has seven bytes, so those of all rows are in memory. `order` null: the patient has five others.
_NUMBERED: Final[dict[str, Any]] = {"feed": pl.UInt16, "seq": pl.UInt32, "order": pl.Int8}

Survey = Callable[[Shared[PartTask], int, Part], None]


def relate_rows(build: Build) -> None:
    """Find the subscribers and the orders that other rows give. Sets `given` and `numbered`."""
    folder = build.new_folder()
    build.given = {feed.name: Given(folder, feed.name) for feed in build.job.feeds}
    for feed in build.coverages if build.crosswalks.by_row else ():
        _give_subscribers(build, feed)
    numbered = [feed for feed in build.coverages if feed.order_from == "sequence"]
    if numbered:
        _give_orders(build, numbered)


def _surveyed(build: Build, feed: Feed, survey: Survey) -> Iterator[pl.DataFrame]:
    """Yield what a survey finds in each part of a feed."""
    scratch = build.new_folder()
    task = build.workers.share(part_task(build, feed, scratch, held=False), scratch)
    parts = enumerate(parts_of(build.sources[feed.name]))
    calls = (partial(survey, task, at, part) for at, part in parts)
    for at, _ in enumerate(build.workers.in_turn(calls, build.check_stop)):
        path = surveyed(scratch, at)
        yield pl.read_parquet(path, glob=False)
        path.unlink()


# Subscribers --------------------------------------------------------------------------------------


def _give_subscribers(build: Build, feed: Feed) -> None:
    """Find the subscribers of a feed's dependents."""
    sources = build.sources[feed.name]
    files = [Path(source.origin).name for source in sources]
    most, at_once = sum(source.rows for source in sources), groups.BOUNDS.narrow
    surveyed_rows, by_id = _surveyed(build, feed, survey_relations), groups.by_hash(["id"])
    piles = groups.deal(surveyed_rows, by_id, build.new_folder(), most, at_once)
    earlier = partial(last_subscribers, build.journal)
    found = (find_subscribers(pile, files, earlier) for pile in piles)
    part_of = _part_of(sources)

    def pile_of(count: int) -> pl.Expr:
        return part_of % count

    lines = groups.deal(found, pile_of, build.new_folder(), most, at_once)
    _write(build, feed, "subscriber", lines)


# Orders -------------------------------------------------------------------------------------------


def _give_orders(build: Build, feeds: Sequence[Feed]) -> None:
    """Number the coverages of all feeds together: a patient may be in several."""
    found = [pl.DataFrame(schema=_NUMBERED)]
    rows = (part for at, feed in enumerate(feeds) for part in _standing(build, feed, at, found))
    most = sum(source.rows for feed in feeds for source in build.sources[feed.name])
    folder, at_once = build.new_folder(), groups.BOUNDS.narrow
    whole = {feed.name for feed in feeds if not _is_partial(build, feed)}
    build.numbered = {feed.name: Counter(numbered=0, moved=0) for feed in feeds}
    for pile in groups.deal(rows, groups.by_hash(["lane"]), folder, most, at_once):
        build.check_stop()
        found.append(_numbered(build, feeds, pile, whole))
    every = pl.concat(found)
    for at, feed in enumerate(feeds):
        message = pl.when(pl.col("order").is_null()).then(pl.lit(SIXTH_MESSAGE)).alias(SIXTH)
        lines = every.filter(pl.col("feed") == at).with_columns(
            pl.col("order").cast(pl.String), message
        )
        _write(build, feed, "order", [lines])


def _standing(
    build: Build, feed: Feed, at: int, found: list[pl.DataFrame]
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a feed (its number is `at`) whose patient is known. Others are rejected, and `found` at once.

    A rejected row counts for the patient of its coverage if Canvas has that, whatever its cells say.
    """
    for rows in _surveyed(build, feed, survey_standings):
        held = lookups.active(build.journal, rows.filter(~pl.col("is_good"))["key"])
        lanes = pl.when("is_good").then("lane").otherwise(pl.coalesce("held_lane", "lane"))
        held = held.select("key", pl.col("lane").alias("held_lane"))
        every = rows.join(held, on="key", how="left", maintain_order="left").select(
            *rows.drop("lane").columns,
            lanes.alias("lane"),
            pl.lit(at, dtype=pl.UInt16).alias("feed"),
        )
        nobodys = every.filter(pl.col("lane").is_null()).with_columns(order=ORDER_MAX)
        found.append(nobodys.select(pl.col(name).cast(kind) for name, kind in _NUMBERED.items()))
        yield every.drop_nulls("lane")


def _is_partial(build: Build, feed: Feed) -> bool:
    """Return whether the files of a feed may lack rows of today, so that what is not in them keeps its order."""
    sources, before = build.sources[feed.name], files_before(build, feed)
    return (
        feed.delivery == "increment"
        or feed.name in build.job.inputs
        or build.has_changes_only(feed.name)
        or any(source.run_column for source in sources)
        or (before is not None and len(sources) < before)
    )


def _numbered(
    build: Build, feeds: Sequence[Feed], pile: pl.DataFrame, whole: Collection[str]
) -> pl.DataFrame:
    """Return the orders (_NUMBERED) of all rows of some patients."""
    ranks = lookups.ranks(build.journal, pile["lane"].unique()).drop_nulls("rank")
    held: dict[str, dict[str, tuple[str, int]]] = {}
    for lane, key, feed, rank in ranks.select("lane", "key", "feed", "rank").iter_rows():
        held.setdefault(lane, {})[key] = feed, rank
    columns = ("lane", "feed", "seq", "key", "line", "phase", "is_good")
    ordered = pile.sort("lane", "feed", "seq").select(columns)
    lines: list[tuple[int, int, int | None]] = []
    for lane, group in groupby(ordered.iter_rows(), key=itemgetter(0)):
        rows = [_Row(*row[1:]) for row in group]
        lines += _of_patient(build, feeds, rows, held.get(lane, {}), whole)
    return pl.DataFrame(lines, schema=_NUMBERED, orient="row")


class _Row(NamedTuple):
    feed: int
    seq: int
    key: str
    line: int
    phase: int
    is_good: bool


def _of_patient(
    build: Build,
    feeds: Sequence[Feed],
    rows: Sequence[_Row],
    held: Mapping[str, tuple[str, int]],
    whole: Collection[str],
) -> Iterator[tuple[int, int, int | None]]:
    """Yield feed, seq and order of each row of one patient. Of rows of one key the first good one counts."""
    first: dict[str, tuple[int, _Row]] = {}
    for place, row in enumerate(rows):
        known = first.get(row.key)
        if known is None or (row.is_good and not known[1].is_good):
            first[row.key] = place, row
    members = []
    for key, (place, row) in first.items():
        rank = held[key][1] if key in held else None
        is_fixed = rank is not None and not (row.is_good and feeds[row.feed].update)
        if row.is_good or is_fixed:
            members.append(Member(key, row.line, place, Phase(row.phase), rank, is_fixed))
    # A row that is rejected under a new key may be any coverage that the files seem to lack.
    is_whole = all(row.is_good or key in held for key, (_, row) in first.items())
    reserved = {
        rank
        for key, (feed, rank) in held.items()
        if key not in first and not (is_whole and feed in whole)
    }
    orders = number(members, reserved)
    for each in members:
        order = orders.get(each.key)
        if each.phase is Phase.ACTIVE and order is not None:
            counts = build.numbered[feeds[first[each.key][1].feed].name]
            counts["numbered"] += 1
            counts["moved"] += each.held not in {None, order}
    for row in rows:
        fixed = held.get(row.key, ("", ORDER_MAX))[1]
        yield row.feed, row.seq, orders.get(row.key, fixed)


# Writing ------------------------------------------------------------------------------------------


def _part_of(sources: Sequence[Source]) -> pl.Expr:
    """Return the expression of the part that a row is in."""
    edges = pl.Series([part.first_seq for part in parts_of(sources)], dtype=pl.UInt32)
    return pl.col("seq").map_batches(
        lambda seqs: edges.search_sorted(seqs, side="right") - 1, return_dtype=pl.UInt32
    )


def _write(build: Build, feed: Feed, field: str, frames: Iterable[pl.DataFrame]) -> None:
    """Write the lines of each part, to be read from now on. `frames` have all lines of a part in one frame."""
    sources, given = build.sources[feed.name], build.given[feed.name]
    part_of = _part_of(sources).alias(_PART)
    none = pl.DataFrame(schema={"seq": pl.UInt32, **dict.fromkeys(LINES[field], pl.String)})
    left = set(range(len(list(parts_of(sources)))))
    for lines in frames:
        build.check_stop()
        for (part,), mine in lines.with_columns(part_of).partition_by(_PART, as_dict=True).items():
            given.write(field, part, mine)
            left.remove(part)
    for part in left:
        given.write(field, part, none)
    build.given[feed.name] = replace(given, fields=(*given.fields, field))
