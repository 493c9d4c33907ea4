"""The content of `summary.json`: control totals, exit code, requests, and the duration of a plan."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import polars as pl

from pipeline.clock import utc_text
from pipeline.journal import history, leases
from pipeline.journal.ends import Ends
from pipeline.journal.journal import Journal
from pipeline.journal.runs import Run
from pipeline.planning.plan import Plan
from pipeline.records import ADOPTED, Disposition, Interaction, counted, usd
from pipeline.reporting.csv_files import RETURNED
from pipeline.reporting.missing import UNREPLACED
from pipeline.reporting.words import warnings_of
from pipeline.rows.feed import TRAITS, Kind

_GONE: Final = (
    "reported",
    "ended",
    "not_ended",
    "cancelled",
    "not_cancelled",
    "refused",
    "in_doubt",
    "pending",
)
_REWRITTEN: Final = tuple(
    each.value
    for each in (
        Disposition.UPDATED,
        Disposition.REFUSED,
        Disposition.IN_DOUBT,
        Disposition.PENDING,
    )
)
_ENDED_EARLY: Final = (1, 2, 5, 130)
_UNBALANCED: Final = "rows or amounts are unaccounted for, a fault of canvas-ingest: report it"


@dataclass(slots=True)
class Totals:
    """The sums over a feed's rows. `rows` and `cents` are those of the written reconciliation."""

    rows: Counter[str] = field(default_factory=Counter)  # by disposition
    cents: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    cents_in_doubt: int = 0  # of the writes that are in doubt: the rows may have others by now
    rules: Counter[str] = field(default_factory=Counter)  # of the rows rejected or refused
    missing: Counter[str] = field(default_factory=Counter)  # of the rows that are gone, by outcome
    pending: Counter[str] = field(default_factory=Counter)  # by interaction
    changes: Counter[str] = field(default_factory=Counter)  # what updates change, by element
    unreplaced: int = (
        0  # coverages that were cancelled or ended, and whose replacement was not written
    )
    adopted: int = 0  # taken over from what Canvas held
    rewritten: Counter[str] = field(default_factory=Counter)  # by disposition
    # By rule, of the rows rejected or refused: the file, the number and the line of the first.
    first_rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, frame: pl.DataFrame, files: Sequence[str]) -> None:
        """Count what else is shown of a reconciled part. `files`: their names, by number."""
        left = frame.filter(pl.col("disposition") == Disposition.PENDING.value)
        self.pending.update(left["interaction"].to_list())
        self.adopted += int(frame["rule"].str.contains(ADOPTED, literal=True).sum())
        self.rewritten.update(frame.filter("is_rewritten")["disposition"].to_list())
        returned = frame.filter(pl.col("disposition").is_in(RETURNED))
        broken = returned.select(pl.col("rule").str.split("; "), "file", "row", "line")
        broken = broken.explode("rule").drop_nulls("rule")
        self.rules.update(broken["rule"].to_list())
        firsts = broken.unique("rule", keep="first", maintain_order=True)
        for rule, file, row, line in firsts.iter_rows():
            self.first_rows.setdefault(rule, {"file": files[file], "row": row, "line": line})


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of a report beside the rows. If the `exit_code` of `run` is None, the rows decide it."""

    run: Run
    version: str
    config_sha256: str


def summary_of(
    feeds: Mapping[str, Mapping[str, Any]],
    plan: Plan | None,
    totals: Mapping[str, Totals],
    ends: Ends,
    facts: Facts,
    exchanges: pl.DataFrame,
) -> dict[str, Any]:
    """Return what `summary.json` holds."""
    journal = ends.journal
    lines = [_feed_summary(name, feed, totals[name]) for name, feed in feeds.items()]
    rows = sum((each.rows for each in totals.values()), Counter[str]())
    elsewhere = max(ends.facts["doubts"] - rows[Disposition.IN_DOUBT.value], 0)
    gone = sum((each.missing for each in totals.values()), Counter[str]())
    difference = "" if plan is None else "; ".join(filter(None, map(_difference, lines)))
    code = exit_code(facts.run, rows, elsewhere, gone)
    if difference and code not in _ENDED_EARLY:
        code = 1
    requests = requests_summary(exchanges)
    is_planned = plan is not None and facts.run.command == "plan"
    return {
        "shape": 1,
        "run_id": facts.run.run_id,
        "command": facts.run.command,
        "started_at": facts.run.started_at,
        "finished_at": facts.run.finished_at,
        "version": facts.version,
        "exit_code": code,
        "failure": facts.run.failure or (difference and f"{_UNBALANCED}: {difference}"),
        "warnings": [*warnings_of(feeds), *_warnings(plan, feeds, totals)],
        "config_sha256": facts.config_sha256,
        "patients_unasked": 0 if plan is None else plan.meta.get("patients_unasked", 0),
        "balanced": plan is not None and all(line["balanced"] for line in lines),
        "in_doubt_elsewhere": elsewhere,
        "recovered": ends.facts["recovered"],
        "settled": ends.facts["settled"],
        "sent_again": ends.facts["sent_again"],
        "journal": {
            "id": journal.name,
            "dir": str(journal.folder.resolve()),
            "base_url": journal.base_url,
            "lines": history.length_after(journal, facts.run.run_id),
        },
        "feeds": lines,
        "requests": requests,
        "workers": _workers(journal, facts.run.run_id),
        "needs": _needs(plan.meta, requests, facts.run) if plan and is_planned else None,
    }


def _warnings(
    plan: Plan | None, feeds: Mapping[str, Mapping[str, Any]], totals: Mapping[str, Totals]
) -> list[dict[str, Any]]:
    """Return what to look at: what the plan noted, and what was cancelled or ended without a replacement."""
    found = [] if plan is None else list(plan.meta.get("notices", []))
    for name, each in totals.items():
        if each.unreplaced:
            what = counted(each.unreplaced, "coverage")
            was = "was" if each.unreplaced == 1 else "were"
            done = "ended" if _mode(feeds[name]) == "end" else "cancelled"
            message = (
                f"{name}: {what} {was} {done}, but another row of the same patient was not written: "
                f"see the column replacement of missing-{name}.csv, and fix that row."
            )
            found.append(
                {"rule": UNREPLACED, "feed": name, "count": each.unreplaced, "message": message}
            )
    return found


def _workers(journal: Journal, run_id: str) -> list[dict[str, Any]]:
    """Return what each process did of the run's sending, if there were several. `ended` "": it was lost."""
    lease_records = leases.lease_records(journal, run_id)
    if not lease_records:
        return []
    requests = leases.requests_of_leases(journal, run_id)
    found = []
    for each in lease_records:
        host, process, *_ = each.holder.split(" ")
        total, writes = requests.get((each.part, each.epoch), (0, 0))
        found.append(
            {
                "partition": each.part,
                "worker": f"{host} {process}",
                "began_at": each.taken_at,
                "ended_at": each.ended_at,
                "ended": each.ended,
                "requests": total,
                "writes": writes,
            }
        )
    return found


def _needs(meta: Mapping[str, Any], asked: Mapping[str, Any], run: Run) -> dict[str, Any] | None:
    """Return what carrying out a plan takes: its writes, what planning asked once more, and what it did not ask.

    `seconds` is at the configured rate, or at what `concurrency` allows with answers as slow as they
    were; `done_at` counts from the end of planning.
    """
    if "rate_per_s" not in meta:
        return None  # planned by an earlier version
    writes = sum(feed["to_send"] for feed in meta["feeds"].values())
    beside = asked["total"] or (1 if writes else 0)  # a token at least
    requests = writes + beside + meta["patients_unasked"]
    latency_s = asked["latency_s"]["p50"] or 0.0
    rate = min(meta["rate_per_s"], meta["concurrency"] / latency_s if latency_s else math.inf)
    seconds = math.ceil(requests / rate)
    ended = datetime.fromisoformat(run.finished_at or run.started_at)
    return {
        "writes": writes,
        "requests": requests,
        "rate_per_s": round(rate, 3),
        "seconds": seconds,
        "done_at": utc_text(ended + timedelta(seconds=seconds)),
    }


def exit_code(
    run: Run, rows: Mapping[str, int], in_doubt_elsewhere: int, gone: Mapping[str, int]
) -> int:
    """Return the exit code: why the run ended, else what its rows came to.

    A write in doubt counts whichever run sent it: nothing is reconciled while it is open. So does
    what is gone from the file (`gone`, by outcome) and should have been cancelled or ended.
    """
    if run.exit_code in _ENDED_EARLY:
        return run.exit_code
    if rows[Disposition.IN_DOUBT.value] or in_doubt_elsewhere:
        return 4
    turned_away = (Disposition.REJECTED.value, Disposition.REFUSED.value)
    is_kept = gone.get("not_cancelled") or gone.get("not_ended")
    if any(rows[word] or gone.get(word) for word in turned_away) or is_kept:
        return 3
    is_left = rows[Disposition.PENDING.value] or gone.get(Disposition.PENDING.value)
    return 1 if run.command == "run" and is_left else 0


def _feed_summary(name: str, feed: Mapping[str, Any], totals: Totals) -> dict[str, Any]:
    """Return a feed's control totals: what was read, counted by the reader, against what became of it."""
    traits = TRAITS[Kind(feed["kind"])]
    rows_read, cents_read = feed["rows_read"], feed["cents_read"]
    summary: dict[str, Any] = {
        "name": name,
        "resource_type": traits.resource_type,
        "files": feed["files"],
        "rows_read": rows_read,
        "dispositions": {word.value: totals.rows[word.value] for word in Disposition},
        "rules": dict(totals.rules.most_common()),
        "warnings": feed["warnings"],
        "open_dates": feed.get("open_dates", 0),
        "numbered": feed.get("numbered", {}),
        "pending_by_interaction": {word.value: totals.pending[word.value] for word in Interaction},
        "changes": dict(totals.changes.most_common()),
        "is_whole": feed.get("is_whole", False),
        "last_run": _last_run(feed),
        "first_rows": totals.first_rows,
        "mended_from": feed.get("mended_from", []),
        "corrected": feed.get("corrected", {"rows": 0, "runs": {}}),
        "adopted": totals.adopted,
        "rewritten": {
            "rows": totals.rewritten.total(),
            **{word: totals.rewritten[word] for word in _REWRITTEN},
        },
        "missing": _missing_summary(feed, totals),
        "balanced": totals.rows.total() == rows_read == sum(file["rows"] for file in feed["files"]),
    }
    if traits.has_money:
        amounts = {word.value: usd(totals.cents[word.value]) for word in Disposition}
        summary["amount_usd"] = {"read": usd(cents_read), **amounts}
        summary["amount_in_doubt_usd"] = usd(totals.cents_in_doubt)
        summary["amounts_unreadable"] = totals.unreadable
        summary["balanced"] = summary["balanced"] and totals.cents.total() == cents_read
    return summary


def _last_run(feed: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return rows, dollars and files of the last run that had all files of the feed; None if it is not compared."""
    last = feed.get("last_run")
    if not last:
        return None
    facts = {name: last[name] for name in ("run_id", "started_at", "rows", "files")}
    return facts if last["cents"] is None else {**facts, "usd": usd(last["cents"])}


def _difference(line: Mapping[str, Any]) -> str:
    """Return how the rows of a feed's summary differ from what was read; "" if they balance."""
    if line["balanced"]:
        return ""
    rows = sum(line["dispositions"].values())
    found = f"feed {line['name']}: {line['rows_read']:,} rows read, {rows:,} rows reported"
    if "amount_usd" not in line:
        return found
    amounts = dict(line["amount_usd"])
    read = amounts.pop("read")
    return f"{found}; {read} USD read, {sum(map(Decimal, amounts.values()))} USD reported"


def _missing_summary(feed: Mapping[str, Any], totals: Totals) -> dict[str, Any]:
    """Count the rows that are gone from a feed's files since the last complete run; `compared_with` is None if not compared."""
    missing, mode = feed.get("missing", {}), _mode(feed)
    return {
        "mode": mode,
        "compared_with": missing.get("compared_with"),
        "rows": totals.missing.total(),
        **{word: totals.missing[word] for word in _GONE},
        "cancelled_without_replacement": 0 if mode == "end" else totals.unreplaced,
        "ended_without_replacement": totals.unreplaced if mode == "end" else 0,
    }


def _mode(feed: Mapping[str, Any]) -> str:
    return str(feed.get("missing", {}).get("mode", "ignore"))


def requests_summary(exchanges: pl.DataFrame) -> dict[str, Any]:
    """Return counts, latencies and rates of all requests, token and searches included."""
    statuses = exchanges["http_status"].cast(pl.String).fill_null("none").to_list()
    latencies = exchanges["latency_ms"] / 1000
    granted = [datetime.fromisoformat(at).timestamp() for at in exchanges["sent_at"]]
    span_s = granted[-1] - granted[0] if len(granted) > 1 else 0.0
    return {
        "total": exchanges.height,
        "by_status": dict(sorted(Counter(statuses).items())),
        "writes": exchanges.filter(pl.col("purpose") == "write").height,
        "retried": exchanges.filter(
            (pl.col("purpose") == "write") & (pl.col("attempt") > 1)
        ).height,
        "searches": exchanges.filter(pl.col("purpose") == "search").height,
        "latency_s": {
            name: None
            if exchanges.is_empty()
            else round(float(latencies.quantile(share, "nearest") or 0.0), 6)
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        },
        "rate_per_s": round((len(granted) - 1) / span_s, 3) if span_s > 0 else None,
        "rate_per_s_max": _busiest_second(granted),
    }


def _busiest_second(granted: Sequence[float]) -> int:
    """Return the highest number of permits in any second, wherever it begins."""
    busiest = first = 0
    for last, at in enumerate(granted):
        while at - granted[first] >= 1.0:
            first += 1
        busiest = max(busiest, last - first + 1)
    return busiest
