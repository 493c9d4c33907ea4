"""The configuration: one TOML file and the environment, made into one `Job`.

The only reader of either. Unknown keys are errors with a "did you mean"; relative paths start at
the file's folder; secrets come from the environment or from a file that it names, never from the
TOML. docs/configuration.md is made of these options.
"""

import difflib
import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import parse_qs, urlsplit

import polars as pl
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.app import logs, notify
from pipeline.canvas import client as canvas
from pipeline.canvas.assertion import private_key_of
from pipeline.canvas.auth import Credentials
from pipeline.canvas.hosts import is_host_name
from pipeline.canvas.proxy import Proxy, unused
from pipeline.canvas.trust import trust
from pipeline.errors import ConfigError
from pipeline.fhir import codes
from pipeline.fhir.datatypes import DOLLARS
from pipeline.files import OTHERS
from pipeline.job import EngineSettings, Job, Limits, Reference, References, UploadSettings
from pipeline.journal.store import Database
from pipeline.reading import fetch
from pipeline.reading.address import address_of, is_address, is_wild
from pipeline.reading.manifest import Expected
from pipeline.rows import feed as feeds
from pipeline.rows import settings
from pipeline.rows.columns import FULL_DATE
from pipeline.rows.crosswalk import Target
from pipeline.rows.shares import Ceiling
from pipeline.system.environment import PASSED_ON, cores, is_secret, variables
from pipeline.system.ownership import require_safe_config
from pipeline.version import VERSION

_USD: Final = re.compile(DOLLARS, re.ASCII)
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
_SECRET_BYTES_MAX: Final = 64 * 1024
_EXIT_CODES: Final = frozenset({0, 1, 2, 3, 4, 5, 130})
_LOOPBACK: Final = frozenset({"127.0.0.1", "[::1]", "localhost"})
# Narrower than the standard: programs differ in what they make of a user, a backslash, a blank, a
# letter beyond ASCII or a port of six digits in an address, and this one decides where a secret goes.
_SCHEDULER: Final = re.compile(
    r"(?P<scheme>tcp|tls)://(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:]+\]):(?P<port>[0-9]{1,5})",
    re.ASCII,
)
_PORT_MAX: Final = 65_535
_PARTITIONS_A_WORKER: Final = 4
_LABEL: Final = "[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_PROXY: Final = re.compile(
    r"http://(?:[a-z0-9.-]{1,253}|\[[0-9a-f:.]{2,45}\]):(?P<port>[0-9]{1,5})",
    re.ASCII | re.IGNORECASE,
)
_ADDRESS: Final = re.compile(
    rf"(?P<scheme>https?)://(?P<host>{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?P<path>/[\w.~!$&'()*+,;=:@%/-]*)?(?P<query>\?[\w.~!$&'()*+,;=:@%/?-]*)?",
    re.ASCII,
)


def _is_location(text: str) -> str:
    if is_address(text):
        address_of(text)
    return text


def _is_one_location(text: str) -> str:
    if is_address(text) and is_wild(address_of(text).key):
        raise ValueError("must be one object: no *, ? or [ in its key")
    return text


# A path from the configuration file's folder on, or the address of an object; or a glob of either.
Location = Annotated[str, AfterValidator(_is_location)]
OneLocation = Annotated[str, AfterValidator(_is_one_location)]


def _is_ceiling(value: object) -> object:
    Ceiling.parse(value)
    return value


# A share of rows, such as "10%", or a count.
Share = Annotated[str | int, BeforeValidator(_is_ceiling)]
ShareOrNone = Annotated[str | int | None, BeforeValidator(_is_ceiling)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class CanvasSection(_Section):
    base_url: str = Field(
        description="Address of the FHIR API: `https://fumage-<instance>.canvasmedical.com` (http only for this machine). A journal belongs to one."
    )
    token_url: str = Field(
        "",
        description="Where tokens are asked for: `https://<instance>.canvasmedical.com/auth/token/`, with the slash at the end. Needed unless `CANVAS_TOKEN` is set.",
    )
    contract: codes.Contract = Field(
        codes.Contract.OF_2025_10,
        description="The shape of Coverage: the API has no version number. `2023` for an instance from before October 2025.",
    )
    scope: str = Field(
        "",
        description="Sent with the request for a token; empty: left out, and the token allows whatever the application is allowed.",
    )
    key_id: str = Field(
        "",
        pattern=r"^[!-~]{0,256}$",
        description="With `CANVAS_PRIVATE_KEY`: the id (`kid`) under which its public half is registered. Empty: the `kid` of the key itself, where it is a JWK.",
    )
    ca_file: str = Field(
        "",
        description="PEM file with the certificates of your own authority, where a gateway of yours answers for Canvas; then no other authority is trusted. Empty: those of the machine. Verification cannot be switched off.",
    )
    cert_file: str = Field(
        "",
        description="PEM file with the client certificate that a gateway of yours asks for; with `key_file`.",
    )
    key_file: str = Field(
        "",
        description="PEM file with the key of that certificate, unencrypted, of mode 0600.",
    )
    proxy: str = Field(
        "",
        description="`http://host:port` of a forward proxy that all requests to Canvas, and for tokens, go through (CONNECT for https: TLS stays end to end). `CANVAS_PROXY_USERNAME` and `CANVAS_PROXY_PASSWORD` are shown to it. Proxies of the environment (`HTTPS_PROXY`) are not used.",
    )
    location_hosts: list[str] = Field(
        [],
        max_length=20,
        description='Hosts beside that of `base_url` that a `Location`, or the `next` link of a search, may name, where a gateway in front of Canvas leaves them as they are: `["fumage-<instance>.canvasmedical.com"]`. Names only, without scheme and port. Nothing is ever sent to them.',
    )
    timeout_s: float = Field(
        30.0,
        gt=0,
        le=600,
        description="Seconds to wait for one answer. A write without an answer by then is in doubt.",
    )

    @field_validator("proxy")
    @classmethod
    def _is_a_proxy(cls, url: str) -> str:
        match = _PROXY.fullmatch(url)
        if url and (match is None or not 0 < int(match["port"]) < 65_536):  # noqa: PLR2004 - ports
            raise ValueError(
                "must be http://host:port, without a user or a path; credentials come from CANVAS_PROXY_USERNAME and CANVAS_PROXY_PASSWORD"
            )
        return url

    @model_validator(mode="after")
    def _has_both_files(self) -> Self:
        if bool(self.cert_file) != bool(self.key_file):
            raise ValueError("cert_file and key_file go together: name both, or neither")
        return self

    @field_validator("location_hosts")
    @classmethod
    def _are_host_names(cls, hosts: list[str]) -> list[str]:
        if not all(map(is_host_name, hosts)):
            raise ValueError(
                'must be host names in lower case, such as "fumage-example.canvasmedical.com", without scheme, port and path'
            )
        return hosts

    @field_validator("base_url", "token_url")
    @classmethod
    def _is_whole(cls, url: str) -> str:
        """https, or http to this machine; no user, no query: the token goes there."""
        if not url:
            return url
        used = _as_used(url)
        if used is None or "?" in used:
            raise ValueError(
                "must be https://host[:port][/path] (http only for 127.0.0.1, [::1] or localhost); a host beyond ASCII is written as xn--..."
            )
        return used


class UploadSection(_Section):
    rate_per_s: float = Field(
        5.0,
        gt=0,
        le=100_000,
        description="Requests a second, never more in any second, reads and searches included. Canvas publishes no limit: raise it with care. 429 and 503 slow a run down by themselves.",
    )
    concurrency: int = Field(
        4,
        ge=1,
        le=1_000,
        description="Requests in flight. A patient has one open write at a time, whatever this is.",
    )
    attempts_max: int = Field(
        5,
        ge=1,
        le=100,
        description="Sends of one write that Canvas is known not to have made (429, 401, no connection). After them it is pending until the next run.",
    )
    quiet_s: float = Field(
        30.0,
        ge=0,
        le=3_600,
        description="Seconds after a lost answer before a search that shows nothing can mean that it was not applied.",
    )
    resend_absent: Literal["none", "coverage", "all"] = Field(
        "coverage",
        description="What goes once more when a search after the quiet time shows that it is not there: nothing, coverages, or payments too (at your risk: a payment cannot be taken back).",
    )
    doubts_max: int = Field(
        3,
        ge=1,
        le=1_000,
        description="After this many lost answers in a row nothing is sent until Canvas answers a read; then one write goes first, and the others after its answer.",
    )


class LimitsSection(_Section):
    rejects_max: ShareOrNone = Field(
        None,
        description='Rows of a feed that we may reject: a share of its rows without the filtered ones, such as `"10%"`, or a count.',
    )
    amount_usd_max: str | None = Field(
        None,
        description="Dollars, in quotes: one payment above it is rejected (`amount|limit`), the others go.",
    )
    total_usd_max: str | None = Field(
        None, description="Dollars, in quotes: what all payments of a run may come to."
    )
    writes_max: int | None = Field(
        None, ge=0, description="Writes of a run, creates and updates together."
    )
    change_max: float | None = Field(
        None,
        ge=1,
        description="A factor: the rows, or the dollars, of a feed may not be that many times more or fewer than the last time. Not looked at for a file that `--input` names.",
    )

    repeats_max: Share = Field(
        "5%",
        description="Rows about to be created that equal a write of an earlier run (payments: same patient, amount, claim and day; coverages: same content) under a key that no row of today's files has: a share of the feed's creates, never fewer than 3, or a count. Above it the cause is a changed key, feed name or spelling of ids; `--accept-repeats N` lets N of them pass. Up to it they are a warning.",
    )

    @field_validator("amount_usd_max", "total_usd_max")
    @classmethod
    def _is_usd(cls, value: str | None) -> str | None:
        if value is not None and not _USD.fullmatch(value):
            raise ValueError('must be an amount in quotes, such as "10000.00"')
        return value


class FolderSection(_Section):
    dir: str = Field(
        description="Path of a folder of your own, made with mode 0700 where it is not there."
    )


_TABLE: Final = (
    "With `file`: the table, CSV (.csv .tsv .txt, .gz or .zst too) or Parquet, as UTF-8."
)


def _is_database(url: str) -> str:
    """PostgreSQL's, without a password, and with a verified connection to any other machine."""
    if not url:
        return url
    try:
        parts = urlsplit(url)
        host, options = parts.hostname or "", parse_qs(parts.query)
        is_fit = parts.scheme in {"postgresql", "postgres"} and url.isprintable()
        has_password = parts.password is not None or "password" in options
    except ValueError:
        is_fit, has_password, host, options = False, False, "", {}
    if not is_fit:
        raise ValueError(
            "must be an address of PostgreSQL: postgresql://user@host:5432/database?sslmode=verify-full"
        )
    if has_password:
        raise ValueError(
            "must hold no password: set PGPASSWORD, or name a password file (PGPASSFILE)"
        )
    is_near = host in {"", "localhost", "127.0.0.1", "::1"} and not {"host", "hostaddr"} & {
        *options
    }
    mode = options.get("sslmode", [""])[-1]
    if not is_near and mode not in {"verify-full", "verify-ca"}:
        raise ValueError(
            "must have sslmode=verify-full where the database is on another machine (and sslrootcert=FILE, where its certificate is your own)"
        )
    return url


class StateSection(_Section):
    dir: str = Field(
        "state",
        description="Path of a folder of your own, made with mode 0700 where it is not there.",
    )
    url: Annotated[str, AfterValidator(_is_database)] = Field(
        "",
        description="Address of a database in PostgreSQL that holds the journal in place of a file in `dir`, so that several machines can share it: `postgresql://user@host:5432/database?sslmode=verify-full`, one database for each Canvas. The password comes from PGPASSWORD or a password file. Needs `canvas-ingest[postgresql]`.",
    )
    lease_s: float = Field(
        15.0,
        ge=3,
        le=300,
        description="With `url`: how long a process that is gone, or frozen, is waited for before another takes over. Two seconds of it are the margin for clocks and pauses.",
    )


class EngineSection(_Section):
    kind: Literal["embedded", "dask"] = Field(
        "embedded",
        description="Where the rows are read and judged: in the command's own process, or by the workers of a Dask cluster (the extra `dask`).",
    )
    scheduler: str = Field(
        "",
        description="With `dask`: the scheduler, `tls://host:port` (`tcp://` for this machine only). `state.dir` and the files are then at the same path on all workers. Empty: workers are started on this machine, and end with the command.",
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=1_000,
        description="With `dask` and no scheduler: how many processes are started. Left out: one for each core.",
    )
    partitions: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="With `dask`: parts of the sending that are under way at a time, no more than `upload.concurrency`, which they share. Left out: four for each worker.",
    )
    ca_file: str = Field(
        "",
        description="PEM file with the certificate of the cluster's own authority: whatever it signed is trusted.",
    )
    cert_file: str = Field(
        "", description="PEM file with the certificate that this machine shows to the scheduler."
    )
    key_file: str = Field("", description="PEM file with its key, mode 0600 (root's own: 0640).")

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
        if match["scheme"] == "tcp" and match["host"] not in _LOOPBACK:
            raise ValueError(
                "scheduler: tcp:// is for this machine only: whoever reaches a scheduler without TLS can have it "
                "carry out anything; set the cluster up with TLS and write tls://"
            )
        if match["scheme"] == "tls" and not (self.ca_file and self.cert_file and self.key_file):
            raise ValueError("scheduler: tls:// needs ca_file, cert_file and key_file")
        return self


class ReportSection(FolderSection):
    metrics: str = Field(
        "",
        description="File for Prometheus text about the last run, for a node exporter's textfile collector (its name must end in .prom); empty: none.",
    )

    @field_validator("metrics")
    @classmethod
    def _is_collected(cls, path: str) -> str:
        if path and not path.endswith(".prom"):
            raise ValueError("must end in .prom: a node exporter reads no other file")
        return path


class RetentionSection(_Section):
    days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="Each `run` ends with what `journal purge` does: it removes what runs before that many days ago left of rows (plans, and reports but for `summary.json`). Left out: all is kept. What could send a payment twice stays.",
    )


class NotifySection(_Section):
    on: tuple[int, ...] = Field(
        (1, 2, 3, 4, 5, 130),
        description="Exit codes of `run` and `verify` after which the notice is sent; 0 may be among them.",
    )
    command: tuple[str, ...] = Field(
        (),
        description="Program and arguments, without a shell, that gets the notice as one JSON object on stdin. The webhook's address is a secret: CANVAS_INGEST_WEBHOOK_URL.",
    )
    timeout_s: float = Field(
        10.0,
        gt=0,
        le=60,
        description="Seconds that the command, and the webhook, may take.",
    )
    env: tuple[str, ...] = Field(
        (),
        description="Names of variables that the command gets from our environment, beside "
        + ", ".join(f"`{name}`" for name in PASSED_ON)
        + " and `LC_*`. None that begins with `CANVAS_`: those hold secrets.",
    )

    @field_validator("env")
    @classmethod
    def _are_no_secrets(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if any(is_secret(name) for name in names):
            raise ValueError(
                "must name no variable that begins with CANVAS_, and not PGPASSWORD: they hold secrets of ours"
            )
        return names

    @field_validator("on")
    @classmethod
    def _are_exit_codes(cls, codes: tuple[int, ...]) -> tuple[int, ...]:
        if not set(codes) <= _EXIT_CODES:
            raise ValueError(f"must be exit codes: {', '.join(map(str, sorted(_EXIT_CODES)))}")
        if not codes:
            raise ValueError("must name at least one exit code; remove [notify] to send no notice")
        return codes

    @field_validator("command")
    @classmethod
    def _has_program(cls, command: tuple[str, ...]) -> tuple[str, ...]:
        if command and not command[0].strip():
            raise ValueError("must begin with a program; leave it out to run none")
        return command


def _refuse_unused_table(how: str, *keys: str) -> None:
    """Refuse a table that is not read: the sender's ids would be taken for Canvas' own."""
    if how != "file" and any(keys):
        raise ValueError('path, from and to are for how = "file": set that, or remove them')


class PatientReference(_Section):
    how: Literal["key", "file", "search"] = Field(
        "key",
        description="`key`: the value is Canvas' Patient key. `file`: a table says it. `search`: Canvas is searched for a Patient with this identifier.",
    )
    path: OneLocation = Field("", description=_TABLE)
    from_: str = Field("", alias="from", description="The table's column with the sender's value.")
    to: str = Field("", description="The table's column with Canvas' Patient key.")
    system: str = Field(
        "",
        description="With `search`: the system of the identifier, as Canvas shows it on a Patient.",
    )

    @model_validator(mode="after")
    def _is_used(self) -> Self:
        if self.how != "search" and self.system:
            raise ValueError('system is for how = "search": set that, or remove it')
        _refuse_unused_table(self.how, self.path, self.from_, self.to)
        return self

    @property
    def target(self) -> Target:
        return "key"


class ClaimReference(_Section):
    how: Literal["key", "file"] = Field(
        "key", description="`key`: the value is Canvas' Claim id. `file`: a table says it."
    )
    path: OneLocation = Field("", description=_TABLE)
    from_: str = Field("", alias="from", description="The table's column with the sender's value.")
    to: str = Field("", description="The table's column with Canvas' Claim id.")

    @model_validator(mode="after")
    def _is_used(self) -> Self:
        _refuse_unused_table(self.how, self.path, self.from_, self.to)
        return self

    @property
    def target(self) -> Target:
        return "key"


class PayerReference(_Section):
    how: Literal["payer_id", "organization", "file"] = Field(
        "payer_id",
        description="`payer_id`: the value is the payer id, sent as `payor[0].identifier`. `organization`: it is an Organization's id. `file`: a table says it.",
    )
    path: OneLocation = Field("", description=_TABLE)
    from_: str = Field("", alias="from", description="The table's column with the sender's value.")
    to: str = Field("", description="The table's column with what `target` names.")
    file_target: Literal["payer_id", "organization"] = Field(
        "payer_id", alias="target", description="With `file`: what the column `to` holds."
    )

    organization: str = Field(
        "",
        description="With `file` and payer ids: the column with the Organization that Canvas shows for the payer id, if the table has one. Canvas never returns a payer id, so coverages are compared by it.",
    )

    @model_validator(mode="after")
    def _is_used(self) -> Self:
        if self.how != "file" and "file_target" in self.model_fields_set:
            raise ValueError('target is for how = "file": set that, or remove it')
        _refuse_unused_table(self.how, self.path, self.from_, self.to)
        return self

    @property
    def target(self) -> Target:
        return self.file_target if self.how == "file" else self.how

    @model_validator(mode="after")
    def _names_both(self) -> Self:
        if self.organization and (self.how != "file" or self.target != "payer_id"):
            raise ValueError(
                'organization: only with how = "file" and target = "payer_id"; leave it out'
            )
        return self


class ReferencesSection(_Section):
    patient: PatientReference = Field(
        PatientReference.model_validate({}),
        description="How the sender's patients, and subscribers, become Canvas' Patient keys. No hit, or several: the row is rejected.",
    )
    payer: PayerReference = Field(
        PayerReference.model_validate({}),
        description="How the sender's payers become what Canvas takes.",
    )
    claim: ClaimReference = Field(
        ClaimReference.model_validate({}),
        description="How the claims of a ledger become Canvas' Claim ids.",
    )


class FeedSection(_Section):
    name: str = Field(
        pattern=_NAME,
        description="By this name the journal knows the feed: a renamed feed is a new one, and its rows are new rows: `limits.repeats_max` stops such a run. Letters, digits, `_` and `-`, at most 64.",
    )
    kind: feeds.Kind = Field(
        description="What its rows become: `eligibility` Coverage, `ledger` PaymentNotice."
    )
    path: Location = Field(
        description="A file, or a glob: then all files that it matches are one feed. .csv .tsv .txt .parquet, and .gz or .zst for text; here, or in an object store (`s3://`, `gs://`, `az://`)."
    )
    manifest: Location = Field(
        "",
        description="A file, or a glob, with the sender's control totals: `rows=5000`, `total_usd=12345.67`, as lines or as a JSON object. The files must match it to the row and the cent.",
    )
    delimiter: str | None = Field(
        None,
        description="One ASCII character. Left out: the one of `,` tab `|` `;` under which the mapped columns appear.",
    )
    encoding: str = Field(
        "utf-8",
        description="Of a text file, by Python's name; `windows-1252` for many older exports.",
    )
    final_newline: Literal["require", "any"] = Field(
        "require", description="`any` takes a file whose last line has no end, and so may be torn."
    )
    dates: tuple[str, ...] = Field(
        (FULL_DATE,),
        description="Formats of days, by the signs of strptime. A day that two of them read differently is rejected, never guessed.",
    )
    key: tuple[str, ...] = Field(
        (),
        description="Our fields that make a row the same row tomorrow, in any order. Empty: `patient`, `payer`, `member_id`, `start_on` (where mapped), or `transaction_id`. Another set of fields makes every row a new one: `limits.repeats_max` stops such a run.",
    )
    repeats: Literal["reject", "count"] = Field(
        "reject",
        description="For a ledger without ids: `count` takes the second equal row for a second payment; `reject` for a duplicate of the first. `count` needs `delivery`, and a `key` with patient, posted_on, amount and (where mapped) claim.",
    )
    delivery: Literal["full", "increment"] | None = Field(
        None,
        description='What the files hold: `full`, all rows of the deliveries before, too; `increment`, new rows only, and then the bytes of a file are part of what its counted rows are. Required with `repeats = "count"`.',
    )
    update: bool = Field(
        default=True,
        description="What becomes of a known coverage whose content changed: written again whole, or (false) rejected as `row|changed`. A payment is never changed.",
    )
    adopt: bool = Field(
        default=True,
        description="Whether Canvas is searched for an unknown coverage before it is created: one search a patient. false is quicker for a first load into an empty Canvas.",
    )
    missing: Literal["ignore", "report", "cancel"] = Field(
        "ignore",
        description="Coverages of the last complete run that are in no row of today's files: left alone, listed, or cancelled. A ledger allows `ignore` only.",
    )
    missing_max: Share = Field(
        "5%",
        description="Where more of them are gone, nothing is cancelled: a share of the last run's rows, or a count.",
    )
    amount_sign: Literal["positive", "negative"] = Field(
        "positive",
        description="How a payment is written. With `negative` credits are negative numbers, and a positive one is rejected.",
    )
    order_by: tuple[str, ...] = Field(
        (),
        description="Our fields by which a patient's payments are sorted before they go out. Empty: the file's order. Not for eligibility.",
    )
    columns: dict[str, str] = Field(
        description="Our field = the sender's column. See [fields](#fields)."
    )
    constants: dict[str, str] = Field(
        {}, description="Our field = one value for all rows, in place of a column."
    )
    codes: dict[str, dict[str, str]] = Field(
        {},
        description="Our field, then the sender's spelling = Canvas' code: `[feeds.codes.relationship]`. For relationship, type, status and order.",
    )
    only: dict[str, tuple[str, ...]] = Field(
        {},
        description="Our field = the sender's values that are loaded. Rows with others are `filtered`, and counted.",
    )

    @field_validator("dates")
    @classmethod
    def _read_days(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        settings.check_dates(formats)
        return formats

    @field_validator("delimiter")
    @classmethod
    def _is_one_character(cls, value: str | None) -> str | None:
        if value is not None and (len(value) != 1 or not value.isascii() or value in '"\r\n'):
            raise ValueError('must be one ASCII character, such as "," or "|" or "\\t"')
        return value

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            "".encode(value)  # a codec of bytes, such as base64, is refused too
        except (LookupError, UnicodeError):
            raise ValueError('must be an encoding, such as "utf-8" or "windows-1252"') from None
        return value

    @property
    def _changed(self) -> frozenset[str]:
        """The settings that are not as they are by default."""
        fields = type(self).model_fields
        return frozenset(
            name for name in self.model_fields_set if getattr(self, name) != fields[name].default
        )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        traits = feeds.TRAITS[self.kind]
        given = {**self.columns, **self.constants}
        for table in ("columns", "constants", "codes", "only"):
            for name in getattr(self, table):
                _known_field(name, traits.fields, f"{table}.{name}")
        for name in (*self.key, *self.order_by, *self.only):
            _known_field(name, traits.fields, name)
            if name not in given:
                raise ValueError(
                    f"{name} is used in key, order_by or only, and in neither columns nor constants"
                )
        both = sorted(set(self.columns) & set(self.constants))
        if both:
            raise ValueError(f"{both[0]} stands in columns and in constants: keep one")
        for name, values in (
            ("key", self.key),
            ("order_by", self.order_by),
            ("dates", self.dates),
            *((f"only.{name}", values) for name, values in self.only.items()),
        ):
            settings.check_names(name, values)
        settings.check_effects(self.kind.value, self.missing, self._changed)
        if self.order_by and self.kind is feeds.Kind.ELIGIBILITY:
            raise ValueError("order_by: a patient's coverages go out by their order; leave it out")
        if self.missing != "ignore" and self.kind is feeds.Kind.LEDGER:
            raise ValueError("missing: a payment cannot be taken back, so only ignore is allowed")
        if self.missing == "cancel" and self.final_newline == "any":
            raise ValueError(
                'missing = "cancel" needs final_newline = "require": a file that was cut short could not be told'
            )
        settings.check_repeats(
            self.kind.value,
            self.repeats,
            self.delivery,
            self.missing,
            self.key or traits.key,
            given,
        )
        settings.check_codes(self.codes, given)
        settings.check_only(self.only, self.constants)
        settings.check_constants(
            self.constants, traits.model, self.dates, self.codes, self.amount_sign
        )
        missing = [
            name for name in (*traits.required, *(self.key or traits.key)) if name not in given
        ]
        if (
            missing
            and (not self.key and self.kind is feeds.Kind.ELIGIBILITY)
            and missing == ["start_on"]
        ):
            return self
        if missing:
            raise ValueError(
                f"columns: {missing[0]} is required for {self.kind.value}, name the sender's column for it"
            )
        return self


def _known_field(name: str, fields: tuple[str, ...], where: str) -> None:
    if name not in fields:
        raise ValueError(
            f"{where}: no such field.{_near(name, fields)} Fields: {', '.join(fields)}"
        )


def _near(name: str, names: Any) -> str:
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else ""


class File(_Section):
    """The whole file."""

    canvas: CanvasSection = Field(
        description="Which Canvas. Secrets never stand here: `CANVAS_CLIENT_ID` and `CANVAS_CLIENT_SECRET` (or `CANVAS_PRIVATE_KEY`), or `CANVAS_TOKEN`, come from the environment, or from a file of mode 0600 that the same name with `_FILE` at its end names."
    )
    upload: UploadSection = Field(
        UploadSection.model_validate({}), description="How fast, and how hard to try."
    )
    limits: LimitsSection = Field(
        LimitsSection.model_validate({}),
        description="What a run may not exceed. Above one of them (but `amount_usd_max`) nothing is written, and the exit code is 1. Only `repeats_max` has a default.",
    )
    state: StateSection = Field(
        StateSection(dir="state", url="", lease_s=15.0),
        description="Where the journal and the plans are. Keep it, and back it up: without it a payment could be posted twice. A local disk, for a network file system is refused; but where `url` names a database, `dir` holds no journal, and is to be a folder that all machines share.",
    )
    report: ReportSection = Field(
        ReportSection(dir="reports", metrics=""),
        description="Where each run leaves its folder; `latest` points at the last one.",
    )
    engine: EngineSection = Field(
        EngineSection.model_validate({}),
        description="Who does the work of planning: one process, which is the default, or many.",
    )
    retention: RetentionSection = Field(
        RetentionSection.model_validate({}),
        description="How long what holds personal data is kept.",
    )
    notify: NotifySection = Field(
        NotifySection.model_validate({}),
        description="Who is told how a `run` or a `verify` ended.",
    )
    references: ReferencesSection = Field(
        ReferencesSection.model_validate({}),
        description="How the sender's patients, payers and claims become Canvas' ids.",
    )
    feeds: tuple[FeedSection, ...] = Field(
        min_length=1,
        description="What is loaded, in this order: a patient's coverages before that patient's payments, if they stand so.",
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [feed.name for feed in self.feeds]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"feeds: two feeds are named {twice}")
        return self


# Loading ------------------------------------------------------------------------------------------


def load(
    path: str | Path,
    *,
    environment: Mapping[str, str] | None = None,
    inputs: Mapping[str, str | Path | pl.DataFrame] | None = None,
    only_feeds: tuple[str, ...] = (),
    expected: Mapping[str, Expected] | None = None,
    overrides: Mapping[str, Any] | None = None,
    accept_repeats: int | None = None,
) -> Job:
    """Read the configuration. Raises ConfigError naming the key, what is allowed, and what to do.

    `inputs` gives another file (or a polars frame) for a feed, `only_feeds` leaves the others out.
    `overrides` replaces whole keys of sections (`{"canvas": {"base_url": ...}}`), for the demo.
    """
    path = Path(path)
    content = _read(path)
    file = _parsed(path, content, overrides or {})
    folder = path.resolve().parent
    known = variables() if environment is None else environment
    _notify(file.notify, known)  # what is wrong with it is said now, not when it is needed
    names = [section.name for section in file.feeds]
    for name in (*only_feeds, *(inputs or {}), *(expected or {})):
        if name not in names:
            raise ConfigError(
                f"there is no feed {name} in {path.name}.{_near(name, names)}",
                f"feeds: {', '.join(names)}",
            )
    for section in file.feeds:
        totals = (expected or {}).get(section.name, Expected())
        if totals.total_cents is not None and not feeds.TRAITS[section.kind].has_money:
            raise ConfigError(
                f"--expect {section.name}:total_usd: an {section.kind.value} feed has no amounts",
                f"write {section.name}:rows=5000",
            )
    sections = [section for section in file.feeds if not only_feeds or section.name in only_feeds]
    return Job(
        feeds=tuple(_feed(section, folder) for section in sections),
        contract=file.canvas.contract,
        canvas=_canvas(file, folder, known),
        upload=UploadSettings(
            concurrency=file.upload.concurrency,
            rate_per_s=file.upload.rate_per_s,
            attempts_max=file.upload.attempts_max,
            doubts_max=file.upload.doubts_max,
            quiet_s=file.upload.quiet_s,
            resend_absent=file.upload.resend_absent,
        ),
        limits=_limits(file.limits),
        state_dir=folder / file.state.dir,
        database=Database(file.state.url, file.state.lease_s) if file.state.url else None,
        report_dir=folder / file.report.dir,
        config_sha256=hashlib.sha256(content).hexdigest(),
        version=VERSION,
        references=_references(file.references, folder),
        inputs={name: _input(name, value) for name, value in (inputs or {}).items()},
        expected=expected or {},
        accept_repeats=accept_repeats,
        objects=_objects(known),
        name=path.stem,
        metrics=folder / file.report.metrics if file.report.metrics else None,
        retention_days=file.retention.days,
        again=partial(_again, path.resolve(), only_feeds=only_feeds, overrides=overrides),
        engine=_engine(file.engine, folder),
    )


def _again(path: Path, **options: Any) -> Job:
    """The same once more, in a process where nobody has said yet what may be logged: a worker's."""
    logs.configure_unless_configured()
    return load(path, **options)


def _engine(section: EngineSection, folder: Path) -> EngineSettings:
    count = section.workers or cores()
    files = {
        name: folder / path if (path := getattr(section, name)) else None
        for name in ("ca_file", "cert_file", "key_file")
    }
    for name, path in files.items():
        if path is not None and section.kind == "dask":
            _must_be_readable(f"engine.{name}", path)
    return EngineSettings(
        kind=section.kind,
        scheduler=section.scheduler,
        workers=count,
        partitions=section.partitions or _PARTITIONS_A_WORKER * count,
        **files,
    )


def _must_be_readable(name: str, path: Path) -> None:
    try:
        status = path.stat()
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}", f"check the path {path}") from None
    if name.endswith("key_file") and _is_open_to_others(status):
        raise ConfigError(f"{name}: others may read that file", f"chmod 600 {path}")


def notify_options(path: str | Path) -> notify.Options | None:
    """Whom to tell how a command ended; None where nobody is.

    The file need not be right, for what is wrong with it is among the things to be told: of one that
    cannot be read the environment's webhook is told.
    """
    section = NotifySection.model_validate({})
    with suppress(ConfigError, ValueError):
        tables = tomllib.loads(_read(Path(path)).decode())
        section = NotifySection.model_validate(tables.get("notify", {}))
    try:
        options = _notify(section, variables())
    except ConfigError:
        return None
    return options if options.command or options.webhook else None


def _notify(section: NotifySection, environment: Mapping[str, str]) -> notify.Options:
    name = "CANVAS_INGEST_WEBHOOK_URL"
    url = _secret(name, environment)
    used = _as_used(url) if url else ""
    if used is None:
        raise ConfigError(
            f"{name}: must be https://host/path (http only for 127.0.0.1, [::1] or localhost)",
            "set it to the whole address that your chat or alerting system shows, or unset it",
        )
    return notify.Options(
        frozenset(section.on), section.command, used, section.timeout_s, section.env
    )


def _as_used(url: str) -> str | None:
    """An address that a secret may go to: https, or http to this machine. None for any other.

    `localhost` over http becomes 127.0.0.1, so that no name service is asked who that is.
    """
    match = _ADDRESS.fullmatch(url)
    if match is None or not 0 < int(match["port"] or 1) < 65_536:  # noqa: PLR2004 - ports
        return None
    if match["scheme"] == "https":
        return url
    if match["host"] == "localhost":
        return url.replace("localhost", "127.0.0.1", 1)
    return url if match["host"] in _LOOPBACK else None


def load_to_check(
    path: str | Path,
    *,
    environment: Mapping[str, str] | None = None,
    inputs: Mapping[str, str | Path | pl.DataFrame] | None = None,
    only_feeds: tuple[str, ...] = (),
) -> tuple[Job, ConfigError | None]:
    """As `load`; where only the secrets cannot be read the job comes without, and why."""
    try:
        return load(path, environment=environment, inputs=inputs, only_feeds=only_feeds), None
    except ConfigError as error:
        return load(path, environment={}, inputs=inputs, only_feeds=only_feeds), error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            require_safe_config(path, os.fstat(file.fileno()))
            return file.read()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", "name the configuration file, a .toml"
        ) from None


def _parsed(path: Path, content: bytes, overrides: Mapping[str, Any]) -> File:
    try:
        tables = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is no valid TOML: {error}", "mend that line") from None
    for name, keys in overrides.items():
        tables[name] = {**tables.get(name, {}), **keys}
    try:
        return File.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(
            f"{path.name}: {_explained(error)}", "see the commented configs/nightly.toml"
        ) from None


def _explained(error: ValidationError) -> str:
    """All that is wrong, a line each."""
    lines = []
    for detail in error.errors(include_input=False, include_context=False, include_url=False):
        where = _where(detail["loc"])
        if detail["type"] == "extra_forbidden":
            gone = _REMOVED.get(where)
            near = _near(str(detail["loc"][-1]), _siblings(detail["loc"]))
            lines.append(f"{where}: {gone}" if gone else f"{where}: no such key.{near}")
        else:
            lines.append(
                f"{where}: {detail['msg'].removeprefix('Value error, ')}"
                if where
                else detail["msg"]
            )
    return "\n  ".join(dict.fromkeys(lines))


# Keys of earlier versions, and what to do about them.
_REMOVED: Final = {
    "canvas.transport": "this key was removed: aiohttp carries all requests. Delete the line",
}


def _where(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed where an unknown one was found."""
    model: Any = File
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = FeedSection if part == "feeds" else annotation
    return [field.alias or name for name, field in model.model_fields.items()]


def _feed(section: FeedSection, folder: Path) -> feeds.Feed:
    traits = feeds.TRAITS[section.kind]
    given = {**section.columns, **section.constants}
    key = section.key or tuple(name for name in traits.key if name in given)
    return feeds.Feed(
        name=section.name,
        kind=section.kind,
        path=str(_located(section.path, folder)),
        manifest=str(_located(section.manifest, folder)) if section.manifest else "",
        columns=section.columns,
        constants=section.constants,
        codes=section.codes,
        only=section.only,
        key=key,
        dates=section.dates,
        amount_sign=section.amount_sign,
        repeats=section.repeats,
        delivery=section.delivery or "full",
        order_by=section.order_by,
        delimiter=section.delimiter,
        encoding=section.encoding,
        final_newline=section.final_newline,
        update=section.update,
        adopt=section.adopt,
        missing=section.missing,
        missing_max=Ceiling.parse(section.missing_max),
    )


def _located(text: str, folder: Path) -> Path | str:
    """A path from the configuration's folder on; the address of an object as it is.

    `folder` has no links in it, so that `..` at the beginning can be taken for what it says.
    """
    if is_address(text):
        return text
    while text.startswith("../"):
        folder, text = folder.parent, text.removeprefix("../").lstrip("/")
    return folder / text


def _input(name: str, value: object) -> Path | str | pl.DataFrame:
    if isinstance(value, pl.DataFrame):
        return value
    if isinstance(value, str) and is_address(value):
        try:
            return str(address_of(value))
        except ValueError as error:
            raise ConfigError(
                f"--input {name}: {error}", f"write --input {name}=s3://bucket/key"
            ) from None
    if isinstance(value, str | os.PathLike):
        return Path(value).resolve()
    kind = f"{type(value).__module__.partition('.')[0]} {type(value).__name__}"
    raise ConfigError(
        f"the input of feed {name} is a {kind}",
        "give a path or a polars DataFrame: lazy_frame.collect(), or polars.from_pandas(frame)",
    )


def _limits(section: LimitsSection) -> Limits:
    rejects = section.rejects_max
    return Limits(
        rejects_max=None if rejects is None else Ceiling.parse(rejects),
        amount_cents_max=_cents(section.amount_usd_max),
        total_cents_max=_cents(section.total_usd_max),
        writes_max=section.writes_max,
        repeats_max=Ceiling.parse(section.repeats_max),
        change_max=section.change_max,
    )


def _cents(text: str | None) -> int | None:
    return None if text is None else int(Decimal(text).scaleb(2))


# The command line ---------------------------------------------------------------------------------


def inputs_of(texts: Sequence[str]) -> dict[str, str]:
    """`NAME=PATH` of --input, by feed."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, equals, path) in zip(texts, pairs, strict=True):
        if not (name and equals and path):
            raise ConfigError(
                f"--input {text}: not understood", "write NAME=PATH, with the name of a feed"
            )
    return {name: path for name, _, path in pairs}


def engine_of(engine: str | None, scheduler: str | None, workers: int | None) -> dict[str, Any]:
    """What --engine, --scheduler and --workers put in place of keys of [engine]; one of the last two takes the other's away."""
    if scheduler is not None and workers is not None:
        raise ConfigError("--scheduler and --workers: a scheduler has its own workers", "keep one")
    given: dict[str, Any] = {} if engine is None else {"kind": engine}
    if scheduler is not None:
        given |= {"scheduler": scheduler, "workers": None}
    if workers is not None:
        given |= {"scheduler": "", "workers": workers}
    return given


def expectations_of(texts: Sequence[str]) -> dict[str, Expected]:
    """`NAME:rows=5000` and `NAME:total_usd=12345.67` of --expect, by feed."""
    expected: dict[str, Expected] = {}
    for text in texts:
        name, what, number = _expectation(text)
        expected[name] = replace(expected.get(name, Expected()), **{what: number})
    return expected


def _expectation(text: str) -> tuple[str, str, int]:
    match = re.fullmatch(rf"([^:]+):(rows|total_usd)=(-?)({DOLLARS})", text, re.ASCII)
    if match is None or (match[2] == "rows" and ("." in match[4] or match[3])):
        raise ConfigError(
            f"--expect {text}: not understood", "write NAME:rows=5000 or NAME:total_usd=12345.67"
        )
    if match[2] == "rows":
        return match[1], "rows", int(match[4])
    cents = int(Decimal(match[4]).scaleb(2))
    return match[1], "total_cents", -cents if match[3] else cents


# Secrets ------------------------------------------------------------------------------------------


def _canvas(file: File, folder: Path, environment: Mapping[str, str]) -> canvas.Options:
    section = file.canvas
    ca_file = folder / section.ca_file if section.ca_file else None
    certificate = None
    if section.cert_file:
        certificate = (folder / section.cert_file, folder / section.key_file)
        _must_be_readable("canvas.cert_file", certificate[0])
        _must_be_readable("canvas.key_file", certificate[1])
    trust(ca_file, certificate)  # what is wrong with them is said now
    client_secret = _secret("CANVAS_CLIENT_SECRET", environment)
    private_key = _secret("CANVAS_PRIVATE_KEY", environment, is_one_line=False)
    if client_secret and private_key:
        raise ConfigError(
            "CANVAS_CLIENT_SECRET and CANVAS_PRIVATE_KEY are both set",
            "unset the one that Canvas does not ask for",
        )
    credentials = Credentials(
        token_url=section.token_url,
        client_id=_secret("CANVAS_CLIENT_ID", environment),
        client_secret=client_secret,
        private_key=private_key_of(private_key, section.key_id) if private_key else None,
        token=_secret("CANVAS_TOKEN", environment),
        scope=section.scope,
    )
    return canvas.Options(
        base_url=section.base_url.rstrip("/"),
        credentials=credentials,
        rate_per_s=file.upload.rate_per_s,
        concurrency=file.upload.concurrency,
        timeout_s=section.timeout_s,
        ca_file=ca_file,
        certificate=certificate,
        proxy=_proxy(section.proxy, environment) if section.proxy else None,
        unused_proxy="" if section.proxy else unused(environment),
        location_hosts=tuple(section.location_hosts),
    )


def _proxy(url: str, environment: Mapping[str, str]) -> Proxy:
    username = _secret("CANVAS_PROXY_USERNAME", environment)
    password = _secret("CANVAS_PROXY_PASSWORD", environment)
    if bool(username) != bool(password) or ":" in username:
        raise ConfigError(
            "CANVAS_PROXY_USERNAME and CANVAS_PROXY_PASSWORD: set one without the other, or a colon in the name",
            "set both (or name files that hold them with _FILE), or neither if the proxy asks for none",
        )
    return Proxy(url, username, password)


def _objects(environment: Mapping[str, str]) -> fetch.Options:
    """Stores take their variables themselves; that theirs is this machine is what allows http."""
    named = (environment.get(name, "") for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    endpoint = _ADDRESS.fullmatch(next(filter(None, named), ""))
    return fetch.Options(allow_http=endpoint is not None and endpoint["host"] in _LOOPBACK)


def _secret(name: str, environment: Mapping[str, str], *, is_one_line: bool = True) -> str:
    """A secret from the environment, or from the file that NAME_FILE names; "" where there is none."""
    path = environment.get(f"{name}_FILE", "")
    text = (_held_in(path, name) if path else environment.get(name, "")).strip()
    if is_one_line and not (text.isascii() and text.isprintable()):  # RFC 6749, appendix A
        raise ConfigError(
            f"{name}: holds a line break, or another character that no secret has",
            "copy it anew, as one line",
        )
    return text


def _held_in(path: str, name: str) -> str:
    """What a secret's file holds. What was opened is looked at, and not what the path names by then."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _no_secret(name, "that is no file")
            if _is_open_to_others(status):
                raise ConfigError(f"{name}_FILE: others may read that file", f"chmod 600 {path}")
            content = file.read(_SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise _no_secret(name, str(error.strerror)) from None
    if not content.strip() or len(content) > _SECRET_BYTES_MAX:
        raise _no_secret(name, "that file is too long" if content.strip() else "that file is empty")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _no_secret(name, "that file holds no text") from None


def _is_open_to_others(status: os.stat_result) -> bool:
    """Whether more people than it is meant for may read a secret's file.

    Root gives one to a service by its group (0640, 0440), as Kubernetes does; PostgreSQL's rule for keys.
    """
    open_bits = 0o037 if status.st_uid == 0 else OTHERS
    return os.name == "posix" and bool(status.st_mode & open_bits)


def _open_without_waiting(path: str, flags: int) -> int:
    """A pipe would wait for whoever writes into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _no_secret(name: str, why: str) -> ConfigError:
    return ConfigError(f"{name}_FILE: {why}", "name a file that holds the secret, mode 0600")


# References ---------------------------------------------------------------------------------------


def _references(section: ReferencesSection, folder: Path) -> References:
    return References(
        patient=_reference("patient", section.patient, folder),
        payer=_reference("payer", section.payer, folder),
        claim=_reference("claim", section.claim, folder),
    )


def _reference(
    kind: str, section: PatientReference | PayerReference | ClaimReference, folder: Path
) -> Reference:
    if isinstance(section, PatientReference) and section.how == "search":
        return Reference(section.target, system=_system(section.system))
    if section.how != "file":
        return Reference(section.target)
    if not (section.path and section.from_ and section.to):
        raise ConfigError(
            f'references.{kind}: how = "file" needs path, from and to',
            "name the file and its two columns",
        )
    path = _located(section.path, folder)
    organization = section.organization if isinstance(section, PayerReference) else ""
    return Reference(section.target, path, section.from_, section.to, organization)


def _system(text: str) -> str:
    system = text.strip()
    if not system or "|" in system or not system.isprintable():
        raise ConfigError(
            'references.patient: how = "search" needs system',
            "name the system of the identifiers as Canvas shows it on a Patient, without a |",
        )
    return system
