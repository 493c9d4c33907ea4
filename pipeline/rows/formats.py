"""The date formats of exports, and which of them fit given texts. Pure.

Nothing is guessed from one value: a format fits only if it reads all of them as a day.
"""

from collections.abc import Collection
from typing import Final

from pipeline.rows.columns import Dates

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
