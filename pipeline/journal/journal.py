"""The journal: one connection to its store, one thread, one transaction a group of writes.

A failed commit ends the run: what cannot be written down must not be sent. What it is kept in, SQLite
or PostgreSQL, is `store.py`'s; what may follow what is held by the database itself in both.
"""

import asyncio
import importlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Self, TypeVar

import orjson
import polars as pl

from pipeline.clock import utc_text
from pipeline.errors import ConfigError, JournalError, JournalForeign, JournalLost
from pipeline.files import FOLDER_MODE
from pipeline.journal import loss_detection as amnesia
from pipeline.journal import states
from pipeline.journal.audit_log import ORIGIN, Event, Line, first_break, link
from pipeline.journal.evidence import Contradictions, Group, contradictions
from pipeline.journal.loss_detection import HighWaterMark
from pipeline.journal.settling import Settling, settling
from pipeline.journal.sqlite import SqlitePlace
from pipeline.journal.store import RUN, Cursor, Database, Place, Store
from pipeline.records import (
    Attempt,
    Doubt,
    Exchange,
    Finding,
    Held,
    Intent,
    Interaction,
    LastHeld,
    PayerEvidence,
    Stamped,
    State,
)

T = TypeVar("T")

_KEYS_A_QUERY: Final = 10_000
_LINES_A_QUERY: Final = 50_000
_ANCHOR_EVERY_S: Final = 1.0
# How long a run that was killed may have gone on after its last line: a request's time and a pause.
_AFTER_LAST_SIGN: Final = timedelta(seconds=60)

_KNOWN_SCHEMA: Final = dict.fromkeys(("key", "state", "fingerprint", "resource_id"), pl.String)
_WRITES_SCHEMA: Final = {
    "key": pl.String,
    "state": pl.String,
    "run_id": pl.String,
    "interaction": pl.String,
    "attempts": pl.Int64,
    "resource_id": pl.String,
    "rule": pl.String,
    "message": pl.String,
    "http_status": pl.Int64,
    "correlation_id": pl.String,
    "sent_at": pl.String,
    "settled_at": pl.String,
    "amount_cents": pl.Int64,
}
_AMOUNTS_SCHEMA: Final = {
    **dict.fromkeys(("key", "run_id", "feed", "interaction"), pl.String),
    "amount_cents": pl.Int64,
}
_EXCHANGES_SCHEMA: Final = {
    "purpose": pl.String,
    "attempt": pl.Int64,
    "sent_at": pl.String,
    "latency_ms": pl.Float64,
    "http_status": pl.Int64,
    "verdict": pl.String,
}
_RANKS_SCHEMA: Final = {
    "lane": pl.String,
    "key": pl.String,
    "feed": pl.String,
    "resource_id": pl.String,
    "rank": pl.Int64,
    "state": pl.String,
    "displaced": pl.Int64,
    "held_at": pl.String,
    "sent_at": pl.String,
}
_ACTIVE_SCHEMA: Final = dict.fromkeys(
    ("key", "feed", "lane", "resource_id", "held", "held_run", "state"), pl.String
)
_HELD_SCHEMA: Final = dict.fromkeys(("key", "feed", "held", "held_run"), pl.String)
_PAYMENTS_SCHEMA: Final = {
    "lane": pl.String,
    "key": pl.String,
    "feed": pl.String,
    "amount_cents": pl.Int64,
    "claim": pl.String,
    "day": pl.String,
    "sent_day": pl.String,
}
_COVERAGES_SCHEMA: Final = dict.fromkeys(("lane", "key", "feed", "held", "held_run"), pl.String)
_CONFIRMED_SCHEMA: Final = {
    "key": pl.String,
    "feed": pl.String,
    "resource_type": pl.String,
    "lane": pl.String,
    "resource_id": pl.String,
    "amount_cents": pl.Int64,
    "claim": pl.String,
    "run_id": pl.String,
    "fingerprint": pl.String,
}


@dataclass(frozen=True, slots=True)
class Run:
    """One run as the journal knows it. `exit_code` None: it never came to its end."""

    run_id: str
    command: str
    started_at: str
    finished_at: str | None = None
    exit_code: int | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What one process did of a part of a run. `ended` "": it did not come to its end."""

    part: int
    epoch: int
    holder: str  # host, process, and the machine's start
    first_line: int  # of the part's trail: its own come after it
    taken_at: str
    ended_at: str | None
    ended: str
    counts: Mapping[str, int]  # by disposition, as far as it told


@dataclass(frozen=True, slots=True)
class Count:
    """How many writes of a kind are held, their amounts, and from when to when they were settled."""

    state: State
    resource_type: str
    count: int
    cents: int
    oldest: str | None
    youngest: str | None


class Journal:
    """One Canvas' journal, held exclusively from `open` to `close`; or a part of it, from `join` on."""

    def __init__(self, store: Store, pool: Executor, folder: Path) -> None:
        self._store = store
        self._pool = pool
        self.folder = folder
        self._sql = store.sql
        self._broken: JournalError | None = (
            None  # what came in between; nothing is written after it
        )
        self._head: tuple[int, str] = (0, ORIGIN)  # number and hash of our last line of the trail
        self._anchored_s = float("-inf")
        self._is_loss_accepted = False  # a person said to go on without what was lost
        meta, head = self._read(
            lambda: (
                dict(self._execute("meta", {}).fetchall()),
                self._execute("head", {"part": store.part}).fetchone(),
            )
        )
        self.name = str(meta["journal"])
        self.base_url = str(meta["base_url"])
        self.loss = str(meta.get("loss", ""))  # how it was lost, if it was
        self.was_lost = bool(self.loss)  # then rows that it does not know may be in Canvas
        if head is not None:
            self._head = (int(head[0]), str(head[1]))

    # Opening --------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        folder: Path,
        base_url: str,
        report_dir: Path | None = None,
        *,
        database: Database | None = None,
        after_loss_by: str = "",
    ) -> Self:
        """Open the journal in `folder`, or in a database; or make it where none was before.

        `report_dir` is looked at for traces of runs that the journal does not know. `after_loss_by`:
        the person who says to go on without what is lost. Raises JournalBusy if another run holds it,
        JournalForeign if it belongs to another `base_url`, JournalLost if it is not what the last
        run left, JournalError if it cannot be trusted or read.
        """
        return cls._at(_place(folder, database), folder, base_url, report_dir, after_loss_by)

    @classmethod
    def _at(
        cls,
        place: Place,
        folder: Path,
        base_url: str,
        report_dir: Path | None,
        after_loss_by: str = "",
    ) -> Self:
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        try:
            after_loss = bool(after_loss_by)
            connect = partial(_connect, place, folder, base_url, report_dir, after_loss=after_loss)
            store = pool.submit(connect).result()
            try:
                journal = cls(store, pool, folder)
                if after_loss:
                    journal._is_loss_accepted = True
                    journal._note_loss(after_loss_by)
                journal._anchor()
            except BaseException:
                pool.submit(store.close).result()
                raise
        except OSError as error:
            pool.shutdown()
            raise JournalError(
                f"{folder} cannot be written: {error.strerror}",
                "check the disk of state.dir (space, permissions), then run again",
            ) from None
        except BaseException:
            pool.shutdown()
            raise
        return journal

    @classmethod
    def open_to_move(
        cls,
        folder: Path,
        base_url: str,
        report_dir: Path | None = None,
        *,
        database: Database | None = None,
    ) -> Self:
        """Open a journal that is bound to another address than `base_url`, to `move` it there.

        Raises:
            ConfigError: There is no journal, or it is bound to `base_url`.
            JournalError: As `open`.
        """
        place = _place(folder, database)
        if place.is_empty():
            raise ConfigError(
                "there is no journal here to be moved", "check state.dir and state.url"
            )
        try:
            cls._at(place, folder, base_url, report_dir).close()
        except JournalForeign as error:
            return cls._at(place, folder, error.base_url, report_dir)
        raise ConfigError(
            f"the journal belongs to {base_url} already", "there is nothing to move: run as usual"
        )

    @classmethod
    def join(
        cls,
        folder: Path,
        base_url: str,
        database: Database | None,
        part: int,
        run_epoch: int,
        counts: Callable[[], Mapping[str, int]],
    ) -> Self:
        """Hold a part of the run whose lease has that epoch, from now on until `close`.

        A holder that is gone is waited for. `counts` tells how far it came, for whoever watches. Raises
        JournalBusy where another process holds the part, or the run has ended.
        """
        if database is None:
            raise ConfigError(
                "the parts of a run need a journal that several processes can reach",
                "set [state] url to a PostgreSQL database",
            )
        module = postgres()
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        try:
            place = module.PostgresPlace(database, module.Asked(part, run_epoch, counts))
            return cls(pool.submit(place.open, base_url).result(), pool, folder)
        except BaseException:
            pool.shutdown()
            raise

    @classmethod
    def look(
        cls,
        folder: Path,
        base_url: str,
        report_dir: Path | None,
        scratch: Path,
        *,
        database: Database | None = None,
    ) -> Self:
        """The journal as it stands, with all else of `folder` in the new folder `scratch`; or a new one there.

        Nothing is written in `folder`, and what is done to the journal is lost. The plans come as
        links. Raises as `open`.
        """
        scratch.mkdir(mode=FOLDER_MODE)
        (scratch / "plans").mkdir(mode=FOLDER_MODE)
        place = _place(folder, database)
        try:
            if place.is_empty():
                if _was_there(folder, base_url, report_dir):
                    raise amnesia.lost("missing")
                return cls.open(scratch, base_url, report_dir)
            copied = place.to_look_at(scratch)
            if (folder / amnesia.ANCHOR).exists():
                shutil.copyfile(folder / amnesia.ANCHOR, scratch / amnesia.ANCHOR)
            if (folder / "plans").is_dir():
                for plan in (folder / "plans").resolve().iterdir():
                    (scratch / "plans" / plan.name).symlink_to(plan, target_is_directory=True)
        except OSError as error:
            raise JournalError(
                f"{folder} cannot be read: {error.strerror}",
                "check the permissions of state.dir, and the space for temporary files",
            ) from None
        return cls._at(copied, scratch, base_url, report_dir)

    def _note_loss(self, who: str) -> None:
        at = datetime.now(UTC)
        self._write_now(lambda: self._append(at, "", Event.LOSS, detail=self.loss, who=who))

    def move(self, run_id: str, base_url: str, at: datetime, who: str) -> None:
        """Bind it to another address of the same Canvas."""

        def move() -> None:
            self._execute("set_meta", {"name": "base_url", "value": base_url})
            detail = f"{self.base_url} -> {base_url}"
            self._append(at, run_id, Event.MOVED, detail=detail, who=who)

        self._write_now(move)
        self.base_url = base_url

    def close(self) -> None:
        """Let it go, once a transaction that may still be under way has ended."""

        def close() -> None:
            if self._broken is None:
                with suppress(OSError):
                    self._anchor()
            self._store.close()

        self._pool.submit(close).result()
        self._pool.shutdown()

    def _anchor(self) -> None:
        if self._store.part != RUN:
            return
        amnesia.write_anchor(self.folder, HighWaterMark(self.name, *self._head))
        self._anchored_s = time.monotonic()

    def __enter__(self) -> Self:
        """Use it as a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    # Sending --------------------------------------------------------------------------------------

    async def claim(
        self, run_id: str, intents: Sequence[Intent], at: datetime, since: datetime | None
    ) -> None:
        """PENDING -> IN_FLIGHT for a group, in one durable transaction, before any of it is sent.

        `since` is the server's clock at that moment, at the earliest; None: not known.
        """
        at_text = utc_text(at)
        claimed = {
            "at": at_text,
            "since": _instant_text(since),
            "ahead_s": None if since is None else (since - at).total_seconds(),
            "part": self._store.part,
        }

        def claim() -> None:
            self._open(intents)
            self._each("claim", [{**_entered(intent), **claimed} for intent in intents])
            self._append_all(_line(at_text, run_id, Event.CLAIM, key=each.key) for each in intents)

        await self._write(claim)

    async def take_back(self, run_id: str, intents: Sequence[Intent], at: datetime) -> None:
        """REFUSED -> PENDING: the refusal turned out not to be about these rows."""
        if not intents:
            return
        at_text = utc_text(at)
        detail = "refused like all others"

        def take_back() -> None:
            self._open(intents)
            self._append_all(
                _line(at_text, run_id, Event.RELEASE, key=each.key, detail=detail)
                for each in intents
            )

        await self._write(take_back)

    def _open(self, intents: Sequence[Intent]) -> None:
        """REFUSED -> PENDING: tried anew. CONFIRMED -> PENDING: to be updated."""
        for interaction in Interaction:
            keys = [each.key for each in intents if each.interaction is interaction]
            if keys:
                opened = {"keys": _json(keys), "interaction": interaction.value}
                self._execute("open_again", opened)

    async def settle(
        self,
        run_id: str,
        attempts: Sequence[Attempt],
        at: datetime,
        *,
        unsent: Sequence[Intent] = (),
        asked: Sequence[Exchange] = (),
    ) -> list[tuple[State, int]]:
        """Write down what answers came to. Returns the state of each write, and its attempts so far.

        In the same transaction claims that were never handed to a socket are taken back (`unsent`), and
        requests that were no writes of rows are noted (`asked`). An id that another row already has is
        no proof: that write is in doubt.
        """
        if not (attempts or unsent or asked):
            return []

        at_text = utc_text(at)

        def settle() -> list[tuple[State, int]]:
            self._record(run_id, asked)
            self._each("release", [{"key": each.key} for each in unsent])
            self._append_all(_line(at_text, run_id, Event.RELEASE, key=each.key) for each in unsent)
            return self._settle(run_id, attempts, at_text)

        return await self._write(settle)

    def _settle(self, run_id: str, attempts: Sequence[Attempt], at: str) -> list[tuple[State, int]]:
        keys = _json([attempt.intent.key for attempt in attempts])
        numbers = dict(self._all("attempts", {"keys": keys}))
        proved = self._proved(attempts)
        ends, lines, entries = [], [], []
        for attempt, is_proved in zip(attempts, proved, strict=True):
            intent, exchange = attempt.intent, attempt.exchange
            state, rule, message = states.settled(attempt.verdict), attempt.rule, attempt.message
            if state is State.CONFIRMED and not is_proved:
                state, rule = State.IN_DOUBT, "canvas|id-of-another-row"
                message = "Canvas answered with the id of another row's resource"
            lines.append(
                {
                    "key": intent.key,
                    "state": state.value,
                    "resource_id": attempt.resource_id if state is State.CONFIRMED else None,
                    "rule": rule,
                    "message": message,
                    "since": _instant_text(attempt.since),
                    "until": _instant_text(attempt.until),
                    "dated": None if exchange.dated is None else _second_text(exchange.dated),
                    "http_status": exchange.http_status,
                    "correlation_id": exchange.correlation_id,
                    "sent_at": utc_text(exchange.sent_at),
                    "settled_at": at,
                }
            )
            number = numbers.get(intent.key, 0)
            entries.append(
                _request(
                    run_id,
                    exchange,
                    key=intent.key,
                    attempt=number,
                    verdict=attempt.verdict.value,
                    resource_id=attempt.resource_id,
                )
            )
            ends.append((state, number))
        self._each("settle", lines)
        self._append_all(entries)
        return ends

    def _proved(self, attempts: Sequence[Attempt]) -> list[bool]:
        """Whether the id in each answer is that write's own: no other's, in the journal or among these."""
        answers = _answers([(each.intent, each.resource_id) for each in attempts])
        taken = {line[0] for line in self._all("ids_of_others", {"answers": answers})}
        proved, given = [], set[tuple[str, str]]()
        for each in attempts:
            resource = (each.intent.resource_type, each.resource_id)
            proved.append(each.intent.key not in taken and resource not in given)
            if proved[-1]:
                given.add(resource)
        return proved

    async def record(self, run_id: str, exchanges: Sequence[Exchange]) -> None:
        """Write down requests that were no writes of rows."""
        if exchanges:
            await self._write(lambda: self._record(run_id, exchanges))

    def _record(self, run_id: str, exchanges: Sequence[Exchange]) -> None:
        self._append_all(_request(run_id, exchange, attempt=1) for exchange in exchanges)

    def may_send(self) -> bool:
        """Whether what is claimed may be handed to a socket at this very moment."""
        return self._store.may_send()

    # Settling doubt -------------------------------------------------------------------------------

    async def found(
        self, run_id: str, intent: Intent, finding: Finding, at: datetime, who: str = ""
    ) -> bool:
        """IN_DOUBT -> CONFIRMED. False, and nothing changes, where another row has that resource."""
        answers = _answers([(intent, finding.resource_id)])

        def found() -> bool:
            if self._all("ids_of_others", {"answers": answers}):
                return False
            self._decide(run_id, Event.FOUND, intent, finding, at, who)
            return True

        return await self._write(found)

    async def absent(
        self, run_id: str, intent: Intent, finding: Finding, at: datetime, who: str = ""
    ) -> None:
        """IN_DOUBT -> PENDING: it may be sent again."""
        await self._write(lambda: self._decide(run_id, Event.ABSENT, intent, finding, at, who))

    async def still_absent(
        self, run_id: str, intent: Intent, finding: Finding, at: datetime
    ) -> None:
        """Note that a further search shows that it is not there; it stays PENDING."""
        line = {"key": intent.key, "detail": _evidence(finding)}
        await self._write(lambda: self._append(at, run_id, Event.ABSENT, **line))

    async def unclear(self, run_id: str, intent: Intent, finding: Finding, at: datetime) -> None:
        """It stays IN_DOUBT, and this is why."""
        await self._write(lambda: self._decide(run_id, Event.UNCLEAR, intent, finding, at, ""))

    async def forget_times(self, contradicts: Callable[[timedelta], bool]) -> None:
        """Note of which unsettled writes the times prove nothing, because a clock was set since.

        No later run goes by them, even if that clock was set back by then.

        Args:
            contradicts: Whether a clock was set since the server's was that far ahead of ours.
        """

        def forget() -> None:
            times = self._all("unsettled_times", {"part": self._store.part})
            keys = [key for key, ahead_s in times if contradicts(timedelta(seconds=ahead_s))]
            if keys:
                self._execute("forget_times", {"keys": _json(keys)})

        await self._write(forget)

    async def suspected(self, run_id: str, intent: Intent, finding: Finding, at: datetime) -> None:
        """PENDING -> IN_DOUBT, never sent: the journal was lost, and Canvas holds one like it.

        Or it is an update, and it is not known when Canvas held what we think it holds.
        """

        def suspect() -> None:
            self._enter([intent])
            self._decide(run_id, Event.SUSPECTED, intent, finding, at, "")

        await self._write(suspect)

    async def conflict(self, run_id: str, intent: Intent, finding: Finding, at: datetime) -> None:
        """IN_DOUBT -> REFUSED: somebody else edited the resource that we were to update."""
        await self._write(lambda: self._decide(run_id, Event.CONFLICT, intent, finding, at, ""))

    async def adopt(
        self, run_id: str, intents: Sequence[Intent], finding: Finding, at: datetime
    ) -> None:
        """PENDING -> CONFIRMED: what Canvas held already, as it stands in the file, is ours now."""

        def adopt() -> None:
            self._enter(intents)
            for intent in intents:
                found = replace(finding, resource_id=intent.resource_id, held_at=intent.held_at)
                self._decide(run_id, Event.ADOPTED, intent, found, at, "")

        await self._write(adopt)

    async def abandoned(
        self, run_id: str, intent: Intent, finding: Finding, at: datetime, who: str
    ) -> None:
        """IN_DOUBT -> ABANDONED: the machine never sends it again."""
        await self._write(lambda: self._decide(run_id, Event.ABANDONED, intent, finding, at, who))

    async def gone(
        self,
        run_id: str,
        intent: Intent,
        finding: Finding,
        at: datetime,
        since: datetime | None,
        who: str,
    ) -> None:
        """CONFIRMED -> PENDING: `who` declared that Canvas no longer has the resource.

        In one transaction the resource is listed as not ours, and the write gives it up. A payment is
        then owed, as after `absent`: a run that finds it so sends it, even if this process dies here.

        Args:
            run_id: The run that decides.
            intent: The write, with its resource.
            finding: What Canvas showed right before.
            at: The instant of the decision.
            since: The server's clock at that instant, at the earliest; None: not known.
            who: The person.
        """
        resource = {
            "resource_type": intent.resource_type,
            "resource_id": intent.resource_id,
            "lane": intent.lane,
            "run_id": run_id,
        }
        decided = {
            "key": intent.key,
            "resource_id": intent.resource_id,
            "rule": finding.rule,
            "message": finding.message,
            "since": _instant_text(since),
            "ahead_s": None if since is None else (since - at).total_seconds(),
        }

        def give_up() -> None:
            self._execute("note_foreign", resource)
            self._each("gone", [decided])
            self._append(
                at,
                run_id,
                Event.GONE,
                key=intent.key,
                resource_id=intent.resource_id,
                detail=_evidence(finding),
                who=who,
            )

        await self._write(give_up)

    def gone_ids(self) -> set[str]:
        """Return the ids of the resources that persons declared gone."""
        return {line[0] for line in self._read(partial(self._all, "gone_ids", {}))}

    def _decide(
        self, run_id: str, event: Event, intent: Intent, finding: Finding, at: datetime, who: str
    ) -> None:
        decided = {
            "key": intent.key,
            "rule": finding.rule,
            "message": finding.message,
            "resource_id": finding.resource_id,
            "held_at": _instant_text(finding.held_at),
            "at": utc_text(at),
        }
        if who:
            self._reopen(run_id, intent, at, who)
        statement = "suspect" if event is Event.SUSPECTED else event.value
        self._each(statement, [decided])
        self._append(
            at,
            run_id,
            event,
            key=intent.key,
            resource_id=finding.resource_id,
            detail=_evidence(finding),
            who=who,
        )

    def _enter(self, intents: Sequence[Intent]) -> None:
        self._open(intents)
        for intent in intents:
            self._execute("enter", _entered(intent))

    def _reopen(self, run_id: str, intent: Intent, at: datetime, who: str) -> None:
        """A person may also decide on what was given up, and on what is still to be sent again."""
        (state,) = self._execute("state", {"key": intent.key}).fetchone()
        event = {State.ABANDONED.value: Event.REOPENED, State.PENDING.value: Event.SUSPECTED}.get(
            state
        )
        if event is not None:
            self._each("reopened", [{"key": intent.key}])
            self._append(at, run_id, event, key=intent.key, who=who)

    async def note_foreign(
        self,
        run_id: str,
        resource_type: str,
        lane: str,
        ids: Iterable[str],
        at: datetime,
        who: str = "",
    ) -> None:
        """These resources of a patient are not ours: they were there before, or a person says so."""

        def note() -> None:
            line = {"resource_type": resource_type, "lane": lane, "run_id": run_id}
            for resource_id in ids:
                self._execute("note_foreign", {**line, "resource_id": resource_id})
                self._append(
                    at,
                    run_id,
                    Event.FOREIGN,
                    resource_id=resource_id,
                    detail=resource_type,
                    who=who,
                )

        await self._write(note)

    def learn_payers(self, run_id: str, evidence: Iterable[PayerEvidence], at: datetime) -> None:
        """Note which Organization each payer id is, and what showed it. Known pairs are left as they are.

        What a table of `references.payer` names takes the place of what it named before.
        """

        def learn() -> None:
            for each in evidence:
                seen = {**each._asdict(), "run_id": run_id, "at": utc_text(at)}
                if not each.key:
                    self._execute("forget_payer", seen)
                if self._execute("learn_payer", seen).rowcount:
                    named = {"key": each.key, "resource_id": each.resource_id}
                    pair = f"{each.payer_id} {each.organization}"
                    self._append(at, run_id, Event.LEARNED, **named, detail=pair)

        self._write_now(learn)

    def payers_seen(self) -> list[tuple[str, str]]:
        """Return all pairs of a payer id and the reference of an Organization that was shown for it."""
        return self._read(lambda: self._all("payers_seen", {}))

    async def claimed(self, resource_type: str, lane: str, ids: Iterable[str]) -> set[str]:
        """Which of a patient's resources belong to a row already, or are known not to be ours."""
        listed = {"resource_type": resource_type, "lane": lane, "ids": _json(list(ids))}
        return await self._write(
            lambda: {line[0] for line in self._execute("claimed", listed).fetchall()}
        )

    async def doubt(self, key: str) -> Doubt | None:
        """One write as whoever settles it needs it, without its body."""
        found = await self._write(
            lambda: self._execute("doubts_of", {"keys": _json([key])}).fetchone()
        )
        return None if found is None else _doubt(found)

    def doubts(self) -> list[Doubt]:
        """All writes in doubt, and those that are to be sent again and were not yet; those of our part."""
        part = {"part": self._store.part}
        return [_doubt(line) for line in self._read(partial(self._all, "doubts", part))]

    async def held_at(self, keys: Iterable[str]) -> dict[str, LastHeld]:
        """Return by key what is known about when Canvas held what we think it holds."""
        listed = {"keys": _json(list(keys))}
        lines = await self._write(lambda: self._execute("held_at", listed).fetchall())
        return {
            key: LastHeld(at=_instant(at), run_id=run_id, is_edited=bool(is_edited))
            for key, at, run_id, is_edited in lines
        }

    def stamped(self, run_id: str) -> list[Stamped]:
        """Return the last payments, up to 8, that Canvas confirmed by their answers in a run."""
        lines = self._read(partial(self._all, "stamped", {"run_id": run_id}))
        return [
            Stamped(resource_id, *(datetime.fromisoformat(each) for each in times))
            for resource_id, *times in lines
        ]

    async def has_sibling_since(self, key: str) -> bool:
        """Whether we wrote another coverage of the patient since this one: it may have moved it."""
        return await self._write(
            lambda: self._execute("sibling_since", {"key": key}).fetchone() is not None
        )

    def lost_updates(self) -> frozenset[str]:
        """Return the keys of coverages of which an answer was lost since their last confirmed write.

        It reads the whole trail, so ask once a run.
        """
        return frozenset(line[0] for line in self._read(partial(self._all, "lost_updates", {})))

    def ranks(self, lanes: pl.Series) -> pl.DataFrame:
        """Return the coverages of these patients as the journal has them (_RANKS_SCHEMA)."""
        return self._frame("ranks", lanes, _RANKS_SCHEMA, "lanes")

    def active(self, keys: pl.Series) -> pl.DataFrame:
        """Those of these rows that Canvas holds as active coverages by our books (_ACTIVE_SCHEMA)."""
        return self._frame("active", keys, _ACTIVE_SCHEMA)

    def held(self, keys: pl.Series) -> pl.DataFrame:
        """What Canvas holds of these rows by our books: key, feed, held (its fingerprint), held_run."""
        return self._frame("held", keys, _HELD_SCHEMA)

    def active_of(self, feed: str) -> pl.Series:
        """The keys of a feed's rows that Canvas holds as active coverages by our books."""
        return self._keys("active_of", feed)

    def payments_sent(self, feed: str) -> pl.Series:
        """Return the keys of a feed's payments that Canvas holds, or may hold."""
        return self._keys("payments_sent", feed)

    def displaced_of(self, feed: str) -> pl.Series:
        """The keys of a feed's rows whose order another write of ours has moved, or may have."""
        return self._keys("displaced_of", feed)

    def open_cancels(self, feed: str) -> pl.Series:
        """The keys of rows that an earlier run was to cancel, and did not."""
        return self._keys("open_cancels", feed)

    def _keys(self, query: str, feed: str) -> pl.Series:
        lines = self._read(partial(self._all, query, {"feed": feed}))
        return pl.Series("key", [line[0] for line in lines], dtype=pl.String)

    async def displaced(self, run_id: str, keys: Sequence[str], at: datetime) -> None:
        """Another write of ours moves their order, or may have: the next file writes them again."""

        def displace() -> None:
            for key in keys:
                if self._execute("displaced", {"key": key}).rowcount:
                    self._append(at, run_id, Event.INTENDED, key=key)

        await self._write(displace)

    async def intend(self, run_id: str, intents: Sequence[Intent], at: datetime) -> None:
        """CONFIRMED -> PENDING: updates that no file may ask for again, so that none is forgotten."""

        def intend() -> None:
            self._enter(intents)
            self._append_all(
                _line(utc_text(at), run_id, Event.INTENDED, key=intent.key) for intent in intents
            )

        await self._write(intend)

    def touched_since(self, number: int, hashed: str) -> set[str] | None:
        """The keys that the trail speaks of after a line; None where that line is not in it."""

        def read() -> set[str] | None:
            line = self._execute("line_hash", {"number": number}).fetchone()
            if number and (line is None or line[0] != hashed):
                return None
            return {found[0] for found in self._execute("touched", {"number": number}).fetchall()}

        return self._read(read)

    @property
    def head(self) -> tuple[int, str]:
        """Number and hash of the trail's last line."""
        return self._head

    def states(self, keys: Iterable[str]) -> dict[str, State]:
        """The states of these keys, where they are known."""
        frame = self.known(pl.Series("key", list(keys), dtype=pl.String))
        return {key: State(state) for key, state in frame.select("key", "state").iter_rows()}

    # Runs -----------------------------------------------------------------------------------------

    def start_run(self, run: Run) -> int:
        """Enter a run. What an earlier one left in flight is in doubt from now on: how many."""

        def start() -> int:
            started = {"run_id": run.run_id, "command": run.command, "at": run.started_at}
            self._execute("start_run", started)
            return self._doubt_left(run.run_id, run.started_at, run.command)

        return self._write_now(start)

    def _doubt_left(self, run_id: str, at: str, detail: str) -> int:
        """Begin, and doubt what whoever held it before us left in flight."""
        part = {"part": self._store.part}
        last = self._execute("last_line", part).fetchone()
        left = self._execute("left_in_flight", part).fetchall()
        lines = [_line(at, run_id, Event.RUN, detail=detail)]
        doubted = []
        for key, sent_at, ahead_s in left:
            until = _until_of_crash(ahead_s, sent_at, last[0] if last else sent_at)
            doubted.append({"key": key, "at": at, "until": until})
            lines.append(_line(at, run_id, Event.CRASHED, key=key))
        self._each("doubt_in_flight", doubted)
        self._append_all(lines)
        return len(left)

    def finish_run(self, run: Run) -> None:
        """Enter how it ended."""
        ended = {
            "run_id": run.run_id,
            "at": run.finished_at,
            "exit_code": run.exit_code,
            "failure": run.failure,
        }

        def finish() -> None:
            self._execute("finish_run", ended)
            at = run.finished_at or run.started_at
            self._append_all([_line(at, run.run_id, Event.ENDED, detail=str(run.exit_code))])

        self._write_now(finish)

    def enter_feeds(self, run_id: str, totals: Iterable[tuple[str, int, int, int]]) -> None:
        """Enter (feed, rows read, cents read, number of files) of a run that passed its guards."""
        lines = [
            {"run_id": run_id, "feed": feed, "rows_read": rows, "cents_read": cents, "files": files}
            for feed, rows, cents, files in totals
        ]
        self._write_now(lambda: [self._execute("enter_feed", line) for line in lines])

    def last_feed(self, feed: str) -> tuple[int, int] | None:
        """Rows and cents that a feed's files held in the last run that passed its guards."""
        line = self._read(lambda: self._execute("last_feed", {"feed": feed}).fetchone())
        return None if line is None else (int(line[0]), int(line[1]))

    def files_of(self, run_id: str, feed: str) -> int | None:
        """Return the number of files that a feed had in a run; None if it is not known."""
        asked = {"run_id": run_id, "feed": feed}
        line = self._read(lambda: self._execute("files_of", asked).fetchone())
        return None if line is None or line[0] is None else int(line[0])

    def feed_key(self, feed: str) -> tuple[str, ...] | None:
        """Return the fields of a feed's key in the order in which they are hashed; None if not known."""
        line = self._read(lambda: self._execute("feed_key", {"feed": feed}).fetchone())
        return None if line is None else tuple(line[0].split())

    def enter_feed_keys(self, run_id: str, keys: Mapping[str, Sequence[str]]) -> None:
        """Enter the fields of each feed's key in the order in which they are hashed."""
        lines = [
            {"run_id": run_id, "feed": feed, "fields": " ".join(fields)}
            for feed, fields in keys.items()
        ]
        self._write_now(lambda: [self._execute("enter_feed_key", line) for line in lines])

    def enter_plan(self, run_id: str, sha256: str, at: datetime) -> None:
        """Enter the SHA-256 of the files of a run's plan, so that a changed one is never sent."""
        line = _line(utc_text(at), run_id, Event.PLANNED, detail=sha256)
        self._write_now(lambda: self._append_all([line]))

    def plan_sha256(self, run_id: str) -> str:
        """Return the SHA-256 of the files of a run's plan; "" if none was entered."""
        asked = {"run_id": run_id}
        line = self._read(lambda: self._execute("plan_sha256", asked).fetchone())
        return str(line[0]) if line else ""

    def enter_index(self, feed: str, sha256: str) -> None:
        """Enter the SHA-256 of the index of a feed's unchanged rows, so that a changed one is never used."""
        entered = {"name": f"index {feed}", "value": sha256}
        self._write_now(lambda: self._execute("set_meta", entered))

    def index_sha256(self, feed: str) -> str:
        """Return the SHA-256 of the index of a feed's unchanged rows; "" if none was entered."""
        meta = dict(self._read(lambda: self._execute("meta", {}).fetchall()))
        return str(meta.get(f"index {feed}", ""))

    def has_writes(self, feed: str) -> bool:
        """Return whether a write of the feed was ever entered."""
        line = self._read(lambda: self._execute("has_writes", {"feed": feed}).fetchone())
        return line is not None

    def confirmed_of(self, feed: str) -> pl.Series:
        """Return the keys of a feed's writes that Canvas confirmed."""
        return self._all_of("confirmed_of", {"feed": feed}, {"key": pl.String})["key"]

    def payments_of(self, lanes: pl.Series) -> pl.DataFrame:
        """Return the payments of these patients that Canvas holds, may hold, or is still to be sent again.

        Returns:
            lane, key, feed, amount_cents, claim, day ("" none, null unknown) and sent_day, a line a payment.
        """
        return self._all_of("payments_of", {"lanes": _json(lanes.to_list())}, _PAYMENTS_SCHEMA)

    def coverages_of(self, lanes: pl.Series) -> pl.DataFrame:
        """Return the active coverages of these patients: lane, key, feed, held (fingerprint), held_run."""
        return self._all_of("coverages_of", {"lanes": _json(lanes.to_list())}, _COVERAGES_SCHEMA)

    def last_complete(self, feed: str) -> list[str]:
        """The last run that sent all it could of a feed's whole files, and those that ended early since."""
        return [line[0] for line in self._read(partial(self._all, "last_complete", {"feed": feed}))]

    def run(self, run_id: str | None) -> Run | None:
        """A run, or the last one that planned or sent."""
        name, parameters = ("last_run", {}) if run_id is None else ("run", {"run_id": run_id})
        line = self._read(lambda: self._execute(name, parameters).fetchone())
        return None if line is None else Run(*line)

    # The parts of a run, in a database ------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Of our lease: whoever takes it after us has a higher one. 0 without a database."""
        return self._store.epoch

    def offer(self, parts: int) -> None:
        """Let others take the parts 1 to `parts` of our run."""
        self._write_now(lambda: self._execute("offer_parts", {"parts": parts}))

    def take_up(self, run_id: str, at: datetime) -> int:
        """Begin with our part. What its last holder left in flight is in doubt from now on: how many."""

        def take() -> int:
            held = {"part": self._store.part, "epoch": self._store.epoch, "run_id": run_id}
            told = {"holder": self._store.holder, "first_line": self._head[0], "at": utc_text(at)}
            self._execute("begin_stint", {**held, **told})
            return self._doubt_left(run_id, utc_text(at), f"part {self._store.part}")

        return self._write_now(take)

    def hand_over(self, run_id: str, ended: str, counts: Mapping[str, int], at: datetime) -> None:
        """Note how our part ended, before it is let go."""

        def end() -> None:
            held = {"part": self._store.part, "epoch": self._store.epoch}
            told = {"ended": ended, "counts": orjson.dumps(counts).decode(), "at": utc_text(at)}
            self._execute("end_stint", {**held, **told})
            self._append_all([_line(utc_text(at), run_id, Event.ENDED, detail=ended)])

        self._write_now(end)

    @property
    def is_stopping(self) -> bool:
        """Whether whoever began the run wants our part to end."""
        return self._store.is_stopping

    def ask_to_stop(self) -> None:
        """Have all parts end, once what is in flight has its answer."""
        self._write_now(lambda: self._execute("ask_to_stop", {"epoch": self._store.epoch}))

    def parts_held(self) -> int:
        """How many parts somebody holds."""
        return int(self._read(lambda: self._execute("parts_held", {}).fetchone())[0])

    def withdraw(self, run_id: str, at: datetime) -> int:
        """Fence all parts: what they left in flight is in doubt from now on: how many."""

        def fence() -> int:
            self._store.fence()
            return self._doubt_left(run_id, utc_text(at), "parts")

        return self._write_now(fence)

    def lease_records(self, run_id: str) -> list[LeaseRecord]:
        """Who sent parts of a run, and how far they came; none where one process did all."""
        if "stints" not in self._sql:
            return []
        asked = {"run_id": run_id}
        lines = self._read(partial(self._all, "stints", asked))
        return [replace(LeaseRecord(*line), counts=orjson.loads(line[7])) for line in lines]

    def requests_of_stints(self, run_id: str) -> dict[tuple[int, int], tuple[int, int]]:
        """How many requests, and writes among them, were made under each part and epoch."""
        lines = self._read(partial(self._all, "requests_of_stints", {"run_id": run_id}))
        return {(part, epoch): (requests, writes) for part, epoch, requests, writes in lines}

    # Purging --------------------------------------------------------------------------------------

    def run_ids(self) -> list[str]:
        """All runs that it knows, in the order of their ids."""
        return sorted(line[0] for line in self._read(partial(self._all, "run_ids", {})))

    def runs_unsettled(self) -> list[str]:
        """The runs whose plans hold what may yet be sent again, or is needed to settle a doubt."""
        return [line[0] for line in self._read(partial(self._all, "runs_unsettled", {}))]

    def runs_holding(self, feeds: Sequence[str]) -> list[str]:
        """The runs whose plans have what Canvas holds of these feeds' active coverages by our books."""
        listed = {"feeds": _json(list(feeds))}
        return [line[0] for line in self._read(partial(self._all, "runs_holding", listed))]

    def count_words(self, before: str) -> int:
        """How many writes `purge` would take the message of."""
        line = self._read(lambda: self._execute("count_words", {"before": before}).fetchone())
        return int(line[0])

    def purge(self, run_ids: Sequence[str], before: str, at: datetime, who: str) -> int:
        """Note that what these runs left is removed, and forget what was said of writes settled `before`.

        No write is forgotten. Returns of how many the message went; nothing of it stays in the file.
        """

        def purge() -> int:
            self._append_all(
                _line(utc_text(at), "", Event.PURGED, detail=run_id, who=who) for run_id in run_ids
            )
            return self._execute("forget_words", {"before": before}).rowcount

        self._read(self._store.forget)
        return self._write_now(purge)

    def was_purged(self, run_id: str) -> bool:
        """Whether what a run left behind was removed."""
        found = self._read(lambda: self._execute("was_purged", {"run_id": run_id}).fetchone())
        return found is not None

    # Looking up -----------------------------------------------------------------------------------

    def known(self, keys: pl.Series) -> pl.DataFrame:
        """What is held of these keys: key, state, the fingerprint that Canvas holds, resource_id."""
        return self._frame("known", keys, _KNOWN_SCHEMA)

    def writes(self, keys: pl.Series, run_id: str | None = None) -> pl.DataFrame:
        """What is known of these keys now, or what the report of a run shows of them.

        What a later run wrote anew is what the trail tells of this one; its words are not in there.
        """
        lines = self._frame("writes", keys, _WRITES_SCHEMA)
        if run_id is None:
            return lines
        runs = self._read(partial(self._all, "later_runs", {"run_id": run_id}))
        later = lines.filter(pl.col("run_id").is_in([line[0] for line in runs]))["key"]
        if later.is_empty():
            return lines
        known = lines.filter(~pl.col("key").is_in(later.implode()))
        return pl.concat([known, self._as_told(run_id, set(later))])

    def _as_told(self, run_id: str, keys: set[str]) -> pl.DataFrame:
        """The writes of these keys as a run left them, from its lines in the trail."""
        ends: dict[str, dict[str, Any]] = {}
        for line in self._read(partial(self._all, "told", {"run_id": run_id})):
            key, event, attempt, http_status, correlation_id, verdict, resource_id, at = line
            state = states.told(event, verdict)
            if key not in keys or state is None:
                continue
            end = ends.setdefault(
                key, dict.fromkeys(_WRITES_SCHEMA) | {"key": key, "run_id": run_id}
            )
            end |= {"state": state.value, "settled_at": at, "rule": "", "message": ""}
            if resource_id:
                end["resource_id"] = resource_id
            if event == Event.WRITE.value:
                end |= {
                    "attempts": attempt,
                    "http_status": http_status,
                    "correlation_id": correlation_id,
                    "sent_at": at,
                }
        return pl.DataFrame(list(ends.values()), schema=_WRITES_SCHEMA)

    def shut_lanes(self) -> set[str]:
        """The patients with a write in doubt."""
        return {line[0] for line in self._read(lambda: self._execute("shut_lanes", {}).fetchall())}

    def doubt_count(self, run_id: str) -> int:
        """How many writes are in doubt, or of other runs and still to be sent again after it."""
        line = self._read(lambda: self._execute("doubt_count", {"run_id": run_id}).fetchone())
        return int(line[0])

    def settling(self, run_id: str) -> Settling:
        """Return what a run made of writes that it looked for in Canvas."""
        return settling(self._read(partial(self._all, "settling", {"run_id": run_id})))

    def amounts(self, keys: pl.Series) -> pl.DataFrame:
        """Return key, run_id, feed, interaction and amount_cents of these writes."""
        return self._frame("amounts", keys, _AMOUNTS_SCHEMA)

    def census(self) -> list[Count]:
        """What is held, by state and resource type."""
        lines = self._read(lambda: self._execute("census", {}).fetchall())
        return [Count(State(line[0]), *line[1:]) for line in lines]

    def audit_log(self, key: str | None = None) -> Iterator[tuple[Line, str]]:
        """The lines of the trail with their hashes, in order; of one write, or all."""
        after = 0
        while True:
            asked = {"after": after, "key": key, "count": _LINES_A_QUERY}
            lines = self._read(partial(self._all, "trail", asked))
            yield from ((Line(*line[1:-1]), line[-1]) for line in lines)
            if len(lines) < _LINES_A_QUERY:
                return
            after = lines[-1][0]

    @property
    def length(self) -> int:
        """How many lines the trail has, those of parts too."""
        if "lines_of_parts" not in self._sql:
            return self._read(lambda: self._head[0])
        return self._head[0] + int(self._read(partial(self._all, "lines_of_parts", {}))[0][0])

    def length_after(self, run_id: str) -> int:
        """How many lines the trail had once all of a run was done but to enter its end."""
        line = self._read(lambda: self._execute("length_after", {"run_id": run_id}).fetchone())
        return int(line[0])

    def first_break(self) -> int:
        """The number of the first line of the trail that breaks its chain; 0 where it is whole."""
        return first_break(self.audit_log())

    def contradictions(self, keys: Iterable[pl.Series] | None = None) -> Contradictions:
        """Return how many writes are not in the table as the audit log implies; of `keys`, or of all if None.

        Many keys take as long as all, so all are compared then.
        """
        asked: list[str] | None = None if keys is None else []
        for some in keys or ():
            asked = None if asked is None else [*asked, *some]
            if asked is None or len(asked) > _KEYS_A_QUERY:
                asked = None
                break
        if asked == []:
            return Contradictions(0, "")
        listed = {"keys": _json(asked or []), "is_whole": int(asked is None)}
        lines = self._read(partial(self._all, "evidence", listed))
        return contradictions(Group(*line) for line in lines)

    def require_evidence(self, keys: Iterable[pl.Series]) -> None:
        """Raise JournalLost if the table has one of these writes otherwise than the audit log implies.

        Not if a person said to go on without what the journal lost.
        """
        if not self._is_loss_accepted and self.contradictions(keys).count:
            raise amnesia.lost("altered")

    def exchanges(self, run_id: str) -> pl.DataFrame:
        """All requests of a run, in the order of their grants."""
        return self._all_of("exchanges", {"run_id": run_id}, _EXCHANGES_SCHEMA)

    def confirmed(self, since: str | None = None) -> pl.DataFrame:
        """What Canvas holds by our books, settled at `since` (ISO) or later; by type and patient."""
        return self._all_of("confirmed", {"since": since}, _CONFIRMED_SCHEMA)

    def newest_confirmed(self, resource_type: str, most: int) -> pl.DataFrame:
        """Return the writes of a type that Canvas confirmed last, in the columns of `confirmed`."""
        asked = {"resource_type": resource_type, "most": most}
        return self._all_of("newest_confirmed", asked, _CONFIRMED_SCHEMA)

    def _all_of(
        self, query: str, parameters: Mapping[str, object], schema: Mapping[str, Any]
    ) -> pl.DataFrame:
        """Some lines at a time, so that there are never many Python objects."""

        def read() -> list[pl.DataFrame]:
            lines = self._store.stream(self._sql[query], parameters, _LINES_A_QUERY)
            parts = (pl.DataFrame(some, schema=schema, orient="row") for some in lines)
            return [pl.DataFrame(schema=schema), *parts]

        return pl.concat(self._read(read))

    def _frame(
        self,
        query: str,
        keys: pl.Series,
        schema: Mapping[str, type[pl.DataType]],
        name: str = "keys",
    ) -> pl.DataFrame:
        def look_up() -> list[tuple[object, ...]]:
            lines: list[tuple[object, ...]] = []
            for part in keys.to_frame().iter_slices(_KEYS_A_QUERY):
                listed = orjson.dumps(part.to_series().to_list()).decode()
                lines += self._execute(query, {name: listed}).fetchall()
            return lines

        return pl.DataFrame(self._read(look_up), schema=schema, orient="row")

    # The trail ------------------------------------------------------------------------------------

    def _append(self, at: datetime, run_id: str, event: Event, **content: Any) -> None:
        self._append_all([_line(utc_text(at), run_id, event, **content)])

    def _append_all(self, lines: Iterable[Line]) -> None:
        """Number them, chain them, and write them."""
        number, before = self._head
        part = self._store.part
        chained = []
        for line in lines:
            number += 1
            numbered = (number, *line[1:-1], part)
            before = link(before, numbered)
            chained.append((*numbered, before))
        if chained:
            self._store.executemany(self._sql["append"], chained)
            self._head = (number, before)

    # The one thread -------------------------------------------------------------------------------

    def _execute(self, name: str, parameters: Mapping[str, object]) -> Cursor:
        return self._store.execute(self._sql[name], parameters)

    def _all(self, name: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        return self._execute(name, parameters).fetchall()

    def _each(self, name: str, lines: Sequence[Mapping[str, object]]) -> None:
        """A statement for each of these rows, which must change it: else it is not as we think it is."""
        if not lines:
            return
        changed = self._store.executemany(self._sql[name], lines).rowcount
        if changed != len(lines):
            raise JournalError(
                f"the journal holds {len(lines) - changed} of {len(lines)} rows in another state than expected, "
                "so nothing more is sent",
                "run again: what the journal holds is true",
            )

    async def _write(self, step: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._transaction, step)

    def _write_now(self, step: Callable[[], T]) -> T:
        return self._pool.submit(self._transaction, step).result()

    def _read(self, step: Callable[[], T]) -> T:
        return self._pool.submit(self._again, step).result()

    def _transaction(self, step: Callable[[], T]) -> T:
        """All of a step or nothing of it, on disk when this returns."""
        if self._broken is not None:
            raise self._broken
        try:
            result = self._committed(step)
        except BaseException as error:
            self._broken = _as_journal_error(error)
            raise
        if time.monotonic() - self._anchored_s > _ANCHOR_EVERY_S:
            with suppress(OSError):  # it may lag behind; what is committed is
                self._anchor()
        return result

    def _committed(self, step: Callable[[], T]) -> T:
        """Done again where the store went away and came back, but not where it was done already.

        That it was shows the trail, where a step that has ended adds to it; another one can be repeated.
        Raises JournalLost where what came back has forgotten lines: a replica that was behind.
        """
        head, ended = self._head, []
        while True:
            try:
                self._guarded(self._store.begin)
                ended.append(self._guarded(step))
                self._guarded(self._store.commit)
                return ended.pop()
            except BaseException as error:
                reached, self._head = self._head, head  # no line is told of that may not be on disk
                with suppress(*self._store.errors):
                    self._store.rollback()
                if not (isinstance(error, JournalError) and self._store.is_back()):
                    raise
                found = self._head_on_disk()
                if ended and found == reached != head:
                    self._head = reached
                    return ended.pop()
                if found != head:
                    self._guarded(
                        self._store.begin
                    )  # not ours any more: then those lines are others'
                    self._store.rollback()
                    raise amnesia.lost("restored") from None
                ended.clear()

    def _head_on_disk(self) -> tuple[int, str]:
        line = self._guarded(lambda: self._execute("head", {"part": self._store.part}).fetchone())
        return (int(line[0]), str(line[1])) if line else (0, ORIGIN)

    def _again(self, step: Callable[[], T]) -> T:
        """What only reads, done again where the store went away and came back."""
        while True:
            try:
                return self._guarded(step)
            except JournalError:
                if not self._store.is_back():
                    raise

    def _guarded(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except self._store.errors as error:
            raise self._store.told(error) from None


def _as_journal_error(error: BaseException) -> JournalError:
    if isinstance(error, JournalError):
        return error
    return JournalError(
        f"the journal could not be written ({type(error).__name__}), so nothing more is sent",
        "run again; if it stays, report it with this line",
    )


def _line(at: str, run_id: str, event: Event, **content: Any) -> Line:
    """A line of the trail, not numbered yet."""
    return Line(0, at, run_id, event.value, **content)


def _request(
    run_id: str,
    exchange: Exchange,
    *,
    attempt: int,
    key: str = "",
    verdict: str = "",
    resource_id: str = "",
) -> Line:
    return Line(
        0,
        exchange.sent_at.isoformat(timespec="microseconds"),
        run_id,
        exchange.purpose,
        key,
        attempt,
        round(exchange.latency_s * 1000, 3),
        exchange.http_status,
        exchange.correlation_id,
        verdict,
        resource_id,
        exchange.problem,
    )


def _entered(intent: Intent) -> dict[str, object]:
    return {
        "key": intent.key,
        "run_id": intent.run_id,
        "feed": intent.feed,
        "interaction": intent.interaction.value,
        "resource_type": intent.resource_type,
        "lane": intent.lane,
        "amount_cents": intent.amount_cents,
        "claim": intent.claim,
        "likeness": intent.match_key,
        "fingerprint": intent.fingerprint,
        "rank": intent.rank,
        "resource_id": intent.resource_id or None,
        "held_at": _instant_text(intent.held_at),
        "day": intent.day,
    }


def _answers(named: Iterable[tuple[Intent, str]]) -> str:
    """Writes, and the ids that speak for them."""
    lines = [
        {
            "key": intent.key,
            "resource_type": intent.resource_type,
            "lane": intent.lane,
            "resource_id": resource_id,
        }
        for intent, resource_id in named
    ]
    return orjson.dumps(lines).decode()


def _json(texts: list[str]) -> str:
    return orjson.dumps(texts).decode()


def _instant_text(at: datetime | None) -> str | None:
    return None if at is None else _exact_text(at)


def _exact_text(at: datetime) -> str:
    return (at if at.tzinfo is UTC else at.astimezone(UTC)).isoformat(timespec="microseconds")


_second_text = lru_cache(maxsize=16)(_exact_text)  # a Date is the same for a second


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _until_of_crash(ahead_s: float | None, sent_at: str, died_at: str) -> str | None:
    """The server's clock when a run that was killed can have sent at the latest.

    `ahead_s` is that of the first send: if a clock was set since, no time proves anything anyway.
    """
    if ahead_s is None:
        return None
    last = max(datetime.fromisoformat(died_at), datetime.fromisoformat(sent_at))
    return _instant_text(last + timedelta(seconds=ahead_s) + _AFTER_LAST_SIGN)


def _evidence(finding: Finding) -> str:
    """What was seen, for the trail: ids and times, never a value of a row."""
    seen = [
        {"id": each.resource_id, "created": _instant_text(each.created_at), "when": each.when}
        for each in finding.candidates
    ]
    return orjson.dumps({"rule": finding.rule, "candidates": seen}).decode()


def _doubt(line: Sequence[Any]) -> Doubt:
    (state, key, feed, resource_type, lane, fingerprint, cents, claim, match_key, run_id, *rest) = (
        line
    )
    attempts, resent, since, until, ahead_s, rule, message, interaction, *rest = rest
    resource_id, rank, held, held_run, held_at, _, orphaned, day = rest
    return Doubt(
        Intent(
            key,
            feed,
            resource_type,
            Interaction(interaction),
            lane,
            b"",
            fingerprint,
            cents,
            claim,
            match_key,
            run_id,
            resource_id,
            rank,
            _instant(held_at),
            day,
        ),
        attempts,
        resent,
        _instant(since),
        _instant(until),
        state == State.PENDING.value,
        None if ahead_s is None else timedelta(seconds=ahead_s),
        rule,
        message,
        Held(held_run, held),
        bool(orphaned),
    )


# Opening ------------------------------------------------------------------------------------------


def postgres() -> ModuleType:
    """The store that is an extra, and slow to import. Raises ConfigError where it is not installed."""
    try:
        return importlib.import_module("pipeline.journal.postgres")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("pipeline"):
            raise
        raise ConfigError(
            "state.url names a PostgreSQL database, and what it takes to reach one is not installed",
            "pip install 'canvas-ingest[postgresql]', or leave state.url out to keep the journal in a file",
        ) from None


def _place(folder: Path, database: Database | None) -> Place:
    """Where the journal of a folder is: in it, or in a database."""
    if database is None:
        return SqlitePlace(folder)
    place: Place = postgres().PostgresPlace(database)
    return place


def _connect(
    place: Place, folder: Path, base_url: str, report_dir: Path | None, *, after_loss: bool
) -> Store:
    """The journal of the last run; a new one only where there was none."""
    loss = ""
    try:
        if place.is_empty():
            loss = "missing" if _was_there(folder, base_url, report_dir) else ""
        if not loss:
            high_water_mark = amnesia.read_anchor(folder)
            store = place.open(base_url)
            with _closed_on_error(store):
                loss = amnesia.loss_of(folder, high_water_mark, store, report_dir)
                if not loss and after_loss and _contradicts_itself(store):
                    loss = "altered"
                if not loss and after_loss:
                    raise ConfigError(
                        "the journal is whole: there is no loss to go on after",
                        "run without --journal-lost",
                    )
                if not loss:
                    return store
                if loss in {"restored", "altered"} and after_loss:
                    return _lost(store, folder, base_url, report_dir, loss)
            store.close()
    except JournalLost as error:
        loss = error.loss
    if not after_loss:
        raise amnesia.lost(loss)
    place.set_aside(loss)
    store = place.open(base_url, loss)
    with _closed_on_error(store):
        return _lost(store, folder, base_url, report_dir, loss)


@contextmanager
def _closed_on_error(store: Store) -> Iterator[None]:
    """Let a store go that is not to be a journal. What its database raises is raised as our own."""
    try:
        yield
    except BaseException as error:
        store.close()
        if isinstance(error, store.errors):
            raise store.told(error) from None
        raise


def _contradicts_itself(store: Store) -> bool:
    """Return whether the table of writes is not what the audit log implies."""
    lines = store.execute(store.sql["evidence"], {"keys": "[]", "is_whole": 1}).fetchall()
    return contradictions(Group(*line) for line in lines).count > 0


def _was_there(folder: Path, base_url: str, report_dir: Path | None) -> bool:
    """Whether a journal that is not there was there before, by what runs left beside it."""
    high_water_mark = amnesia.read_anchor(folder)
    return high_water_mark is not None or bool(amnesia.traces(folder, report_dir, base_url, ()))


def _lost(store: Store, folder: Path, base_url: str, report_dir: Path | None, loss: str) -> Store:
    """Note that rows which the journal does not know may be in Canvas all the same."""
    sql = store.sql
    known = {line[0] for line in store.execute(sql["run_ids"]).fetchall()}
    name = store.execute("SELECT value FROM meta WHERE name = 'journal'").fetchone()[0]
    runs = {
        *amnesia.traces(folder, report_dir, name, known),
        *amnesia.traces(folder, report_dir, base_url, known),
    }
    store.begin()
    store.execute(sql["set_meta"], {"name": "loss", "value": loss})
    for run_id in sorted(runs):
        store.execute(sql["enter_lost_run"], {"run_id": run_id})
    last = store.execute(sql["last_entered"]).fetchone()
    if last is not None:
        store.execute(sql["set_meta"], {"name": amnesia.ACKNOWLEDGED, "value": last[0]})
    store.commit()
    return store
