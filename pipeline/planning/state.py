"""The state of one plan while its passes build it."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from glob import glob
from pathlib import Path
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

import polars as pl

from pipeline.canvas.client import Client
from pipeline.clock import Clock
from pipeline.errors import Stopped
from pipeline.fhir.coverage import Organizations
from pipeline.files import FOLDER_MODE, displayed, may_be_file
from pipeline.job import Job, Progress
from pipeline.journal.journal import Journal
from pipeline.planning.earlier import EarlierPlans
from pipeline.planning.end_days import EndDays
from pipeline.planning.given import Given
from pipeline.planning.tables import MISSING
from pipeline.planning.workers import Workers
from pipeline.planning.writer import PlanWriter
from pipeline.reading.address import is_address
from pipeline.reading.fetch import fetch
from pipeline.reading.manifest import Expected
from pipeline.reading.source import Source
from pipeline.records import (
    Intent,
    Interaction,
)
from pipeline.rows.columns import Reading
from pipeline.rows.crosswalk import Crosswalks
from pipeline.rows.feed import Feed
from pipeline.rows.map import Mapping as RowMapping

_CANCELS: Final = {"key": pl.String, "lane": pl.String, "end_on": pl.String, "order": pl.Int8}

Orders = dict[str, dict[str, int]]  # lane -> key, or canvas:<id> -> order


class Asking(Protocol):
    """The connection to Canvas that a plan needs (`sending.session.Session`)."""

    @property
    def client(self) -> Client:
        """Return the client of the FHIR API."""

    @property
    def clock(self) -> Clock:
        """Return the clock by which reads are timed."""

    async def record(self) -> None:
        """Enter in the journal what was asked so far."""


@dataclass(slots=True)
class FeedPlan:
    """The data of one feed while the plan is built."""

    meta: dict[str, Any]
    missing: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=MISSING))
    compared_with: str | None = None  # the run whose rows may be missing
    ends: EndDays = field(default_factory=EndDays)  # that the run sets
    is_short: bool = False  # there are fewer files than in the last complete run


@dataclass(slots=True)
class Build:
    """The state that the passes of one plan share. Each pass says what it sets."""

    job: Job
    run_id: str
    journal: Journal
    clock: Clock
    progress: Progress
    stop: asyncio.Event
    workers: Workers
    now: datetime = field(init=False)
    today: date = field(init=False)
    earlier: EarlierPlans = field(init=False)
    writer: PlanWriter = field(init=False)
    copies: Path = field(
        init=False
    )  # of input files; with unfinished files and piles, until the plan is sealed
    feeds: dict[str, Feed] = field(default_factory=dict)
    coverages: list[Feed] = field(default_factory=list)
    former_keys: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # if a key has other fields now
    expected: dict[str, Expected] = field(default_factory=dict)  # control totals of manifests
    crosswalks: Crosswalks = field(default_factory=Crosswalks)
    organizations: Organizations = field(default_factory=dict)
    sources: dict[str, list[Source]] = field(default_factory=dict)
    given: dict[str, Given] = field(default_factory=dict)  # what other rows give the rows of a feed
    numbered: dict[str, Counter[str]] = field(default_factory=dict)  # by feed with order_from
    feed_plans: dict[str, FeedPlan] = field(default_factory=dict)
    adopted: dict[str, list[tuple[Any, ...]]] = field(
        default_factory=dict
    )  # not yet in the verdicts
    unknown: Orders = field(default_factory=dict)  # of coverages in Canvas that no row has
    unasked: int = 0  # patients who may have coverages in Canvas that no row has
    cancels: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_CANCELS))
    displaced: list[str] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)
    skipped: dict[str, list[pl.DataFrame]] = field(
        default_factory=dict
    )  # source rows that were read again
    is_unsearched: bool = (
        False  # a limit was exceeded before patients were searched: each row has a made-up one
    )
    notices: list[dict[str, Any]] = field(default_factory=list)  # rule, feed, count and message
    _readings: dict[str, Reading] = field(default_factory=dict)
    _folders: "itertools.count[int]" = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        """Set what follows from the arguments."""
        self.now = self.clock.now()
        self.today = self.now.astimezone(UTC).date()
        self.earlier = EarlierPlans.of(self.job.state_dir, self.journal)
        self.writer = PlanWriter(self.job.state_dir / "plans" / self.run_id)
        self.copies = self.writer.folder / "copies"

    def day(self, feed: Feed) -> date:
        """Return the day of the run where the practice is, as far as the feed says it."""
        return self.now.astimezone(ZoneInfo(feed.timezone)).date() if feed.timezone else self.today

    def set_crosswalks(self, crosswalks: Crosswalks) -> None:
        """Set the crosswalks by which rows are read from now on."""
        self.crosswalks = crosswalks
        self._readings.clear()

    def check_stop(self) -> None:
        """Raise Stopped if the run is to stop."""
        if self.stop.is_set():
            raise Stopped("interrupted while planning")

    def new_folder(self) -> Path:
        """Return a new folder for copies of input files or unfinished files: two files may have the same name."""
        folder = self.copies / f"{next(self._folders):05}"
        folder.mkdir(parents=True, mode=FOLDER_MODE)
        return folder

    def found(self, pattern: str, what: str) -> list[tuple[Path, str]]:
        """Return (path, name in reports) of the files that a path, a glob or an address names, sorted by name."""
        if is_address(pattern):
            folder = self.new_folder()
            return fetch(pattern, what, folder, self.job.objects, self.check_stop)
        names = [pattern] if may_be_file(Path(pattern)) else sorted(glob(pattern))  # noqa: PTH207 - the pattern is a whole path
        return [(Path(name), displayed(name)) for name in names]

    def file_names(self) -> dict[str, list[str]]:
        """Return the names of each feed's files, by number."""
        return {
            name: [Path(file["path"]).name for file in judged.meta["files"]]
            for name, judged in self.feed_plans.items()
        }

    def mapping(self) -> RowMapping:
        """Return how rows become resources."""
        return RowMapping(self.job.contract, self.crosswalks.payer.target, self.today)

    def has_changes_only(self, name: str) -> bool:
        """Return whether a feed's files hold changes only (X12 834): what is not in them is not missing."""
        found = [source.interchange for source in self.sources[name] if source.interchange]
        return any(each.is_change for each in found)

    def reading(self, feed: Feed) -> Reading:
        """Return how the cells of a feed are read."""
        found = self._readings.get(feed.name)
        if found is None:
            amount_max_cents = self.job.limits.amount_cents_max
            found = feed.reading(self.crosswalks, amount_max_cents)
            self._readings[feed.name] = found
        return found

    def to_write(self, feed: Feed, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield the rows of a feed that are to be written, part by part."""
        return self.writer.rows(feed.name).where(pl.col("interaction") != "", columns)

    def last_sent(self, rows: pl.DataFrame) -> dict[str, bytes]:
        """Return the bodies sent last of rows (key, feed, held, held_run), if their plans are still there."""
        intents = [
            Intent(
                key=key,
                feed=feed,
                resource_type="Coverage",
                interaction=Interaction.UPDATE,
                lane="",
                body=b"",
                fingerprint=held,
                amount_cents=None,
                claim="",
                match_key="",
                run_id=run_id,
            )
            for key, feed, held, run_id in rows.select(
                "key", "feed", "held", "held_run"
            ).iter_rows()
        ]
        found = self.earlier.rows(intents)
        return {key: row.body for key, row in found.items()}
