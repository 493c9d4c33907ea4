"""Runs in the journal: their begin and end, their plans and feeds, and what is purged of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import orjson
import polars as pl

from pipeline.clock import utc_text
from pipeline.journal.audit_log import Event, new_line
from pipeline.journal.instants import instant_text
from pipeline.journal.journal import Journal, as_json

# How long a run that was killed may have gone on after its last line: a request's time and a pause.
_AFTER_LAST_SIGN: Final = timedelta(seconds=60)

_EXCHANGES_SCHEMA: Final = {
    "purpose": pl.String,
    "attempt": pl.Int64,
    "sent_at": pl.String,
    "latency_ms": pl.Float64,
    "http_status": pl.Int64,
    "verdict": pl.String,
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `exit_code` is None if it did not finish."""

    run_id: str
    command: str
    started_at: str
    finished_at: str | None = None
    exit_code: int | None = None
    failure: str = ""


def start_run(journal: Journal, run: Run) -> int:
    """Enter a run, and put the writes in doubt that an earlier one left in flight.

    Returns:
        The number of those writes.
    """

    def start() -> int:
        started = {"run_id": run.run_id, "command": run.command, "at": run.started_at}
        journal.execute("start_run", started)
        return doubt_in_flight(journal, run.run_id, run.started_at, run.command)

    journal.name_holder(run.run_id, run.started_at)
    return journal.write_now(start)


def doubt_in_flight(journal: Journal, run_id: str, at: str, detail: str) -> int:
    """Put the writes in doubt that the last holder of the journal, or of our partition, left in flight. In a step.

    Returns:
        The number of those writes.
    """
    part = {"part": journal.store.part}
    last = journal.execute("last_line", part).fetchone()
    left = journal.select("left_in_flight", part)
    lines = [new_line(at, run_id, Event.RUN, detail=detail)]
    doubted = []
    for key, sent_at, ahead_s in left:
        until = _until_of_crash(ahead_s, sent_at, last[0] if last else sent_at)
        doubted.append({"key": key, "at": at, "until": until})
        lines.append(new_line(at, run_id, Event.CRASHED, key=key))
    journal.change_each("doubt_in_flight", doubted)
    journal.append(lines)
    return len(left)


def _until_of_crash(ahead_s: float | None, sent_at: str, died_at: str) -> str | None:
    """Return the latest instant, by the server's clock, at which a run that was killed can have sent.

    `ahead_s` is that of the first send: if a clock was set since, no time proves anything anyway.
    """
    if ahead_s is None:
        return None
    last = max(datetime.fromisoformat(died_at), datetime.fromisoformat(sent_at))
    return instant_text(last + timedelta(seconds=ahead_s) + _AFTER_LAST_SIGN)


def finish_run(journal: Journal, run: Run) -> None:
    """Enter how a run ended."""
    ended = {
        "run_id": run.run_id,
        "at": run.finished_at,
        "exit_code": run.exit_code,
        "failure": run.failure,
    }
    at = run.finished_at or run.started_at

    def finish() -> None:
        journal.execute("finish_run", ended)
        journal.append([new_line(at, run.run_id, Event.ENDED, detail=str(run.exit_code))])

    journal.write_now(finish)


def find_run(journal: Journal, run_id: str | None) -> Run | None:
    """Return a run, or the last one that planned or sent if `run_id` is None; None if there is none."""
    name, parameters = ("last_run", {}) if run_id is None else ("run", {"run_id": run_id})
    found = journal.records(name, parameters)
    return Run(**found[0]) if found else None


def run_ids(journal: Journal) -> list[str]:
    """Return the ids of all runs, in their order."""
    return sorted(line[0] for line in journal.rows("run_ids", {}))


def last_complete(journal: Journal, feed: str) -> list[str]:
    """Return the last run that processed all files of a feed to the end, and the runs after it.

    Those ended early, or had files that hold changes only.
    """
    return [line[0] for line in journal.rows("last_complete", {"feed": feed})]


def ended_early(journal: Journal) -> list[str]:
    """Return the runs after the last one that sent all it was to send, in their order; the present one is the last."""
    return [line[0] for line in journal.rows("ended_early", {})]


def runs_unsettled(journal: Journal) -> list[str]:
    """Return the runs whose plans are still needed, to send a write again or to settle a doubt."""
    return [line[0] for line in journal.rows("runs_unsettled", {})]


def runs_holding(journal: Journal, feeds: Sequence[str]) -> list[str]:
    """Return the runs whose plans have the content of these feeds' active coverages."""
    return [line[0] for line in journal.rows("runs_holding", {"feeds": as_json(feeds)})]


def exchanges(journal: Journal, run_id: str) -> pl.DataFrame:
    """Return all requests of a run, in the order of their permits."""
    return journal.stream("exchanges", {"run_id": run_id}, _EXCHANGES_SCHEMA)


# Feeds --------------------------------------------------------------------------------------------


class LoadedInterchange(NamedTuple):
    """An X12 interchange that a run read.

    Attributes:
        identity: Sender, receiver and control numbers.
        sha256: Of the file.
        created: By its envelope, as digits; "" if not known: an earlier version entered it.
    """

    identity: str
    sha256: str
    created: str = ""


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A run that read interchanges of a feed. `is_complete`: it ended with all files."""

    run_id: str
    is_complete: bool
    interchanges: Sequence[LoadedInterchange]


@dataclass(frozen=True, slots=True)
class FeedTotals:
    """The content of a feed's files in a run. `is_change`: only changes; `interchanges`: of X12 files."""

    feed: str
    rows: int
    cents: int
    files: int
    is_change: bool = False
    interchanges: Sequence[LoadedInterchange] = ()


def enter_feeds(journal: Journal, run_id: str, totals: Iterable[FeedTotals]) -> None:
    """Enter the feeds of a run that passed its limits."""
    lines = [
        {
            "run_id": run_id,
            "feed": each.feed,
            "rows_read": each.rows,
            "cents_read": each.cents,
            "files": each.files,
            "is_change": int(each.is_change),
            "interchanges": as_json([tuple(entered) for entered in each.interchanges]),
        }
        for each in totals
    ]
    journal.write_now(lambda: [journal.execute("enter_feed", line) for line in lines])


def last_feed(journal: Journal, feed: str) -> tuple[int, int] | None:
    """Return rows and cents of a feed's files in the last run that passed its limits; None if there is none."""
    line = journal.row("last_feed", {"feed": feed})
    return None if line is None else (int(line[0]), int(line[1]))


def files_of(journal: Journal, run_id: str, feed: str) -> int | None:
    """Return the number of files that a feed had in a run; None if it is not known."""
    line = journal.row("files_of", {"run_id": run_id, "feed": feed})
    return None if line is None or line[0] is None else int(line[0])


def interchanges_of(journal: Journal, feed: str) -> list[LoadedRun]:
    """Return the runs with X12 interchanges of a feed that passed the limits, in their order."""
    return [
        LoadedRun(
            run_id,
            bool(is_complete),
            tuple(LoadedInterchange(*each) for each in orjson.loads(entered)),
        )
        for run_id, is_complete, entered in journal.rows("interchanges", {"feed": feed})
    ]


def enter_feed_keys(journal: Journal, run_id: str, keys: Mapping[str, Sequence[str]]) -> None:
    """Enter the fields of each feed's key in the order in which they are hashed."""
    lines = [
        {"run_id": run_id, "feed": feed, "fields": " ".join(fields)}
        for feed, fields in keys.items()
    ]
    journal.write_now(lambda: [journal.execute("enter_feed_key", line) for line in lines])


def feed_key(journal: Journal, feed: str) -> tuple[str, ...] | None:
    """Return the fields of a feed's key in the order in which they are hashed; None if not known."""
    line = journal.row("feed_key", {"feed": feed})
    return None if line is None else tuple(line[0].split())


# Plans --------------------------------------------------------------------------------------------


def enter_plan(journal: Journal, run_id: str, sha256: str, at: datetime) -> None:
    """Enter the SHA-256 of the files of a run's plan, so that a changed one is never sent."""
    line = new_line(utc_text(at), run_id, Event.PLANNED, detail=sha256)
    journal.write_now(lambda: journal.append([line]))


def plan_sha256(journal: Journal, run_id: str) -> str:
    """Return the SHA-256 of the files of a run's plan; "" if none was entered."""
    line = journal.row("plan_sha256", {"run_id": run_id})
    return str(line[0]) if line else ""


def enter_index(journal: Journal, feed: str, sha256: str) -> None:
    """Enter the SHA-256 of the index of a feed's unchanged rows, so that a changed one is never used."""
    entered = {"name": f"index {feed}", "value": sha256}
    journal.write_now(lambda: journal.execute("set_meta", entered))


def index_sha256(journal: Journal, feed: str) -> str:
    """Return the SHA-256 of the index of a feed's unchanged rows; "" if none was entered."""
    meta = dict(journal.rows("meta", {}))
    return str(meta.get(f"index {feed}", ""))


# Purging ------------------------------------------------------------------------------------------


def count_messages(journal: Journal, before: str) -> int:
    """Count the writes whose message `purge` would remove."""
    line = journal.row("count_words", {"before": before})
    return int(line[0]) if line else 0


def purge(journal: Journal, run_ids: Sequence[str], before: str, at: datetime, who: str) -> int:
    """Note that the plans and reports of runs are removed, and remove messages of writes settled `before`.

    The writes themselves stay. Nothing of the messages remains in SQLite's file.

    Returns:
        The number of messages that were removed.
    """

    def purge() -> int:
        journal.append(
            new_line(utc_text(at), "", Event.PURGED, detail=run_id, who=who) for run_id in run_ids
        )
        return journal.execute("forget_words", {"before": before}).rowcount

    journal.read(journal.store.forget)
    return journal.write_now(purge)


def was_purged(journal: Journal, run_id: str) -> bool:
    """Return whether the plan and report of a run were removed."""
    return journal.row("was_purged", {"run_id": run_id}) is not None
