"""The conductor: the only file that knows the order of the stages.

    (recover) -> (expect) -> inspect -> (lookup) -> read -> validate -> map -> (plan parts) -> resolve -> (plan sealed)
              -> guards -> upload and recover -> report

A run first settles what earlier ones left in doubt. Of its own files nothing is written up to the
guards, so whatever is wrong with a file, a limit or the configuration is found before that.
"""

import asyncio
import getpass
import os
import stat
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from glob import glob
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, NoReturn

import polars as pl
import structlog

from pipeline.canvas import client as canvas
from pipeline.canvas.transport import Transport
from pipeline.clock import Clock, SystemClock, utc_text
from pipeline.crosswalk import Crosswalk, Crosswalks, Target, table_of
from pipeline.errors import ConfigError, IngestError, InputError, LimitError, PlanError, Stopped
from pipeline.feeds.columns import Dates, Reading
from pipeline.feeds.feed import Feed, Kind
from pipeline.feeds.manifest import Expected
from pipeline.feeds.source import Source
from pipeline.fhir.codes import Contract
from pipeline.journal.journal import Journal, Run
from pipeline.plans import Plan, PlanWriter, look_up
from pipeline.records import Disposition, Doubt, Intent, usd
from pipeline.stages import upload as uploading
from pipeline.stages.expect import expect
from pipeline.stages.inspect import inspect
from pipeline.stages.lookup import Tools, lookup
from pipeline.stages.map import Mapping as RowMapping
from pipeline.stages.map import map_row
from pipeline.stages.read import read
from pipeline.stages.recover import Recovery
from pipeline.stages.report import Facts, report
from pipeline.stages.resolve import NEEDED, Resolved, resolve
from pipeline.stages.validate import validate

log = structlog.get_logger()

INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may not exceed; above it nothing is written. None: no limit."""

    rejects_share_max: float | None = None  # of a feed's rows without the filtered ones
    rejects_max: int | None = None
    amount_cents_max: int | None = None  # one payment
    total_cents_max: int | None = None  # all payments of the plan
    writes_max: int | None = None
    change_max: float | None = None  # factor between this and the last file's rows or dollars


@dataclass(frozen=True, slots=True)
class Reference:
    """How a source's id becomes a Canvas id.

    By the table at `path`, or by searching Canvas for the identifier in `system`; without either the
    source's value is the id.
    """

    target: Target = "key"
    path: Path | None = None
    source_column: str = ""
    target_column: str = ""
    system: str = ""


@dataclass(frozen=True, slots=True)
class References:
    """How each kind of reference is resolved."""

    patient: Reference = Reference()
    payer: Reference = Reference("payer_id")
    claim: Reference = Reference()


@dataclass(frozen=True, slots=True)
class Job:
    """All that a run needs to know: the configuration, composed of each part's own options."""

    feeds: tuple[Feed, ...]
    contract: Contract
    canvas: canvas.Options
    upload: uploading.Options
    limits: Limits
    state_dir: Path
    report_dir: Path
    config_sha256: str
    version: str
    references: References = References()
    inputs: Mapping[str, Path | pl.DataFrame] = field(
        default_factory=dict
    )  # in place of a feed's path
    expected: Mapping[str, Expected] = field(default_factory=dict)


@dataclass(slots=True)
class Progress:
    """Where a run stands, for whoever shows it. Written by the engine, read by the edge."""

    stage: Literal[
        "starting",
        "settling",
        "looking up",
        "reading",
        "planning",
        "sending",
        "verifying",
        "reporting",
    ] = "starting"
    rows_read: int = 0
    to_send: int = 0
    sent: int = 0  # writes that ended, whichever way
    dispositions: Counter[Disposition] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `summary` is what `summary.json` holds, `folder` where everything is."""

    run_id: str
    exit_code: int
    summary: dict[str, Any]
    folder: Path
    failure: IngestError | None = None

    @property
    def frame(self) -> pl.DataFrame:
        """`reconciliation.parquet`, one line a source row; of `verify` `verification.parquet`."""
        name = "verification" if "verification" in self.summary else "reconciliation"
        return pl.read_parquet(self.folder / f"{name}.parquet", glob=False)


# The commands -------------------------------------------------------------------------------------


async def plan(
    job: Job, *, progress: Progress | None = None, stop: asyncio.Event | None = None
) -> Result:
    """Read, validate, map and resolve everything, and report. Writes nothing to Canvas.

    Asks it only where patients are looked up by searching.
    """
    return await _carry_out(job, "plan", progress or Progress(), stop or asyncio.Event())


async def run(
    job: Job,
    *,
    journal_lost: bool = False,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
) -> Result:
    """Settle what is in doubt, plan, upload and report.

    Set `stop` to end early: what is in flight is finished first. `journal_lost`: a person says to go
    on without a journal that is lost; what Canvas seems to hold already is then set aside.
    """
    return await _carry_out(
        job, "run", progress or Progress(), stop or asyncio.Event(), journal_lost=journal_lost
    )


async def report_again(job: Job, run_id: str | None = None) -> Result:
    """Write the report of a run (the last one where `run_id` is None) again from the journal."""
    _private_folder(job.state_dir)
    with open_journal(job) as journal:
        known = journal.run(run_id)
        if known is None:
            raise PlanError(
                "there is no such run in the journal",
                "see the folders in report.dir for the runs there are",
            )
        return _report(job, journal, known)


def open_journal(job: Job, *, after_loss: bool = False) -> Journal:
    """The journal of a job; one that is lost only with `after_loss`. Raises JournalError, ConfigError."""
    _private_folder(job.state_dir)
    who = user() if after_loss else ""
    return Journal.open(job.state_dir, job.canvas.base_url, job.report_dir, after_loss_by=who)


def user() -> str:
    """Who is at the machine, for the trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def new_run(command: str, clock: Clock, random: Random) -> Run:
    """A run that begins now. Its id sorts by time."""
    run_id = f"{clock.now():%Y%m%dT%H%M%SZ}-{random.getrandbits(16):04x}"
    return Run(run_id, command, utc_text(clock.now()))


async def _carry_out(
    job: Job, command: str, progress: Progress, stop: asyncio.Event, *, journal_lost: bool = False
) -> Result:
    asks = command == "run" or bool(job.references.patient.system)
    if asks:
        job.canvas.credentials.require()
    _private_folder(job.report_dir)
    clock, random = SystemClock(), Random()  # noqa: S311 - jitter and run ids, no secrets
    with open_journal(job, after_loss=journal_lost) as journal:
        begun = new_run(command, clock, random)
        run_id = begun.run_id
        doubted = journal.start_run(begun)
        if doubted:
            log.warning("writes_left_in_flight", run_id=run_id, count=doubted)
        failure: IngestError | None = None
        try:
            if not asks:
                await _planned(job, run_id, journal, clock, progress, stop)
            else:
                async with connected(job, run_id, journal, clock, random, stop) as sending:
                    if command == "plan":
                        await _planned(job, run_id, journal, clock, progress, stop, sending)
                    else:
                        await _run(sending, progress)
        except Stopped:
            pass  # asked for: what is left is pending
        except IngestError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - whatever it is, the rows are to be accounted for
            failure = _fault(error)
        if failure is not None:
            log.error("run_failed", run_id=run_id, error=type(failure).__name__)
        progress.stage = "reporting"
        try:
            return await asyncio.to_thread(
                _finish, job, journal, begun, clock, failure, stopped=stop.is_set()
            )
        except Exception as error:  # noqa: BLE001 - the first cause is what is told
            first = failure or (error if isinstance(error, IngestError) else _unreported(error))
            raise first from None


async def _run(sending: "Sending", progress: Progress) -> None:
    job, journal, run_id = sending.job, sending.journal, sending.run_id
    progress.stage = "settling"
    await _settle(sending)
    sealed = await _planned(job, run_id, journal, sending.clock, progress, sending.stop, sending)
    await _upload(sending, sealed, progress)


async def _settle(sending: "Sending") -> None:
    """Settle what earlier runs left in doubt: of each patient one after another, each once.

    Behind one that stays in doubt nothing of its patient is looked at, for it may be its twin; nor
    behind one that is still owed, for a patient's writes keep their order.
    """
    looked: dict[str, bool] = {}  # by key: whether it has a body, and can go again
    while not sending.stop.is_set():
        doubts = sending.journal.doubts()  # those that are still to be sent again come last
        held = {
            each.intent.lane
            for each in doubts
            if each.intent.key in looked and (looked[each.intent.key] or not each.is_owed)
        }
        turn: dict[str, Doubt] = {}
        for doubt in doubts:
            if doubt.intent.key not in looked and doubt.intent.lane not in held:
                turn.setdefault(doubt.intent.lane, doubt)
        if not turn:
            return
        again = with_bodies(sending.job, list(turn.values()))
        looked |= {doubt.intent.key: bool(doubt.intent.body) for doubt in again}
        await sending.settle(again, lambda *_: None)


def _unreported(error: Exception) -> IngestError:
    """The report could not be written. What was sent stands in the journal all the same."""
    why = error.strerror if isinstance(error, OSError) else _fault(error).message
    return IngestError(
        f"the report could not be written: {why}",
        "what was sent is in the journal: check the disk of report.dir, then `canvas-ingest report CONFIG`",
    )


def _fault(error: Exception) -> IngestError:
    """An error that nobody foresaw: its kind and place, and not its text, which may hold values."""
    frames = traceback.extract_tb(error.__traceback__)
    where = (
        f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
    )
    return IngestError(
        f"a fault of canvas-ingest itself: {type(error).__name__} at {where}",
        "run again; if it stays, report it with this line",
    )


# Planning -----------------------------------------------------------------------------------------


async def _planned(
    job: Job,
    run_id: str,
    journal: Journal,
    clock: Clock,
    progress: Progress,
    stop: asyncio.Event,
    sending: "Sending | None" = None,
) -> Plan:
    """A sealed plan that exceeds no limit. Without `sending` Canvas is not asked."""
    writer = PlanWriter(job.state_dir / "plans" / run_id)
    said, crosswalks, sources = await asyncio.to_thread(_opened, job, writer.folder, progress)
    if sending is not None and job.references.patient.system:
        progress.stage = "looking up"
        crosswalks = replace(crosswalks, patient=await _searched(sending, sources))
    sealed = await asyncio.to_thread(
        _make_plan, job, run_id, writer, crosswalks, sources, journal, clock.now(), progress, stop
    )
    _guard(job, sealed, journal, said)
    _enter_feeds(run_id, sealed, journal)
    return sealed


def _opened(
    job: Job, folder: Path, progress: Progress
) -> tuple[dict[str, Expected], Crosswalks, dict[str, list[Source]]]:
    """What manifests say, the tables of references, and the feeds' files, found fit. Runs in a thread."""
    said = {feed.name: expect(feed) for feed in job.feeds if feed.name not in job.inputs}
    crosswalks = _crosswalks(job.references, folder)
    progress.stage = "reading"
    return said, crosswalks, {feed.name: _inspect_feed(job, feed, folder) for feed in job.feeds}


async def _searched(sending: "Sending", sources: Mapping[str, list[Source]]) -> Crosswalk:
    """The patients that the files name, looked up in Canvas."""
    job = sending.job
    reference, options = job.references.patient, job.canvas

    def batches() -> Iterator[tuple[Feed, pl.DataFrame]]:
        for feed in job.feeds:
            for source in sources[feed.name]:
                for batch in read(source):
                    if sending.stop.is_set():
                        raise Stopped("interrupted while planning")
                    yield feed, batch.frame

    tools = Tools(
        sending.client, sending.clock, sending.random, options.backoff, options.concurrency
    )
    table = await lookup(batches(), reference.system, tools)
    return Crosswalk(reference.target, table, is_search=True)


def _make_plan(
    job: Job,
    run_id: str,
    writer: PlanWriter,
    crosswalks: Crosswalks,
    sources: Mapping[str, list[Source]],
    journal: Journal,
    now: datetime,
    progress: Progress,
    stop: asyncio.Event,
) -> Plan:
    """Everything before the first write. Runs in a thread; raises Stopped where `stop` is set."""
    mapping = RowMapping(job.contract, crosswalks.payer.target, now.astimezone(UTC).date())
    progress.stage = "reading"
    metas = {}
    for feed in job.feeds:
        reading = _reading(job, feed, crosswalks)
        metas[feed.name] = _plan_feed(
            writer, feed, sources[feed.name], reading, mapping, progress, stop
        )
    progress.stage = "planning"
    files = {
        name: [Path(file["path"]).name for file in meta["files"]] for name, meta in metas.items()
    }
    rows = {feed.name: writer.narrow(feed.name, NEEDED) for feed in job.feeds}
    resolved = resolve(rows, job.feeds, files, journal.known)
    for feed in job.feeds:
        metas[feed.name].update(_planned_totals(writer, feed, resolved[feed.name]))
    verdicts = {name: each.verdicts for name, each in resolved.items()}
    return writer.seal(
        verdicts, {"run_id": run_id, "config_sha256": job.config_sha256, "feeds": metas}
    )


def _crosswalks(references: References, folder: Path) -> Crosswalks:
    """Read the tables: when a run begins, not when it is configured."""
    return Crosswalks(
        patient=_crosswalk("patient", references.patient, folder),
        payer=_crosswalk("payer", references.payer, folder),
        claim=_crosswalk("claim", references.claim, folder),
    )


def _crosswalk(kind: str, reference: Reference, folder: Path) -> Crosswalk:
    if reference.path is None:
        return Crosswalk(reference.target)
    columns = {"from": reference.source_column, "to": reference.target_column}
    table = Feed(
        f"references.{kind}", Kind.LEDGER, str(reference.path), columns, final_newline="any"
    )
    source = inspect(reference.path, table, folder)
    pairs = (
        pair for batch in read(source) for pair in batch.frame.select(columns.values()).iter_rows()
    )
    return Crosswalk(reference.target, table_of(pairs))


def _reading(job: Job, feed: Feed, crosswalks: Crosswalks) -> Reading:
    cents = job.limits.amount_cents_max
    return Reading(
        dates=Dates(feed.dates),
        crosswalks=crosswalks,
        codes=feed.codes,
        amount_sign=feed.amount_sign,
        amount_max_cents=cents,
        required=feed.required,
    )


def _inspect_feed(job: Job, feed: Feed, folder: Path) -> list[Source]:
    return [inspect(path, feed, folder) for path in _paths(job, feed, folder)]


def _paths(job: Job, feed: Feed, folder: Path) -> list[Path]:
    """The files of a feed: the given input, or what its path or glob names, sorted by name."""
    given = job.inputs.get(feed.name)
    if isinstance(given, pl.DataFrame):
        path = folder / f"input-{feed.name}.parquet"
        given.write_parquet(path)
        path.chmod(0o600)
        return [path]
    if given is not None:
        return [given]
    paths = (
        [Path(feed.path)]
        if Path(feed.path).is_file()
        else [Path(name) for name in sorted(glob(feed.path))]  # noqa: PTH207 - the pattern is a whole path
    )
    if not paths:
        raise InputError(
            f"no file is there for feed {feed.name}",
            "check that the sender delivered, and the feed's path",
            file=feed.path,
        )
    return paths


def _plan_feed(
    writer: PlanWriter,
    feed: Feed,
    sources: list[Source],
    reading: Reading,
    mapping: RowMapping,
    progress: Progress,
    stop: asyncio.Event,
) -> dict[str, Any]:
    """Read, validate and map one feed into the plan. Returns its control totals, as read."""
    rows_read = cents_read = 0
    for number, source in enumerate(sources):
        for batch in read(source):
            if stop.is_set():
                raise Stopped("interrupted while planning")
            checked = validate(batch, feed, reading)
            drafts = [
                None if row.content is None else map_row(row.content, mapping, feed.order_by)
                for row in checked
            ]
            writer.append(feed.name, number, batch.frame, list(zip(checked, drafts, strict=True)))
            rows_read += batch.frame.height
            cents_read += sum(row.amount_cents or 0 for row in checked)
            progress.rows_read += batch.frame.height
        if source.readable != source.path:
            source.readable.unlink()
    writer.flush()
    columns = list(dict.fromkeys(name for source in sources for name in source.kept))
    return {
        "kind": feed.kind.value,
        "encoding": feed.encoding,
        "files": [
            {"path": str(source.path), "sha256": source.sha256, "rows": source.rows}
            for source in sources
        ],
        "rows_read": rows_read,
        "cents_read": cents_read,
        "columns": columns,
        "delimiter": sources[0].delimiter,
    }


def _planned_totals(writer: PlanWriter, feed: Feed, resolved: Resolved) -> dict[str, Any]:
    """What the plan comes to: rows by disposition, and what is to be sent."""
    narrow = writer.narrow(feed.name, ["seq", "disposition", "amount_cents"])
    joined = narrow.join(
        resolved.verdicts.select("seq", "disposition"), on="seq", how="left", suffix="_verdict"
    )
    joined = joined.with_columns(
        pl.coalesce("disposition_verdict", "disposition").alias("disposition")
    )
    counts = dict(joined.group_by("disposition").len().iter_rows())
    sent = joined.filter(pl.col("disposition") == Disposition.PENDING.value)
    return {
        "planned": {word.value: counts.get(word.value, 0) for word in Disposition},
        "to_send": sent.height,
        "to_send_cents": int(sent["amount_cents"].sum()) if feed.traits.has_money else 0,
        "warnings": {"order|bumps": resolved.bumped} if resolved.bumped else {},
    }


# Guards -------------------------------------------------------------------------------------------


def _guard(job: Job, plan: Plan, journal: Journal, said: Mapping[str, Expected]) -> None:
    """Raises LimitError where the plan exceeds what the configuration allows, or is not what was `said`."""
    limits, metas = job.limits, plan.meta["feeds"]
    for feed in job.feeds:
        meta = metas[feed.name]
        for totals in (job.expected, said):
            _guard_expected(feed.name, meta, totals.get(feed.name, Expected()))
        _guard_rejects(feed.name, meta["planned"], limits)
        if feed.name not in job.inputs:
            _guard_change(feed.name, meta, journal.last_feed(feed.name), limits.change_max)
    writes = sum(meta["to_send"] for meta in metas.values())
    if limits.writes_max is not None and writes > limits.writes_max:
        raise LimitError(
            f"the plan has {writes:,} writes, above limits.writes_max = {limits.writes_max:,}",
            "check the files, and raise the limit if they are right",
        )
    cents = sum(meta["to_send_cents"] for meta in metas.values())
    if limits.total_cents_max is not None and cents > limits.total_cents_max:
        raise LimitError(
            f"the plan posts {usd(cents)} USD, above limits.total_usd_max = {usd(limits.total_cents_max)}",
            "check the files, and raise the limit if they are right",
        )


def _guard_expected(name: str, meta: Mapping[str, Any], expected: Expected) -> None:
    rows, cents = meta["rows_read"], meta["cents_read"]
    if expected.rows not in {None, rows}:
        _unexpected(name, f"rows={expected.rows}", str(rows))
    if expected.total_cents is not None and expected.total_cents != cents:
        _unexpected(name, f"total_usd={usd(expected.total_cents)}", usd(cents))


def _unexpected(name: str, expected: str, found: str) -> NoReturn:
    raise LimitError(
        f"feed {name}: the sender says {expected}, the files hold {found}",
        "ask the sender which is right; the file may be cut short",
    )


def _guard_rejects(name: str, planned: Mapping[str, int], limits: Limits) -> None:
    rejected = planned[Disposition.REJECTED.value]
    rows = sum(planned.values()) - planned[Disposition.FILTERED.value]
    fix = (
        "see rejects-"
        + name
        + ".csv for what is wrong; mend the file or the configuration, or raise limits.rejects_max"
    )
    if limits.rejects_max is not None and rejected > limits.rejects_max:
        raise LimitError(
            f"feed {name}: {rejected:,} rows rejected, above limits.rejects_max = {limits.rejects_max:,}",
            fix,
        )
    if limits.rejects_share_max is not None and rejected > limits.rejects_share_max * rows:
        raise LimitError(
            f"feed {name}: {rejected:,} of {rows:,} rows rejected ({rejected / rows:.1%}), "
            f"above limits.rejects_max = {limits.rejects_share_max:.0%}",
            fix,
        )


def _guard_change(
    name: str, meta: Mapping[str, Any], last: tuple[int, int] | None, change_max: float | None
) -> None:
    if last is None or change_max is None:
        return
    for what, before, now in (
        ("rows", last[0], meta["rows_read"]),
        ("cents", last[1], meta["cents_read"]),
    ):
        if before > 0 and not before / change_max <= now <= before * change_max:
            raise LimitError(
                f"feed {name}: {now:,} {what}, and {before:,} the last time: more than limits.change_max = {change_max:g} times apart",
                "check that the file is whole, and raise the limit if it is right",
            )


def _enter_feeds(run_id: str, plan: Plan, journal: Journal) -> None:
    metas = plan.meta["feeds"].items()
    journal.enter_feeds(
        run_id, [(name, meta["rows_read"], meta["cents_read"]) for name, meta in metas]
    )


# Uploading ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sending:
    """What it takes to send: a connection, a journal, and whoever asks Canvas what it holds."""

    job: Job
    run_id: str
    client: canvas.Client
    journal: Journal
    recovery: Recovery
    clock: Clock
    random: Random
    stop: asyncio.Event

    async def settle(self, doubts: Sequence[Doubt], seen: uploading.Seen) -> None:
        """Settle what earlier runs left in doubt, and send again what may be."""
        if doubts:
            await self.upload(
                iter(()), {each.intent.resource_type for each in doubts}, seen, doubts
            )

    async def upload(
        self,
        batches: Iterator[list[Intent]],
        types: Collection[str],
        seen: uploading.Seen,
        doubts: Sequence[Doubt] = (),
        shut: Collection[str] = (),
    ) -> None:
        """Send, once each resource type is known to answer. Beside `shut`, lanes in doubt are shut."""
        for resource_type in sorted(types):
            await self.client.probe(resource_type)
        open_lanes = {doubt.intent.lane for doubt in doubts}
        tools = uploading.Tools(
            self.run_id,
            self.client,
            self.journal,
            self.recovery,
            self.job.upload,
            self.clock,
            self.random,
            self.stop,
        )
        shut_lanes = (self.journal.shut_lanes() - open_lanes).union(shut)
        await uploading.upload(batches, tools, seen, doubts=doubts, shut=shut_lanes)


@asynccontextmanager
async def connected(
    job: Job, run_id: str, journal: Journal, clock: Clock, random: Random, stop: asyncio.Event
) -> AsyncIterator[Sending]:
    """A connection to Canvas; what it asked beside the writes is written down at its end."""
    async with Transport(job.canvas.timeout_s, job.canvas.concurrency) as transport:
        client = canvas.Client(job.canvas, transport, clock, random)
        recovery = Recovery(client, journal, clock, random, job.upload.quiet_s, run_id)
        watch = asyncio.ensure_future(_stop_client(stop, client))
        try:
            yield Sending(job, run_id, client, journal, recovery, clock, random, stop)
        finally:
            watch.cancel()
            await journal.record(run_id, client.exchanges)


def with_bodies(job: Job, doubts: Sequence[Doubt]) -> list[Doubt]:
    """The doubts with what was sent, from the plans of their runs; without where a plan is gone."""
    rows = look_up(job.state_dir / "plans", [doubt.intent for doubt in doubts])
    return [
        replace(doubt, intent=replace(doubt.intent, body=rows[doubt.intent.key].body))
        if doubt.intent.key in rows
        else doubt
        for doubt in doubts
    ]


async def _upload(sending: Sending, plan: Plan, progress: Progress) -> None:
    job = sending.job
    progress.stage = "sending"
    progress.to_send = sum(meta["to_send"] for meta in plan.meta["feeds"].values())
    types = {
        feed.traits.resource_type for feed in job.feeds if plan.meta["feeds"][feed.name]["to_send"]
    }

    def seen(disposition: Disposition, count: int) -> None:
        progress.dispositions[disposition] += count
        progress.sent += count

    if types:
        shut = _lanes_owed(sending, plan)
        await sending.upload(_intents(job, plan), types, seen, shut=shut)


def _lanes_owed(sending: Sending, plan: Plan) -> set[str]:
    """The patients of whom an earlier run's write is still to be sent, and is not among this plan's."""
    owed = [each for each in sending.journal.doubts() if each.is_owed]
    keys = [each.intent.key for each in owed]
    planned = {key for feed in plan.meta["feeds"] if keys for key in plan.find(feed, keys)["key"]}
    return {
        each.intent.lane
        for each in with_bodies(sending.job, owed)
        if each.intent.body and each.intent.key not in planned
    }


async def _stop_client(stop: asyncio.Event, client: canvas.Client) -> None:
    await stop.wait()
    client.stop()


def _intents(job: Job, plan: Plan) -> Iterator[list[Intent]]:
    """What is to be sent, feeds in the order of the configuration."""
    for feed in job.feeds:
        yield from plan.intents(feed.name, feed.traits.resource_type, in_order=not feed.order_by)


# Reporting ----------------------------------------------------------------------------------------


def _finish(
    job: Job,
    journal: Journal,
    run: Run,
    clock: Clock,
    failure: IngestError | None,
    *,
    stopped: bool,
) -> Result:
    """Enter how the run ended, and report."""
    decided = failure.exit_code if failure is not None else INTERRUPTED if stopped else None
    finished = replace(
        run,
        finished_at=utc_text(clock.now()),
        exit_code=decided,
        failure=str(failure) if failure else "",
    )
    result = _report(job, journal, finished)
    journal.finish_run(replace(finished, exit_code=result.exit_code))
    return replace(result, failure=failure)


def _report(job: Job, journal: Journal, run: Run) -> Result:
    """Write the report of a run. What decides its exit code, unless the run failed, are its rows."""
    try:
        plan = Plan.open(job.state_dir / "plans" / run.run_id)
    except PlanError:
        plan = None
    folder = job.report_dir / run.run_id
    sha256 = job.config_sha256 if plan is None else plan.meta["config_sha256"]
    feeds = {feed.name: _unread(feed) for feed in job.feeds} if plan is None else plan.meta["feeds"]
    summary = report(folder, feeds, plan, journal, Facts(run, job.version, sha256))
    _point_latest(job.report_dir, run.run_id)
    return Result(run.run_id, summary["exit_code"], summary, folder)


def _unread(feed: Feed) -> dict[str, Any]:
    """What is known of a feed that was never planned."""
    return {"kind": feed.kind.value, "files": [], "rows_read": 0, "cents_read": 0, "warnings": {}}


def _point_latest(report_dir: Path, run_id: str) -> None:
    """`latest` -> the run's folder, swapped in one step."""
    link = report_dir / ".latest"
    link.unlink(missing_ok=True)
    link.symlink_to(run_id, target_is_directory=True)
    link.replace(report_dir / "latest")


def _private_folder(folder: Path) -> None:
    """Make it if need be; refuse a link, another owner's, or one that others may look into."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
        raise ConfigError(
            f"{folder} is a link or belongs to somebody else", "name a folder of your own"
        )
    folder.chmod(0o700)
