"""The output of `review`: the writes in doubt, for a person who has to decide; as a text and as a CSV file.

The file has a line for each write, and two columns to fill in: `decision` (confirm, resend or abandon) and, to confirm, `id`.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import polars as pl

from pipeline.records import counted, usd
from pipeline.reporting.csv_files import defused

_INSTANCE: Final = re.compile(r"https://fumage-([a-z0-9-]+)\.canvasmedical\.com")
_WHEN: Final = {
    "inside": "made while this was being sent",
    "before": "made before this was sent",
    "late": "made long after this was sent",
    "untold": "when it was made cannot be compared",
}
# What Canvas shows of the writes of a group, and the option that decides on all of the group.
_GROUPS: Final = {
    "one": ("Canvas shows just one that each can be", "--confirm-found", "To confirm them all"),
    "none": (
        "Canvas shows nothing like these",
        "--resend-absent",
        "To search once more, and send them all again",
    ),
    "several": ("Canvas shows some that these can be: decide one by one", "", ""),
    "update": ("Updates of coverages: decide one by one", "", ""),
    "unknown": ("Canvas could not be searched for these", "", ""),
}
_HOW: Final = """To decide on one:
  canvas-ingest review {config} --confirm KEY=ID   it arrived, and is that resource
  canvas-ingest review {config} --resend KEY       it did not arrive: search once more, then send it again
  canvas-ingest review {config} --abandon KEY      leave it: it is never sent again
To decide on many in a spreadsheet:
  canvas-ingest review {config} --format csv > doubts.csv
  canvas-ingest review {config} --decisions doubts.csv"""
_COLUMNS: Final = (
    *("key", "decision", "id", "feed", "row", "resource", "interaction", "amount_usd", "transaction_id"),
    *("payer", "member_id_end", "start", "patient", "where", "sent_at", "run_id", "message", "evidence", "canvas_shows"),
)  # fmt: skip


def review_text(review: Mapping[str, Any], config: str, base_url: str) -> str:
    """Return the decisions that were carried out, and what is left to decide, by what Canvas shows.

    Args:
        review: The result of `review` as JSON.
        config: The path of the configuration, as it is typed in a shell.
        base_url: The address of Canvas, for links to patients.
    """
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
    lines.append(f"{len(cases):,} {are} in doubt: it is not known whether Canvas has them.")
    if review["unasked"]:
        lines.append(f"Canvas was not searched: {review['unasked']}")
    for evidence, (title, option, effect) in _GROUPS.items():
        group = [case for case in cases if case["evidence"] == evidence]
        if group:
            lines += ["", f"{title} ({_size(group)}):", *_table(group, base_url), *_advice(group)]
            lines += [f"  {effect}: canvas-ingest review {config} {option}"] if option else []
    return "\n".join([*lines, "", _HOW.format(config=config)])


def _size(cases: Sequence[Mapping[str, Any]]) -> str:
    cents = [case["amount_cents"] for case in cases if case["amount_cents"] is not None]
    dollars = f", {usd(sum(cents))} USD" if cents else ""
    return f"{counted(len(cases), 'write')}{dollars}"


def _table(cases: Sequence[Mapping[str, Any]], base_url: str) -> list[str]:
    """Return a line for each write, and below it its patient and what else is known."""
    rows = [(case["key"], _row(case), _what(case), _sent(case)) for case in cases]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for case, cells in zip(cases, rows, strict=True):
        lines.append("  " + "  ".join(map(str.ljust, cells, widths)).rstrip())
        lines += [f"    {each}" for each in (_patient(case, base_url), *_facts(case))]
    return lines


def _row(case: Mapping[str, Any]) -> str:
    return case["row"] or f"a row of {case['feed']} (its plan is gone)"


def _sent(case: Mapping[str, Any]) -> str:
    return f"sent {case['sent_at'][:16].replace('T', ' ')} UTC" if case["sent_at"] else "set aside"


def _what(case: Mapping[str, Any]) -> str:
    """Return what was to be written: the amount of a payment, or what a coverage is recognized by."""
    if case["amount_cents"] is not None:
        source = f", transaction {case['source_id']}" if case["source_id"] else ""
        return f"USD {usd(case['amount_cents'])}{source}"
    known = case["coverage"]
    if known is None:
        return str(case["resource_type"])
    start = f", from {known['start']}" if known["start"] else ""
    return f"payer {known['payer']}, member ID ...{known['member_id_end']}{start}"


def _facts(case: Mapping[str, Any]) -> list[str]:
    """Return what is known beside the words of its group: why it is unsure, what Canvas shows, how the row differs now."""
    finding, now = case["finding"], case["now"]
    facts = []
    if case["evidence"] not in {"one", "none"}:
        facts.append(finding["message"] if finding else case["message"])
    if case["interaction"] == "update":
        facts.append(f"an update of {case['resource_type']}/{case['resource_id']}")
    for each in finding["candidates"] if finding else ():
        made = f", created {each['created']}: {_WHEN[each['when']]}" if each["created"] else ""
        facts.append(f"Canvas shows {each['id']}{made}")
    if now is not None:
        cents = now["amount_cents"]
        amount = "an amount that cannot be read" if cents is None else f"USD {usd(cents)}"
        facts.append(
            f"Now {now['row']} has {amount} (run {now['run_id']}); the amount above is in doubt, "
            "and --resend sends that one"
        )
    return facts


def _patient(case: Mapping[str, Any], base_url: str) -> str:
    instance = _INSTANCE.match(base_url)
    if instance is None:
        return f"patient {case['patient']}"
    return f"https://{instance[1]}.canvasmedical.com/patient/{case['patient']}"


def _advice(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what to look for in the Canvas UI, at the patients of a group."""
    if any(case["interaction"] == "update" for case in cases):
        return ["  In Canvas: does the coverage say what the file says?"]
    advice = {
        "PaymentNotice": "  In Canvas: count the patient's payments of that amount entered on that day. One more than earlier "
        "runs created means that this one arrived.",
        "Coverage": "  In Canvas: look for each coverage by payer, member ID and start; it should be there once.",
    }
    kinds = {case["resource_type"] for case in cases}
    return [text for kind, text in advice.items() if kind in kinds]


def review_csv(review: Mapping[str, Any], base_url: str) -> str:
    """Return the writes in doubt as a CSV file with a `decision` to fill in.

    `id` is filled in if Canvas shows just one resource that the write can be. Cells that a spreadsheet would run as
    formulas begin with an apostrophe.
    """
    lines = [_line(case, base_url) for case in review["in_doubt"]]
    rows = pl.DataFrame(lines, schema=dict.fromkeys(_COLUMNS, pl.String), orient="row")
    given = rows.with_columns(defused(pl.col(pl.String)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(given.iter_rows())
    return text.getvalue()


def _line(case: Mapping[str, Any], base_url: str) -> tuple[str | None, ...]:
    known = case["coverage"] or {}
    shown = [each["id"] for each in case["finding"]["candidates"]] if case["finding"] else []
    cents = case["amount_cents"]
    return (
        *(case["key"], "", shown[0] if case["evidence"] == "one" else "", case["feed"], case["row"]),
        *(case["resource_type"], case["interaction"], None if cents is None else usd(cents), case["source_id"]),
        *(known.get("payer"), known.get("member_id_end"), known.get("start"), case["patient"]),
        *(_patient(case, base_url), case["sent_at"], case["run_id"], case["message"], case["evidence"]),
        " ".join(shown),
    )  # fmt: skip
