"""Seal the plan: count its rows and writes, warn, and check it against the limits."""

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Final

import polars as pl

from pipeline.journal import doubts, runs
from pipeline.journal.evidence import require_evidence
from pipeline.journal.journal import Journal
from pipeline.planning import arrange as arranging
from pipeline.planning import limits
from pipeline.planning.beside import BUMPS
from pipeline.planning.copies import find_copies
from pipeline.planning.passes.gone import payments_gone
from pipeline.planning.passes.warnings import find_repeats, warn
from pipeline.planning.plan import Plan
from pipeline.planning.repeat_warnings import repeats_meta
from pipeline.planning.state import Build, FeedPlan
from pipeline.planning.writer import PlanWriter
from pipeline.records import REWRITTEN, Disposition
from pipeline.rows.feed import Feed

_WARNINGS: Final = (BUMPS, arranging.RULE)
_OPEN_DATES: Final = "dates|open"


def seal_plan(build: Build) -> Plan:
    """Seal the plan, enter it in the journal, and check it against the limits.

    Raises:
        LimitError: The plan exceeds a limit.
        JournalLost: The journal contradicts itself about a write that the plan sends, or that is in doubt.
    """
    copies = find_copies(
        build.writer,
        build.job.feeds,
        build.file_names(),
        build.copies / "equal",
        build.check_stop,
    )
    repeats = find_repeats(build)
    metas = {
        name: {
            **judged.meta,
            **_totals_of(build.writer, build.feeds[name], judged),
            "repeats": repeats_meta(
                build.feeds[name], repeats[name], build.former_keys.get(name), build.feeds
            ),
            "is_change": build.has_changes_only(name),
            "gone": payments_gone(build, build.feeds[name]),
            "copied": asdict(copies[name]) if name in copies else None,
        }
        for name, judged in build.feed_plans.items()
    }
    warn(build, metas, repeats)
    plan = build.writer.seal(
        {name: judged.missing for name, judged in build.feed_plans.items()},
        {
            "run_id": build.run_id,
            "config_sha256": build.job.config_sha256,
            "feeds": metas,
            "patients_unasked": build.unasked,
            "rate_per_s": build.job.upload.rate_per_s,
            "concurrency": build.job.upload.concurrency,
            "displaced": build.displaced,
            "reordered": build.reordered,
            "notices": build.notices,
            "rewrite": build.job.rewrite,
        },
    )
    runs.enter_plan(build.journal, build.run_id, plan.sha256(), build.clock.now())
    _require_evidence(plan, build.journal)
    limits.check_limits(build.job, metas, build.expected, partial(runs.last_feed, build.journal))
    runs.enter_feeds(
        build.journal,
        build.run_id,
        [
            totals
            for name, meta in metas.items()
            if (totals := _feed_totals(build, name, meta)) is not None
        ],
    )
    return plan


def exceeds_early(build: Build) -> bool:
    """Return whether a limit is exceeded by the rows as they are before Canvas is searched: nothing is written then."""
    metas = {
        name: {
            **judged.meta,
            "limited": _totals_of(build.writer, build.feeds[name], judged)["limited"],
            "is_change": build.has_changes_only(name),
        }
        for name, judged in build.feed_plans.items()
    }
    last = partial(runs.last_feed, build.journal)
    return limits.exceeds_early(build.job, metas, build.expected, last)


def _feed_totals(build: Build, name: str, meta: Mapping[str, Any]) -> runs.FeedTotals | None:
    """Return what the journal keeps of a feed's files; None for a file of --input, as far as it may be partial.

    The next delivery is not compared with such a file. An interchange in it is kept, as one that holds changes.
    """
    interchanges = [
        runs.LoadedInterchange(
            source.interchange.identity, source.sha256, source.interchange.created
        )
        for source in build.sources[name]
        if source.interchange
    ]
    is_partial = name in build.job.inputs and not build.feeds[name].counts_over_files
    if is_partial and not interchanges:
        return None
    return runs.FeedTotals(
        name,
        meta["rows_read"],
        meta["cents_read"],
        len(meta["files"]),
        is_change=is_partial or build.has_changes_only(name),
        interchanges=interchanges,
    )


def _require_evidence(plan: Plan, journal: Journal) -> None:
    doubted = pl.Series(
        "key", [doubt.intent.key for doubt in doubts.all_doubts(journal)], dtype=pl.String
    )
    sent = (keys for feed in plan.meta["feeds"] for keys in plan.keys_to_send(feed))
    require_evidence(journal, itertools.chain([doubted], sent))


def _totals_of(writer: PlanWriter, feed: Feed, judged: FeedPlan) -> dict[str, Any]:
    """Return counts and sums of a feed: rows by disposition, and what is to be sent."""
    counts, warned, of_rejects = Counter[str](), Counter[str](), Counter[str]()
    cents = cents_of_all = 0
    is_of_rejects = pl.col("file").is_in(judged.meta["corrected_files"])
    for rows in writer.rows(feed.name).judged(["file", "disposition", "amount_cents", "rule"]):
        cents_of_all += int(rows["amount_cents"].sum())
        counts.update(dict(rows["disposition"].value_counts().iter_rows()))
        mine = rows.filter(is_of_rejects)["disposition"]
        of_rejects.update(dict(mine.value_counts().iter_rows()))
        warned.update({rule: _count(rows, rule) for rule in (*_WARNINGS, REWRITTEN)})
        is_sent = pl.col("disposition") == Disposition.PENDING.value
        cents += int(rows.filter(is_sent)["amount_cents"].sum())
    rewritten = warned.pop(REWRITTEN, 0)
    warned[_OPEN_DATES] = judged.meta["open_dates"]
    going = judged.missing.filter(pl.col("interaction") != "")
    return {
        "planned": {word.value: counts[word.value] for word in Disposition},
        "limited": _limited(counts - of_rejects, judged.meta["corrected"]["rows"]),
        "planned_cents": cents_of_all,
        "to_send": counts[Disposition.PENDING.value] + going.height,
        "rewritten": rewritten,
        "to_send_cents": cents if feed.traits.has_money else 0,
        "warnings": {rule: count for rule, count in warned.items() if count},
        "missing": {
            "mode": feed.missing,
            "compared_with": judged.compared_with,
            "end_on": sorted(going["end_on"].drop_nulls().unique()),
        },
    }


def _limited(counts: Mapping[str, int], corrected: int) -> dict[str, int]:
    """Return what limits.rejects_max judges: rows without the filtered ones, and the rejected rows among them.

    `counts` has no rows of reject files. A rejected row that came in by a corrected reject file does not count as one.
    """
    return {
        "rows": sum(counts.values()) - counts.get(Disposition.FILTERED.value, 0),
        "rejected": counts.get(Disposition.REJECTED.value, 0) - corrected,
    }


def _count(rows: pl.DataFrame, rule: str) -> int:
    return int(rows["rule"].str.contains(rule, literal=True).sum())
