"""Decide in which order the coverages of a patient are written."""

from collections.abc import Iterator, Sequence
from typing import Final

import orjson
import polars as pl

from pipeline.journal import lookups
from pipeline.planning import arrange as arranging
from pipeline.planning.arrange import Turn, arrange, lanes_to_arrange
from pipeline.planning.beside import BUMPS
from pipeline.planning.passes.again import read_again
from pipeline.planning.ranks import can_be_last
from pipeline.planning.state import Build, Orders
from pipeline.planning.tables import KEPT, VERDICT_SCHEMA
from pipeline.records import (
    Disposition,
    Interaction,
)
from pipeline.rows import groups
from pipeline.rows.feed import Feed

_STANDING: Final = (Disposition.PENDING.value, Disposition.UNCHANGED.value)


# Rows whose turn is not their place in the file, that are written for their order alone, or that move a coverage of no row.
_TURNED: Final = {
    "feed": pl.String,
    "seq": pl.UInt32,
    "slot": pl.UInt32,
    "is_forced": pl.Boolean,
    "moves": pl.String,
}


def arrange_writes(build: Build) -> None:
    """Arrange the writes of each patient's coverages, and write unchanged ones again whose order would move.

    Sets `cancels`, `displaced` and `reordered`; writes the verdicts slot, field, rule and message, and of rows that are
    written again all of them.
    """
    missing = pl.concat(each.missing for each in build.feed_plans.values())
    build.cancels = missing.filter(pl.col("interaction") != "").select(build.cancels.columns)
    lanes = _lanes_in_question(build)
    if lanes.is_empty():
        return
    rows = (part for feed in build.coverages for part in _standing(build, feed, lanes))
    most = sum(build.feed_plans[feed.name].meta["rows_read"] for feed in build.coverages)
    folder, at_once = build.copies / "arrange", groups.BOUNDS.narrow
    turned = [pl.DataFrame(schema=_TURNED)]
    for pile in groups.deal(rows, groups.by_hash(["lane"]), folder, most, at_once):
        build.check_stop()
        turned.append(_arrange_some(build, pile))
    for (name,), mine in pl.concat(turned).group_by("feed", maintain_order=True):
        _enter_turns(build, build.feeds[str(name)], mine)


def _lanes_in_question(build: Build) -> pl.Series:
    """Return the hashes of patients to arrange, a superset of `lanes_to_arrange`.

    Canvas has a coverage of the patient, or `resolve` has warned that two of the patient's rows share an order.
    """
    lanes = [_hashes(pl.Series("lane", list(build.unknown), dtype=pl.String))]
    for feed in build.coverages:
        rows = build.writer.rows(feed.name)
        for going in build.to_write(feed, ["lane"]):
            build.check_stop()
            ranks = lookups.ranks(build.journal, going["lane"].unique())
            lanes.append(_hashes(ranks.drop_nulls("rank")["lane"]))
        is_beside = pl.col("rule").str.contains(BUMPS, literal=True) | pl.col("shown").is_not_null()
        lanes += [_hashes(beside["lane"]) for beside in rows.where(is_beside, ["lane"])]
    return pl.concat(lanes).unique().sort()


def _hashes(lanes: pl.Series) -> pl.Series:
    return lanes.unique().to_frame("lane").select(groups.hashed(["lane"])).to_series()


def _standing(build: Build, feed: Feed, lanes: pl.Series) -> Iterator[pl.DataFrame]:
    """Yield the rows of these patients that Canvas has or will have, with the columns that `arrange` needs.

    `shown` is the order that Canvas showed for a coverage that is taken over, else null.
    """
    for rows in build.writer.rows(feed.name).judged([*arranging.NEEDED, "shown"]):
        is_asked = groups.is_among(rows.select(groups.hashed(["lane"])).to_series(), lanes)
        mine = rows.filter(is_asked & rows["disposition"].is_in(_STANDING))
        shown = [_order_shown(text) for text in mine["shown"]]
        yield mine.with_columns(
            pl.Series("shown", shown, dtype=pl.Int64), pl.lit(feed.name).alias("feed")
        )


def _order_shown(shown: bytes | None) -> int | None:
    """Return the order of a coverage that Canvas showed; None if it is not active."""
    if shown is None:
        return None
    coverage = orjson.loads(shown)
    order = coverage.get("order")
    return order if coverage["status"] == "active" and isinstance(order, int) else None


def _arrange_some(build: Build, pile: pl.DataFrame) -> pl.DataFrame:
    """Return the turns (_TURNED) of some patients, given all their rows."""
    going = pile.filter(pl.col("interaction") != "")["lane"].unique()
    ranks = lookups.ranks(build.journal, going)
    before = _before(build, ranks, pile)
    standing = {feed.name: pile.filter(pl.col("feed") == feed.name) for feed in build.coverages}
    lanes = lanes_to_arrange(standing, before)
    rows = {
        name: frame.filter(pl.col("lane").is_in(lanes.implode()))
        for name, frame in standing.items()
    }
    arranged = arrange(rows, before, _over(build, ranks))
    build.displaced += arranged.displaced
    build.reordered += arranged.reordered
    first = _order_cancels(build, pile, arranged.turns, before, ranks)
    build.reordered += first.intersection(lanes)
    lines = [
        (turn.feed, turn.seq, turn.slot, turn.is_forced, turn.moves)
        for turn in arranged.turns
        if turn.slot != turn.seq or turn.is_forced or turn.moves
    ]
    return pl.DataFrame(lines, schema=_TURNED, orient="row")


def _before(build: Build, ranks: pl.DataFrame, rows: pl.DataFrame) -> Orders:
    """Return the orders that Canvas has, without those of coverages to cancel, which go first.

    One that ends keeps its order, because it is not known whether Canvas frees it (docs/canvas.md, "Coverage").
    """
    sent = dict(build.cancels.select("key", "order").iter_rows())
    before: Orders = {
        lane: dict(build.unknown[lane]) for lane in rows["lane"].unique() if lane in build.unknown
    }
    for lane, key, order in ranks.select("lane", "key", "rank").iter_rows():
        rank = sent.get(key, order)
        if order is not None and rank is not None:
            before.setdefault(lane, {})[key] = rank
    # A coverage that is taken over has the order that Canvas showed.
    adopted = rows.drop_nulls("shown").select("lane", "key", "shown")
    for lane, key, order in adopted.iter_rows():
        before.setdefault(lane, {})[key] = order
    return before


def _over(build: Build, ranks: pl.DataFrame) -> set[str]:
    """Return the keys of coverages that this or an earlier run ended by today: it does no harm to move them."""
    ends = pl.concat([
        build.cancels.select("key", end="end_on"),
        ranks.select("key", end="held_end"),
    ])  # fmt: skip
    return set(ends.filter(pl.col("end") <= build.today.isoformat())["key"])


def _order_cancels(
    build: Build, pile: pl.DataFrame, turns: Sequence[Turn], before: Orders, ranks: pl.DataFrame
) -> set[str]:
    """Let cancellations and ends go last if no write needs their order.

    Returns:
        The patients with one that stays before the writes.
    """
    slots = pl.DataFrame(
        [(turn.feed, turn.seq, turn.slot) for turn in turns],
        schema={"feed": pl.String, "seq": pl.UInt32, "slot": pl.UInt32},
        orient="row",
    )
    at = {feed.name: number for number, feed in enumerate(build.coverages)}
    going = (
        pile.join(slots, on=["feed", "seq"], how="left")
        .filter((pl.col("interaction") != "") | pl.col("slot").is_not_null())
        .sort(pl.col("feed").replace_strict(at), pl.coalesce("slot", "seq"))
    )
    order = pl.when("active").then("order")
    writes: dict[str, list[tuple[str, int | None]]] = {}
    for lane, key, rank in going.select("lane", "key", order).iter_rows():
        writes.setdefault(lane, []).append((key, rank))
    cancels = build.cancels.select("key", "lane").join(
        ranks.select("key", "rank", "displaced"), on="key"
    )
    last, first = set[str](), set[str]()
    for (lane,), mine in cancels.group_by("lane"):
        # The order of one that was moved is not known for sure: it goes first.
        gone = dict(mine.filter(displaced=0).select("key", "rank").iter_rows())
        last |= can_be_last(before.get(str(lane), {}), gone, writes.get(str(lane), []))
        if not last.issuperset(mine["key"]):
            first.add(str(lane))
    for judged in build.feed_plans.values():
        is_last = pl.col("is_last") | pl.col("key").is_in(list(last))
        judged.missing = judged.missing.with_columns(is_last.alias("is_last"))
    return first


def _enter_turns(build: Build, feed: Feed, turns: pl.DataFrame) -> None:
    """Enter the turns of a feed in its verdicts."""
    is_forced = pl.col("is_forced") & pl.lit(value=feed.update)
    is_warned = pl.when(pl.col("moves") != "")
    lines = turns.filter(~is_forced).select(
        "seq",
        pl.when(pl.col("slot") != pl.col("seq")).then("slot").alias("slot"),
        is_warned.then(pl.lit("order")).alias("field"),
        is_warned.then(pl.lit(arranging.RULE)).alias("rule"),
        pl.col("moves").replace_strict(arranging.MESSAGES, default=None).alias("message"),
    )
    build.writer.amend(feed.name, lines)
    forced = turns.filter(is_forced)
    if not forced.is_empty():
        _write_again(build, feed, forced)


def _write_again(build: Build, feed: Feed, forced: pl.DataFrame) -> None:
    """Write unchanged rows again, in their turn, because another write would move their order."""
    columns = ["seq", "file", "row", "key", "body"]
    rows = pl.concat(build.writer.rows(feed.name).some(forced["seq"], columns))
    drafts = read_again(build, feed, rows.filter(pl.col("body").is_null()))
    entered = forced.join(rows.select("seq", "key"), on="seq")
    lines = [
        {
            "seq": seq,
            "key": key,
            "disposition": Disposition.PENDING.value,
            "interaction": Interaction.UPDATE.value,
            "field": "order",
            "rule": KEPT,
            "message": "unchanged, and written again: another write would move its order",
            "slot": slot,
            "likeness": drafts[seq].match_key if seq in drafts else None,
            "body": drafts[seq].body if seq in drafts else None,
        }
        for seq, key, slot in entered.select("seq", "key", "slot").iter_rows()
    ]
    build.writer.amend(feed.name, pl.DataFrame(lines, schema=VERDICT_SCHEMA), how="full")
