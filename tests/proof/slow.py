"""The slow reader of text files: letter by letter, from docs/files.md. It shares nothing with the product's."""

import codecs
import csv
import gzip
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from backports import zstd

from pipeline.rows.feed import Feed


@dataclass
class Table:
    """What a text holds: the header's cells, the rows' cells, and the number of lines left out, by kind."""

    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


UNREADABLE = (csv.Error, UnicodeError, OSError, EOFError, zstd.ZstdError)


def table_of(name: str, data: bytes, feed: Feed) -> Table:
    """Read a file, under the delimiter that shows all mapped columns. Raises one of UNREADABLE."""
    if name.endswith(".gz"):
        data = gzip.decompress(data)
    elif name.endswith(".zst"):
        data = zstd.decompress(data)
    text = data.decode("utf-8-sig" if data.startswith(codecs.BOM_UTF8) else feed.encoding)
    if "\0" in text:
        raise csv.Error("a NUL")
    if text and not text.endswith("\n") and feed.final_newline == "require":
        raise csv.Error("no line end")
    found = csv.Error("no delimiter fits")
    for delimiter in [feed.delimiter] if feed.delimiter else [",", "\t", "|", ";"]:
        try:
            header = next(_records(_middle(text, feed)[0], delimiter, feed, Counter()), [])
        except csv.Error:
            continue
        if set(feed.columns.values()) <= set(header):
            try:
                return _table(text, delimiter, feed)
            except csv.Error as error:
                found = error
    raise found


def _middle(text: str, feed: Feed) -> tuple[str, list[str], int]:
    """Return a text without the lines above and below its table, the lines below, and how many there are above."""
    lines = text.split("\n")
    ends = [line + "\n" for line in lines[:-1]] + [lines[-1]] * bool(lines[-1])
    above, rest = ends[: feed.skip_lines], ends[feed.skip_lines :]
    cut = max(len(rest) - feed.skip_footer, 0)
    return "".join(rest[:cut]), rest[cut:], len(above)


def _table(text: str, delimiter: str, feed: Feed) -> Table:
    middle, below, above = _middle(text, feed)
    skipped = Counter(above=above, below=len(below))
    header, *rows = _records(middle, delimiter, feed, skipped)
    if any(header.count(name) > 1 for name in feed.columns.values()):
        raise csv.Error("a mapped column twice")
    needed = [header.index(feed.columns[name]) for name in feed.traits.required]
    if not rows:
        raise csv.Error("no rows")
    width = len(rows[0])
    for row in rows:
        if len(row) != width or width < len(header) or any(cell.strip() for cell in row[len(header) :]):  # fmt: skip
            raise csv.Error("another number of cells")
    for line in below:
        if _is_row(line, delimiter, width, needed):
            raise csv.Error("the footer has a row")
    return Table(header, rows, +skipped)


def _is_row(line: str, delimiter: str, width: int, mapped: Collection[int]) -> bool:
    try:
        cells, _ = _record(line, 0, delimiter)
    except csv.Error:
        return False
    return len(cells) == width and all(cells[each].strip() for each in mapped)


def _records(text: str, delimiter: str, feed: Feed, skipped: Counter[str]) -> Iterator[list[str]]:
    at = 0
    while at < len(text):
        end = text.find("\n", at) + 1 or len(text)
        line = text[at:end]
        if feed.comment_prefix and line.startswith(feed.comment_prefix):
            skipped["comments"] += 1
            at = end
        elif feed.blank_lines == "skip" and is_blank(line, delimiter):
            skipped["blank"] += 1
            at = end
        else:
            record, at = _record(text, at, delimiter)
            yield record


def is_blank(line: str, delimiter: str) -> bool:
    """Return whether a line has nothing but delimiters, blanks and quotes, and opens no cell that goes on."""
    return line.count('"') % 2 == 0 and set(line) <= {delimiter, *'" \t\r\n'}


def _record(text: str, at: int, delimiter: str) -> tuple[list[str], int]:
    """Return the cells of the row that begins here, and where the next one begins."""
    cells = []
    while True:
        cell, at = (_quoted if text[at : at + 1] == '"' else _plain)(text, at, delimiter)
        cells.append(cell)
        if text[at : at + 1] == delimiter:
            at += 1
        elif at >= len(text) or text[at] == "\n":
            return cells, at + 1
        elif text[at : at + 2] == "\r\n" or (text[at] == "\r" and at + 1 == len(text)):
            return cells, at + 2
        else:
            raise csv.Error("a letter after a closing quote, or a CR")


def _quoted(text: str, at: int, _delimiter: str) -> tuple[str, int]:
    letters = []
    at += 1
    while True:
        end = text.find('"', at)
        if end < 0:
            raise csv.Error("a quote that is never closed")
        letters.append(text[at:end])
        if text[end + 1 : end + 2] != '"':
            return "".join(letters), end + 1
        letters.append('"')
        at = end + 2


def _plain(text: str, at: int, delimiter: str) -> tuple[str, int]:
    end = at
    while end < len(text) and text[end] not in (delimiter, "\n", "\r"):
        end += 1
    cell = text[at:end]
    if '"' in cell and not is_protected(cell):
        raise csv.Error("a quote in the middle of a cell")
    return cell, end


def is_protected(cell: str) -> bool:
    """Return whether a cell is written as spreadsheets protect an id: ="00123"."""
    return len(cell) >= 3 and cell[:2] == '="' and cell.find('"', 2) == len(cell) - 1
