"""A feed's fields as text, out of the sender's columns: the input of every step that reads rows.

The sender's columns are selected by `cs.by_name`: `pl.col` reads `*` and `^A.*$` as patterns.

If a feed has SQL, its texts have further columns, whose names are rules: `<field>|sql` has the reason for
which the expression has no value for a row, and `row|where` the same of the condition, or "" if the row does
not meet it. Both are null otherwise. What other rows give a row (`planning/given.py`) has such columns, too: the
value of `subscriber|unknown` is the message. Those of an X12 834 have the rules of `enrollment.py`.
"""

from collections.abc import Iterator
from typing import Final

import polars as pl
import polars.selectors as cs

from pipeline.rows import enrollment
from pipeline.rows.feed import Feed
from pipeline.rows.sql import compile_condition, compile_value, evaluate

WHERE = "row|where"
_NOT_MET = ""


def fault_of(field: str) -> str:
    """Return the rule that a row breaks if the SQL of a field has no value for it."""
    return f"{field}|sql"


def columns_read(feed: Feed) -> list[tuple[str, str]]:
    """Return the sender's columns that a feed reads, each with our field, or "where", that needs it."""
    columns = list(feed.columns.items())
    for name, sql in feed.sql.items():
        columns += [(name, column) for column in compile_value(sql).columns]
    if feed.where:
        columns += [("where", column) for column in compile_condition(feed.where).columns]
    return columns


def use_of(feed: Feed, field: str) -> str:
    """Return what a column is to a feed, for a message, by our field, or "where", that needs it."""
    if field in feed.columns:
        return f"mapped to {field}"
    return "used in where" if field == "where" else f"used in the SQL of {field}"


_PROTECTED: Final = r'\A="([^"]*)"\z'  # how spreadsheets keep the zeros of an id: ="00123"


def cleaned(cells: pl.DataFrame, feed: Feed) -> pl.DataFrame:
    """Return the cells of the sender's columns (all texts) as the feed means them.

    A cell is trimmed, `="00123"` is 00123, and a blank one, or one of `null_values`, is null.
    """
    texts = cells.with_columns(pl.all().str.strip_chars())
    begins = {each.name: each.alias("text").str.starts_with('="') for each in texts.get_columns()}
    protected = [name for name, is_begun in begins.items() if is_begun.any()]
    if protected:
        texts = texts.with_columns(
            cs.by_name(protected).str.replace(_PROTECTED, "${1}").str.strip_chars()
        )
    blank = pl.all().is_in(["", *feed.null_values]) if feed.null_values else pl.all() == ""
    return texts.with_columns(pl.when(~blank).then(pl.all()))


def texts_of(frame: pl.DataFrame, feed: Feed) -> pl.DataFrame:
    """Return our fields as text: those of columns, `cleaned`; and the faults of SQL, if the feed has any."""
    mapped = [cs.by_name(column).alias(field) for field, column in feed.columns.items()]
    constant = [pl.lit(value).alias(field) for field, value in feed.constants.items()]
    evaluated = dict(_evaluated(frame, feed))
    absent = [
        pl.lit(None, dtype=pl.String).alias(field)
        for field in feed.traits.fields
        if field not in feed.columns and field not in feed.constants and field not in feed.sql
    ]
    values = [evaluated.pop(field).alias(field) for field in feed.sql]
    if enrollment.is_enrollment(frame.columns):
        evaluated |= enrollment.faults(frame)
    fields = cleaned(frame.select(*mapped, *values), feed).with_columns(constant + absent)
    return fields.select(feed.traits.fields).with_columns(**evaluated)


def faults_of(texts: pl.DataFrame, feed: Feed) -> list[str]:
    """Return the names of the columns of `texts` that are no fields, but faults."""
    return texts.columns[len(feed.traits.fields) :]


def wanted(texts: pl.DataFrame, feed: Feed) -> pl.Series:
    """Return whether `where` and `only` keep each row, or may keep it: a fault is rejected, not filtered."""
    keep = [
        pl.col(field).is_in(list(values)).fill_null(value=False)
        | (pl.col(fault_of(field)).is_not_null() if field in feed.sql else False)
        for field, values in feed.only.items()
    ]
    if feed.where:
        keep.append(pl.col(WHERE).ne_missing(_NOT_MET))
    if not keep:
        return pl.repeat(True, texts.height, eager=True)
    return texts.select(pl.all_horizontal(keep)).to_series()


def _evaluated(frame: pl.DataFrame, feed: Feed) -> Iterator[tuple[str, pl.Series]]:
    """Yield the value of each SQL expression by field, and the faults by rule."""
    for name, sql in feed.sql.items():
        compiled = compile_value(sql)
        value, fault = evaluate(
            cleaned(frame.select(cs.by_name(*compiled.columns)), feed), compiled
        )
        if compiled.is_decimal and name == "amount" and feed.decimal_comma:
            value = value.str.replace(".", ",", literal=True)
        yield name, value
        yield fault_of(name), fault
    if feed.where:
        compiled = compile_condition(feed.where)
        is_met, fault = evaluate(
            cleaned(frame.select(cs.by_name(*compiled.columns)), feed), compiled
        )
        not_met = pl.repeat(_NOT_MET, frame.height, eager=True)
        yield WHERE, fault.zip_with(fault.is_not_null() | is_met.fill_null(value=False), not_met)
