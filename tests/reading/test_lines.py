"""The line of each row, as an editor counts: against Python's csv reader, and with all that may be between rows."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.reading.inspect import inspect
from pipeline.reading.lines import entries_of, keep_entries
from pipeline.rows.feed import Feed, Kind

COLUMNS = {"patient": "MRN", "amount": "Amount", "transaction_id": "TXN"}
HEADER = b"MRN,Amount,TXN,Note\n"


def feed_of(**changes: Any) -> Feed:
    return Feed("ledger", Kind.LEDGER, "", COLUMNS, **changes)


def lines_of(path: Path, feed: Feed) -> list[int]:
    source = inspect(path, feed, path.parent)
    assert source.lines is not None
    rows = pl.int_range(1, source.rows + 1, dtype=pl.UInt32, eager=True).alias("row")
    assert (
        source.lines.of_rows(rows.reverse()).to_list() == source.lines.of_rows(rows).to_list()[::-1]
    )
    return source.lines.of_rows(rows).to_list()


def written(folder: Path, data: bytes, name: str = "a.csv") -> Path:
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("data", "changes", "lines"),
    [
        (HEADER + b"1,2,3,a\n4,5,6,b\n", {}, [2, 3]),
        (HEADER + b'1,2,3,"a\nb"\n4,5,6,b\n7,8,9,"c\r\n\r\nd"\r\n1,1,1,e\n', {}, [2, 4, 5, 8]),
        (b'MRN,Amount,TXN,"No\nte"\n1,2,3,a\n', {}, [3]),
        (b'Ti"tle\n\n' + HEADER + b"1,2,3,a\n4,5,6,b\n", {"skip_lines": 2}, [4, 5]),
        (
            HEADER + b"#x\n1,2,3,a\n\n#y\n4,5,6,b\n",
            {"comment_prefix": "#", "blank_lines": "skip"},
            [3, 6],
        ),
        (HEADER + b'1,2,3,"#a\n#b"\n#c\n4,5,6,b\n', {"comment_prefix": "#"}, [2, 5]),
        (HEADER + b'1,2,3,"a\nb"\n4,5,6,b\nTotal: 2\n', {"skip_footer": 1}, [2, 4]),
        (HEADER + b'="001",5,"t","a\nb"\n="002",6,"u",c\n', {}, [2, 4]),
    ],
)
def test_lines_are_those_of_an_editor(
    tmp_path: Path, data: bytes, changes: dict[str, Any], lines: list[int], name: str
) -> None:
    assert lines_of(written(tmp_path, data, name), feed_of(**changes)) == lines


CELL = st.text(alphabet='ab,"\n#', max_size=6)


@given(st.lists(st.tuples(CELL, CELL, CELL, CELL), min_size=1, max_size=12))
def test_lines_agree_with_another_reader(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("MRN", "Amount", "TXN", "Note"), *rows])
    reader = csv.reader(io.StringIO(text.getvalue(), newline=""))
    ends = [reader.line_num for _ in reader]
    path = written(tmp_path_factory.mktemp("lines"), text.getvalue().encode())
    assert lines_of(path, feed_of()) == [end + 1 for end in ends[:-1]]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=60), st.data())
def test_a_map_on_disk_answers_as_a_list(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], data: st.DataObject
) -> None:
    starts = [1]
    for step in steps:
        starts.append(starts[-1] + step)
    lines = keep_entries(entries_of(starts), tmp_path_factory.mktemp("map") / "lines")
    asked = data.draw(st.lists(st.integers(1, len(steps)), max_size=20))
    assert lines.of_rows(pl.Series("row", asked, dtype=pl.UInt32)).to_list() == [
        starts[row] for row in asked
    ]


@pytest.mark.parametrize(
    ("data", "changes", "where"),
    [
        (HEADER + b'1,2,3,"a\nb"\n4,5,6\n7,8,9,c\n', {}, "a.csv:4 (row 2): 3 cells"),
        (HEADER + b'1,2,3,"a\nb"\n4,5,6"6,b\n', {}, "a.csv:4 (row 2): a quote in the middle"),
        (
            b"Title\n" + HEADER + b"1,2,3,a\n\n4,5,6,b\n",
            {"skip_lines": 1},
            "a.csv:4 (row 2): the line is blank",
        ),
        (HEADER + b'1,2,3,"a\nb"\n4,5', {}, "a.csv:4 (row 2): the last line has no line end"),
        (HEADER + b'#c\n1,2,3,"a\n', {"comment_prefix": "#"}, "a.csv:3 (row 1): a quote is opened"),
        (
            HEADER + b'1,2,3,"a\nb"\n4,5,6,b\n',
            {"skip_footer": 1},
            "a.csv:4 (row 2): skip_footer = 1",
        ),
        (HEADER + b"1,2,3,\xe9\n", {}, "a.csv:2: bytes that are not utf-8"),
    ],
)
def test_a_file_that_is_refused_is_named_with_its_line(
    tmp_path: Path, data: bytes, changes: dict[str, Any], where: str
) -> None:
    with pytest.raises(InputError) as caught:
        inspect(written(tmp_path, data), feed_of(**changes), tmp_path)
    assert str(caught.value).startswith(where)
