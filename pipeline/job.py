"""Everything a run needs to know, composed of the options of each part, and its progress.

The settings here are sections of the configuration file, used as the file has them: each option is
declared once, with its default, its bounds and its description.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import polars as pl
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from pipeline.canvas import client as canvas
from pipeline.canvas.hosts import LOOPBACK
from pipeline.fhir.codes import Contract
from pipeline.fhir.datatypes import DOLLARS
from pipeline.journal.store import Database
from pipeline.reading import fetch as fetching
from pipeline.reading.manifest import Expected
from pipeline.records import Disposition
from pipeline.rows.crosswalk import Target
from pipeline.rows.feed import Feed
from pipeline.rows.shares import Ceiling
from pipeline.system.environment import cores

_USD: Final = re.compile(DOLLARS, re.ASCII)
_SCHEDULER: Final = re.compile(
    r"(?P<scheme>tcp|tls)://(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:]+\]):(?P<port>[0-9]{1,5})",
    re.ASCII,
)
_PORT_MAX: Final = 65_535
_PARTITIONS_A_WORKER: Final = 4
_PARTITIONS_TO_JOIN: Final = 16

# A share of rows, such as "10%", or a count.
Share = Annotated[
    Ceiling,
    PlainValidator(Ceiling.parse),
    PlainSerializer(str),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
]


class Section(BaseModel):
    """A section of the configuration file: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class UploadSettings(Section):
    """The section `[upload]`: how fast a run sends, and how often it tries a write."""

    rate_per_s: float = Field(
        default=5.0,
        gt=0,
        le=100_000,
        description="Requests a second, never more in any second, reads and searches included. Canvas publishes no limit: raise it with care. 429 and 503 slow a run down by themselves.",
    )
    concurrency: int = Field(
        default=4,
        ge=1,
        le=1_000,
        description="Requests in flight, of each process that sends. A patient has one open write at a time, whatever this is.",
    )
    attempts_max: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Sends of one write that Canvas is known not to have made (429, 401, no connection). After them it is pending until the next run.",
    )
    quiet_s: float = Field(
        default=30.0,
        ge=0,
        le=3_600,
        description="Seconds after a lost answer before a search that shows nothing can mean that it was not applied.",
    )
    resend_absent: Literal["none", "coverage", "all"] = Field(
        default="coverage",
        description="What is sent once more if a search after `quiet_s` shows that it is not there: nothing, coverages, or payments too (at your risk: a payment cannot be taken back).",
    )
    doubts_max: int = Field(
        default=3,
        ge=1,
        le=1_000,
        description="After this many lost answers in a row nothing is sent until Canvas answers a read; then one write goes first, and the others after its answer.",
    )


class LimitSettings(Section):
    """The section `[limits]`: above one of them nothing is written. None is no limit."""

    rejects_max: Share | None = Field(
        default=None,
        description='Rows of a feed that we may reject: a share of its rows without the filtered ones, such as `"10%"`, or a count.',
    )
    amount_usd_max: str | None = Field(
        default=None,
        description="Dollars, in quotes: one payment above it is rejected (`amount|limit`), the others go.",
    )
    total_usd_max: str | None = Field(
        default=None, description="Dollars, in quotes: what all payments of a run may come to."
    )
    writes_max: int | None = Field(
        default=None,
        ge=0,
        description="Writes of a run, creates and updates together, without those of `--rewrite`.",
    )
    change_max: float | None = Field(
        default=None,
        ge=1,
        description="A factor: the rows, or the dollars, of a feed may not be that many times more or fewer than the last time. Not looked at for a file that `--input` names.",
    )
    repeats_max: Share = Field(
        default=Ceiling.parse("5%"),
        description="Rows about to be created that equal a write of an earlier run (payments: same patient, amount, claim and day; coverages: same content) under a key that no row of today's files has: a share of the feed's creates, never fewer than 3, or a count. Above it the cause is a changed key, feed name or spelling of ids; `--accept-repeats N` lets N of them pass. Up to it they are a warning.",
    )

    @field_validator("amount_usd_max", "total_usd_max")
    @classmethod
    def _is_usd(cls, value: str | None) -> str | None:
        if value is not None and not _USD.fullmatch(value):
            raise ValueError('must be an amount in quotes, such as "10000.00"')
        return value

    @property
    def amount_cents_max(self) -> int | None:
        """Return the largest amount of one payment, in cents."""
        return _cents(self.amount_usd_max)

    @property
    def total_cents_max(self) -> int | None:
        """Return the largest sum of all payments of a run, in cents."""
        return _cents(self.total_usd_max)


def _cents(usd: str | None) -> int | None:
    return None if usd is None else int(Decimal(usd).scaleb(2))


class EngineSettings(Section):
    """The section `[engine]`: the process or the workers that read and judge the rows."""

    kind: Literal["embedded", "join", "dask"] = Field(
        default="embedded",
        description="Who does the work. `embedded`: the command's own process. `join`: the command, and any number of processes that `join` and send parts of the plan with it. `dask`: the workers of a Dask cluster (the extra `dask`) read, judge and send. The last two need `state.url`.",
    )
    scheduler: str = Field(
        default="",
        description="With `dask`: the scheduler, `tls://host:port` (`tcp://` for this machine only). `state.dir` and the files are then at the same path on all workers. Empty: workers are started on this machine, and end with the command.",
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        le=1_000,
        description="With `dask` and no scheduler: how many processes are started. Left out: one for each core.",
    )
    partitions: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Parts into which the sending is cut, by patient; a process sends one at a time, so this bounds how many send. Left out: 16 with `join`, four for each worker with `dask`. Parts are never smaller than about 50 writes.",
    )
    ca_file: str = Field(
        default="",
        description="PEM file with the certificate of the cluster's own authority: whatever it signed is trusted.",
    )
    cert_file: str = Field(
        default="",
        description="PEM file with the certificate that this machine shows to the scheduler.",
    )
    key_file: str = Field(
        default="", description="PEM file with its key, mode 0600 (root's own: 0640)."
    )

    @model_validator(mode="after")
    def _is_reachable(self) -> Self:
        if self.scheduler and self.workers is not None:
            raise ValueError("scheduler and workers: a scheduler has its own workers, keep one")
        match = _SCHEDULER.fullmatch(self.scheduler)
        if self.scheduler and (match is None or int(match["port"]) > _PORT_MAX):
            raise ValueError(
                "scheduler: must be tls://host:port, such as tls://dask.example.org:8786"
            )
        if match is None:
            return self
        if match["scheme"] == "tcp" and match["host"] not in LOOPBACK:
            raise ValueError(
                "scheduler: tcp:// is for this machine only: anyone who reaches a scheduler without TLS can have it "
                "execute any code; set the cluster up with TLS and write tls://"
            )
        if match["scheme"] == "tls" and not (self.ca_file and self.cert_file and self.key_file):
            raise ValueError("scheduler: tls:// needs ca_file, cert_file and key_file")
        return self

    @property
    def worker_count(self) -> int:
        """Return how many processes are started if no scheduler is configured."""
        return self.workers or cores()

    @property
    def partition_count(self) -> int:
        """Return into how many parts the sending is cut, if there are enough writes."""
        if self.partitions is None and self.kind == "join":
            return _PARTITIONS_TO_JOIN
        return self.partitions or _PARTITIONS_A_WORKER * self.worker_count


@dataclass(frozen=True, slots=True)
class Reference:
    """The way from a source's id to a Canvas id.

    The table at `path` maps it, or a search in Canvas for the identifier in `system`. Without either,
    the source's value is the id.
    """

    target: Target = "key"
    path: Path | str | None = None  # a text is the address of an object
    source_column: str = ""
    target_column: str = ""
    organization_column: str = ""  # of payers: the Organization of the payer id in `target_column`
    system: str = ""
    skip_lines: int = 0  # of a table that is text
    comment_prefix: str = ""
    blank_lines: Literal["reject", "skip"] = "reject"
    one_by_one_max: int = 100  # values that are searched one by one, however small the namespace


@dataclass(frozen=True, slots=True)
class References:
    """The way each kind of reference is resolved."""

    patient: Reference = Reference()
    payer: Reference = Reference("payer_id")
    claim: Reference = Reference()
    subscriber_by_row: bool = False  # the subscriber is the patient of another row


UNDECIDED: Final = "DECIDE"  # marks the lines of a draft that a person must decide on


@dataclass(frozen=True, slots=True)
class Undecided:
    """A line of the configuration that a person has still to decide on."""

    line: int
    what: str  # as the line has it
    is_value: bool  # of a setting, not of a comment


@dataclass(frozen=True, slots=True)
class Job:
    """Everything a run needs to know: the configuration, composed of the options of each part."""

    feeds: tuple[Feed, ...]
    contract: Contract
    canvas: canvas.Options
    upload: UploadSettings
    limits: LimitSettings
    state_dir: Path
    report_dir: Path
    config_sha256: str
    version: str
    references: References = References()
    # In place of a feed's path: a file, the address of an object, or rows.
    inputs: Mapping[str, Path | str | pl.DataFrame] = field(default_factory=dict)
    expected: Mapping[str, Expected] = field(default_factory=dict)
    accept_repeats: int | None = None  # a person accepts up to this many probable repeats
    rewrite: str = ""  # a SQL condition over our fields (`rows/condition.py`)
    name: str = ""  # the configuration file's, without its ending
    metrics: Path | None = None  # written at the end of each run
    retention_days: int | None = None  # how long what a run leaves of rows is kept; None: for ever
    database: Database | None = None  # for the journal; else it is a file in `state_dir`
    objects: fetching.Options = field(default_factory=fetching.Options)
    engine: EngineSettings = field(default_factory=EngineSettings)
    undecided: tuple[Undecided, ...] = ()  # the open decisions of a drafted configuration
    again: Callable[[], "Job"] | None = (
        None  # the same, loaded on another machine, with the secrets that are there
    )


@dataclass(slots=True)
class Progress:
    """The progress of a run. The command writes it, and the display reads it."""

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
    rows: int = 0  # of all files, once they are known
    rows_read: int = 0
    to_send: int = 0
    sent: int = 0  # writes that ended, whichever way
    dispositions: Counter[Disposition] = field(default_factory=Counter)
