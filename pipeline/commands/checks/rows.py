"""Checks of the rows and of the limits, by the code of a plan."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.commands.checks.configuration import undecided_fields
from pipeline.commands.checks.context import Check, Context, failed, ok, warning, wrong
from pipeline.errors import IngestError, LimitError
from pipeline.job import Job
from pipeline.planning.build import seal
from pipeline.planning.diagnose import diagnose, spelt
from pipeline.planning.passes.rows import read_rows
from pipeline.planning.plan import Plan
from pipeline.planning.state import Build
from pipeline.reading.read import read
from pipeline.reading.source import Source
from pipeline.records import Disposition, Interaction, counted
from pipeline.reporting.words import warnings_of
from pipeline.rows.feed import Feed
from pipeline.rows.texts import texts_of, wanted

_SHARE_WRONG: Final = 0.1  # of a feed's rows: a rule that rejects more is no slip of single rows
_TODOS: Final = ("Ask ", "Check ")  # the first word of a sentence that says what to do
_CHANGED: Final = "row|changed"
_ENDINGS: Final = (
    (Disposition.PENDING, "to be sent"),
    (Disposition.UNCHANGED, "unchanged"),
    (Disposition.FILTERED, "filtered"),
    (Disposition.DUPLICATE, "duplicate"),
    (Disposition.REJECTED, "rejected"),
    (Disposition.IN_DOUBT, "in doubt"),
    (Disposition.REFUSED, "refused"),
)


def check_rows(context: Context, planner: Build, folder: Path, job: Job) -> Iterator[Check]:
    """Check all rows by planning them."""
    exceeded: list[LimitError] = []
    try:
        read_rows(planner)
        only = {feed.name: _left_out(planner.sources[feed.name], feed) for feed in job.feeds}
        try:
            seal(planner)
        except LimitError as error:
            exceeded = [error, *error.others]
        plan = Plan.open(folder)
    except IngestError as error:
        yield failed("Rows", "rows", error)
        return
    undecided = {feed.name: set(undecided_fields(feed)) for feed in context.job.feeds}
    for feed in job.feeds:
        if not undecided[feed.name]:
            yield from _check_endings(context, plan, feed, only[feed.name])
        yield from _check_rules(context, plan, feed, undecided[feed.name])
    if not any(undecided.values()):
        yield from _check_limits(context, exceeded)


def _check_endings(
    context: Context, plan: Plan, feed: Feed, only: Mapping[str, Counter[str]]
) -> Iterator[Check]:
    """Check what would become of a feed's rows."""
    group, meta = _rows_of(feed), plan.meta["feeds"][feed.name]
    counts = Counter(meta["planned"])
    if 0 < meta["rows_read"] == counts[Disposition.FILTERED.value]:
        found = "; ".join(
            f"{name}: {spelt(name, spellings, show_values=context.show_values)}"
            for name, spellings in only.items()
        )
        holds = f"the file holds {found}: " if found else ""
        yield wrong(
            group,
            "only" if only else "where",
            f"{_settings(feed)} leaves out all {meta['rows_read']:,} rows",
            f"{holds}change {_settings(feed)} of {feed.name}",
        )
        return
    known = _take_known(counts, plan, feed) if context.is_unresolved else 0
    endings = [f"{counts[word.value]:,} {text}" for word, text in _ENDINGS if counts[word.value]]
    if known:
        endings.append(f"{known:,} sent before (only a plan shows whether they changed)")
    rejects = f"a plan lists what is rejected in rejects-{feed.name}.csv, to be corrected"
    is_rejected = counts[Disposition.REJECTED.value]
    yield ok(group, "rows", ", ".join(endings), rejects if is_rejected else "")
    notices = (each for each in plan.meta["notices"] if each["feed"] == feed.name)
    for each in (*warnings_of({feed.name: meta}), *notices):
        message, todo = _separated(each["message"].removeprefix(f"{feed.name}: "))
        yield warning(group, each["rule"], message, todo)


def _separated(message: str) -> tuple[str, str]:
    """Return a warning, and what to do if its last sentence says that."""
    first, _, last = message.removesuffix(".").rpartition(". ")
    if first and last.startswith(_TODOS):
        return first, f"{last[0].lower()}{last[1:]}"
    return message.removesuffix("."), "see that this is meant so"


def _take_known(counts: Counter[str], plan: Plan, feed: Feed) -> int:
    """Take the rows of earlier runs, whose ids are unknown here, out of the counts. Returns their number."""
    is_update = pl.col("interaction") == Interaction.UPDATE.value
    is_known = is_update | (pl.col("rule") == _CHANGED)
    known: Counter[str] = Counter()
    for part in plan.rows(feed.name):
        known.update(part.filter(is_known)["disposition"].to_list())
    counts.subtract(known)
    return known.total()


def _check_rules(
    context: Context, plan: Plan, feed: Feed, undecided: Collection[str]
) -> Iterator[Check]:
    """Check which rules the rows break, except those of fields whose column is still to be decided."""
    meta = plan.meta["feeds"][feed.name]
    judged = meta["rows_read"] - meta["planned"][Disposition.FILTERED.value]
    for broken in diagnose(plan, feed, show_values=context.show_values):
        if broken.rule.partition("|")[0] in undecided:
            continue
        if broken.rule == _CHANGED and context.is_unresolved:
            continue
        is_grave = broken.is_configuration or broken.count > _SHARE_WRONG * judged
        result = wrong if is_grave else warning
        message = f"{counted(broken.count, 'row')} ({broken.where}): {broken.message}"
        yield result(_rows_of(feed), broken.rule, message, broken.todo)


def _check_limits(context: Context, exceeded: Sequence[LimitError]) -> Iterator[Check]:
    """Check the limits. If the journal was not seen, or its ids are unknown, only a plan can tell for sure."""
    result = wrong if context.is_sure else warning
    for error in exceeded:
        yield result("Limits", "limits", error.message, error.fix)
    if not exceeded:
        yield ok("Limits", "limits", _limits_text(context.job))


def _settings(feed: Feed) -> str:
    """Return the settings that leave out rows."""
    named = ("where" if feed.where else "", "[feeds.only]" if feed.only else "")
    return " with ".join(filter(None, named))


def _limits_text(job: Job) -> str:
    limits = job.limits
    named = {
        "rejects_max": limits.rejects_max,
        "amount_usd_max": limits.amount_cents_max,
        "total_usd_max": limits.total_cents_max,
        "writes_max": limits.writes_max,
        "repeats_max": limits.repeats_max,
        "change_max": limits.change_max,
    }
    given = [name for name, value in named.items() if value is not None]
    return f"none is exceeded ({', '.join(given)})" if given else "none is set"


def _left_out(sources: Sequence[Source], feed: Feed) -> dict[str, Counter[str]]:
    """Return the spellings of the fields of `only` if it leaves out all rows; else nothing."""
    found: dict[str, Counter[str]] = {name: Counter() for name in feed.only}
    for source in sources if found else ():
        for batch in read(source):
            texts = texts_of(batch.frame, feed)
            if wanted(texts, feed).any():
                return {}
            for name, counts in found.items():
                counts.update(texts[name].fill_null("").to_list())
    return found


def _rows_of(feed: Feed) -> str:
    return f"Rows of {feed.name}"
