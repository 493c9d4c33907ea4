"""The output of `review` and `journal show`, for a person who has to decide."""

import re
from collections.abc import Mapping
from typing import Any, Final

from pipeline.records import usd

_INSTANCE: Final = re.compile(r"https://fumage-([a-z0-9-]+)\.canvasmedical\.com")
_WHEN: Final = {
    "inside": "made while this was being sent",
    "before": "made before this was sent",
    "late": "made long after this was sent",
    "untold": "when it was made cannot be compared",
}
_HOW: Final = """Decide, row by row:
  canvas-ingest review {config} --confirm KEY=ID   it arrived, and is that resource
  canvas-ingest review {config} --resend KEY       it did not arrive: search once more, then send it again
  canvas-ingest review {config} --abandon KEY      leave it: it is never sent again
or all at once:
  canvas-ingest review {config} --confirm-found    confirm all of which Canvas shows just one
  canvas-ingest review {config} --resend-absent    send all again of which Canvas shows none"""


def review_text(review: Mapping[str, Any], config: str, base_url: str) -> str:
    """Return the decisions that were carried out, and what is left to decide."""
    lines = [f"{each['key']}: {each['what']}: {each['message']}" for each in review["decided"]]
    cases = review["in_doubt"]
    if lines:
        lines.append("")
    if not cases:
        return "\n".join([*lines, "Nothing is in doubt."])
    are = "write is" if len(cases) == 1 else "writes are"
    if lines:
        left = f"{len(cases):,} {are} still in doubt; to list them: canvas-ingest review {config}"
        return "\n".join([*lines, left])
    lines.append(f"{len(cases):,} {are} in doubt: whether Canvas has them is not known.")
    if review["unasked"]:
        lines.append(f"Canvas was not asked: {review['unasked']}")
    for case in cases:
        lines += ["", *_case(case, base_url)]
    return "\n".join([*lines, "", _HOW.format(config=config)])


def _case(case: Mapping[str, Any], base_url: str) -> list[str]:
    amount = "" if case["amount_cents"] is None else f"  USD {usd(case['amount_cents'])}"
    source = f"  transaction {case['source_id']}" if case["source_id"] else ""
    row = case["row"] or f"a row of {case['feed']} (its plan is gone)"
    sent = f"sent {case['sent_at']}" if case["sent_at"] else "set aside"
    return [
        f"{case['key']}  {row}  {case['resource_type']}{amount}{source}",
        f"  {sent}, run {case['run_id']}: {case['message']}",
        *_now(case),
        *_shown(case),
        f"  In the Canvas UI: {_where(case, base_url)}",
    ]


def _now(case: Mapping[str, Any]) -> list[str]:
    """Return a line about the row's present amount, if it differs from that of the write in doubt."""
    now = case["now"]
    if now is None:
        return []
    cents = now["amount_cents"]
    amount = "an amount that cannot be read" if cents is None else f"USD {usd(cents)}"
    return [
        f"  Now {now['row']} has {amount} (run {now['run_id']}); the amount above is in doubt, and --resend sends that one."
    ]


def _shown(case: Mapping[str, Any]) -> list[str]:
    finding = case["finding"]
    if finding is None:
        return []
    if case["interaction"] == "update":
        shown = f"  It is an update of {case['resource_type']}/{case['resource_id']}"
        is_news = finding["message"] != case["message"]
        return [f"{shown}: {finding['message']}" if is_news else f"{shown}."]
    if finding["settlement"] == "unknown":
        return ["  Canvas could not be searched."]
    if not finding["candidates"]:
        return ["  Canvas shows nothing like it, except what belongs to other rows."]
    return [
        f"  Canvas shows {each['id']}"
        + (f", created {each['created']}: {_WHEN[each['when']]}" if each["created"] else "")
        for each in finding["candidates"]
    ]


def _where(case: Mapping[str, Any], base_url: str) -> str:
    instance = _INSTANCE.match(base_url)
    patient = (
        f"https://{instance[1]}.canvasmedical.com/patient/{case['patient']}"
        if instance
        else f"patient {case['patient']}"
    )
    if case["interaction"] == "update":
        return f"{patient}, Coverages: does {case['resource_id']} say what the file says?"
    if case["resource_type"] == "Coverage":
        return f"{patient}, Coverages: look for this one; it should be there once."
    amount = usd(case["amount_cents"])
    day = f" entered on {case['sent_at'][:10]}" if case["sent_at"] else ""
    return f"{patient}: count the payments of {amount} USD{day}. One more than earlier runs created means that this one arrived."


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
            "" if each[end] is None else f"{each[end]:,.1f} days ago"
            for end in ("oldest_days", "newest_days")
        ]
        rows.append(
            (each["state"], each["resource_type"], f"{each['count']:,}", each["usd"], *ages)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    held = table if inventory["held"] else ["It holds no write yet."]
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
Always kept: summary.json of each run (no row in it), and the journal (hashes of rows, Patient keys and other
ids of Canvas, amounts and times), because without it a payment could be sent twice."""
_KEPT: Final = {
    "unsettled": "what they sent is not settled: canvas-ingest review",
    "compared": "the next file is compared with them, to find what is gone from it",
    "cancels": "they hold what would be ended or cancelled, once it is gone from the file",
}


def purged_text(purged: Mapping[str, Any], *, is_trial: bool) -> str:
    """Return what a purge removed, or would remove; and what stays, and why."""
    verb = "Would remove" if is_trial else "Removed"
    runs, size = len(purged["runs"]), purged["size_bytes"] / 1e6
    lines = [f"Older than {purged['days']:,} days, from before {purged['before'][:19]} UTC:"]
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
