"""The meanings of exit codes and dispositions, in one place for terminal and page."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from pipeline.reading.trim import skipped_text
from pipeline.records import counted

_MINUTE_S: Final = 60
_DAY_S: Final = 24 * 3600

_MEANING: Final = {
    0: "everything reconciled",
    1: "the run failed; nothing is lost",
    2: "the configuration or the command is wrong",
    3: "finished, with rows rejected or refused",
    4: "finished, with writes in doubt",
    5: "another run is using this journal",
    130: "interrupted; everything sent so far is recorded: run again to continue",
}
_MEANING_OF_PLAN: Final = {
    0: "planned",
    1: "the plan failed; nothing was sent",
    3: "planned, with rows rejected",
    4: "planned; writes of an earlier run are in doubt",
}
_MEANING_OF_VERIFY: Final = {
    0: "Canvas holds what was written",
    1: "not all could be read back",
    3: "Canvas holds something else than was written",
}
_BY_COMMAND: Final = {"plan": _MEANING_OF_PLAN, "verify": _MEANING_OF_VERIFY}
OUTCOMES: Final = (
    ("match", "match"),
    ("moved", "moved (a later write of ours moved their order)"),
    ("differs", "differ (edited since, or changed by Canvas)"),
    ("missing", "missing (Canvas does not show them)"),
    ("stray", "strays (like one of ours, and not made by us)"),
    ("unread", "unread (Canvas' searches failed)"),
)
# Shown in this order.
WORDS: Final = (
    ("created", "created"),
    ("updated", "updated"),
    ("unchanged", "unchanged (Canvas already holds them)"),
    ("filtered", "filtered (left out by “only”)"),
    ("duplicate", "duplicate (of an earlier row)"),
    ("rejected", "rejected (by us, before sending)"),
    ("refused", "refused (by Canvas)"),
    ("in_doubt", "in doubt (sent, fate unknown)"),
    ("pending", "pending (not sent)"),
)


def verdict(summary: Mapping[str, Any]) -> str:
    """Return how it ended, in a few words."""
    meanings = {**_MEANING, **_BY_COMMAND.get(summary["command"], {})}
    meaning = meanings[summary["exit_code"]]
    if summary["exit_code"] == 3 and "verification" in summary:  # noqa: PLR2004 - something differs
        return _changed(summary["verification"])
    kept = kept_how(summary)
    if summary["exit_code"] == 3 and kept and not _is_returned(summary):  # noqa: PLR2004
        return f"finished, and what is gone from the file was {kept}"
    return meaning


def payments(summary: Mapping[str, Any]) -> str:
    """Return the sums of a verification, in a sentence; "" without payments."""
    totals = summary["verification"]
    if not any(Decimal(totals[f"usd_{whose}"]) for whose in ("journal", "canvas", "strays")):
        return ""
    ours, theirs, strays = (
        f"{Decimal(totals[f'usd_{whose}']):,.2f} USD" for whose in ("journal", "canvas", "strays")
    )
    beside = f", and {strays} in strays" if totals["stray"] else ""
    return f"Payments: {ours} by the journal, {theirs} by Canvas' own answers{beside}."


def _changed(totals: Mapping[str, int]) -> str:
    """Return what `verify` found that is not as it was written."""
    count, strays = totals["differs"] + totals["missing"], totals["stray"]
    parts = []
    if count:
        matches = "matches" if count == 1 else "match"
        parts.append(f"{counted(count, 'resource')} in Canvas no longer {matches} what we wrote")
    if strays:
        parts.append(
            f"{counted(strays, 'resource')} like ours {'was' if strays == 1 else 'were'} not made by us"
        )
    return "; ".join(parts) or _MEANING_OF_VERIFY[3]


def kept_how(summary: Mapping[str, Any]) -> str:
    """Return what was not done to coverages that are gone from a file: "not ended", for example; "" if all was done."""
    gone = [feed["missing"] for feed in summary.get("feeds", [])]
    words = ("ended", "cancelled")
    left = [word for word in words if any(each.get(f"not_{word}") for each in gone)]
    return f"not {' or '.join(left)}" if left else ""


def _is_returned(summary: Mapping[str, Any]) -> bool:
    return any(
        feed["dispositions"][word] for feed in summary["feeds"] for word in ("rejected", "refused")
    )


_WARNINGS: Final = {
    "dates|open": (
        '{feed}: 1 date means "no date", as 9999-12-31 does: it is read as a blank cell.',
        '{feed}: {count:,} dates mean "no date", as 9999-12-31 does: they are read as blank cells.',
    ),
    "order|bumps": (
        "{feed}: 1 coverage uses an order (primary, secondary ...) that an earlier coverage of the same patient already has. Canvas will demote the earlier one.",
        "{feed}: {count:,} coverages use an order (primary, secondary ...) that an earlier coverage of the same patient already has. Canvas will demote the earlier one.",
    ),
    "order|taken": (
        "{feed}: 1 coverage uses an order that a coverage in no row of today's files has, of the same patient. Canvas will demote that one.",
        "{feed}: {count:,} coverages use an order that a coverage in no row of today's files has, of the same patient. Canvas will demote that one.",
    ),
}


def warnings_of(feeds: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the warnings about all feeds, from what the plan notes of them.

    `warnings` of a feed has the count by rule, `messages` the text of a rule that is not in `_WARNINGS`.
    """
    return [
        {"rule": rule, "feed": name, "count": count, "message": _warning(rule, count, name, feed)}
        for name, feed in feeds.items()
        for rule, count in feed["warnings"].items()
    ]


def _warning(rule: str, count: int, name: str, feed: Mapping[str, Any]) -> str:
    text = feed.get("messages", {}).get(rule)
    return str(text) if text else _WARNINGS[rule][count != 1].format(count=count, feed=name)


def notes(summary: Mapping[str, Any]) -> list[str]:
    """Return what a reader needs to know beside the counts, in sentences."""
    is_plan = summary["command"] == "plan"
    sentences = [f"Warning: {each['message']}" for each in summary.get("warnings", [])]
    sentences += [note for feed in summary["feeds"] for note in _feed_notes(feed, is_plan=is_plan)]
    unasked = summary["patients_unasked"]
    if unasked:
        patients = counted(unasked, "patient")
        sentences.append(
            f"Canvas was not searched for coverages of {patients}: the run searches, and takes over what is there already."
        )
    return [*sentences, *doubt_notes(summary), *filter(None, [needs(summary)])]


def duration(seconds: float) -> str:
    """Return a duration as people say it: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < _MINUTE_S:
        return f"{seconds:.0f} s"
    minutes = round(seconds / _MINUTE_S)
    if minutes < _MINUTE_S:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def needs(summary: Mapping[str, Any]) -> str:
    """Return what carrying out a plan takes, in a sentence; "" if nothing is to be sent."""
    estimate = summary["needs"]
    if not estimate or not estimate["writes"]:
        return ""
    at = datetime.fromisoformat(estimate["done_at"]).astimezone()
    day = "" if estimate["seconds"] < _DAY_S else f" on {at:%Y-%m-%d}"
    return (
        f"Needs about {estimate['requests']:,} requests: {duration(estimate['seconds'])} at {estimate['rate_per_s']:g} a second, "
        f"done by {at:%H:%M}{day} if it starts now."
    )


def _feed_notes(feed: Mapping[str, Any], *, is_plan: bool) -> list[str]:
    name = feed["name"]
    sentences = [_corrected(feed)] if feed["mended_from"] else []
    if feed["corrected"]["rows"]:
        sentences.append(_came_in(feed))
    if compared := _compared(feed):
        sentences.append(compared)
    skipped = sum((Counter(file.get("skipped", {})) for file in feed["files"]), Counter[str]())
    if skipped:
        sentences.append(f"{name}: {skipped_text(skipped)}.")
    if feed["numbered"]:
        count, moved = feed["numbered"]["numbered"], feed["numbered"]["moved"]
        coverages = counted(count, "active coverage")
        sentences.append(
            f"Order of {name} by sequence: {coverages} numbered, {moved:,} of them moved."
        )
    if feed["changes"]:
        changes = ", ".join(f"{element} {count:,}" for element, count in feed["changes"].items())
        verb = "would change" if is_plan else "change"
        sentences.append(
            f"The updates of {name} {verb}: {changes} (changes-{name}.csv: each, before and after)."
        )
    if feed["adopted"]:
        adopted = feed["adopted"]
        were = "1 coverage was" if adopted == 1 else f"{adopted:,} coverages were"
        sentences.append(f"{name}: {were} in Canvas already: taken over.")
    again = feed["rewritten"]
    if again["rows"]:
        texts = {**_REWRITTEN, **({"pending": "to be written"} if is_plan else {})}
        ends = ", ".join(f"{again[word]:,} {text}" for word, text in texts.items() if again[word])
        rows = "1 row" if again["rows"] == 1 else f"{again['rows']:,} rows"
        sentences.append(f"Unchanged in {name}, and written again: {rows}, {ends}.")
    gone = feed["missing"]
    if gone["rows"]:
        done = "ended" if gone["mode"] == "end" else "cancelled"
        texts = {**_GONE, **({"pending": f"to be {done}"} if is_plan else {})}
        ends = ", ".join(f"{gone[word]:,} {text}" for word, text in texts.items() if gone.get(word))
        rows = "1 row" if gone["rows"] == 1 else f"{gone['rows']:,} rows"
        sentences.append(
            f"Gone from {name} since run {gone['compared_with']}: {rows}, {ends} (missing-{name}.csv)."
        )
    return sentences


def _corrected(feed: Mapping[str, Any]) -> str:
    runs = ", ".join(feed["mended_from"])
    return f"{feed['name']}: its rows are corrected ones, rejected in run {runs}."


def _compared(feed: Mapping[str, Any]) -> str:
    """Return how the files differ from those of the last run; "" if neither rows nor dollars nor files do."""
    last = feed["last_run"]
    if last is None:
        return ""
    rows, files = feed["rows_read"] - last["rows"], len(feed["files"]) - last["files"]
    dollars = Decimal(feed["amount_usd"]["read"]) - Decimal(last["usd"]) if "usd" in last else None
    if not (rows or files or dollars):
        return ""
    differences = [_signed(rows, "row")]
    differences += [] if dollars is None else [f"{dollars:+,.2f} USD"]
    differences += [_signed(files, "file")] if files else []
    at = datetime.fromisoformat(last["started_at"]).astimezone()
    return f"{feed['name']} since run {last['run_id']} ({at:%Y-%m-%d %H:%M}): {', '.join(differences)}."


def _signed(count: int, noun: str) -> str:
    return f"{count:+,} {noun}{'' if abs(count) == 1 else 's'}"


def _came_in(feed: Mapping[str, Any]) -> str:
    rows, runs = feed["corrected"]["rows"], ", ".join(feed["corrected"]["runs"])
    are = "1 rejected row is" if rows == 1 else f"{rows:,} rejected rows are"
    return f"{feed['name']}: {are} in Canvas already, from a corrected file (run {runs})."


_REWRITTEN: Final = {
    "updated": "updated",
    "refused": "refused by Canvas",
    "in_doubt": "in doubt",
    "pending": "not sent",
}


_GONE: Final = {
    "reported": "left as they are",
    "ended": "ended",
    "not_ended": "not ended",
    "cancelled": "cancelled",
    "not_cancelled": "not cancelled",
    "refused": "refused by Canvas",
    "in_doubt": "in doubt",
    "pending": "not sent",
}


_RECOVERED: Final = {
    "found": (
        "1 write whose answer was lost was found in Canvas.",
        "{} writes whose answers were lost were found in Canvas.",
    ),
    "sent_again": (
        "1 write whose answer was lost was not in Canvas and was sent again.",
        "{} times a write whose answer was lost was not in Canvas and was sent again.",
    ),
    "set_aside": (
        "Journal lost: 1 row that Canvas already seems to hold was set aside for review.",
        "Journal lost: {} rows that Canvas already seems to hold were set aside for review.",
    ),
    "retried": (
        "1 update was retried because the coverage had changed in Canvas meanwhile.",
        "{} updates were retried because the coverages had changed in Canvas meanwhile.",
    ),
    "compared": (
        "1 update was compared with Canvas before it was sent.",
        "{} updates were compared with Canvas before they were sent.",
    ),
}
_ENDINGS: Final = {"in_doubt": "in doubt", "pending": "to be sent again"}


def unread(summary: Mapping[str, Any]) -> str:
    """Return the state of a run that ended before its files were read, in a sentence."""
    writes = summary["requests"]["writes"]
    if not writes:
        return "Stopped before anything was sent."
    sent = counted(writes, "write")
    return f"Stopped before these files were read; {sent} of earlier runs had been sent again."


def _rows(ended: Mapping[str, Any]) -> str:
    rows = "1 row" if ended["rows"] == 1 else f"{ended['rows']:,} rows"
    return f"{rows} ({ended['usd']} USD)" if "usd" in ended else rows


def doubt_notes(summary: Mapping[str, Any]) -> list[str]:
    """Return the results of lost answers and of writes of earlier runs, in sentences."""
    recovered = summary["recovered"]
    notes = [
        one if recovered[name] == 1 else many.format(f"{recovered[name]:,}")
        for name, (one, many) in _RECOVERED.items()
        if recovered[name]
    ]
    for feed, endings in summary["settled"].items():
        counts = ", ".join(
            f"{_rows(ended)} {_ENDINGS.get(ending, ending)}" for ending, ended in endings.items()
        )
        notes.append(f"Writes of earlier runs, {feed}: {counts}.")
    notes += [
        f"Sent again for earlier runs, {feed}: {_rows(ended)}."
        for feed, ended in summary["sent_again"].items()
    ]
    elsewhere = summary["in_doubt_elsewhere"]
    if elsewhere:
        writes = "1 write of a row" if elsewhere == 1 else f"{elsewhere:,} writes of rows"
        are = "is" if elsewhere == 1 else "are"
        notes.append(f"{writes} outside these files {are} in doubt.")
    return notes
