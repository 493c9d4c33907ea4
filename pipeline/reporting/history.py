"""The last runs of a report folder, from the `summary.json` of each, for the charts of the page.

Reading is bounded: the newest summaries, each up to a size. One that is no summary of a run of the same journal is
skipped and counted. What a summary holds is checked, because another program may have written it.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from heapq import nlargest
from pathlib import Path
from typing import Any, Final

import orjson

from pipeline.reporting.words import WORDS, verdict

RUNS: Final = 30  # that are shown
_READ_MAX: Final = 4 * RUNS  # summaries: plans and verifications are among them
_BYTES_MAX: Final = 4_000_000  # of a summary: 10,000 files of 64 characters take 2 MB
_ROWS_MAX: Final = 1 << 53  # what a chart can draw exactly
_RUN_ID: Final = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")
_SECOND: Final = len("20261121T023000Z")  # of a run id
_HEIGHT: Final = 30.0  # of a chart
_STEP: Final = 10.0  # from a bar to the next
_BAR: Final = 8.0
_BAR_MIN: Final = 2.0  # high, so that one row among millions is seen


@dataclass(frozen=True, slots=True)
class Past:
    """A run. `usd` is empty if no feed has money; `page` "": its page is gone, or it is this one."""

    run_id: str
    began: datetime
    exit_code: int
    verdict: str
    rows: Mapping[str, int]  # by disposition, and `read`
    usd: Mapping[str, Decimal]
    page: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A run in a chart. `x`, `y` and `height` as in its SVG; `height` 0: it had none."""

    run: Past
    text: str
    x: float
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """The rows or dollars of one disposition over the runs, the newest last."""

    word: str
    last: str
    most: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class History:
    """The runs up to one, the oldest first; and what was skipped."""

    runs: tuple[Past, ...] = ()
    unreadable: int = 0
    foreign: int = 0  # of another journal

    @property
    def words(self) -> list[str]:
        """Return the dispositions that any run has."""
        return [word for word, _ in WORDS if any(run.rows[word] for run in self.runs)]

    @property
    def rows(self) -> list[Chart]:
        """Return the charts of rows."""
        return [
            _chart(word, [(run, run.rows[word]) for run in self.runs], "{:,} rows")
            for word in ("read", *self.words)
        ]

    @property
    def usd(self) -> list[Chart]:
        """Return the charts of dollars; none if no run has any."""
        runs = [run for run in self.runs if run.usd]
        words = [word for word in ("read", *self.words) if any(run.usd[word] for run in runs)]
        none = Decimal(0)
        return [
            _chart(word, [(run, run.usd.get(word, none)) for run in self.runs], "USD {:,.2f}")
            for word in words
        ]


def history(summary: Mapping[str, Any], folder: Path) -> History:
    """Return the last 30 runs up to that of `summary`, whose report is in `folder`, from the folders beside it."""
    run_id, journal = summary["run_id"], summary["journal"]["id"]
    found, unreadable, foreign = [_past(summary)], 0, 0
    for name in nlargest(_READ_MAX, _names(folder.parent, run_id)):
        if len(found) == RUNS:
            break
        path = folder.parent / name / "summary.json"
        try:
            other = _read(path)
            if other["command"] != "run":
                continue
            if other["journal"]["id"] != journal:
                foreign += 1
                continue
            has_page = (path.parent / "report.html").is_file()
            past = _past(other, f"../{name}/report.html" if has_page else "")
            if past.run_id != name:
                raise ValueError
        except FileNotFoundError:  # a run under way, or one that was killed
            continue
        except (OSError, ValueError, TypeError, KeyError, ArithmeticError, AttributeError):
            unreadable += 1
        else:
            if past.began < found[0].began:  # ids of one second are in no order
                found.append(past)
    return History(tuple(sorted(found, key=lambda run: run.began)), unreadable, foreign)


def _names(reports: Path, run_id: str) -> list[str]:
    """Return the names of the folders of other runs up to the second of this one. Names sort by time, to the second."""
    try:
        with os.scandir(reports) as entries:
            return [
                entry.name
                for entry in entries
                if _RUN_ID.fullmatch(entry.name)
                and entry.name != run_id
                and entry.name[:_SECOND] <= run_id[:_SECOND]
                and entry.is_dir(follow_symlinks=False)
            ]
    except OSError:
        return []


def _read(path: Path) -> Mapping[str, Any]:
    """Return the content of a summary. Raises OSError, ValueError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _BYTES_MAX:
            raise ValueError
        content: Mapping[str, Any] = orjson.loads(file.read(_BYTES_MAX))
    if content["shape"] != 1:
        raise ValueError
    return content


def _past(summary: Mapping[str, Any], page: str = "") -> Past:
    """Return what is shown of a run. Raises ValueError, TypeError, KeyError or ArithmeticError if it is no summary."""
    began, words = datetime.fromisoformat(summary["started_at"]), [word for word, _ in WORDS]
    if began.tzinfo is None:
        raise ValueError
    rows, usd = dict.fromkeys(("read", *words), 0), dict[str, Decimal]()
    for feed in summary["feeds"]:
        for word in rows:
            rows[word] += _count(
                feed["rows_read"] if word == "read" else feed["dispositions"][word]
            )
        if "amount_usd" in feed:
            for word in rows:
                usd[word] = usd.get(word, Decimal(0)) + _amount(feed["amount_usd"][word])
    return Past(
        run_id=str(summary["run_id"]),
        began=began,
        exit_code=_count(summary["exit_code"]),
        verdict=verdict(summary),
        rows=rows,
        usd=usd,
        page=page,
    )


def _count(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= _ROWS_MAX:
        raise ValueError
    return value


def _amount(value: object) -> Decimal:
    amount = Decimal(str(value))
    if not abs(amount) <= _ROWS_MAX:  # nor NaN
        raise ValueError
    return amount


def _chart(word: str, values: "list[tuple[Past, Any]]", form: str) -> Chart:
    """Return the chart of a disposition, on a scale of its own."""
    most = max(value for _, value in values)
    scale = _HEIGHT / float(most) if most > 0 else 0.0
    bars = []
    for number, (run, value) in enumerate(values):
        height = round(max(float(value) * scale, _BAR_MIN), 2) if value > 0 else 0.0
        text = form.format(value)
        bars.append(
            Bar(run, text, round(number * _STEP + 1, 2), round(_HEIGHT - height, 2), height)
        )
    return Chart(
        word=word,
        last=form.format(values[-1][1]),
        most=form.format(most),
        bars=tuple(bars),
    )
