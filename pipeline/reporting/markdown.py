"""The summary of a plan as Markdown, for a pull request or a chat: counts and dollars, no value of a row."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from pipeline.records import counted
from pipeline.reporting.masking import shown
from pipeline.reporting.terminal import headline, next_steps
from pipeline.reporting.words import WORDS, notes, unread, verdict

_RULES_SHOWN: Final = 10
_BAR: Final = "\\|"
_MARKS: Final = re.compile(r"[\\`*_\[\]|~#]")


def plan_markdown(summary: Mapping[str, Any], folder: str, config: str, given: str = "") -> str:
    """Return the summary of a plan as Markdown (GitHub's tables).

    Args:
        summary: The content of `summary.json`.
        folder: The folder of the report.
        config: The path of the configuration as it is typed in a shell.
        given: The options that named feeds and files, to be typed again.
    """
    feeds = summary["feeds"]
    if any(feed["files"] for feed in feeds):
        sections = [f"**{_escaped(headline(summary))}**", _table(_totals(feeds)), _balance(summary)]
        sections += [_rules(feeds), _notes(summary)]
    else:
        sections = [f"**Plan: {_escaped(unread(summary))}**"]
    if summary["failure"]:
        sections.append(f"**Failed:** {_escaped(summary['failure'])}")
    sections.append(f"Exit {summary['exit_code']}: {_escaped(verdict(summary))}.")
    sections += _steps(next_steps(summary, folder, config, given))
    return "\n\n".join(filter(None, sections))


def _totals(feeds: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a line a feed, and one for its dollars; a column for each ending that occurs."""
    words = [word for word, _ in WORDS if any(feed["dispositions"][word] for feed in feeds)]
    lines = [["feed", "read", *(word.replace("_", " ") for word in words)]]
    for feed in feeds:
        counts = feed["dispositions"]
        name = f"`{feed['name']}`"
        lines.append([name, f"{feed['rows_read']:,}", *(f"{counts[word]:,}" for word in words)])
        if "amount_usd" in feed:
            amounts = (Decimal(feed["amount_usd"][word]) for word in ("read", *words))
            lines.append([f"{name} USD", *(f"{amount:,.2f}" for amount in amounts)])
    return lines


def _rules(feeds: Sequence[Mapping[str, Any]]) -> str:
    """Return the most common reasons for which rows of each feed are rejected."""
    lines = [["feed", "rejected because of", "rows"]]
    for feed in feeds:
        rules = list(feed["rules"].items())
        name = f"`{feed['name']}`"
        lines += [[name, f"`{rule}`", f"{count:,}"] for rule, count in rules[:_RULES_SHOWN]]
        if others := rules[_RULES_SHOWN:]:
            total = f"{sum(count for _, count in others):,}"
            lines.append([name, counted(len(others), "other reason"), total])
    return _table(lines, texts=2) if len(lines) > 1 else ""


def _notes(summary: Mapping[str, Any]) -> str:
    unreadable = [
        f"{counted(count, 'amount')} of {feed['name']} cannot be read. In dollars each counts as 0.00."
        for feed in summary["feeds"]
        if (count := feed.get("amounts_unreadable"))
    ]
    return "\n".join(f"- {_escaped(note)}" for note in [*unreadable, *notes(summary)])


def _balance(summary: Mapping[str, Any]) -> str:
    if summary["balanced"]:
        return ""
    return "**Not balanced:** rows or amounts do not add up. This is a fault of canvas-ingest."


def _steps(lines: Sequence[str]) -> list[str]:
    """Return what to do next; commands, which are indented, as blocks."""
    return [f"```sh\n{line.strip()}\n```" if line[:1] == " " else _escaped(line) for line in lines]


def _table(lines: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Return a table. The first line is its head; columns after the first `texts` are aligned to the right."""
    head, *rows = [_line(line) for line in lines]
    marks = ["---" if at < texts else "---:" for at in range(len(lines[0]))]
    return "\n".join([head, _line(marks), *rows])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', _BAR) for cell in cells)} |"


def _escaped(text: str) -> str:
    """Return a text without marks of Markdown, HTML or mentions: names of files come from strangers."""
    plain = "; ".join(shown(line).strip() for line in text.split("\n"))
    marked = _MARKS.sub(r"\\\g<0>", plain)
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace("@", "&#64;")
