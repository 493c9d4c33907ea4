"""Column readers: from the text of a cell to a typed value, or the rule that it breaks.

A reader never raises with, logs or repeats the text that it gets. Surrounding blanks are trimmed before,
and a blank cell is None. The rules that a reader raises are the second half of a rule's name: `order` +
`range` -> `order|range`.

Each reader has a counterpart for a whole column (`rows/whole.py`): the reader itself, called once for
each distinct value, or expressions that accept a part of what the reader takes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Annotated, Final, Literal, cast

import polars as pl
from pydantic import ValidationInfo

from pipeline.fhir import codes
from pipeline.fhir.datatypes import is_id
from pipeline.rows.crosswalk import Ambiguous, Crosswalk, Crosswalks, Unknown, is_identifier
from pipeline.rows.dates import YEARS, Dates
from pipeline.rows.money import USUAL, AmountSign, AmountStyle, read_amount, whole_amounts
from pipeline.rows.whole import (
    CellReader,
    Column,
    ColumnInfo,
    Reader,
    WholeReader,
    broken,
    by_value,
    reader,
    reader_by_value,
)

# Characters that are always an error: control characters; invisible ones, and those that change the
# direction of text (zero width, byte order marks, marks of bidirectional text); remains of a wrong encoding.
# Both regular expression engines read it. Joiners (U+200C, U+200D) belong to some languages' names.
_UNFIT = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\U000e0000-\U000e007f]"
)
# The same for whole columns (polars' regular expressions know no look-ahead, and `\\z` is the end).
# Other ids that `is_id` or `is_identifier` takes, such as one that begins with a dot, are left to them.
_PLAIN_ID: Final = r"\A[A-Za-z0-9][A-Za-z0-9.-]{0,63}\z"
_PLAIN_IDENTIFIER: Final = r"\A[ -~]{1,255}\z"
# What a spreadsheet or a database writes where it has no value, or not the one that was meant. It is compared
# with whole cells, without case, by both engines.
_ERRORS: Final = (
    r"null|\(null\)|<null>|\\n|nan|nat|none|<na>|#?n/a|#(?:ref|value|num|null|div/0)!|#name\?|##+"
    r"|[0-9](?:\.[0-9]+)?e\+[0-9]{2,3}"
)
_PLACEHOLDER: Final = {"text": _ERRORS, "id": rf"{_ERRORS}|[0-9]+\.0|'[0-9].*"}
TRANSLATED: Final = (
    "relationship",
    "type",
    "status",
    "order",
)  # fields whose cells `codes` translates


# Key: whether Canvas was searched.
_UNKNOWN: Final = {
    False: "no line for it in the {kind} crosswalk (references.{kind}.path): add one",
    True: "no Patient in Canvas has this identifier in the system of references.{kind}.system: "
    "correct it, or enter the patient (or the identifier) in Canvas, and run again",
}
_AMBIGUOUS: Final = {
    False: "several different ids for it in the {kind} crosswalk: keep one",
    True: "several Patients in Canvas have this identifier in the system of references.{kind}.system: "
    "merge them, or take it off all but one, in Canvas, and run again",
}


# Key: whether the subscriber is found in another row.
_NO_SUBSCRIBER: Final = {
    False: "must name the subscriber, who must be a Canvas patient, unless relationship is self; "
    'if dependents share a subscriber_id, set how = "row" in [references.subscriber]',
    True: "relationship is not self, and there is no subscriber_id that can be read, by which the subscriber's row is "
    "found: fill it in",
}
_OPEN_YEARS: Final = {
    "start_on": ", or one before them, which means no date",
    "end_on": ", or one after them, which means no date",
    "posted_on": "",
}


@dataclass(frozen=True, slots=True)
class Reading:
    """The settings for reading one feed's cells: the validation context of the row models."""

    dates: Dates
    crosswalks: Crosswalks
    codes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # field -> theirs -> ours
    amount_sign: AmountSign = "positive"
    amount_max_cents: int | None = None  # limits.amount_usd_max
    required: frozenset[str] = frozenset()  # beyond those that the model itself requires
    delivery: tuple[str, ...] = ()  # the SHA-256 of the file, if that is part of its rows' identity
    amount_style: AmountStyle = USUAL


def _reading(info: ValidationInfo | ColumnInfo) -> Reading:
    reading = info.context
    if not isinstance(reading, Reading):
        raise TypeError("row models are validated with context=Reading(...)")
    return reading


def _blank(value: object, info: ValidationInfo, *, required: bool) -> bool:
    """Return whether the cell is blank; a blank that is required breaks `required`."""
    if value is not None and not isinstance(value, str):
        raise TypeError("cells are text")
    if value:
        return False
    if required or info.field_name in _reading(info).required:
        broken("required", "must not be blank")
    return True


def _not_placeholder(value: str, kind: Literal["id", "text"]) -> None:
    """Raise `placeholder` for a text that a spreadsheet or a database leaves behind."""
    if not re.fullmatch(_PLACEHOLDER[kind], value, re.ASCII | re.IGNORECASE | re.DOTALL):
        return
    if value[0] in "0123456789'":
        broken(
            "placeholder",
            "is what a spreadsheet makes of an id (9.01235E+11, 123456.0, '00123): have the sender write the column as text",
        )
    broken(
        "placeholder",
        "is what a spreadsheet or a database writes for no value or for an error: correct it; if it means blank, "
        "name it in null_values of the feed",
    )


def _or_blank(
    accepted: pl.Series, texts: pl.Series, info: ColumnInfo, *, required: bool
) -> pl.Series:
    """Accept blank cells too, unless they are required."""
    accepted = accepted.fill_null(value=False)
    if required or info.field_name in _reading(info).required:
        return accepted
    return accepted | texts.is_null()


def _is_placeholder(texts: pl.Series, kind: Literal["id", "text"]) -> pl.Series:
    return texts.str.contains(rf"(?is)\A(?:{_PLACEHOLDER[kind]})\z").fill_null(value=False)


def _word(length_max: int, *, required: bool = False) -> Reader:
    def read(value: str | None, info: ValidationInfo) -> str | None:
        if _blank(value, info, required=required) or value is None:
            return None
        if len(value) > length_max:
            broken("length", f"at most {length_max} characters")
        if _UNFIT.search(value):
            broken(
                "characters",
                "must not hold characters that are not seen (tabs, line breaks, NUL, zero width, marks of direction), nor U+FFFD, which a wrong encoding leaves",
            )
        return value

    def whole(texts: pl.Series, info: ColumnInfo) -> Column:
        fits = texts.str.len_chars().is_between(1, length_max)
        accepted = fits & ~texts.str.contains(_UNFIT.pattern)
        return Column(texts, _or_blank(accepted, texts, info, required=required))

    return reader(read, whole)


def _text(length_max: int, kind: Literal["id", "text"], *, required: bool = False) -> Reader:
    """Return the reader of a text that is sent: a word, and no placeholder."""
    word = _word(length_max, required=required)

    def read(value: str | None, info: ValidationInfo) -> str | None:
        if value:
            _not_placeholder(value, kind)
        found: str | None = cast("CellReader", word.func)(value, info)
        return found

    def whole(texts: pl.Series, info: ColumnInfo) -> Column:
        column = cast("WholeReader", word.whole)(texts, info)
        return Column(texts, column.accepted & ~_is_placeholder(texts, kind))

    return reader(read, whole)


def _code(allowed: Sequence[str], *, required: bool = False, default: str | None = None) -> Reader:
    by_spelling = {code.casefold(): code for code in allowed}
    message = f"must be one of {', '.join(allowed)}; map the sender's spelling under codes"

    def read(value: str | None, info: ValidationInfo) -> str | None:
        if _blank(value, info, required=required) or value is None:
            return default
        value = _translated(value, info)
        code = by_spelling.get(value.casefold())
        return code if code is not None else broken("code", message)

    return reader_by_value(read, pl.String)


def _translated(value: str, info: ValidationInfo) -> str:
    return _reading(info).codes.get(info.field_name or "", {}).get(value, value)


def _read_order(value: str | None, info: ValidationInfo) -> int | None:
    if _blank(value, info, required=True) or value is None:
        return None
    order = codes.ORDERS.get(_translated(value, info).casefold())
    return (
        order
        if order is not None
        else broken("range", "must be 1 to 5, or primary, secondary, tertiary ...")
    )


def _read_day(value: str | None, info: ValidationInfo) -> date | None:
    if _blank(value, info, required=False) or value is None:
        return None
    name = info.field_name or ""
    dates = _reading(info).dates
    day, formats = dates.read(value, name), dates.formats(name)
    if day == "date":
        broken("date", f"must be a real day written as {' or '.join(formats)}")
    if day == "year":
        broken("date", f"must be a day of the years {YEARS[0]} to {YEARS[-1]}{_OPEN_YEARS[name]}")
    if day == "ambiguous":
        broken(
            "ambiguous",
            f"two of the feed's date formats ({', '.join(formats)}) read it as different days: keep one",
        )
    return day


def _read_end_day(value: str | None, info: ValidationInfo) -> date | None:
    end_on = _read_day(value, info)
    start_on = info.data.get("start_on")
    if end_on is not None and start_on is not None and end_on < start_on:
        broken("before_start", "must not be before start_on")
    return end_on


def _whole_end_days(texts: pl.Series, info: ColumnInfo) -> Column:
    day = by_value(_read_day, pl.Date)(texts, info)
    is_before = (day.values < info.data["start_on"]).fill_null(value=False)
    return Column(day.values, day.accepted & ~is_before)


def _read_amount(value: str | None, info: ValidationInfo) -> Decimal | None:
    if _blank(value, info, required=True) or value is None:
        return None
    reading = _reading(info)
    return read_amount(value, reading.amount_sign, reading.amount_max_cents, reading.amount_style)


def _whole_amounts(texts: pl.Series, info: ColumnInfo) -> Column:
    reading = _reading(info)
    return whole_amounts(texts, reading.amount_sign, reading.amount_max_cents, reading.amount_style)


def _found(crosswalk: Crosswalk, value: str, kind: str) -> str:
    """Return the id for a cell. A placeholder is rejected even if the crosswalk has a line for it."""
    _not_placeholder(value, "id")
    if crosswalk.is_search and not is_identifier(value):
        broken("form", "must be one identifier: at most 255 printable characters")
    try:
        found = crosswalk.find(value)
    except Unknown:
        broken("unknown", _UNKNOWN[crosswalk.is_search].format(kind=kind))
    except Ambiguous:
        broken("ambiguous", _AMBIGUOUS[crosswalk.is_search].format(kind=kind))
    if crosswalk.target == "payer_id":
        if len(found) > codes.ID_LENGTH_MAX or _UNFIT.search(found):
            broken("form", f"a payer id has at most {codes.ID_LENGTH_MAX} printable characters")
    elif not is_id(found):
        broken("form", "must be one id: letters, digits, dots and dashes, at most 64")
    return found


def _found_ids(texts: pl.Series, crosswalk: Crosswalk) -> Column:
    """Return the ids for a whole column; ids of unusual form are not accepted here."""
    table = crosswalk.table
    found = (
        texts if table is None else pl.Series([table.get(text) for text in texts], dtype=pl.String)
    )
    accepted = found.str.contains(_PLAIN_ID) & ~_is_placeholder(texts, "id")
    if crosswalk.is_search:
        accepted &= texts.str.contains(_PLAIN_IDENTIFIER)
    return Column(found, accepted.fill_null(value=False))


def _read_patient(value: str | None, info: ValidationInfo) -> str | None:
    if _blank(value, info, required=True) or value is None:
        return None
    return _found(_reading(info).crosswalks.patient, value, "patient")


def _whole_patients(texts: pl.Series, info: ColumnInfo) -> Column:
    return _found_ids(texts, _reading(info).crosswalks.patient)


def _read_subscriber(value: str | None, info: ValidationInfo) -> str | None:
    """Read the subscriber's Patient key: the patient's own if the relationship is self.

    "self" with another subscriber, and any other relationship with the patient as own subscriber, are
    contradictions. Canvas' Coverage effect refuses both; over FHIR it is not known to, so they are rejected
    here (docs/rules.md). `patient` and `relationship` are read before this.
    """
    relationship, patient = info.data.get("relationship"), info.data.get("patient")
    if value is None or value == "":
        if relationship not in {"self", None}:
            broken("required", _NO_SUBSCRIBER[_reading(info).crosswalks.by_row])
        return patient
    found = _found(_reading(info).crosswalks.subscriber, value, "patient")
    if relationship == "self" and patient is not None and found != patient:
        broken(
            "self",
            "relationship is self, so the subscriber must be the patient: correct one of the two",
        )
    if relationship not in {"self", None} and found == patient:
        broken(
            "not_self",
            "relationship is not self, so the subscriber must be another person, who must be a Canvas patient: "
            "correct one of the two",
        )
    return found


def _whole_subscribers(texts: pl.Series, info: ColumnInfo) -> Column:
    patients = info.data["patient"]
    is_self = info.data["relationship"] == "self"
    named = _found_ids(texts, _reading(info).crosswalks.subscriber)
    is_blank = texts.is_null()
    fits = (is_blank & is_self) | (named.accepted & (is_self == (named.values == patients)))
    return Column(patients.zip_with(is_blank, named.values), fits.fill_null(value=False))


def _read_payer(value: str | None, info: ValidationInfo) -> str | None:
    if _blank(value, info, required=True) or value is None:
        return None
    return _found(_reading(info).crosswalks.payer, value, "payer")


def _read_claim(value: str | None, info: ValidationInfo) -> str | None:
    if _blank(value, info, required=False) or value is None:
        return None
    return _found(_reading(info).crosswalks.claim, value, "claim")


def _whole_claims(texts: pl.Series, info: ColumnInfo) -> Column:
    found = _found_ids(texts, _reading(info).crosswalks.claim)
    return Column(found.values, _or_blank(found.accepted, texts, info, required=False))


def _read_currency(value: str | None, info: ValidationInfo) -> str:
    if not _blank(value, info, required=False) and value and value.upper() != "USD":
        broken("code", "must be USD, in any case, or blank: Canvas keeps USD whatever is sent")
    return "USD"


# Cells that hold a resource's or a person's id of at most 100 characters.
RequiredId = Annotated[str, _text(codes.ID_LENGTH_MAX, "id", required=True)]
OptionalId = Annotated[str | None, _text(codes.ID_LENGTH_MAX, "id")]
OptionalLongId = Annotated[str | None, _text(codes.CLASS_LENGTH_MAX, "id")]
OptionalText = Annotated[str | None, _text(codes.CLASS_LENGTH_MAX, "text")]
OptionalWord = Annotated[str | None, _word(codes.CLASS_LENGTH_MAX)]
PatientKey = Annotated[str, reader(_read_patient, _whole_patients)]
SubscriberKey = Annotated[str, reader(_read_subscriber, _whole_subscribers)]
PayerId = Annotated[str, reader_by_value(_read_payer, pl.String)]
ClaimId = Annotated[str | None, reader(_read_claim, _whole_claims)]
Relationship = Annotated[str, _code(codes.RELATIONSHIPS, required=True)]
TypeCode = Annotated[str | None, _code(codes.TYPES)]
Status = Annotated[str, _code(codes.STATUSES, default="active")]
Order = Annotated[int, reader_by_value(_read_order, pl.Int8)]
Day = Annotated[date | None, reader_by_value(_read_day, pl.Date)]
EndDay = Annotated[date | None, reader(_read_end_day, _whole_end_days)]
Amount = Annotated[Decimal, reader(_read_amount, _whole_amounts)]
Currency = Annotated[str, reader_by_value(_read_currency, pl.String)]
