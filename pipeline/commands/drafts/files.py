"""Read the files that a draft is made from, and find out how they are written."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import polars as pl

from pipeline.commands.drafts import lines
from pipeline.commands.drafts.feed import FeedDraft, Found
from pipeline.errors import ConfigError, InputError
from pipeline.files import may_be_file
from pipeline.reading.headers import has_data
from pipeline.reading.inspect import inspect
from pipeline.reading.read import read
from pipeline.reading.source import Source
from pipeline.rows import synonyms
from pipeline.rows.feed import Feed, Kind

_SAMPLE_ROWS: Final = 10_000
_TITLES_MAX: Final = 5  # rows above the header of a workbook; each trial decodes it again
_KNOWN_MIN: Final = 2  # names that are known in a header below the first row
_ENCODINGS: Final = ("utf-8", "windows-1252")
_ENDINGS: Final[tuple[Literal["require", "any"], ...]] = ("require", "any")
# Texts that databases and spreadsheets leave for a blank cell, and that no id, name or code is.
_PLACEHOLDERS: Final = (
    "NULL", "Null", "null", "(null)", "<null>", "[NULL]", "\\N", "N/A", "n/a", "None", "NaN", "nan",
)  # fmt: skip


def find(path: Path, kind: str | None, scratch: Path) -> Found:
    """Read a file and a sample of its rows.

    Args:
        path: The file.
        kind: "eligibility" or "ledger"; None: the names of the columns decide.
        scratch: A folder for copies.

    Raises:
        InputError: The file is unfit.
        ConfigError: The kind cannot be known.
    """
    feed, source = _inspected(path, scratch)
    _refuse_data(source)
    if not source.rows:
        raise InputError(
            "the file holds no coverage, and a draft needs some rows",
            "draft from a file with members who have coverages (HD)",
            file=path.name,
        )
    found = Kind(kind) if kind else _kind_of(source)
    if source.interchange and found is not Kind.ELIGIBILITY:
        raise ConfigError(
            f"{path.name} is an X12 834: enrollments, and no payments", "leave --kind out"
        )
    if found is None:
        raise ConfigError(
            f"{path.name}: the names of its {len(source.header)} columns do not tell what it holds",
            "say so with --kind eligibility or --kind ledger",
        )
    return Found(path, feed, source, found, _sample(source))


def _kind_of(source: Source) -> Kind | None:
    return Kind.ELIGIBILITY if source.interchange else synonyms.kind_of(source.kept)


def _inspected(path: Path, scratch: Path) -> tuple[Feed, Source]:
    """Inspect the file as a run does, with each encoding and ending. Raises the first InputError."""
    if path.suffix.lower() == ".xlsx":
        return _workbook(path, scratch)
    first: InputError | None = None
    for encoding in _encodings(path):
        for ending in _ENDINGS:
            feed = replace(
                Feed("init", Kind.ELIGIBILITY, str(path), {}, encoding=encoding),
                final_newline=ending,
            )
            try:
                if may_be_file(path) and path.suffix != ".parquet":
                    feed = replace(feed, **lines.layout(path, encoding))
                return feed, inspect(path, feed, scratch)
            except InputError as error:
                first = first or error
    raise first or InputError("there is no such file", "check its path", file=path.name)


def _workbook(path: Path, scratch: Path) -> tuple[Feed, Source]:
    """Inspect a workbook as a run does: from the first row whose names are known, with blank rows if needed."""
    feed = Feed("init", Kind.ELIGIBILITY, str(path), {})
    for number in range(_TITLES_MAX + 1):
        for trial in (feed, replace(feed, blank_lines="skip")):
            shifted = replace(trial, skip_lines=number)
            with suppress(InputError):
                source = inspect(path, shifted, scratch)
                if synonyms.known(source.kept) >= _KNOWN_MIN:
                    return shifted, source
    return feed, inspect(path, feed, scratch)


def _encodings(path: Path) -> Sequence[str]:
    try:
        with path.open("rb") as file:
            is_utf_16 = file.read(2) in {b"\xff\xfe", b"\xfe\xff"}
    except OSError:
        return _ENCODINGS
    return ("utf-16",) if is_utf_16 else _ENCODINGS


def _refuse_data(source: Source) -> None:
    """Raise InputError if the file has no header: its first row would be taken for one, and go into the draft."""
    if has_data(source.header):
        raise InputError(
            "the first line holds numbers or dates, and seems to be a row",
            "have it written with a header that names the columns",
            file=source.name,
            row=0,
        )


def _sample(source: Source) -> pl.DataFrame:
    """Return the first rows, trimmed; null where blank."""
    parts: list[pl.DataFrame] = []
    for batch in read(source):
        parts.append(batch.frame)
        if sum(part.height for part in parts) >= _SAMPLE_ROWS:
            break
    frame = pl.concat(parts).head(_SAMPLE_ROWS).with_columns(pl.all().str.strip_chars())
    is_repeated = pl.all_horizontal(pl.col(name) == name.strip() for name in frame.columns)
    frame = frame.filter(~is_repeated.fill_null(value=False))  # the header, between the rows
    return frame.with_columns(pl.when(pl.all() != "").then(pl.all()))


def joined(found: Sequence[Found]) -> Found:
    """Return files of one feed as one: the first, with the rows of all."""
    sample = pl.concat([each.sample for each in found]).head(_SAMPLE_ROWS)
    return replace(found[0], sample=sample)


def without_placeholders(found: Found) -> tuple[Found, dict[str, int]]:
    """Return the file with null for placeholders such as NULL, and their numbers of cells."""
    cells = dict.fromkeys(_PLACEHOLDERS, 0)
    for name in found.header:
        counts = found.sample[name].value_counts(name="n").rows()
        for text, count in counts:
            if text in cells:
                cells[text] += count
    known = [text for text, count in cells.items() if count]
    if not known:
        return found, {}
    sample = found.sample.with_columns(pl.when(~pl.all().is_in(known)).then(pl.all()))
    return replace(found, sample=sample), {text: cells[text] for text in known}


def describe(found: Found) -> str:
    """Return a file and its shape in words."""
    source = found.source
    text = f"{found.path.name}: {source.rows:,} rows, {len(source.header)} columns"
    if source.is_parquet:
        return text
    spelt = {"\t": "\\t"}.get(source.delimiter, source.delimiter)
    return f'{text}, delimiter "{spelt}", {found.feed.encoding}'


def note_reading(draft: FeedDraft, placeholders: dict[str, int]) -> None:
    """Write how the file is read."""
    source, feed = draft.found.source, draft.found.feed
    if not source.is_parquet:
        draft.set("delimiter", source.delimiter)
    if feed.encoding != "utf-8":
        draft.set("encoding", feed.encoding)
        draft.note("encoding", f"{feed.encoding}, because the bytes are not UTF-8")
    if feed.skip_lines:
        draft.set("skip_lines", feed.skip_lines, f"the header is in line {feed.skip_lines + 1}")
        draft.note("skip_lines", f"the names of line {feed.skip_lines + 1} are known")
    if feed.skip_footer:
        what = "line is" if feed.skip_footer == 1 else f"{feed.skip_footer} lines are"
        draft.ask(
            "skip_footer",
            feed.skip_footer,
            f"the last {what} no row, by its form: is it a total in each file? If not, a row is left out",
            is_set=True,
        )
    if feed.blank_lines == "skip":
        draft.set("blank_lines", "skip", "there are blank lines: they are left out, and counted")
        draft.note("blank_lines", "there are blank lines")
    if feed.final_newline == "any" and not source.is_parquet:
        draft.ask(
            "final_newline",
            "any",
            "the last line does not end; was the file cut short?",
            is_set=True,
        )
    if placeholders:
        draft.set("null_values", list(placeholders), "these texts mean blank")
        draft.note("null_values", f"{sum(placeholders.values()):,} cells of the sample")
