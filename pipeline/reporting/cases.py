"""The output of `review`: the writes in doubt, for a person who has to decide; as a text and as a CSV file.

The file has a line for each write, and two columns to fill in: `decision` (confirm, resend or abandon) and, to confirm, `id`.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import polars as pl

from pipeline.records import counted, usd
from pipeline.reporting.csv_files import defused
from pipeline.reporting.layout import COLUMNS, table, width_of

_INSTANCE: Final = re.compile(r"https://fumage-([a-z0-9-]+)\.canvasmedical\.com")
_INDENT: Final = "  "
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
_HOW: Final = """To decide on one, if it arrived, and is that resource:
  canvas-ingest review {config} --confirm KEY=ID
if it did not arrive, to search once more and then send it again:
  canvas-ingest review {config} --resend KEY
or to leave it, so that it is never sent again:
  canvas-ingest review {config} --abandon KEY
To decide on many in a spreadsheet:
  canvas-ingest review {config} --format csv > doubts.csv
  canvas-ingest review {config} --decisions doubts.csv"""
_COLUMNS: Final = (
    *("key", "decision", "id", "feed", "row", "resource", "interaction", "amount_usd", "transaction_id"),
    *("payer", "member_id_end", "start", "patient", "where", "sent_at", "run_id", "message", "evidence", "canvas_shows"),
)  # fmt: skip


def review_text(
    review: Mapping[str, Any], config: str, base_url: str, columns: int = COLUMNS
) -> str:
    """Return the decisions that were carried out, and what is left to decide, by what Canvas shows.

    Args:
        review: The result of `review` as JSON.
        config: The path of the configuration, as it is typed in a shell.
        base_url: The address of Canvas, for links to patients.
        columns: The width that its tables fit.
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
            lines += ["", f"{title} ({_size(group)}):", *_tables(group, base_url, columns)]
            lines += _advice(group)
            if option:
                lines += [f"  {effect}:", f"    canvas-ingest review {config} {option}"]
    return "\n".join([*lines, "", _HOW.format(config=config)])


def _size(cases: Sequence[Mapping[str, Any]]) -> str:
    cents = [case["amount_cents"] for case in cases if case["amount_cents"] is not None]
    dollars = f", {_dollars(sum(cents))} USD" if cents else ""
    return f"{counted(len(cases), 'write')}{dollars}"


def _tables(cases: Sequence[Mapping[str, Any]], base_url: str, columns: int) -> list[str]:
    """Return the table of a group: payments and coverages apart, because they are recognized by other things."""
    kinds = dict.fromkeys(case["resource_type"] for case in cases)
    groups = ([case for case in cases if case["resource_type"] == kind] for kind in kinds)
    return [line for group in groups for line in _table(group, base_url, columns)]


def _table(cases: Sequence[Mapping[str, Any]], base_url: str, columns: int) -> list[str]:
    """Return a line for each write, and below it its patient and what else is known.

    Of cells that do not fit, the last ones have a line of their own.
    """
    rows = [[case["key"], _what(case), _source(case), _row(case), _sent(case)] for case in cases]
    for kept in (5, 3, 2):
        heads = table([row[:kept] for row in rows], left=range(kept))
        if width_of(heads) <= columns - len(_INDENT):
            break
    lines = []
    for case, head, row in zip(cases, heads, rows, strict=True):
        beside = [cell for cell in row[kept:] if cell]
        if beside and len(together := ", ".join(beside)) <= columns - 2 * len(_INDENT):
            beside = [together]
        facts = (*beside, _patient(case, base_url), *_facts(case))
        lines += [f"{_INDENT}{head}", *(f"{_INDENT * 2}{each}" for each in facts)]
    return lines


def _source(case: Mapping[str, Any]) -> str:
    is_payment = case["amount_cents"] is not None
    return f"transaction {case['source_id']}" if is_payment and case["source_id"] else ""


def _row(case: Mapping[str, Any]) -> str:
    return case["row"] or f"a row of {case['feed']} (its plan is gone)"


def _sent(case: Mapping[str, Any]) -> str:
    return f"sent {case['sent_at'][:16].replace('T', ' ')} UTC" if case["sent_at"] else "set aside"


def _what(case: Mapping[str, Any]) -> str:
    """Return what was to be written: the amount of a payment, or what a coverage is recognized by."""
    if case["amount_cents"] is not None:
        return f"USD {_dollars(case['amount_cents'])}"
    known = case["coverage"]
    if known is None:
        return str(case["resource_type"])
    start = f", from {known['start']}" if known["start"] else ""
    return f"payer {known['payer']}, member ID ...{known['member_id_end']}{start}"


def _dollars(cents: int) -> str:
    return f"{Decimal(usd(cents)):,.2f}"


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
        amount = "an amount that cannot be read" if cents is None else f"USD {_dollars(cents)}"
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
