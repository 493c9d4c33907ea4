"""Read calendar days in the date formats of exports. Pure.

Nothing is guessed from one value: a format fits a column only if it reads all values as a day, and a text that two
formats read as two different days is ambiguous. Days that senders write in place of none are "no date".
"""

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from functools import cache, cached_property
from typing import Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

FULL_DATE: Final = "%Y-%m-%d"
PARQUET_INSTANTS: Final = "%Y-%m-%dT%H:%M:%SZ"  # how instants of a Parquet file are read
_ISO_INSTANT: Final = "%Y-%m-%dT%H:%M:%S"
_DATE_CACHE_MAX = 50_000
_ADJOINING: Final = re.compile(r"((?:%[YymdHMSfjI]){2,})")  # numbers with nothing between them
_TIME: Final = re.compile(r"%[HIMSfpXc]")  # directives of a time of day
_DIRECTIVE: Final = re.compile(r"%.")
_UTC: Final = re.compile(r"(?<![A-Za-z\0])(?:Z|UTC|GMT|[+-]00(?::?00)?)\Z", re.IGNORECASE)
_OFFSET: Final = re.compile(r"[+-]\d\d(?::?\d\d)?\Z")
_LONG_FRACTION: Final = re.compile(r"(\.\d{6})\d+")  # strptime takes six digits
# A zone as PostgreSQL writes it; strptime needs minutes.
_HOURS_ONLY: Final = re.compile(r"[+-]\d\d\Z")
_DIGITS: Final = {"Y": "{4}", "j": "{3}", "f": "{1,6}"}  # of a number in a format; others have 2
YEARS: Final = range(1880, 2200)  # from births to end dates; a date outside of it is a typing error
# What MySQL writes for no date; strptime knows no month 0.
_ZEROS: Final = re.compile(r"0000-00-00(?:[ T]00:00(?::00(?:\.0+)?)?Z?)?")
FORMATS: Final = (
    "%Y-%m-%d",
    "%m/%d/%Y",
    "%Y%m%d",
    "%d/%m/%Y",
    "%m-%d-%Y",
    "%d-%m-%Y",
    "%m/%d/%y",
    "%d/%m/%y",
    "%d.%m.%Y",
    "%Y/%m/%d",
    "%m%d%Y",
    "%d%m%Y",
    "%d-%b-%Y",
    "%d-%b-%y",
    "%d %b %Y",
    "%d%b%Y",
    "%b %d, %Y",
    "%B %d, %Y",
    "%d %B %Y",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M:%S.%f",
    "%Y-%m-%d %H:%M",
    _ISO_INSTANT,
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%dT%H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%S.%fZ",
    "%Y-%m-%dT%H:%M:%S%z",
    "%Y-%m-%dT%H:%M:%S.%f%z",
    "%Y-%m-%d %H:%M:%S%z",
    "%Y-%m-%d %H:%M:%S.%f%z",
    "%d%b%Y:%H:%M:%S",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %I:%M %p",
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y %I:%M:%S %p",
)


class Dates:
    """A reader of calendar days in the feed's formats (strptime).

    A text that two formats read as two different days is ambiguous, not the first of them. An instant with
    a zone becomes its day in `timezone`; without `timezone`, and without a zone in its text, its day is the
    one that is written. The fields differ: `start_on` and `end_on` may have "no date".

    Args:
        formats: The formats of all day fields but those of `by_field`.
        timezone: The IANA name of the practice's time zone; "" for none.
        open_dates: Further days that mean "no date", as texts or as days in the formats or in FULL_DATE.
        by_field: The formats of fields that have others.
    """

    def __init__(
        self,
        formats: Sequence[str],
        timezone: str = "",
        open_dates: Collection[str] = (),
        by_field: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._formats = tuple(formats)
        self._by_field = dict(by_field or {})
        self._timezone = timezone
        self._zone = ZoneInfo(timezone) if timezone else None
        self._open_dates = frozenset(open_dates)
        self._cache: dict[tuple[str, str], _Read] = {}

    @cached_property
    def typed(self) -> "Dates":
        """Return the reader of files whose days have a type: they are written as ISO, beside texts in our formats."""
        iso = (FULL_DATE, _ISO_INSTANT)
        by_field = {name: (*forms, *iso) for name, forms in self._by_field.items()}
        return Dates((*self._formats, *iso), self._timezone, self._open_dates, by_field)

    def formats(self, field: str = "") -> tuple[str, ...]:
        """Return the formats of a field."""
        return tuple(self._by_field.get(field, self._formats))

    def have_times(self, field: str = "") -> bool:
        """Return whether a format of a field reads a time of day."""
        return any(_TIME.search(form) for form in self.formats(field))

    def read(self, text: str, field: str = "") -> "Day":
        """Return the day, None for "no date", or the rule that the text breaks.

        Returns:
            "date" for a text that is no day in these formats, "year" for a day outside of `YEARS` that is no
            open date of the field, "ambiguous" for one that could be two days.
        """
        return self._look_up(text, field).day

    def time_us(self, text: str, field: str = "posted_on") -> int | None:
        """Return the time of day in microseconds; None at midnight, without a time, and for no day."""
        return self._look_up(text, field).time_us or None

    def _look_up(self, text: str, field: str) -> "_Read":
        found = self._cache.get((text, field))
        if found is None:
            if len(self._cache) >= _DATE_CACHE_MAX:
                self._cache.clear()
            found = self._cache[text, field] = self._parse(text, field)
        return found

    def _parse(self, text: str, field: str) -> "_Read":
        """Read a text by all formats; the time is that of the first one that reads it."""
        if field in OPEN_FIELDS and (text in self._open_dates or _ZEROS.fullmatch(text)):
            return _Read(None)
        found = self._instants(text, field)
        in_range = [at for at in found if at.year in YEARS]
        days = {at.date() for at in in_range or found}
        if found and all(self._is_open(day, field) for day in days):
            return _Read(None)
        if not in_range:
            return _Read("year" if found else "date")
        if len(days) > 1:
            return _Read("ambiguous")
        at = in_range[0]
        midnight = datetime.combine(at.date(), time.min)
        return _Read(at.date(), (at - midnight) // timedelta(microseconds=1))

    def _instants(self, text: str, field: str) -> list[datetime]:
        """Return what each format reads, in the practice's time zone, without it."""
        if not text.isascii():
            return []
        read = (_strptime(text, form, self._zone) for form in self.formats(field))
        return [at for at in read if at is not None]

    def _is_open(self, day: date, field: str) -> bool:
        if field not in OPEN_FIELDS:
            return False
        is_far = day.year >= YEARS.stop if field == "end_on" else day.year < YEARS.start
        return is_far or day in self._open_days(field)

    def _open_days(self, field: str) -> frozenset[date]:
        """Return the days that `open_dates` name."""
        if not self._open_dates:
            return frozenset()
        forms = (FULL_DATE, *self.formats(field))
        found = (_strptime(text, form, None) for text in self._open_dates for form in forms)
        return frozenset(at.date() for at in found if at is not None)


Day = date | None | Literal["date", "year", "ambiguous"]
OPEN_FIELDS: Final = ("start_on", "end_on")  # fields that may be "no date"


class _Read(NamedTuple):
    day: Day
    time_us: int = 0


def has_zone(form: str) -> bool:
    """Return whether a format reads instants: `%z`, or UTC (Z, UTC, GMT, +00:00) at its end, after a time."""
    return "%z" in _DIRECTIVE.findall(form) or bool(_UTC.search(_end_of(form)))


def has_other_zone(form: str) -> bool:
    """Return whether a format names a zone in a way that is not read: `%Z`, or another offset at its end."""
    is_offset = _OFFSET.search(_end_of(form)) and not has_zone(form)
    return "%Z" in _DIRECTIVE.findall(form) or bool(is_offset)


def _end_of(form: str) -> str:
    """Return the text after the last directive of a format with a time."""
    plain = form.replace("%%", "\0")
    return _DIRECTIVE.split(plain)[-1] if _TIME.search(plain) else ""


def _strptime(text: str, form: str, zone: ZoneInfo | None) -> datetime | None:
    """Return the local time that a format reads, without a zone."""
    in_full = _in_full(form)
    if "%f" in form:
        text = _LONG_FRACTION.sub(r"\1", text)
    if form.endswith("%z") and _HOURS_ONLY.search(text):
        text += "00"
    if in_full and not in_full.fullmatch(text):
        return None
    try:
        at = datetime.strptime(text, form)  # noqa: DTZ007 - a calendar day has no zone
    except ValueError:
        return None
    if zone is not None and has_zone(form):
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        with suppress(OverflowError):  # the first and the last day of the calendar
            at = at.astimezone(zone)
    return at.replace(tzinfo=None)


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


def fitting(texts: Collection[str]) -> list[str]:
    """Return the formats that read every one of these texts as a day, the usual ones first; [] for no text.

    Of several that read the same days only the first is returned. A day that may mean "no date" is a day.
    """
    days: dict[str, list[object]] = {}
    texts = [text for text in texts if not _ZEROS.fullmatch(text)]
    for form in FORMATS if texts else ():
        found: list[object] = []
        for text in texts:
            day = _day_in(form, text)
            if day is None:
                break
            found.append(day)
        else:
            if found not in days.values():
                days[form] = found
    return list(days)


def reads(form: str, text: str) -> bool:
    """Return whether one format reads a text as a day."""
    return _day_in(form, text) is not None


def _day_in(form: str, text: str) -> date | None:
    """Return the day of a text in one format, if a field may have it: also an open one, such as 9999-12-31."""
    at = _strptime(text, form, None) if text.isascii() else None
    return None if at is None or at.year < YEARS.start else at.date()
