"""The result of a check, and what the checks share."""

import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random

import polars as pl

from pipeline.errors import IngestError
from pipeline.job import Job, Progress
from pipeline.records import Stamped
from pipeline.rows.feed import Feed


class State(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. `todo` says what to do about it, if there is something to do."""

    group: str
    what: str
    state: State
    message: str
    todo: str = ""

    @property
    def is_wrong(self) -> bool:
        """Return whether a run would fail."""
        return self.state is State.WRONG


@dataclass(slots=True)
class Context:
    """The input of the checks, and results of earlier checks for later ones."""

    job: Job
    progress: Progress
    stop: asyncio.Event
    step_s_max: float
    show_values: bool = False  # those of coded columns
    scratch: Path = field(init=False)  # for copies of the journal and of files
    random: Random = field(default_factory=Random)  # jitter, and ids of plans that are thrown away
    patients: list[tuple[Feed, pl.DataFrame]] = field(default_factory=list)  # a few rows a feed
    is_beside_run: bool = False  # another run holds the journal now
    has_past: bool = False  # the journal knows of earlier runs
    stamped: list[Stamped] = field(default_factory=list)  # payments that show the clock of stamps
    # Some ids are unknown here, so that rows sent before seem to have changed.
    is_unresolved: bool = False
    is_sure: bool = True  # of what would be sent: the journal and all ids are known


def ok(group: str, what: str, message: str, todo: str = "") -> Check:
    """Return the result of a check that found nothing to object to."""
    return Check(group, what, State.OK, message, todo)


def warning(group: str, what: str, message: str, todo: str) -> Check:
    """Return the result of a check that found something to look at, which stops no run."""
    return Check(group, what, State.WARNING, message, todo)


def wrong(group: str, what: str, message: str, todo: str) -> Check:
    """Return the result of a check that found what would go wrong in a run."""
    return Check(group, what, State.WRONG, message, todo)


def failed(group: str, what: str, error: IngestError) -> Check:
    """Return the result of a check that ended with an error."""
    return wrong(group, what, error.message, error.fix)
