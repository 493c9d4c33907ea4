"""The CSV files of a report: rejects in the sender's dialect, and lists for a spreadsheet."""

import codecs
import csv
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TextIO

import polars as pl

from pipeline.files import replacing
from pipeline.planning.tables import SEQ
from pipeline.reading.source import added_columns
from pipeline.records import Disposition

RETURNED: Final = (Disposition.REJECTED.value, Disposition.REFUSED.value)
# What a spreadsheet would run as a formula, full-width forms included: at the start of a cell, and behind
# what it may take for the end of one (it splits at separators of its own, not of the sender's dialect).
_FORMULA_AT_START: Final = "^([=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20])"
_FORMULA_INSIDE: Final = "([,;|\t\r\n])([=+\\-@\uff1d\uff0b\uff0d\uff20])"


def defused(texts: pl.Expr) -> pl.Expr:
    """Put an apostrophe before what a spreadsheet would run."""
    inside = texts.str.replace_all(_FORMULA_INSIDE, "${1}'${2}")
    return inside.str.replace(_FORMULA_AT_START, "'${1}").name.keep()


class Rejects:
    """Writes the rows to correct, as the sender wrote them, in the sender's dialect, to be fed in again.

    So a cell of the sender's stays as it is, though a spreadsheet may run it; our own columns, which
    are not read again, may hold Canvas' words or names of files, and are made harmless.
    """

    def __init__(
        self, file: TextIO, feed: Mapping[str, Any], files: Sequence[str], run_id: str
    ) -> None:
        self.encoding: str = feed["encoding"]  # or UTF-8, if a cell of the sender's does not fit
        self._columns: list[str] = feed["columns"]
        self._files, self._run_id = files, run_id
        # With CRLF line ends the csv module quotes a cell that holds a CR or an LF; with LF alone
        # a CR would stand unquoted, and the file could not be fed in again.
        self._writer = csv.writer(file, delimiter=feed["delimiter"], lineterminator="\r\n")
        self._fit(self._columns)
        self._writer.writerow([*self._columns, *added_columns(self._columns)])

    def add(self, rows: pl.DataFrame, source: pl.DataFrame) -> None:
        """Write the rejected and refused rows of one part."""
        returned = rows.filter(pl.col("disposition").is_in(RETURNED))
        file = pl.col("file").replace_strict(
            list(range(len(self._files))), list(self._files), return_dtype=pl.String
        )
        why = returned.select(
            "row", "line", "stage", "field", "rule", defused(pl.col("message")), defused(file)
        )
        for cells, ours in zip(self._cells(returned["seq"], source), why.iter_rows(), strict=True):
            self._fit(cells)
            self._writer.writerow([*cells, *ours, self._run_id])

    def _fit(self, cells: Sequence[str | None]) -> None:
        """Change to UTF-8 if the encoding lacks a character of cells out of a Parquet file."""
        try:
            "".join(cell or "" for cell in cells).encode(self.encoding)
        except UnicodeError:
            self.encoding = "utf-8-sig"

    def _cells(self, seqs: pl.Series, source: pl.DataFrame) -> Iterator[tuple[str | None, ...]]:
        """Return the sender's cells of some rows, by column; a file of several may lack a column."""
        rows = seqs.alias(SEQ).to_frame().join(source, on=SEQ, how="left", maintain_order="left")
        absent = [None] * rows.height
        cells = [rows[name] if name in rows.columns else absent for name in self._columns]
        return zip(*cells, strict=True)


def encode(path: Path, encoding: str) -> None:
    """Rewrite a UTF-8 text in another encoding; characters of ours that it lacks are spelled out."""
    if codecs.lookup(encoding).name == "utf-8":
        return
    with (
        replacing(path) as part,
        path.open(encoding="utf-8", newline="") as text,
        part.open("w", encoding=encoding, errors="backslashreplace", newline="") as encoded,
    ):
        shutil.copyfileobj(text, encoded)


def write_text(path: Path, parts: Iterable[pl.DataFrame]) -> None:
    """Write a CSV file for a spreadsheet; none if there is no line."""
    path.unlink(missing_ok=True)
    with replacing(path) as part, part.open("wb") as file:
        for lines in parts:
            text = lines.with_columns(defused(pl.col(pl.String)))
            file.write(
                text.write_csv(include_header=not file.tell()).encode() if lines.height else b""
            )
        is_empty = not file.tell()
    if is_empty:
        path.unlink()
