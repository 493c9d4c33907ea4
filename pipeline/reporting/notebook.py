"""The HTML of a result in a notebook: how it ended, and a small table. Counts and dollars, no row."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pipeline.reporting.words import OUTCOMES, WORDS, verdict


def result_table(summary: Mapping[str, Any], folder: Path) -> str:
    """Return HTML without style or script: a line a feed and a column for each ending that occurs."""
    head, rows = _verification(summary) if "verification" in summary else _feeds(summary["feeds"])
    failure = f"<p>{escape(summary['failure'])}</p>" if summary["failure"] else ""
    return (
        f"<p>{escape(summary['command'])} {escape(summary['run_id'])}: "
        f"exit code {summary['exit_code']}, {escape(verdict(summary))}</p>{failure}"
        f"<table><thead>{_line('th', head)}</thead>"
        f"<tbody>{''.join(_line('td', row) for row in rows)}</tbody></table>"
        f"<p>{escape(str(folder))}</p>"
    )


def _feeds(feeds: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    words = [word for word, _ in WORDS if any(feed["dispositions"][word] for feed in feeds)]
    rows = []
    for feed in feeds:
        counts = feed["dispositions"]
        rows.append(
            [feed["name"], f"{feed['rows_read']:,}", *(f"{counts[word]:,}" for word in words)]
        )
        if "amount_usd" in feed:
            amounts = feed["amount_usd"]
            rows.append(["USD", *(amounts[word] for word in ("read", *words))])
    return ["", "read", *(word.replace("_", " ") for word in words)], rows


def _verification(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    totals = summary["verification"]
    words = [word for word, _ in OUTCOMES]
    return ["written", *words], [[f"{totals[word]:,}" for word in ("written", *words)]]


def _line(kind: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in cells)}</tr>"
