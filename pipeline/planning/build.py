"""Everything before the first write: from files to a sealed plan that exceeds no limit.

    (fetch) -> expect -> inspect -> (lookup) -> read -> accept, validate -> map -> resolve -> (adopt)
           -> retire -> arrange -> compare -> plan sealed -> guards

What is in brackets asks Canvas, or a store of objects. What is slow and asks nobody runs in a thread.
"""

import asyncio
import hashlib
import itertools
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
import polars as pl

from pipeline.canvas.client import Client
from pipeline.clock import Clock
from pipeline.errors import CanvasError, InputError, PlanError, Stopped
from pipeline.fhir.coverage import organizations_of
from pipeline.fhir.datatypes import is_id
from pipeline.files import displayed
from pipeline.job import Job, Progress, Reference, References
from pipeline.journal.journal import Journal
from pipeline.planning import arrange as arranging
from pipeline.planning.adopt import Adopted, Ambiguity, Row, Shown, adopt
from pipeline.planning.arrange import Turn, arrange, lanes_to_arrange
from pipeline.planning.compare import Pair, compare
from pipeline.planning.copies import find_copies
from pipeline.planning.earlier import EarlierPlans
from pipeline.planning.expect import expect
from pipeline.planning.identity import Warned, key_changed, repeats_meta, warnings_of
from pipeline.planning.keys import keep_order
from pipeline.planning.limits import are_repeats_accepted, feeds_above_repeats, guard
from pipeline.planning.lookup import lookup
from pipeline.planning.missing import REJECTED, REPORTED, Gone, RejectedRows, retire
from pipeline.planning.parts import (
    PartTask,
    make_part,
    numbers_of,
    parts_of,
    reading_of,
    with_drafts,
)
from pipeline.planning.ranks import can_be_last
from pipeline.planning.repeats import Found, Repeats
from pipeline.planning.resolve import BUMPS, POSTED_AT_ANOTHER_TIME, resolve
from pipeline.planning.store import KEPT, MISSING, SEQ, VERDICT_SCHEMA, Plan, PlanWriter
from pipeline.planning.unchanged import HeldRows
from pipeline.planning.workers import Workers
from pipeline.reading.address import is_address
from pipeline.reading.bounds import FILES_MAX
from pipeline.reading.fetch import fetch
from pipeline.reading.inspect import inspect
from pipeline.reading.manifest import Expected
from pipeline.reading.read import origins, read
from pipeline.reading.source import Source
from pipeline.records import (
    ADOPTED,
    Disposition,
    Draft,
    Intent,
    Interaction,
    PayerEvidence,
    Stage,
    State,
)
from pipeline.rows import groups
from pipeline.rows.columns import Dates, Reading
from pipeline.rows.crosswalk import Ambiguous, Crosswalk, Crosswalks, Unknown, table_of
from pipeline.rows.feed import Feed, Kind
from pipeline.rows.map import Mapping as RowMapping
from pipeline.rows.texts import texts_of, wanted
from pipeline.rows.validate import validate

_DROPS_MAX: Final = 40  # 2 s: a worker that writes on finds no folder after one success
_DROP_AGAIN_S: Final = 0.05
_PATIENTS_AT_ONCE: Final = 500  # who are searched for at once
_PATIENTS_A_READING: Final = 8_000  # whose rows are fetched from the plan at once
_WARNINGS: Final = (BUMPS, arranging.RULE)
_STANDING: Final = (Disposition.PENDING.value, Disposition.UNCHANGED.value)

Orders = dict[str, dict[str, int]]  # lane -> key, or canvas:<id> -> order


class Asking(Protocol):
    """The connection to Canvas that a plan needs (`sending.session.Sending` has it)."""

    @property
    def client(self) -> Client:
        """The client of the FHIR API."""

    @property
    def clock(self) -> Clock:
        """The clock by which reads are timed."""

    async def record(self) -> None:
        """Enter in the journal what was asked so far."""


async def build_plan(
    job: Job,
    run_id: str,
    journal: Journal,
    clock: Clock,
    progress: Progress,
    stop: asyncio.Event,
    workers: Workers,
    session: Asking | None = None,
    *,
    must_ask: bool = True,
) -> Plan:
    """Return a sealed plan that exceeds no limit, its parts made by `workers`. Without `sending` Canvas is not asked.

    If Canvas does not answer, that is an error only with `must_ask`; else the plan says so. Raises JournalLost if the
    journal contradicts itself about a write that the plan sends, or that is in doubt.
    """
    planner = Planner(job, run_id, journal, clock, progress, stop, workers)
    try:
        await asyncio.to_thread(planner.open)
        if session is not None and job.references.patient.system:
            progress.stage = "looking up"
            patient = await planner.looked_up(session)
            planner.crosswalks = replace(planner.crosswalks, patient=patient)
        await asyncio.to_thread(planner.read)
        try:
            await planner.ask(session)
        except CanvasError:
            if must_ask:
                raise
        return await asyncio.to_thread(planner.seal)
    finally:
        planner.drop_copies()


def _require_evidence(plan: Plan, journal: Journal) -> None:
    doubts = pl.Series("key", [doubt.intent.key for doubt in journal.doubts()], dtype=pl.String)
    sent = (keys for feed in plan.meta["feeds"] for keys in plan.keys_to_send(feed))
    journal.require_evidence(itertools.chain([doubts], sent))


@dataclass(slots=True)
class _Judged:
    """One feed, on its way into the plan."""

    meta: dict[str, Any]
    missing: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=MISSING))
    compared_with: str | None = None  # the run whose rows were looked for
    is_short: bool = False  # there are fewer files than in the last complete run


class Planner:
    """The steps of one plan, in order: open, read, ask, seal."""

    def __init__(
        self,
        job: Job,
        run_id: str,
        journal: Journal,
        clock: Clock,
        progress: Progress,
        stop: asyncio.Event,
        workers: Workers,
    ) -> None:
        self._job = job
        self._run_id = run_id
        self._journal = journal
        self._progress = progress
        self._stop = stop
        self._workers = workers
        self._clock = clock
        self._now = clock.now()
        self._today = self._now.astimezone(UTC).date()
        self._earlier = EarlierPlans.of(job.state_dir, journal)
        self._writer = PlanWriter(job.state_dir / "plans" / run_id)
        self._copies = self._writer.folder / "copies"  # of whole files, while a plan is made
        self._folders = itertools.count()
        self._feeds: dict[str, Feed] = {}  # with what follows, once `open` has asked the journal
        self._coverages: list[Feed] = []
        self._former_keys: dict[str, tuple[str, ...]] = {}  # by feed whose key has other fields now
        self._judged: dict[str, _Judged] = {}
        self._unknown: Orders = {}  # coverages that Canvas holds and no row has
        self._displaced: list[str] = []
        self._reordered: list[str] = []
        self._notices: list[dict[str, Any]] = []  # rule, feed, count and message of what to look at
        self._again: dict[str, list[pl.DataFrame]] = {}  # source rows that were skipped at first
        self._unasked = 0  # patients of whom Canvas may hold something that no row has
        self._readings: dict[str, Reading] = {}
        self._adopted: dict[str, list[tuple[Any, ...]]] = {}  # not yet in the verdicts, by feed
        self.crosswalks = Crosswalks()
        self.sources: dict[str, list[Source]] = {}

    def open(self) -> None:
        """Read what manifests say, the tables of references, and the files, and see that they are fit."""
        self._progress.stage = "reading"
        self._keep_keys()
        job = self._job
        self._said = {
            feed.name: self._expect(feed) for feed in job.feeds if feed.name not in job.inputs
        }
        self.crosswalks = self._crosswalks(job.references)
        self._organizations = organizations_of(self._journal.payers_seen())
        self.sources = {feed.name: self._inspect(feed) for feed in job.feeds}
        for feed in job.feeds:
            _refuse_equal_files(feed, self.sources[feed.name])

    def _keep_keys(self) -> None:
        """Hash each feed's key as the journal's keys of that feed were hashed."""
        feeds, self._former_keys = keep_order(self._job.feeds, self._journal)
        self._job = replace(self._job, feeds=feeds)
        self._feeds = {feed.name: feed for feed in feeds}
        self._coverages = [feed for feed in feeds if feed.traits.resource_type == "Coverage"]

    def drop_copies(self) -> None:
        """Delete the copies of whole files, which are not needed after a plan is sealed or has failed.

        A worker that is still at a part when the run is stopped may write one more file meanwhile.
        """
        for _ in range(_DROPS_MAX):
            shutil.rmtree(self._copies, ignore_errors=True)
            if not self._copies.exists():
                return
            time.sleep(_DROP_AGAIN_S)

    def _expect(self, feed: Feed) -> Expected:
        found = self._found(feed.manifest, f"the manifest of feed {feed.name}")
        return expect(feed, [path for path, _ in found])

    def _inspect(self, feed: Feed) -> list[Source]:
        given = self._job.inputs.get(feed.name)
        if isinstance(given, pl.DataFrame):
            path = self._writer.folder / f"input-{feed.name}.parquet"
            given.write_parquet(path)
            path.chmod(0o600)
            found = [(path, displayed(path))]
        elif isinstance(given, Path):
            found = [(given, displayed(given))]
        else:
            found = self._found(given or feed.path, f"feed {feed.name}")
        if not found:
            raise InputError(
                f"no file is there for feed {feed.name}",
                "check that the sender delivered, and the feed's path",
                file=feed.path,
            )
        if len(found) > FILES_MAX:
            raise InputError(
                f"{len(found):,} files for feed {feed.name}, at most {FILES_MAX:,} are read",
                "make the path match fewer, and load the others by another run",
                file=feed.path,
            )
        return [
            replace(inspect(path, feed, self._new_folder()), origin=origin)
            for path, origin in found
        ]

    def _found(self, pattern: str, what: str) -> list[tuple[Path, str]]:
        """The files that a path, a glob or an address names, by name; each with what reports show of it."""
        if is_address(pattern):
            folder = self._new_folder()
            return fetch(pattern, what, folder, self._job.objects, self._check_stop)
        names = [pattern] if Path(pattern).is_file() else sorted(glob(pattern))  # noqa: PTH207 - the pattern is a whole path
        return [(Path(name), displayed(name)) for name in names]

    def _new_folder(self) -> Path:
        """For copies of whole files: each set has its own, for names may be the same."""
        folder = self._copies / f"{next(self._folders):05}"
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def _crosswalks(self, references: References) -> Crosswalks:
        """Read the tables: when a run begins, not when it is configured."""
        return Crosswalks(
            patient=self._crosswalk("patient", references.patient),
            payer=self._crosswalk("payer", references.payer),
            claim=self._crosswalk("claim", references.claim),
        )

    def _crosswalk(self, kind: str, reference: Reference) -> Crosswalk:
        if reference.path is None:
            return Crosswalk(reference.target)
        columns = {"from": reference.source_column, "to": reference.target_column}
        if reference.organization_column:
            columns["organization"] = reference.organization_column
        name, path = f"references.{kind}", reference.path
        table = Feed(name, Kind.LEDGER, str(path), columns, final_newline="any")
        if isinstance(path, str):
            ((path, _),) = self._found(path, name)
        source = inspect(path, table, self._new_folder())
        lines = [
            line
            for batch in read(source)
            for line in zip(*(batch.frame[column] for column in columns.values()), strict=True)
        ]
        if reference.organization_column:
            self._learn((line[1], line[2]) for line in lines)
        return Crosswalk(reference.target, table_of(line[:2] for line in lines))

    def _learn(self, pairs: Iterable[tuple[str | None, str | None]]) -> None:
        """Note which Organization each payer id is, as a table names both."""
        named = {
            payer_id: organization.removeprefix("Organization/")
            for payer_id, organization in table_of(pairs).items()
            if organization is not None
        }
        evidence = [
            PayerEvidence(payer_id, f"Organization/{organization}")
            for payer_id, organization in named.items()
            if is_id(organization)
        ]
        self._journal.learn_payers(self._run_id, evidence, self._now)

    # Reading --------------------------------------------------------------------------------------

    def read(self) -> None:
        """Every row, validated and mapped; then against each other, and against the journal."""
        self._progress.stage = "reading"
        for feed in self._job.feeds:
            self._judged[feed.name] = self._read(feed)
            self._count_files(feed)
        self._progress.stage = "planning"
        files = self._file_names()
        scans = {
            name: groups.Scan(judged.meta["rows_read"], self._writer.rows(name).written)
            for name, judged in self._judged.items()
        }
        parts = dict.fromkeys(self._feeds, 0)
        for name, verdicts in resolve(
            scans, self._job.feeds, files, self._journal.known, self._new_folder(), groups.BOUNDS
        ):
            self._check_stop()
            self._writer.judge(name, parts[name], verdicts)
            parts[name] += 1
        for feed in self._job.feeds:
            if feed.traits.has_money and self._reading(feed).dates.have_times:
                self._reject_other_times(feed)

    def _reject_other_times(self, feed: Feed) -> None:
        """Reject payments that the journal takes for unchanged, and that were posted at another time of day.

        The journal keeps no time; the plan of the run that posted it does, as long as it is there.
        """
        is_known = pl.col("disposition") == Disposition.UNCHANGED.value
        known = self._writer.rows(feed.name).where(is_known, ["seq", "key", "time_us"])
        piles = groups.deal(
            (part.drop_nulls() for part in known),
            groups.by_hash(["key"]),
            self._copies / f"times-{feed.name}",
            self._judged[feed.name].meta["rows_read"],
            groups.BOUNDS.narrow,
        )
        for rows in piles:
            self._check_stop()
            before = self._times_before(feed, rows["key"])
            other = rows.join(before, on="key").filter(pl.col("time_us") != pl.col("time_us_right"))
            rule, message = POSTED_AT_ANOTHER_TIME
            lines = other.select("seq").with_columns(
                disposition=pl.lit(Disposition.REJECTED.value),
                resource_id=pl.lit(""),
                stage=pl.lit(Stage.RESOLVE.value),
                field=pl.lit("row"),
                rule=pl.lit(rule),
                message=pl.lit(message),
            )
            self._writer.amend(feed.name, lines)

    def _times_before(self, feed: Feed, keys: pl.Series) -> pl.DataFrame:
        """Return key and time_us of payments as they were posted, where that is known."""
        found = [pl.DataFrame(schema={"key": pl.String, "time_us": pl.Int64})]
        held = self._journal.held(keys)
        for (run_id,), mine in held.group_by("held_run"):
            with suppress(PlanError, KeyError, OSError, pl.exceptions.PolarsError):
                plan = self._earlier.open(str(run_id))
                found += [part.join(mine, on="key", how="semi") for part in plan.times(feed.name)]
        return pl.concat(found).drop_nulls().unique("key")

    def _file_names(self) -> dict[str, list[str]]:
        """Return the names of each feed's files, by number."""
        return {
            name: [Path(file["path"]).name for file in judged.meta["files"]]
            for name, judged in self._judged.items()
        }

    def _read(self, feed: Feed) -> _Judged:
        """One feed, into the plan. Its control totals are those of the rows as they were read."""
        sources = self.sources[feed.name]
        mended = self._mended(feed)
        cents_read = 0
        parts = list(parts_of(sources))
        brief = self._workers.share(self.brief(feed), self._new_folder())
        calls = (partial(make_part, brief, number, part) for number, part in enumerate(parts))
        for made in self._workers.in_turn(calls, self._check_stop):
            cents_read += made.cents
            self._progress.rows_read += made.rows
        self._writer.has(feed.name, len(parts))
        columns = list(dict.fromkeys(name for source in sources for name in source.kept))
        return _Judged(
            {
                "kind": feed.kind.value,
                "key": list(feed.key),
                "encoding": feed.encoding,
                "files": [
                    {"path": source.origin, "sha256": source.sha256, "rows": source.rows}
                    for source in sources
                ],
                "mended_from": mended,
                "rows_read": sum(source.rows for source in sources),
                "cents_read": cents_read,
                "columns": columns,
                "delimiter": sources[0].delimiter,
                "salt": self._salt(feed),
            }
        )

    def _count_files(self, feed: Feed) -> None:
        """Note if the feed has fewer files than in its last complete run.

        The same files again have the same verdict, so that running again after it changes nothing.
        """
        runs = self._journal.last_complete(feed.name)
        if not runs or feed.name in self._job.inputs:
            return
        judged, before = self._judged[feed.name], self._journal.files_of(runs[0], feed.name)
        with suppress(PlanError, KeyError):
            last = self._earlier.open(runs[0]).meta["feeds"][feed.name]
            if _contents(last["files"]) == _contents(judged.meta["files"]):
                before = last["files_before"]
        judged.meta["files_before"] = before
        count = len(judged.meta["files"])
        if before is not None and count < before:
            judged.is_short = True
            self._notices.append(
                {
                    "rule": "files|fewer",
                    "feed": feed.name,
                    "count": before - count,
                    "message": f"Feed {feed.name} has {_files(count)}; its last complete run had {before:,}. "
                    "Check that the sender delivered all of them.",
                }
            )

    def _mended(self, feed: Feed) -> list[str]:
        """The runs whose rejects a feed's files are. Raises InputError where they cannot be taken alone."""
        returned = [source for source in self.sources[feed.name] if source.run_column]
        if returned and feed.repeats == "count":
            by = "by their place among the rows of all files"
            fix = f"correct them in the whole file of feed {feed.name}, and run that"
            if feed.counts_within_files:
                by = "by the file that they are in"
                fix = f"have the sender put the corrected rows into the next delivery of feed {feed.name}"
            raise InputError(
                f'these are rejected rows of an earlier run, and with repeats = "count" equal rows are told apart {by}',
                fix,
                file=returned[0].name,
            )
        return sorted({run_id for source in returned for run_id in origins(source)})

    def brief(self, feed: Feed) -> PartTask:
        """What is needed to make the parts of a feed."""
        return PartTask(
            feed,
            self.sources[feed.name],
            self._held(feed),
            self._reading(feed),
            self._mapping(),
            self._writer.folder,
            self._copies,
        )

    def _patient(self, value: str | None) -> str:
        """Return the key of the patient that a sender's text names; "" if it is not known."""
        try:
            return self.crosswalks.patient.find(value) if value else ""
        except (Unknown, Ambiguous):
            return ""

    def _held(self, feed: Feed) -> HeldRows:
        """What the last run found unchanged; nothing where equal rows are rows of their own."""
        if feed.repeats == "count":
            return HeldRows.none()
        journal, sha256 = self._journal, self._journal.index_sha256(feed.name)
        state, salt = self._job.state_dir, self._salt(feed)
        return HeldRows.open(state, feed.name, salt, sha256, journal.touched_since)

    def _salt(self, feed: Feed) -> str:
        """What is true of all rows of a feed, and decides what a row becomes."""
        told = (
            self._job.version,
            pl.__version__,
            feed.kind,
            sorted(feed.codes.items()),
            feed.dates,
            feed.amount_sign,
            feed.key,
            feed.order_by,
            self._job.contract,
            self._job.references,
            self._job.limits.amount_cents_max,
        )
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def _mapping(self) -> RowMapping:
        return RowMapping(self._job.contract, self.crosswalks.payer.target, self._today)

    def _reading(self, feed: Feed) -> Reading:
        found = self._readings.get(feed.name)
        if found is None:
            found = self._readings[feed.name] = Reading(
                dates=Dates(feed.dates),
                crosswalks=self.crosswalks,
                codes=feed.codes,
                amount_sign=feed.amount_sign,
                amount_max_cents=self._job.limits.amount_cents_max,
                required=feed.required,
            )
        return found

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped("interrupted while planning")

    # Asking Canvas --------------------------------------------------------------------------------

    async def looked_up(self, session: Asking) -> Crosswalk:
        """Return the patients that the files name, searched for in Canvas."""
        reference, options = self._job.references.patient, self._job.canvas

        def batches() -> Iterator[tuple[Feed, pl.DataFrame]]:
            for feed in self._job.feeds:
                for source in self.sources[feed.name]:
                    for batch in read(source):
                        self._check_stop()
                        yield feed, batch.frame

        table = await lookup(batches(), reference.system, session.client, options.concurrency)
        return Crosswalk(reference.target, table, is_search=True)

    async def ask(self, session: Asking | None) -> None:
        """Take over what is in Canvas already, and see what is in the way of an order.

        Not after the journal was lost: then a person decides on what Canvas seems to hold.
        """
        if self._journal.was_lost or not any(feed.adopt for feed in self._coverages):
            return
        piles = await asyncio.to_thread(self._to_adopt)
        self._unasked = sum(pile["lane"].n_unique() for pile in piles)
        if session is None or not self._unasked:
            return
        await session.client.probe("Coverage")
        self._progress.stage = "searching"
        self._progress.to_send = self._unasked
        for pile in piles:
            lanes = pile.select(pl.col("lane").unique(maintain_order=True))
            for part in lanes.iter_slices(_PATIENTS_A_READING):
                rows = pile.join(part, on="lane", how="semi", maintain_order="left")
                await self._ask_of(rows.with_row_index("number"), session)
        self._progress.sent = self._progress.to_send = 0

    async def _ask_of(self, rows: pl.DataFrame, session: Asking) -> None:
        """Search the patients of some rows, and enter what is taken over."""
        bodies = await asyncio.to_thread(self._bodies, rows)
        lanes = rows.select(pl.col("lane").unique(maintain_order=True))
        for part in lanes.iter_slices(_PATIENTS_AT_ONCE):
            self._check_stop()
            mine = rows.join(part, on="lane", how="semi", maintain_order="left")
            shown = await self._search(session, _by_lane(mine, bodies))
            await session.record()
            for each in shown:
                self._take_over(each, mine)
            self._progress.sent += part.height
            self._unasked -= part.height
        await asyncio.to_thread(self._enter_adopted)

    def _to_adopt(self) -> groups.Piles:
        """Rows without a resource (feed, seq, lane), all of a patient together; and, with seq null, patients to look at.

        These are the ones whose order changes: a coverage that no row has may stand there.
        """
        shut = list(self._journal.shut_lanes())
        found = (
            rows.select(pl.lit(feed.name).alias("feed"), "seq", "lane")
            for feed in self._coverages
            for rows in self._without_resource(feed)
        )
        return groups.deal(
            (rows.filter(~pl.col("lane").is_in(shut)) for rows in found),
            groups.by_hash(["lane"]),
            self._copies / "adopt",
            sum(self._judged[feed.name].meta["rows_read"] for feed in self._coverages),
            groups.BOUNDS.narrow,
        )

    def _without_resource(self, feed: Feed) -> Iterator[pl.DataFrame]:
        none = pl.lit(None, dtype=pl.UInt32).alias("seq")
        for going in self._going(feed, ["seq", "key", "lane", "order", "active", "interaction"]):
            self._check_stop()
            if feed.adopt:
                yield going.filter(pl.col("interaction") == Interaction.CREATE.value)
            updated = going.filter(pl.col("interaction") == Interaction.UPDATE.value)
            ranks = self._journal.ranks(updated["lane"].unique()).select("key", "rank")
            moves = updated.join(ranks, on="key", how="left").filter(
                pl.col("active") & pl.col("order").ne_missing(pl.col("rank"))
            )
            yield moves.select(none, "lane")

    def _going(self, feed: Feed, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """The rows of a feed that are to be written, part by part."""
        return self._writer.rows(feed.name).where(pl.col("interaction") != "", columns)

    def _bodies(self, rows: pl.DataFrame) -> dict[int, bytes]:
        """What each row without a resource would be sent as, by its number."""
        bodies: dict[int, bytes] = {}
        for feed in self._coverages:
            mine = rows.filter((pl.col("feed") == feed.name) & pl.col("seq").is_not_null())
            for part in self._writer.rows(feed.name).some(mine["seq"], ["seq", "body"]):
                bodies |= dict(mine.join(part, on="seq").select("number", "body").iter_rows())
        return bodies

    async def _search(self, session: Asking, by_lane: Mapping[str, list[Row]]) -> list[Shown]:
        """What is in flight when one fails is waited for, so that every request is accounted for."""
        found = await asyncio.gather(
            *(
                adopt(session.client, self._journal, session.clock, lane, rows, self._organizations)
                for lane, rows in by_lane.items()
            ),
            return_exceptions=True,
        )
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return [each for each in found if isinstance(each, Shown)]

    def _take_over(self, shown: Shown, rows: pl.DataFrame) -> None:
        """Note what one patient's search came to."""
        if shown.unknown:
            others = {f"{arranging.OTHER}{key}": order for key, order in shown.unknown.items()}
            self._unknown[shown.lane] = others
        where = dict(zip(rows["number"], rows.select("feed", "seq").iter_rows(), strict=True))
        for each in shown.adopted:
            feed, seq = where[each.number]
            seen_at = shown.seen_at if each.resource_id else None
            verdict = _verdict_of(each, may_update=self._feeds[feed].update)
            line = (seq, *verdict, seen_at, each.shown or None)
            self._adopted.setdefault(feed, []).append(line)

    def _enter_adopted(self) -> None:
        """Enter what was taken over by now into the verdicts."""
        for name, lines in self._adopted.items():
            self._writer.amend(name, _frame(lines, _ADOPTED_SCHEMA))
        self._adopted.clear()

    # Sealing --------------------------------------------------------------------------------------

    def seal(self) -> Plan:
        """What is gone, in which turn all goes, and whether it may go at all."""
        self._progress.stage = "planning"
        self._enter_adopted()
        self._retire()
        meant = [
            judged.missing.filter(pl.col("interaction") != "") for judged in self._judged.values()
        ]
        self._cancels = pl.concat(meant).select("key", "lane")
        self._arrange()
        repeats = self._find_repeats()
        for feed in self._job.feeds:
            self._return_skipped(feed)
        for feed in self._coverages:
            self._compare(feed)
        copies = find_copies(
            self._writer,
            self._job.feeds,
            self._file_names(),
            self._copies / "equal",
            self._check_stop,
        )
        metas = {
            name: {
                **judged.meta,
                **_totals(self._writer, self._feeds[name], judged),
                "repeats": repeats_meta(
                    self._feeds[name], repeats[name], self._former_keys.get(name), self._feeds
                ),
                "gone": self._payments_gone(self._feeds[name]),
                "copied": asdict(copies[name]) if name in copies else None,
            }
            for name, judged in self._judged.items()
        }
        self._warn(metas, repeats)
        plan = self._writer.seal(
            {name: judged.missing for name, judged in self._judged.items()},
            {
                "run_id": self._run_id,
                "config_sha256": self._job.config_sha256,
                "feeds": metas,
                "patients_unasked": self._unasked,
                "rate_per_s": self._job.upload.rate_per_s,
                "concurrency": self._job.upload.concurrency,
                "displaced": self._displaced,
                "reordered": self._reordered,
                "notices": self._notices,
            },
        )
        self._journal.enter_plan(self._run_id, plan.sha256(), self._clock.now())
        _require_evidence(plan, self._journal)
        guard(self._job, metas, self._said, self._journal.last_feed)
        # A file that --input names is no delivery to compare the next one with, unless it must be whole.
        self._journal.enter_feeds(
            self._run_id,
            [
                (name, meta["rows_read"], meta["cents_read"], len(meta["files"]))
                for name, meta in metas.items()
                if name not in self._job.inputs or self._feeds[name].counts_over_files
            ],
        )
        return plan

    # What is probably there already ---------------------------------------------------------------

    def _find_repeats(self) -> dict[str, Found]:
        """Find the rows that equal a write of an earlier run under a key that no row of today's files has."""
        gone = [judged.missing for judged in self._judged.values()]
        cancelled = pl.concat(gone).filter(pl.col("interaction") != "")["key"]
        repeats = Repeats(
            self._writer,
            self._journal,
            self._file_names(),
            self._keys_today,
            cancelled,
            self._sent,
            self._copies / "repeats",
            self._check_stop,
        )
        return repeats.find(self._job.feeds)

    def _keys_today(self) -> Iterator[pl.Series]:
        """Yield the keys of all rows of today's files, and of the files that corrected rejects come from."""
        for name, judged in self._judged.items():
            for rows in self._writer.rows(name).judged(["key"]):
                yield rows["key"]
            for run_id in judged.meta["mended_from"]:
                with suppress(PlanError, OSError, KeyError, pl.exceptions.PolarsError):
                    yield from self._earlier.open(run_id).keys(name)

    def _warn(self, metas: Mapping[str, dict[str, Any]], repeats: Mapping[str, Found]) -> None:
        """Add the warnings about the identity of rows to what the plan notes of each feed."""
        above = feeds_above_repeats(self._job.limits, metas)
        is_accepted = are_repeats_accepted(self._job, metas)
        for name, meta in metas.items():
            accepted = self._job.accept_repeats if is_accepted and name in above else None
            warned = [
                *self._key_changed(self._feeds[name]),
                *warnings_of(self._feeds[name], repeats[name], accepted),
            ]
            meta["warnings"] = {each.rule: each.rows for each in warned} | meta["warnings"]
            meta["messages"] = {each.rule: each.message for each in warned}

    def _key_changed(self, feed: Feed) -> Iterator[Warned]:
        """Yield the warning about a key that has other fields now, if Canvas confirmed writes of the feed."""
        former = self._former_keys.get(feed.name)
        left = self._journal.confirmed_of(feed.name) if former else pl.Series(dtype=pl.String)
        if former is None or left.is_empty():
            return
        for keys in self._keys_today():
            left = left.filter(~left.is_in(keys.implode()))
        yield key_changed(feed, former, left.len())

    def _compare(self, feed: Feed) -> None:
        """What each update would change; not of rows that are only written again for their order."""
        is_update = (pl.col("interaction") == Interaction.UPDATE.value) & (pl.col("rule") != KEPT)
        rows = self._writer.rows(feed.name)
        columns = ["seq", "key", "shown", "body"]
        for number, updates in enumerate(rows.where(is_update, columns)):
            self._check_stop()
            self._writer.add_changes(
                feed.name, number, compare(self._pairs(updates), self._organizations)
            )

    def _pairs(self, updates: pl.DataFrame) -> Iterator[Pair]:
        """By row, what Canvas showed, or was last sent; and what it is to be sent."""
        before = self._sent(self._journal.held(updates["key"]))
        for seq, key, shown, body in updates.iter_rows():
            yield seq, shown or before.get(key), body

    def _retire(self) -> None:
        """Judge the rows of the last complete run that are gone, once all rejected rows are known."""
        found = {feed.name: gone for feed in self._coverages if (gone := self._gone(feed))}
        rejected = self._rejected({lane for gone in found.values() for lane in gone.rows["lane"]})
        for name, gone in found.items():
            judged = self._judged[name]
            judged.missing = retire(self._feeds[name], gone, rejected, self._sent)
            judged.compared_with = gone.compared_with

    def _gone(self, feed: Feed) -> Gone | None:
        """Return the rows of the last complete run that are gone; None if the feed is not compared."""
        if feed.missing == "ignore" or feed.name in self._job.inputs:
            return None
        runs = self._journal.last_complete(feed.name)
        if not runs:
            return None
        before, open_ = self._keys_before(feed, runs), self._journal.open_cancels(feed.name)
        rows = self._writer.rows(feed.name)
        held, height = [self._journal.active(open_.clear())], 0
        count = groups.passes(sum(keys.len() for keys in before()), groups.BOUNDS.hashes)
        for number in range(count):
            self._check_stop()
            keys = groups.of_pass(before(), number, count).unique()
            height += keys.len()
            candidates = pl.concat([keys, groups.of_pass([open_], number, count)]).unique()
            today = groups.of_pass((part["key"] for part in rows.judged(["key"])), number, count)
            gone = candidates.to_frame("key").join(today.to_frame("key"), on="key", how="anti")
            held.append(self._journal.active(gone["key"]))
        return Gone(
            rows=pl.concat(held).sort("key"),
            before=height,
            open_=frozenset(open_),
            compared_with=runs[0],
            is_short=self._judged[feed.name].is_short,
        )

    def _rejected(self, patients: set[str]) -> RejectedRows:
        """Return the rejected rows of all coverage feeds that may be a missing one of these patients."""
        rejected = RejectedRows()
        if not patients:
            return rejected
        for feed in self._coverages:
            files = [Path(source.origin).name for source in self.sources[feed.name]]
            for rows, source in self._writer.rejected(feed.name):
                self._check_stop()
                texts = texts_of(source, feed).select("patient", "member_id")
                lines = rows.hstack(texts).select(*REJECTED)
                for line in lines.iter_rows():
                    rejected.add(line, files, self._patient, patients)
        return rejected

    def _payments_gone(self, feed: Feed) -> int:
        """Return how many payments of the last delivery are in no row of today's files, where all must be."""
        if not feed.counts_over_files:
            return 0
        runs = self._journal.last_complete(feed.name)
        before = self._keys_before(feed, runs) if runs else self._keys_of_journal(feed)
        rows, gone = self._writer.rows(feed.name), 0
        count = groups.passes(sum(keys.len() for keys in before()), groups.BOUNDS.hashes)
        for number in range(count):
            self._check_stop()
            keys = groups.of_pass(before(), number, count).unique()
            today = groups.of_pass((part["key"] for part in rows.judged(["key"])), number, count)
            lacking = keys.to_frame("key").join(today.to_frame("key"), on="key", how="anti")["key"]
            is_posted = ~pl.col("state").is_in([State.PENDING.value, State.REFUSED.value])
            gone += self._journal.known(lacking).filter(is_posted).height
        return gone

    def _keys_of_journal(self, feed: Feed) -> Callable[[], Iterator[pl.Series]]:
        """All of a feed that Canvas holds, or may hold, by the journal."""
        is_coverage = feed.traits.resource_type == "Coverage"
        found = self._journal.active_of if is_coverage else self._journal.payments_sent
        return lambda: iter([found(feed.name)])

    def _keys_before(self, feed: Feed, runs: Sequence[str]) -> Callable[[], Iterator[pl.Series]]:
        """The keys of the last complete run, and of those after it that ended early; some at a time.

        With them what was gone then already and was not cancelled. Where a plan is not there any
        more, all of the feed that Canvas holds by our books.
        """
        known: list[Callable[[], Iterable[pl.Series]]] = []
        for run_id in runs:
            try:
                plan = Plan.open(self._job.state_dir / "plans" / run_id)
                kept = plan.missing(feed.name).filter(pl.col("rule") != REPORTED)
                for _ in plan.keys(feed.name):
                    pass  # all of it is there
                known += [partial(plan.keys, feed.name), partial(list, [kept["key"]])]
            except (PlanError, OSError, pl.exceptions.PolarsError):
                known.append(self._keys_of_journal(feed))
        return lambda: itertools.chain.from_iterable(keys() for keys in known)

    def _sent(self, gone: pl.DataFrame) -> dict[str, bytes]:
        """What Canvas was last sent of these rows, from the plans that are still there."""
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
            for key, feed, held, run_id in gone.select(
                "key", "feed", "held", "held_run"
            ).iter_rows()
        ]
        found = self._earlier.rows(intents)
        return {key: row.body for key, row in found.items()}

    def _arrange(self) -> None:
        """In which turn each patient's coverages are written, and which beside those that change."""
        lanes = self._lanes_in_question()
        if lanes.is_empty():
            return
        rows = (part for feed in self._coverages for part in self._standing(feed, lanes))
        most = sum(self._judged[feed.name].meta["rows_read"] for feed in self._coverages)
        folder, at_once = self._copies / "arrange", groups.BOUNDS.narrow
        turned = [pl.DataFrame(schema=_TURNED)]
        for pile in groups.deal(rows, groups.by_hash(["lane"]), folder, most, at_once):
            self._check_stop()
            turned.append(self._arrange_some(pile))
        for (name,), mine in pl.concat(turned).group_by("feed", maintain_order=True):
            self._turn(self._feeds[str(name)], mine)

    def _arrange_some(self, pile: pl.DataFrame) -> pl.DataFrame:
        """The turns of some patients, of whom these are all rows: lines in _TURNED."""
        going = pile.filter(pl.col("interaction") != "")["lane"].unique()
        ranks = self._journal.ranks(going)
        before = self._before(ranks, pile)
        standing = {feed.name: pile.filter(pl.col("feed") == feed.name) for feed in self._coverages}
        lanes = lanes_to_arrange(standing, before)
        rows = {
            name: frame.filter(pl.col("lane").is_in(lanes.implode()))
            for name, frame in standing.items()
        }
        arranged = arrange(rows, before)
        self._displaced += arranged.displaced
        self._reordered += arranged.reordered
        first = self._order_cancels(pile, arranged.turns, before, ranks)
        self._reordered += first.intersection(lanes)
        lines = [
            (turn.feed, turn.seq, turn.slot, turn.is_forced, turn.moves)
            for turn in arranged.turns
            if turn.slot != turn.seq or turn.is_forced or turn.moves
        ]
        return pl.DataFrame(lines, schema=_TURNED, orient="row")

    def _order_cancels(
        self, pile: pl.DataFrame, turns: Sequence[Turn], before: Orders, ranks: pl.DataFrame
    ) -> set[str]:
        """Have the cancellations of some patients go last where no write needs their order.

        Returns:
            The patients of whom a cancellation stays in front of the writes.
        """
        slots = pl.DataFrame(
            [(turn.feed, turn.seq, turn.slot) for turn in turns],
            schema={"feed": pl.String, "seq": pl.UInt32, "slot": pl.UInt32},
            orient="row",
        )
        at = {feed.name: number for number, feed in enumerate(self._coverages)}
        going = (
            pile.join(slots, on=["feed", "seq"], how="left")
            .filter((pl.col("interaction") != "") | pl.col("slot").is_not_null())
            .sort(pl.col("feed").replace_strict(at), pl.coalesce("slot", "seq"))
        )
        order = pl.when("active").then("order")
        writes: dict[str, list[tuple[str, int | None]]] = {}
        for lane, key, rank in going.select("lane", "key", order).iter_rows():
            writes.setdefault(lane, []).append((key, rank))
        cancels = self._cancels.join(ranks.select("key", "rank", "displaced"), on="key")
        last, first = set[str](), set[str]()
        for (lane,), mine in cancels.group_by("lane"):
            # The order of one that was moved is not known for sure: it goes first.
            gone = dict(mine.filter(displaced=0).select("key", "rank").iter_rows())
            last |= can_be_last(before.get(str(lane), {}), gone, writes.get(str(lane), []))
            if not last.issuperset(mine["key"]):
                first.add(str(lane))
        for judged in self._judged.values():
            is_last = pl.col("is_last") | pl.col("key").is_in(list(last))
            judged.missing = judged.missing.with_columns(is_last.alias("is_last"))
        return first

    def _lanes_in_question(self) -> pl.Series:
        """The patients whose turns may matter, by their hashes: a superset of `lanes_to_arrange`.

        Canvas holds a coverage of theirs, or `resolve` has warned that two of them share an order.
        """
        lanes = [_hashes(pl.Series("lane", list(self._unknown), dtype=pl.String))]
        for feed in self._coverages:
            rows = self._writer.rows(feed.name)
            for going in self._going(feed, ["lane"]):
                self._check_stop()
                ranks = self._journal.ranks(going["lane"].unique())
                lanes.append(_hashes(ranks.drop_nulls("rank")["lane"]))
            is_beside = (pl.col("rule") == BUMPS) | pl.col("shown").is_not_null()
            lanes += [_hashes(beside["lane"]) for beside in rows.where(is_beside, ["lane"])]
        return pl.concat(lanes).unique().sort()

    def _standing(self, feed: Feed, lanes: pl.Series) -> Iterator[pl.DataFrame]:
        """The rows of these patients that Canvas holds, or is to hold: what arranging needs of them.

        `shown`: the order of what is taken over, as Canvas showed it; null: none.
        """
        for rows in self._writer.rows(feed.name).judged([*arranging.NEEDED, "shown"]):
            is_asked = groups.is_among(rows.select(groups.hashed(["lane"])).to_series(), lanes)
            mine = rows.filter(is_asked & rows["disposition"].is_in(_STANDING))
            shown = [_order_shown(text) for text in mine["shown"]]
            yield mine.with_columns(
                pl.Series("shown", shown, dtype=pl.Int64), pl.lit(feed.name).alias("feed")
            )

    def _before(self, ranks: pl.DataFrame, rows: pl.DataFrame) -> Orders:
        """The orders that Canvas holds, but for those that are to be cancelled: they go first."""
        cancelled = set(self._cancels["key"])
        before: Orders = {
            lane: dict(self._unknown[lane])
            for lane in rows["lane"].unique()
            if lane in self._unknown
        }
        for lane, key, order in ranks.select("lane", "key", "rank").iter_rows():
            if order is not None and key not in cancelled:
                before.setdefault(lane, {})[key] = order
        # What is taken over has the order that Canvas showed.
        adopted = rows.drop_nulls("shown").select("lane", "key", "shown")
        for lane, key, order in adopted.iter_rows():
            before.setdefault(lane, {})[key] = order
        return before

    def _turn(self, feed: Feed, turns: pl.DataFrame) -> None:
        """Enter a feed's turns into its verdicts."""
        is_forced = pl.col("is_forced") & pl.lit(value=feed.update)
        is_warned = pl.when(pl.col("moves") != "")
        lines = turns.filter(~is_forced).select(
            "seq",
            pl.when(pl.col("slot") != pl.col("seq")).then("slot").alias("slot"),
            is_warned.then(pl.lit("order")).alias("field"),
            is_warned.then(pl.lit(arranging.RULE)).alias("rule"),
            pl.col("moves").replace_strict(arranging.MESSAGES, default=None).alias("message"),
        )
        self._writer.amend(feed.name, lines)
        forced = turns.filter(is_forced)
        if not forced.is_empty():
            self._force(feed, forced)

    def _force(self, feed: Feed, forced: pl.DataFrame) -> None:
        """Unchanged rows that other writes would move: they are written again, in their turn."""
        columns = ["seq", "file", "row", "key", "body"]
        rows = pl.concat(self._writer.rows(feed.name).some(forced["seq"], columns))
        drafts = self._read_again(feed, rows.filter(pl.col("body").is_null()))
        told = forced.join(rows.select("seq", "key"), on="seq")
        lines = [
            {
                "seq": seq,
                "key": key,
                "disposition": Disposition.PENDING.value,
                "interaction": Interaction.UPDATE.value,
                "field": "order",
                "rule": KEPT,
                "message": "unchanged, and written again: another write would move its order",
                "slot": slot,
                "likeness": drafts[seq].match_key if seq in drafts else None,
                "body": drafts[seq].body if seq in drafts else None,
            }
            for seq, key, slot in told.select("seq", "key", "slot").iter_rows()
        ]
        self._writer.amend(feed.name, pl.DataFrame(lines, schema=VERDICT_SCHEMA), how="full")

    def _read_again(self, feed: Feed, rows: pl.DataFrame) -> dict[int, Draft]:
        """The resources of rows that were skipped as unchanged."""
        drafts: dict[int, Draft] = {}
        sources = self._again.setdefault(feed.name, [])
        for (file,), group in rows.group_by("file"):
            seqs = dict(group.select("row", "seq").iter_rows())
            for batch in read(self.sources[feed.name][int(str(file))]):
                numbers = numbers_of(batch)
                mine = numbers.is_in(list(seqs))
                if not mine.any():
                    continue
                frame, numbers = batch.frame.filter(mine), numbers.filter(mine)
                texts = texts_of(frame, feed)
                reading = reading_of(feed, batch.source, self._reading(feed))
                checked = validate(texts, wanted(texts, feed), numbers, feed, reading)
                sources.append(
                    frame.with_columns(
                        numbers.replace_strict(seqs, return_dtype=pl.UInt32).alias(SEQ)
                    )
                )
                for row, draft in with_drafts(checked, feed, self._mapping()):
                    if draft is not None:
                        drafts[seqs[row.row]] = draft
        return drafts

    def _return_skipped(self, feed: Feed) -> None:
        """Rows that were skipped as unchanged, and contradict others: they may be sent back."""
        is_rejected = pl.col("disposition") == Disposition.REJECTED.value
        # Of what is skipped, and of nothing else, the plan has no body.
        skipped = [
            rows.filter(pl.col("body").is_null())
            for rows in self._writer.rows(feed.name).where(
                is_rejected, ["seq", "file", "row", "body"]
            )
        ]
        if skipped:
            self._read_again(feed, pl.concat(skipped))
        if self._again.get(feed.name):
            self._writer.add_sources(feed.name, pl.concat(self._again[feed.name], how="diagonal"))


_ADOPTED_SCHEMA: Final = {
    name: VERDICT_SCHEMA[name]
    for name in (
        "seq",
        "disposition",
        "interaction",
        "resource_id",
        "stage",
        "field",
        "rule",
        "message",
        "held_at",
        "shown",
    )
}
# A row that does not go at its own place, or is written for its order alone, or moves what no row has.
_TURNED: Final = {
    "feed": pl.String,
    "seq": pl.UInt32,
    "slot": pl.UInt32,
    "is_forced": pl.Boolean,
    "moves": pl.String,
}


def _contents(files: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(file["sha256"] for file in files)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _refuse_equal_files(feed: Feed, sources: Sequence[Source]) -> None:
    """Raise InputError for two files of one content, where their equal rows would count as payments."""
    first: dict[str, Source] = {}
    for source in sources if feed.counts_over_files else ():
        other = first.setdefault(source.sha256, source)
        if other is not source:
            raise InputError(
                f"the file has the same content as {other.name}, and each of its rows would be a second payment",
                f"remove one of the two, or make the path of feed {feed.name} match one",
                file=source.name,
            )


def _hashes(lanes: pl.Series) -> pl.Series:
    return lanes.unique().to_frame("lane").select(groups.hashed(["lane"])).to_series()


def _order_shown(shown: bytes | None) -> int | None:
    """The order of an active coverage that Canvas showed."""
    if shown is None:
        return None
    coverage = orjson.loads(shown)
    order = coverage.get("order")
    return order if coverage["status"] == "active" and isinstance(order, int) else None


def _by_lane(rows: pl.DataFrame, bodies: Mapping[int, bytes]) -> dict[str, list[Row]]:
    """By patient, what each row without a resource would be sent as."""
    by_lane: dict[str, list[Row]] = {lane: [] for lane in rows["lane"].unique()}
    for number, lane in rows.select("number", "lane").iter_rows():
        if number in bodies:
            by_lane[lane].append(Row(number, orjson.loads(bodies[number])))
    return by_lane


def _frame(lines: Sequence[tuple[Any, ...]], schema: Mapping[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(lines, schema=schema, orient="row")


_AMBIGUOUS: Final = {
    Ambiguity.SEVERAL: (
        "Canvas holds several coverages that this row could be, or one that several rows could be: tell "
        "them apart by period or order, or cancel the surplus one"
    ),
    Ambiguity.PAYER: (
        "Canvas holds a coverage of this patient with this member id in an overlapping period, and it is "
        "not known whether its payer is the payer of this row: map payer_name as Canvas spells it, or name "
        "the Organization of the payer id in the table of references.payer (its key organization)"
    ),
}


def _verdict_of(adopted: Adopted, *, may_update: bool) -> tuple[str, ...]:
    """Disposition, interaction, resource_id, stage, field, rule, message."""
    if adopted.ambiguity is not None:
        why = _AMBIGUOUS[adopted.ambiguity]
        return (
            Disposition.REJECTED.value,
            "",
            "",
            Stage.RESOLVE.value,
            "row",
            "row|ambiguous",
            why,
        )
    if adopted.is_same:
        why = "Canvas held it already: taken over"
        return (Disposition.UNCHANGED.value, "", adopted.resource_id, "", "row", ADOPTED, why)
    if not may_update:
        why = "Canvas holds it with other content, and the feed has update = false: change it in Canvas"
        return (Disposition.REJECTED.value, "", "", Stage.RESOLVE.value, "row", "row|changed", why)
    why = "Canvas held it with other content: taken over and updated"
    update = Interaction.UPDATE.value
    return (Disposition.PENDING.value, update, adopted.resource_id, "", "row", ADOPTED, why)


def _totals(writer: PlanWriter, feed: Feed, judged: "_Judged") -> dict[str, Any]:
    """What the plan comes to: rows by disposition, and what is to be sent."""
    counts, warned = Counter[str](), Counter[str]()
    cents = cents_of_all = 0
    for rows in writer.rows(feed.name).judged(["disposition", "amount_cents", "rule"]):
        cents_of_all += int(rows["amount_cents"].sum())
        counts.update(dict(rows.group_by("disposition").len().iter_rows()))
        warned.update({rule: int((rows["rule"] == rule).sum()) for rule in _WARNINGS})
        is_sent = pl.col("disposition") == Disposition.PENDING.value
        cents += int(rows.filter(is_sent)["amount_cents"].sum())
    cancelled = judged.missing.filter(pl.col("interaction") != "").height
    return {
        "planned": {word.value: counts[word.value] for word in Disposition},
        "planned_cents": cents_of_all,
        "to_send": counts[Disposition.PENDING.value] + cancelled,
        "to_send_cents": cents if feed.traits.has_money else 0,
        "warnings": {rule: count for rule, count in warned.items() if count},
        "missing": {
            "mode": feed.missing,
            "compared_with": judged.compared_with,
        },
    }
