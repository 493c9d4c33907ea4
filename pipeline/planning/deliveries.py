"""Compare today's files with those of the last runs, and with the time at which they were expected.

The last runs are known from the summaries in `report.dir`, of runs of this journal that ended with all files. If a
summary is gone, its run is not compared with; no decision depends on it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson
import polars as pl

from pipeline.planning.state import Build
from pipeline.reading.source import Source
from pipeline.records import counted, usd
from pipeline.rows.feed import Feed

STALE: Final = "files|stale"
SHORT: Final = "files|short"
LATE: Final = "files|late"
_ENDED: Final = (0, 3, 4)
_RUNS_READ: Final = 30
_SHORT_SHARE: Final = Decimal(
    "0.1"
)  # fewer rows or dollars than this is no news of a roster or a ledger
_NEAREST: Final = timedelta(
    hours=12
)  # a file belongs to the expected time that is nearest to its own


def warn_of_delivery(build: Build, feed: Feed) -> None:
    """Note how the files of a feed differ from those of the last run, and warn if they are stale, short or late.

    Sets `is_whole` and `last_run` in the feed's `meta`, and adds to `notices`.
    """
    meta = build.feed_plans[feed.name].meta
    is_by_input = feed.name in build.job.inputs
    meta["is_whole"] = not (is_by_input or build.has_changes_only(feed.name) or meta["mended_from"])
    runs = list(_last_runs(build, feed.name))
    has_fewer = build.feed_plans[feed.name].is_short  # there is a warning about that
    if not has_fewer and not isinstance(build.job.inputs.get(feed.name), pl.DataFrame):
        _warn(build, feed, STALE, len(meta["files"]), _stale(feed, meta["files"], runs))
    last = next((_totals(run, before) for run, before in runs if before["is_whole"]), None)
    meta["last_run"] = last if meta["is_whole"] else None
    if last and meta["is_whole"] and not has_fewer:
        _warn(build, feed, SHORT, last["rows"] - meta["rows_read"], _short(feed, meta, last))
    if feed.expect_by and not is_by_input:
        late = _late(feed, build.sources[feed.name], build.now)
        _warn(build, feed, LATE, len(meta["files"]), late)


def _warn(build: Build, feed: Feed, rule: str, count: int, message: str) -> None:
    if message:
        notice = {"rule": rule, "feed": feed.name, "count": max(count, 0), "message": message}
        build.notices.append(notice)


def _last_runs(build: Build, feed: str) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the summaries of the last runs that ended with all files, the newest first, each with that of the feed."""
    folders = build.job.report_dir.glob("[0-9]*T[0-9]*Z-*/summary.json")
    newest = sorted(folders, key=lambda path: path.parent.name, reverse=True)[:_RUNS_READ]
    found = [summary for path in newest if (summary := _summary(path, build))]
    for summary in sorted(found, key=lambda each: str(each["started_at"]), reverse=True):
        for each in summary["feeds"]:
            if each["name"] == feed and "is_whole" in each:
                yield summary, each


def _summary(path: Path, build: Build) -> dict[str, Any] | None:
    """Return the summary of a run of this journal that ended with all files; None if it is another one."""
    with suppress(OSError, orjson.JSONDecodeError, KeyError, TypeError):
        summary: dict[str, Any] = orjson.loads(path.read_bytes())
        is_run = summary["command"] == "run" and summary["exit_code"] in _ENDED
        if is_run and summary["journal"]["id"] == build.journal.name:
            return summary
    return None


def _totals(run: Mapping[str, Any], feed: Mapping[str, Any]) -> dict[str, Any]:
    amount = feed.get("amount_usd", {}).get("read")
    return {
        "run_id": run["run_id"],
        "started_at": run["started_at"],
        "rows": feed["rows_read"],
        "cents": None if amount is None else int(Decimal(amount).scaleb(2)),
        "files": len(feed["files"]),
    }


def _stale(
    feed: Feed,
    files: Sequence[Mapping[str, Any]],
    runs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> str:
    """Return the warning if an earlier run had these files and no others, to the byte; "" if none had."""
    today = {file["sha256"] for file in files}
    for run, before in runs:
        if today == {file["sha256"] for file in before["files"]}:
            what = "the file has" if len(files) == 1 else f"all {len(files):,} files have"
            at = local_text(datetime.fromisoformat(run["started_at"]), feed)
            return (
                f"Feed {feed.name}: {what} the same bytes as in run {run['run_id']} of {at}. "
                "Check that the sender delivered a new one."
            )
    return ""


def _short(feed: Feed, meta: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """Return the warning if there are far fewer rows or dollars than in the last run; "" if there are not."""
    rows, cents, before = meta["rows_read"], meta["cents_read"], last["cents"]
    if not (_is_short(rows, last["rows"]) or (before and _is_short(cents, before))):
        return ""
    now, then = counted(rows, "row"), counted(last["rows"], "row")
    if before is not None:
        now, then = f"{now} and {usd(cents)} USD", f"{then} and {usd(before)} USD"
    at = local_text(datetime.fromisoformat(last["started_at"]), feed)
    return f"Feed {feed.name} has {now}; run {last['run_id']} of {at} had {then}. Check that the file is whole."


def _is_short(now: int, before: int) -> bool:
    return before > 0 and before - now >= _SHORT_SHARE * before


# Expected times -----------------------------------------------------------------------------------


def _zone(feed: Feed) -> ZoneInfo:
    return ZoneInfo(feed.timezone or "UTC")


def _deadline(feed: Feed, at: datetime) -> datetime:
    """Return the last time up to `at` by which a file was expected, in the feed's time zone."""
    hour, minute = map(int, feed.expect_by.split(":"))
    local = at.astimezone(_zone(feed))
    due = local.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return due if due <= local else due - timedelta(days=1)


def _by(feed: Feed) -> str:
    return f"{feed.expect_by} ({feed.timezone or 'UTC'})"


def _late(feed: Feed, sources: Sequence[Source], now: datetime) -> str:
    """Return the warning if no file was there by the last expected time before `now`; "" if one was."""
    newest = max(sources, key=lambda source: source.stamp.mtime_ns)
    at = datetime.fromtimestamp(newest.stamp.mtime_ns / 1e9, UTC)
    due = _deadline(feed, now).astimezone(UTC)
    when = local_text(at, feed)
    if at <= due - _NEAREST:
        return (
            f"Feed {feed.name}: no new file came by {_by(feed)}; the newest, {newest.name}, is of {when}. "
            "Ask the sender for today's."
        )
    if due < at <= due + _NEAREST:
        return (
            f"Feed {feed.name}: {newest.name} came late, at {when}; it was expected by {_by(feed)}."
        )
    return ""


def expected_text(feed: Feed, now: datetime) -> str:
    """Return when a file that is not there was or is expected, to follow a message; "" if that is not configured."""
    if not feed.expect_by:
        return ""
    passed = now - _deadline(feed, now)
    if passed > _NEAREST:
        return f"; it is expected by {_by(feed)}"
    minutes = int(passed.total_seconds() // 60)
    return f"; it is late: expected by {_by(feed)}, {minutes // 60} h {minutes % 60} min ago"


def local_text(at: datetime, feed: Feed) -> str:
    """Return an instant by the clock of the practice, or of this machine if the feed has no time zone."""
    local = at.astimezone(_zone(feed)) if feed.timezone else at.astimezone()
    return f"{local:%Y-%m-%d %H:%M}"
