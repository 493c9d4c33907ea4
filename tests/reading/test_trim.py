"""Random tables with titles, footers, comments and blank lines read as Python's csv module reads them."""

import csv
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reading.inspect import inspect
from pipeline.reading.read import read
from pipeline.reading.trim import Trim, Trimmer, skipped_text
from pipeline.rows.feed import Feed, Kind

HEADER = ["MRN", "Amount", "TXN"]
COLUMNS = {"patient": "MRN", "amount": "Amount", "transaction_id": "TXN"}
CELLS = st.text(alphabet='a1#,";\n =', max_size=6)
JUNK = st.text(alphabet='T#," ', max_size=6)
MIDDLE = st.lists(st.sampled_from(["", ",,", ' , "",', "\t", "#", '#"', "# a,b,c"]), max_size=2)
TABLES = st.fixed_dictionaries(
    {
        "above": st.lists(JUNK, max_size=3),
        "below": st.lists(st.sampled_from(["Total: 3", '"', "", "#", "x,y"]), max_size=3),
        "rows": st.lists(st.tuples(st.tuples(CELLS, CELLS, CELLS), MIDDLE), min_size=1, max_size=6),
        "delimiter": st.sampled_from([",", ";"]),
        "end": st.sampled_from(["\n", "\r\n"]),
        "quoting": st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    }
)


def text_of(table: dict[str, Any]) -> str:
    """Return the text of a table; a row that alone could be a comment or a blank line is quoted."""
    lines = [line + table["end"] for line in table["above"]]
    for row, after in [(HEADER, []), *table["rows"]]:
        cells = io.StringIO()
        quoting: Any = csv.QUOTE_ALL if row[0].startswith("#") else table["quoting"]
        csv.writer(
            cells, delimiter=table["delimiter"], quoting=quoting, lineterminator=table["end"]
        ).writerow(row)
        lines += [
            cells.getvalue(),
            *(each.replace(",", table["delimiter"]) + table["end"] for each in after),
        ]
    return "".join([*lines, *(line + table["end"] for line in table["below"])])


class Independent:
    """Reads the rows by the csv module, which knows by itself where a row begins."""

    def __init__(self, text: str, table: dict[str, Any]) -> None:
        lines = text.split("\n")[:-1]
        last = len(lines) - len(table["below"])
        self._lines = [line + "\n" for line in lines[len(table["above"]) : last]]
        self._delimiter = table["delimiter"]
        self._is_first = True
        self.comments = self.blank = 0

    def rows(self) -> list[list[str]]:
        found = []
        for row in csv.reader(self._wanted(), delimiter=self._delimiter, strict=True):
            self._is_first = True
            found.append(row)
        return found

    def _wanted(self) -> Iterator[str]:
        for line in self._lines:
            if self._is_first and line.startswith("#"):
                self.comments += 1
            elif (
                self._is_first
                and line.count('"') % 2 == 0
                and not set(line) - set(self._delimiter + '" \t\r\n')
            ):
                self.blank += 1
            else:
                self._is_first = False
                yield line


@given(table=TABLES)
@settings(max_examples=150, deadline=None)
def test_a_table_reads_as_the_csv_module_reads_it(table: dict[str, Any]) -> None:
    text = text_of(table)
    other = Independent(text, table)
    header, *rows = other.rows()
    assert header == HEADER
    feed = Feed(
        "ledger",
        Kind.LEDGER,
        "",
        COLUMNS,
        delimiter=table["delimiter"],
        skip_lines=len(table["above"]),
        skip_footer=len(table["below"]),
        comment_prefix="#",
        blank_lines="skip",
    )
    if not rows:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(text.encode())
        source = inspect(path, feed, Path(folder))
        read_rows = [row for batch in read(source) for row in batch.frame.iter_rows()]
    assert [[cell or "" for cell in row] for row in read_rows] == rows
    counts = {
        "above": len(table["above"]),
        "below": len(table["below"]),
        "comments": other.comments,
        "blank": other.blank,
    }
    assert dict(source.skipped) == {kind: count for kind, count in counts.items() if count}
    assert source.rows == len(rows)


@given(data=st.binary(max_size=60), size=st.integers(1, 7), skip=st.integers(0, 3))
def test_chunks_make_no_difference_and_no_line_is_lost(data: bytes, size: int, skip: int) -> None:
    trim = Trim(skip, skip, b"#", skips_blank=True)
    whole, parts = Trimmer(trim, b","), Trimmer(trim, b",")
    chunks = (data[start : start + size] for start in range(0, len(data), size))
    kept = b"".join(whole.trim(iter([data])))
    assert b"".join(parts.trim(chunks)) == kept
    lines, left = _lines(data), _lines(kept)
    assert lines == left + whole.skipped.total()


def _lines(text: bytes) -> int:
    return text.count(b"\n") + (not text.endswith(b"\n") and bool(text))


@pytest.mark.parametrize(
    ("skipped", "text"),
    [
        ({"above": 2, "below": 1}, "lines skipped: 3 (2 above the header, 1 after the last row)"),
        ({"comments": 1, "blank": 1}, "lines skipped: 2 (1 comment, 1 blank)"),
        ({"comments": 1_000}, "lines skipped: 1,000 (1,000 comments)"),
    ],
)
def test_skipped_lines_are_shown_by_kind(skipped: dict[str, int], text: str) -> None:
    assert skipped_text(skipped) == text
