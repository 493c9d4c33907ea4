"""`report.html`: one self-contained page for people, of a run, a plan or a verification.

It uses no network, and its Content-Security-Policy forbids it. Scripts and styles are fixed texts,
allowed by their hashes; the data of a run is in the markup, escaped, and in two data blocks. It shows
counts, sums, rules, row ids and keys, and no values of rows.
"""

import base64
import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

import orjson
import polars as pl
from jinja2 import Environment, StrictUndefined, Template

from pipeline.records import Disposition, counted
from pipeline.reporting.findings import ATTENTION, BOUNDS, Bounds, Findings, findings
from pipeline.reporting.history import History, history
from pipeline.reporting.masking import shown
from pipeline.reporting.pace import pace
from pipeline.reporting.packed import packed
from pipeline.reporting.terminal import balanced_text, headline, next_steps
from pipeline.reporting.words import (
    OUTCOMES,
    WORDS,
    duration,
    needs,
    notes,
    payments,
    unread,
    verdict,
)

_KINDS: Final = {
    Disposition.CREATED.value: "good",
    Disposition.UPDATED.value: "good",
    Disposition.UNCHANGED.value: "good",
    Disposition.REJECTED.value: "fix",
    Disposition.REFUSED.value: "fix",
    Disposition.IN_DOUBT.value: "person",
}
_BAR: Final = 1000  # units that a bar is long
_SLICE_MIN: Final = 6  # of them, so that one row among millions is seen
_GROUPS_SHOWN: Final = 50
_WARNING: Final = "Warning: "
_CONFIG: Final = "CONFIG"  # in place of the configuration's path, which the page does not know
_STYLES: Final = ("vendor/uplot/uPlot.min.css", "page.css")
_OF_CHART: Final = ("vendor/uplot/uPlot.iife.min.js",)
_OF_TABLE: Final = ("vendor/datatables/dataTables.min.js",)
_OWN: Final = ("page.js",)


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a bar: the rows of one ending. `x` and `width` of a thousand."""

    word: str
    text: str
    kind: str
    rows: int
    usd: str | None
    share: str
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Account:
    """A feed's control totals, added up here once more. Amounts are None for a feed without money."""

    name: str
    resource_type: str
    slices: tuple[Slice, ...]
    absent: tuple[str, ...]  # the endings that no row had
    rows_read: int
    rows_sum: int
    usd_read: str | None
    usd_sum: str | None
    usd_difference: str | None
    unreadable: int

    @property
    def rows_difference(self) -> int:
        """Return the rows that are reported and were not read."""
        return self.rows_sum - self.rows_read

    @property
    def agrees(self) -> bool:
        """Return whether the sums equal what was read."""
        return self.rows_read == self.rows_sum and self.usd_read == self.usd_sum


@dataclass(frozen=True, slots=True)
class Tile:
    """The rows of one disposition, in the verdict. `usd` "": none of them has an amount."""

    word: str
    kind: str
    rows: str
    usd: str


@dataclass(frozen=True, slots=True)
class Link:
    """A file beside the page."""

    name: str
    text: str


def page(
    summary: Mapping[str, Any], exchanges: pl.DataFrame, folder: Path, bounds: Bounds = BOUNDS
) -> str:
    """Return the page of a run, a plan or a verification.

    Args:
        summary: The content of `summary.json`.
        exchanges: The run's requests.
        folder: The folder of the report, with `reconciliation.parquet`.
        bounds: The size of its table.
    """
    is_verification, is_plan = "verification" in summary, summary["command"] == "plan"
    feeds = [] if is_verification else summary["feeds"]
    files = [Path(file["path"]).name for feed in feeds for file in feed["files"]]
    found = Findings()
    if not is_verification:
        found = findings(folder / "reconciliation.parquet", files, bounds)
    run_pace = pace(exchanges)
    is_drawn = run_pace is not None and run_pace.is_drawn
    scripts = [
        *(_OF_CHART if is_drawn else ()),
        *(_OF_TABLE if found.in_table else ()),
        *_OWN,
    ]
    said = [] if is_verification else notes(summary)
    return _template().render(
        summary=summary,
        verdict=verdict(summary),
        is_plan=is_plan,
        tally=_tally(feeds) if files else "",
        tiles=_tiles(feeds, is_plan=is_plan),
        payments=payments,
        links=_links(summary, folder),
        attention=[word for word in ATTENTION if not is_plan or word != Disposition.PENDING.value],
        kinds=defaultdict(str, _KINDS),
        history=history(summary, folder) if files else History(),
        times=_times(summary),
        headlines=[headline(summary), needs(summary)] if is_plan and files else [],
        steps=next_steps(summary, str(folder), _CONFIG),
        balanced="" if is_verification else balanced_text(summary),
        accounts=[_account(feed) for feed in feeds if feed["files"]],
        words=dict(WORDS),
        outcomes=OUTCOMES,
        warnings=[note.removeprefix(_WARNING) for note in said if note.startswith(_WARNING)],
        notes=[note for note in said if not note.startswith(_WARNING)],
        unread="" if is_verification else unread(summary),
        groups={word: found.of(word) for word in ATTENTION},
        groups_shown=_GROUPS_SHOWN,
        found=found,
        rows_max=bounds.table,
        rows=packed(found.table) if found.in_table else "",
        pace=run_pace,
        chart=orjson.dumps(run_pace.chart).decode() if run_pace and is_drawn else "",
        styles=[_asset(name) for name in _STYLES],
        scripts=[_asset(name) for name in scripts],
        policy=_policy(scripts),
    )


def _policy(scripts: Sequence[str]) -> str:
    def allowed(names: Sequence[str]) -> str:
        return " ".join(f"'{_digest(_asset(name))}'" for name in names) or "'none'"

    return (
        f"default-src 'none'; script-src {allowed(scripts)}; style-src {allowed(_STYLES)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# Control totals -----------------------------------------------------------------------------------


def _account(feed: Mapping[str, Any]) -> Account:
    counts, amounts = feed["dispositions"], feed.get("amount_usd")
    total = sum(counts.values())
    usd_read = None if amounts is None else Decimal(amounts["read"])
    usd_sum = None if amounts is None else sum(Decimal(amounts[word]) for word in counts)
    return Account(
        name=feed["name"],
        resource_type=feed["resource_type"],
        slices=_slices(counts, amounts, total),
        absent=tuple(word.replace("_", " ") for word, _ in WORDS if not counts[word]),
        rows_read=feed["rows_read"],
        rows_sum=total,
        usd_read=None if usd_read is None else _usd(usd_read),
        usd_sum=None if usd_sum is None else _usd(usd_sum),
        usd_difference=None if usd_read is None or usd_sum is None else _usd(usd_sum - usd_read),
        unreadable=feed.get("amounts_unreadable", 0),
    )


def _slices(
    counts: Mapping[str, int], amounts: Mapping[str, str] | None, total: int
) -> tuple[Slice, ...]:
    """Return a slice for each ending that occurs; the smallest are widened until they are visible."""
    present = [(word, text) for word, text in WORDS if counts[word]]
    widths = [max(counts[word] / total * _BAR, _SLICE_MIN) for word, _ in present]
    scale = _BAR / math.fsum(widths) if widths else 1.0
    slices, x = [], 0.0
    for (word, text), wide in zip(present, widths, strict=True):
        rows, width = counts[word], wide * scale
        slices.append(
            Slice(
                word=word,
                text=text,
                kind=_KINDS.get(word, "plain"),
                rows=rows,
                usd=None if amounts is None else _usd(Decimal(amounts[word])),
                share=_share(rows, total),
                x=round(x, 2),
                width=round(width, 2),
            )
        )
        x += width
    return tuple(slices)


def _share(rows: int, total: int) -> str:
    """Return `12.3 %`; never 0.0 or 100.0 unless it is exact."""
    if rows == total:
        return "100 %"
    tenths = round(rows / total * 1000)
    return "under 0.1 %" if tenths == 0 else f"{min(tenths, 999) / 10:.1f} %"


def _usd(amount: Decimal | int) -> str:
    return f"{amount:,.2f}"


def _tally(feeds: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows and dollars that were read, in a sentence."""
    read = counted(sum(feed["rows_read"] for feed in feeds), "row")
    amounts = [Decimal(feed["amount_usd"]["read"]) for feed in feeds if "amount_usd" in feed]
    return f"{read} read{f', USD {_usd(sum(amounts, Decimal(0)))}' if amounts else ''}:"


def _tiles(feeds: Sequence[Mapping[str, Any]], *, is_plan: bool) -> list[Tile]:
    """Return the rows and dollars of each disposition that occurs, over all feeds."""
    tiles = []
    for word, _ in WORDS:
        ended = [feed for feed in feeds if feed["dispositions"][word]]
        rows = sum(feed["dispositions"][word] for feed in ended)
        amounts = [Decimal(feed["amount_usd"][word]) for feed in ended if "amount_usd" in feed]
        is_planned = is_plan and word == Disposition.PENDING.value
        if rows:
            tiles.append(
                Tile(
                    word="to be sent" if is_planned else word.replace("_", " "),
                    kind="good" if is_planned else _KINDS.get(word, "plain"),
                    rows=counted(rows, "row"),
                    usd=f"USD {_usd(sum(amounts, Decimal(0)))}" if amounts else "",
                )
            )
    return tiles


def _links(summary: Mapping[str, Any], folder: Path) -> list[Link]:
    """Return the files beside the page that have something in them, those to work on first."""
    found: list[tuple[str, str]] = []
    feeds = summary.get("feeds", [])
    for feed in feeds:
        counts = feed["dispositions"]
        returned = counts[Disposition.REJECTED.value] + counts[Disposition.REFUSED.value]
        if returned:
            found.append((f"rejects-{feed['name']}.csv", f"{counted(returned, 'row')} to fix"))
    for feed in feeds:
        if feed["missing"]["rows"]:
            gone = counted(feed["missing"]["rows"], "row")
            found.append((f"missing-{feed['name']}.csv", f"{gone} gone from the file"))
        if feed["changes"]:
            found.append((f"changes-{feed['name']}.csv", "what updates change, before and after"))
    found += [
        ("reconciliation.csv", "each row, and how it ended"),
        ("reconciliation.parquet", "the same, exact"),
        ("verification.parquet", "each resource, and what Canvas shows"),
        ("summary.json", "the counts and sums, for programs"),
    ]
    return [Link(name, text) for name, text in found if (folder / name).is_file()]


def _times(summary: Mapping[str, Any]) -> str:
    started = datetime.fromisoformat(summary["started_at"])
    if not summary["finished_at"]:
        return f"Began {started:%Y-%m-%d %H:%M:%S} UTC; when it ended is not known"
    ended = datetime.fromisoformat(summary["finished_at"])
    took_s = (ended - started).total_seconds()
    took = duration(took_s) if took_s >= 1 else "under a second"
    return f"{started:%Y-%m-%d %H:%M:%S} to {ended:%H:%M:%S} UTC, {took}"


def _milliseconds(ms: float | None) -> str:
    if ms is None:
        return ""
    return f"{ms:,.0f} ms" if ms >= 100 else f"{ms:.1f} ms"  # noqa: PLR2004 - three digits


# The template -------------------------------------------------------------------------------------


@cache
def _asset(name: str) -> str:
    return resources.files("pipeline.reporting").joinpath(name).read_text(encoding="utf-8").strip()


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["shown"] = shown
    environment.filters["lines"] = lambda text: "\n".join(map(shown, text.split("\n")))
    environment.filters["ms"] = _milliseconds
    return environment.from_string(_asset("page.html.j2"))
