"""Decode untrusted workbooks (.xlsx): what the child does (`decoding.py`), and the refusals in words.

calamine reads the cells; `sheets.py` adds what calamine does not show. Rules of a cell's text:

- A text is unchanged. A whole number has no decimals, another one its shortest exact form. From 1E15 on a
  number has lost digits when it was entered, and is written as a spreadsheet shows it (1.23456789012346E+15).
- A date is a day, or YYYY-MM-DDTHH:MM:SS. A number in a column of days is a serial day.
- An error is its text (#N/A). A formula whose value was not stored is refused.
"""

import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from io import BytesIO
from itertools import islice
from math import floor, isfinite
from pathlib import Path
from typing import Any, Final
from xml.parsers.expat import ExpatError
from zipfile import BadZipFile, ZipFile

import polars as pl
import python_calamine as calamine

from pipeline.errors import InputError
from pipeline.files import displayed
from pipeline.reading.bounds import COLUMNS_MAX, FIELD_BYTES_MAX
from pipeline.reading.decoding import WORKBOOK, Decoded, refusal, run_decoder
from pipeline.reading.sheets import (
    BINARY,
    BOMB,
    DAMAGED,
    MACROS,
    Marks,
    Unfit,
    checked,
    letters_of,
    read_book,
    read_marks,
)
from pipeline.reading.trim import (
    ABOVE,
    BELOW,
    BLANK,
    COMMENTS,
    FOOTER_IS_ROW,
    may_be_row,
    row_columns,
)
from pipeline.rows.feed import Feed

_NO_SUCH_SHEET: Final = "no such sheet"
_SEVERAL_SHEETS: Final = "several sheets"
_WIDE: Final = "wide"
_BLANK: Final = "blank"
_FORMULA: Final = "formula"
_FOOTER: Final = "footer"
_SHOWN_MAX: Final = 20  # sheets in a message
_ROWS_A_GROUP: Final = 50_000  # as of the copy of a Parquet file
_DIGITS_LOST: Final = 1e15
_DIGITS: Final = 8  # of a day, such as 20261101, that is far beyond the last serial day
_LAST_SERIAL: Final = {False: 2_958_465, True: 2_957_003}  # by date system: 9999-12-31
_NO_LEAP_DAY: Final = 60  # 1900-02-29, which spreadsheets have and the calendar has not


def decoded(path: Path, copy: Path, feed: Feed) -> Decoded:
    """Decode a sheet of a workbook into `copy`, whose columns are named by their position.

    Raises:
        InputError: The workbook is not fit, whatever is in it and however the child ends.
    """
    options = {
        "sheet": feed.sheet,
        "skip_lines": feed.skip_lines,
        "skip_footer": feed.skip_footer,
        "comment_prefix": feed.comment_prefix,
        "blank_lines": feed.blank_lines,
        "days": _serial_columns(feed),
        "commas": feed.comma_columns,
        "required": row_columns(feed),
    }
    answer = run_decoder(WORKBOOK, path, copy, options)
    if answer.get("refused"):
        message, fix = _refusal(answer, feed)
        raise InputError(message, fix, file=path.name)
    lines = [(row, shift) for row, shift in answer["lines"]]
    return Decoded(tuple(answer["header"]), answer["rows"], skipped=answer["skipped"], lines=lines)


def _serial_columns(feed: Feed) -> list[str]:
    """Return the columns in which a number is a serial day.

    Not those with a format of days as numbers that could be serial days, too.
    """
    days = {name: column for name, column in feed.columns.items() if name.endswith("_on")}
    reader = feed.day_reader
    return [
        column for name, column in days.items() if not any(map(_is_short, reader.formats(name)))
    ]


def _is_short(form: str) -> bool:
    """Return whether a format writes days as numbers of fewer than eight digits, or some without their first zero."""
    text = datetime(2026, 1, 2).strftime(form)  # noqa: DTZ001 - only its form counts
    return text.isdecimal() and (len(text) < _DIGITS or text.startswith("0"))


def _refusal(answer: Mapping[str, Any], feed: Feed) -> tuple[str, str]:
    """Return message and fix for a refusal of the child."""
    why = answer["refused"]
    names = answer.get("names", [])
    shown = ", ".join(f'"{displayed(name)}"' for name in names[:_SHOWN_MAX]) or "none"
    if len(names) > _SHOWN_MAX:
        shown += f" and {len(names) - _SHOWN_MAX} more"
    row = answer.get("row")
    refusals = {
        DAMAGED: (
            "the workbook is damaged, or is not an Excel workbook",
            "ask the sender for it again, or for CSV",
        ),
        MACROS: (
            "the workbook holds macros, and such workbooks are not read",
            "have it saved as .xlsx without macros, or as CSV",
        ),
        BINARY: ("the workbook is binary (.xlsb)", "have it saved as .xlsx or CSV"),
        BOMB: (
            "the workbook unpacks to far more than its size, or to more than 2 GiB",
            "ask the sender what it is; if it is right, have it sent as CSV",
        ),
        _NO_SUCH_SHEET: (
            f'the workbook has no sheet "{feed.sheet}" with rows'
            if feed.sheet
            else "the workbook has no visible sheet with rows",
            f"set sheet of feed {feed.name} to a sheet's name; visible sheets: {shown}",
        ),
        _SEVERAL_SHEETS: (
            "the workbook has several visible sheets",
            f"set sheet of feed {feed.name} to one of {shown}",
        ),
        _WIDE: (
            f"{answer.get('count', 0):,} columns, at most {COLUMNS_MAX} are read",
            "take fewer columns",
        ),
        _BLANK: (
            f"row {row} of the sheet is blank",
            f'check that nothing is missing there; blank_lines = "skip" of feed {feed.name} leaves such rows out',
        ),
        _FORMULA: (
            f"cell {answer.get('column')}{row} of the sheet is a formula without a stored value",
            "open the workbook in a spreadsheet program and save it, or have it written with values",
        ),
        _FOOTER: (
            f"skip_footer = {feed.skip_footer} leaves out row {row} of the sheet, which has a value for every required field",
            FOOTER_IS_ROW,
        ),
    }
    return refusals[why]


# The child ----------------------------------------------------------------------------------------


def answer(path: str, copy: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Decode the sheet into the copy. Returns header, rows and skipped, or the refusal, as JSON values."""
    try:
        return _decode(path, copy, options)
    except Unfit as error:
        return {"refused": error.why, **error.facts}
    except (calamine.CalamineError, BadZipFile, ExpatError, zlib.error, EOFError, UnicodeError):
        return {"refused": DAMAGED}
    except (NotImplementedError, RuntimeError):  # of zipfile: kinds of compression, encryption
        return {"refused": DAMAGED}
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        return refusal(error, DAMAGED)


def _decode(path: str, copy: str, options: Mapping[str, Any]) -> dict[str, Any]:
    with ZipFile(path) as sent:
        data = checked(sent, Path(path).stat().st_size)
    with (
        ZipFile(BytesIO(data)) as archive,
        calamine.CalamineWorkbook.from_filelike(BytesIO(data)) as workbook,
    ):
        book = read_book(archive)
        number = _chosen(workbook.sheets_metadata, options["sheet"])
        if len(book.parts) != len(workbook.sheets_metadata) or not book.parts[number]:
            raise Unfit(DAMAGED)
        marks = read_marks(archive, book.parts[number], is_stale=book.is_stale)
        sheet = workbook.get_sheet_by_name(workbook.sheets_metadata[number].name)
        table = _Table(_cells(sheet, marks), options)
        header = [_text(value) or "" for value in next(table.rows, [])]
        frame = _frame(table.rows, _readers(header, options, book.has_1904_dates))
    for number, row in table.footer:
        cells = {name: _seen(value) for name, value in zip(header, row, strict=False)}
        if may_be_row(cells, options["required"]):
            raise Unfit(_FOOTER, row=number)
    while header and not header[-1].strip() and frame[:, len(header) - 1].is_null().all():
        frame = frame[:, : len(header) - 1]
        header.pop()
    if frame.height:
        frame.write_parquet(copy, compression="lz4", row_group_size=_ROWS_A_GROUP, statistics=False)
    return {
        "header": header,
        "rows": frame.height,
        "skipped": +table.skipped,
        "lines": table.entries,
    }


def _chosen(sheets: Sequence[calamine.SheetMetadata], name: str) -> int:
    """Return the number of the sheet that is read. Raises Unfit."""
    tables = [
        number for number, each in enumerate(sheets) if each.typ == calamine.SheetTypeEnum.WorkSheet
    ]
    visible = [
        number for number in tables if sheets[number].visible == calamine.SheetVisibleEnum.Visible
    ]
    names = [sheets[number].name for number in visible]
    found = [number for number in tables if sheets[number].name == name] if name else visible
    if not found:
        raise Unfit(_NO_SUCH_SHEET, names=names)
    if len(found) > 1:
        raise Unfit(_SEVERAL_SHEETS, names=names)
    return found[0]


# Rows ---------------------------------------------------------------------------------------------


class _NoValue:
    """The content of a formula whose value was not stored."""


_NO_VALUE: Final = _NoValue()
_Row = tuple[int, list[Any]]  # its number in the sheet, from 1, and its cells


def _cells(sheet: calamine.CalamineSheet, marks: Marks) -> Iterator[_Row]:
    """Yield all rows of a sheet from the first one, with all columns from the first one. Raises Unfit."""
    marked: dict[int, dict[int, Any]] = {}
    for (at, column), error in marks.items():
        marked.setdefault(at, {})[column] = _NO_VALUE if error is None else error
    before = sheet.start[1] if sheet.start else 0
    columns = [sheet.end[1] if sheet.end else -1, *(column for _, column in marks)]
    width = max(columns) + 1
    if width > COLUMNS_MAX:
        raise Unfit(_WIDE, count=width)
    number = 0
    rows: Iterable[list[Any]] = sheet.iter_rows() if sheet.start else ()
    for number, cells in enumerate(rows, start=1):
        row = [""] * before + cells
        row += [""] * (width - len(row))
        for column, value in marked.get(number - 1, {}).items():
            row[column] = value
        yield number, row
    for below in range(number, max(marked, default=-1) + 1):
        yield below + 1, [marked.get(below, {}).get(column, "") for column in range(width)]


def _seen(value: Any) -> str | None:
    return "=" if value is _NO_VALUE else _text(value)


class _Table:
    """The header and the rows of data of a sheet: `rows` yields both.

    Afterwards `skipped` counts what was left out, by kind, `footer` has the last rows of it, and `entries` where the
    number of a row in the sheet and its own begin to differ by another number (the header is row 0).
    """

    def __init__(self, cells: Iterable[_Row], options: Mapping[str, Any]) -> None:
        self.skipped = Counter[str]()
        self.footer: tuple[_Row, ...] = ()
        self.entries: list[tuple[int, int]] = []
        self._options = options
        self.rows = self._kept(self._without_footer(_until_last(cells)))

    def _without_footer(self, rows: Iterator[_Row]) -> Iterator[_Row]:
        """Yield the rows between those above the header and those after the last row."""
        self.skipped[ABOVE] = sum(1 for _ in islice(rows, self._options["skip_lines"]))
        held: deque[_Row] = deque()
        for row in rows:
            held.append(row)
            if len(held) > self._options["skip_footer"]:
                yield held.popleft()
        self.footer = tuple(held)
        self.skipped[BELOW] = len(held)

    def _kept(self, rows: Iterator[_Row]) -> Iterator[list[Any]]:
        """Yield the rows that are neither comments nor blank. Raises Unfit."""
        prefix = self._options["comment_prefix"]
        kept = 0
        for number, row in rows:
            if prefix and isinstance(row[0], str) and row[0].startswith(prefix):
                self.skipped[COMMENTS] += 1
            elif not _is_blank(row):
                if _NO_VALUE in row:
                    raise Unfit(_FORMULA, row=number, column=letters_of(row.index(_NO_VALUE)))
                if not self.entries or self.entries[-1][1] != number - kept:
                    self.entries.append((kept, number - kept))
                kept += 1
                yield row
            elif self._options["blank_lines"] == "skip":
                self.skipped[BLANK] += 1
            else:
                raise Unfit(_BLANK, row=number)


def _until_last(rows: Iterable[_Row]) -> Iterator[_Row]:
    """Yield the rows up to the last one that is not blank: below it only formats are left."""
    blank: list[_Row] = []
    for row in rows:
        if _is_blank(row[1]):
            blank.append(row)
        else:
            yield from blank
            blank = []
            yield row


def _is_blank(row: Sequence[Any]) -> bool:
    return not any(value.strip() if isinstance(value, str) else True for value in row)


# Texts --------------------------------------------------------------------------------------------

_Reader = Callable[[Any], str | None]


def _readers(
    header: Sequence[str],
    options: Mapping[str, Any],
    has_1904_dates: bool,  # noqa: FBT001 - as below
) -> list[_Reader]:
    """Return for each column how its cells become texts."""
    day: _Reader = partial(_day_text, has_1904_dates=has_1904_dates)
    readers: dict[str, _Reader] = dict.fromkeys(options["commas"], _comma_text)
    readers |= dict.fromkeys(options["days"], day)
    return [readers.get(name, _text) for name in header]


def _frame(rows: Iterator[list[Any]], readers: Sequence[_Reader]) -> pl.DataFrame:
    """Return the rows as text, with columns named by their position; a text above the bound is cut to more than it."""
    schema = {str(number): pl.String for number in range(len(readers))}
    parts = [pl.DataFrame(schema=schema)]
    while chunk := list(islice(rows, _ROWS_A_GROUP)):
        columns = [
            [read(value) for value in values]
            for read, values in zip(readers, zip(*chunk, strict=True), strict=True)
        ]
        part = pl.DataFrame(dict(zip(schema, columns, strict=True)), schema=schema)
        parts.append(part.with_columns(pl.all().str.head(FIELD_BYTES_MAX + 1)))
    return pl.concat(parts)


def _text(value: Any) -> str | None:
    """Return the text of a cell; None for an empty one."""
    return _TEXT_OF[type(value)](value) or None


def _comma_text(value: Any) -> str | None:
    """Return the text of a cell in a column of amounts with a decimal comma: a number is written with one."""
    text = _text(value)
    return text.replace(".", ",") if text and type(value) in {int, float} else text


def _instant_text(value: datetime) -> str:
    if value.time() == time.min:
        return value.date().isoformat()
    return value.replace(tzinfo=None).isoformat(timespec="seconds")


def _number_text(value: float) -> str:
    """Return a number without an exponent, or as a spreadsheet shows it if it has more digits than were kept."""
    if not isfinite(value):
        return str(value)
    if abs(value) >= _DIGITS_LOST:
        digits, exponent = f"{value:.14E}".split("E")
        return f"{digits.rstrip('0').rstrip('.')}E{exponent}"
    if value == int(value):
        return str(int(value))
    return format(Decimal(repr(value)), "f")


def _duration_text(value: timedelta) -> str:
    """Return hours, minutes and seconds: 30:00:00."""
    minutes, seconds = divmod(round(abs(value).total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{'-' if value < timedelta() else ''}{hours}:{minutes:02}:{seconds:02}"


_TEXT_OF: Final[Mapping[type, Callable[[Any], str]]] = {
    str: str,
    bool: lambda value: "true" if value else "false",
    int: _number_text,
    float: _number_text,
    datetime: _instant_text,
    date: date.isoformat,
    time: lambda value: value.isoformat(timespec="seconds"),
    timedelta: _duration_text,
}


def _day_text(value: Any, has_1904_dates: bool) -> str | None:  # noqa: FBT001 - called for each cell
    """Return the text of a cell in a column of days: a number that is a serial day is a day."""
    if type(value) in {int, float}:
        day = _day_of(value, has_1904_dates)
        return _text(value if day is None else day)
    return _text(value)


def _day_of(serial: float, has_1904_dates: bool) -> datetime | None:  # noqa: FBT001 - the same
    """Return the instant of a serial day (ECMA-376, part 1, 18.17.4.1); None if there is none."""
    first = 0 if has_1904_dates else 1
    if not first <= serial < _LAST_SERIAL[has_1904_dates] + 1:
        return None
    days = floor(serial)
    if has_1904_dates:
        origin = datetime(1904, 1, 1)  # noqa: DTZ001 - a calendar day has no zone
    elif days == _NO_LEAP_DAY:
        return None
    else:
        origin = datetime(1899, 12, 31 if days < _NO_LEAP_DAY else 30)  # noqa: DTZ001 - the same
    seconds = min(round((serial - days) * 86_400), 86_399)
    return origin + timedelta(days=days, seconds=seconds)
