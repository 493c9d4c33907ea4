"""Search Canvas: for patients by their identifiers, and for coverages that it has already."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson
import polars as pl

from pipeline.journal import doubts, lookups
from pipeline.planning import arrange as arranging
from pipeline.planning.adopt import Adopted, Ambiguity, Row, Shown, adopt
from pipeline.planning.lookup import lookup
from pipeline.planning.state import Asking, Build
from pipeline.planning.tables import VERDICT_SCHEMA
from pipeline.reading.read import read
from pipeline.records import (
    ADOPTED,
    Disposition,
    Interaction,
    Stage,
)
from pipeline.rows import groups
from pipeline.rows.crosswalk import Crosswalk
from pipeline.rows.feed import Feed

_PATIENTS_AT_ONCE: Final = 500  # searched for at the same time


_PATIENTS_A_READING: Final = 8_000  # whose rows are in memory at the same time


_ADOPTED_SCHEMA: Final = {
    name: VERDICT_SCHEMA[name]
    for name in (
        "seq",
        "disposition",
        "interaction",
        "resource_id",
        "stage",
        "field",
        "rule",
        "message",
        "held_at",
        "shown",
    )
}


_AMBIGUOUS: Final = {
    Ambiguity.SEVERAL: (
        "Canvas holds several coverages that this row could be, or one that several rows could be: tell "
        "them apart by period or order, or cancel the surplus one"
    ),
    Ambiguity.PAYER: (
        "Canvas holds a coverage of this patient with this member id in an overlapping period, and it is "
        "not known whether its payer is the payer of this row: map payer_name as Canvas spells it, or name "
        "the Organization of the payer id in the table of references.payer (its key organization)"
    ),
}


async def look_up_patients(build: Build, session: Asking) -> None:
    """Search for the patients that the files name. Sets the crosswalk of patients."""
    reference, options = build.job.references.patient, build.job.canvas

    def batches() -> Iterator[tuple[Feed, pl.DataFrame]]:
        for feed in build.job.feeds:
            for source in build.sources[feed.name]:
                for batch in read(source):
                    build.check_stop()
                    yield feed, batch.frame

    table = await lookup(batches(), reference, session.client, options.concurrency, build.progress)
    build.progress.sent = build.progress.to_send = 0
    patient = Crosswalk(reference.target, table, is_search=True)
    build.set_crosswalks(replace(build.crosswalks, patient=patient))


async def take_over(build: Build, session: Asking | None) -> None:
    """Take over coverages that Canvas has already, and note the orders that coverages of no row have.

    After a loss of the journal this is skipped: a person decides about what Canvas has. Sets `unknown` and `unasked`;
    writes the verdicts of rows that are taken over, and what Canvas showed of them (held_at, shown).
    """
    if build.journal.was_lost or not any(feed.adopt for feed in build.coverages):
        return
    piles = await asyncio.to_thread(_to_take_over, build)
    build.unasked = sum(pile["lane"].n_unique() for pile in piles)
    if session is None or not build.unasked:
        return
    await session.client.probe("Coverage")
    build.progress.stage = "searching"
    build.progress.to_send = build.unasked
    for pile in piles:
        lanes = pile.select(pl.col("lane").unique(maintain_order=True))
        for part in lanes.iter_slices(_PATIENTS_A_READING):
            rows = pile.join(part, on="lane", how="semi", maintain_order="left")
            await _ask_about(build, rows.with_row_index("number"), session)
    build.progress.sent = build.progress.to_send = 0


async def _ask_about(build: Build, rows: pl.DataFrame, session: Asking) -> None:
    """Search for the coverages of some patients, and enter what is taken over."""
    bodies = await asyncio.to_thread(_bodies, build, rows)
    lanes = rows.select(pl.col("lane").unique(maintain_order=True))
    try:
        for part in lanes.iter_slices(_PATIENTS_AT_ONCE):
            build.check_stop()
            mine = rows.join(part, on="lane", how="semi", maintain_order="left")
            shown = await _search(build, session, _by_lane(mine, bodies))
            await session.record()
            for each in shown:
                _note(build, each, mine)
            build.progress.sent += part.height
            build.unasked -= part.height
    finally:
        await asyncio.to_thread(_enter, build)


def _to_take_over(build: Build) -> groups.Piles:
    """Return rows without a resource (feed, seq, lane), all rows of a patient together.

    Lines with seq null are patients to search for because an order of theirs changes: a coverage that no row
    has may have that order.
    """
    shut = list(doubts.shut_queues(build.journal))
    found = (
        rows.select(pl.lit(feed.name).alias("feed"), "seq", "lane")
        for feed in build.coverages
        for rows in _without_resource(build, feed)
    )
    return groups.deal(
        (rows.filter(~pl.col("lane").is_in(shut)) for rows in found),
        groups.by_hash(["lane"]),
        build.copies / "adopt",
        sum(build.feed_plans[feed.name].meta["rows_read"] for feed in build.coverages),
        groups.BOUNDS.narrow,
    )


def _without_resource(build: Build, feed: Feed) -> Iterator[pl.DataFrame]:
    none = pl.lit(None, dtype=pl.UInt32).alias("seq")
    for going in build.to_write(feed, ["seq", "key", "lane", "order", "active", "interaction"]):
        build.check_stop()
        if feed.adopt:
            yield going.filter(pl.col("interaction") == Interaction.CREATE.value)
        updated = going.filter(pl.col("interaction") == Interaction.UPDATE.value)
        ranks = lookups.ranks(build.journal, updated["lane"].unique()).select("key", "rank")
        moves = updated.join(ranks, on="key", how="left").filter(
            pl.col("active") & pl.col("order").ne_missing(pl.col("rank"))
        )
        yield moves.select(none, "lane")


def _bodies(build: Build, rows: pl.DataFrame) -> dict[int, bytes]:
    """Return the body of each row without a resource, by its number."""
    bodies: dict[int, bytes] = {}
    for feed in build.coverages:
        mine = rows.filter((pl.col("feed") == feed.name) & pl.col("seq").is_not_null())
        for part in build.writer.rows(feed.name).some(mine["seq"], ["seq", "body"]):
            bodies |= dict(mine.join(part, on="seq").select("number", "body").iter_rows())
    return bodies


def _by_lane(rows: pl.DataFrame, bodies: Mapping[int, bytes]) -> dict[str, list[Row]]:
    """Return the rows without a resource by patient."""
    by_lane: dict[str, list[Row]] = {lane: [] for lane in rows["lane"].unique()}
    for number, lane in rows.select("number", "lane").iter_rows():
        if number in bodies:
            by_lane[lane].append(Row(number, orjson.loads(bodies[number])))
    return by_lane


async def _search(build: Build, session: Asking, by_lane: Mapping[str, list[Row]]) -> list[Shown]:
    """Search for several patients at once. If a search fails, those in flight are awaited, so that each is recorded."""
    found = await asyncio.gather(
        *(
            adopt(session.client, build.journal, session.clock, lane, rows, build.organizations)
            for lane, rows in by_lane.items()
        ),
        return_exceptions=True,
    )
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return [each for each in found if isinstance(each, Shown)]


def _note(build: Build, shown: Shown, rows: pl.DataFrame) -> None:
    """Note what the search for one patient has found."""
    if shown.unknown:
        others = {f"{arranging.OTHER}{key}": order for key, order in shown.unknown.items()}
        build.unknown[shown.lane] = others
    where = dict(zip(rows["number"], rows.select("feed", "seq").iter_rows(), strict=True))
    for each in shown.adopted:
        feed, seq = where[each.number]
        seen_at = shown.seen_at if each.resource_id else None
        verdict = _verdict_of(each, may_update=build.feeds[feed].update)
        line = (seq, *verdict, seen_at, each.shown or None)
        build.adopted.setdefault(feed, []).append(line)


def _verdict_of(adopted: Adopted, *, may_update: bool) -> tuple[str, ...]:
    """Return disposition, interaction, resource_id, stage, field, rule and message."""
    if adopted.ambiguity is not None:
        why = _AMBIGUOUS[adopted.ambiguity]
        return (
            Disposition.REJECTED.value,
            "",
            "",
            Stage.RESOLVE.value,
            "row",
            "row|ambiguous",
            why,
        )
    if adopted.is_same:
        why = "Canvas held it already: taken over"
        return (Disposition.UNCHANGED.value, "", adopted.resource_id, "", "row", ADOPTED, why)
    if not may_update:
        why = "Canvas holds it with other content, and the feed has update = false: change it in Canvas"
        return (Disposition.REJECTED.value, "", "", Stage.RESOLVE.value, "row", "row|changed", why)
    why = "Canvas held it with other content: taken over and updated"
    update = Interaction.UPDATE.value
    return (Disposition.PENDING.value, update, adopted.resource_id, "", "row", ADOPTED, why)


def _enter(build: Build) -> None:
    """Enter what was taken over in the verdicts."""
    for name, lines in build.adopted.items():
        build.writer.amend(name, _frame(lines, _ADOPTED_SCHEMA))
    build.adopted.clear()


def _frame(lines: Sequence[tuple[Any, ...]], schema: Mapping[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(lines, schema=schema, orient="row")
