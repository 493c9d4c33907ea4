"""Fields of a row that depend on other rows: found before the parts of a plan are made, and read with them.

    <field>-<feed>-00000.parquet    the rows of a part that have such a field: `seq`, the field as text, and a column
                                    for each rule that a row may break by it, with its message

`passes/relate.py` writes them, from the few columns that it needs of all rows. A row with a field that is given is then
read, judged and found unchanged like any other: what is given is part of its text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl

from pipeline.files import FILE_MODE

UNKNOWN: Final = "subscriber|unknown"
AMBIGUOUS: Final = "subscriber|ambiguous"
SIXTH: Final = "order|sixth"
# By field: the columns of its lines, beside `seq`.
LINES: Final = {"subscriber": ("subscriber", UNKNOWN, AMBIGUOUS), "order": ("order", SIXTH)}


@dataclass(frozen=True, slots=True)
class Given:
    """The files of one feed, for the `fields` that are found by now."""

    folder: Path
    feed: str
    fields: tuple[str, ...] = ()

    def write(self, field: str, part: int, lines: pl.DataFrame) -> None:
        """Write the lines of a part."""
        path = self._path(field, part)
        lines.select("seq", *LINES[field]).write_parquet(path, compression_level=1)
        path.chmod(FILE_MODE)

    def of_part(self, part: int) -> list[pl.DataFrame]:
        """Return the lines of a part, a frame for each field."""
        return [pl.read_parquet(self._path(field, part), glob=False) for field in self.fields]

    def of_rows(self, seqs: pl.Series) -> list[pl.DataFrame]:
        """Return the lines of some rows, a frame for each field."""
        return [
            pl.scan_parquet(sorted(self.folder.glob(f"{field}-{self.feed}-*")), glob=False)
            .filter(pl.col("seq").is_in(seqs.implode()))
            .collect()
            for field in self.fields
        ]

    def _path(self, field: str, part: int) -> Path:
        return self.folder / f"{field}-{self.feed}-{part:05}.parquet"


def put_in(texts: pl.DataFrame, seqs: pl.Series, lines: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the texts of rows (`rows/texts.py`) with what other rows give them.

    The columns are the same for each part, whether it has a line or not, because they are part of a row's digest.
    """
    rows = seqs.alias("seq").to_frame()
    for frame in lines:
        found = rows.join(frame, on="seq", how="left", maintain_order="left").drop("seq")
        texts = texts.with_columns(found.get_columns())
    return texts
