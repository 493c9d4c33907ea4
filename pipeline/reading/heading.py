"""Find the header of a text: its line, its delimiter, and a name for every column.

Nothing is guessed from data. If the first line lacks mapped columns and another line has them, the error
names the setting that makes that line the header.
"""

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pipeline.errors import InputError
from pipeline.reading.foreign import foreign_text
from pipeline.reading.source import added_in
from pipeline.reading.trim import Trim, Trimmer, trim_of
from pipeline.rows.feed import Feed
from pipeline.rows.texts import columns_read

DELIMITERS: Final = (",", "\t", "|", ";")  # tried if the feed names none
_LINES_SEARCHED: Final = 30  # below the first line, for the header
_COMMENT: Final = "#"
_SEPARATOR: Final = "sep="  # a line that tells Excel the delimiter


@dataclass(frozen=True, slots=True)
class Heading:
    """The header of a text.

    Attributes:
        delimiter: One character.
        cells: The cells of the header's line.
        names: A name for each column; unique, and one for each cell of the rows.
        line: The header's line, with its line end.
    """

    delimiter: str
    cells: tuple[str, ...]
    names: tuple[str, ...]
    line: bytes

    @property
    def surplus(self) -> tuple[str, ...]:
        """Return the columns that rows have beyond the header; all of their cells must be blank."""
        return self.names[len(self.cells) :]


def heading_of(head: bytes, path: Path, feed: Feed) -> Heading:
    """Find the header in the first bytes of a text.

    If the feed names no delimiter, it is the one under which most of the mapped columns appear.

    Args:
        head: The first bytes, as UTF-8.
        path: The file.
        feed: The feed.

    Raises:
        InputError: The text is no table, or its header is in another line or has broken quotes.
    """
    text = head.decode(errors="replace")
    _refuse_bytes(text, path)
    mapped, trim = frozenset(name for _, name in columns_read(feed)), trim_of(feed)
    candidates = _candidates(path, feed)
    texts = {each: _trimmed(head, trim, each) for each in candidates}
    rows = {each: columns_of(texts[each], each) for each in candidates}
    delimiter = max(rows, key=lambda each: len(mapped.intersection(rows[each] or ())))
    cells = rows[delimiter]
    if not mapped <= {*(cells or ())}:
        found = len(mapped.intersection(cells or ()))
        _refuse_other_line(text, candidates, mapped, found, path, feed)
        kind = None if found else foreign_text(texts[delimiter])
        if kind:
            raise InputError(*kind, file=path.name)
    if cells is None:
        raise InputError(
            "the header's quotes are broken",
            "quote whole names and double the quotes in them",
            file=path.name,
            row=0,
        )
    line, width = _measure(texts[delimiter], delimiter, len(cells))
    return Heading(delimiter, tuple(cells), unique_names(cells, width, mapped), line)


def as_sent(head: bytes, path: Path, feed: Feed) -> Feed:
    """Return the feed as it reads this text: a reject file of ours has no title, footer or comments."""
    if not is_ours(head, path, feed):
        return feed
    return replace(feed, skip_lines=0, skip_footer=0, comment_prefix="")


def is_ours(head: bytes, path: Path, feed: Feed) -> bool:
    """Return whether a text is a reject file of ours, by its first bytes."""
    text = head.decode(errors="replace")
    return any(added_in(columns_of(text, each) or ()) for each in _candidates(path, feed))


def columns_of(text: str, delimiter: str) -> list[str] | None:
    """Return the first line's cells; None if its quotes are not valid with this delimiter."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return next(lines, [])
    except csv.Error:
        return None


def unique_names(cells: Sequence[str], width: int, mapped: Collection[str]) -> tuple[str, ...]:
    """Return a name for each column: `Name (2)` for a second `Name`, `column 5` for a second blank one.

    One name may be blank: exports of frames have such a column, and a reject file has the sender's own header.
    """
    names: list[str] = []
    taken = set(cells)
    for number, cell in enumerate([*cells, *[""] * (width - len(cells))], 1):
        is_named = cell.strip() or cell in mapped or (number <= len(cells) and cell not in names)
        base = cell if is_named else f"column {number}"
        name, count = base, 1
        while name in names or (name != cell and name in taken):
            count += 1
            name = f"{base} ({count})"
        names.append(name)
    return tuple(names)


def _candidates(path: Path, feed: Feed) -> list[str]:
    if feed.delimiter:
        return [feed.delimiter]
    return ["\t" if ".tsv" in path.suffixes else ",", *DELIMITERS]


def _refuse_bytes(text: str, path: Path) -> None:
    """Raise InputError for a text whose lines cannot be separated."""
    if "\0" in text:
        raise InputError(
            "NUL bytes: this is no text, or UTF-16",
            'have it written as UTF-8, or set encoding = "utf-16"',
            file=path.name,
        )
    if "\r" in text and "\n" not in text:
        raise InputError(
            "all line ends are carriage returns (CR)",
            "have it written with LF or CRLF line ends",
            file=path.name,
        )


def _trimmed(head: bytes, trim: Trim, delimiter: str) -> str:
    """Return the first bytes without the lines that are left out above and between the rows."""
    if trim.is_needed:
        trimmer = Trimmer(replace(trim, skip_footer=0), delimiter.encode())
        head = b"".join(trimmer.trim(iter([head])))
    return head.decode(errors="replace")


def _measure(text: str, delimiter: str, columns: int) -> tuple[bytes, int]:
    """Return the header's line, and the cells of the first row if those beyond the header are blank."""
    source = io.StringIO(text, newline="")
    lines = csv.reader(source, delimiter=delimiter, strict=True)
    next(lines, [])
    line = text[: source.tell()].encode()
    try:
        row = next(lines, [])
    except csv.Error:
        return line, columns
    is_blank = not any(cell.strip() for cell in row[columns:])
    return line, max(len(row), columns) if is_blank else columns


def _refuse_other_line(
    text: str,
    delimiters: Sequence[str],
    mapped: Collection[str],
    found: int,
    path: Path,
    feed: Feed,
) -> None:
    """Raise InputError if another line has more of the mapped columns than the first, and most of them."""
    lines = text.split("\n")[: feed.skip_lines + 1 + _LINES_SEARCHED]
    hits = [
        max(len(set(mapped).intersection(columns_of(line, each) or ())) for each in delimiters)
        for line in lines
    ]
    most = max(hits)
    if most <= found or most * 2 <= len(mapped):
        return
    number = hits.index(most)
    settings = f"set skip_lines = {number}"
    above = lines[:number]
    for prefix in (_COMMENT, _SEPARATOR):
        if above and all(line.lower().startswith(prefix) for line in above):
            settings += f' or comment_prefix = "{above[0][: len(prefix)]}"'
    raise InputError(
        f"the header is in line {number + 1}, and was expected in line {feed.skip_lines + 1}",
        f"{settings} for {feed.name}",
        file=path.name,
    )
