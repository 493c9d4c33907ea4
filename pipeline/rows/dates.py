"""Read calendar days in the date formats of exports. Pure.

Nothing is guessed from one value: a format fits a column only if it reads all values as a day, and a text that two
formats read as two different days is ambiguous.
"""

import re
from collections.abc import Collection, Sequence
from datetime import date, datetime, time, timedelta
from functools import cache
from typing import Final, Literal

FULL_DATE: Final = "%Y-%m-%d"
_DATE_CACHE_MAX = 50_000
_ADJOINING: Final = re.compile(r"((?:%[YymdHMSfjI]){2,})")  # numbers with nothing between them
_TIME: Final = re.compile(r"%[HIMSfpXc]")  # directives of a time of day
_DIGITS: Final = {"Y": "{4}", "j": "{3}", "f": "{1,6}"}  # of a number in a format; others have 2
_YEARS = range(1880, 2200)  # from births to end dates; a date outside it is a typing error
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
    "%b %d, %Y",
    "%B %d, %Y",
    "%d %B %Y",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M:%S.%f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%dT%H:%M:%S.%f",
    "%Y-%m-%dT%H:%M:%S.%fZ",
    "%Y-%m-%dT%H:%M:%S%z",
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


def fitting(texts: Collection[str]) -> list[str]:
    """Return the formats that read every one of these texts as a day, the usual ones first; [] for no text.

    Of several that read the same days only the first is returned.
    """
    days: dict[str, list[object]] = {}
    for form in FORMATS if texts else ():
        dates = Dates((form,))
        found: list[object] = []
        for text in texts:
            day = dates.read(text)
            if isinstance(day, str):
                break
            found.append(day)
        else:
            if found not in days.values():
                days[form] = found
    return list(days)


def reads(form: str, text: str) -> bool:
    """Return whether one format reads a text as a day."""
    return not isinstance(Dates((form,)).read(text), str)
