"""Arrange the turn in which a patient's coverages are written, and those to write again. Pure.

Canvas keeps one coverage per `order`, and moves the older one down (docs/canvas.md, "Coverage"), so a
swap of primary and secondary succeeds only in the right turn (`ranks.sequence`). If a write would move a
coverage that the file does not change, that one is written again; if it would move one that no row of
today's files has, a warning says so before anything is sent.
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
    """The result. `displaced`: keys of rows that the writes leave in another order than they had.

    `reordered`: the patients for whom a write takes an order that another coverage has. If a write for such a
    patient fails, the patient's other coverages may end in another order than expected.
    """

    turns: list["Turn"] = field(default_factory=list)
    displaced: list[str] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Turn:
    """The turn of one row. `slot` is the place in its feed; `is_forced`: it is unchanged, and written again."""

    feed: str
    seq: int
    slot: int
    is_forced: bool
    moves: str  # the owner of a coverage of no row that has its order: "unknown", "ours" (by the journal) or ""


def lanes_to_arrange(rows: Mapping[str, pl.DataFrame], occupied: Collection[str]) -> pl.Series:
    """Return the patients whose turns matter: there is a write, and a coverage that it may move.

    Args:
        rows: NEEDED by feed.
        occupied: The patients who have a coverage in Canvas.
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


def arrange(
    rows: Mapping[str, pl.DataFrame],
    before: Mapping[str, Mapping[str, int]],
    over: Collection[str] = (),
) -> Arranged:
    """Return the turns of these patients' rows.

    A patient's rows go in turn within each feed; feeds go as they are configured.

    Args:
        rows: NEEDED by feed, with all rows of each patient.
        before: By lane, the orders that Canvas holds, by key, or by `canvas:<id>` if no row has it.
        over: The keys of coverages that were ended by today: no warning says that they are moved.
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
        _arrange(group, before.get(group["lane"][0], {}), over, arranged)
    return arranged


def _arrange(
    rows: pl.DataFrame, held: Mapping[str, int], over: Collection[str], arranged: Arranged
) -> None:
    """Arrange one patient's rows. Rows that become inactive by the file itself go first and take no order."""
    written = rows.filter(pl.col("interaction") != "")
    active = rows.filter("active")
    ended = set(written.filter(~pl.col("active"))["key"])
    before = {key: order for key, order in held.items() if key not in ended}
    wanted = dict(zip(active["key"], active["order"], strict=True))
    in_turn = sequence(before, wanted, written["key"].to_list())
    known = {*rows["key"], *over}
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
    """Return the orders that others of the patient had, or have by now, without new coverages."""
    others = {other: order for other, order in held.items() if other != key}
    return {*others.values(), *(orders[other] for other in others if other in orders)}


def _displaced(
    before: Mapping[str, int], wanted: Mapping[str, int], orders: Mapping[str, int]
) -> list[str]:
    """Return the keys whose order ends neither as the file has it nor as it was."""
    claims = Counter(wanted.values())
    return [
        key
        for key, order in orders.items()
        if not key.startswith(OTHER)
        and (claims[wanted[key]] == 1 if key in wanted else True)
        and order != wanted.get(key, before.get(key))
    ]
