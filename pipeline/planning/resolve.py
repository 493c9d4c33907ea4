"""Decide the write of each row, by comparing drafts with each other and with the journal.

Unknown to the journal: create; known with the same content: unchanged; known with other content: update, or rejected
if there is no update. Before that, rows are compared within the files: of rows of one key the first counts
(`same_key.py`), and coverages of one patient must not have one order at the same time (`same_order.py`). The work is
done over narrow columns, part by part; of rows that share a key, or a patient and an order, only as many are in memory
as fit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import polars as pl

from pipeline.planning.beside import Beside, standing_rows
from pipeline.planning.same_key import compare_same_key
from pipeline.planning.same_order import compare_same_order
from pipeline.planning.tables import VERDICT_SCHEMA
from pipeline.records import ABANDONED, REWRITTEN, Disposition, Interaction, Stage, State
from pipeline.rows.feed import Feed
from pipeline.rows.groups import Bounds, Scan

# The columns of a feed's rows that this stage needs.
NEEDED: Final = (
    "seq",
    "file",
    "row",
    "key",
    "time_us",
    "disposition",
    "fingerprint",
    "lane",
    "order",
    "start_day",
    "end_day",
    "active",
)


_LATER: Final = ("slot", "held_at", "shown", "likeness", "body")  # columns that later passes fill

# keys -> key, state, the last confirmed fingerprint, resource_id
Known = Callable[[pl.Series], pl.DataFrame]


def resolve(
    rows: Mapping[str, Scan],
    feeds: Sequence[Feed],
    files: Mapping[str, Sequence[str]],
    known: Known,
    folder: Path,
    bounds: Bounds,
) -> Iterator[tuple[str, pl.DataFrame]]:
    """Judge the rows that validation let through, of all feeds, part by part.

    A row that is already known to be unchanged stays so, and has no line, unless the files contradict it.

    Args:
        rows: Scans of NEEDED by feed.
        feeds: All feeds of the run.
        files: The names of each feed's files, by number.
        known: Returns what the journal has of some keys.
        folder: For rows that do not fit into memory.
        bounds: The number of rows in memory.

    Yields:
        The feed, and lines in VERDICT_SCHEMA.
    """
    beside: dict[str, Beside] = {}
    names: list[str] = []
    for feed in feeds:
        stands = standing_rows(rows[feed.name])
        beside[feed.name] = compare_same_key(stands, feed, len(names), folder, bounds)
        names += files[feed.name]
    coverages = {
        feed.name: beside[feed.name] for feed in feeds if feed.traits.resource_type == "Coverage"
    }
    compare_same_order({name: rows[name] for name in coverages}, coverages, folder, bounds)
    columns = ["seq", "key", "disposition", "fingerprint"]
    for feed in feeds:
        mine = beside[feed.name].in_order()
        for part in standing_rows(rows[feed.name]).read(columns):
            yield feed.name, _against_journal(mine.put_in(part, feed.name, names), feed, known)


# Against the journal ------------------------------------------------------------------------------

_CHANGED: Final = {
    "Coverage": "this row was loaded before with other content, and the feed has update = false: change it in Canvas",
    "PaymentNotice": "this payment was posted before with other content, and a payment cannot be changed: correct it in Canvas by hand",
}

_GIVEN_UP_BY: Final = (
    "a person gave this write up after its answer was lost: it is not sent again. To have it sent after all: "
    "canvas-ingest review CONFIG --resend KEY"
)


_LEFT: Final = (
    "unchanged, and written again: an earlier run was to write it, and it was refused or not sent"
)


class _Decision(NamedTuple):
    """The decision on a row whose key the journal has in some state. `rule` "": the row keeps its own."""

    disposition: Disposition
    interaction: Interaction | None = None
    keeps_resource: bool = False
    rule: str = ""


_NEW: Final = _Decision(Disposition.PENDING, Interaction.CREATE)
_UPDATED: Final = _Decision(Disposition.PENDING, Interaction.UPDATE, keeps_resource=True)
_AGAIN: Final = _Decision(
    Disposition.PENDING, Interaction.UPDATE, keeps_resource=True, rule=REWRITTEN
)
_SAME: Final = _Decision(Disposition.UNCHANGED, keeps_resource=True)
_OTHER: Final = _Decision(Disposition.REJECTED, rule="row|changed")
_GIVEN_UP: Final = _Decision(Disposition.REJECTED, rule=ABANDONED)
_UNSETTLED: Final = _Decision(Disposition.IN_DOUBT)

_ANY: Final = (False, True)
_NOT_SENT: Final = (State.PENDING.value, State.REFUSED.value)
_SENT: Final = (State.IN_FLIGHT.value, State.IN_DOUBT.value)
# A write that has a resource is never created again: if it was refused or not sent, it is an update.
_DECISIONS: Final = (
    # state           has a resource  same content  may update  decision
    (("",),                     _ANY,     _ANY,     _ANY,     _NEW),
    (_NOT_SENT,                 (False,), _ANY,     _ANY,     _NEW),
    (_NOT_SENT,                 (True,),  (False,), (True,),  _UPDATED),
    (_NOT_SENT,                 (True,),  (True,),  (True,),  _AGAIN),
    (_NOT_SENT,                 (True,),  _ANY,     (False,), _OTHER),
    ((State.CONFIRMED.value,),  _ANY,     (True,),  _ANY,     _SAME),
    ((State.CONFIRMED.value,),  _ANY,     (False,), (True,),  _UPDATED),
    ((State.CONFIRMED.value,),  _ANY,     (False,), (False,), _OTHER),
    (_SENT,                     _ANY,     _ANY,     _ANY,     _UNSETTLED),
    ((State.ABANDONED.value,),  _ANY,     _ANY,     _ANY,     _GIVEN_UP),
)  # fmt: skip
_SITUATION: Final = ("state", "has_resource", "is_same", "may_update")


def decisions() -> pl.DataFrame:
    """Return the decision for each situation of a row: a line for each combination of `_SITUATION`."""
    lines = [
        (
            *situation,
            decision.disposition.value,
            decision.interaction.value if decision.interaction else "",
            decision.keeps_resource,
            decision.rule,
        )
        for *sets, decision in _DECISIONS
        for situation in product(*sets)
    ]
    decided = ("decided", "interaction", "keeps_resource", "decided_rule")
    return pl.DataFrame(lines, schema=[*_SITUATION, *decided], orient="row")


_DECISION_LINES: Final = decisions()


def _against_journal(rows: pl.DataFrame, feed: Feed, known: Known) -> pl.DataFrame:
    """Return the verdicts of rows that were let through or found in the files, given what the journal has."""
    rows = rows.filter(
        (pl.col("disposition") != Disposition.UNCHANGED.value) | (pl.col("rule") != "")
    )
    if rows.is_empty():
        return pl.DataFrame(schema=VERDICT_SCHEMA)
    is_open = pl.col("disposition") == Disposition.PENDING.value
    confirmed = known(rows.filter(is_open)["key"]).rename({"fingerprint": "confirmed"})
    rows = rows.join(confirmed, on="key", how="left", maintain_order="left").with_columns(
        pl.col("state").fill_null(""),
        has_resource=pl.col("resource_id").fill_null("") != "",
        is_same=(pl.col("fingerprint") == pl.col("confirmed")).fill_null(value=False),
        may_update=pl.lit(value=feed.update and feed.traits.resource_type == "Coverage"),
    )
    rows = rows.join(_DECISION_LINES, on=_SITUATION, how="left", maintain_order="left")
    messages = {
        "row|changed": _CHANGED[feed.traits.resource_type],
        ABANDONED: _GIVEN_UP_BY,
        REWRITTEN: _LEFT,
    }
    has_rule = is_open & (pl.col("decided_rule") != "")
    rule = pl.when(has_rule).then("decided_rule")
    return rows.with_columns(
        disposition=pl.when(is_open).then("decided").otherwise("disposition"),
        interaction=pl.when(is_open).then("interaction").otherwise(pl.lit("")),
        resource_id=pl.when(is_open & pl.col("keeps_resource"))
        .then("resource_id")
        .when(is_open)
        .then(pl.lit("")),
        field=pl.when(has_rule).then(pl.lit("row")).otherwise("field"),
        rule=rule.otherwise("rule"),
        message=rule.replace_strict(messages, default=None).fill_null(pl.col("message")),
    ).select(
        pl.when(pl.col("disposition") == Disposition.REJECTED.value)
        .then(pl.lit(Stage.RESOLVE.value))
        .otherwise(pl.lit(""))
        .alias(name)
        if name == "stage"
        else pl.lit(None, dtype=kind).alias(name)
        if name in _LATER
        else pl.col(name).cast(kind)
        for name, kind in VERDICT_SCHEMA.items()
    )
