"""Check that a file is fit to be loaded, in one pass over its bytes: hash, header, shape of every row.

polars reads files without an error that must not be loaded: a torn last line, rows that are too short,
duplicate headers, CR line ends, UTF-16, NULs, gzip bytes in a .csv (docs/guarantees.md, "Input"). So a
file is read only after its bytes were checked here, in bounded memory. Messages name a column only as
`reading/headers.py` lets them: without a header its name would be a value.
"""

import codecs
import difflib
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final, NoReturn

from pipeline.errors import ColumnsMissing, InputError
from pipeline.files import displayed, may_be_file
from pipeline.reading import workbook
from pipeline.reading.bounds import (
    COLUMNS_MAX,
    ROW_BYTES_MAX,
)
from pipeline.reading.decoding import Decoded
from pipeline.reading.headers import column_text
from pipeline.reading.heading import (
    Heading,
    as_sent,
    columns_of,
    heading_of,
    is_ours,
    unique_names,
)
from pipeline.reading.interchange import decode_interchange, is_interchange, refuse_other
from pipeline.reading.lake import refuse_folder, refuse_table_format
from pipeline.reading.lines import LineCount, LineMap, entries_of, keep_entries, row_starts
from pipeline.reading.parquet import decoded
from pipeline.reading.protected import quoted
from pipeline.reading.shape import Misshapen, Shape
from pipeline.reading.source import Cuts, Source, Stamp, added_in, copied, stamp_of
from pipeline.reading.trim import (
    ABOVE,
    BELOW,
    FOOTER_IS_ROW,
    Trimmer,
    may_be_row,
    row_columns,
    trim_of,
)
from pipeline.reading.unpacked import PACKED, PARQUET, ZIP, decode_chunks, head_of, unpack_chunks
from pipeline.reading.utf8 import Utf8Look, is_one_byte
from pipeline.records import counted
from pipeline.rows import groups
from pipeline.rows.dates import PARQUET_INSTANTS
from pipeline.rows.feed import Feed
from pipeline.rows.texts import columns_read, use_of

_NEAR: Final = 0.75  # how alike a header and a mapped name must be for a "did you mean"
_PARQUET_ENCRYPTED, _OLE = b"PARE", b"\xd0\xcf\x11\xe0"
_UNREAD_WORKBOOKS: Final = (".xls", ".xlsb", ".xlsm", ".xltx", ".xltm")


def inspect(path: Path, feed: Feed, spool_dir: Path) -> Source:
    """Inspect one file. Raises InputError with file, row, column and what to do.

    A text that is compressed, in another encoding than UTF-8, or has lines to be left out is copied into
    `spool_dir` as plain UTF-8, and a Parquet file is decoded into it.
    """
    _require_file(path, feed.name)
    if path.stat().st_size == 0:
        raise InputError(
            "the file is empty (0 bytes)", "ask the sender for it again", file=path.name
        )
    source = _inspector(path)(path, feed, spool_dir)
    if source.rows == 0 and source.interchange is None:  # an 834 may hold addresses only
        raise InputError(
            "the file has a header and no rows", "ask the sender for the whole file", file=path.name
        )
    return source


def _inspector(path: Path) -> Callable[[Path, Feed, Path], Source]:
    """Return the function that inspects a file, by the ending of its name. Raises InputError."""
    suffix = path.suffix.lower()
    if suffix in _UNREAD_WORKBOOKS:
        raise InputError(
            f"workbooks of the kind {suffix} are not read",
            "have it saved as .xlsx or CSV",
            file=path.name,
        )
    if suffix == ".xlsx":
        return _workbook
    return _parquet if path.suffix == ".parquet" else _text


def _require_file(path: Path, what: str) -> None:
    refuse_folder(path)
    if not may_be_file(path):
        if path.exists():
            raise InputError(
                "it is a pipe or a device, and no file",
                "copy it into a file; what a feed reads can also be piped in, by --input NAME=-",
                file=path.name,
            )
        raise InputError("there is no such file", f"check the path of {what}", file=path.name)
    try:
        path.open("rb").close()
    except PermissionError:
        raise InputError(
            "this user may not read it",
            "give the user of canvas-ingest the right to read the file, and to enter its folders",
            file=path.name,
        ) from None


def first_and_last(path: Path, encoding: str) -> tuple[str, str]:
    """Return the beginning and the end of a text, which are the same if it is short. Raises InputError."""
    chunks = max(ROW_BYTES_MAX // groups.BOUNDS.chunk_bytes, 2)
    head, last = b"", deque[bytes](maxlen=chunks)
    with path.open("rb") as raw:
        for chunk in decode_chunks(unpack_chunks(raw, path, len), path, encoding):
            head = head if len(head) > ROW_BYTES_MAX else head + chunk
            last.append(chunk)
    return head.decode(errors="replace"), b"".join(last).decode(errors="replace")


# The columns --------------------------------------------------------------------------------------


def _check_columns(names: tuple[str, ...], file: str, feed: Feed) -> None:
    ours = added_in(names)
    header = [name for name in names if name not in ours]
    missing = [
        (field, name, _near(name, header))
        for field, name in columns_read(feed)
        if name not in header
    ]
    if not missing:
        return
    field, _, near = missing[0]
    hint = f"did you mean {near}? " if near else ""
    use = f"which is {use_of(feed, field)}"
    others = ", ".join(f'"{name}" ({field})' for field, name, _ in missing[1:])
    more = f", nor these: {others}" if others else ""
    raise ColumnsMissing(
        f"the header has {counted(len(header), 'column')} and not this one, {use}{more}",
        f"{hint}Check the columns and the delimiter of feed {feed.name}, and that the file has a header",
        file=file,
        missing=missing,
    )


def _near(name: str, header: Sequence[str]) -> str:
    """Return the name, for a message, of the column with a similar name, whatever its case; "" if there is none."""
    folded = {column.casefold(): column for column in reversed(header)}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=_NEAR)
    return column_text(header, folded[near[0]], name) if near else ""


def _check_header(header: Sequence[str], path: Path, feed: Feed) -> None:
    def fail(message: str, fix: str, column: str = "") -> NoReturn:
        raise InputError(message, fix, file=path.name, row=0, column=column)

    if not any(name.strip() for name in header):
        fail("there is no header", "the first line must name the columns")
    if len(header) > COLUMNS_MAX:
        fail(f"{len(header)} columns, at most {COLUMNS_MAX} are read", "check the delimiter")
    mapped = {name for _, name in columns_read(feed)}
    for number, name in enumerate(header):
        if name in mapped and name in header[:number]:
            fail("the header names this column twice", "rename one of the two", name)


# Parquet ------------------------------------------------------------------------------------------


def _parquet(path: Path, feed: Feed, spool_dir: Path) -> Source:
    stamp, magic, sha256 = _marks_of(path)
    if magic == _PARQUET_ENCRYPTED:
        raise InputError(
            "the Parquet file is encrypted", "have it written without encryption", file=path.name
        )
    if magic != PARQUET:
        raise InputError(
            "this is not a Parquet file", "check what the sender wrote", file=path.name
        )
    refuse_table_format(path)
    copy = spool_dir / "text.parquet"
    found = decoded(_readable(path, spool_dir), copy, comma_columns=feed.comma_columns)
    _check_kinds(found, path, feed)
    _check_columns(found.header, path.name, feed)
    return copied(path, copy, found.header, found, stamp, sha256)


def _marks_of(path: Path) -> tuple[Stamp, bytes, str]:
    """Return a file's stamp, its first four bytes and its SHA-256."""
    stamp = stamp_of(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        magic = file.read(4)
        file.seek(0)
        for chunk in iter(lambda: file.read(groups.BOUNDS.chunk_bytes), b""):
            digest.update(chunk)
    return stamp, magic, digest.hexdigest()


def _readable(path: Path, spool_dir: Path) -> Path:
    """Return a path that polars takes: it refuses names that are not UTF-8."""
    if displayed(path) == str(path):
        return path
    link = spool_dir / "source.parquet"
    link.unlink(missing_ok=True)
    link.symlink_to(path.absolute())
    return link


def _check_kinds(found: Decoded, path: Path, feed: Feed) -> None:
    """Raise InputError for a mapped column whose values have no single text.

    An id that was written as a number with decimals would become another id: 123 reads as 123.0.
    """
    for field, column in columns_read(feed):
        if column in found.unreadable:
            message, fix = "a list, a struct, a map, bytes or a duration", "have it written as text"
        elif column in found.fractional and field != "amount":
            message, fix = (
                f"a number with decimals, and {use_of(feed, field)}",
                "have it written as text or whole numbers: 123 would read as 123.0",
            )
        elif column in found.instants and field.endswith("_on") and not feed.reads_instants(field):
            message, fix = (
                f"one of instants with a time zone, and mapped to {field}",
                f'set timezone = "America/New_York", or as it is, and add "{PARQUET_INSTANTS}" to dates, in feed {feed.name}',
            )
        elif column in found.zoneless and field.endswith("_on") and field in feed.columns:
            message, fix = (
                f"of INT96, an old kind of time that may be UTC or local, and mapped to {field}",
                'have it written as TIMESTAMP (Spark: spark.sql.parquet.outputTimestampType=TIMESTAMP_MICROS), or say which by SQL: docs/files.md, "Formats"',
            )
        else:
            continue
        raise InputError(f"the column is {message}", fix, file=path.name, column=column)


# Workbooks ----------------------------------------------------------------------------------------


def _workbook(path: Path, feed: Feed, spool_dir: Path) -> Source:
    stamp, magic, sha256 = _marks_of(path)
    if magic == _OLE:
        raise InputError(
            "the workbook is encrypted, or of the old kind .xls",
            "have it saved as .xlsx without a password, or as CSV",
            file=path.name,
        )
    if magic != ZIP:
        raise InputError(
            "this is not an Excel workbook", "check what the sender wrote", file=path.name
        )
    copy = spool_dir / "sheet.parquet"
    found = workbook.decoded(path, copy, feed)
    _check_header(found.header, path, feed)
    mapped = frozenset(name for _, name in columns_read(feed))
    header = unique_names(found.header, len(found.header), mapped)
    _check_columns(header, path.name, feed)
    source = copied(path, copy, header, found, stamp, sha256)
    return replace(source, lines=keep_entries(found.lines, spool_dir / "lines"))


# Text ---------------------------------------------------------------------------------------------


def _text(path: Path, feed: Feed, spool_dir: Path) -> Source:
    try:
        try:
            source = _read_text(path, feed, spool_dir)
        except Misshapen as error:
            if not error.may_be_protected:
                raise
            source = _read_text(path, feed, spool_dir, quotes_protected=True)
        return source if source.is_parquet else _with_lines(source, feed, spool_dir)
    except Misshapen as error:
        line = _line_of(error.row, path, feed) if error.row else None
        raise InputError(
            error.message, error.fix, file=path.name, row=error.row, line=line
        ) from None
    except OSError as error:
        raise InputError(
            f"the file cannot be copied: {os.strerror(error.errno or 0)}",
            "make room under state.dir, or under the folder for temporary files",
            file=path.name,
        ) from None


def _with_lines(source: Source, feed: Feed, spool_dir: Path) -> Source:
    """Return a text with the lines of its rows. It is read once more if they are not evenly spaced."""
    skipped = {kind for kind in source.skipped if kind not in {ABOVE, BELOW}}
    if not source.breaks and not skipped:
        return replace(source, lines=LineMap(2 + source.skipped.get(ABOVE, 0)))
    starts = islice(_starts(source.path, feed), source.rows + 1)
    return replace(source, lines=keep_entries(entries_of(starts), spool_dir / "lines"))


def _line_of(row: int, path: Path, feed: Feed) -> int | None:
    """Return the line of a row of a text that is unfit; None if it cannot be found."""
    with suppress(InputError, OSError):
        return next(islice(_starts(path, feed), row, None), None)
    return None


def _starts(path: Path, feed: Feed) -> Iterator[int]:
    """Yield the line of each row of a text, the header first."""
    with path.open("rb") as raw:
        head, chunks = head_of(decode_chunks(unpack_chunks(raw, path, len), path, feed.encoding))
        feed = as_sent(head, path, feed)
        delimiter = heading_of(head, path, feed).delimiter.encode()
        yield from row_starts(chunks, trim_of(feed), delimiter)


def _read_text(
    path: Path, feed: Feed, spool_dir: Path, *, quotes_protected: bool = False
) -> Source:
    """Read all bytes of a text once. Raises InputError, Misshapen and OSError."""
    stamp = stamp_of(path)
    digest = hashlib.sha256()
    with path.open("rb") as raw:
        marked = len(codecs.BOM_UTF8) if raw.read(4).startswith(codecs.BOM_UTF8) else 0
        raw.seek(0)
        unpacked = unpack_chunks(raw, path, digest.update)
        look = None if marked or not is_one_byte(feed.encoding) else Utf8Look()
        chunks = decode_chunks(look.watch(unpacked) if look else unpacked, path, feed.encoding)
        head, chunks = head_of(chunks)
        if is_interchange(head) or (feed.format and not is_ours(head, path, feed)):
            refuse_other(head, path, feed)
            source = _interchange(path, feed, spool_dir, stamp, chunks, is_marked=marked > 0)
            may_be_utf8 = look is not None and look.is_utf8
            return replace(source, sha256=digest.hexdigest(), may_be_utf8=may_be_utf8)
        feed = as_sent(head, path, feed)
        heading = heading_of(head, path, feed)
        _check_header(heading.cells, path, feed)
        _check_columns(heading.names, path.name, feed)
        delimiter, trim = heading.delimiter.encode(), trim_of(feed)
        trimmer, lines = (Trimmer(trim, delimiter), LineCount()) if trim.is_needed else (None, None)
        if trimmer and lines:
            chunks = trimmer.trim(lines.watch(chunks))
        if quotes_protected:
            chunks = quoted(chunks, delimiter)
        shape = Shape(len(heading.names), delimiter, len(heading.cells), feed.skip_footer)
        cuts = _cuts(heading, is_quoted=quotes_protected)
        readable, torn_allowed = path, feed.final_newline == "any"

        def look_at(chunk: bytes) -> None:
            shape.feed(chunk)
            cuts.see(*shape.whole)

        is_plain = path.suffix not in PACKED and codecs.lookup(feed.encoding).name == "utf-8"
        if trimmer or quotes_protected or not is_plain:
            readable, marked = spool_dir / "text.utf8.csv", 0
            with readable.open("wb") as spool:
                _drain(chunks, look_at, spool.write)
        else:
            _drain(chunks, look_at)
        if trimmer and trimmer.is_tail_skipped and not torn_allowed:
            shape.refuse_torn()
        shape.finish(torn_allowed=torn_allowed)
        cuts.see(*shape.whole)
    if trimmer and lines:
        _check_skipped(trimmer, lines, shape, heading, path, feed)
    return Source(
        path,
        str(path),
        readable,
        heading.names,
        cuts.slices(marked),
        digest.hexdigest(),
        stamp,
        is_parquet=False,
        delimiter=heading.delimiter,
        surplus=heading.surplus,
        skipped=trimmer.counts if trimmer else {},
        may_be_utf8=look is not None and look.is_utf8,
        breaks=shape.breaks,
    )


def _cuts(heading: Heading, *, is_quoted: bool) -> Cuts:
    """Return what cuts a text behind its header, in which cells such as `="00123"` may be quoted first."""
    line, delimiter = iter([heading.line]), heading.delimiter.encode()
    return Cuts(sum(map(len, quoted(line, delimiter) if is_quoted else line)))


def _interchange(
    path: Path,
    feed: Feed,
    spool_dir: Path,
    stamp: Stamp,
    chunks: Iterator[bytes],
    *,
    is_marked: bool,
) -> Source:
    """Read all bytes of an X12 interchange once, and decode it.

    Only a compressed one is copied, and not for long: it holds SSNs. The hash is not known before.
    """
    is_utf8 = is_marked or codecs.lookup(feed.encoding).name == "utf-8"
    encoding = "utf-8-sig" if is_utf8 else feed.encoding
    text, copy = path, spool_dir / "interchange.parquet"
    try:
        if path.suffix in PACKED:
            text, encoding = spool_dir / "interchange.txt", "utf-8"
            with text.open("wb") as spool:
                _drain(chunks, spool.write)
        _drain(chunks)
        found, identity = decode_interchange(path, text, encoding, copy)
    finally:
        (spool_dir / "interchange.txt").unlink(missing_ok=True)
    _check_columns(found.header, path.name, feed)
    return replace(copied(path, copy, found.header, found, stamp, ""), interchange=identity)


def _check_skipped(
    trimmer: Trimmer, lines: LineCount, shape: Shape, heading: Heading, path: Path, feed: Feed
) -> None:
    """Raise InputError if a row was left out: a line is missing in the count, or the footer looks like rows."""
    left_out = trimmer.skipped.total()
    if lines.count != shape.lines + left_out:
        raise InputError(
            f"{lines.count:,} lines were read, and {shape.lines:,} kept and {left_out:,} skipped",
            "nothing was sent. This is a fault of canvas-ingest: report it with this line",
            file=path.name,
        )
    columns = row_columns(feed)
    first_line = lines.count - len(trimmer.footer)
    for number, line in enumerate(trimmer.footer, 1):
        cells = columns_of(line.decode(errors="replace").rstrip("\r"), heading.delimiter) or []
        named = dict(zip(heading.names, cells, strict=False))
        if len(cells) >= len(heading.names) and may_be_row(named, columns):
            raise InputError(
                f"skip_footer = {feed.skip_footer} leaves out this line, which has a value for every required field",
                FOOTER_IS_ROW,
                file=path.name,
                row=shape.rows + number,
                line=first_line + number,
            )


def _drain(chunks: Iterator[bytes], *takers: Callable[[bytes], object]) -> None:
    for chunk in chunks:
        for take in takers:
            take(chunk)
