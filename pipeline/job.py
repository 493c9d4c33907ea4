"""What a run needs to know, composed of each part's own options, and where it stands."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from pipeline.canvas import client as canvas
from pipeline.canvas.judge import OUTAGE_S_MAX, Backoff
from pipeline.fhir.codes import Contract
from pipeline.journal.store import Database
from pipeline.reading import fetch as fetching
from pipeline.reading.manifest import Expected
from pipeline.records import Disposition
from pipeline.rows.crosswalk import Target
from pipeline.rows.feed import Feed
from pipeline.rows.shares import Ceiling


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may not exceed; above it nothing is written. None: no limit."""

    rejects_max: Ceiling | None = None  # of a feed's rows without the filtered ones
    amount_cents_max: int | None = None  # one payment
    total_cents_max: int | None = None  # all payments of the plan
    writes_max: int | None = None
    repeats_max: Ceiling | None = None  # of a feed's creates, and a share of them allows 3 at least
    change_max: float | None = None  # factor between this and the last file's rows or dollars


@dataclass(frozen=True, slots=True)
class Reference:
    """How a source's id becomes a Canvas id.

    By the table at `path`, or by searching Canvas for the identifier in `system`; without either the
    source's value is the id.
    """

    target: Target = "key"
    path: Path | str | None = None  # a text is the address of an object
    source_column: str = ""
    target_column: str = ""
    organization_column: str = ""  # of payers: the Organization of the payer id in `target_column`
    system: str = ""


@dataclass(frozen=True, slots=True)
class References:
    """How each kind of reference is resolved."""

    patient: Reference = Reference()
    payer: Reference = Reference("payer_id")
    claim: Reference = Reference()


@dataclass(frozen=True, slots=True)
class UploadSettings:
    """How many requests run at once, and how often and for how long a write is tried."""

    concurrency: int = 4  # requests in flight
    rate_per_s: float = 5.0
    attempts_max: int = 5  # sends of one write that is known not to have happened
    doubts_max: int = 3  # lost answers in a row; then nothing is sent until a read succeeds
    outage_s_max: float = OUTAGE_S_MAX  # how long to wait for that
    quiet_s: float = 30.0  # after a lost answer, before "not found" can mean "not applied"
    resend_absent: Literal["none", "coverage", "all"] = "coverage"
    # between reads while it lasts, and between searches that fail
    backoff: Backoff = field(default_factory=lambda: Backoff(longest_s=10.0))


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The workers of a run. With `scheduler` "", `workers` processes are started and ended by the run."""

    kind: Literal["embedded", "dask"] = "embedded"
    scheduler: str = ""
    workers: int = 1
    partitions: int = 4  # calls that may run at the same time, if each takes long
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """All that a run needs to know: the configuration, composed of each part's own options."""

    feeds: tuple[Feed, ...]
    contract: Contract
    canvas: canvas.Options
    upload: UploadSettings
    limits: Limits
    state_dir: Path
    report_dir: Path
    config_sha256: str
    version: str
    references: References = References()
    # In place of a feed's path: a file, the address of an object, or rows.
    inputs: Mapping[str, Path | str | pl.DataFrame] = field(default_factory=dict)
    expected: Mapping[str, Expected] = field(default_factory=dict)
    accept_repeats: int | None = None  # a person accepts up to this many probable repeats
    name: str = ""  # the configuration file's, without its ending
    metrics: Path | None = None  # written at the end of each run
    retention_days: int | None = None  # how long what a run leaves of rows is kept; None: for ever
    database: Database | None = None  # for the journal; else it is a file in `state_dir`
    objects: fetching.Options = field(default_factory=fetching.Options)
    engine: EngineSettings = field(default_factory=EngineSettings)
    again: Callable[[], "Job"] | None = (
        None  # the same, loaded on another machine, with the secrets that are there
    )


@dataclass(slots=True)
class Progress:
    """Where a run stands, for whoever shows it. Written by the conductor, read by the edge."""

    stage: Literal[
        "starting",
        "settling",
        "looking up",
        "searching",
        "reading",
        "planning",
        "sending",
        "verifying",
        "reporting",
    ] = "starting"
    run_id: str = ""  # once it is known
    rows_read: int = 0
    to_send: int = 0
    sent: int = 0  # writes that ended, whichever way
    dispositions: Counter[Disposition] = field(default_factory=Counter)
