"""The judge of a roster with `missing = "end"`: who is gone has ended, on the right day, and who is back is open again.

It knows what each file says and when each night was, and computes each last day by a rule of its own. Of the product
it reads `missing-<feed>.csv`, and compares that with what the local Canvas holds.
"""

import calendar
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.sandbox import Sandbox
from tests.proof.practice import Insurance, Setting, mrn

Row = tuple[str, ...]  # the cells that make it the same row tomorrow


@dataclass(slots=True)
class Roster:
    """The judge's records of one scenario.

    Attributes:
        resources: The coverage of each row that a report said is in Canvas, and the row's last end.
        ends: By coverage, the day on which it is to end, since a run first said so.
        ranks: By coverage that is not over, its order after the last night that ended well, if that was the last night.
    """

    resources: dict[Row, tuple[str, str]] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    ended: int = 0
    reopened: int = 0

    def judge_run(self, folder: Path, setting: Setting, now: datetime) -> Iterator[str]:
        """Yield what is wrong with the days that a run's list of missing rows gives."""
        for line in _lines(folder) if setting.missing == "end" else ():
            if not line["end_on"] or line["rule"] == "missing|ended":
                continue
            day = self.ends.setdefault(line["resource_id"], last_day(setting, now))
            if line["end_on"] != day:
                yield f"{line['resource_id']} was to end on {day}, and ends on {line['end_on']}"

    def judge_night(
        self,
        rows: Sequence[Insurance],
        settled: Mapping[int, str],
        sandbox: Sandbox,
        setting: Setting,
        now: datetime,
        *,
        is_well: bool,
    ) -> Iterator[str]:
        """Yield what is wrong in Canvas after the last run of a night.

        Args:
            rows: The roster.
            settled: The resource of each row, by its place, that is in Canvas by the report.
            sandbox: The local Canvas.
            setting: How the roster is configured.
            now: The instant of the night.
            is_well: The run ended with 0.
        """
        for place, row in enumerate(rows):
            if place in settled:
                self.resources[_row(row, setting)] = settled[place], row.end
        today = {_row(row, setting) for row in rows}
        for row_, (resource_id, end) in self.resources.items():
            coverage = sandbox.resource("Coverage", resource_id) or {}
            shown = str(coverage.get("period", {}).get("end", ""))
            if row_ in today:
                if shown == end:  # it is open again, or was never closed
                    self.reopened += self.ends.pop(resource_id, "") != ""
                continue
            if setting.missing != "end":
                continue
            if coverage.get("status") != "active":
                yield f"{resource_id} was cancelled, and is to end"
            meant = self.ends.get(resource_id, "")
            self.ended += is_well and shown == meant != ""
            if shown not in {end, meant}:
                yield f"{resource_id} is gone, and ends on {shown or 'no day'}, not on {meant or end or 'no day'}"
            is_over = bool(end) and end <= (meant or last_day(setting, now))
            if is_well and shown != meant and not is_over:
                yield f"exit 0, and {resource_id} is gone and has not ended"
        if is_well and setting.is_numbered:
            yield from self._judge_numbers(rows, settled, sandbox, today_of(setting, now))
        elif is_well:
            yield from _orders(rows, settled, sandbox)
        else:
            self.ranks = {}

    def _judge_numbers(
        self, rows: Sequence[Insurance], settled: Mapping[int, str], sandbox: Sandbox, today: date
    ) -> Iterator[str]:
        """Yield the patients whose coverages are not numbered 1, 2, ..., or changed places since the night before."""
        found: dict[int, dict[str, int]] = {}
        for place, row in enumerate(rows):
            shown: Mapping[str, Any] = sandbox.resource("Coverage", settled.get(place, "")) or {}
            if shown and not (row.end and row.end <= today.isoformat()):
                found.setdefault(row.patient, {})[settled[place]] = shown["order"]
        for patient, orders in found.items():
            if sorted(orders.values()) != list(range(1, len(orders) + 1)):
                yield f"exit 0, and the coverages of patient {patient} have the orders {sorted(orders.values())}"
            known = sorted(orders.keys() & self.ranks.keys(), key=self.ranks.__getitem__)
            if known != sorted(known, key=orders.__getitem__):
                yield f"exit 0, and the coverages of patient {patient} changed places"
        self.ranks = {key: order for orders in found.values() for key, order in orders.items()}


def _orders(
    rows: Sequence[Insurance], settled: Mapping[int, str], sandbox: Sandbox
) -> Iterator[str]:
    """Yield the rows whose coverage has another order than the roster says."""
    for place, row in enumerate(rows):
        shown: Mapping[str, Any] = sandbox.resource("Coverage", settled.get(place, "")) or {}
        if shown and shown["order"] != row.order:
            yield f"exit 0, and coverage {row.number} has the order {shown['order']}, not {row.order}"


def last_day(setting: Setting, now: datetime) -> str:
    """Return the last day of what a run of this instant ends."""
    today = today_of(setting, now)
    if setting.end_on == "month_end":
        return date(
            today.year, today.month, calendar.monthrange(*today.timetuple()[:2])[1]
        ).isoformat()
    before = today.day if setting.end_on == "last_month_end" else 1
    return (today - timedelta(days=before)).isoformat()


def today_of(setting: Setting, now: datetime) -> date:
    """Return the day where the practice is."""
    return now.astimezone(ZoneInfo(setting.zone or "UTC")).date()


def _row(insurance: Insurance, setting: Setting) -> Row:
    cells = {
        "patient": mrn(insurance.patient, setting),
        "payer": insurance.payer_id,
        "member_id": insurance.member,
    }
    return tuple(cells[name] for name in setting.coverage_key)


def _lines(folder: Path) -> list[dict[str, str]]:
    path = folder / "missing-eligibility.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
