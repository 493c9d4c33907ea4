"""The journal on disk: SQLite, one connection, one thread, one transaction a group of writes.

WAL with `synchronous=FULL`: in simulated power losses this lost nothing, where NORMAL lost sent
rows (reliability.md, "Journal"). A failed commit ends the run: what cannot be written down must not
be sent. The only home of `sqlite3`.
"""

import asyncio
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache, partial
from importlib import resources
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, Self, TypeVar

import orjson
import polars as pl

from pipeline.clock import utc_text
from pipeline.errors import ConfigError, JournalBusy, JournalError, JournalForeign, JournalLost
from pipeline.journal import amnesia, states
from pipeline.journal.amnesia import Anchor
from pipeline.journal.trail import ORIGIN, Event, Line, first_break, link
from pipeline.records import Attempt, Doubt, Exchange, Finding, Held, Intent, Interaction, State

T = TypeVar("T")

_SCHEMA_VERSION: Final = "4"
_FILE: Final = "journal.sqlite"
_KEYS_A_QUERY: Final = 10_000
_LINES_A_QUERY: Final = 50_000
_ANCHOR_EVERY_S: Final = 1.0
_PAGES_A_CHECKPOINT: Final = 8_000  # of 4 KiB: a page that is written often is copied once
_CACHE_KIB: Final = 32_768
_CHECKED_BYTES_MAX: Final = 64 * 1024 * 1024  # a larger one is read whole only after an unclean end
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
}
_ACTIVE_SCHEMA: Final = dict.fromkeys(
    ("key", "feed", "lane", "resource_id", "held", "held_run", "state"), pl.String
)
_HELD_SCHEMA: Final = dict.fromkeys(("key", "feed", "held", "held_run"), pl.String)
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
class Count:
    """How many writes of a kind are held, their amounts, and from when to when they were settled."""

    state: State
    resource_type: str
    count: int
    cents: int
    oldest: str | None
    youngest: str | None


@cache
def _queries() -> dict[str, str]:
    text = resources.files("pipeline.journal").joinpath("queries.sql").read_text()
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


class Journal:
    """One Canvas' journal, held exclusively from `open` to `close`."""

    def __init__(self, connection: sqlite3.Connection, pool: Executor, folder: Path) -> None:
        self._connection = connection
        self._pool = pool
        self.folder = folder
        self._sql = _queries()
        self._broken: JournalError | None = (
            None  # what came in between; nothing is written after it
        )
        self._path = folder / _FILE
        self._file = _identity(self._path)
        self._head: tuple[int, str] = (0, ORIGIN)  # number and hash of the trail's last line
        self._anchored_s = float("-inf")
        meta, head = self._read(
            lambda: (
                dict(self._execute("meta", {}).fetchall()),
                self._execute("head", {}).fetchone(),
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
        after_loss_by: str = "",
    ) -> Self:
        """Open the journal in `folder`, or make it where none was before.

        `report_dir` is looked at for traces of runs that the journal does not know. `after_loss_by`:
        the person who says to go on without what is lost. Raises JournalBusy if another run holds it,
        JournalForeign if it belongs to another `base_url`, JournalLost if it is not what the last
        run left, JournalError if it cannot be trusted or read.
        """
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        try:
            after_loss = bool(after_loss_by)
            connect = partial(_connect, folder, base_url, report_dir, after_loss=after_loss)
            connection = pool.submit(connect).result()
            journal = cls(connection, pool, folder)
            if after_loss:
                journal._note_loss(after_loss_by)
            journal._anchor()
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
    def look(cls, folder: Path, base_url: str, report_dir: Path | None, scratch: Path) -> Self:
        """The journal in `folder` as it stands, as a copy in the new folder `scratch`; or a new one there.

        Nothing is written in `folder`, and what is done to the copy is lost with it. The plans come as
        links. Raises as `open`.
        """
        amnesia.refuse_network(folder)
        scratch.mkdir(mode=0o700)
        (scratch / "plans").mkdir(mode=0o700)
        try:
            if _is_empty(folder / _FILE):
                if _was_there(folder, base_url, report_dir):
                    raise amnesia.lost("missing")
                return cls.open(scratch, base_url, report_dir)
            if (folder / f"{_FILE}-wal").exists():  # SQLite removes it when it closes
                _refuse_held(folder / _FILE)
            for name in (_FILE, f"{_FILE}-wal", amnesia.ANCHOR):
                if (folder / name).exists():
                    shutil.copyfile(folder / name, scratch / name)
            if (folder / "plans").is_dir():
                for plan in (folder / "plans").resolve().iterdir():
                    (scratch / "plans" / plan.name).symlink_to(plan, target_is_directory=True)
        except OSError as error:
            raise JournalError(
                f"{folder} cannot be read: {error.strerror}",
                "check the permissions of state.dir, and the space for temporary files",
            ) from None
        return cls.open(scratch, base_url, report_dir)

    def _note_loss(self, who: str) -> None:
        at = datetime.now(UTC)
        self._write_now(lambda: self._append(at, "", Event.LOSS, detail=self.loss, who=who))

    def close(self) -> None:
        """Let it go, once a transaction that may still be under way has ended."""

        def close() -> None:
            if self._broken is None:
                with suppress(OSError):
                    self._anchor()
            self._connection.close()

        self._pool.submit(close).result()
        self._pool.shutdown()

    def _anchor(self) -> None:
        amnesia.write_anchor(self.folder, Anchor(self.name, *self._head))
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
        }

        def claim() -> None:
            self._open(intents)
            self._each("claim", [{**_entered(intent), **claimed} for intent in intents])
            self._append_all(_line(at_text, run_id, Event.CLAIM, key=each.key) for each in intents)

        await self._write(claim)

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

    async def unclear(self, run_id: str, intent: Intent, finding: Finding, at: datetime) -> None:
        """It stays IN_DOUBT, and this is why."""
        await self._write(lambda: self._decide(run_id, Event.UNCLEAR, intent, finding, at, ""))

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
        """All writes in doubt, and those that are to be sent again and were not yet."""
        return [_doubt(line) for line in self._read(lambda: self._execute("doubts", {}).fetchall())]

    async def held_at(self, keys: Iterable[str]) -> dict[str, datetime | None]:
        """When Canvas held what we think it holds of these rows, by its own clock."""
        listed = {"keys": _json(list(keys))}
        lines = await self._write(lambda: self._execute("held_at", listed).fetchall())
        return {key: _instant(at) for key, at in lines}

    async def has_sibling_since(self, key: str) -> bool:
        """Whether we wrote another coverage of the patient since this one: it may have moved it."""
        return await self._write(
            lambda: self._execute("sibling_since", {"key": key}).fetchone() is not None
        )

    def ranks(self, lanes: pl.Series) -> pl.DataFrame:
        """The coverages of these patients by our books: lane, key, feed, resource_id, rank, state."""
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
            last = self._execute("last_line", {}).fetchone()
            left = self._execute("left_in_flight", {}).fetchall()
            lines = [_line(run.started_at, run.run_id, Event.RUN, detail=run.command)]
            doubted = []
            for key, sent_at, ahead_s in left:
                until = _until_of_crash(ahead_s, sent_at, last[0] if last else sent_at)
                doubted.append({"key": key, "at": run.started_at, "until": until})
                lines.append(_line(run.started_at, run.run_id, Event.CRASHED, key=key))
            self._each("doubt_in_flight", doubted)
            self._append_all(lines)
            return len(left)

        return self._write_now(start)

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

    def enter_feeds(self, run_id: str, totals: Iterable[tuple[str, int, int]]) -> None:
        """Enter (feed, rows read, cents read) of a run that passed its guards."""
        lines = [
            {"run_id": run_id, "feed": feed, "rows_read": rows, "cents_read": cents}
            for feed, rows, cents in totals
        ]
        self._write_now(lambda: [self._execute("enter_feed", line) for line in lines])

    def last_feed(self, feed: str) -> tuple[int, int] | None:
        """Rows and cents that a feed's files held in the last run that passed its guards."""
        line = self._read(lambda: self._execute("last_feed", {"feed": feed}).fetchone())
        return None if line is None else (int(line[0]), int(line[1]))

    def last_complete(self, feed: str) -> list[str]:
        """The last run that sent all it could of a feed's whole files, and those that ended early since."""
        return [line[0] for line in self._read(partial(self._all, "last_complete", {"feed": feed}))]

    def run(self, run_id: str | None) -> Run | None:
        """A run, or the last one that planned or sent."""
        name, parameters = ("last_run", {}) if run_id is None else ("run", {"run_id": run_id})
        line = self._read(lambda: self._execute(name, parameters).fetchone())
        return None if line is None else Run(*line)

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

        self._read(lambda: self._connection.execute("PRAGMA secure_delete = ON").fetchone())
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

    def settled(self, run_id: str) -> dict[str, int]:
        """How many doubts a run settled, by event: found, absent, suspected."""
        return dict(self._read(lambda: self._execute("settled", {"run_id": run_id}).fetchall()))

    def census(self) -> list[Count]:
        """What is held, by state and resource type."""
        lines = self._read(lambda: self._execute("census", {}).fetchall())
        return [Count(State(line[0]), *line[1:]) for line in lines]

    def trail(self, key: str | None = None) -> Iterator[tuple[Line, str]]:
        """The lines of the trail with their hashes, in order; of one write, or all."""
        after = 0
        while True:
            asked = {"after": after, "key": key, "count": _LINES_A_QUERY}
            lines = self._read(partial(self._all, "trail", asked))
            yield from ((Line(*line[:-1]), line[-1]) for line in lines)
            if len(lines) < _LINES_A_QUERY:
                return
            after = lines[-1][0]

    @property
    def length(self) -> int:
        """How many lines the trail has."""
        return self._read(lambda: self._head[0])

    def length_after(self, run_id: str) -> int:
        """How many lines the trail had once all of a run was done but to enter its end."""
        line = self._read(lambda: self._execute("length_after", {"run_id": run_id}).fetchone())
        return int(line[0])

    def first_break(self) -> int:
        """The number of the first line of the trail that breaks its chain; 0 where it is whole."""
        return first_break(self.trail())

    def exchanges(self, run_id: str) -> pl.DataFrame:
        """All requests of a run, in the order of their grants."""
        return self._all_of("exchanges", {"run_id": run_id}, _EXCHANGES_SCHEMA)

    def confirmed(self, since: str | None = None) -> pl.DataFrame:
        """What Canvas holds by our books, settled at `since` (ISO) or later; by type and patient."""
        return self._all_of("confirmed", {"since": since}, _CONFIRMED_SCHEMA)

    def _all_of(
        self, query: str, parameters: Mapping[str, object], schema: Mapping[str, Any]
    ) -> pl.DataFrame:
        """Some lines at a time, so that there are never many Python objects."""

        def read() -> list[pl.DataFrame]:
            cursor = self._execute(query, parameters)
            parts = [pl.DataFrame(schema=schema)]
            while lines := cursor.fetchmany(_LINES_A_QUERY):
                parts.append(pl.DataFrame(lines, schema=schema, orient="row"))
            return parts

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
        chained = []
        for line in lines:
            number += 1
            numbered = (number, *line[1:])
            before = link(before, numbered)
            chained.append((*numbered, before))
        if chained:
            self._connection.executemany(self._sql["append"], chained)
            self._head = (number, before)

    # The one thread -------------------------------------------------------------------------------

    def _execute(self, name: str, parameters: Mapping[str, object]) -> sqlite3.Cursor:
        return self._connection.execute(self._sql[name], parameters)

    def _all(self, name: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        return self._execute(name, parameters).fetchall()

    def _each(self, name: str, lines: Sequence[Mapping[str, object]]) -> None:
        """A statement for each of these rows, which must change it: else it is not as we think it is."""
        if not lines:
            return
        changed = self._connection.executemany(self._sql[name], lines).rowcount
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
        return self._pool.submit(self._guarded, step).result()

    def _transaction(self, step: Callable[[], T]) -> T:
        """All of a step or nothing of it, on disk when this returns."""
        if self._broken is not None:
            raise self._broken
        if _identity(self._path) != self._file:
            self._broken = JournalError(
                "the journal was replaced or deleted while a run held it, and what came after is not in it",
                "put the file back that the run had open; if it is gone, see README, “When the journal is lost”",
            )
            raise self._broken
        head = self._head
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            result = self._guarded(step)
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._broken = _as_journal_error(error)
            self._head = head  # no line is told of that may not be on disk
            with suppress(sqlite3.Error):
                self._connection.rollback()
            if isinstance(error, sqlite3.Error):
                raise self._broken from None
            raise
        if time.monotonic() - self._anchored_s > _ANCHOR_EVERY_S:
            with suppress(OSError):  # it may lag behind; what is committed is
                self._anchor()
        return result

    def _guarded(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except sqlite3.Error as error:
            raise _unwritable(error) from None


def _as_journal_error(error: BaseException) -> JournalError:
    if isinstance(error, JournalError):
        return error
    if isinstance(error, sqlite3.Error):
        return _unwritable(error)
    return JournalError(
        f"the journal could not be written ({type(error).__name__}), so nothing more is sent",
        "run again; if it stays, report it with this line",
    )


def _unwritable(error: sqlite3.Error) -> JournalError:
    """SQLite's own word for it, which holds no value of a row."""
    if isinstance(error, sqlite3.IntegrityError):
        return JournalError(
            f"the journal refuses a step that could post something twice ({error.sqlite_errorname}), "
            "so nothing more is sent",
            "settle what is in doubt with `canvas-ingest review`, then run again",
        )
    return JournalError(
        f"the journal cannot be read or written ({getattr(error, 'sqlite_errorname', type(error).__name__)})",
        "check the disk of state.dir (space, permissions), then run again",
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
        "likeness": intent.likeness,
        "fingerprint": intent.fingerprint,
        "rank": intent.rank,
        "resource_id": intent.resource_id or None,
        "held_at": _instant_text(intent.held_at),
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
    (state, key, feed, resource_type, lane, fingerprint, cents, claim, likeness, run_id, *rest) = (
        line
    )
    attempts, resent, since, until, ahead_s, rule, message, interaction, *rest = rest
    resource_id, rank, held, held_run, held_at = rest
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
            likeness,
            run_id,
            resource_id,
            rank,
            _instant(held_at),
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
    )


# Opening ------------------------------------------------------------------------------------------


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is, whatever its name."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _connect(
    folder: Path, base_url: str, report_dir: Path | None, *, after_loss: bool
) -> sqlite3.Connection:
    """The connection to the journal of the last run; to a new one only where there was none."""
    amnesia.refuse_network(folder)
    path, anchor = folder / _FILE, amnesia.read_anchor(folder)
    loss = ""
    try:
        if _is_empty(path):
            loss = "missing" if _was_there(folder, base_url, report_dir) else ""
        if not loss:
            connection = _opened(path, base_url)
            loss = amnesia.loss_of(folder, anchor, connection, report_dir)
            if not loss and after_loss:
                connection.close()
                raise ConfigError(
                    "the journal is whole: there is no loss to go on after",
                    "run without --journal-lost",
                )
            if not loss:
                return connection
            if loss == "restored" and after_loss:
                return _lost(connection, folder, base_url, report_dir, loss)
            connection.close()
    except JournalLost as error:
        loss = error.loss
    if not after_loss:
        raise amnesia.lost(loss)
    _set_aside(folder, loss)
    return _lost(_opened(path, base_url, loss), folder, base_url, report_dir, loss)


def _is_empty(path: Path) -> bool:
    return not path.exists() or not path.stat().st_size


def _was_there(folder: Path, base_url: str, report_dir: Path | None) -> bool:
    """Whether a journal that is not there was there before, by what runs left beside it."""
    anchor = amnesia.read_anchor(folder)
    return anchor is not None or bool(amnesia.traces(folder, report_dir, base_url, ()))


def _refuse_held(path: Path) -> None:
    """Raises JournalBusy where another run holds it; makes no file beside it to find out."""
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro&readonly_shm=1", uri=True, timeout=0
    )
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        found = _not_opened(error, path)
        if isinstance(found, JournalBusy):
            raise found from None
    finally:
        connection.close()


def _opened(path: Path, base_url: str, loss: str = "") -> sqlite3.Connection:
    """Open it, or make it where there is no file. Raises JournalLost where it is corrupt."""
    is_new = False
    is_clean = not path.with_name(f"{_FILE}-wal").exists()  # SQLite removes it when it closes
    if not path.exists():
        path.touch(mode=0o600)
    is_small = path.stat().st_size < _CHECKED_BYTES_MAX
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_PAGES_A_CHECKPOINT}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("BEGIN EXCLUSIVE")
        if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
            is_new = True
            _create(connection, base_url, loss)
        connection.execute("COMMIT")
        is_checked = is_small or not is_clean
        if is_checked and connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise amnesia.lost("corrupt")
        _check(connection, base_url, path)
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            raise _not_opened(error, path) from None
        raise
    if is_new:
        _sync_folder(path.parent)
        _sync_folder(path.parent.resolve().parent)
    return connection


def _set_aside(folder: Path, loss: str) -> None:
    """Keep what is left of the old journal, under another name."""
    at = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for path in folder.glob(f"{_FILE}*"):
        if f"{_FILE}." not in path.name:
            path.rename(folder / path.name.replace(_FILE, f"{_FILE}.{loss}-{at}"))


def _lost(
    connection: sqlite3.Connection, folder: Path, base_url: str, report_dir: Path | None, loss: str
) -> sqlite3.Connection:
    """Note that rows which the journal does not know may be in Canvas all the same."""
    sql = _queries()
    known = {line[0] for line in connection.execute(sql["run_ids"])}
    name = connection.execute("SELECT value FROM meta WHERE name = 'journal'").fetchone()[0]
    runs = {
        *amnesia.traces(folder, report_dir, name, known),
        *amnesia.traces(folder, report_dir, base_url, known),
    }
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(sql["set_meta"], {"name": "loss", "value": loss})
    for run_id in sorted(runs):
        connection.execute(sql["enter_lost_run"], {"run_id": run_id})
    last = connection.execute(sql["last_entered"]).fetchone()
    if last is not None:
        connection.execute(sql["set_meta"], {"name": amnesia.ACKNOWLEDGED, "value": last[0]})
    connection.execute("COMMIT")
    return connection


def _create(connection: sqlite3.Connection, base_url: str, loss: str = "") -> None:
    for statement in _statements(
        resources.files("pipeline.journal").joinpath("schema.sql").read_text()
    ):
        connection.execute(statement)
    of_coverage = {**states.TRANSITIONS, **states.OF_COVERAGE}
    tables = {"PaymentNotice": states.TRANSITIONS, "Coverage": of_coverage}
    steps = {
        (resource_type, old.value, new.value)
        for resource_type, table in tables.items()
        for (old, _), new in table.items()
    }
    statement = "INSERT INTO transition (resource_type, old, new) VALUES (?, ?, ?)"
    connection.executemany(statement, sorted(steps))
    meta = [
        ("schema_version", _SCHEMA_VERSION),
        ("base_url", base_url),
        ("journal", token_hex(8)),
        *([("loss", loss)] if loss else []),
    ]
    connection.executemany("INSERT INTO meta (name, value) VALUES (?, ?)", meta)


def _statements(script: str) -> list[str]:
    statements, held = [], ""
    for line in script.splitlines(keepends=True):
        held += line
        if sqlite3.complete_statement(held):
            statements.append(held)
            held = ""
    return statements


def _check(connection: sqlite3.Connection, base_url: str, path: Path) -> None:
    meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    if meta.get("schema_version") != _SCHEMA_VERSION:
        raise JournalError(
            f"{path.name} was written by another version of canvas-ingest",
            "use the version that wrote it",
        )
    if meta["base_url"] != base_url:
        raise JournalForeign(
            f"this journal belongs to {meta['base_url']}, and canvas.base_url is {base_url}",
            "give each Canvas its own state.dir",
        )


def _not_opened(error: sqlite3.Error, path: Path) -> JournalError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return JournalBusy(
            f"another run holds the journal ({path.name})",
            "wait until it has ended, then run again",
        )
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return amnesia.lost("corrupt")
    return _unwritable(error)


def _sync_folder(folder: Path) -> None:
    """A new file survives a power loss only once its folder is on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
