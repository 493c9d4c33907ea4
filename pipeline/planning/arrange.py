"""In which turn a patient's coverages are written, and which must be written beside them. Pure.

Canvas keeps one coverage an `order`, and bumps the older one down (docs/canvas.md, "Coverage"), so
a swap of primary and secondary comes out right only in the right turn (`ranks.sequence`). Where a
write would move a coverage that the file does not change, that one is written again; where it
would move one that no row of today's files has, a warning says so before anything is sent.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from pipeline.planning.ranks import after, sequence

# The columns of a feed's rows, with their verdicts, that this stage needs.
NEEDED: Final = ("seq", "key", "lane", "order", "start_day", "active", "disposition", "interaction")
_SHAPE: Final = {
    "lane": pl.String,
    "order": pl.Int8,
    "active": pl.Boolean,
    "interaction": pl.String,
}
OTHER: Final = "canvas:"  # before the id of a coverage that no row has

RULE: Final = "order|taken"
MESSAGES: Final = {
    "unknown": "Canvas holds another coverage of the patient with this order, which was not made by a row of ours: "
    "Canvas will move it down",
    "ours": "an earlier run gave this order to another coverage of the patient, which no row of today's files has: "
    "Canvas will move that one down",
}


@dataclass(slots=True)
class Arranged:
    """What was decided. `displaced`: keys of rows that the writes leave in another order than they had.

    `reordered`: the patients of whom a write takes an order that another one has. If a write of
    theirs fails, others of theirs may end elsewhere than was reckoned with.
    """

    turns: list["Turn"] = field(default_factory=list)
    displaced: list[str] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Turn:
    """One row's place. `slot` is the place in its feed; `is_forced`: it is unchanged, and written again."""

    feed: str
    seq: int
    slot: int
    is_forced: bool
    moves: str  # whose coverage has its order, and is in no row: "unknown", "ours" (by our books) or ""


def lanes_to_arrange(rows: Mapping[str, pl.DataFrame], occupied: Collection[str]) -> pl.Series:
    """The patients whose turns matter: something is written, and something may be in its way.

    `rows` holds the columns NEEDED by feed, `occupied` the patients of whom Canvas holds a coverage.
    """
    every = pl.concat(
        [pl.DataFrame(schema=_SHAPE), *(frame.select(list(_SHAPE)) for frame in rows.values())]
    )
    written = every.filter(pl.col("interaction") != "")
    shared = every.filter(pl.col("active") & (pl.len().over("lane", "order") > 1))
    return (
        written.filter(
            pl.col("lane").is_in(list(occupied)) | pl.col("lane").is_in(shared["lane"].implode())
        )["lane"]
        .unique()
        .sort()
    )


def arrange(rows: Mapping[str, pl.DataFrame], before: Mapping[str, Mapping[str, int]]) -> Arranged:
    """The turns of these patients' rows. `rows` holds NEEDED by feed, with all rows of each patient.

    `before`: by lane, the orders that Canvas holds, by key, or by `canvas:<id>` where no row has it.
    A patient's rows go in turn within each feed; feeds go as they are configured.
    """
    arranged = Arranged()
    frames = [
        frame.select(*NEEDED).with_columns(pl.lit(feed).alias("feed"), pl.lit(at).alias("at"))
        for at, (feed, frame) in enumerate(rows.items())
    ]
    if not frames:
        return arranged
    every = pl.concat(frames).sort("lane", "order", "start_day", "at", "seq")
    for group in every.partition_by("lane", maintain_order=True):
        _arrange(group, before.get(group["lane"][0], {}), arranged)
    return arranged


def _arrange(rows: pl.DataFrame, held: Mapping[str, int], arranged: Arranged) -> None:
    """One patient's rows. What is made inactive by the file itself goes first, and takes no order."""
    written = rows.filter(pl.col("interaction") != "")
    active = rows.filter("active")
    ended = set(written.filter(~pl.col("active"))["key"])
    before = {key: order for key, order in held.items() if key not in ended}
    wanted = dict(zip(active["key"], active["order"], strict=True))
    in_turn = sequence(before, wanted, written["key"].to_list())
    known = set(rows["key"])
    absent = {key: order for key, order in before.items() if key not in known}
    unknown = {order for key, order in absent.items() if key.startswith(OTHER)}
    place = {key: at for at, key in enumerate(in_turn)}
    going = rows.filter((pl.col("interaction") != "") | pl.col("key").is_in(in_turn)).sort("at")
    orders, is_contested = before, False
    for feed_rows in going.partition_by("feed", maintain_order=True):
        lines = sorted(feed_rows.iter_rows(named=True), key=lambda line: place.get(line["key"], -1))
        slots = sorted(line["seq"] for line in lines)
        for line, slot in zip(lines, slots, strict=True):
            key, order = line["key"], line["order"]
            is_moving = line["active"] and before.get(key) != order
            is_forced = not line["interaction"]
            is_absent = is_moving and order in absent.values()
            moves = ("unknown" if order in unknown else "ours") if is_absent else ""
            arranged.turns.append(Turn(line["feed"], line["seq"], slot, is_forced, moves))
            is_contested = is_contested or (is_moving and order in _others(held, orders, key))
            if line["active"]:
                orders = after(orders, key, order)
    if is_contested:
        arranged.reordered.append(rows["lane"][0])
    arranged.displaced += _displaced(before, wanted, orders)


def _others(held: Mapping[str, int], orders: Mapping[str, int], key: str) -> set[int]:
    """The orders that others of the patient had, or have by now; what is created tonight aside."""
    others = {other: order for other, order in held.items() if other != key}
    return {*others.values(), *(orders[other] for other in others if other in orders)}


def _displaced(
    before: Mapping[str, int], wanted: Mapping[str, int], orders: Mapping[str, int]
) -> list[str]:
    """The keys whose order ends as neither the file has it nor it was."""
    claims = Counter(wanted.values())
    return [
        key
        for key, order in orders.items()
        if not key.startswith(OTHER)
        and (claims[wanted[key]] == 1 if key in wanted else True)
        and order != wanted.get(key, before.get(key))
    ]
