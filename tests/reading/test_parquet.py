"""Parquet files of strangers: decoded by a child, which may die, hang or be refused, and this process not."""

import errno
import os
import sys
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.reading import parquet
from pipeline.reading.checksums import has_wrong_checksum, int96_columns
from pipeline.reading.decoding import Decoded
from pipeline.reading.inspect import inspect
from pipeline.reading.read import read
from pipeline.rows.feed import Feed, Kind

COLUMNS = {"patient": "MRN", "amount": "Amount", "transaction_id": "TXN"}
GOOD = {"MRN": ["p1", "p2"], "Amount": ["5.00", "6.00"], "TXN": ["t1", "t2"]}


def days(text: str) -> pl.Series:
    return pl.Series([text, None]).str.to_datetime()


def rows_of(folder: Path, **columns: Any) -> list[dict[str, str | None]]:
    """What is read of a Parquet file with these columns beside, or in place of, the good ones."""
    path = folder / "a.parquet"
    pl.DataFrame(GOOD | columns).write_parquet(path)
    source = inspect(path, Feed("ledger", Kind.LEDGER, "", COLUMNS), folder)
    return [row for batch in read(source) for row in batch.frame.iter_rows(named=True)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pl.Series([7, None]), "7"),
        (pl.Series([2**63], dtype=pl.UInt64).extend_constant(None, 1), "9223372036854775808"),
        (pl.Series([True, None]), "true"),
        (pl.Series([date(2026, 1, 2), None]), "2026-01-02"),
        (days("2026-01-02T03:04:05.000006"), "2026-01-02T03:04:05"),
        (days("2026-01-02T00:00:00").dt.cast_time_unit("ns"), "2026-01-02T00:00:00"),
        (
            days("2026-01-02T03:00:00").dt.replace_time_zone("America/New_York"),
            "2026-01-02T08:00:00Z",
        ),
        (pl.Series([date(9999, 12, 31), None]), "9999-12-31"),
        (pl.Series([2932897, None], dtype=pl.Int32).cast(pl.Date), "+10000-01-01"),
        (
            pl.Series([2**31 - 1, None], dtype=pl.Int32).cast(pl.Date),
            "2147483647 days since 1970-01-01",
        ),
        (pl.Series([-(2**62), None]).cast(pl.Datetime("us")), "-144169-06-28T09:59:32"),
        (
            pl.Series([-(2**62), None]).cast(pl.Datetime("ms", "UTC")),
            f"{-(2**62)} ms since 1970-01-01",
        ),
        (pl.Series(["PAYMENT", None], dtype=pl.Categorical), "PAYMENT"),
        (pl.Series(["PAYMENT", None], dtype=pl.Enum(["PAYMENT"])), "PAYMENT"),
        (pl.Series([None, None]), None),
        (pl.Series([Decimal("5.0000"), None], dtype=pl.Decimal(12, 4)), "5.00"),
        (pl.Series([Decimal("5.0010"), None], dtype=pl.Decimal(12, 4)), "5.0010"),
        (pl.Series([0.1 + 0.2, None]), "0.30000000000000004"),
        (pl.Series([float("nan"), None]), "NaN"),
    ],
)
def test_each_type_of_column_becomes_text(
    tmp_path: Path, values: pl.Series, expected: str | None
) -> None:
    first, second = rows_of(tmp_path, Other=values)
    assert (first["Other"], second["Other"]) == (expected, None)


@pytest.mark.parametrize(
    "values", [[[1], [2]], [{"a": 1}, {"a": 2}], [b"a", b"b"], [timedelta(1), timedelta(2)]]
)
def test_a_column_without_a_text_is_left_out_and_refused_where_it_is_mapped(
    tmp_path: Path, values: list[Any]
) -> None:
    assert list(rows_of(tmp_path, Other=values)[0]) == list(GOOD)
    with pytest.raises(InputError, match=r'a\.parquet: column "TXN": the column is a list'):
        rows_of(tmp_path, TXN=values)


def test_a_time_that_may_be_utc_or_local_is_no_day_unless_sql_says_which(tmp_path: Path) -> None:
    """`int96.parquet` was written by pyarrow, with use_deprecated_int96_timestamps."""
    path = Path(__file__).parent / "int96.parquet"
    assert int96_columns(path.read_bytes()) == ["Posted"]
    assert int96_columns(path.read_bytes()[:-9]) == []
    feed = Feed("ledger", Kind.LEDGER, "", COLUMNS | {"posted_on": "Posted"})
    with pytest.raises(InputError, match=r'(?s)column "Posted": .*INT96.* TIMESTAMP'):
        inspect(path, feed, tmp_path)
    stated = replace(feed, columns=COLUMNS, sql={"posted_on": """concat("Posted", 'Z')"""})
    rows = [
        row
        for batch in read(inspect(path, stated, tmp_path))
        for row in batch.frame.iter_rows(named=True)
    ]
    assert [row["Posted"] for row in rows] == ["2026-11-03T04:30:00", "2262-04-11T23:47:16"]


@pytest.mark.parametrize(
    "values",
    [pl.Series([123.0, None]), pl.Series([Decimal(123), None], dtype=pl.Decimal(12, 4))],
)
def test_an_id_that_was_written_as_a_number_with_decimals_is_refused(
    tmp_path: Path, values: pl.Series
) -> None:
    """As pandas does with whole numbers where some are missing: 123.0 would be another id."""
    with pytest.raises(InputError, match=r'column "TXN": .*with decimals.*transaction_id'):
        rows_of(tmp_path, TXN=values)
    assert rows_of(tmp_path, Amount=values)[0]["Amount"] in {"123.0", "123.00"}


def test_more_columns_than_are_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="513 columns, at most 512"):
        rows_of(tmp_path, **{f"c{number}": ["", ""] for number in range(510)})


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame(GOOD).clear().write_parquet(path)
    with pytest.raises(InputError, match="no rows"):
        inspect(path, Feed("ledger", Kind.LEDGER, "", COLUMNS), tmp_path)


def test_a_path_that_looks_like_a_partition_or_a_pattern_is_a_path(tmp_path: Path) -> None:
    folder = tmp_path / "MRN=7" / "[a]*"
    folder.mkdir(parents=True)
    assert [row["MRN"] for row in rows_of(folder)] == ["p1", "p2"]


# The child ----------------------------------------------------------------------------------------


def copied(folder: Path, **options: Any) -> Decoded:
    path = folder / "a.parquet"
    pl.DataFrame(GOOD).write_parquet(path)
    return parquet.decoded(path, folder / "copy.parquet", **options)


def replaced(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    """Another child in place of ours."""
    script = folder / "child"
    script.write_text(f"#!{sys.executable}\nimport os, sys, time\n{body}\n")
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os.abort()", "SIGABRT"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "SIGKILL"),
        ("sys.exit(3)", "ended with 3"),
        ("bytes(1 << 62)", "ended with 1"),
    ],
)
def test_a_child_that_dies_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    replaced(monkeypatch, tmp_path, body)
    with pytest.raises(InputError, match=said) as caught:
        copied(tmp_path)
    assert "4 GiB of memory and 600 s" in caught.value.fix


def test_a_child_that_hangs_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, tmp_path, "time.sleep(600)")
    with pytest.raises(InputError, match="not decoded within 1 s"):
        copied(tmp_path, seconds_max=1)


def test_a_child_knows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANVAS_CLIENT_SECRET", "planted")
    replaced(
        monkeypatch,
        tmp_path,
        f"open({str(tmp_path / 'seen')!r}, 'w').write(str(os.environ) + str(sys.argv))",
    )
    with pytest.raises(InputError, match="gave no answer"):
        copied(tmp_path)
    seen = (tmp_path / "seen").read_text()
    assert "PYTHONPATH" in seen
    assert "planted" not in seen
    assert "a.parquet" not in seen


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame(GOOD).write_parquet(path)
    with pytest.raises(InputError, match=os.strerror(errno.ENOSPC)) as caught:
        parquet.decoded(path, Path("/dev/full"))
    assert "make room" in caught.value.fix


def test_the_memory_of_a_child_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real child, with less than it needs; polars panics or aborts."""
    assert copied(tmp_path).rows == 2
    script = tmp_path / "small.py"
    script.write_text(
        "from pipeline import parquet; parquet.DECODING_BYTES_MAX = 1 << 20; parquet.main()"
    )
    replaced(monkeypatch, tmp_path, f"exec(open({str(script)!r}).read())")
    with pytest.raises(InputError, match=r"damaged|cannot be decoded"):
        copied(tmp_path)


def test_the_copy_is_for_nobody_else(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        copied(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / "copy.parquet").stat().st_mode & 0o777 == 0o600


# Checksums ----------------------------------------------------------------------------------------

# Ledger rows whose pages have checksums: two row groups, uncompressed, one column with a dictionary.
# Made by pyarrow 26 (`write_page_checksum`), which is no dependency of the project.
CHECKED = Path(__file__).with_name("checksums.parquet").read_bytes()


def test_pages_that_have_their_checksums_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(CHECKED)
    assert not has_wrong_checksum(CHECKED)
    assert parquet.decoded(path, tmp_path / "copy.parquet").rows == 12


def test_a_flipped_bit_in_a_page_with_a_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for value in (b"p11", b"5.00", b"COPAY"):
        changed = bytearray(CHECKED)
        changed[CHECKED.index(value) + 1] ^= 1
        path.write_bytes(changed)
        with pytest.raises(InputError, match="differs from its checksum"):
            parquet.decoded(path, tmp_path / "copy.parquet")


def test_every_flipped_bit_of_a_page_is_seen_and_none_elsewhere_raises() -> None:
    pages = CHECKED.rindex(b"t11") + 3
    seen = 0
    for at in range(len(CHECKED)):
        changed = bytearray(CHECKED)
        changed[at] ^= 4
        seen += has_wrong_checksum(bytes(changed))
    assert seen > pages * 0.5


@given(data=st.binary(max_size=100), at=st.integers(0, len(CHECKED)))
def test_a_file_that_is_not_understood_is_left_to_the_decoder(data: bytes, at: int) -> None:
    has_wrong_checksum(CHECKED[:at] + data + CHECKED[at + len(data) :])
    assert not has_wrong_checksum(data)
