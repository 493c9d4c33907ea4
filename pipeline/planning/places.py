"""Where rows are in their files: the line beside the number, in columns and in messages.

A plan notes of each file the line of its first row, and keeps the lines of the others if they are not evenly spaced
(`reading/lines.py`). Messages that were written while rows were compared name a row as `file:number`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.planning.plan import Plan
from pipeline.reading.lines import LineMap


@dataclass(frozen=True, slots=True)
class Places:
    """The lines of the rows of a plan: of each feed a map for each file, None if its rows have no lines."""

    maps: Mapping[str, list[LineMap | None]]
    by_name: Mapping[str, LineMap]  # of the files whose names no other file of the run has
    pattern: re.Pattern[str] | None

    @classmethod
    def of(cls, feeds: Mapping[str, Mapping[str, Any]], plan: Plan | None) -> "Places":
        """Return the places of a plan's rows."""
        maps = {name: [] if plan is None else plan.lines(name) for name in feeds}
        named: dict[str, list[LineMap | None]] = {}
        for name, feed in feeds.items():
            for file, lines in zip(feed["files"], maps[name], strict=False):
                named.setdefault(Path(file["path"]).name, []).append(lines)
        by_name = {name: lines[0] for name, lines in named.items() if len(lines) == 1 and lines[0]}
        names = "|".join(re.escape(name) for name in sorted(by_name, key=len, reverse=True))
        pattern = re.compile(rf"(?<![^\s(\"'])({names}):(\d+)(?! \(row )\b") if names else None
        return cls(maps, by_name, pattern)

    def column(self, feed: str, rows: pl.DataFrame) -> pl.Series:
        """Return the line of each row (columns `file` and `row`) of a feed; null if it has none."""
        blank = pl.repeat(None, rows.height, dtype=pl.UInt32, eager=True).alias("line")
        parts = [rows.select("file", "row").with_columns(blank).with_row_index("place").clear()]
        for (file,), mine in rows.select("file", "row").with_row_index("place").group_by("file"):
            number = int(str(file))
            known = self.maps[feed]
            lines = known[number] if number < len(known) else None
            found = lines.of_rows(mine["row"]) if lines else blank.head(mine.height)
            parts.append(mine.with_columns(found.alias("line")))
        return pl.concat(parts).sort("place")["line"]

    def located(self, text: str) -> str:
        """Return a message with the lines of the rows that it names: `ledger.csv:19 (row 17)`."""
        if self.pattern is None or ":" not in text:
            return text
        return self.pattern.sub(self._place, text)

    def _place(self, found: re.Match[str]) -> str:
        name, row = found[1], int(found[2])
        return f"{name}:{self.by_name[name].of(row)} (row {row})"

    def located_column(self, texts: pl.Series) -> pl.Series:
        """Return `located` of a column of messages; each distinct one is read once."""
        if self.pattern is None:
            return texts
        unique = texts.unique().drop_nulls()
        changed = {text: new for text in unique if (new := self.located(text)) != text}
        return texts.replace(list(changed), list(changed.values())) if changed else texts
