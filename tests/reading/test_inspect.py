"""Files that are unfit stop before anything is written: where, what, and what to do."""

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.errors import InputError
from pipeline.reading.inspect import inspect
from pipeline.reading.read import read
from pipeline.reading.trim import Trimmer
from pipeline.rows.feed import Feed, Kind
from tests.support.world import LEDGER_ONLY, patient_key

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


# What each case of docs/guarantees.md, "Input", and others like it, look like.
UNFIT: dict[str, tuple[str, bytes, str, str]] = {
    "an empty file": ("a.csv", b"", "is empty (0 bytes)", "a.csv"),
    "only a byte order mark": ("a.csv", b"\xef\xbb\xbf", "no header", "a.csv, header: "),
    "only blank lines": ("a.csv", b"\n\n", "no header", "a.csv, header: "),
    "a header and no rows": ("a.csv", b"MRN,Amount,TXN\n", "no rows", "a.csv"),
    "a header that names a column twice": (
        "a.csv", b"MRN,Amount,TXN,MRN\n1,2,3,4\n", "twice", 'column "MRN"',
    ),
    "a title": ("a.csv", b"Clinic\nMRN,Amount,TXN\n1,2,3\n", "set skip_lines = 1 for ledger", "in line 2"),
    "a title, padded": ("a.csv", b"Clinic,,\n,,\nMRN,Amount,TXN\n1,2,3\n", "set skip_lines = 2", "in line 3"),
    "a comment": ("a.csv", b"# x\nMRN,Amount,TXN\n1,2,3\n", 'skip_lines = 1 or comment_prefix = "#"', "in line 2"),
    "a line for Excel": ("a.csv", b"sep=,\nMRN,Amount,TXN\n1,2,3\n", 'comment_prefix = "sep="', "in line 2"),
    "a short last row": ("a.csv", b"MRN,Amount,TXN\n1,2,3\nTotal: 2\n", "set skip_footer = 1", "a.csv:3 (row 2): "),
    "two short last rows": ("a.csv", b"MRN,Amount,TXN\n1,2,3\n\nTotal: 2\n", "set skip_footer = 2", "a.csv:3 (row 2): "),
    "a quoted last line": ("a.csv", b'MRN,Amount,TXN\n1,2,3\n"Printed\non Thursday, 8:11"\n', "set skip_footer = 1", "a.csv:3 (row 2): 1 cell where"),
    "a quoted line between rows": ("a.csv", b'MRN,Amount,TXN\n1,2,3\n"Page 1"\n1,2,3\n', "fix or remove", "a.csv:3 (row 2): 1 cell where"),
    "delimiters in some rows only": ("a.csv", b"MRN,Amount,TXN\n1,2,3,\n1,2,3\n1,2,3,\n", "3 cells where row 1 has 4", "a.csv:3 (row 2): "),
    "PGP with armour": ("a.csv", b"-----BEGIN PGP MESSAGE-----\n\nhQEMA\n", "encrypted with PGP", "a.csv"),
    "PGP": ("a.csv", b"\x85\x01\x0c\x03abcdefgh", "encrypted with PGP", "a.csv"),
    "PGP with a passphrase": ("a.csv", b"\x8c\x0d\x04\x09\x03\x02", "encrypted with PGP", "a.csv"),
    "JSON": ("a.csv", b'[\n {"MRN": 1},\n {"MRN": 2}\n]\n', "the file is JSON", "a.csv"),
    "NDJSON": ("a.csv", b'{"MRN": 1}\n{"MRN": 2}\n', "NDJSON", "a.csv"),
    "XML": ("a.csv", b"<?xml version='1.0'?>\n<rows><row/></rows>\n", "XML", "a.csv"),
    "HTML": ("a.csv", b"<!DOCTYPE html>\n<html><table/></html>\n", "web page", "a.csv"),
    "X12 with another sign": (
        "a.txt", b"ISA|00|          |00|          |ZZ|A              |ZZ|", "X12", "a.txt",
    ),
    "fixed widths": ("a.txt", b"MRN     Amount  TXN\n1       2.00    t1\n", "fixed widths", "a.txt"),
    "an old Excel workbook": ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", "old Excel workbook", "a.csv"),
    "a header with broken quotes": ("a.csv", b'"MRN,Amount,TXN\n1,2,3\n', "header's quotes", "a.csv, header: "),
    "more columns than are read": (
        "a.csv", b"MRN,Amount,TXN," + b",".join(b"c%d" % n for n in range(510)) + b"\n", "513 columns", "a.csv, header: ",
    ),
    "a row that is too short": (
        "a.csv", b"MRN,Amount,TXN\n1,2,3\n1,2\n", "2 cells where the header has 3", "a.csv:3 (row 2): ",
    ),
    "a row that is too long": (
        "a.csv", b"MRN,Amount,TXN\n1,2,3,4\n", "4 cells where the header has 3", "a.csv:2 (row 1): ",
    ),
    "a blank line": ("a.csv", b"MRN,Amount,TXN\n1,2,3\n\n4,5,6\n", "the line is blank", "a.csv:3 (row 2): "),
    "a blank last line": ("a.csv", b"MRN,Amount,TXN\n1,2,3\r\n\r\n", "the line is blank", "a.csv:3 (row 2): "),
    "a quote that is never closed": ("a.csv", b'MRN,Amount,TXN\n1,2,"3\n', "never closed", "a.csv:2 (row 1): "),
    "a quote in the middle of a cell": ("a.csv", b'MRN,Amount,TXN\n1,2,3"4\n', "middle of a cell", "a.csv:2 (row 1): "),
    "CR line ends": ("a.csv", b"MRN,Amount,TXN\r1,2,3\r", "carriage returns", "a.csv"),
    "one CR among LF line ends": ("a.csv", b"MRN,Amount,TXN\n1,2,3\r4,5,6\n", "carriage return (CR)", "a.csv:2 (row 1): "),
    "UTF-16 with its mark": ("a.csv", "MRN,Amount,TXN\n1,2,3\n".encode("utf-16"), "UTF-16", "a.csv"),
    "UTF-16 without its mark": (
        "a.csv", "MRN,Amount,TXN\n1,2,3\n".encode("utf-16-le"), "NUL", "a.csv",
    ),
    "a NUL": ("a.csv", b"MRN,Amount,TXN\n1,2,\0\n", "NUL", "a.csv"),
    "a torn last line": ("a.csv", b"MRN,Amount,TXN\n1,2,3\n2,12", "cut short", "a.csv:3 (row 2): "),
    "bytes of another encoding": ("a.csv", b"MRN,Amount,TXN\n1,2,\xe9\n", "not utf-8", "a.csv:2: "),
    "the end in the middle of a character": (
        "a.csv", b"MRN,Amount,TXN\n1,2,3\n\xe2\x82", "middle of a character", "a.csv",
    ),
    "another spelling of a column": (
        "a.csv", b"MRN,amount,TXN\n1,2,3\n", 'did you mean "amount"', 'column "Amount"',
    ),
    "no header": ("a.csv", b"1,2,3\n4,5,6\n", "that the file has a header", 'column "MRN"'),
    "gzip bytes in a .csv": ("a.csv", gzip.compress(GOOD, mtime=0), "compressed", "a.csv"),
    "text in a .csv.gz": ("a.csv.gz", GOOD, "not compressed so", "a.csv.gz"),
    "a torn .gz": ("a.csv.gz", gzip.compress(GOOD, mtime=0)[:-9], "damaged or cut short", "a.csv.gz"),
    "a .gz with rubbish behind it": (
        "a.csv.gz", gzip.compress(GOOD, mtime=0) + b"rubbish", "damaged or cut short", "a.csv.gz",
    ),
    "a torn .zst": ("a.csv.zst", zstd.compress(GOOD)[:-3], "damaged or cut short", "a.csv.zst"),
    "a compression bomb": (
        "a.csv.zst", zstd.compress(b"MRN,Amount,TXN\n" + b"1,2,3\n" * 12_000_000), "1,000 times its size", "a.csv.zst",
    ),
    "a zip archive": ("a.csv", b"PK\x03\x04rest", "zip archive or an Excel workbook", "a.csv"),
    "an X12 interchange": ("a.txt", b"ISA*00*          *00*", "X12", "a.txt"),
    "text in a .parquet": ("a.parquet", GOOD, "not a Parquet", "a.parquet"),
    "Parquet that is damaged": ("a.parquet", b"PAR1" + GOOD, "damaged", "a.parquet"),
    "Parquet that is encrypted": ("a.parquet", b"PARE" + GOOD, "encrypted", "a.parquet"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_an_unfit_file_is_refused(tmp_path: Path, case: str) -> None:
    name, data, said, where = UNFIT[case]
    with pytest.raises(InputError) as caught:
        inspect(written(tmp_path, name, data), feed_of(), tmp_path)
    assert said in str(caught.value)
    assert where in str(caught.value)
    assert caught.value.fix


ROWS = [("001", "5.00", "t1"), ("002", "6.00", "t2")]


@pytest.mark.parametrize(
    ("data", "changes", "skipped"),
    [
        (b"Title\n" + GOOD, {"skip_lines": 1}, {"above": 1}),
        (b'A "title\n\n' + GOOD, {"skip_lines": 2}, {"above": 2}),
        (GOOD + b"Total: 11.00\n", {"skip_footer": 1}, {"below": 1}),
        (GOOD + b'Total: "11.00\n\n', {"skip_footer": 2}, {"below": 2}),
        (GOOD + b"Total", {"skip_footer": 1, "final_newline": "any"}, {"below": 1}),
        (GOOD + b"\n,,\n", {"blank_lines": "skip"}, {"blank": 2}),
        (b'\r\n"", ,\r\n' + GOOD, {"blank_lines": "skip"}, {"blank": 2}),
        (b"#a\n" + GOOD + b'# "b\n', {"comment_prefix": "#"}, {"comments": 2}),
        (b"sep=,\n" + GOOD, {"comment_prefix": "sep="}, {"comments": 1}),
        (
            b"x\n" + GOOD.replace(b"\n002", b"\n\n#\n002") + b"end\n",
            {"skip_lines": 1, "skip_footer": 1, "comment_prefix": "#", "blank_lines": "skip"},
            {"above": 1, "below": 1, "comments": 1, "blank": 1},
        ),
    ],
)
def test_lines_that_are_no_rows_are_left_out_and_counted(
    tmp_path: Path, data: bytes, changes: dict[str, object], skipped: dict[str, int]
) -> None:
    path, feed = written(tmp_path, "a.csv", data), feed_of(**changes)
    assert rows_of(path, feed, tmp_path) == ROWS
    assert inspect(path, feed, tmp_path).skipped == skipped


def test_comments_and_blank_lines_in_a_quoted_cell_stay(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", b'MRN,Amount,TXN\n1,2,"a\n#b\n\nc"\n#d\n')
    feed = feed_of(comment_prefix="#", blank_lines="skip")
    assert rows_of(path, feed, tmp_path) == [("1", "2", "a\n#b\n\nc")]


@pytest.mark.parametrize(
    ("data", "changes", "said"),
    [
        (GOOD, {"skip_footer": 1}, "a value for every required field"),
        (GOOD[:-1] + b",\n", {"skip_footer": 1}, "a value for every required field"),
        (GOOD + b"Total", {"skip_footer": 1}, "cut short"),
        (GOOD + b"#", {"comment_prefix": "#"}, "cut short"),
        (GOOD, {"skip_lines": 1}, "set skip_lines = 0"),
        (b"a\nb\n" + GOOD, {"skip_lines": 1}, "set skip_lines = 2"),
        (GOOD + b"a\nb\n", {"skip_footer": 1}, "set skip_footer = 2"),
        (b"MRN,Amount,TXN\nnone\n", {"skip_footer": 1}, "no rows"),
    ],
)
def test_options_that_leave_out_too_little_or_too_much_are_refused(
    tmp_path: Path, data: bytes, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        inspect(written(tmp_path, "a.csv", data), feed_of(**changes), tmp_path)


def test_a_trimmer_that_drops_a_row_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trimmer, "keeps", lambda _, line: b"002" not in line)
    with pytest.raises(InputError, match="3 lines were read, and 2 kept and 0 skipped"):
        inspect(written(tmp_path, "a.csv", GOOD), feed_of(comment_prefix="#"), tmp_path)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"MRN,Amount,TXN,,\n1,2,3,,\n", ("", "column 5")),
        (b"MRN,Amount,TXN\n1,2,3,,\n", ("column 4", "column 5")),
        (b"MRN,Amount,TXN,N,N\n1,2,3,4,5\n", ("N", "N (2)")),
        (b"MRN,Amount,TXN,N,N,N (2)\n1,2,3,4,5,6\n", ("N", "N (3)", "N (2)")),
    ],
)
def test_columns_that_are_not_mapped_have_names_that_differ(
    tmp_path: Path, data: bytes, names: tuple[str, ...]
) -> None:
    source = inspect(written(tmp_path, "a.csv", data), feed_of(), tmp_path)
    assert source.header == ("MRN", "Amount", "TXN", *names)
    (batch,) = read(source)
    assert batch.frame.row(0)[:3] == ("1", "2", "3")


def test_a_cell_beyond_the_header_is_refused_in_its_row(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", b'MRN,Amount,TXN\n1,2,3,\n1,2,3,"x"\n')
    with pytest.raises(InputError, match=r"a\.csv:3 \(row 2\): 4 cells where the header has 3"):
        rows_of(path, feed_of(), tmp_path)


@pytest.mark.parametrize("final", ["", "\n"])
def test_a_protected_cell_is_read_as_its_text(tmp_path: Path, final: str) -> None:
    text = '="001",5,"a,="",b"\n"=""x""",6,="007"\n"",7,="t3"' + final
    path = written(tmp_path, "a.csv", f"MRN,Amount,TXN\n{text}".encode())
    assert rows_of(path, feed_of(final_newline="any"), tmp_path) == [
        ('="001"', "5", 'a,=",b'),
        ('="x"', "6", '="007"'),
        ("", "7", '="t3"'),
    ]


@pytest.mark.parametrize("others", ['="x"', '="x",="y"', '"a ""b""",="x"'])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_protected_name_of_a_column_is_no_part_of_the_rows(
    tmp_path: Path, others: str, end: str
) -> None:
    width = len(others.split(","))
    text = f"{others},MRN,Amount,TXN{end}" + f'{"z," * width}="00123",5.00,T1{end}' * 2
    path = written(tmp_path, "a.csv", text.encode())
    assert rows_of(path, feed_of(), tmp_path) == [(*"z" * width, '="00123"', "5.00", "T1")] * 2


@pytest.mark.parametrize("cell", ['x="1"', '="1"x', '="1', '="a,b"'])
def test_other_quotes_in_a_cell_are_refused(tmp_path: Path, cell: str) -> None:
    path = written(tmp_path, "a.csv", f"MRN,Amount,TXN\n1,2,{cell}\n".encode())
    with pytest.raises(InputError, match=r"quote|row"):
        inspect(path, feed_of(), tmp_path)


def test_a_folder_and_a_part_of_a_table_are_refused(tmp_path: Path) -> None:
    (tmp_path / "table" / "_delta_log").mkdir(parents=True)
    (tmp_path / "ice" / "metadata").mkdir(parents=True)
    (tmp_path / "ice" / "metadata" / "v1.metadata.json").touch()
    (tmp_path / "ice" / "data" / "day=1").mkdir(parents=True)
    part = tmp_path / "table" / "a.parquet"
    pl.DataFrame({"MRN": ["1"], "Amount": ["2"], "TXN": ["3"]}).write_parquet(part)
    other = tmp_path / "ice" / "data" / "day=1" / "a.parquet"
    other.write_bytes(part.read_bytes())
    for path, said in (
        (tmp_path, "this is a folder"),
        (tmp_path / "table", "table of Delta Lake"),
        (part, "table of Delta Lake"),
        (other, "table of Iceberg"),
    ):
        with pytest.raises(InputError, match=said):
            inspect(path, feed_of(), tmp_path)


@pytest.mark.parametrize(
    ("text", "written_as", "read_as", "is_seen"),
    [
        ("Zoë", "utf-8", "windows-1252", True),
        ("Zoë", "windows-1252", "windows-1252", False),
        ("Zoe", "utf-8", "latin-1", False),
        ("Zoë", "utf-8", "utf-8", False),
    ],
)
def test_utf8_that_is_read_as_another_encoding_is_seen(
    tmp_path: Path, text: str, written_as: str, read_as: str, is_seen: bool
) -> None:
    path = written(tmp_path, "a.csv", f"MRN,Amount,TXN\n1,2,{text}\n".encode(written_as))
    assert inspect(path, feed_of(encoding=read_as), tmp_path).may_be_utf8 is is_seen


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
        ("a.csv", GOOD.decode().encode("utf-32"), {"encoding": "utf-32"}),
        ("a.csv", GOOD.decode().encode("utf-16-le"), {"encoding": "utf-16-le"}),
        ("a.csv.gz", gzip.compress(GOOD[:20], mtime=0) + gzip.compress(GOOD[20:], mtime=0), {}),
        ("a.csv.zst", zstd.compress(GOOD[:20]) + zstd.compress(GOOD[20:]), {}),
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


@pytest.mark.parametrize(
    ("cells", "said", "column"),
    [
        (["x" * 65_536], "", ""),
        (["x" * 65_537], "a cell of more than 64 KiB", "c0"),
        (["x" * 60_000] * 5, "a row of more than 256 KiB", ""),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_cell_and_a_row_have_a_longest_length(
    tmp_path: Path, suffix: str, cells: list[str], said: str, column: str
) -> None:
    good = {"MRN": "1", "Amount": "2", "TXN": "3"} | {f"c{n}": "" for n in range(len(cells))}
    long = good | {f"c{n}": cell for n, cell in enumerate(cells)}
    frame = pl.DataFrame([good] * 4_500 + [long, good])
    path = tmp_path / f"a.{suffix}"
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    if not said:
        assert len(rows_of(path, feed_of(), tmp_path)) == 4_502
        return
    with pytest.raises(InputError, match=said) as caught:
        rows_of(path, feed_of(), tmp_path)
    assert (caught.value.row, caught.value.column) == (4_501, column)


def test_a_file_has_a_greatest_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.reading.shape.ROWS_MAX", 1)
    with pytest.raises(InputError, match="more than 1 rows"):
        inspect(written(tmp_path, "a.csv", GOOD), feed_of(), tmp_path)


def test_zeros_may_follow_what_is_compressed_as_gzip_lets_them(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv.gz", gzip.compress(GOOD, mtime=0) + bytes(99))
    assert rows_of(path, feed_of(), tmp_path) == [("001", "5.00", "t1"), ("002", "6.00", "t2")]


def test_an_encoding_that_yields_no_text_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", GOOD + b"\\ud800,1.00,t3\n")
    with pytest.raises(InputError, match="not unicode_escape"):
        inspect(path, feed_of(encoding="unicode_escape"), tmp_path)


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
    path = written(tmp_path, "a.csv", b"MRN,Amount,TXN,_row,_rule,_run\n1,2,3,4,x,r\n")
    assert rows_of(path, feed_of(), tmp_path) == [("1", "2", "3")]


def test_batches_are_bounded_and_numbered(tmp_path: Path) -> None:
    lines = b"".join(b"%d,1.00,t%d\n" % (n, n) for n in range(1, 100_001))
    source = inspect(written(tmp_path, "a.csv", b"MRN,Amount,TXN\n" + lines), feed_of(), tmp_path)
    batches = list(read(source))
    assert max(batch.frame.height for batch in batches) <= 16_000
    assert [batch.frame["MRN"][0] for batch in batches] == [
        str(batch.first_row) for batch in batches
    ]
    assert sum(batch.frame.height for batch in batches) == source.rows == 100_000


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", GOOD)
    source = inspect(path, feed_of(), tmp_path)
    path.write_bytes(GOOD + b"003,7.00,t3\n")
    with pytest.raises(InputError, match="changed while it was read"):
        list(read(source))


# Whole runs ---------------------------------------------------------------------------------------


async def test_a_feed_has_a_greatest_number_of_files(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.planning.passes.files.FILES_MAX", 1)
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY.replace("ledger.csv", "ledger*.csv"))
    for number in range(2):
        world.write_ledger([(f"t{number}", patient_key(0), "5.00", "")], f"ledger{number}.csv")
    result = await world.run()
    assert (result.exit_code, world.effects) == (1, [])
    assert "2 files for feed ledger, at most 1 are read" in result.summary["failure"]


async def test_a_damaged_parquet_file_ends_a_run_before_anything_is_sent(
    make_world: Callable[..., Any],
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY.replace("ledger.csv", "ledger.parquet"))
    path = world.folder / "ledger.parquet"
    names = ("TXN", "MRN", "Amount", "Claim")
    pl.DataFrame([dict.fromkeys(names, "1")]).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    result = await world.run()
    assert (result.exit_code, world.effects) == (1, [])
    assert "ledger.parquet: the Parquet file is damaged" in result.summary["failure"]
