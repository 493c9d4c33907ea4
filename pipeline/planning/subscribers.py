"""Find the subscriber of a dependent in another row: the patient of the row with relationship self and the same id.

Rows of today's files go first, wherever they stand. A row whose patient and subscriber id can be read counts even if it
is rejected for another field: the person is known. Rows that are filtered do not count. If no row of today has the id,
the patient counts whose row had it in the last files that had one, if Canvas has the coverage of that row.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import polars as pl

from pipeline.planning.given import AMBIGUOUS, LINES, UNKNOWN

# What is compared of the rows that have a subscriber id. `patient` is null if it cannot be read.
RELATION: Final[dict[str, Any]] = {
    "seq": pl.UInt32,
    "file": pl.UInt32,
    "row": pl.UInt32,
    "id": pl.String,
    "is_self": pl.Boolean,
    "patient": pl.String,
}

_SEVERAL: Final = "{} and {} have relationship self and the same subscriber_id, and are different patients: correct one of the two"
_UNREAD: Final = "the patient of {}, which is the subscriber's row, is not known: correct that row"
_NONE: Final = (
    "no row of these files with relationship self has the subscriber_id of {}, and Canvas has no coverage of an earlier one: "
    "have the subscriber's row delivered too, or correct subscriber_id"
)
_SEVERAL_EARLIER: Final = (
    "no row of these files with relationship self has the subscriber_id of {}, and the last files that had one had it "
    "with different patients: have the subscriber's row delivered too"
)

# ids -> id, lane: the patients of the last rows whose coverage Canvas has
Earlier = Callable[[pl.Series], pl.DataFrame]


def find_subscribers(rows: pl.DataFrame, files: Sequence[str], earlier: Earlier) -> pl.DataFrame:
    """Return what each dependent is given: `seq`, and LINES["subscriber"].

    Args:
        rows: RELATION, with all rows of each id.
        files: The names of the feed's files, by number.
        earlier: Looks up ids that no row of today with relationship self has.
    """
    dependents = rows.filter(~pl.col("is_self"))
    found = dependents.join(_subscribers(rows.filter("is_self")), on="id", how="left")
    left = found.filter(pl.col("selves").is_null())["id"].unique()
    before = earlier(left).group_by("id").agg(pl.col("lane").first(), pl.len().alias("lanes"))
    found = found.join(before, on="id", how="left")
    names = pl.col("file").replace_strict(dict(enumerate(files)), return_dtype=pl.String)
    own = pl.concat_str(names, "row", separator=":")
    is_today, is_several = pl.col("selves").is_not_null(), pl.col("persons") > 1
    lines = found.with_columns(
        _named("first", files), _named("other", files), _named("unread", files), own.alias("own")
    ).select(
        "seq",
        pl.when(is_today & ~is_several)
        .then("person")
        .when(~is_today & (pl.col("lanes") == 1))
        .then("lane")
        .alias("subscriber"),
        pl.when(is_today & (pl.col("persons") == 0))
        .then(pl.format(_UNREAD, "unread"))
        .when(~is_today & pl.col("lanes").is_null())
        .then(pl.format(_NONE, "own"))
        .alias(UNKNOWN),
        pl.when(is_today & is_several)
        .then(pl.format(_SEVERAL, "first", "other"))
        .when(~is_today & (pl.col("lanes") > 1))
        .then(pl.format(_SEVERAL_EARLIER, "own"))
        .alias(AMBIGUOUS),
    )
    return lines.select("seq", *LINES["subscriber"])


def _subscribers(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the persons of each id, and rows (file and number) that messages name."""
    where = pl.struct("file", "row")
    known = pl.col("patient").is_not_null()
    first = pl.col("patient").filter(known).first()
    return (
        rows.sort("seq")
        .group_by("id")
        .agg(
            pl.len().alias("selves"),
            pl.col("patient").drop_nulls().n_unique().alias("persons"),
            first.alias("person"),
            where.filter(known).first().alias("first"),
            where.filter(known & (pl.col("patient") != first)).first().alias("other"),
            where.filter(~known).first().alias("unread"),
        )
    )


def _named(column: str, files: Sequence[str]) -> pl.Expr:
    """Return `file:row` of a struct, null if there is none."""
    name = (
        pl.col(column)
        .struct.field("file")
        .replace_strict(dict(enumerate(files)), return_dtype=pl.String)
    )
    row = pl.col(column).struct.field("row")
    return pl.concat_str(name, row, separator=":").alias(column)
