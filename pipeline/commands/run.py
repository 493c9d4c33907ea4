"""The commands `plan`, `run` and `report`.

    (recover) -> plan (`planning`) -> upload and recover -> report

A run first settles what earlier ones left in doubt. Nothing of its own files is written before there is a
sealed plan, so an error in a file, a limit or the configuration is found before that.
"""

import asyncio
import getpass
import os
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import polars as pl
import polars.selectors as cs
import structlog

from pipeline.clock import Clock, SystemClock, utc_text
from pipeline.cluster.dask import open_workers
from pipeline.cluster.permits import permits_of
from pipeline.commands.retention import purge
from pipeline.commands.upload import upload
from pipeline.errors import (
    ConfigError,
    IngestError,
    JournalError,
    JournalTaken,
    PlanChanged,
    PlanError,
    Stopped,
    fault,
)
from pipeline.files import sync
from pipeline.job import Job, Progress
from pipeline.journal import doubts, lookups, opening, runs
from pipeline.journal.ends import Ends
from pipeline.journal.journal import Journal
from pipeline.journal.runs import Run
from pipeline.planning import unchanged
from pipeline.planning.build import build_plan
from pipeline.planning.earlier import EarlierPlans
from pipeline.planning.keys import keys_of
from pipeline.planning.plan import Plan
from pipeline.planning.same_plan import require_same_plan
from pipeline.planning.workers import Workers
from pipeline.records import (
    ADOPTED,
    Disposition,
    Doubt,
    Interaction,
    State,
)
from pipeline.reporting.files import report
from pipeline.reporting.metrics import write_metrics
from pipeline.reporting.notebook import result_table
from pipeline.reporting.summary import Facts
from pipeline.rows.feed import Feed
from pipeline.sending.session import Session, open_session, with_bodies
from pipeline.system.ownership import private_folder

log = structlog.get_logger()

INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run. `summary` is the content of `summary.json`, `folder` the folder of the report."""

    run_id: str
    exit_code: int
    summary: dict[str, Any] = field(repr=False)
    folder: Path
    failure: IngestError | None = None

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows."""
        return result_table(self.summary, self.folder)

    @property
    def frame(self) -> pl.DataFrame:
        """Return `reconciliation.parquet`, one line a source row; of `verify`, `verification.parquet`.

        Instants (columns that end with `_at`) are datetimes in UTC.
        """
        name = "verification" if "verification" in self.summary else "reconciliation"
        rows = pl.read_parquet(self.folder / f"{name}.parquet", glob=False)
        instants = cs.ends_with("_at") & cs.string()
        return rows.with_columns(instants.str.to_datetime("%+", time_unit="ms", time_zone="UTC"))

    def raise_for_failure(self) -> None:
        """Raise the error that stopped the run, if one did. Rows rejected or in doubt are no failure.

        Raises:
            IngestError: `failure`: its `message` says what happened, its `fix` what to do.
        """
        if self.failure is not None:
            raise self.failure


# The commands -------------------------------------------------------------------------------------


async def plan(
    job: Job,
    *,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
    clock: Clock | None = None,
) -> Result:
    """Read, validate, map and resolve every row, and report. Writes nothing to Canvas.

    Canvas is asked only if patients are looked up by searching. `clock` as for `run`.
    """
    progress, stop = progress or Progress(), stop or asyncio.Event()
    return await _carry_out(job, "plan", progress, stop, clock=clock)


async def run(
    job: Job,
    *,
    journal_lost: bool = False,
    plan_id: str | None = None,
    until: datetime | None = None,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
    clock: Clock | None = None,
) -> Result:
    """Settle what is in doubt, plan, upload and report.

    Args:
        job: The configuration.
        journal_lost: A person lets the run go on without a journal that is lost; what Canvas seems to hold
            already is then set aside.
        plan_id: Carry out this plan; if the same files would now give another one, send nothing.
        until: The instant at which `stop` is set.
        progress: Updated during the run.
        stop: Set it to end early: what is in flight is finished first, and the rest is pending.
        clock: The clock of the run, which also says what day it is. None: that of this machine.

    Raises:
        ConfigError: The engine and the journal do not fit each other, or the credentials are missing.
        PlanError: There is no plan `plan_id`.
        JournalError: The journal cannot be used.
    """
    stop = stop or asyncio.Event()
    require_shared_journal(job)
    with _measured(job) as measured, _deadline(until, stop) as is_over:
        if plan_id is not None:
            Plan.open(job.state_dir / "plans" / plan_id)  # before anything else is done
        result = await _carry_out(
            job,
            "run",
            progress or Progress(),
            stop,
            journal_lost=journal_lost,
            plan_id=plan_id,
            is_over=is_over,
            clock=clock,
        )
        measured.update(result.summary)
    return result


def require_shared_journal(job: Job) -> None:
    """Raise ConfigError if the workers of a run could not reach its journal."""
    if job.engine.kind != "embedded" and job.database is None:
        raise ConfigError(
            f'engine = "{job.engine.kind}" and a run: all its processes need a journal that they reach, and this one '
            "is a file of one machine",
            "set [state] url to a PostgreSQL database, or run with --engine embedded; `plan` may use any engine",
        )


@contextmanager
def _measured(job: Job) -> Iterator[dict[str, Any]]:
    """Write the metrics at the end, whatever happens, from the summary that the caller puts into the dict."""
    summary: dict[str, Any] = {"started_at": utc_text(datetime.now(UTC)), "exit_code": 1}
    try:
        yield summary
    except IngestError as error:
        summary["exit_code"] = error.exit_code
        raise
    except asyncio.CancelledError:
        summary["exit_code"] = INTERRUPTED
        raise
    finally:
        summary.setdefault("finished_at", utc_text(datetime.now(UTC)))
        if job.metrics is not None:
            try:
                write_metrics(job.metrics, job.name, summary)
            except OSError as error:
                log.warning(
                    "metrics_unwritten",
                    run_id=summary.get("run_id", ""),
                    why=error.strerror or type(error).__name__,
                )


@contextmanager
def _deadline(until: datetime | None, stop: asyncio.Event) -> Iterator[Callable[[], bool]]:
    """Set `stop` at that instant. Yields a function that returns whether that is why it is set."""
    if until is None:
        yield lambda: False
        return
    came = False

    def end() -> None:
        nonlocal came
        came = not stop.is_set()
        stop.set()

    seconds = (until - datetime.now(UTC)).total_seconds()
    timer = asyncio.get_running_loop().call_later(max(seconds, 0.0), end)
    try:
        yield lambda: came
    finally:
        timer.cancel()


async def report_again(job: Job, run_id: str | None = None) -> Result:
    """Write the report of a run (the last one if `run_id` is None) again from the journal."""
    private_folder(job.state_dir)
    with open_journal(job) as journal:
        known = runs.find_run(journal, run_id)
        if known is None:
            raise PlanError(
                "there is no such run in the journal",
                "see the folders in report.dir for the runs there are",
            )
        if runs.was_purged(journal, known.run_id):
            raise PlanError(
                f"what run {known.run_id} left of rows was removed (journal purge, or [retention] days)",
                "its summary.json is what there is; of a single write: `canvas-ingest journal show CONFIG KEY`",
            )
        return _report(job, journal, known)


def open_journal(job: Job, *, after_loss: bool = False) -> Journal:
    """Open the journal of a job; a lost one only with `after_loss`. Raises JournalError, ConfigError."""
    private_folder(job.state_dir)
    private_folder(job.state_dir / "plans")
    who = user() if after_loss else ""
    return opening.open_journal(
        job.state_dir,
        job.canvas.base_url,
        job.report_dir,
        database=job.database,
        after_loss_by=who,
    )


def user() -> str:
    """Return the user of this machine, for the audit log."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def new_run(command: str, clock: Clock, random: Random) -> Run:
    """Return a run that begins now. Its id sorts by time."""
    run_id = f"{clock.now():%Y%m%dT%H%M%SZ}-{random.getrandbits(16):04x}"
    return Run(run_id, command, utc_text(clock.now()))


def _warn(left_in_flight: int, unused_proxy: str) -> None:
    if left_in_flight:
        log.warning("writes_left_in_flight", count=left_in_flight)
    if unused_proxy:
        log.warning("proxy_unused", message=unused_proxy)


async def _carry_out(
    job: Job,
    command: str,
    progress: Progress,
    stop: asyncio.Event,
    *,
    journal_lost: bool = False,
    plan_id: str | None = None,
    is_over: Callable[[], bool] = lambda: False,
    clock: Clock | None = None,
) -> Result:
    must_ask = command == "run" or bool(job.references.patient.system)
    if must_ask:
        job.canvas.credentials.require()
    asks = must_ask or job.canvas.credentials.are_given
    private_folder(job.report_dir)
    clock, random = clock or SystemClock(), Random()  # noqa: S311 - jitter and run ids, no secrets
    begun = new_run(command, clock, random)
    run_id = begun.run_id
    with (
        open_journal(job, after_loss=journal_lost) as journal,
        structlog.contextvars.bound_contextvars(run_id=run_id),
    ):
        progress.run_id = run_id
        doubted = runs.start_run(journal, begun)
        _warn(doubted, job.canvas.unused_proxy if asks else "")

        async def work() -> None:
            async with AsyncExitStack() as stack:
                workers = await stack.enter_async_context(_working(job))
                to_plan = partial(build_plan, job, run_id, journal, clock, progress, stop, workers)
                if not asks:
                    await to_plan()
                else:
                    session = await stack.enter_async_context(
                        open_session(
                            job, run_id, journal, clock, random, stop, permits_of(job, clock)
                        )
                    )
                    if command == "plan":
                        await to_plan(session, must_ask=must_ask)
                    else:
                        await _run(session, workers, progress, plan_id)

        failure = await _failure_of(work(), stop, is_over)
        progress.stage = "reporting"
        try:
            return await asyncio.to_thread(
                _finish, job, journal, begun, clock, failure, stopped=stop.is_set()
            )
        except Exception as error:  # noqa: BLE001 - the first cause is reported
            first = failure or (error if isinstance(error, IngestError) else _unreported(error))
            raise first from None


async def _failure_of(
    work: Coroutine[Any, Any, None], stop: asyncio.Event, is_over: Callable[[], bool]
) -> IngestError | None:
    """Do the work of a run. Returns why it failed; None if it did not, or if it was stopped."""
    failure: IngestError | None = None
    is_cut_short = True
    try:
        await work
        is_cut_short = stop.is_set()
    except Stopped:
        pass  # asked for: what is left is pending
    except IngestError as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - whatever it is, the rows are to be accounted for
        failure = fault(error)
    if failure is None and is_cut_short and is_over():
        failure = IngestError(
            "its time (--until) was over before all was sent",
            "run again: what is pending is sent then",
        )
    if failure is not None:
        log.error("run_failed", error=type(failure).__name__)
    return failure


@asynccontextmanager
async def _working(job: Job) -> AsyncIterator[Workers]:
    """Yield the workers of a job. A cluster takes time to start and to end, and the loop goes on meanwhile."""
    opened = open_workers(job.engine, job.state_dir)
    workers = await asyncio.to_thread(opened.__enter__)
    try:
        yield workers
    finally:
        await asyncio.to_thread(opened.__exit__, None, None, None)


async def _run(session: Session, workers: Workers, progress: Progress, plan_id: str | None) -> None:
    job, journal, run_id = session.job, session.journal, session.run_id
    progress.stage = "settling"
    await _settle(session)  # searches only: what is sent again depends on today's files
    clock, stop = session.clock, session.stop
    sealed = await build_plan(job, run_id, journal, clock, progress, stop, workers, session)
    if plan_id is not None:
        await asyncio.to_thread(require_same_plan, sealed, session.plans.open(plan_id))
    await asyncio.to_thread(runs.enter_feed_keys, journal, run_id, keys_of(sealed.meta["feeds"]))
    owed = await asyncio.to_thread(_owed_elsewhere, journal, sealed)
    if owed:
        await _settle(session, owed)
    await upload(session, workers, sealed, progress)


def _owed_elsewhere(journal: Journal, plan: Plan) -> set[str]:
    """Return the keys of creates to be sent again whose rows are in no file of today.

    A row that is in a file goes with the content that it has there, or not at all.
    """
    owed = {
        each.intent.key
        for each in doubts.all_doubts(journal)
        if each.is_owed and each.intent.interaction is Interaction.CREATE
    }
    for feed in plan.meta["feeds"] if owed else ():
        for keys in plan.keys(feed):
            owed.difference_update(keys.filter(keys.is_in(list(owed))))
    return owed


async def _settle(session: Session, owed: Collection[str] = ()) -> None:
    """Search for what earlier runs left in doubt: of each patient one write after another, each once.

    Creates are only searched for; with `owed`, only those are, and they are sent again if they are not
    there. After one that stays in doubt no other write of the patient is settled, because it may be its
    twin; nor after one that was not sent again, because a patient's writes keep their order.
    """
    looked: set[str] = set()
    while not session.stop.is_set():
        doubted = doubts.all_doubts(session.journal)  # what may be sent again comes last
        held = {
            each.intent.lane
            for each in doubted
            if each.intent.key in looked and (owed or not each.is_owed)
        }
        turn: dict[str, Doubt] = {}
        for doubt in doubted:
            key, lane = doubt.intent.key, doubt.intent.lane
            if key not in looked and lane not in held and (not owed or key in owed):
                turn.setdefault(lane, doubt)
        if not turn:
            return
        looked |= {doubt.intent.key for doubt in turn.values()}
        again = [
            doubt
            if doubt.intent.key in owed or doubt.intent.interaction is Interaction.UPDATE
            else replace(doubt, intent=doubt.intent._replace(body=b""))
            for doubt in with_bodies(session.plans, list(turn.values()))
        ]
        await session.settle(again, lambda *_: None)


def _unreported(error: Exception) -> IngestError:
    """Return the error of a report that could not be written. The journal still has what was sent."""
    why = error.strerror if isinstance(error, OSError) else fault(error).message
    return IngestError(
        f"the report could not be written: {why}",
        "what was sent is in the journal: check the disk of report.dir, then `canvas-ingest report CONFIG`",
    )


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
    """Enter how the run ended, and report. If another process took over, that one reports."""
    if isinstance(failure, JournalTaken):
        raise failure
    decided = failure.exit_code if failure is not None else INTERRUPTED if stopped else None
    finished = replace(
        run,
        finished_at=utc_text(clock.now()),
        exit_code=decided,
        failure=str(failure) if failure else "",
    )
    result = _report(job, journal, finished)
    runs.finish_run(journal, replace(finished, exit_code=result.exit_code))
    if run.command == "run":
        # A run that ended early may not have entered the subscribers of rows that the index would skip from now on.
        is_entered = decided is None or not job.references.subscriber_by_row
        with suppress(OSError, JournalError):  # without it the next run compares row by row
            if is_entered:
                _write_held(job, journal, run.run_id)
        _purge_old(job, journal, clock)
    return replace(result, failure=failure)


def _purge_old(job: Job, journal: Journal, clock: Clock) -> None:
    """Remove data older than `[retention] days`. A failure does not fail the run, which is done."""
    if job.retention_days is None:
        return
    try:
        purged = purge(job, journal, job.retention_days, clock.now(), "")
    except (OSError, IngestError) as error:
        log.warning("purge_failed", why=getattr(error, "strerror", None) or type(error).__name__)
        return
    if purged.runs:
        log.info("purged", count=len(purged.runs))


def _report(job: Job, journal: Journal, run: Run) -> Result:
    """Write the report of a run. Its rows decide its exit code, unless the run failed."""
    try:
        plan = EarlierPlans.of(job.state_dir, journal).open(run.run_id)
    except PlanChanged:
        raise
    except PlanError:
        plan = None
    folder = job.report_dir / run.run_id
    sha256 = job.config_sha256 if plan is None else plan.meta["config_sha256"]
    feeds = {feed.name: _unread(feed) for feed in job.feeds} if plan is None else plan.meta["feeds"]
    ends = Ends(job.state_dir / "plans" / run.run_id, journal, run.run_id)
    summary = report(folder, feeds, plan, ends, Facts(run, job.version, sha256))
    _point_latest(job.report_dir, run.run_id)
    return Result(run.run_id, summary["exit_code"], summary, folder)


def _write_held(job: Job, journal: Journal, run_id: str) -> None:
    """Write the unchanged index, so that the next run can skip these rows in bulk."""
    try:
        plan = Plan.open(job.state_dir / "plans" / run_id)
    except PlanError:
        return
    for feed in job.feeds:
        meta = plan.meta["feeds"][feed.name]
        if feed.repeats == "count" or feed.name in job.inputs or meta["is_change"]:
            continue  # the index of the last whole file is of more use
        displaced = lookups.moved_keys(journal, feed.name)
        is_moved = pl.col("key").is_in(displaced.implode())
        lines = (
            _confirmed(rows, journal).filter(~is_moved) for rows in plan.rows_to_hold(feed.name)
        )
        salt, mark = meta["salt"], unchanged.Mark(*journal.head)
        runs.enter_index(
            journal, feed.name, unchanged.write(job.state_dir, feed.name, salt, mark, lines)
        )


def _confirmed(rows: pl.DataFrame, journal: Journal) -> pl.DataFrame:
    """Return the rows of a part that Canvas holds as they are in the file."""
    is_unchanged = pl.col("disposition") == Disposition.UNCHANGED.value
    is_adopted = pl.col("rule") == ADOPTED
    is_sent = pl.col("disposition") == Disposition.PENDING.value
    same = rows.filter(is_unchanged & ~is_adopted)
    sent = rows.filter((is_sent | (is_unchanged & is_adopted)) & pl.col("digest").is_not_null())
    known = lookups.known(journal, sent["key"]).filter(pl.col("state") == State.CONFIRMED.value)
    done = sent.drop("resource_id").join(
        known.select("key", "fingerprint", "resource_id"), on=["key", "fingerprint"]
    )
    return pl.concat([same.select(list(unchanged.LINE)), done.select(list(unchanged.LINE))])


def _unread(feed: Feed) -> dict[str, Any]:
    """Return the metadata of a feed that was never planned."""
    return {"kind": feed.kind.value, "files": [], "rows_read": 0, "cents_read": 0, "warnings": {}}


def _point_latest(report_dir: Path, run_id: str) -> None:
    """Point `latest` at the run's folder, in one step. If that fails, the report is whole all the same."""
    link = report_dir / ".latest"
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(run_id, target_is_directory=True)
        link.replace(report_dir / "latest")
        sync(report_dir)
    except OSError as error:  # such as a folder of that name
        log.warning("latest_unlinked", why=error.strerror or type(error).__name__)
