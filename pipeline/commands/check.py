"""The conductor of `check`: each thing that would go wrong in a run, and what to do about it.

It plans the very files with the very code of a plan, against a copy of the journal and in a folder
that is removed at its end, and asks Canvas a handful of questions. It writes nothing else, and goes
on after a failure wherever the next check still makes sense.
"""

import asyncio
import os
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import polars as pl

from pipeline.canvas.client import Client, transport_of
from pipeline.canvas.skew import Skew, measure
from pipeline.clock import SystemClock
from pipeline.commands.run import new_run
from pipeline.errors import (
    CanvasError,
    ColumnsMissing,
    ConfigError,
    IngestError,
    InputError,
    JournalBusy,
    JournalError,
    LimitError,
    Unreachable,
)
from pipeline.files import FOLDER_MODE, OTHERS
from pipeline.job import Job, Progress, Reference, References
from pipeline.journal import doubts, history, lookups, opening, runs
from pipeline.journal.journal import Journal
from pipeline.planning.build import seal
from pipeline.planning.diagnose import diagnose, spelt
from pipeline.planning.lookup import lookup
from pipeline.planning.passes.files import open_files
from pipeline.planning.passes.rows import read_rows
from pipeline.planning.state import Build
from pipeline.planning.store import Plan
from pipeline.planning.workers import InPlace
from pipeline.reading.read import read
from pipeline.reading.source import Source
from pipeline.records import Disposition, Stamped
from pipeline.reporting.words import warnings_of
from pipeline.rows.crosswalk import Crosswalk
from pipeline.rows.feed import Feed
from pipeline.rows.texts import texts_of, wanted
from pipeline.system import confinement
from pipeline.system.ownership import fault_of_folder
from pipeline.system.temporary import temporary_folder

UNDECIDED: Final = "DECIDE"  # stands in a draft where a person must decide
EXAMPLE_HOSTS: Final = frozenset({"fumage-example.canvasmedical.com", "example.canvasmedical.com"})

_TIMEOUT_S_MAX: Final = 10.0  # of one request
_SKEW_MAX: Final = timedelta(seconds=30)
_SHARE_WRONG: Final = (
    0.1  # of a feed's rows: a rule that sends so many back is no slip of single rows
)
_LOOKED_UP: Final = 20  # patients, where they are searched for
# What a run leaves behind, roughly: an estimate, on the large side.
_STATE_BYTES_A_ROW: Final = 1_500
_REPORT_BYTES_A_ROW: Final = 600

Kind = Literal["patient", "payer", "claim"]


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `todo` says what to do about it, where there is something to do."""

    group: str
    what: str
    state: State
    message: str
    todo: str = ""


def exit_code_of(checks: Sequence[Check]) -> int:
    """0 where nothing is wrong; warnings are allowed."""
    return int(any(check.state is State.WRONG for check in checks))


def as_json(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as JSON values."""
    counts = Counter(check.state.value for check in checks)
    return {
        "shape": 1,
        "exit_code": exit_code_of(checks),
        "counts": {state.value: counts[state.value] for state in State},
        "checks": [asdict(check) for check in checks],
    }


async def check(
    job: Job,
    *,
    no_secrets: ConfigError | None = None,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
    step_s_max: float = 20.0,
    show_values: bool = False,
) -> list[Check]:
    """Look at everything that a run needs.

    `no_secrets`: why they could not be read. `step_s_max`: of one question to Canvas, with its
    repetitions. `show_values`: name the spellings in coded columns, not only how many there are.
    """
    progress, stop = progress or Progress(), stop or asyncio.Event()
    examination = Examination(job, progress, stop, step_s_max, show_values=show_values)
    progress.stage = "reading"
    examination.look_at_configuration()
    examination.look_at_secrets(no_secrets)
    examination.look_at_folders()
    with ExitStack() as stack:
        try:
            examination.scratch = stack.enter_context(temporary_folder())
        except ConfigError as error:
            examination.note_unseen(error)
        else:
            await asyncio.to_thread(examination.look_here)
    await examination.ask_canvas()
    groups = list(dict.fromkeys(check.group for check in examination.checks))
    return sorted(examination.checks, key=lambda check: groups.index(check.group))


@dataclass(slots=True)
class Examination:
    """One check, from what is here to what only Canvas can tell."""

    job: Job
    progress: Progress
    stop: asyncio.Event
    step_s_max: float
    scratch: Path = field(init=False)  # for copies of the journal and of files
    show_values: bool = False  # those of coded columns
    random: Random = field(default_factory=Random)  # jitter, and ids of plans that are thrown away
    checks: list[Check] = field(default_factory=list)
    patients: list[tuple[Feed, pl.DataFrame]] = field(default_factory=list)  # a few rows a feed
    is_beside_run: bool = False  # another run holds the journal now
    has_past: bool = False  # the journal knows of earlier runs
    stamped: list[Stamped] = field(default_factory=list)  # payments that show the clock of stamps
    is_sure: bool = True  # of what would be sent: the journal and all ids are known

    def _note(self, group: str, what: str, state: State, message: str, todo: str = "") -> None:
        self.checks.append(Check(group, what, state, message, todo))

    def _wrong(self, group: str, what: str, error: IngestError) -> None:
        self._note(group, what, State.WRONG, error.message, error.fix)

    # What is here ---------------------------------------------------------------------------------

    def look_at_folders(self) -> None:
        """Check that state.dir and report.dir can be used."""
        for name, folder in (
            ("state.dir", self.job.state_dir),
            ("report.dir", self.job.report_dir),
        ):
            self._look_at_folder(name, Path(os.path.normpath(folder)))

    def note_unseen(self, error: ConfigError) -> None:
        """Note that there is no folder for temporary files, and so nothing that needs copies is looked at."""
        self._note(
            "Folders",
            "temporary files",
            State.WRONG,
            f"{error.message}: the journal and the files were not looked at (a run does not need one)",
            error.fix,
        )

    def look_here(self) -> None:
        """Check the journal, the files, their rows, and the limits, with copies in `scratch`."""
        journal = self._look_at_journal()
        try:
            with journal:
                self._look_at_files(journal)
        except JournalError as error:
            self._wrong("Journal", "journal", error)

    def look_at_configuration(self) -> None:
        """It could be read; what in it is still to be decided."""
        names = ", ".join(f"{feed.name} ({feed.kind.value})" for feed in self.job.feeds)
        self._note("Configuration", "feeds", State.OK, names)
        for feed in self.job.feeds:
            for ours in _undecided(feed):
                self._note(
                    "Configuration",
                    f"{feed.name}: {ours}",
                    State.WRONG,
                    "which column it is in is still to be decided",
                    f'look for "{UNDECIDED}" in the configuration',
                )

    def _look_at_folder(self, name: str, folder: Path) -> None:
        group, there = "Folders", _nearest(folder)
        if not there.is_dir():
            self._note(group, name, State.WRONG, f"{there} is no folder", f"name another {name}")
        elif not os.access(there, os.W_OK | os.X_OK):
            self._note(
                group,
                name,
                State.WRONG,
                f"{there} cannot be written to",
                f"give the user who runs this the right to, or name another {name}",
            )
        elif there != folder:
            self._note(group, name, State.OK, f"{folder} will be made")
        else:
            self._look_at_owner(name, folder)

    def _look_at_owner(self, name: str, folder: Path) -> None:
        group, fault = "Folders", fault_of_folder(folder)
        if fault is not None:
            self._note(group, name, State.WRONG, *fault)
        elif os.name == "posix" and folder.stat().st_mode & OTHERS:
            self._note(
                group,
                name,
                State.WARNING,
                f"others can look into {folder}; a run closes it to them",
                f"chmod 700 {folder}",
            )
        else:
            self._note(group, name, State.OK, f"{folder} is there, and yours alone")

    def _look_at_disk(self, sources: Sequence[Source]) -> None:
        """What a run of these files needs, against what is free; both may lie on the same disk."""
        rows = sum(source.rows for source in sources)
        size = sum(source.stamp.size for source in sources)
        needs = {
            "state.dir": (self.job.state_dir, rows * _STATE_BYTES_A_ROW + size),
            "report.dir": (self.job.report_dir, rows * _REPORT_BYTES_A_ROW + size),
        }
        disks: dict[int, list[str]] = {}
        for name, (folder, _) in needs.items():
            disks.setdefault(_nearest(folder).stat().st_dev, []).append(name)
        for names in disks.values():
            need = sum(needs[name][1] for name in names)
            free = shutil.disk_usage(_nearest(needs[names[0]][0])).free
            told = f"{_size(free)} free, and a run needs some {_size(need)}"
            what = " and ".join(names)
            if free < need:
                self._note("Folders", f"disk of {what}", State.WRONG, told, "make room there")
            else:
                self._note("Folders", f"disk of {what}", State.OK, told)

    # The journal ----------------------------------------------------------------------------------

    def _look_at_journal(self) -> Journal:
        """A copy of the journal, or an empty one where it cannot be looked at."""
        job, group = self.job, "Journal"
        try:
            journal = opening.look(
                job.state_dir,
                job.canvas.base_url,
                job.report_dir,
                self.scratch / "state",
                database=job.database,
            )
        except JournalBusy as error:
            self.is_beside_run = True
            self._note(group, "journal", State.WARNING, error.message, error.fix)
        except JournalError as error:
            self._wrong(group, "journal", error)
        else:
            if not history.length(journal):
                self._note(group, "journal", State.OK, "new: the first run makes it")
            else:
                self._look_into(journal)
            return journal
        self.is_sure = False
        shutil.rmtree(self.scratch / "state", ignore_errors=True)
        (self.scratch / "state").mkdir(mode=FOLDER_MODE)
        return opening.open_journal(self.scratch / "state", job.canvas.base_url)

    def _look_into(self, journal: Journal) -> None:
        group, self.has_past = "Journal", True
        self._note(group, "journal", State.OK, f"whole, and of {journal.base_url}")
        runs.start_run(
            journal, new_run("plan", SystemClock(), self.random)
        )  # as a run would find it
        newest = lookups.newest_confirmed(journal, "PaymentNotice", 1)["run_id"]
        self.stamped = [each for run_id in newest for each in doubts.stamped(journal, run_id)]
        doubted = len(doubts.all_doubts(journal))
        if doubted:
            self._note(
                group,
                "in doubt",
                State.WARNING,
                f"{_count(doubted, 'write')} of earlier runs",
                "the next run looks for them; canvas-ingest review CONFIG shows them",
            )

    # Files ----------------------------------------------------------------------------------------

    def _look_at_files(self, journal: Journal) -> None:
        """Which files are fit; these are planned."""
        job = replace(self.job, state_dir=self.scratch / "state")
        references = {kind: self._reference(kind, job, journal) for kind in _KINDS}
        fit = tuple(feed for feed in map(_decided, job.feeds) if self._is_fit(feed, job, journal))
        if not fit:
            return
        usable = {kind: each or Reference(_TARGETS[kind]) for kind, each in references.items()}
        job = replace(job, feeds=fit, references=References(**usable))
        planner, folder = self._planner(job, journal)
        self._look_at_disk([source for each in planner.sources.values() for source in each])
        self.patients = [(feed, _first(planner.sources[feed.name], feed)) for feed in fit]
        unknown = [kind for kind, reference in references.items() if reference is None]
        self._stand_in(planner, fit, unknown)
        self.is_sure = self.is_sure and not (unknown and self.has_past)
        self._plan(planner, folder, job)

    def _planner(self, job: Job, journal: Journal) -> tuple[Build, Path]:
        """A planner whose files are fit, and its folder. Raises InputError."""
        run = new_run("plan", SystemClock(), self.random)
        while (job.state_dir / "plans" / run.run_id).exists():
            run = new_run("plan", SystemClock(), self.random)
        runs.start_run(journal, run)
        clock, progress, stop = SystemClock(), self.progress, self.stop
        planner = Build(job, run.run_id, journal, clock, progress, stop, InPlace())
        open_files(planner)
        return planner, job.state_dir / "plans" / run.run_id

    def _reference(self, kind: Kind, job: Job, journal: Journal) -> Reference | None:
        """How a kind of reference is resolved here; None where only Canvas knows, or its table is unfit."""
        reference: Reference = getattr(job.references, kind)
        if reference.system:
            return None
        if reference.path is None:
            return reference
        columns = f'"{reference.source_column}" and "{reference.target_column}"'
        if isinstance(reference.path, Path) and not reference.path.is_file():
            self._note(
                "Files",
                f"references.{kind}",
                State.WRONG,
                f"there is no {os.path.normpath(reference.path)}",
                f"make that table with the columns {columns}, or name another in references.{kind}.path",
            )
            return None
        alone = replace(job, feeds=(), references=References(**{kind: reference}))
        try:
            planner, _ = self._planner(alone, journal)
        except IngestError as error:
            self._wrong("Files", f"references.{kind}", error)
            return None
        crosswalk: Crosswalk = getattr(planner.crosswalks, kind)
        table = crosswalk.table or {}
        several = sum(target is None for target in table.values())
        self._note(
            "Files",
            f"references.{kind}",
            State.OK,
            f"{_count(len(table), 'id')} in {Path(reference.path).name}",
        )
        if several:
            self._note(
                "Files",
                f"references.{kind}",
                State.WARNING,
                f"{_count(several, 'id')} with several targets: their rows are rejected",
                "keep one line for each id",
            )
        return reference

    def _is_fit(self, feed: Feed, job: Job, journal: Journal) -> bool:
        """Whether a feed's files can be read at all."""
        alone = replace(job, feeds=(feed,), references=References())
        try:
            planner, _ = self._planner(alone, journal)
        except ColumnsMissing as error:
            for ours, column, near in error.missing:
                self._note(
                    "Files",
                    error.file,
                    State.WRONG,
                    f'no column "{column}", which is mapped to {ours} of {feed.name}',
                    f"did you mean {near}? Change [feeds.columns] of {feed.name}"
                    if near
                    else f"check [feeds.columns] and the delimiter of {feed.name}, and that the file has a header",
                )
            return False
        except InputError as error:
            is_named = Path(error.file).name == error.file
            message = error.message.removeprefix(f"{error.file}: ") if is_named else error.message
            what = error.file if is_named else feed.name
            self._note("Files", what, State.WRONG, message, error.fix)
            return False
        except IngestError as error:
            self._wrong("Files", feed.name, error)
            return False
        for source in planner.sources[feed.name]:
            told = f"{_count(source.rows, 'row')}, {len(source.header)} columns ({feed.name})"
            self._note("Files", source.name, State.OK, told)
        if any(source.is_parquet for source in planner.sources[feed.name]):
            self._look_at_confinement()
        return True

    def _look_at_confinement(self) -> None:
        """Warn if the kernel cannot shut in the process that decodes Parquet files."""
        open_to_it = " and ".join(confinement.lacking())
        if open_to_it and not any(check.what == "Parquet" for check in self.checks):
            self._note(
                "Files",
                "Parquet",
                State.WARNING,
                f"this kernel cannot shut {open_to_it} away from the process that decodes Parquet files "
                "(Landlock shuts files, seccomp the network)",
                "use Linux 5.13 or later, on x86-64 or arm64, with Landlock on and allowed by the container's runtime",
            )

    def _stand_in(self, planner: Build, feeds: Sequence[Feed], kinds: Sequence[str]) -> None:
        """Each id stands for itself where it cannot be looked up, so that all else can be judged."""
        for kind in kinds:
            fields = _FIELDS[kind]
            values = {
                value
                for feed in feeds
                for source in planner.sources[feed.name]
                for batch in read(source)
                for name, texts in texts_of(batch.frame, feed).to_dict().items()
                if name in fields
                for value in texts.drop_nulls().unique()
            }
            table = {value: f"{number:032x}" for number, value in enumerate(sorted(values))}
            crosswalk = Crosswalk(_TARGETS[kind], table)
            planner.crosswalks = replace(planner.crosswalks, **{kind: crosswalk})

    # Rows -----------------------------------------------------------------------------------------

    def _plan(self, planner: Build, folder: Path, job: Job) -> None:
        """All rows, by the code of a plan."""
        exceeded: list[LimitError] = []
        try:
            read_rows(planner)
            only = {feed.name: _left_out(planner.sources[feed.name], feed) for feed in job.feeds}
            try:
                seal(planner)
            except LimitError as error:
                exceeded = [error, *error.others]
            plan = Plan.open(folder)
        except IngestError as error:
            self._wrong("Rows", "rows", error)
            return
        undecided = {feed.name: set(_undecided(feed)) for feed in self.job.feeds}
        for feed in job.feeds:
            if not undecided[feed.name]:
                self._look_at_endings(plan, feed, only[feed.name])
            self._look_at_rules(plan, feed, undecided[feed.name])
        if not any(undecided.values()):
            self._look_at_limits(exceeded)

    def _look_at_endings(self, plan: Plan, feed: Feed, only: Mapping[str, Counter[str]]) -> None:
        """What would become of a feed's rows."""
        meta = plan.meta["feeds"][feed.name]
        counts = Counter(meta["planned"])
        if counts[Disposition.FILTERED.value] == meta["rows_read"]:
            found = "; ".join(
                f"{name}: {spelt(name, spellings, show_values=self.show_values)}"
                for name, spellings in only.items()
            )
            self._note(
                _rows_of(feed),
                "only",
                State.WRONG,
                f"[feeds.only] leaves out all {meta['rows_read']:,} rows",
                f"the file holds {found}. Change [feeds.only] of {feed.name}",
            )
            return
        told = [f"{counts[word.value]:,} {text}" for word, text in _ENDINGS if counts[word.value]]
        rejects = f"a plan lists what is rejected in rejects-{feed.name}.csv, to be mended"
        is_rejected = counts[Disposition.REJECTED.value]
        self._note(
            _rows_of(feed), "rows", State.OK, ", ".join(told), rejects if is_rejected else ""
        )
        for each in warnings_of({feed.name: meta}):
            self._note(
                _rows_of(feed),
                each["rule"],
                State.WARNING,
                each["message"],
                "see that this is meant so",
            )
        for notice in plan.meta["notices"]:
            if notice["feed"] == feed.name:
                what, _, fix = notice["message"].partition(": ")
                self._note(_rows_of(feed), notice["rule"], State.WARNING, what, fix)

    def _look_at_rules(self, plan: Plan, feed: Feed, undecided: Collection[str]) -> None:
        """The rules that its rows break; not of fields whose column is still to be decided."""
        meta = plan.meta["feeds"][feed.name]
        judged = meta["rows_read"] - meta["planned"][Disposition.FILTERED.value]
        for broken in diagnose(plan, feed, show_values=self.show_values):
            if broken.rule.partition("|")[0] in undecided:
                continue
            is_grave = broken.is_configuration or broken.count > _SHARE_WRONG * judged
            self._note(
                _rows_of(feed),
                broken.rule,
                State.WRONG if is_grave else State.WARNING,
                f"{_count(broken.count, 'row')} ({broken.where}): {broken.message}",
                broken.todo,
            )

    def _look_at_limits(self, exceeded: Sequence[LimitError]) -> None:
        """Where the journal was not seen, or its ids are not known, only a plan can tell for sure."""
        for error in exceeded:
            state = State.WRONG if self.is_sure else State.WARNING
            self._note("Limits", "limits", state, error.message, error.fix)
        if not exceeded:
            self._note("Limits", "limits", State.OK, _limits_text(self.job))

    # Canvas ---------------------------------------------------------------------------------------

    def look_at_secrets(self, no_secrets: ConfigError | None) -> None:
        """What there is to get in with."""
        credentials = self.job.canvas.credentials
        if no_secrets is not None:
            self._wrong("Secrets", "secrets", no_secrets)
            return
        try:
            credentials.require()
        except ConfigError as error:
            self._wrong("Secrets", "secrets", error)
            return
        self._note("Secrets", "secrets", State.OK, f"{credentials.named}: there")

    async def ask_canvas(self) -> None:
        """Its address, its clock, a token, the scope, and a search of each resource type."""
        hosts = {
            urlsplit(url).hostname
            for url in (self.job.canvas.base_url, self.job.canvas.credentials.token_url)
        }
        if hosts & EXAMPLE_HOSTS:
            self._note(
                "Canvas",
                "canvas.base_url",
                State.WRONG,
                "still to be decided: it names the example's host",
                "set canvas.base_url and canvas.token_url to your instance",
            )
            return
        async with self._connected() as client:
            if not await self._look_at_proxy(client):
                return
            is_there = await self._look_at_host(client)
            if (
                self.job.canvas.credentials.are_given
                and await self._look_at_token(client)
                and is_there
            ):
                await self._look_at_access(client)
        if self.is_beside_run:
            self._note_requests(len(client.exchanges))

    def _note_requests(self, asked: int) -> None:
        """Say that a check has a limiter of its own: it does not share the rate of a run."""
        self._note(
            "Canvas",
            "rate",
            State.WARNING,
            f"a run is using this journal: {_count(asked, 'request')} of this check came on top of the run's "
            "upload.rate_per_s",
            "check again once the run has ended if Canvas must not get more",
        )

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        options = replace(self.job.canvas, timeout_s=min(self.job.canvas.timeout_s, _TIMEOUT_S_MAX))
        async with transport_of(options) as transport:
            client = Client(options, transport, SystemClock(), self.random)
            stopping = asyncio.ensure_future(self._stop(client))
            try:
                yield client
            finally:
                stopping.cancel()

    async def _stop(self, client: Client) -> None:
        await self.stop.wait()
        client.stop()

    async def _ask(self, what: str, asked: Awaitable[str]) -> bool:
        """Note how a question to Canvas came out. Returns whether it was answered well."""
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(self.step_s_max):
                told = await asked
        except TimeoutError:
            error: CanvasError = Unreachable(
                f"no good answer within {time.monotonic() - started_s:.0f} s",
                "check canvas.base_url, canvas.token_url and the network; Canvas may be down",
            )
        except CanvasError as found:
            error = found
        else:
            self._note("Canvas", what, State.OK, told)
            return True
        self._wrong("Canvas", what, error)
        return False

    async def _look_at_proxy(self, client: Client) -> bool:
        """Note whether the proxy lets us through. Returns False if nothing beyond it can be asked."""
        proxy, unused = self.job.canvas.proxy, self.job.canvas.unused_proxy
        if unused:
            todo = "set canvas.proxy if the proxy is the only way out"
            self._note("Canvas", "proxy", State.WARNING, unused, todo)
        if proxy is None:
            return True

        async def ask() -> str:
            await client.reach()
            how = "with CANVAS_PROXY_USERNAME" if proxy.username else "without credentials"
            return f"{proxy.address} lets requests through, {how}"

        return await self._ask("proxy", ask())

    async def _look_at_host(self, client: Client) -> bool:
        async def ask() -> str:
            statement = await client.capabilities()
            version = str(statement.get("fhirVersion"))
            return f"{self.job.canvas.base_url} is a FHIR server" + (
                f" ({version})" if version in _FHIR_VERSIONS else ""
            )

        if not await self._ask("host", ask()):
            return False
        ahead = client.server_clock.ahead
        if ahead is None:
            self._note("Canvas", "clock", State.OK, "Canvas tells no time to compare with")
        elif abs(ahead) > _SKEW_MAX:
            side = "behind" if ahead > timedelta() else "ahead of"
            self._note(
                "Canvas",
                "clock",
                State.WARNING,
                f"the clock of this machine is {abs(ahead).total_seconds():,.0f} s {side} that of Canvas",
                "set it by NTP: without a `posted_on` or `start_on` today's day is taken from it",
            )
        else:
            self._note("Canvas", "clock", State.OK, "agrees with this machine's")
        return True

    async def _look_at_token(self, client: Client) -> bool:
        scopes: list[str] = []

        async def sign_in() -> str:
            scopes.append(await client.sign_in())
            return "CANVAS_TOKEN is used" if self.job.canvas.credentials.token else "given"

        is_given = await self._ask("token", sign_in())
        if is_given and scopes[0]:
            self._look_at_scope(scopes[0])
        return is_given

    async def _look_at_access(self, client: Client) -> None:
        is_searched = bool(self.job.references.patient.system)
        for resource_type in [*self._types(), *(["Patient"] if is_searched else [])]:

            async def probe(name: str = resource_type) -> str:
                await client.probe(name)
                return "can be searched"

            if not await self._ask(resource_type, probe()):
                is_searched = is_searched and resource_type != "Patient"
        if self.stamped:
            self._note_skew(await measure(client, self.stamped))
        if is_searched:
            await self._look_up_some(client)

    def _note_skew(self, skew: Skew | None) -> None:
        """Note how far the `Date` of answers is from the clock that stamps payments."""
        what, group = "clock of Date", "Canvas"
        if skew is None:
            told = "the last payments do not show how far it is from the clock that stamps them"
            self._note(group, what, State.OK, told)
        elif skew.is_none:
            self._note(group, what, State.OK, "agrees with the clock that stamps payments")
        else:
            side = "behind" if skew.most > timedelta() else "ahead of"
            seconds = round(abs((skew.least + skew.most) / 2).total_seconds())
            self._note(
                group,
                what,
                State.WARNING,
                f"the Date of answers was {_count(seconds, 'second')} {side} the clock that stamps payments: "
                "a gateway replaces it",
                "have the gateway pass on the Date of Canvas (nginx: proxy_pass_header Date), or set its clock by NTP",
            )

    def _types(self) -> list[str]:
        return sorted({feed.traits.resource_type for feed in self.job.feeds})

    def _look_at_scope(self, scope: str) -> None:
        """A warning at most: how a system-wide writer is authorised Canvas does not say."""
        types = self._types()
        missing = [
            f"{name}.{right}"
            for name in types
            for right in ("read", "write")
            if not _grants(scope, name, right)
        ]
        if missing:
            self._note(
                "Canvas",
                "scope",
                State.WARNING,
                f"the token's scope does not name {', '.join(missing)}",
                "give the application these scopes in Canvas, or set canvas.scope",
            )
        else:
            self._note("Canvas", "scope", State.OK, f"holds {', '.join(types)}")

    async def _look_up_some(self, client: Client) -> None:
        """Search for a few of the files' patients."""
        system = self.job.references.patient.system
        values: set[str] = set()
        for feed, frame in self.patients:
            values.update(texts_of(frame, feed)["patient"].drop_nulls())
        missing = 0

        async def look() -> str:
            nonlocal missing
            found = await lookup(self.patients, system, client, self.job.canvas.concurrency)
            missing = sum(value not in found for value in values)
            return (
                f"{len(values) - missing} of the first {_count(len(values), 'patient')} are there"
            )

        if not values or not await self._ask("patients", look()) or not missing:
            return
        told = self.checks.pop()
        self.checks.append(
            replace(
                told,
                state=State.WRONG if missing == len(values) else State.WARNING,
                todo="check references.patient.system, and that these patients are in Canvas; `plan` looks up all",
            )
        )


_KINDS: Final[tuple[Kind, ...]] = ("patient", "payer", "claim")
_TARGETS: Final[dict[str, Any]] = {"patient": "key", "payer": "payer_id", "claim": "key"}
_FIELDS: Final = {"patient": {"patient", "subscriber"}, "payer": {"payer"}, "claim": {"claim"}}
_FHIR_VERSIONS: Final = {"4.0.0", "4.0.1"}
_ENDINGS: Final = (
    (Disposition.PENDING, "to be sent"),
    (Disposition.UNCHANGED, "unchanged"),
    (Disposition.FILTERED, "filtered"),
    (Disposition.DUPLICATE, "duplicate"),
    (Disposition.REJECTED, "rejected"),
    (Disposition.IN_DOUBT, "in doubt"),
    (Disposition.REFUSED, "refused"),
)


def _nearest(folder: Path) -> Path:
    """The folder, or the first one above it that is there."""
    there = folder
    while not there.exists() and not there.is_symlink() and there != there.parent:
        there = there.parent
    return there


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004 - as the units have it
            return f"{size:,.0f} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number:,} {what}s"


def _first(sources: Sequence[Source], feed: Feed) -> pl.DataFrame:
    """A few rows of a feed, of those that `only` keeps."""
    batch = next(read(sources[0]))
    return batch.frame.filter(wanted(texts_of(batch.frame, feed), feed)).head(_LOOKED_UP)


def _rows_of(feed: Feed) -> str:
    return f"Rows of {feed.name}"


def _undecided(feed: Feed) -> list[str]:
    """Our fields whose column a person has still to name."""
    return [ours for ours, column in feed.columns.items() if column.startswith(UNDECIDED)]


def _decided(feed: Feed) -> Feed:
    """The feed with what is decided of its columns."""
    undecided = _undecided(feed)
    columns = {ours: name for ours, name in feed.columns.items() if ours not in undecided}
    return replace(feed, columns=columns) if undecided else feed


def _left_out(sources: Sequence[Source], feed: Feed) -> dict[str, Counter[str]]:
    """The spellings of the fields of `only`, where it leaves out all rows; else nothing."""
    found: dict[str, Counter[str]] = {name: Counter() for name in feed.only}
    for source in sources if found else ():
        for batch in read(source):
            texts = texts_of(batch.frame, feed)
            if wanted(texts, feed).any():
                return {}
            for name, counts in found.items():
                counts.update(texts[name].fill_null("").to_list())
    return found


def _grants(scope: str, resource_type: str, right: str) -> bool:
    """Whether a SMART scope holds `<context>/<type>.read` or `.write`, or a wider one, or version 2's letters."""
    letters = "rs" if right == "read" else "cu"
    for name in scope.split():
        granted, _, rights = name.partition("/")[2].partition(".")
        if granted in {resource_type, "*"}:
            rights = rights.partition("?")[0]
            is_wide = rights in {right, "*"}
            if is_wide or (rights not in {"read", "write"} and set(letters) <= set(rights)):
                return True
    return False


def _limits_text(job: Job) -> str:
    limits = job.limits
    named = {
        "rejects_max": limits.rejects_max,
        "amount_usd_max": limits.amount_cents_max,
        "total_usd_max": limits.total_cents_max,
        "writes_max": limits.writes_max,
        "repeats_max": limits.repeats_max,
        "change_max": limits.change_max,
    }
    given = [name for name, value in named.items() if value is not None]
    return f"none is exceeded ({', '.join(given)})" if given else "none is set"
