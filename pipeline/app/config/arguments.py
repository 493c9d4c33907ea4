"""The options of the command line that stand for parts of the configuration."""

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import polars as pl

from pipeline.clock import next_time
from pipeline.errors import ConfigError
from pipeline.fhir.datatypes import DOLLARS, is_id
from pipeline.reading.address import address_of, is_address
from pipeline.reading.manifest import Expected
from pipeline.reading.piped import STANDARD_INPUT, require_piped
from pipeline.records import counted

DECISIONS: Final = ("confirm", "resend", "abandon")
_UNTIL_H_MAX: Final = 20  # a night's job that is this late is not to go on through the day


class ArrowTable(Protocol):
    """Rows with the Arrow PyCapsule interface, as pandas, PyArrow and DuckDB have it."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the rows as a capsule of an Arrow stream."""


def inputs_of(texts: Sequence[str]) -> dict[str, str]:
    """Return the paths of --input (`NAME=PATH`) by feed."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, equals, path) in zip(texts, pairs, strict=True):
        if not (name and equals and path):
            raise ConfigError(
                f"--input {text}: not understood", "write NAME=PATH, with the name of a feed"
            )
    require_piped([name for name, _, path in pairs if path == STANDARD_INPUT])
    return {name: path for name, _, path in pairs}


def engine_of(engine: str | None, scheduler: str | None, workers: int | None) -> dict[str, Any]:
    """Return the keys of [engine] that --engine, --scheduler and --workers replace.

    --scheduler removes a configured number of workers, and --workers a configured scheduler.
    """
    if scheduler is not None and workers is not None:
        raise ConfigError("--scheduler and --workers: a scheduler has its own workers", "keep one")
    given: dict[str, Any] = {} if engine is None else {"kind": engine}
    if scheduler is not None:
        given |= {"scheduler": scheduler, "workers": None}
    if workers is not None:
        given |= {"scheduler": "", "workers": workers}
    return given


def until_of(text: str, now: datetime) -> datetime:
    """Return the instant of a time of day such as 05:30, by the clock of this machine.

    Raises:
        ValueError: It is no time of day, or it has just passed; the message says which.
    """
    try:
        at = datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007 - local time is meant
    except ValueError:
        raise ValueError(f"{text}: write a time of day, such as 05:30") from None
    until = next_time(at, now)
    if until - now > timedelta(hours=_UNTIL_H_MAX):
        raise ValueError(f"{text} has just passed: it would stop tomorrow")
    return until


def expectations_of(texts: Sequence[str]) -> dict[str, Expected]:
    """Return the control totals of --expect (`NAME:rows=5000`, `NAME:total_usd=12345.67`) by feed."""
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


class Decision(NamedTuple):
    """A decision of a file: the word, the id of a resource if it has one, and its line, as an editor counts."""

    word: str
    resource_id: str
    line: int


def decisions_of(path: Path) -> dict[str, Decision]:
    """Return the decisions of a file of `review --format csv` that was filled in, by key.

    Lines without a decision are left out. Columns other than `key`, `decision` and `id` are not read.

    Raises:
        ConfigError: The file cannot be used; the message names each wrong line.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError(f"--decisions {path}: {why}", "save it as CSV, UTF-8") from None
    header = text.partition("\n")[0]
    separator = max(
        ",;\t", key=header.count
    )  # spreadsheets save with another one in some countries
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    names = next(lines, [])
    if not {"key", "decision", "id"} <= set(names):
        raise ConfigError(
            f"--decisions {path}: line 1 does not name the columns key, decision and id",
            "begin with the output of `canvas-ingest review CONFIG --format csv`",
        )
    decided: dict[str, Decision] = {}
    wrong: list[str] = []
    for cells in lines:
        line = dict(zip(names, (cell.strip() for cell in cells), strict=False))
        key, word, id_ = (line.get(name, "") for name in ("key", "decision", "id"))
        if not word:
            continue
        if why := _wrong_decision(key, word, id_, decided):
            wrong.append(f"line {lines.line_num}: {why}")
        else:
            decided[key] = Decision(word, id_, lines.line_num)
    if wrong:
        raise ConfigError(
            f"--decisions {path}: nothing is decided, because of {counted(len(wrong), 'line')}\n  "
            + "\n  ".join(wrong),
            "correct each, or leave its decision blank",
        )
    return decided


def _wrong_decision(key: str, word: str, id_: str, decided: Mapping[str, Decision]) -> str:
    """Return what is wrong with a decision; "" if nothing is."""
    if word not in DECISIONS:
        return f"the decision is none of {', '.join(DECISIONS)}"
    if not key:
        return "no key"
    if key in decided:
        return f"the key is there twice; the other is in line {decided[key].line}"
    if word == "confirm" and not is_id(id_):
        form = "1 to 64 of A-Z a-z 0-9 - ."
        return (
            f"the id is no id of a resource ({form})"
            if id_
            else "no id: to confirm, write that of the resource in Canvas"
        )
    return ""


def input_of(name: str, value: object) -> Path | str | pl.DataFrame:
    """Return what is read in place of the path of feed `name`: a path, an address of an object, or rows.

    Rows are a polars DataFrame or LazyFrame, or any object with the Arrow PyCapsule interface
    (`__arrow_c_stream__`), such as a pandas DataFrame, a PyArrow table or a DuckDB relation.
    """
    if isinstance(value, pl.DataFrame):
        return value
    if isinstance(value, pl.LazyFrame):
        return value.collect()
    if hasattr(value, "__arrow_c_stream__"):
        return pl.DataFrame(value)
    if isinstance(value, str) and value == STANDARD_INPUT:
        return STANDARD_INPUT
    if isinstance(value, str) and is_address(value):
        try:
            return str(address_of(value))
        except ValueError as error:
            raise ConfigError(
                f"--input {name}: {error}", f"write --input {name}=s3://bucket/key"
            ) from None
    if isinstance(value, str | os.PathLike):
        return Path(value).resolve()
    raise ConfigError(
        f'inputs["{name}"]: expected a path or rows, got {type(value).__name__}',
        "give a path, a polars DataFrame or LazyFrame, or a table with the Arrow interface, such as pandas' or DuckDB's",
    )
