"""Files that are unfit stop before anything is written: where, what, and what to do."""

import gzip
import sys
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import InputError
from pipeline.feeds.feed import Feed, Kind
from pipeline.stages.inspect import inspect
from pipeline.stages.read import read

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COLUMNS = {"patient": "MRN", "amount": "Amount", "transaction_id": "TXN"}
GOOD = b"MRN,Amount,TXN\n001,5.00,t1\n002,6.00,t2\n"


def feed_of(**changes: object) -> Feed:
    return Feed("ledger", Kind.LEDGER, "", COLUMNS, **changes)  # type: ignore[arg-type]


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def rows_of(path: Path, feed: Feed, folder: Path) -> list[tuple[str | None, ...]]:
    source = inspect(path, feed, folder)
    return [row for batch in read(source) for row in batch.frame.iter_rows()]


@pytest.mark.parametrize(
    ("name", "data", "said", "where"),
    [
        ("a.csv", b"", "no header", "a.csv:0"),
        ("a.csv", b"\n\n", "no header", "a.csv:0"),
        ("a.csv", b"MRN,Amount,TXN\n", "no rows", "a.csv"),
        ("a.csv", b"MRN,Amount,TXN,MRN\n1,2,3,4\n", "twice", 'column "MRN"'),
        ("a.csv", b"MRN,Amount,TXN,x,x\n1,2,3,4,5\n", "twice", 'column "number 5"'),
        ("a.csv", b"MRN,Amount,TXN\n1,2,3\n1,2\n", "2 cells where the header has 3", "a.csv:2"),
        ("a.csv", b'MRN,Amount,TXN\n1,2,"3\n', "never closed", "a.csv:1"),
        ("a.csv", b"MRN,Amount,TXN\r1,2,3\r", "carriage returns", "a.csv"),
        ("a.csv", "MRN,Amount,TXN\n1,2,3\n".encode("utf-16"), "UTF-16", "a.csv"),
        ("a.csv", "MRN,Amount,TXN\n1,2,3\n".encode("utf-16-le"), "NUL", "a.csv"),
        ("a.csv", b"MRN,Amount,TXN\n1,2,\0\n", "NUL", "a.csv"),
        ("a.csv", b"MRN,Amount,TXN\n1,2,3\n4,5,6", "cut short", "a.csv:2"),
        ("a.csv", b"MRN,Amount,TXN\n1,2,\xe9\n", "not utf-8", "a.csv:1"),
        ("a.csv", b"MRN,amount,TXN\n1,2,3\n", 'did you mean "amount"', 'column "Amount"'),
        ("a.csv", b"1,2,3\n4,5,6\n", "has the file a header", 'column "MRN"'),
        ("a.csv", gzip.compress(GOOD, mtime=0), "compressed", "a.csv"),
        ("a.csv.gz", GOOD, "not compressed so", "a.csv.gz"),
        ("a.csv.gz", gzip.compress(GOOD, mtime=0)[:-9], "damaged or cut short", "a.csv.gz"),
        ("a.csv.zst", zstd.compress(GOOD)[:-3], "damaged or cut short", "a.csv.zst"),
        ("a.parquet", GOOD, "not a Parquet", "a.parquet"),
        ("a.parquet", b"PAR1" + GOOD, "damaged", "a.parquet"),
    ],
)
def test_an_unfit_file_is_refused(
    tmp_path: Path, name: str, data: bytes, said: str, where: str
) -> None:
    with pytest.raises(InputError) as caught:
        inspect(written(tmp_path, name, data), feed_of(), tmp_path)
    text = str(caught.value)
    assert said.replace("has the file a header", "that the file has a header") in text
    assert where in text
    assert caught.value.fix


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.csv: there is no such file"):
        inspect(tmp_path / "a.csv", feed_of(), tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "changes"),
    [
        ("a.csv", GOOD, {}),
        ("a.csv", b"\xef\xbb\xbf" + GOOD, {}),
        ("a.csv", GOOD.replace(b"\n", b"\r\n"), {}),
        ("a.csv", GOOD.replace(b",", b"|"), {"delimiter": "|"}),
        ("a.csv", GOOD.replace(b",", b"|"), {}),
        ("a.tsv", GOOD.replace(b",", b"\t"), {}),
        ("a.csv.gz", gzip.compress(GOOD, mtime=0), {}),
        ("a.csv.zst", zstd.compress(GOOD), {}),
        ("a.csv", GOOD.decode().encode("utf-16"), {"encoding": "utf-16"}),
        ("a.csv", GOOD.removesuffix(b"\n"), {"final_newline": "any"}),
    ],
)
def test_the_same_rows_come_out_of_every_dialect(
    tmp_path: Path, name: str, data: bytes, changes: dict[str, object]
) -> None:
    rows = rows_of(written(tmp_path, name, data), feed_of(**changes), tmp_path)
    assert rows == [("001", "5.00", "t1"), ("002", "6.00", "t2")]


def test_another_encoding_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "MRN,Amount,TXN\n001,5.00,Zoë\n".encode("windows-1252"))
    assert rows_of(path, feed_of(encoding="windows-1252"), tmp_path) == [("001", "5.00", "Zoë")]


def test_parquet_columns_become_text(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"MRN": ["001"], "Amount": ["5.00"], "TXN": [7], "Posted": ["2026-11-20"], "n": [[1]]}
    )
    frame = frame.with_columns(
        pl.col("Amount").cast(pl.Decimal(12, 4)), pl.col("Posted").str.to_date()
    )
    frame.write_parquet(tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet", feed_of(), tmp_path) == [
        ("001", "5.00", "7", "2026-11-20")
    ]


def test_columns_of_an_earlier_reject_file_are_ignored(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", b"MRN,Amount,TXN,_row,_rule\n1,2,3,4,x\n")
    assert rows_of(path, feed_of(), tmp_path) == [("1", "2", "3")]


def test_batches_are_bounded_and_numbered(tmp_path: Path) -> None:
    lines = b"".join(b"%d,1.00,t%d\n" % (n, n) for n in range(1, 10_001))
    source = inspect(written(tmp_path, "a.csv", b"MRN,Amount,TXN\n" + lines), feed_of(), tmp_path)
    batches = list(read(source))
    assert max(batch.frame.height for batch in batches) <= 4_000
    assert [batch.frame["MRN"][0] for batch in batches] == [
        str(batch.first_row) for batch in batches
    ]
    assert sum(batch.frame.height for batch in batches) == source.rows == 10_000


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", GOOD)
    source = inspect(path, feed_of(), tmp_path)
    path.write_bytes(GOOD + b"003,7.00,t3\n")
    with pytest.raises(InputError, match="changed while it was read"):
        list(read(source))
