"""Workbooks by seed: random tables and corrupted files, read as a run reads them.

A table is written by openpyxl, and each cell that we read is compared with openpyxl's own reading of the
file. A corrupted file is a good one with damage done to its bytes or to the XML in it. It must be refused
by an InputError; where its bytes were damaged, it may also be read as the rows that were written.
"""

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import openpyxl  # type: ignore[import-untyped]
import polars as pl

from pipeline.errors import InputError
from pipeline.reading import workbook
from pipeline.reading.inspect import inspect
from pipeline.reading.read import read
from pipeline.rows.feed import Feed, Kind

FEED: Final = Feed(
    "ledger", Kind.LEDGER, "", {"patient": "MRN", "amount": "Amount", "transaction_id": "TXN"}
)
_NAME: Final = "a.xlsx"
_DAY: Final = datetime.fromisoformat("2026-01-01")
_OPTIONS: Final = {
    "sheet": "", "skip_lines": 0, "skip_footer": 0, "comment_prefix": "", "blank_lines": "reject", "days": [],
    "commas": [], "required": [],
}  # fmt: skip

Rows = list[tuple[str | None, ...]]


@dataclass
class Report:
    """The results of many files."""

    ends: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


# Tables -------------------------------------------------------------------------------------------


def _cell(random: Random) -> Any:
    makers: tuple[Any, ...] = (
        lambda: None,
        lambda: "".join(random.choices("ab 0Ü😀\n&<>\"'", k=random.randrange(12))),
        lambda: f"{random.randrange(100_000):08}",
        lambda: random.randrange(-(10**6), 10**6),
        lambda: random.randrange(10**13, 10**17),
        lambda: random.uniform(-1e4, 1e4),
        lambda: round(random.uniform(0, 1e4), 2),
        lambda: random.choice([True, False]),
        lambda: random.choice(["#N/A", "#REF!", "#VALUE!", "#DIV/0!", "#NAME?", "#NUM!", "#NULL!"]),
        lambda: _DAY.date() + timedelta(random.randrange(-30_000, 60_000)),
        lambda: _DAY + timedelta(days=random.randrange(9_000), seconds=random.randrange(86_400)),
        lambda: time(random.randrange(24), random.randrange(60), random.randrange(1, 60)),
        lambda: timedelta(days=random.randrange(1, 9), seconds=random.randrange(86_400)),
    )  # fmt: skip
    return random.choice(makers)()


def _shown(value: Any) -> str | None:
    """A second reading of the rules, by the values that openpyxl reads."""
    text = str(value)
    match value:
        case bool():
            text = text.lower()
        case int() | float() if abs(value) >= 10**15:
            mantissa, _, exponent = f"{Decimal(value):.14E}".partition("E")
            text = f"{mantissa.rstrip('0').rstrip('.')}E{exponent}"
        case float() if value != int(value):
            text = f"{Decimal(text):f}"
        case float():
            text = f"{value:.0f}"
        case datetime():
            at = value + timedelta(microseconds=500)  # openpyxl's are a little off
            is_day = at.time() < time(0, 0, 0, 1000)
            text = f"{at:%Y-%m-%d}" if is_day else f"{at:%Y-%m-%dT%H:%M:%S}"
        case timedelta():
            seconds = round(value.total_seconds())
            text = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return text if value is not None and text else None


def play_table(seed: int, folder: Path, report: Report, *, is_in_child: bool = True) -> None:
    """Write a random table, and compare two readings of it."""
    random = Random(seed)
    book = openpyxl.Workbook()
    names = ["TXN", "MRN", "Amount", *(f"c{number}" for number in range(random.randrange(9)))]
    book.active.append(names)
    for number in range(random.randrange(1, 40)):
        book.active.append([f"t{number}", *(_cell(random) for _ in names[1:])])
    book.save(folder / _NAME)
    sheet = openpyxl.load_workbook(folder / _NAME).active
    expected = [tuple(_shown(cell.value) for cell in row) for row in sheet.iter_rows(min_row=2)]
    found = _rows(folder) if is_in_child else _rows_here(folder)
    wrong = sum(a != b for a, b in zip(found, expected, strict=False))
    if wrong or len(found) != len(expected):
        report.violations.append(f"table {seed}: {wrong} of {len(expected)} rows differ")
    report.ends["tables read"] += 1


def _rows(folder: Path) -> Rows:
    source = inspect(folder / _NAME, FEED, folder)
    return [row for batch in read(source) for row in batch.frame.iter_rows()]


# Damage -------------------------------------------------------------------------------------------


@cache
def good(packing: int = ZIP_DEFLATED) -> bytes:
    """Return a good workbook with texts, numbers, days and errors, compressed or stored."""
    book = openpyxl.Workbook()
    book.active.append(["TXN", "MRN", "Amount", "Day", "Error"])
    for number in range(60):
        book.active.append(
            [f"t{number}", f"{number:032x}", number / 8, _DAY + timedelta(number), "#N/A"]
        )
    file = io.BytesIO()
    book.save(file)
    with ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    return _packed(parts, packing)


def _packed(parts: Mapping[str, bytes], packing: int) -> bytes:
    file = io.BytesIO()
    with ZipFile(file, "w", packing) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return file.getvalue()


def corrupted(random: Random) -> tuple[str, bytes]:
    """Return the kind of damage, and the file's bytes after it."""
    data = bytearray(good(random.choice([ZIP_DEFLATED, ZIP_STORED])))
    at = random.randrange(len(data))
    kind = random.choice(
        ["flip", "flip", "directory", "cut", "zeros", "insert", "delete", "xml", "xml"]
    )
    match kind:
        case "flip":
            for _ in range(random.choice([1, 1, 2, 8, 64])):
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        case "directory":
            begin = data.index(b"PK\x01\x02")
            data[random.randrange(begin, len(data))] ^= 1 << random.randrange(8)
        case "cut":
            del data[at:]
        case "zeros":
            data[at : at + random.randrange(1, 64)] = bytes(random.randrange(1, 64))
        case "insert":
            data[at:at] = random.randbytes(random.randrange(1, 16))
        case "delete":
            del data[at : at + random.randrange(1, 16)]
        case _:
            return kind, _with_broken_xml(random)
    return kind, bytes(data)


def _with_broken_xml(random: Random) -> bytes:
    """Return the workbook with a part whose bytes were damaged before they were packed."""
    with ZipFile(io.BytesIO(good())) as archive:
        parts = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    part = parts[random.choice([name for name in parts if name.startswith("xl/")])]
    at = random.randrange(len(part))
    match random.randrange(3):
        case 0:
            del part[at : at + random.randrange(1, 200)]
        case 1:
            part[at] ^= 1 << random.randrange(8)
        case _:
            part[at:at] = random.choice(
                [b"<", b"</row>", b"<c>", b"&x;", b"\0", b"999999999", b'"']
            )
    return _packed({name: bytes(text) for name, text in parts.items()}, ZIP_DEFLATED)


def play_damage(seed: int, folder: Path, report: Report, *, is_in_child: bool = True) -> None:
    """Play one corrupted file: by a run's own reader, or without its child, which is quick."""
    kind, data = corrupted(Random(seed))
    (folder / _NAME).write_bytes(data)
    try:
        rows = _rows(folder) if is_in_child else _rows_here(folder)
    except InputError as error:
        if not error.fix or not error.message.startswith(_NAME):
            report.violations.append(f"seed {seed}: a refusal without its place or what to do")
        report.ends[error.message.removeprefix(f"{_NAME}: ").split(" (its")[0][:60]] += 1
    except BaseException as error:  # noqa: BLE001 - a panic is no Exception
        if is_in_child:
            report.violations.append(f"seed {seed}: {type(error).__name__} was raised")
        report.ends["would end the child"] += 1
    else:
        is_same = rows == _expected(folder)
        report.ends["read, and the same" if is_same else "read as other rows"] += 1
        if not is_same and kind != "xml":
            report.violations.append(f"seed {seed}: {kind} was read as other rows")


def _rows_here(folder: Path) -> Rows:
    answer = workbook.answer(str(folder / _NAME), str(folder / "copy.parquet"), _OPTIONS)
    if answer.get("refused"):
        raise InputError(str(answer["refused"]), "as the parent says", file=_NAME)
    return pl.read_parquet(folder / "copy.parquet").rows() if answer["rows"] else []


_GOOD: Final[list[Rows]] = []


def _expected(folder: Path) -> Rows:
    if not _GOOD:
        (folder / _NAME).write_bytes(good())
        _GOOD.append(_rows_here(folder))
    return _GOOD[0]
