"""The interface of a journal's database: SQLite (`sqlite.py`) or PostgreSQL (`postgres.py`).

The statements are in SQLite's dialect, with named parameters. The store of PostgreSQL translates them, or has a
statement of its own.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, Protocol

from pipeline.errors import JournalError, JournalForeign
from pipeline.journal import states

SCHEMA_VERSION: Final = "8"
# By the version of an older journal: the scripts that upgrade it when it is opened. A new one has those of the first.
UPGRADES: Final = {
    "5": ("schema_6", "schema_7", "schema_8"),
    "6": ("schema_7", "schema_8"),
    "7": ("schema_8",),
}
NEW: Final = UPGRADES["5"]
RUN: Final = 0  # the part of the process that holds the whole run

Parameters = Mapping[str, object] | Sequence[object]


@dataclass(frozen=True, slots=True)
class Database:
    """A database for the journal, in place of a file."""

    url: str  # without a password
    lease_s: float = 15.0  # length of a lease: the time to wait for a process that ended or froze


class Cursor(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """Return the number of rows that it changed."""

    @property
    def description(self) -> Any:
        """Return the columns of its rows, each with its name first."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return all remaining rows."""


class Store(Protocol):
    """An open database. All but `may_send` is called from one thread."""

    part: int  # the part of the sending that is ours; RUN for the whole run
    epoch: int  # of our lease; 0 if there is none
    holder: str  # our name in the lease
    sql: Mapping[str, str]  # the statements, by name
    errors: tuple[type[Exception], ...]  # what the database raises

    def execute(self, sql: str, parameters: Parameters = (), /) -> Cursor:
        """Execute one statement."""

    def executemany(self, sql: str, lines: Sequence[Parameters], /) -> Cursor:
        """Execute one statement for each line."""

    def stream(self, sql: str, parameters: Parameters, size: int, /) -> Iterator[list[Any]]:
        """Yield the rows of one statement in lists of up to `size`."""

    def begin(self) -> None:
        """Begin a transaction. Raises JournalError if the journal is not ours to write any more."""

    def commit(self) -> None:
        """Commit the transaction; it is on disk when this returns."""

    def rollback(self) -> None:
        """Roll back the transaction."""

    def close(self) -> None:
        """Close the journal."""

    def fence(self) -> None:
        """End the leases of all parts, inside a transaction."""

    def forget(self) -> None:
        """Let deleted data leave no trace in the file from now on."""

    def is_back(self) -> bool:
        """Return whether the database was lost and is back. Raises JournalError if it stays away."""

    @property
    def is_stopping(self) -> bool:
        """Return whether the process that began the run wants all its parts to end."""

    def may_send(self) -> bool:
        """Return whether a write that is in flight may be handed to a socket now. May be called from any thread."""

    def as_error(self, error: Exception) -> JournalError:
        """Return a JournalError with the database's name for an error, and no value of a row."""


class Place(Protocol):
    """The place of a journal, existing or to be made."""

    def is_empty(self) -> bool:
        """Return whether there is no journal. Raises JournalError if that is not known."""

    def open(self, base_url: str, loss: str = "") -> Store:
        """Open or create the journal. Raises JournalBusy, JournalForeign, JournalLost or JournalError."""

    def set_aside(self, loss: str) -> None:
        """Move what is left of a lost journal out of the way of a new one."""

    def to_look_at(self, scratch: Path) -> "Place":
        """Return a place for a reader, whose changes are not kept. Raises JournalBusy or OSError."""


@cache
def statements(name: str = "queries.sql") -> Mapping[str, str]:
    """Return the statements of a file, by their names."""
    text = resources.files("pipeline.journal").joinpath(name).read_text()
    parts = re.split(r"^-- name: (\w+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def schema(name: str) -> str:
    """Return a script that makes the tables."""
    return resources.files("pipeline.journal").joinpath(name).read_text()


def fill(store: Store, base_url: str, loss: str = "") -> None:
    """Enter what a new journal holds: the table of states, and its identity."""
    _enter_transitions(store)
    meta: Iterable[tuple[str, str]] = [
        ("schema_version", SCHEMA_VERSION),
        ("base_url", base_url),
        ("journal", token_hex(8)),
        *([("loss", loss)] if loss else []),
    ]
    store.executemany("INSERT INTO meta (name, value) VALUES (?, ?)", list(meta))


def foreign(bound_to: str, base_url: str) -> JournalForeign:
    """Return the error of a journal that is bound to another address than the configuration names."""
    return JournalForeign(
        f"this journal belongs to {bound_to}, and canvas.base_url is {base_url}",
        "if both are the same Canvas, run `canvas-ingest journal move CONFIG`; if not, correct canvas.base_url. "
        "Do not start with an empty journal: it would send all rows to the same Canvas a second time",
        bound_to,
    )


def mark_upgraded(store: Store) -> None:
    """Enter what changes when a journal is brought up to this schema."""
    store.execute("DELETE FROM transition")
    _enter_transitions(store)
    store.execute(store.sql["set_meta"], {"name": "schema_version", "value": SCHEMA_VERSION})


def _enter_transitions(store: Store) -> None:
    of_payment = {**states.TRANSITIONS, **states.DECLARED_GONE}
    tables = {"PaymentNotice": of_payment, "Coverage": {**of_payment, **states.OF_COVERAGE}}
    steps = {
        (resource_type, old.value, new.value)
        for resource_type, table in tables.items()
        for (old, _), new in table.items()
    }
    statement = "INSERT INTO transition (resource_type, old, new) VALUES (?, ?, ?)"
    store.executemany(statement, sorted(steps))


def refused(what: str) -> JournalError:
    """Return the error if the database refuses a step that is not in the table of states."""
    return JournalError(
        f"the journal refuses a step that could post something twice ({what}), "
        "so nothing more is sent",
        "settle what is in doubt with `canvas-ingest review`, then run again",
    )
