"""A share of the hostile input: nothing wrong is taken, nothing right refused, no row lost."""

from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.rows.feed import Feed, Kind
from tests.proof import enrollments, parquet
from tests.proof import input as hostile

_SETTINGS: Final = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# What files are made of: hypothesis puts it together, and makes the smallest that shows a fault.
PIECES = st.sampled_from([*hostile.BYTES, b"1", b"ab", b"x" * 300])
CELLS = st.lists(PIECES, max_size=3).map(b"".join)
QUOTED = CELLS.map(lambda cell: b'"' + cell.replace(b'"', b'""') + b'"')
LINES = st.lists(st.one_of(CELLS, QUOTED), min_size=3, max_size=3)
HEADERS = st.sampled_from([(b"MRN", b"Amount", b"TXN"), (b'"TXN"', b'"MRN"', b'"Amount"')])
ENCODINGS = st.sampled_from(["utf-8", "windows-1252", "utf-16", "utf-16-le", "shift_jis"])


@pytest.mark.parametrize("name", list(hostile.PLAYS))
def test_a_share_of_each_class(name: str) -> None:
    counts = {"rows": 3, "sql": 20, "texts": 30, "torn": 60, "strange": 60}
    tally = hostile.played((name, 0, counts[name]))
    assert tally.violations == []
    assert tally.cases == counts[name]
    assert tally.rows > 0


@_SETTINGS
@given(
    header=HEADERS,
    lines=st.lists(LINES, max_size=6),
    delimiter=st.sampled_from([b",", b"\t", b"|", b";"]),
    end=st.sampled_from([b"\n", b"\r\n"]),
    final=st.sampled_from(["require", "any"]),
    encoding=ENCODINGS,
)
def test_cells_of_any_bytes_are_read_as_a_slow_reader_reads_them(
    tmp_path: Path,
    header: tuple[bytes, ...],
    lines: list[list[bytes]],
    delimiter: bytes,
    end: bytes,
    final: Any,
    encoding: str,
) -> None:
    data = b"".join(delimiter.join(cells) + end for cells in [header, *lines])
    tally = hostile.Tally()
    feed = feed_of(
        encoding="utf-8" if encoding.startswith("utf-16") else encoding, final_newline=final
    )
    hostile.judge_file("a.csv", data, feed, tmp_path, tally)
    assert tally.violations == []


@_SETTINGS
@given(
    data=st.one_of(st.binary(max_size=200), st.lists(PIECES).map(b"".join)),
    name=st.sampled_from(["a.csv", "a.tsv", "a.csv.gz", "a.csv.zst", "a.CSV"]),
    encoding=ENCODINGS,
)
def test_any_bytes_are_refused_or_read(
    tmp_path: Path, data: bytes, name: str, encoding: str
) -> None:
    tally = hostile.Tally()
    hostile.judge_file(name, data, feed_of(encoding=encoding), tmp_path, tally)
    assert tally.violations == []


@pytest.mark.parametrize("sign", ["positive", "negative"])
@_SETTINGS
@given(
    text=st.text(
        alphabet=st.sampled_from([*"0123456789.,-+$()e_ '", "\u0665", "\uff15", "\xa0"]),
        max_size=12,
    ),
    decimal_comma=st.booleans(),
    unit=st.sampled_from(["dollars", "dollars", "cents"]),
)
def test_an_amount_is_what_a_slow_judge_reads(
    sign: Any, text: str, *, decimal_comma: bool, unit: str
) -> None:
    assert hostile.amount_faults(text, sign, decimal_comma=decimal_comma, unit=unit) == []


def feed_of(**changes: Any) -> Feed:
    columns = {"patient": "MRN", "amount": "Amount", "transaction_id": "TXN"}
    return Feed("ledger", Kind.LEDGER, "", columns, **changes)


def test_corrupted_parquet_files_do_not_end_this_process(tmp_path: Path) -> None:
    report = parquet.Report()
    for seed in range(12):
        parquet.play(seed, tmp_path, report)
    assert report.violations == []
    assert report.ends.total() == 12


@pytest.mark.parametrize("seed", [284, 1596])
def test_a_footer_that_counts_otherwise_than_its_pages_is_damage(tmp_path: Path, seed: int) -> None:
    report = parquet.Report()
    parquet.play(seed, tmp_path, report)
    assert report.violations == []
    assert [end for end in report.ends if end.startswith("the Parquet file is damaged")]


def test_damaged_enrollments_are_refused_or_read_as_they_are(tmp_path: Path) -> None:
    report = enrollments.Report()
    for seed in range(200):
        enrollments.play(seed, tmp_path, report, is_in_child=seed < 4)
    assert report.violations == []
    assert report.ends.total() == 200
    assert report.ends["damaged, and read as it is"] > 20
