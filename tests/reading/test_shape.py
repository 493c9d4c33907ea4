"""The shape of delimited text: what is let through, what is refused, and in which row."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reading.bounds import ROW_BYTES_MAX
from pipeline.reading.shape import Misshapen, Shape


def shape_of(data: bytes, columns: int = 2, *, block: int = 7, torn_allowed: bool = False) -> int:
    """Rows of data, fed in blocks of a few bytes so that every boundary is met."""
    shape = Shape(columns, b",")
    for start in range(0, len(data), block):
        shape.feed(data[start : start + block])
    shape.finish(torn_allowed=torn_allowed)
    return shape.rows


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (b"a,b\n1,2\n", 1),
        (b"a,b\r\n1,2\r\n3,4\r\n", 2),
        (b'a,b\n"x,y","a ""quoted"" word"\n', 1),
        (b'a,b\n"two\nlines",2\n3,4\n', 2),
        (b'a,b\n"",""\n', 1),
        (b'"a","b"\r\n"1","2"\r\n', 1),
        (b'a,b\n"""",2\n', 1),
        (b'a,b\n"carriage\rreturn",2\n', 1),
        (b"a,b\n,\n", 1),
        (b"a,b\n", 0),
    ],
)
def test_well_formed_text_is_counted(data: bytes, rows: int) -> None:
    for block in (1, 2, 3, 7, 1000):
        assert shape_of(data, block=block) == rows


@pytest.mark.parametrize(
    ("data", "row", "said"),
    [
        (b"a,b\n1,2\n3\n", 2, "1 cell where the header has 2"),
        (b"a,b\n1,2,3\n", 1, "3 cells"),
        (b"a,b\n1,2,3\n4\n", 1, "3 cells"),
        (b"a,b\n1,2\n\n3,4\n", 2, "blank"),
        (b"a,b\r\n1,2\r\n\r\n", 2, "blank"),
        (b'a,b\n1,2\n"open,2\n3,4\n', 2, "never closed"),
        (b'a,b\n1,x"y\n', 1, "middle of a cell"),
        (b'a,b\n"x"y,2\n', 1, "middle of a cell"),
        (b'a,b\n"ok",1\n2,"x" \n', 2, "middle of a cell"),
        (b"a,b\n1,2\n3,4", 2, "cut short"),
        (b'a,b\n1,2\n"3\n3",4', 2, "cut short"),
        (b'a,b\n1,2\n"3\n\n3"', 2, "cut short"),
        (b"a,b\n1,2\n3,\0\n", 2, "NUL"),
        (b"a,b\n1\r2,3\n", 1, "carriage return"),
    ],
)
def test_misshapen_text_is_refused_with_its_row(data: bytes, row: int, said: str) -> None:
    for block in (1, 2, 3, 7, 1000):
        with pytest.raises(Misshapen) as caught:
            shape_of(data, block=block)
        assert said in caught.value.message
        assert caught.value.row == row


def test_a_last_line_without_its_end_is_taken_where_the_feed_allows_it() -> None:
    assert shape_of(b"a,b\n1,2\n3,4", torn_allowed=True) == 2
    with pytest.raises(Misshapen, match="1 cell where"):
        shape_of(b"a,b\n1,2\n3", torn_allowed=True)


def test_a_quote_that_swallows_the_file_is_found_in_bounded_memory() -> None:
    shape = Shape(2, b",")
    for _ in range(ROW_BYTES_MAX // 1000):
        shape.feed(b'a,"' + b"x" * 997)
    with pytest.raises(Misshapen, match="KiB"):
        shape.feed(b"x" * 1000)


cells = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@given(
    st.lists(st.tuples(cells, cells), max_size=8),
    st.integers(1, 20),
    st.sampled_from(["\n", "\r\n"]),
)
def test_whatever_the_csv_module_writes_is_well_formed(
    rows: list[tuple[str, str]], block: int, line_end: str
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "b"])
    writer.writerows(rows)
    assert shape_of(text.getvalue().encode(), block=block) == len(rows)
