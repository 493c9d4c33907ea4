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
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from typing import Annotated, Final, Literal, NoReturn

import polars as pl
from pydantic import ValidationInfo
from pydantic_core import PydanticCustomError

from pipeline.fhir import codes
from pipeline.fhir.datatypes import AMOUNT_MAX, AMOUNT_MIN, DOLLARS, is_id
from pipeline.records import usd
from pipeline.rows.crosswalk import Ambiguous, Crosswalk, Crosswalks, Unknown, is_identifier
from pipeline.rows.whole import Column, ColumnInfo, Reader, by_value, reader, reader_by_value

AmountSign = Literal["positive", "negative"]

# Money is read by this pattern alone: Decimal() would take 1e3, NaN, 1_000 and full-width digits.
_AMOUNT = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]+))?", re.ASCII)
# Characters that are always an error: control characters; invisible ones, and those that change the
# direction of text (zero width, byte order marks, marks of bidirectional text); remains of a wrong encoding.
# Both regular expression engines read it. Joiners (U+200C, U+200D) belong to some languages' names.
_UNFIT = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\U000e0000-\U000e007f]"
)
# The same for whole columns (polars' regular expressions know no look-ahead, and `\\z` is the end).
# Other ids that `is_id` or `is_identifier` takes, such as one that begins with a dot, are left to them.
_CENTS_TEXT: Final = rf"\A-?{DOLLARS}\z"
_PLAIN_ID: Final = r"\A[A-Za-z0-9][A-Za-z0-9.-]{0,63}\z"
_PLAIN_IDENTIFIER: Final = r"\A[ -~]{1,255}\z"
_DATE_CACHE_MAX = 50_000
_ADJOINING: Final = re.compile(r"((?:%[YymdHMSfjI]){2,})")  # numbers with nothing between them
_TIME: Final = re.compile(r"%[HIMSfpXc]")  # directives of a time of day
_DIGITS: Final = {"Y": "{4}", "j": "{3}", "f": "{1,6}"}  # of a number in a format; others have 2
TRANSLATED: Final = (
    "relationship",
    "type",
    "status",
    "order",
)  # fields whose cells `codes` translates
_YEARS = range(1880, 2200)  # from births to end dates; a date outside it is a typing error


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


class Dates:
    """A reader of calendar days in the feed's formats (strptime).

    An instant with a time keeps its calendar day as written. A text that two formats read as two
    different days is ambiguous, not the first of them.
    """

    def __init__(self, formats: Sequence[str]) -> None:
        self.formats = tuple(formats)
        self.have_times = any(_TIME.search(form) for form in self.formats)
        self._cache: dict[str, _Read] = {}

    def read(self, text: str) -> date | Literal["date", "ambiguous"]:
        """Return the day, or the rule that the text breaks."""
        return self._look_up(text)[0]

    def time_us(self, text: str) -> int | None:
        """Return the time of day in microseconds; None at midnight, without a time, and for no day."""
        return self._look_up(text)[1] or None

    def _look_up(self, text: str) -> "_Read":
        found = self._cache.get(text)
        if found is None:
            if len(self._cache) >= _DATE_CACHE_MAX:
                self._cache.clear()
            found = self._cache[text] = self._parse(text)
        return found

    def _parse(self, text: str) -> "_Read":
        """Read a text by all formats; the time is that of the first one that reads it."""
        if not text.isascii():
            return "date", 0
        found = [at for form in self.formats if (at := _strptime(text, form)) is not None]
        if not found:
            return "date", 0
        if len({at.date() for at in found}) > 1:
            return "ambiguous", 0
        at = found[0].replace(tzinfo=None)
        return at.date(), (at - datetime.combine(at.date(), time.min)) // timedelta(microseconds=1)


# A day, or the rule that a text breaks; and the time of day in microseconds.
_Read = tuple[date | Literal["date", "ambiguous"], int]


def _strptime(text: str, form: str) -> datetime | None:
    in_full = _in_full(form)
    if in_full and not in_full.fullmatch(text):
        return None
    try:
        at = datetime.strptime(text, form)  # noqa: DTZ007 - a calendar day has no zone
    except ValueError:
        return None
    return at if at.year in _YEARS else None


@cache
def _in_full(form: str) -> re.Pattern[str] | None:
    """Return the pattern of a text in a format with adjoining numbers; None if it has none.

    Adjoining numbers must have all their digits: strptime reads 2026112 as November 2, but it could be
    January 12.
    """
    parts = _ADJOINING.split(form)
    for number, part in enumerate(parts):
        if number % 2:
            parts[number] = "".join(rf"\d{_DIGITS.get(letter, '{2}')}" for letter in part[1::2])
        else:
            spaced = re.sub(r"\s+", " ", part)
            parts[number] = "".join(
                ".+?" if each[0] == "%" else r"\s+" if each == " " else re.escape(each)
                for each in re.findall("%.|[^%]", spaced)
            )
    return re.compile("".join(parts), re.IGNORECASE) if len(parts) > 1 else None


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


def cents_of(text: str | None, sign: AmountSign) -> int | None:
    """Return an amount in cents, even outside of what may be sent; None if it cannot be read.

    With `sign` "negative" a credit is written as a negative number and counts as positive.
    """
    match = _AMOUNT.fullmatch(text) if text else None
    if match is None or len(match[3] or "") > 2:  # noqa: PLR2004 - cents
        return None
    cents = int(match[2]) * 100 + int((match[3] or "").ljust(2, "0"))
    return -cents if (match[1] == "-") != (sign == "negative") else cents


def cents_in(texts: pl.Series, sign: AmountSign) -> pl.Series:
    """Return `cents_of` of a whole column."""
    plain = texts.set(~texts.str.contains(_CENTS_TEXT), None)
    unsigned = plain.str.strip_prefix("-").cast(pl.Decimal(14, 2)).to_physical().cast(pl.Int64)
    is_negative = plain.str.starts_with("-") != (sign == "negative")
    return (-unsigned).zip_with(is_negative, unsigned)


def _broken(what: str, message: str) -> NoReturn:
    raise PydanticCustomError(what, message)


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
        _broken("required", "must not be blank")
    return True


def _or_blank(
    accepted: pl.Series, texts: pl.Series, info: ColumnInfo, *, required: bool
) -> pl.Series:
    """Accept blank cells too, unless they are required."""
    accepted = accepted.fill_null(value=False)
    if required or info.field_name in _reading(info).required:
        return accepted
    return accepted | texts.is_null()


def _text(length_max: int, *, required: bool = False) -> Reader:
    def read(value: str | None, info: ValidationInfo) -> str | None:
        if _blank(value, info, required=required) or value is None:
            return None
        if len(value) > length_max:
            _broken("length", f"at most {length_max} characters")
        if _UNFIT.search(value):
            _broken(
                "characters",
                "must not hold characters that are not seen (tabs, line breaks, NUL, zero width, marks of direction), nor U+FFFD, which a wrong encoding leaves",
            )
        return value

    def whole(texts: pl.Series, info: ColumnInfo) -> Column:
        fits = texts.str.len_chars().is_between(1, length_max)
        accepted = fits & ~texts.str.contains(_UNFIT.pattern)
        return Column(texts, _or_blank(accepted, texts, info, required=required))

    return reader(read, whole)


def _code(allowed: Sequence[str], *, required: bool = False, default: str | None = None) -> Reader:
    by_spelling = {code.casefold(): code for code in allowed}
    message = f"must be one of {', '.join(allowed)}; map the sender's spelling under codes"

    def read(value: str | None, info: ValidationInfo) -> str | None:
        if _blank(value, info, required=required) or value is None:
            return default
        value = _translated(value, info)
        code = by_spelling.get(value.casefold())
        return code if code is not None else _broken("code", message)

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
        else _broken("range", "must be 1 to 5, or primary, secondary, tertiary ...")
    )


def _read_day(value: str | None, info: ValidationInfo) -> date | None:
    if _blank(value, info, required=False) or value is None:
        return None
    dates = _reading(info).dates
    day = dates.read(value)
    if day == "date":
        _broken("date", f"must be a real day written as {' or '.join(dates.formats)}")
    if day == "ambiguous":
        _broken(
            "ambiguous",
            f"two of the feed's date formats ({', '.join(dates.formats)}) read it as different days: keep one",
        )
    return day


def _read_end_day(value: str | None, info: ValidationInfo) -> date | None:
    end_on = _read_day(value, info)
    start_on = info.data.get("start_on")
    if end_on is not None and start_on is not None and end_on < start_on:
        _broken("before_start", "must not be before start_on")
    return end_on


def _whole_end_days(texts: pl.Series, info: ColumnInfo) -> Column:
    day = by_value(_read_day, pl.Date)(texts, info)
    is_before = (day.values < info.data["start_on"]).fill_null(value=False)
    return Column(day.values, day.accepted & ~is_before)


def _read_amount(value: str | None, info: ValidationInfo) -> Decimal | None:
    if _blank(value, info, required=True) or value is None:
        return None
    reading = _reading(info)
    match = _AMOUNT.fullmatch(value)
    if match is None:
        _broken(
            "form",
            "must be a plain number such as 12.50: no currency sign, no thousands separator, no brackets, no exponent",
        )
    cents = cents_of(value, reading.amount_sign)
    if cents is None:
        _broken("decimals", "must have at most two decimals")
    if cents < 0:
        written = (
            "without a minus sign" if reading.amount_sign == "positive" else "as a negative number"
        )
        _broken(
            "sign",
            f'a payment is written {written} in this feed (amount_sign = "{reading.amount_sign}")',
        )
    amount = Decimal(cents).scaleb(-2)
    if not AMOUNT_MIN <= amount <= AMOUNT_MAX:
        _broken("range", "must be from 0.01 to 999,999.99 USD")
    most = reading.amount_max_cents
    if most is not None and cents > most:
        _broken(
            "limit",
            f"above limits.amount_usd_max = {usd(most)}: check it, and raise the limit if it is right",
        )
    return amount


def _whole_amounts(texts: pl.Series, info: ColumnInfo) -> Column:
    reading = _reading(info)
    cents = cents_in(texts, reading.amount_sign)
    least, most = (int(amount.scaleb(2)) for amount in (AMOUNT_MIN, AMOUNT_MAX))
    if reading.amount_max_cents is not None:
        most = min(most, reading.amount_max_cents)
    accepted = cents.is_between(least, most).fill_null(value=False)
    amounts = texts.set(~accepted, None).str.strip_prefix("-").cast(pl.Decimal(14, 2))
    return Column(amounts, accepted)


def _found(crosswalk: Crosswalk, value: str, kind: str) -> str:
    if crosswalk.is_search and not is_identifier(value):
        _broken("form", "must be one identifier: at most 255 printable characters")
    try:
        found = crosswalk.find(value)
    except Unknown:
        _broken("unknown", _UNKNOWN[crosswalk.is_search].format(kind=kind))
    except Ambiguous:
        _broken("ambiguous", _AMBIGUOUS[crosswalk.is_search].format(kind=kind))
    if crosswalk.target == "payer_id":
        if len(found) > codes.ID_LENGTH_MAX or _UNFIT.search(found):
            _broken("form", f"a payer id has at most {codes.ID_LENGTH_MAX} printable characters")
    elif not is_id(found):
        _broken("form", "must be one id: letters, digits, dots and dashes, at most 64")
    return found


def _found_ids(texts: pl.Series, crosswalk: Crosswalk) -> Column:
    """Return the ids for a whole column; ids of unusual form are not accepted here."""
    table = crosswalk.table
    found = (
        texts if table is None else pl.Series([table.get(text) for text in texts], dtype=pl.String)
    )
    accepted = found.str.contains(_PLAIN_ID)
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
            _broken(
                "required",
                "must name the subscriber, who must be a Canvas patient, unless relationship is self",
            )
        return patient
    found = _found(_reading(info).crosswalks.patient, value, "patient")
    if relationship == "self" and patient is not None and found != patient:
        _broken(
            "self",
            "relationship is self, so the subscriber must be the patient: correct one of the two",
        )
    if relationship not in {"self", None} and found == patient:
        _broken(
            "not_self",
            "relationship is not self, so the subscriber must be another person, who must be a Canvas patient: "
            "correct one of the two",
        )
    return found


def _whole_subscribers(texts: pl.Series, info: ColumnInfo) -> Column:
    patients = info.data["patient"]
    is_self = info.data["relationship"] == "self"
    named = _found_ids(texts, _reading(info).crosswalks.patient)
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
    if not _blank(value, info, required=False) and value != "USD":
        _broken("code", "must be USD or blank: Canvas keeps USD whatever is sent")
    return "USD"


# Cells that hold a resource's or a person's id of at most 100 characters.
RequiredId = Annotated[str, _text(codes.ID_LENGTH_MAX, required=True)]
OptionalId = Annotated[str | None, _text(codes.ID_LENGTH_MAX)]
OptionalText = Annotated[str | None, _text(codes.CLASS_LENGTH_MAX)]
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

FULL_DATE: Final = "%Y-%m-%d"
