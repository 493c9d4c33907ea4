"""The last day of a coverage that ends, and the ends that a person should look at. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

from pipeline.records import counted
from pipeline.rows.feed import EndOn

FUTURE: Final = "end_on|future"
PAST: Final = "end_on|past"
REPLACED: Final = "row|replaces_period"
_PAST_DAYS: Final = 90  # claims and payments of a time this long ago are settled or on their way


def end_day(today: date, how: EndOn) -> date:
    """Return the last day of a coverage that a run of `today` ends."""
    first = today.replace(day=1)
    match how:
        case "day_before":
            return today - timedelta(days=1)
        case "month_end":
            return (first + timedelta(days=31)).replace(day=1) - timedelta(days=1)
        case "last_month_end":
            return first - timedelta(days=1)


@dataclass(slots=True)
class EndDays:
    """The ends that the writes of a feed set, and the periods that they replace, counted."""

    future: int = 0
    past: int = 0
    replaced: int = 0  # periods that a run had ended, by a row that is back with a later start

    def add(self, ends: Iterable[str], today: date) -> None:
        """Count the last days (ISO) that writes set."""
        oldest = (today - timedelta(days=_PAST_DAYS)).isoformat()
        for end in ends:
            self.future += end > today.isoformat()
            self.past += end < oldest

    def notices(self, feed: str) -> list[dict[str, Any]]:
        """Return the warnings, as the plan keeps them."""
        counts = {FUTURE: self.future, PAST: self.past, REPLACED: self.replaced}
        return [
            {
                "rule": rule,
                "feed": feed,
                "count": count,
                "message": f"{feed}: {counted(count, 'coverage')} {'gets' if count == 1 else 'get'} "
                f"{_TEXTS[rule].format(feed=feed)}.",
            }
            for rule, count in counts.items()
            if count
        ]


_TEXTS: Final = {
    FUTURE: "an end that is still to come, and is in force until then",
    PAST: f"an end more than {_PAST_DAYS} days ago: payments and claims may refer to the time after it; see end_on in "
    "missing-{feed}.csv and period.end in changes-{feed}.csv",
    REPLACED: "a start after the end that an earlier run had set: the new period replaces the earlier one in Canvas; "
    "to keep both, have start_on in key, from the first load on (another key makes every row a new one)",
}
