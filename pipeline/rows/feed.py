"""A feed: one kind of source file, with its traits as data, and the identity of its rows."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Literal

import polars as pl
from pydantic import BaseModel

from pipeline.records import Disposition, Rejection
from pipeline.rows.columns import Reading
from pipeline.rows.crosswalk import Crosswalks
from pipeline.rows.dates import FULL_DATE, Dates, has_zone, reads
from pipeline.rows.eligibility import EligibilityRow
from pipeline.rows.ledger import LedgerRow
from pipeline.rows.money import AmountSign, AmountStyle, AmountUnit, cents_in, cents_of
from pipeline.rows.shares import Ceiling
from pipeline.rows.whole import hashed

_PART = "\x1f"  # ASCII's unit separator: no cell that is sent can hold it
_KEY_DIGITS = 16
_MISSING_MAX = Ceiling(share=Fraction(5, 100))

# What is done about coverages whose rows are gone, and the last day of those that are ended.
Missing = Literal["ignore", "report", "end", "cancel"]
EndOn = Literal["day_before", "month_end", "last_month_end"]


class Kind(StrEnum):
    """The kind of a feed's rows."""

    ELIGIBILITY = "eligibility"
    LEDGER = "ledger"


@dataclass(frozen=True, slots=True)
class Traits:
    """The traits of all feeds of a kind."""

    resource_type: Literal["Coverage", "PaymentNotice"]
    model: type[BaseModel]
    required: tuple[str, ...]  # must be mapped or constant
    key: tuple[str, ...]  # the key if the configuration names none
    has_money: bool

    @property
    def fields(self) -> tuple[str, ...]:
        """Return our fields, in the order in which they are read."""
        return tuple(self.model.model_fields)


TRAITS = {
    Kind.ELIGIBILITY: Traits(
        resource_type="Coverage",
        model=EligibilityRow,
        required=("patient", "member_id", "relationship", "payer", "order"),
        key=("patient", "payer", "member_id", "start_on"),
        has_money=False,
    ),
    Kind.LEDGER: Traits(
        resource_type="PaymentNotice",
        model=LedgerRow,
        required=("patient", "amount"),
        key=("transaction_id",),
        has_money=True,
    ),
}


@dataclass(frozen=True, slots=True)
class Feed:
    """One configured feed. `columns`, `sql` and `constants` are keyed by our field."""

    name: str
    kind: Kind
    path: str
    columns: Mapping[str, str]
    constants: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)
    key: tuple[str, ...] = ()
    dates: tuple[str, ...] = (FULL_DATE,)
    dates_of: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of fields with others
    amount_sign: AmountSign = "positive"
    decimal_comma: bool = False  # amounts are written 1.234,56
    amount_unit: AmountUnit = "dollars"
    timezone: str = ""  # in which instants with a zone become days, as an IANA name
    open_dates: tuple[str, ...] = ()  # further days that mean "no date"
    null_values: tuple[str, ...] = ()  # texts that mean blank, in every column
    sql: Mapping[str, str] = field(default_factory=dict)  # our field -> an expression
    where: str = ""  # a SQL condition over the sender's columns (`rows/sql.py`)
    repeats: Literal["reject", "count"] = "reject"
    delivery: Literal["full", "increment"] = (
        "full"  # the content of each delivery: all rows, or new ones
    )
    update: bool = True  # a known row whose content changed is written again, else rejected
    adopt: bool = True  # Canvas is searched for an unknown row before it is created
    missing: Missing = "ignore"  # rows of the last run that are gone
    missing_max: Ceiling = _MISSING_MAX  # more of them than this and nothing is ended or cancelled
    missing_end_on: EndOn = "day_before"  # the last day of what is ended
    order_by: tuple[str, ...] = ()
    order_from: Literal["column", "sequence"] = "column"  # what an active coverage's order is
    delimiter: str | None = None  # None: by the file's name
    encoding: str = "utf-8"
    final_newline: Literal["require", "any"] = "require"
    format: Literal["", "834"] = ""  # "": by the file's name and content
    sheet: str = ""  # of a workbook; "": its only visible one
    skip_lines: int = 0  # above the header
    skip_footer: int = 0  # lines after the last row
    comment_prefix: str = ""
    blank_lines: Literal["reject", "skip"] = "reject"
    expect_by: str = ""  # "03:00" in `timezone`: a file that is not there by then is late
    manifest: str = ""  # a path or a glob of the sender's control totals

    @property
    def traits(self) -> Traits:
        """Return the traits of this kind."""
        return TRAITS[self.kind]

    @property
    def amount_style(self) -> AmountStyle:
        """Return how amounts are written, beside their sign."""
        return AmountStyle(self.decimal_comma, self.amount_unit)

    @property
    def comma_columns(self) -> list[str]:
        """Return the columns in which a number, that has no spelling, is written with a decimal comma."""
        column = self.columns.get("amount") if self.decimal_comma else None
        return [] if column is None else [column]

    @property
    def day_reader(self) -> Dates:
        """Return a new reader of days."""
        return Dates(self.dates, self.timezone, self.open_dates, self.dates_of)

    def reading(self, crosswalks: Crosswalks, amount_max_cents: int | None) -> Reading:
        """Return how the cells of this feed are read."""
        return Reading(
            dates=self.day_reader,
            crosswalks=crosswalks,
            codes=self.codes,
            amount_sign=self.amount_sign,
            amount_style=self.amount_style,
            amount_max_cents=amount_max_cents,
            required=self.required,
        )

    def reads_instants(self, name: str) -> bool:
        """Return whether a day field reads instants of a Parquet file, as days in `timezone`."""
        formats = self.day_reader.formats(name)
        return bool(self.timezone) and any(
            has_zone(form) and reads(form, "2026-01-02T03:04:05Z") for form in formats
        )

    @property
    def counts_within_files(self) -> bool:
        """Return whether equal rows are counted file by file, each file being a delivery of its own."""
        return self.repeats == "count" and self.delivery == "increment"

    @property
    def counts_over_files(self) -> bool:
        """Return whether equal rows are counted over all files of a delivery, which holds all rows."""
        return self.repeats == "count" and self.delivery == "full"

    @property
    def required(self) -> frozenset[str]:
        """Return the fields that must not be blank, beyond those that the model requires.

        A payment without all fields of its key has no identity, and could be sent twice. A claim is
        the exception: a payment without one is not a copay, which is part of its identity.
        """
        return frozenset(self.key) - {"claim"} if self.kind is Kind.LEDGER else frozenset()


@dataclass(frozen=True, slots=True)
class Checked:
    """A source row after it was read and validated.

    `disposition` is PENDING (then `content` is set), FILTERED or REJECTED (then `rejections` are).
    """

    row: int
    key: str
    source_id: str
    amount_cents: int | None
    disposition: Disposition
    content: BaseModel | None = None
    time_us: int | None = None  # of `posted_on`, as the sender wrote it (`Dates.time_us`)
    rejections: tuple[Rejection, ...] = ()


def row_key(feed: str, parts: Sequence[str]) -> str:
    """Return the identity of a row, the same on every day: 16 hex digits of a SHA-256 over feed and key fields.

    `parts` are canonical texts (`canonical`), so that another spelling of a date or an amount is
    still the same row.
    """
    return hashlib.sha256(_PART.join([feed, *parts]).encode()).hexdigest()[:_KEY_DIGITS]


def canonical(name: str, text: str | None, reading: Reading) -> str:
    """Return a key field's text without its spelling: days as ISO, amounts as cents, all else unchanged.

    No date is the same as a blank cell.
    A text that cannot be read is unchanged: a rejected row has a key too.
    """
    if text is None:
        return ""
    if name.endswith("_on"):
        day = reading.dates.read(text, name)
        return text if isinstance(day, str) else "" if day is None else day.isoformat()
    if name == "amount":
        cents = cents_of(text, reading.amount_sign, reading.amount_style)
        return text if cents is None else str(cents)
    return text


def identities(texts: pl.DataFrame, feed: Feed, reading: Reading) -> pl.DataFrame:
    """Return the identity of each row, for whole columns: key, source_id, amount_cents and time_us.

    The same as `row_key` of `canonical` texts, and `cents_of`.
    """
    parts = [canonical_column(texts[name], reading) for name in feed.key]
    first = [pl.lit(text) for text in (feed.name, *reading.delivery)]
    whole = texts.select(pl.concat_str(*first, *parts, separator=_PART)).to_series()
    if feed.traits.has_money:
        source_id = texts["transaction_id"].fill_null("")
        cents = cents_in(texts["amount"], reading.amount_sign, reading.amount_style)
    else:
        source_id = pl.repeat("", texts.height, dtype=pl.String, eager=True)
        cents = pl.repeat(None, texts.height, dtype=pl.Int64, eager=True)
    return pl.DataFrame(
        {
            "key": hashed(whole, _KEY_DIGITS),
            "source_id": source_id,
            "amount_cents": cents,
            "time_us": _times(texts, feed, reading),
        }
    )


def time_of(text: str | None, reading: Reading) -> int | None:
    """Return the time of day of a `posted_on` in the feed's time zone, which is not part of the key or the content."""
    return None if text is None else reading.dates.time_us(text)


def _times(texts: pl.DataFrame, feed: Feed, reading: Reading) -> pl.Series:
    """Return `time_of` of a whole column."""
    if not (feed.traits.has_money and reading.dates.have_times("posted_on")):
        return pl.repeat(None, texts.height, dtype=pl.Int64, eager=True)
    spellings = texts["posted_on"].unique()
    times = pl.Series([time_of(text, reading) for text in spellings], dtype=pl.Int64)
    return texts["posted_on"].replace_strict(spellings, times, return_dtype=pl.Int64)


def canonical_column(texts: pl.Series, reading: Reading) -> pl.Series:
    """Return `canonical` of a whole column; each distinct spelling is read once."""
    if texts.name == "amount" or texts.name.endswith("_on"):
        spellings = texts.unique()
        said = [canonical(texts.name, text, reading) for text in spellings]
        return texts.replace_strict(spellings, pl.Series(said, dtype=pl.String))
    return texts.fill_null("")
