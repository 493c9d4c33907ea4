"""Corrupted Parquet files by seed, read as a run reads them: none may end the process that asked.

Each is a good file with damage done to its pages, its footer, its lengths, or a declared size blown
up. It must be refused by an InputError, or be read; where it is read as other rows than were written,
that is counted: Parquet as most programs write it has no checksum that could tell.
"""

import io
import struct
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

import polars as pl

from pipeline.errors import InputError
from pipeline.reading.inspect import inspect
from pipeline.reading.read import read
from pipeline.rows.feed import Feed, Kind

FEED: Final = Feed(
    "ledger", Kind.LEDGER, "", {"patient": "MRN", "amount": "Amount", "transaction_id": "TXN"}
)
_ROWS: Final = 300
_COMPRESSIONS: Final[tuple[Any, ...]] = ("uncompressed", "snappy", "zstd", "gzip", "lz4", "brotli")
_HUGE: Final = (
    b"\xff\xff\xff\xff\x0f",
    b"\xfe\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x04",
    b"\xff" * 9 + b"\x01",
)


@dataclass
class Report:
    """The results of many corrupted files."""

    kinds: Counter[str] = field(default_factory=Counter)  # of damage
    ends: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


@cache
def corpus() -> tuple[bytes, ...]:
    """Return good files of every compression, of plain texts and of every type, of one row group and of several."""
    plain = pl.DataFrame(
        {
            "MRN": [f"{number:032x}" for number in range(_ROWS)],
            "Amount": [f"{number + 1}.{number % 100:02}" for number in range(_ROWS)],
            "TXN": [f"t{number}" for number in range(_ROWS)],
        }
    )
    days = [date(2026, 1, 1) + timedelta(number) for number in range(_ROWS)]
    typed = plain.with_columns(
        pl.col("Amount").cast(pl.Decimal(12, 4)),
        pl.Series("Posted", days),
        pl.Series("At", [datetime.combine(day, datetime.min.time()) for day in days]),
        pl.Series("Number", range(_ROWS)),
        pl.Series("Share", [number / 7 for number in range(_ROWS)]),
        pl.Series("List", [[number] for number in range(_ROWS)]),
        pl.Series("Struct", [{"a": number} for number in range(_ROWS)]),
        pl.Series("Bytes", [b"x" * (number % 9) for number in range(_ROWS)]),
        pl.Series("Type", ["PAYMENT", "COPAY"] * (_ROWS // 2)).cast(pl.Categorical),
        pl.Series("Flag", [True, None] * (_ROWS // 2)),
    )
    return tuple(
        _written(frame, compression, size)
        for frame in (plain, typed)
        for compression in _COMPRESSIONS
        for size in (None, 50)
    )


def _written(frame: pl.DataFrame, compression: Any, rows_a_group: int | None) -> bytes:
    file = io.BytesIO()
    frame.write_parquet(file, compression=compression, row_group_size=rows_a_group)
    return file.getvalue()


def corrupted(random: Random) -> tuple[str, int, bytes]:
    """Return the damage, the file of the corpus that it was done to, and the file's bytes after it."""
    which = random.randrange(len(corpus()))
    good = corpus()[which]
    data = bytearray(good)
    length = struct.unpack("<I", good[-8:-4])[0]
    footer = len(good) - 8 - length
    at, in_footer = random.randrange(len(data)), random.randrange(footer, len(data) - 8)
    kind = random.choice(
        ["flip", "flip", "footer", "footer", "cut", "splice", "length", "zeros", "insert", "delete", "huge", "magic"]
    )  # fmt: skip
    match kind:
        case "flip":
            for _ in range(random.choice([1, 1, 2, 8, 64])):
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        case "footer":
            for _ in range(random.choice([1, 1, 2, 4])):
                data[random.randrange(footer, len(data))] = random.randrange(256)
        case "cut":
            del data[at:]
        case "splice":
            other = random.choice(corpus())
            begin = random.randrange(len(other))
            data[at : at + random.randrange(200)] = other[begin : begin + random.randrange(1, 200)]
        case "length":
            lengths = [0, 1, length - 1, length + 1, 2**31 - 1, 2**32 - 1, len(data)]
            data[-8:-4] = struct.pack("<I", random.choice(lengths))
        case "zeros":
            data[at : at + random.randrange(1, 64)] = bytes(random.randrange(1, 64))
        case "insert":
            data[at:at] = random.randbytes(random.randrange(1, 16))
        case "delete":
            del data[at : at + random.randrange(1, 16)]
        case "huge":
            there = random.choice([at, in_footer, in_footer])
            data[there : there + random.choice([1, 2, 5])] = random.choice(_HUGE)
        case _:
            data[:4] = random.choice([b"PARE", b"PAR2", b"\0\0\0\0"])
            data[-4:] = random.choice([b"PARE", b"PAR1"])
    return kind, which, bytes(data)


def play(seed: int, folder: Path, report: Report) -> None:
    """Play one corrupted file."""
    kind, which, data = corrupted(Random(seed))
    report.kinds[kind] += 1
    try:
        rows = _rows(data, folder)
    except InputError as error:
        if not error.fix or not error.message.startswith(_NAME):
            report.violations.append(f"seed {seed}: a refusal without its place or what to do")
        report.ends[error.message.removeprefix(f"{_NAME}: ").split(" (its")[0][:60]] += 1
    except BaseException as error:  # noqa: BLE001 - a panic is no Exception
        report.violations.append(f"seed {seed}: {type(error).__name__} was raised")
    else:
        report.ends[
            "read, and the same" if rows == _good(which, folder) else "read as other rows"
        ] += 1


_NAME: Final = "a.parquet"
_GOOD: Final[dict[int, list[tuple[Any, ...]]]] = {}


def _good(which: int, folder: Path) -> list[tuple[Any, ...]]:
    if which not in _GOOD:
        _GOOD[which] = _rows(corpus()[which], folder)
    return _GOOD[which]


def _rows(data: bytes, folder: Path) -> list[tuple[Any, ...]]:
    path = folder / _NAME
    path.write_bytes(data)
    return [row for batch in read(inspect(path, FEED, folder)) for row in batch.frame.iter_rows()]
