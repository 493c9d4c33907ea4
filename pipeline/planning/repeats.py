"""Find probable repeats: rows to be created that equal an earlier run's write whose key is gone from today's files.

The key of such a row has probably changed. If both keys are in today's files, the two are a true pair. A payment
equals another one of the same patient, amount, claim and day; a coverage equals another one with the same content.
A coverage of the same patient, payer and member id as an active one of ours, but with another start, is reported,
too: Canvas would have both.

The journal is asked patient by patient, and today's keys are read part by part, so that memory is
bounded by a pile of rows and not by the files.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
import polars as pl

from pipeline.fhir.coverage import member_ids
from pipeline.journal import lookups
from pipeline.journal.journal import Journal
from pipeline.planning.tables import iso_day
from pipeline.planning.writer import PlanWriter
from pipeline.records import Interaction
from pipeline.rows import groups
from pipeline.rows.feed import Feed

REPEATS: Final = "row|repeats"
SECOND_PERIOD: Final = "row|second_period"

_PATIENTS_AT_ONCE: Final = 2_000  # asked for in one query
_ROWS_NAMED: Final = 20
_SAME_PAYMENT: Final = ("lane", "amount_cents", "claim")
_COLUMNS: Final = {
    "PaymentNotice": ("seq", "lane", "amount_cents", "claim", "start_day"),
    "Coverage": ("seq", "lane", "fingerprint"),
}
_NEVER: Final = "9999-12-31"  # an unknown day of sending excludes no day
_OPEN: Final = ("", "9999-12-31")
_FOUND: Final[dict[str, Any]] = {
    "feed": pl.String,
    "seq": pl.UInt32,
    "rule": pl.String,
    "former": pl.String,  # the feed whose write the row equals
    "is_dated": pl.Boolean,  # False: a payment, and one of the two days is not known
}

Json = dict[str, Any]
Keys = Callable[[], Iterator[pl.Series]]
Sent = Callable[[pl.DataFrame], Mapping[str, bytes]]  # key, feed, held, held_run -> key: body


@dataclass(slots=True)
class Found:
    """The repeats of one feed. `former`: rows by the feed whose writes they equal."""

    creates: int = 0
    rows: int = 0
    undated: int = 0  # of them, those without a known day on both sides
    former: Counter[str] = field(default_factory=Counter)
    second_periods: int = 0
    rows_named: list[str] = field(default_factory=list)
    second_named: list[str] = field(default_factory=list)


class Repeats:
    """Finds such rows, and notes their rule."""

    def __init__(
        self,
        writer: PlanWriter,
        journal: Journal,
        files: Mapping[str, Sequence[str]],
        todays: Keys,
        cancelled: pl.Series,
        sent: Sent,
        folder: Path,
        check_stop: Callable[[], None],
    ) -> None:
        """Keep the arguments.

        Args:
            writer: The plan, with all verdicts but these.
            journal: What earlier runs sent.
            files: The names of each feed's files, by number.
            todays: Yields the keys of today's files, part by part.
            cancelled: The keys of coverages that this run cancels: a row replaces them and is no repeat.
            sent: Returns the contents of coverages, from this plan if it ends them, else from the plans that sent them.
            folder: For rows that do not fit into memory.
            check_stop: Raises Stopped if the run is to end.
        """
        self._writer, self._journal, self._files = writer, journal, files
        self._todays, self._cancelled, self._sent = todays, cancelled, sent
        self._folder, self._check_stop = folder, check_stop

    def find(self, feeds: Sequence[Feed]) -> dict[str, Found]:
        """Find the rows of all feeds, and enter rule and message into the verdict of each."""
        found = {feed.name: Found() for feed in feeds}
        lines = [pl.DataFrame(schema=_FOUND)]
        for kind, judge in (("PaymentNotice", _equal_payments), ("Coverage", self._coverages)):
            mine = [feed for feed in feeds if feed.traits.resource_type == kind]
            lines += [judge(*pile) for pile in self._piles(kind, mine, found)]
        every = pl.concat(lines)
        for feed in feeds:
            own = every.filter(pl.col("feed") == feed.name).sort("seq")
            self._note(feed, own, found[feed.name])
        return found

    def _piles(
        self, kind: str, feeds: Sequence[Feed], found: Mapping[str, Found]
    ) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """Yield rows with the former writes of their patients that they may equal, pile by pile."""
        rows = (part for feed in feeds for part in self._nominated(kind, feed, found[feed.name]))
        most = sum(len(self._writer.rows(feed.name)) for feed in feeds) * groups.BOUNDS.whole
        folder, at_once = self._folder / kind, groups.BOUNDS.narrow
        for pile in groups.deal(rows, groups.by_hash(["lane"]), folder, most, at_once):
            former = self._not_in_files(self._former(kind, pile))
            if not former.is_empty():
                yield pile.join(former, on="lane", how="semi"), former

    def _nominated(self, kind: str, feed: Feed, found: Found) -> Iterator[pl.DataFrame]:
        """Yield the rows to be created whose patient has a former write that they may equal."""
        is_create = pl.col("interaction") == Interaction.CREATE.value
        for rows in self._writer.rows(feed.name).where(is_create, _COLUMNS[kind]):
            self._check_stop()
            found.creates += rows.height
            same = _same(kind)
            likely = rows.join(self._former(kind, rows), on=same, how="semi", maintain_order="left")
            if not likely.is_empty():
                yield likely.with_columns(pl.lit(feed.name).alias("feed"))

    def _former(self, kind: str, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the writes of these rows' patients that the rows may equal."""
        ask = partial(
            lookups.payments_of if kind == "PaymentNotice" else lookups.coverages_of, self._journal
        )
        lanes = rows.select(pl.col("lane").unique(maintain_order=True))
        parts = [
            ask(some["lane"]).join(rows, on=_same(kind), how="semi")
            for some in lanes.iter_slices(_PATIENTS_AT_ONCE)
        ]
        return pl.concat(parts) if parts else ask(rows["lane"])

    def _not_in_files(self, former: pl.DataFrame) -> pl.DataFrame:
        """Drop the writes whose key a row of today's files has, and those that this run cancels."""
        left = former.filter(~pl.col("key").is_in(self._cancelled.implode()))
        for keys in self._todays():
            if left.is_empty():
                break
            left = left.filter(~pl.col("key").is_in(keys.implode()))
        return left

    # Coverages ------------------------------------------------------------------------------------

    def _coverages(self, rows: pl.DataFrame, former: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that have the content of a former coverage, or another period of it."""
        equal = former.select(
            "lane", pl.col("held").alias("fingerprint"), pl.col("feed").alias("former")
        )
        equal = equal.unique(["lane", "fingerprint"], keep="first")
        same = rows.join(equal, on=["lane", "fingerprint"])
        others = rows.join(same, on=["feed", "seq"], how="anti")
        repeats = same.with_columns(
            pl.lit(REPEATS).alias("rule"), pl.lit(value=True).alias("is_dated")
        ).select(list(_FOUND))
        lanes = others.select(pl.col("lane").unique(maintain_order=True))
        compared = [
            self._compared(
                others.join(some, on="lane", how="semi"), former.join(some, on="lane", how="semi")
            )
            for some in lanes.iter_slices(_PATIENTS_AT_ONCE)
        ]
        return pl.concat([repeats, *compared])

    def _compared(self, rows: pl.DataFrame, former: pl.DataFrame) -> pl.DataFrame:
        """Compare the contents of some rows with those that were sent earlier, as far as they are known."""
        self._check_stop()
        bodies = self._sent(former)
        held: dict[str, list[tuple[str, Json]]] = {}
        for lane, key, origin in former.select("lane", "key", "feed").iter_rows():
            if key in bodies:
                held.setdefault(lane, []).append((origin, orjson.loads(bodies[key])))
        lines = []
        for (feed,), mine in rows.group_by("feed", maintain_order=True):
            name = str(feed)
            own = self._writer.rows(name).some(mine["seq"], ["seq", "lane", "body"])
            for seq, lane, body in (line for part in own for line in part.iter_rows()):
                meant = orjson.loads(body)
                rules = [
                    (_relation(meant, before), origin) for origin, before in held.get(lane, [])
                ]
                found = sorted(rule for rule in rules if rule[0])  # a repeat says more
                lines += [(name, seq, rule, origin, True) for rule, origin in found[:1]]
        return pl.DataFrame(lines, schema=_FOUND, orient="row")

    # Noting ---------------------------------------------------------------------------------------

    def _note(self, feed: Feed, lines: pl.DataFrame, found: Found) -> None:
        repeats = lines.filter(pl.col("rule") == REPEATS)
        seconds = lines.filter(pl.col("rule") == SECOND_PERIOD)
        found.rows, found.second_periods = repeats.height, seconds.height
        found.undated = repeats.height - int(repeats["is_dated"].sum())
        found.former.update(dict(repeats["former"].value_counts().iter_rows()))
        found.rows_named = self._named(feed.name, repeats["seq"])
        found.second_named = self._named(feed.name, seconds["seq"])
        repeated = pl.when("is_dated").then(pl.lit(_MESSAGES[feed.traits.resource_type]))
        noted = lines.select(
            "seq",
            pl.lit("row").alias("field"),
            "rule",
            pl.when(pl.col("rule") == SECOND_PERIOD)
            .then(pl.lit(_SECOND_PERIOD))
            .otherwise(repeated.otherwise(pl.lit(_UNDATED)))
            .alias("message"),
        )
        for some in noted.iter_slices(groups.BOUNDS.narrow):
            self._writer.amend(feed.name, some)

    def _named(self, feed: str, seqs: pl.Series) -> list[str]:
        """Return the ids of the first rows, as every output names a row."""
        files, columns = self._files[feed], ["file", "row"]
        rows = self._writer.rows(feed).some(seqs.head(_ROWS_NAMED), columns)
        return [f"{files[file]}:{row}" for part in rows for file, row in part.iter_rows()]


def _same(kind: str) -> list[str]:
    return list(_SAME_PAYMENT) if kind == "PaymentNotice" else ["lane"]


def _equal_payments(rows: pl.DataFrame, former: pl.DataFrame) -> pl.DataFrame:
    """Return the payments that equal a former one.

    The days must be equal. If one of them is not known they may be, unless the row's day is after the
    day on which the former one was sent.
    """
    same, has_day = list(_SAME_PAYMENT), pl.col("day").fill_null("") != ""
    by_day = former.filter(has_day).select(*same, "day", pl.col("feed").alias("by_day"))
    undated = former.filter(~has_day).group_by(same)
    until = undated.agg(
        pl.col("sent_day").fill_null(_NEVER).max(), pl.col("feed").first().alias("undated")
    )
    any_day = former.group_by(same).agg(pl.col("feed").first().alias("any_day"))
    joined = (
        rows.with_columns(iso_day().alias("day"))
        .join(by_day.unique([*same, "day"], keep="first"), on=[*same, "day"], how="left")
        .join(until, on=same, how="left")
        .join(any_day, on=same, how="left")
    )
    earlier = pl.when(pl.col("day") <= pl.col("sent_day")).then("undated")
    blank = pl.when(pl.col("day") == "").then("any_day")
    equal = joined.with_columns(
        pl.coalesce("by_day", earlier, blank).alias("former"),
        pl.lit(REPEATS).alias("rule"),
        pl.col("by_day").is_not_null().alias("is_dated"),
    )
    return equal.filter(pl.col("former").is_not_null()).select(list(_FOUND))


def _relation(meant: Json, before: Json) -> str:
    """Return the rule of a coverage beside a former one: "" if it is another insurance or time."""
    if (_payer(meant), member_ids(meant)[0]) != (_payer(before), member_ids(before)[0]):
        return ""
    ours, theirs = _period(meant), _period(before)
    if ours[0] == theirs[0]:
        return REPEATS
    return SECOND_PERIOD if ours[0] <= theirs[1] and theirs[0] <= ours[1] else ""


def _payer(coverage: Json) -> tuple[str | None, str | None]:
    payor = coverage["payor"][0]
    return payor.get("identifier", {}).get("value"), payor.get("reference")


def _period(coverage: Json) -> tuple[str, str]:
    """Return start and end; ISO days sort in order of time."""
    period = coverage.get("period", {})
    return str(period.get("start", _OPEN[0])), str(period.get("end", _OPEN[1]))


_MESSAGES: Final = {
    "PaymentNotice": "an earlier run sent an equal payment (same patient, amount, claim and day) under a key that no row of "
    "today's files has: if it is the same payment, Canvas gets it twice",
    "Coverage": "an earlier run created an equal coverage under a key that no row of today's files has, and it is active: "
    "if it is the same coverage, Canvas gets it twice",
}
_UNDATED: Final = (
    "an earlier run sent an equal payment (same patient, amount and claim; the day of one of them is not known) under a key that "
    "no row of today's files has: if it is the same payment, Canvas gets it twice"
)
_SECOND_PERIOD: Final = (
    "an earlier run created a coverage of the same patient, payer and member ID with another start; it is active, and no row of "
    "today's files has it: if the start was corrected, cancel the older one in Canvas; if this is a new period, you need not do "
    "anything"
)
