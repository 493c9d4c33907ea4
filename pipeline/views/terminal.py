"""The summary on a terminal: ten lines that a tired person understands at 6 a.m."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from pipeline.views.words import WORDS, verdict


def summary_text(summary: Mapping[str, Any], folder: str, config: str | None) -> str:
    """What `run` and `plan` print at their end. `config` None: it was a demo."""
    lines = [_headline(summary)]
    for feed in summary["feeds"]:
        lines += ["", *_feed(feed)]
    lines += ["", _balance(summary), _requests(summary["requests"])]
    lines += [f"Report    {folder}", _ending(summary, folder, config)]
    return "\n".join(line for line in lines if line is not None)


def _headline(summary: Mapping[str, Any]) -> str:
    if summary["command"] != "plan":
        return f"Run {summary['run_id']}"
    feeds = summary["feeds"]
    counts = {word: sum(feed["dispositions"][word] for feed in feeds) for word, _ in WORDS}
    cents = sum(
        (Decimal(feed["amount_usd"]["pending"]) for feed in feeds if "amount_usd" in feed),
        Decimal(0),
    )
    return (
        f"Plan: {counts['pending']:,} to create, 0 to update, {counts['unchanged']:,} unchanged, "
        f"{counts['rejected']:,} rejected. USD {cents:,.2f}."
    )


def _feed(feed: Mapping[str, Any]) -> list[str]:
    amounts = feed.get("amount_usd", {})
    files = feed["files"]
    source = f"{len(files)} file{'s' * (len(files) != 1)}"
    lines = [_line(f"{feed['name']}: rows read ({source})", feed["rows_read"], amounts.get("read"))]
    counts = feed["dispositions"]
    lines += [
        _line(f"  {text}", counts[word], amounts.get(word)) for word, text in WORDS if counts[word]
    ]
    if feed.get("amounts_unreadable"):
        lines.append(
            f"  ({feed['amounts_unreadable']:,} amounts could not be read and count as 0.00)"
        )
    for count in feed["warnings"].values():
        lines.append(
            f"  ({count:,} coverages share their order with an ended one: Canvas bumps the older down)"
        )
    return lines


def _line(text: str, count: int, amount: str | None) -> str:
    money = "" if amount is None else f"{Decimal(amount):>16,.2f} USD"
    return f"{text:<46}{count:>10,}{money}"


def _balance(summary: Mapping[str, Any]) -> str:
    if summary["balanced"]:
        return "Balanced  every row has one ending, and the amounts add up to the cent"
    return (
        "NOT BALANCED  no row was accounted for"
        if not any(feed["rows_read"] for feed in summary["feeds"])
        else "NOT BALANCED  rows or amounts do not add up: tell the maintainers"
    )


def _requests(requests: Mapping[str, Any]) -> str:
    if not requests["total"]:
        return "Requests  none"
    rate = f", {requests['rate_per_s']:g} a second" if requests["rate_per_s"] else ""
    p95 = requests["latency_s"]["p95"] * 1000
    return f"Requests  {requests['total']:,}{rate}; {requests['retried']:,} sent again; 95 % answered within {p95:,.0f} ms"


def _ending(summary: Mapping[str, Any], folder: str, config: str | None) -> str:
    """The exit code, its reason, and the next command to type."""
    lines = [f"Exit {summary['exit_code']}    {verdict(summary)}"]
    if summary["failure"]:
        lines.append(f"  {summary['failure']}")
    return "\n".join(lines + [f"Next      {step}" for step in _next(summary, folder, config)])


def _next(summary: Mapping[str, Any], folder: str, config: str | None) -> Sequence[str]:
    if config is None:
        return [
            f"open {folder}/report.html and rejects-*.csv beside it; some sample rows are wrong on purpose",
            "copy configs/nightly.toml, name your columns and your Canvas in it, and `canvas-ingest plan` it",
        ]
    code = summary["exit_code"]
    returned = [
        feed["name"]
        for feed in summary["feeds"]
        if feed["dispositions"]["rejected"] or feed["dispositions"]["refused"]
    ]
    steps = []
    if code == 4:  # noqa: PLR2004 - in doubt
        steps.append(
            f"look up in Canvas the rows `in_doubt` of {folder}/reconciliation.csv: they may have arrived, and are not sent again"
        )
    if returned and code in {0, 3, 4}:
        name = returned[0]
        mended = f"{folder}/rejects-{name}.csv"
        steps += [
            f"mend {mended}, then type:",
            f"canvas-ingest run {config} --feed {name} --input {name}={mended}",
        ]
    if summary["command"] == "plan" and code in {0, 3}:
        steps.append(f"canvas-ingest run {config}")
    if code in {1, 130} and summary["command"] != "plan":
        steps.append(f"canvas-ingest run {config}    (goes on where this one ended)")
    return steps
