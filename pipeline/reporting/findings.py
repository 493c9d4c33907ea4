"""The rows of a run that a person looks for, gathered from `reconciliation.parquet`, bounded.

A finding has a row's file, number, ids and rules, and of messages what `masking` lets through. The cells
of a rejected row may be shifted, so that its transaction id may be any value: it is not shown.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import polars as pl

from pipeline.planning import corrected
from pipeline.records import Disposition
from pipeline.reporting.masking import masked, shown
from pipeline.reporting.packed import COLUMNS

ATTENTION: Final = (
    Disposition.REJECTED.value,
    Disposition.REFUSED.value,
    Disposition.IN_DOUBT.value,
    Disposition.PENDING.value,
)
_EXAMPLES_MAX: Final = 5
_GROUPS_MAX: Final = 1_000  # with counts of their own; all further ones are one group
_BESIDE: Final = ("line", "message", "interaction")  # read, and not in the page's table
_OTHERS: Final = ("",)
_OTHERWISE: Final = "further words, of fewer rows each"
_WHO: Final = "; given up by "  # the person follows


@dataclass(frozen=True, slots=True)
class Bounds:
    """The number of rows in the page's table, and read at a time."""

    table: int = 200_000
    read: int = 100_000


BOUNDS: Final = Bounds()


@dataclass(frozen=True, slots=True)
class Example:
    """A row, with all that is needed to find it again."""

    file: str
    row: int
    line: int | None  # as an editor counts
    source_id: str
    correlation_id: str

    @property
    def place(self) -> str:
        """Return the place in its file, to follow the file's name."""
        return f", row {self.row}" if self.line is None else f":{self.line} (row {self.row})"


@dataclass(slots=True)
class Group:
    """Rows of one feed that ended alike. `words`: what is allowed and what to do, or Canvas' own."""

    feed: str
    rule: str
    words: str
    http_status: int | None = None
    rows: int = 0
    examples: list[Example] = field(default_factory=list)

    def add(self, rows: int, examples: Sequence[Example]) -> None:
        """Count rows, and keep the first as examples."""
        self.rows += rows
        self.examples += examples[: _EXAMPLES_MAX - len(self.examples)]


@dataclass(slots=True)
class Findings:
    """The rows that the page shows."""

    rows: int = 0
    groups: dict[str, dict[tuple[Any, ...], Group]] = field(
        default_factory=lambda: {word: {} for word in ATTENTION}
    )
    table: list[pl.DataFrame] = field(default_factory=list)
    in_table: int = 0
    is_only_attention: bool = False
    attention: int = 0

    def of(self, disposition: str) -> list[Group]:
        """Return the groups of an ending, the largest first."""
        return sorted(self.groups[disposition].values(), key=lambda group: -group.rows)


def findings(reconciliation: Path, files: Iterable[str], bounds: Bounds = BOUNDS) -> Findings:
    """Gather what is shown of the rows of `reconciliation.parquet`, read in parts.

    `files`: the names of all files of the run.
    """
    found = Findings(rows=_height(reconciliation))
    names = "|".join(re.escape(name) for name in sorted(files, key=len, reverse=True))
    row_id = re.compile(rf"(?:{names}):\d+(?: \(row \d+\))?")
    found.is_only_attention = found.rows > bounds.table
    for part in _parts(reconciliation, found.rows, bounds.read):
        calling = part.filter(pl.col("disposition").is_in(ATTENTION))
        found.attention += calling.height
        _take(found, calling if found.is_only_attention else part, bounds.table)
        for disposition in ATTENTION:
            _group(found.groups[disposition], calling, disposition, row_id)
    return found


def _height(reconciliation: Path) -> int:
    return int(pl.scan_parquet(reconciliation, glob=False).select(pl.len()).collect().item())


def _parts(reconciliation: Path, rows: int, at_once: int) -> Iterator[pl.DataFrame]:
    lines = pl.scan_parquet(reconciliation, glob=False)
    for start in range(0, rows, at_once):
        part = lines.slice(start, at_once).select(*COLUMNS, *_BESIDE).collect()
        is_rejected = pl.col("disposition") == Disposition.REJECTED.value
        yield part.with_columns(
            pl.when(~is_rejected).then(pl.col("source_id")).fill_null("").alias("source_id")
        )


def _take(found: Findings, part: pl.DataFrame, most: int) -> None:
    part = part.head(most - found.in_table).select(COLUMNS)
    found.in_table += part.height
    found.table.append(part)


def _group(
    groups: dict[tuple[Any, ...], Group],
    rows: pl.DataFrame,
    disposition: str,
    row_id: re.Pattern[str],
) -> None:
    """Take in the rows of one ending: equal ones together, so that few become Python objects."""
    alike = ["feed", "rule", "message", "http_status", "interaction"]
    named = ["file", "row", "line", "source_id", "correlation_id"]
    alike_rows = (
        rows.filter(pl.col("disposition") == disposition)
        .group_by(alike, maintain_order=True)
        .agg(pl.len().alias("rows"), *(pl.col(name).head(_EXAMPLES_MAX) for name in named))
    )
    for line in alike_rows.iter_rows(named=True):
        examples = [
            Example(shown(file), row, at_line, shown(source_id or ""), shown(correlation_id or ""))
            for file, row, at_line, source_id, correlation_id in zip(
                *(line[name] for name in named), strict=True
            )
        ]
        for rule, words in _reasons(disposition, line):
            feed, text = line["feed"], shown(row_id.sub("an earlier row", words))
            status = line["http_status"] if disposition == Disposition.REFUSED.value else None
            if disposition == Disposition.REJECTED.value:
                key: tuple[Any, ...] = (feed, rule)
            else:
                key = (feed, rule, text, status)
            if key in groups or len(groups) < _GROUPS_MAX:
                group = groups.setdefault(key, Group(feed, rule, text, status))
            else:
                group = groups.setdefault(_OTHERS, Group("", "", _OTHERWISE))
            group.words = group.words or text
            group.add(line["rows"], examples)


def _reasons(disposition: str, line: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rules of a row, each with its words."""
    rule, message = line["rule"] or "", (line["message"] or "").partition(corrected.NOTE)[0]
    if disposition == Disposition.REJECTED.value:
        return _each(rule, message)
    if disposition == Disposition.REFUSED.value and rule.startswith("canvas|"):
        return [(rule, masked(message))]
    if disposition == Disposition.PENDING.value and not rule:
        return [("", line["interaction"] or "")]
    return [(rule, message.partition(_WHO)[0])]


def _each(rule: str, message: str) -> list[tuple[str, str]]:
    """Separate a row's joined rules and messages (`records.joined`); "" if that is not possible.

    A message of a row with several begins with its field.
    """
    rules = rule.split("; ")
    if len(rules) == 1:
        return [(rule, message)]
    fields = "|".join(re.escape(each.partition("|")[0]) for each in rules)
    messages = re.split(rf"; (?=(?:{fields})(?: \(column \"[^\"]*\"\))?: )", message)
    if len(messages) != len(rules):
        messages = [""] * len(rules)
    return list(zip(rules, messages, strict=True))
