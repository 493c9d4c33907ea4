"""The summary on a terminal, in about ten lines."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from shlex import quote
from typing import Any, Final

from pipeline.records import ABANDONED, RowId, counted
from pipeline.reporting.layout import COLUMNS, table, width_of
from pipeline.reporting.words import (
    OUTCOMES,
    WORDS,
    doubt_notes,
    kept_how,
    notes,
    payments,
    unread,
    verdict,
)

_RULES_SHOWN: Final = 5
_FIRST_SHOWN: Final = 3
_GAP: Final = "  "  # between columns


def summary_text(
    summary: Mapping[str, Any],
    folder: str,
    config: str | None,
    given: str = "",
    columns: int = COLUMNS,
) -> str:
    """Return what `run`, `plan` and `verify` print at their end.

    Args:
        summary: The content of `summary.json`.
        folder: The folder of the report.
        config: The path of the configuration as it is typed in a shell; None for a demo.
        given: The options that named feeds and files, to be typed again.
        columns: The width that its tables fit.
    """
    if "verification" in summary:
        return _verification_text(summary, folder, config)
    if any(feed["files"] for feed in summary["feeds"]):
        lines = [headline(summary), "", *_tables(summary["feeds"], columns), ""]
        lines += [
            _balance(summary),
            *_reasons(summary),
            *notes(summary),
            _requests(summary["requests"]),
        ]
    else:
        lines = [
            f"{summary['command'].capitalize()} {summary['run_id']}: {unread(summary)}",
            *doubt_notes(summary),
        ]
    lines += [f"Report: {folder}", *_ending(summary, folder, config, given)]
    return "\n".join(lines)


def _verification_text(summary: Mapping[str, Any], folder: str, config: str | None) -> str:
    totals = summary["verification"]
    lines = [
        f"Verify {summary['run_id']}: {totals['written']:,} written, of {counted(totals['patients'], 'patient')}",
        "",
        *(
            f"{totals[word]:>9,}  {text}"
            for word, text in OUTCOMES
            if totals[word] or word == "match"
        ),
        "",
    ]
    if sums := payments(summary):
        lines.append(sums)
    if totals["elements"]:
        named = ", ".join(f"{name} {count:,}" for name, count in totals["elements"].items())
        lines.append(f"Elements that differ: {named}")
    if totals["payers_unknown"]:
        count = totals["payers_unknown"]
        lines.append(
            f"Payer not compared: {count:,} {'coverage' if count == 1 else 'coverages'} (Canvas never returns a payer "
            "id, and which Organization it is has not been shown yet)."
        )
    if totals["contents_unknown"]:
        count = totals["contents_unknown"]
        lines.append(
            f"Content not compared: {count:,} {'coverage' if count == 1 else 'coverages'} (the plan that sent it was removed: "
            "only that Canvas has it, for that patient)."
        )
    lines += [_requests(summary["requests"]), f"Report: {folder}"]
    if summary["failure"]:
        lines.append(f"Failed: {summary['failure']}")
    lines.append(f"Exit {summary['exit_code']}: {verdict(summary)}.")
    return "\n".join([*lines, *next_steps(summary, folder, config)])


def headline(summary: Mapping[str, Any]) -> str:
    """Return the run, or for a plan what would be done."""
    if summary["command"] != "plan":
        return f"Run {summary['run_id']}"
    feeds = summary["feeds"]
    counts = {word: sum(feed["dispositions"][word] for feed in feeds) for word, _ in WORDS}
    planned = {
        word: sum(feed["pending_by_interaction"][word] for feed in feeds)
        for word in ("create", "update")
    }
    amounts = [Decimal(feed["amount_usd"]["pending"]) for feed in feeds if "amount_usd" in feed]
    gone = {"end": 0, "cancel": 0}
    for feed in feeds:
        if feed["missing"]["pending"]:
            gone[feed["missing"]["mode"]] += feed["missing"]["pending"]
    missing = "".join(f"{count:,} to {verb}, " for verb, count in gone.items() if count)
    usd = f" USD {sum(amounts, Decimal(0)):,.2f}." if amounts else ""
    return (
        f"Plan: {planned['create']:,} to create, {planned['update']:,} to update, {missing}{counts['unchanged']:,} unchanged, "
        f"{counts['rejected']:,} rejected.{usd}"
    )


def _tables(feeds: Sequence[Mapping[str, Any]], columns: int) -> list[str]:
    """Return the rows and dollars of each feed by disposition, as many feeds beside each other as fit."""
    words = [word for word, _ in WORDS if any(feed["dispositions"][word] for feed in feeds)]
    labels = ["", "", "read", *(word.replace("_", " ") for word in words)]
    label = width_of(labels)
    groups: list[list[list[str]]] = []
    for feed in feeds:
        block = _block(feed, words)
        width = label + sum(
            len(each[0]) + len(_GAP) for each in [*(groups[-1] if groups else []), block]
        )
        if groups and width <= columns:
            groups[-1].append(block)
        else:
            groups.append([block])
    lines: list[str] = []
    for blocks in groups:
        lines += [""] if lines else []
        rows = zip(labels, *blocks, strict=True)
        lines += [_GAP.join([name.ljust(label), *cells]).rstrip() for name, *cells in rows]
    return lines


def _block(feed: Mapping[str, Any], words: Sequence[str]) -> list[str]:
    """Return the lines of one feed, all of one width: its name, the heads of its columns, and its numbers."""
    counts = feed["dispositions"]
    rows = [["rows"], [f"{feed['rows_read']:,}"], *([f"{counts[word]:,}"] for word in words)]
    if "amount_usd" in feed:
        amounts = [Decimal(feed["amount_usd"][word]) for word in ("read", *words)]
        for row, cell in zip(rows, ["USD", *(f"{amount:,.2f}" for amount in amounts)], strict=True):
            row.append(cell)
    lines = [feed["name"], *table(rows, left=())]
    return [line.rjust(width_of(lines)) for line in lines]


def balanced_text(summary: Mapping[str, Any]) -> str:
    """Return what it means that a run is balanced."""
    has_money = any("amount_usd" in feed for feed in summary["feeds"])
    amounts = ", and the amounts add up to the cent" if has_money else ""
    return f"Balanced: every row has one ending{amounts}."


def _balance(summary: Mapping[str, Any]) -> str:
    if summary["balanced"]:
        return balanced_text(summary)
    return "NOT BALANCED: rows or amounts do not add up. Please report this as a fault of canvas-ingest."


def _reasons(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    for feed in summary["feeds"]:
        if feed["rules"]:
            rules = list(feed["rules"].items())
            shown = ", ".join(f"{rule} {count:,}" for rule, count in rules[:_RULES_SHOWN])
            others = sum(count for _, count in rules[_RULES_SHOWN:])
            more = f"; {counted(others, 'row')} for other reasons" if others else ""
            lines.append(f"Most common reasons in {feed['name']}: {shown}{more}")
            lines += [
                f"  {rule}: first in {_place(feed['first_rows'][rule])}"
                for rule, _ in rules[:_FIRST_SHOWN]
                if rule in feed["first_rows"]
            ]
        if feed.get("amounts_unreadable"):
            count = feed["amounts_unreadable"]
            amounts = counted(count, "amount")
            verbs = "cannot be read and counts" if count == 1 else "cannot be read and count"
            lines.append(f"{feed['name']}: {amounts} {verbs} as 0.00.")
    return lines


def _place(first: Mapping[str, Any]) -> str:
    if first["line"] is None:
        return f"{first['file']}, row {first['row']}"
    return str(RowId(first["file"], first["row"], first["line"]))


def _requests(requests: Mapping[str, Any]) -> str:
    if not requests["total"]:
        return "Requests: none."
    rate = f" at {requests['rate_per_s']:,.0f} a second" if requests["rate_per_s"] else ""
    p95_ms = requests["latency_s"]["p95"] * 1000
    return f"Requests: {requests['total']:,}{rate}; {requests['retried']:,} sent again; 95 % answered within {p95_ms:,.0f} ms."


def _ending(summary: Mapping[str, Any], folder: str, config: str | None, given: str) -> list[str]:
    """Return why it failed if it did; then the exit code, its reason, and the next command to type."""
    failure = [f"Failed: {summary['failure']}"] if summary["failure"] else []
    code = summary["exit_code"]
    return [
        *failure,
        f"Exit {code}: {verdict(summary)}.",
        *next_steps(summary, folder, config, given),
    ]


def next_steps(
    summary: Mapping[str, Any], folder: str, config: str | None, given: str = ""
) -> list[str]:
    """Return what to do next, in lines; a command to type is indented."""
    if "verification" in summary:
        differs = (
            f"Next: see {folder}/verification.parquet for each resource, then look it up in Canvas."
        )
        missing = summary["verification"]["missing_keys"]
        resend = [f"  canvas-ingest review {config or 'CONFIG'} --resend {key}" for key in missing]
        if resend:
            more = summary["verification"]["missing"] - len(missing)
            others = f" ({more:,} more: the column key)" if more else ""
            resend.insert(0, f"To have what is missing again, if a person decides so{others}:")
        return [differs, *resend] if summary["exit_code"] == 3 else []  # noqa: PLR2004 - something differs
    if config is None:
        return [
            f"Next: open {folder}/report.html, and rejects-*.csv beside it: some of the sample rows are wrong on purpose.",
        ]
    code, steps = summary["exit_code"], []
    if code == 4:  # noqa: PLR2004 - in doubt
        steps += ["Next, to see and settle what is in doubt:", f"  canvas-ingest review {config}"]
    if code in {0, 3, 4}:
        steps += _steps_of_returned(summary, folder, config)
    is_plan = summary["command"] == "plan" and code in {0, 3}
    kept = kept_how(summary)
    if code == 3 and kept:  # noqa: PLR2004 - not ended or cancelled
        see = f"Next: see {folder}/missing-*.csv for why each coverage was {kept}, and what to do"
        steps.append(f"{see}; or, to carry out all else:" if is_plan else f"{see}.")
    elif is_plan:
        steps.append("Next, to carry out exactly this:")
    if is_plan:
        steps.append(f"  canvas-ingest run {config}{given} --plan {summary['run_id']}")
    if summary["command"] == "run" and code in {1, 130}:
        first = "Once that is fixed, run:" if summary["failure"] else "Next, to continue:"
        steps += [first, f"  canvas-ingest run {config}{given}"]
    return steps


def _steps_of_returned(summary: Mapping[str, Any], folder: str, config: str) -> list[str]:
    """Return what to do about rows that were rejected or refused.

    A row that a person gave up is right, and no corrected file brings it back.
    """
    given_up, returned = 0, []
    for feed in summary["feeds"]:
        count = feed["dispositions"]["rejected"] + feed["dispositions"]["refused"]
        abandoned = feed["rules"].get(ABANDONED, 0)
        given_up += abandoned
        returned += [feed["name"]] if count > abandoned else []
    steps = []
    if returned:
        rejects = {name: f"{folder}/rejects-{name}.csv" for name in returned}
        feeds = "".join(f" --feed {name}" for name in returned)
        files = "".join(f" --input {quote(f'{name}={path}')}" for name, path in rejects.items())
        steps += [
            f"Next: fix {' and '.join(rejects.values())}, then",
            f"  canvas-ingest run {config}{feeds}{files}",
        ]
    if given_up:
        rows = "1 row was" if given_up == 1 else f"{given_up:,} rows were"
        steps += [
            f"Next: {rows} given up by a person. To send one after all, by its key in reconciliation.csv:",
            f"  canvas-ingest review {config} --resend KEY",
        ]
    return steps
