"""The journal: one connection to its store, one thread, one transaction per group of writes.

A failed commit ends the run, because a write that is not recorded must not be sent. The database, SQLite or
PostgreSQL, is behind `store.py`, and enforces the table of states itself. The steps are functions of the modules
beside this one: `writes` (send), `decisions` (settle doubt), `doubts` and `lookups` (read), `runs`, `leases`,
`payers`, `history` (read the audit log).
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import orjson
import polars as pl

from pipeline.errors import JournalError
from pipeline.journal import loss_detection
from pipeline.journal.audit_log import ORIGIN, Line, link
from pipeline.journal.holder import remove_holder, write_holder
from pipeline.journal.loss_detection import HighWaterMark
from pipeline.journal.store import RUN, Cursor, Store

T = TypeVar("T")

_KEYS_A_QUERY: Final = 10_000
_LINES_A_QUERY: Final = 50_000
MARK_EVERY_S: Final = 1.0


class Journal:
    """The journal of one Canvas, or one partition of it. `opening.py` opens it; no other process has it until `close`.

    Attributes:
        folder: Where its high-water mark is, and SQLite's file.
        store: Its database. Only the journal's own thread may use it, except for `may_send`.
        name: A random name, from when it was created.
        base_url: The Canvas that it belongs to.
        loss: How an earlier journal of this Canvas was lost; "" if none was.
        was_lost: An earlier journal was lost: Canvas may hold rows that this one does not know.
        is_loss_accepted: A person decided to continue without what was lost.
    """

    def __init__(
        self, store: Store, pool: Executor, folder: Path, mark_every_s: float = MARK_EVERY_S
    ) -> None:
        self.store = store
        self.folder = folder
        self._pool = pool
        self._broken: JournalError | None = None  # why nothing more is written
        self._head: tuple[int, str] = (
            0,
            ORIGIN,
        )  # number and hash of our last line of the audit log
        self._mark_every_s = mark_every_s
        self._marked_s = float("-inf")
        self.is_loss_accepted = False
        meta, head = self.read(
            lambda: (dict(self.select("meta", {})), self.select("head", {"part": store.part}))
        )
        self.name = str(meta["journal"])
        self.base_url = str(meta["base_url"])
        self.loss = str(meta.get("loss", ""))
        self.was_lost = bool(self.loss)
        if head:
            self._head = (int(head[0][0]), str(head[0][1]))

    def close(self) -> None:
        """Close the journal once a transaction that is under way has ended."""

        def close() -> None:
            if self._broken is None:
                with suppress(OSError):
                    self.write_mark()
            if not self.store.holder:
                remove_holder(self.folder)
            self.store.close()

        self._pool.submit(close).result()
        self._pool.shutdown()

    def __enter__(self) -> Self:
        """Return the journal itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the journal."""
        self.close()

    def name_holder(self, run_id: str, since: str) -> None:
        """Name this process beside the file that it holds; a database names the holder of its lease itself."""
        if not self.store.holder:
            write_holder(self.folder, run_id, since)

    def write_mark(self) -> None:
        """Write the high-water mark: the number and hash of our last line of the audit log."""
        if self.store.part != RUN:
            return
        loss_detection.write_anchor(self.folder, HighWaterMark(self.name, *self._head))
        self._marked_s = time.monotonic()

    def may_send(self) -> bool:
        """Return whether the lease still holds, so that bytes may be handed to a socket now. For any thread."""
        return self.store.may_send()

    @property
    def head(self) -> tuple[int, str]:
        """Return the number and the hash of our last line of the audit log."""
        return self._head

    @property
    def epoch(self) -> int:
        """Return the epoch of our lease: the next holder has a higher one. 0 without a lease."""
        return self.store.epoch

    @property
    def is_stopping(self) -> bool:
        """Return whether the process that began the run wants our partition to end."""
        return self.store.is_stopping

    # Transactions, on the one thread ---------------------------------------------------------------

    async def write(self, step: Callable[[], T]) -> T:
        """Run a step as one transaction, and return when it is on disk. An error undoes all of it.

        After an error every later transaction raises the same error.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._transaction, step)

    def write_now(self, step: Callable[[], T]) -> T:
        """Do the same as `write`, but block."""
        return self._pool.submit(self._transaction, step).result()

    def read(self, step: Callable[[], T]) -> T:
        """Run a step that only reads. It is run again if the connection to the database was lost and is back."""
        return self._pool.submit(self._again, step).result()

    def rows(self, name: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Return all rows of a statement, outside of a step."""
        return self.read(lambda: self.select(name, parameters))

    def row(self, name: str, parameters: Mapping[str, object]) -> tuple[Any, ...] | None:
        """Return the first row of a statement, outside of a step; None if it has none."""
        found: tuple[Any, ...] | None = self.read(lambda: self.execute(name, parameters).fetchone())
        return found

    def records(self, name: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
        """Return all rows of a statement by the names of their columns, outside of a step."""
        return self.read(lambda: self.select_records(name, parameters))

    def stream(
        self, name: str, parameters: Mapping[str, object], schema: Mapping[str, Any]
    ) -> pl.DataFrame:
        """Return all rows of a statement as a frame, with few Python objects at a time."""

        def read() -> list[pl.DataFrame]:
            lines = self.store.stream(self.store.sql[name], parameters, _LINES_A_QUERY)
            parts = (pl.DataFrame(some, schema=schema, orient="row") for some in lines)
            return [pl.DataFrame(schema=schema), *parts]

        return pl.concat(self.read(read))

    def frame(
        self,
        name: str,
        keys: pl.Series,
        schema: Mapping[str, type[pl.DataType]],
        parameter: str = "keys",
    ) -> pl.DataFrame:
        """Return the rows of a statement for these keys as a frame. `parameter` is its name for them, as JSON."""

        def look_up() -> list[tuple[object, ...]]:
            lines: list[tuple[object, ...]] = []
            for some in keys.to_frame().iter_slices(_KEYS_A_QUERY):
                lines += self.select(name, {parameter: as_json(some.to_series().to_list())})
            return lines

        return pl.DataFrame(self.read(look_up), schema=schema, orient="row")

    # What a step may do ----------------------------------------------------------------------------

    def execute(self, name: str, parameters: Mapping[str, object]) -> Cursor:
        """Run a statement of `queries.sql`."""
        return self.store.execute(self.store.sql[name], parameters)

    def select(self, name: str, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
        """Return all rows of a statement."""
        return self.execute(name, parameters).fetchall()

    def select_records(self, name: str, parameters: Mapping[str, object]) -> list[dict[str, Any]]:
        """Return all rows of a statement by the names of their columns."""
        cursor = self.execute(name, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, line, strict=True)) for line in cursor.fetchall()]

    def change_each(
        self,
        name: str,
        lines: Sequence[Mapping[str, object]],
        or_else: Callable[[], None] | None = None,
    ) -> None:
        """Run a statement once for each of `lines`. Each must change exactly one row.

        Args:
            name: The statement.
            lines: Its parameters.
            or_else: What may bring the rows into the expected state that are not. Then the statement is run once more.

        Raises:
            JournalError: A row was not in the state in which it was expected.
        """
        if not lines:
            return
        sql = self.store.sql[name]
        changed = self.store.executemany(sql, lines).rowcount
        if changed < len(lines) and or_else is not None:
            or_else()
            changed += self.store.executemany(sql, lines).rowcount
        if changed != len(lines):
            raise JournalError(
                f"the journal holds {len(lines) - changed} of {len(lines)} rows in another state than expected, "
                "so nothing more is sent",
                "run again: what the journal holds is true",
            )

    def append(self, lines: Iterable[Line]) -> None:
        """Number these lines, chain them, and append them to the audit log."""
        number, before = self._head
        part = self.store.part
        chained = []
        for line in lines:
            number += 1
            numbered = (number, *line[1:-1], part)
            before = link(before, numbered)
            chained.append((*numbered, before))
        if chained:
            self.store.append(chained)
            self._head = (number, before)

    def _transaction(self, step: Callable[[], T]) -> T:
        """Commit all of a step or nothing of it. It is on disk when this returns."""
        if self._broken is not None:
            raise self._broken
        try:
            result = self._committed(step)
        except BaseException as error:
            self._broken = _as_journal_error(error)
            raise
        if time.monotonic() - self._marked_s > self._mark_every_s:
            with suppress(OSError):  # the mark may lag behind: the step is committed
                self.write_mark()
        return result

    def _committed(self, step: Callable[[], T]) -> T:
        """Commit a step. Repeat it if the store was lost and is back, unless it was committed already.

        The audit log shows whether it was, if the step adds lines to it. A step that adds none can be repeated.

        Raises:
            JournalLost: The store that is back lacks lines, for example because a replica that was behind took over.
        """
        head, ended = self._head, []
        while True:
            try:
                self._guarded(self.store.begin)
                ended.append(self._guarded(step))
                self._guarded(self.store.commit)
                return ended.pop()
            except BaseException as error:
                reached, self._head = (
                    self._head,
                    head,
                )  # the mark names no line that may not be on disk
                with suppress(*self.store.errors):
                    self.store.rollback()
                if not (isinstance(error, JournalError) and self.store.is_back()):
                    raise
                found = self._head_on_disk()
                if ended and found == reached != head:
                    self._head = reached
                    return ended.pop()
                if found != head:
                    self._guarded(
                        self.store.begin
                    )  # raises if the lease is not ours any more: the lines are its holder's
                    self.store.rollback()
                    raise loss_detection.lost("restored") from None
                ended.clear()

    def _head_on_disk(self) -> tuple[int, str]:
        line = self._guarded(lambda: self.execute("head", {"part": self.store.part}).fetchone())
        return (int(line[0]), str(line[1])) if line else (0, ORIGIN)

    def _again(self, step: Callable[[], T]) -> T:
        """Repeat a read if the store was lost and is back."""
        while True:
            try:
                return self._guarded(step)
            except JournalError:
                if not self.store.is_back():
                    raise

    def _guarded(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except self.store.errors as error:
            raise self.store.as_error(error) from None


def _as_journal_error(error: BaseException) -> JournalError:
    if isinstance(error, JournalError):
        return error
    return JournalError(
        f"the journal could not be written ({type(error).__name__}), so nothing more is sent",
        "run again; if it stays, report it with this line",
    )


def as_json(texts: Sequence[object]) -> str:
    """Return a list of texts as a parameter of a statement."""
    return orjson.dumps(list(texts)).decode()
