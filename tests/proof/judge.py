"""The slow judge of cells: what a sender's cell means, read letter by letter from docs/mapping.md.

It shares nothing with the readers of the product: no regular expression, no strptime, no polars. A cell is
a value, None for a blank one, or `Broken` with the rules that it may be said to break.
"""

import calendar
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, Final
from zoneinfo import ZoneInfo

from pipeline.fhir import codes
from pipeline.rows.feed import Feed

# What is trimmed: Unicode's White_Space.
BLANKS: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
DIGITS: Final = "0123456789"
_JOINERS: Final = "\u200c\u200d"
_UNSEEN: Final = ("Cc", "Cf", "Zl", "Zp")
_LEFT_BEHIND: Final = "\ufffc\ufffd\ufffe\uffff"
# Letters of some scripts and of musical notes, which Unicode counts among the unseen.
_SEEN: Final = {
    *map(chr, range(0x600, 0x606)), *map(chr, range(0x13430, 0x13460)), *map(chr, range(0x1BCA0, 0x1BCA4)),
    *map(chr, range(0x1D173, 0x1D17B)), *"\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd",
}  # fmt: skip
_PLACEHOLDERS: Final = (
    "null", "(null)", "<null>", "\\n", "nan", "nat", "none", "<na>", "n/a", "#n/a", "#ref!", "#value!", "#div/0!",
    "#name?", "#num!", "#null!",
)  # fmt: skip
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")  # fmt: skip
_NUMBERS: Final = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2, "I": 2}
_EPOCH: Final = date(1970, 1, 1)
FIRST_YEAR, FAR_YEAR = 1880, 2200
_DOLLARS_DIGITS: Final = 12


class Broken(frozenset[str]):
    """The rules that a cell breaks, without its field; a report names one of them."""


def broken(*rules: str) -> Broken:
    return Broken(rules)


@dataclass
class Judged:
    """A row as the judge sees it.

    Attributes:
        meant: The value of each field that is sent or judged.
        rules: For each broken cell the rules of which one must be named.
        is_filtered: Whether `only` leaves the row out.
        cents: The row's share of the control total.
        open_dates: The number of its days that mean "no date".
        time_us: The time of day of `posted_on` in microseconds.
    """

    meant: dict[str, Any] = field(default_factory=dict)
    rules: list[set[str]] = field(default_factory=list)
    is_filtered: bool = False
    cents: int = 0
    open_dates: int = 0
    time_us: int | None = None


def judge(cells: Mapping[str, str | None], feed: Feed, most: int | None, today: date) -> Judged:
    """Judge the sender's cells, by our field."""
    row = {name: cell_of(cells[name], feed.null_values) for name in feed.columns}
    is_header = all(row[name] == trimmed(column) for name, column in feed.columns.items())
    row |= feed.constants
    row = {name: row.get(name) for name in feed.traits.fields}
    days = {name: days_of(row[name], name, feed) for name in row if name.endswith("_on")}
    judged = Judged(
        is_filtered=any(row[name] not in allowed for name, allowed in feed.only.items()),
        open_dates=sum(each.is_open for each in days.values()),
    )
    if feed.traits.has_money:
        judged.cents = cents_of(row["amount"], feed)[0] or 0
        judged.time_us = days["posted_on"].time_us
        judged.meant = _ledger(row, days, feed, most)
        if judged.meant["posted_on"] == today:
            judged.meant["posted_on"] = None  # the same in the resource
    else:
        judged.meant = _eligibility(row, days, feed)
    for name in feed.required:
        if row[name] is None:
            judged.meant[name] = broken("required")
    for name, value in judged.meant.items():
        if isinstance(value, Broken):
            judged.rules.append({f"{name}|{rule}" for rule in value})
    if is_header:
        judged.rules = [{"row|header"}]
    return judged


def trimmed(text: str | None) -> str | None:
    return (text or "").strip(BLANKS) or None


def cell_of(text: str | None, null_values: Sequence[str]) -> str | None:
    """Return a cell as the feed means it."""
    text = trimmed(text)
    if text and len(text) >= 3 and text[:2] == '="' and text.find('"', 2) == len(text) - 1:
        text = trimmed(text[2:-1])
    return None if text in null_values else text


def _ledger(
    row: Mapping[str, str | None], days: Mapping[str, "Days"], feed: Feed, most: int | None
) -> dict[str, Any]:
    return {
        "transaction_id": _id(row["transaction_id"], 255),
        "patient": _key(row["patient"], required=True),
        "amount": amount_of(row["amount"], feed, most),
        "posted_on": days["posted_on"].day,
        "claim": _key(row["claim"]),
        "entry_type": words(row["entry_type"], 255),
        "currency": "USD" if (row["currency"] or "USD").upper() == "USD" else broken("code"),
    }


def _eligibility(
    row: Mapping[str, str | None], days: Mapping[str, "Days"], feed: Feed
) -> dict[str, Any]:
    patient = _key(row["patient"], required=True)
    relationship = _among(row, "relationship", codes.RELATIONSHIPS, feed, broken("required"))
    is_known = not isinstance(relationship, Broken)
    if row["subscriber"] is None:
        subscriber = patient if relationship == "self" and not isinstance(patient, Broken) else None
        if is_known and relationship != "self":
            subscriber = broken("required")
    else:
        subscriber = _key(row["subscriber"])
        if is_known and not isinstance(patient, Broken) and not isinstance(subscriber, Broken):
            if relationship == "self" and subscriber != patient:
                subscriber = broken("self")
            elif relationship != "self" and subscriber == patient:
                subscriber = broken("not_self")
    start_on, end_on = days["start_on"].day, days["end_on"].day
    if isinstance(start_on, date) and isinstance(end_on, date) and end_on < start_on:
        end_on = broken("before_start")
    order = row["order"] and feed.codes.get("order", {}).get(row["order"], row["order"])
    return {
        "patient": patient,
        "relationship": relationship,
        "subscriber": subscriber,
        "member_id": _id(row["member_id"], 100, required=True),
        "subscriber_id": _id(row["subscriber_id"], 100),
        "payer": _payer(row["payer"]),
        **{name: _name(row[name]) for name in ("payer_name", *codes.CLASSES)},
        "type": _among(row, "type", codes.TYPES, feed, None),
        "order": codes.ORDERS.get(order.casefold(), broken("range"))
        if order
        else broken("required"),
        "start_on": start_on,
        "end_on": end_on,
        "status": _among(row, "status", codes.STATUSES, feed, "active"),
    }


# Texts --------------------------------------------------------------------------------------------


def words(text: str | None, most: int, *, required: bool = False) -> Any:
    if text is None:
        return broken("required") if required else None
    rules = []
    if any(_is_unseen(letter) for letter in text):
        rules.append("characters")
    if len(text) > most:
        rules.append("length")
    return broken(*rules) if rules else text


def _is_unseen(letter: str) -> bool:
    if letter in _LEFT_BEHIND:
        return True
    return (
        unicodedata.category(letter) in _UNSEEN and letter not in _JOINERS and letter not in _SEEN
    )


def is_placeholder(text: str, *, is_id: bool) -> bool:
    """Return whether a spreadsheet or a database left this text behind."""
    small = "".join(chr(ord(each) + 32) if "A" <= each <= "Z" else each for each in text)
    if small in _PLACEHOLDERS or (len(small) > 1 and not small.strip("#")):
        return True
    if is_id and small.startswith("'") and small[1:2] and small[1] in DIGITS:
        return True
    if is_id and small.endswith(".0") and _are_digits(small[:-2]):
        return True
    number, sign, power = small.partition("e+")
    whole, point, part = number.partition(".")
    return bool(
        sign
        and _are_digits(power)
        and len(power) in {2, 3}
        and _are_digits(whole)
        and len(whole) == 1
        and (_are_digits(part) if point else True)
    )


def _are_digits(text: str) -> bool:
    return bool(text) and all(letter in DIGITS for letter in text)


def _id(text: str | None, most: int, *, required: bool = False) -> Any:
    if text is not None and is_placeholder(text, is_id=True):
        return broken("placeholder")
    return words(text, most, required=required)


def _name(text: str | None) -> Any:
    if text is not None and is_placeholder(text, is_id=False):
        return broken("placeholder")
    return words(text, 255)


def _payer(text: str | None) -> Any:
    found = _id(text, 100, required=True)
    is_odd = isinstance(found, Broken) and found & {"characters", "length"}
    return broken("form") if is_odd else found


def _key(text: str | None, *, required: bool = False) -> Any:
    if text is None:
        return broken("required") if required else None
    if is_placeholder(text, is_id=True):
        return broken("placeholder")
    allowed = all(
        letter in DIGITS or "a" <= letter <= "z" or "A" <= letter <= "Z" or letter in ".-"
        for letter in text
    )
    return text if allowed and len(text) <= 64 and text.strip(".") else broken("form")


def _among(
    row: Mapping[str, str | None], name: str, allowed: Sequence[str], feed: Feed, default: Any
) -> Any:
    text = row[name]
    if text is None:
        return default
    text = feed.codes.get(name, {}).get(text, text)
    return next((code for code in allowed if code.casefold() == text.casefold()), broken("code"))


# Amounts ------------------------------------------------------------------------------------------


def amount_of(text: str | None, feed: Feed, most: int | None) -> Any:
    """Return an amount in cents, with payments positive."""
    if text is None:
        return broken("required")
    cents, rules = cents_of(text, feed)
    if cents is None:
        return rules
    if cents < 0:
        return broken("sign")
    if not 1 <= cents <= 99_999_999:
        return broken("range")
    return cents if most is None or cents <= most else broken("limit")


def cents_of(text: str | None, feed: Feed) -> tuple[int | None, Broken]:
    """Return an amount in cents, whatever its size and sign, or else what it breaks."""
    if text is None:
        return None, broken("required")
    marks = text[:1] + text[-1:]
    is_negative = marks[0] in "-(" or marks[-1] == "-"
    if marks == "()":
        number = text[1:-1]
    elif marks[0] in "+-":
        number = text[1:]
    else:
        number = text[:-1] if marks[-1] == "-" else text
    has_dollar = number[:1] == "$"
    number = number[1:] if has_dollar else number
    point, group = (",", ".") if feed.decimal_comma else (".", ",")
    whole, has_point, part = number.partition(point)
    is_form = _is_whole(whole, group) or not whole
    is_form &= _are_digits(part) if has_point else bool(whole)
    if not is_form:
        return None, broken("form")
    if feed.amount_unit == "cents" and (has_point or has_dollar):
        return None, broken("decimals", "form")
    digits = whole.replace(group, "") or "0"
    if len(digits) > _DOLLARS_DIGITS:
        return None, broken("form")
    if part[2:].strip("0"):
        return None, broken("decimals")
    factor = 1 if feed.amount_unit == "cents" else 100
    cents = int(Decimal(f"{digits}.{part or 0}") * factor)
    return (-cents if is_negative != (feed.amount_sign == "negative") else cents), broken()


def _is_whole(text: str, group: str) -> bool:
    first, *others = text.split(group)
    if not _are_digits(first) or not others:
        return _are_digits(first)
    return (
        len(first) <= 3
        and first[0] != "0"
        and all(len(each) == 3 and _are_digits(each) for each in others)
    )


# Days ---------------------------------------------------------------------------------------------


@dataclass
class Days:
    """A cell of a day: the day, None, or Broken."""

    day: Any = None
    is_open: bool = False
    time_us: int | None = None


def days_of(text: str | None, name: str, feed: Feed) -> Days:
    """Read a cell by the formats of its field, as instants of the feed's time zone."""
    if text is None:
        return Days()
    forms = feed.dates_of.get(name, feed.dates)
    may_be_open = name != "posted_on"
    if may_be_open and (text in feed.open_dates or _is_zeros(text)):
        return Days(is_open=True)
    found = [at for form in forms if (at := read_at(text, form, feed.timezone))]
    real = [at for at in found if FIRST_YEAR <= at.year < FAR_YEAR]
    days = {at.date() for at in real or found}
    if days and may_be_open and all(_is_open(day, name, forms, feed) for day in days):
        return Days(is_open=True)
    if not real:
        return Days(broken("date"))
    if len(days) > 1:
        return Days(broken("ambiguous"))
    clock = real[0].time()
    since = timedelta(
        hours=clock.hour,
        minutes=clock.minute,
        seconds=clock.second,
        microseconds=clock.microsecond,
    )
    return Days(real[0].date(), time_us=since // timedelta(microseconds=1) or None)


def _is_zeros(text: str) -> bool:
    day, more = text[:10], text[10:]
    if day != "0000-00-00" or not more:
        return day == "0000-00-00"
    clock = more[1:].removesuffix("Z")
    whole, point, part = clock.partition(".")
    is_long = whole == "00:00:00" and (bool(part) and not part.strip("0") if point else True)
    return more[0] in " T" and (clock == "00:00" or is_long)


def _is_open(day: date, name: str, forms: Sequence[str], feed: Feed) -> bool:
    if day.year >= FAR_YEAR if name == "end_on" else day.year < FIRST_YEAR:
        return True
    named = [read_at(text, form, "") for text in feed.open_dates for form in ("%Y-%m-%d", *forms)]
    return any(at is not None and at.date() == day for at in named)


def read_at(text: str, form: str, zone: str) -> datetime | None:
    """Return what a format reads, as the clock of the zone shows it."""
    if not text.isascii():
        return None
    for parts in _matched(text, _tokens(form)):
        if "b" in parts:
            parts["m"] = parts["b"]
        hour = parts.get("H", 0)
        if "I" in parts:
            if not 1 <= parts["I"] <= 12:
                return None
            hour = parts["I"] % 12 + 12 * parts.get("p", 0)
        try:
            day = date(parts["Y"], parts["m"], parts["d"])
            clock = time(hour, parts.get("M", 0), parts.get("S", 0), parts.get("f", 0))
        except ValueError:
            return None
        at = datetime.combine(day, clock)
        offset = parts.get("z", 0 if form.endswith("Z") else None)
        return at if offset is None or not zone else _local(at, offset, zone)
    return None


def _local(at: datetime, offset_minutes: int, zone: str) -> datetime:
    """Return the local time of an instant; of one at the end of the calendar its own."""
    seconds = (at.date() - _EPOCH).days * 86_400 - offset_minutes * 60
    seconds += at.hour * 3600 + at.minute * 60 + at.second
    assert offset_minutes or seconds == calendar.timegm(at.timetuple())
    try:
        local = datetime.fromtimestamp(seconds, ZoneInfo(zone))
    except (ValueError, OverflowError, OSError):
        return at
    return local.replace(microsecond=at.microsecond, tzinfo=None)


@cache
def _tokens(form: str) -> tuple[tuple[str, bool], ...]:
    """Return the parts of a format: directives, and letters between; and whether numbers adjoin there."""
    parts: list[str] = []
    at = 0
    while at < len(form):
        width = 2 if form[at] == "%" else 1
        parts.append(form[at : at + width])
        at += width
    are_numbers = [False, *(part[1:] in _NUMBERS for part in parts), False]
    return tuple(
        (part, are_numbers[number] or are_numbers[number + 2]) for number, part in enumerate(parts)
    )


def _matched(text: str, form: Sequence[tuple[str, bool]]) -> Iterator[dict[str, int]]:
    """Yield the numbers of a text that has a format, each way in which it can be read."""
    if not form:
        if not text:
            yield {}
        return
    (part, is_adjoining), rest = form[0], form[1:]
    if part[0] == "%":
        for value, used in _directive(text, part[1], is_adjoining=is_adjoining):
            for more in _matched(text[used:], rest):
                yield {part[1]: value} | more
    elif part.isspace():
        if text[:1].isspace():
            yield from _matched(text.lstrip(), rest)
    elif text[:1].lower() == part.lower():
        yield from _matched(text[1:], rest)


def _directive(text: str, letter: str, *, is_adjoining: bool) -> Iterator[tuple[int, int]]:
    """Yield the values that a directive can read at the beginning of a text, and how many letters each takes."""
    if letter in _NUMBERS:
        width = _NUMBERS[letter]
        widths = (width,) if is_adjoining or letter == "Y" else (2, 1)
        for each in widths:
            digits = text[:each]
            if letter == "d" and each == 2 and digits[:1] == " ":
                digits = digits[1:]
            if len(text) >= each and _are_digits(digits):
                yield int(digits), each
    elif letter == "f":
        used = 0
        while used < len(text) and text[used] in DIGITS:
            used += 1
        if used:
            yield int(text[:used].ljust(6, "0")[:6]), used
    elif letter == "b" and text[:3].lower() in _MONTHS:
        yield _MONTHS.index(text[:3].lower()) + 1, 3
    elif letter == "p" and text[:2].lower() in {"am", "pm"}:
        yield int(text[:2].lower() == "pm"), 2
    elif letter == "z":
        yield from _zone(text)


def _zone(text: str) -> Iterator[tuple[int, int]]:
    if text == "Z":
        yield 0, 1
        return
    sign, hours, minutes = text[:1], text[1:3], text[3:].removeprefix(":")
    if sign not in {"+", "-"} or len(hours) < 2 or not _are_digits(hours):
        return
    if text[3:] and (len(minutes) != 2 or not _are_digits(minutes) or int(minutes) > 59):
        return
    offset = int(hours) * 60 + int(minutes or 0)
    if offset < 24 * 60:
        yield (offset if sign == "+" else -offset), len(text)
