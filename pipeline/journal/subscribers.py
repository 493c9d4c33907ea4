"""The subscribers of earlier files: whose row had relationship self and a subscriber id.

They are entered when a run begins its plan, and count once Canvas has the coverage of the row: so the patient of a row
that Canvas never took is no subscriber, and one whose last update or end failed still is.
"""

from functools import partial
from typing import Final

import polars as pl

from pipeline.journal.journal import Journal

_LINES_AT_ONCE: Final = 10_000  # in one transaction
_SCHEMA: Final = {"id": pl.String, "lane": pl.String, "number": pl.Int64}


def note_subscribers(journal: Journal, rows: pl.DataFrame) -> None:
    """Enter the rows (id, key, lane) with relationship self of a plan that is begun, as later than all before."""
    number, _ = journal.head
    for some in rows.iter_slices(_LINES_AT_ONCE):
        lines = [
            {"id_hash": each, "key": key, "lane": lane, "number": number}
            for each, key, lane in some.select("id", "key", "lane").iter_rows()
        ]
        journal.write_now(partial(journal.change_each, "note_subscriber", lines))


def last_subscribers(journal: Journal, ids: pl.Series) -> pl.DataFrame:
    """Return the patients (id, lane) whose row with a subscriber id became a coverage in Canvas, of the last files that had one.

    Several patients: those files had a row of each.
    """
    found = journal.frame("subscribers", ids, _SCHEMA, "ids")
    is_last = pl.col("number") == pl.col("number").max().over("id")
    return found.filter(is_last).select("id", "lane").unique()


def ids_passed_on(journal: Journal) -> pl.Series:
    """Return the subscriber ids that rows of several patients had, at the same time or one after the other."""
    return pl.Series("id", [line[0] for line in journal.rows("passed_on", {})], dtype=pl.String)
