"""The output of `journal show` and `journal purge`."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from pipeline.records import counted
from pipeline.reporting.layout import table


def inventory_text(inventory: Mapping[str, Any]) -> str:
    """Return what a journal holds, whether it is whole, and the history of one write if it was asked for."""
    if inventory["history"] is not None:
        lines = [_line(line) for line in inventory["history"]]
        return "\n".join(
            [*(lines or ["The audit log has no line of this key."]), "", _chain(inventory)]
        )
    rows = [("state", "resource", "writes", "USD", "oldest", "newest")]
    for each in inventory["held"]:
        ages = [
            "" if each[end] is None else f"{each[end]:,.1f} days"
            for end in ("oldest_days", "newest_days")
        ]
        amount = f"{Decimal(each['usd']):,.2f}" if each["usd"] else ""
        rows.append((each["state"], each["resource_type"], f"{each['count']:,}", amount, *ages))
    held = table(rows, left=range(2)) if inventory["held"] else ["It holds no write yet."]
    return "\n".join([f"Journal {inventory['journal']}", "", *held, "", _chain(inventory)])


def _chain(inventory: Mapping[str, Any]) -> str:
    lines, first_break = inventory["lines"], inventory["first_break"]
    count, key = inventory["contradictions"]["count"], inventory["contradictions"]["key"]
    if first_break:
        chain = f"The audit log is BROKEN at line {first_break:,} of {lines:,}: it was changed there, and no later line is proven."
    else:
        chain = f"The audit log is whole: {lines:,} lines, each chained to the one before."
    if not count:
        return f"{chain} The table of writes agrees with it."
    writes = "1 write is" if count == 1 else f"{count:,} writes are"
    return (
        f"{chain}\nThe table of writes does NOT agree with it: {writes} in another state, missing, or without its "
        f"resource, for example {key} (canvas-ingest journal show CONFIG {key}). Put the last whole journal back."
    )


def _line(line: Mapping[str, Any]) -> str:
    parts = [f"{line['number']:>8,}  {line['at'][:23]}  {line['run_id']}  {line['event']}"]
    parts += [
        f"{name} {line[name]}" for name in ("attempt", "http_status", "verdict") if line[name]
    ]
    parts += [
        f"{name} {line[name]}" for name in ("resource_id", "correlation_id", "who") if line[name]
    ]
    return ", ".join([*parts, *([line["detail"]] if line["detail"] else [])])


_STAYS: Final = """\
Always kept: summary.json of each run (no row in it), and the journal (hashes
of rows, Patient keys and other ids of Canvas, amounts and times), because
without it a payment could be sent twice."""
_KEPT: Final = {
    "unsettled": "what they sent is not settled: canvas-ingest review",
    "compared": "the next file is compared with them, to find what is gone from it",
    "cancels": "they hold what would be ended or cancelled, once it is gone from the file",
}


def purged_text(purged: Mapping[str, Any], *, is_trial: bool) -> str:
    """Return what a purge removed, or would remove; and what stays, and why."""
    verb = "Would remove" if is_trial else "Removed"
    runs, size = len(purged["runs"]), purged["size_bytes"] / 1e6
    lines = [
        f"Older than {counted(purged['days'], 'day')}, from before {purged['before'][:19]} UTC:"
    ]
    if runs or purged["size_bytes"] or purged["words"]:
        lines.append(
            f"  {verb} row data of runs ({runs:,}; {size:,.1f} MB), and messages of writes ({purged['words']:,})."
        )
    elif not purged["copies"]:
        lines.append("  There is nothing to remove.")
    for why, run_ids in purged["kept"].items():
        shown = ", ".join(run_ids[:3]) + (", ..." if len(run_ids) > 3 else "")  # noqa: PLR2004
        lines.append(f"  Kept: {len(run_ids):,} plans, because {_KEPT[why]} ({shown}).")
    lines += [
        f"  {verb} copies that a killed command left: {folder}" for folder in purged["copies"]
    ]
    lines += [
        f"  Kept: {name} in state.dir, an old journal set aside: delete it by hand once it is no longer needed."
        for name in purged["beside"]
    ]
    return "\n".join([*lines, _STAYS])
