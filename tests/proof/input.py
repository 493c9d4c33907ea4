"""Hostile input by seed: rows and files that are made up, and what must be true of each of them.

Of a row: it ends as a slow judge says who knows nothing of the readers, whichever way it takes (by
whole columns, or by the row model). Of a file: it is refused by an InputError that says where and what to do,
or its rows are those that python's csv reads, all of them. A fault names its class and seed:
`python -m tests.proof input --only CLASS --seed SEED -n 1` tries that one again.
"""

import gzip
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson
import polars as pl
import polars.selectors as cs
from backports import zstd
from polars.testing import assert_frame_equal

from pipeline.errors import InputError
from pipeline.fhir import codes
from pipeline.planning import parts
from pipeline.planning.parts import look_at
from pipeline.planning.writer import lines_of
from pipeline.reading.inspect import inspect
from pipeline.reading.read import read
from pipeline.reading.source import Batch, Source, Stamp
from pipeline.records import Disposition
from pipeline.rows import money
from pipeline.rows.columns import Reading
from pipeline.rows.crosswalk import Crosswalks
from pipeline.rows.feed import Feed, Kind
from pipeline.rows.map import Mapping as RowMapping
from pipeline.rows.map import map_row
from pipeline.rows.sql import compile_condition, compile_value
from pipeline.rows.tally import cents_read
from pipeline.rows.texts import texts_of, wanted
from pipeline.rows.validate import validate
from tests.proof import expressions as sentences
from tests.proof import slow
from tests.proof.cells import feed_of, row_of
from tests.proof.judge import Judged, cell_of, cents_of, judge

TODAY: Final = date(2026, 11, 21)
ROWS_A_CASE: Final = 400
_SHOWN_MAX: Final = 5  # violations of one case
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder for files, made anew for each run


@dataclass
class Tally:
    """The result of a class of cases."""

    cases: int = 0
    rows: int = 0
    refused: int = 0  # files, or rows
    violations: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Add the counts of another tally."""
        self.cases += other.cases
        self.rows += other.rows
        self.refused += other.refused
        self.violations += other.violations


Play = Callable[[Random, Path, Tally], None]


def play(name: str, seed: int, folder: Path, tally: Tally) -> None:
    """Play one case of a class. Any exception is a violation, with the seed that repeats it."""
    before = len(tally.violations)
    try:
        PLAYS[name](Random(f"{name} {seed}"), folder, tally)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic is no Exception
        tally.violations.append(f"{type(error).__name__} was raised")
    tally.cases += 1
    tally.violations[before:] = [
        f"{name}, seed {seed}: {each}" for each in tally.violations[before:][:_SHOWN_MAX]
    ]


def scratch() -> TemporaryDirectory[str]:
    """Return a folder for the files, in memory if possible."""
    return TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)


# Rows ---------------------------------------------------------------------------------------------


def rows(random: Random, _folder: Path, tally: Tally) -> None:
    """Judge rows both ways, and by the judge."""
    feed = feed_of(random, random.choice(list(Kind)))
    cells = [row_of(random, feed) for _ in range(ROWS_A_CASE)]
    columns = list(feed.columns.values())
    frame = pl.DataFrame(
        [list(row.values()) for row in cells],
        schema=dict.fromkeys(columns, pl.String),
        orient="row",
    )
    most = random.choice([None, 10_000])
    reading = Reading(
        feed.day_reader,
        Crosswalks(),
        feed.codes,
        feed.amount_sign,
        most,
        feed.required,
        amount_style=feed.amount_style,
    )
    mapping = RowMapping(random.choice(list(codes.Contract)), "payer_id", TODAY)
    texts = texts_of(frame, feed)
    keep = wanted(texts, feed)
    numbers = pl.int_range(1, frame.height + 1, dtype=pl.UInt32, eager=True)
    by_columns = look_at(texts, keep, numbers, feed, reading, mapping).sort("row")
    by_rows = lines_of(
        [
            (row, map_row(row.content, mapping) if row.content else None)
            for row in validate(texts, keep, numbers, feed, reading)
        ]
    )
    tally.rows += frame.height
    try:
        assert_frame_equal(by_columns, by_rows)
    except AssertionError:
        tally.violations.append("the column-wise and the row-wise path end otherwise")
    judged = [judge(row, feed, most, TODAY) for row in cells]
    lines = list(by_columns.iter_rows(named=True))
    for number, (meant, line) in enumerate(zip(judged, lines, strict=True), 1):
        tally.refused += line["disposition"] == Disposition.REJECTED.value
        for fault in _compared(meant, line, feed.kind):
            tally.violations.append(f"row {number} of {feed.kind}: {fault}")
    tally.violations += _totals(judged, lines, feed, frame, texts.filter(keep))
    tally.violations += _keys(judged, lines, feed)


def _totals(
    judged: Sequence[Judged],
    lines: Sequence[Mapping[str, Any]],
    feed: Feed,
    frame: pl.DataFrame,
    kept: pl.DataFrame,
) -> Iterator[str]:
    """Yield what is wrong about the control total, on either side, and the number of open dates."""
    meant = sum(each.cents for each in judged)
    if feed.traits.has_money and meant != parts.cents_of(_batch_of(frame), feed):
        yield "the control total of the reader is another one"
    if meant != sum(line["amount_cents"] or 0 for line in lines):
        yield "the control total of the rows is another one"
    days = sum(each.open_dates for each in judged if not each.is_filtered)
    if days != parts._open_dates(kept, feed.day_reader):
        yield "other open dates are counted"


def _batch_of(frame: pl.DataFrame) -> Batch:
    """Return rows as a batch of a file that is not there."""
    stamp = Stamp(0, 0, 0)
    source = Source(Path(), "", Path(), tuple(frame.columns), (), "", stamp, False, ",")
    return Batch(source, 1, frame)


def _keys(
    judged: Sequence[Judged], lines: Sequence[Mapping[str, Any]], feed: Feed
) -> Iterator[str]:
    """Yield whether rows that mean the same have another key, or rows with one key mean something else."""
    keys: dict[tuple[Any, ...], str] = {}
    for meant, line in zip(judged, lines, strict=True):
        if line["disposition"] != Disposition.PENDING.value:
            continue
        values = tuple(meant.meant[name] for name in feed.key)
        if keys.setdefault(values, line["key"]) != line["key"]:
            yield "rows that mean the same have two keys"
    if len(set(keys.values())) != len(keys):
        yield "rows with one key mean something else"


def _compared(judged: Judged, line: Mapping[str, Any], kind: Kind) -> Iterator[str]:
    """Yield what is wrong about a row's end, given the judge's view of its cells."""
    is_filtered = line["disposition"] == Disposition.FILTERED.value
    if is_filtered or judged.is_filtered:
        if is_filtered != judged.is_filtered:
            yield f"filtered, or not: {line['disposition']}"
        return
    if line["disposition"] == Disposition.REJECTED.value:
        named = line["rule"].split("; ")
        if not judged.rules:
            yield f"refused, and right: {line['rule']}"
        elif len(named) != len(judged.rules) or any(
            rules.isdisjoint(named) for rules in judged.rules
        ):
            yield f"names {sorted(named)} and not {[sorted(rules) for rules in judged.rules]}"
        return
    if judged.rules:
        yield f"taken, and wrong: {[sorted(rules) for rules in judged.rules]}"
        return
    resource = orjson.loads(line["body"])
    said = _said_of_payment(resource) if kind is Kind.LEDGER else _said_of_coverage(resource)
    for name, value in said.items():
        if value != judged.meant[name]:
            yield f"{name} is sent as something else"
    if line["time_us"] != judged.time_us:
        yield "another time of day is kept"


def _said_of_payment(resource: Mapping[str, Any]) -> dict[str, Any]:
    targets = resource.get("extension", [{"extension": [None]}])[0]["extension"]
    return {
        "patient": resource["request"]["reference"].removeprefix("Patient/"),
        "amount": round(resource["amount"]["value"] * 100),
        "claim": targets[0] and targets[0]["valueReference"]["reference"].removeprefix("Claim/"),
        "posted_on": None
        if resource["created"] == TODAY.isoformat()
        else date.fromisoformat(resource["created"]),
    }


def _said_of_coverage(resource: Mapping[str, Any]) -> dict[str, Any]:
    days = {side: date.fromisoformat(day) for side, day in resource.get("period", {}).items()}
    classes = {
        each["type"]["coding"][0]["code"]: each["value"] for each in resource.get("class", [])
    }
    identifiers = resource.get("identifier") or [{"value": resource.get("subscriberId")}]
    return {
        "patient": resource["beneficiary"]["reference"].removeprefix("Patient/"),
        "subscriber": resource["subscriber"]["reference"].removeprefix("Patient/"),
        "relationship": resource["relationship"]["coding"][0]["code"],
        "member_id": identifiers[0]["value"],
        "payer": resource["payor"][0]["identifier"]["value"],
        "payer_name": resource["payor"][0].get("display"),
        "type": resource["type"]["coding"][0]["code"] if "type" in resource else None,
        **{name: classes.get(name) for name in codes.CLASSES},
        "order": resource["order"],
        "start_on": days.get("start"),
        "end_on": days.get("end"),
        "status": resource["status"],
    }


def sql(random: Random, _folder: Path, tally: Tally) -> None:
    """Compare SQL over rows with its value in plain Python."""
    amount, word, where = (
        make(random, random.choice([1, 2, 3])) for make in (sentences.number, sentences.text, sentences.condition)
    )  # fmt: skip
    feed = Feed(
        "feed",
        Kind.LEDGER,
        "",
        {"patient": "MRN"},
        sql={"amount": amount.sql, "transaction_id": word.sql},
        where=where.sql,
        null_values=random.choice([(), (), ("NULL", "12.50")]),
        amount_unit=random.choice(["dollars", "dollars", "cents"]),
    )
    try:
        for expression in feed.sql.values():
            compile_value(expression)
        compile_condition(feed.where)
    except ValueError as error:
        tally.refused += 1
        if not any(known in str(error) for known in _SAID_OF_SQL):
            tally.violations.append(f"{error}: {feed.sql}, where {feed.where}")
        return
    cells = [{name: sentences.cell(random) for name in sentences.COLUMNS} for _ in range(ROWS_OF_SQL)]  # fmt: skip
    frame = pl.DataFrame(cells, schema=dict.fromkeys(sentences.COLUMNS, pl.String)).with_columns(
        MRN=pl.lit("p1")
    )
    texts = texts_of(frame, feed)
    kept = wanted(texts, feed)
    tally.rows += frame.height
    for row, found, is_kept in zip(cells, texts.iter_rows(named=True), kept, strict=True):
        meant = {name: cell_of(text, feed.null_values) for name, text in row.items()}
        for field_name, part in (("amount", amount), ("transaction_id", word)):
            fault = _sql_fault(part, meant, found[field_name], found[f"{field_name}|sql"], feed)
            if fault:
                tally.violations.append(f"{fault}: {part.sql} of {meant}")
        try:
            is_met = where.value(meant) is True
            fault = "" if found["row|where"] in {None, ""} else "the condition has a fault"
        except sentences.NoValue:
            is_met = True
            fault = "" if found["row|where"] else "the condition has no fault"
        if fault or is_met != is_kept:
            tally.violations.append(f"{fault or 'kept, or not'}: {where.sql} of {meant}")
    total = sum(cents_of(text, feed)[0] or 0 for text in texts["amount"])
    if total != parts.cents_of(_batch_of(frame), feed):
        tally.violations.append(f"the control total of the reader is another one: {feed.sql}")


ROWS_OF_SQL: Final = 60
_SAID_OF_SQL: Final = ("it uses no column",)


def _sql_fault(
    part: sentences.Part,
    row: Mapping[str, str | None],
    found: str | None,
    reason: str | None,
    feed: Feed,
) -> str:
    """Return what is wrong about the value of an expression."""
    try:
        meant = part.value(row)
    except sentences.NoValue:
        return "" if reason and found is None else "a row without a value has one"
    if reason:
        return f"a row with a value has none ({reason})"
    if isinstance(meant, Decimal):
        if found is not None and Decimal(found) == meant:
            return ""
        return "" if found is None and _is_null(meant, feed) else f"{found} and not {meant}"
    meant = cell_of(meant, feed.null_values)
    return "" if found == meant else f"{found!r} and not {meant!r}"


def _is_null(value: Decimal, feed: Feed) -> bool:
    return any(text[:1].isdigit() and Decimal(text) == value for text in feed.null_values)


def amount_faults(
    text: str, sign: str, *, decimal_comma: bool = False, unit: str = "dollars"
) -> list[str]:
    """Return what is wrong about how an amount is read, alone, in a column, and for the control total."""
    options: Any = {"amount_sign": sign, "decimal_comma": decimal_comma, "amount_unit": unit}
    feed = Feed("feed", Kind.LEDGER, "", {"amount": "Amount"}, **options)
    cell = cell_of(text, ())
    meant = None if cell is None else cents_of(cell, feed)[0]
    alone = money.cents_of(cell, feed.amount_sign, feed.amount_style)
    column = pl.Series([cell], dtype=pl.String)
    in_column = money.cents_in(column, feed.amount_sign, feed.amount_style)[0]
    read = cents_read(
        column, feed.amount_sign, decimal_comma=decimal_comma, unit=options["amount_unit"]
    )
    faults = [] if alone == meant else ["alone it is something else"]
    faults += [] if alone == in_column else ["in a column it is something else"]
    return faults + ([] if read == (meant or 0) else ["in the control total it is something else"])


# Text files ---------------------------------------------------------------------------------------

_HEADER: Final = ("MRN", "Amount", "TXN")
_MAPPED: Final = {"patient": "MRN", "amount": "Amount", "transaction_id": "TXN"}
_ENCODINGS: Final = (
    "utf-8",
    "utf-8",
    "utf-8",
    "windows-1252",
    "utf-16",
    "utf-16-le",
    "latin-1",
    "utf-32",
    "cp437",
    "shift_jis",
)


@dataclass
class Written:
    """A text file as it was made: its name, its bytes, the feed that reads it, and what it holds."""

    name: str
    data: bytes
    feed: Feed
    table: slow.Table


def written(random: Random) -> Written:
    """Return a good file in any dialect that is read."""
    encoding = random.choice(_ENCODINGS)
    delimiter = random.choice([",", ",", "\t", "|", ";", "^", "~", " "])
    others = random.choice(
        [[], [], ["c0"], ["c0", "", "c0", "c0 (2)", ""], ["c1", "column 2", " ", '="x"']]
    )
    header = [*_HEADER, *others]
    random.shuffle(header)
    torn = random.choice([True, False, False])
    feed = Feed(
        "ledger",
        Kind.LEDGER,
        "",
        _MAPPED,
        delimiter=delimiter if delimiter in "^~ " else random.choice([delimiter, None]),
        encoding=encoding,
        final_newline="any" if torn else random.choice(["require", "any"]),
        **_left_out(random),
    )
    alphabet = _alphabet(encoding)
    surplus = random.choice([0, 0, 0, 1, 3])
    cells = [
        [*(_cell(random, alphabet) for _ in header), *[""] * surplus]
        for _ in range(random.choice([1, 2, 5, 20, 60]))
    ]
    end = random.choice(["\n", "\r\n"])
    table = slow.Table(header)
    lines = [
        *[_title(random, delimiter) for _ in range(feed.skip_lines)],
        *_between(random, delimiter, feed, table),
        _line(random, header, delimiter, feed),
    ]
    table.skipped["above"] += feed.skip_lines
    for row in cells:
        lines += _between(random, delimiter, feed, table)
        lines.append(_line(random, row, delimiter, feed))
        if feed.blank_lines == "skip" and slow.is_blank(lines[-1].split("\n")[0], delimiter):
            table.skipped["blank"] += 1
        else:
            table.rows.append(row)
    if not table.rows:
        lines.append(delimiter.join(["x"] * len(header) + [""] * surplus))
        table.rows.append(["x"] * len(header) + [""] * surplus)
    lines += _between(random, delimiter, feed, table)
    footers = [_title(random, delimiter) for _ in range(feed.skip_footer)]
    if delimiter == " ":
        footers = ["Total"] * feed.skip_footer  # a line of three words would be a row
    lines += footers
    table.skipped["below"] += feed.skip_footer
    if torn and not lines[-1]:
        lines[-1] = "x" if footers else delimiter
    text = end.join(lines) + ("" if torn else end)
    mark = "\ufeff" if encoding == "utf-8" and random.random() < 0.2 else ""
    name, data = _packed(random, (mark + text).encode(encoding))
    table.skipped = +table.skipped
    return Written(name, data, feed, table)


def _left_out(random: Random) -> dict[str, Any]:
    """Return options that leave lines out, in half of the files none."""
    if random.random() < 0.5:
        return {}
    return {
        "skip_lines": random.choice([0, 0, 1, 4]),
        "skip_footer": random.choice([0, 0, 1, 3]),
        "comment_prefix": random.choice(["", "", "#", "//", "sep=", "# ", ","]),
        "blank_lines": random.choice(["reject", "skip"]),
    }


def _title(random: Random, delimiter: str) -> str:
    """Return a line above or below a table."""
    return random.choice(
        [
            "Total", 'a 5" pipe', '"', '""', "", " ", "#", f"Total{delimiter}12.50", f'"Total"{delimiter}', delimiter * 2, '="x"',
            f'{delimiter}"{delimiter}', "MRN", "sep=,", "3 rows", '"""', "x" * 300,
        ]
    )  # fmt: skip


def _between(random: Random, delimiter: str, feed: Feed, table: slow.Table) -> list[str]:
    """Return lines that are left out between the rows, and count them."""
    lines = []
    prefix = feed.comment_prefix
    if prefix and random.random() < 0.2:
        rest = random.choice(["", " a note", '"', '""', f'x"{delimiter}"', delimiter * 3, prefix])
        lines.append(prefix + rest)
        table.skipped["comments"] += 1
    if feed.blank_lines == "skip" and random.random() < 0.2:
        line = random.choice(["", " ", "\t", '""', delimiter, delimiter * 4, f'" "{delimiter}""', '" "" "'])  # fmt: skip
        is_comment = bool(prefix) and line.startswith(prefix)
        table.skipped["comments" if is_comment else "blank"] += 1
        lines.append(line)
    return lines


def _line(random: Random, cells: Sequence[str], delimiter: str, feed: Feed) -> str:
    """Return a row as it is written: it must not look like a comment."""
    how = random.choice(["needed", "all", "some"])
    prefix = feed.comment_prefix
    first = _quoted(random, cells[0], delimiter, how)
    rest = [_quoted(random, cell, delimiter, how) for cell in cells[1:]]
    line = delimiter.join([first, *rest])
    if prefix and line.startswith(prefix):
        line = delimiter.join([_quoted(random, cells[0], delimiter, "all"), *rest])
    return line


def _alphabet(encoding: str) -> list[str]:
    letters = [
        *"ab09 .-'",
        '"',
        ",",
        "\t",
        "|",
        ";",
        "^",
        "~",
        "\n",
        "\r\n",
        "\\",
        "#",
        "=",
        "\u00e9",
        "\u65e5",
        "\U0001f600",
        "\u200b",
        "\u2028",
        "\x85",
        "\x0b",
        "\x1c",
        "\x01",
    ]
    return [letter for letter in letters if _can_hold(letter, encoding)]


def _can_hold(letter: str, encoding: str) -> bool:
    try:
        return letter.encode(encoding).decode(encoding) == letter
    except UnicodeError:
        return False


def _cell(random: Random, alphabet: Sequence[str]) -> str:
    length = random.choice([0, 1, 2, 3, 8, 8, 30, 300])
    if random.random() < 0.1:
        inner = "".join(random.choices(alphabet, k=random.choice([0, 1, 2, 5])))
        return random.choice(
            [f'="{inner}"', '="00123"', '=""', f'="{inner}', "\n#x", "\n\n", "#", "//"]
        )
    return "".join(random.choices(alphabet, k=length))


def _quoted(random: Random, cell: str, delimiter: str, how: str) -> str:
    is_plain = slow.is_protected(cell) and not any(each in cell for each in (delimiter, "\n", "\r"))
    if is_plain and how != "all" and random.random() < 0.7:
        return cell
    must = any(each in cell for each in (delimiter, '"', "\n", "\r")) or not cell
    if must or how == "all" or (how == "some" and random.random() < 0.5):
        doubled = cell.replace('"', '""')
        return f'"{doubled}"'
    return cell


def _packed(random: Random, data: bytes) -> tuple[str, bytes]:
    kind = random.choice(["", "", "", ".gz", ".zst"])
    cut = random.randrange(len(data) + 1)
    pieces = random.choice([[data], [data[:cut], data[cut:]]])
    if kind == ".gz":
        return "a.csv.gz", b"".join(gzip.compress(each, mtime=0) for each in pieces)
    if kind == ".zst":
        return "a.csv.zst", b"".join(zstd.compress(each) for each in pieces)
    return random.choice(["a.csv", "a.txt", "a.tsv"]), data


def texts(random: Random, folder: Path, tally: Tally) -> None:
    """Check a good file, in any dialect: all of its cells are read."""
    made = written(random)
    try:
        found = _read(made.name, made.data, made.feed, folder)
    except InputError as error:
        tally.refused += 1
        tally.violations.append(f"refused, and right: {_said(error)}")
        return
    tally.rows += len(found.rows)
    tally.violations += _differences(found, made.table, made.feed)


def torn(random: Random, folder: Path, tally: Tally) -> None:
    """Check a good file with damaged bytes: it is refused, or read as the slow reader reads it."""
    made = written(random)
    data = _damaged(random, made.data, BYTES)
    judge_file(made.name, data, made.feed, folder, tally)


def strange(random: Random, folder: Path, tally: Tally) -> None:
    """Check lines of about three cells that are hostile to a reader of text."""
    delimiter = random.choice([b",", b",", b"\t", b";"])
    end = random.choice([b"\n", b"\r\n"])
    lines = [delimiter.join(_STRANGE_HEADERS[random.randrange(20) == 0])]
    for _ in range(random.choice([1, 1, 3, 10])):
        cells = [_strange_cell(random) for _ in range(random.choices([3, 2, 4], [40, 1, 1])[0])]
        lines.append(delimiter.join(cells))
    data = (
        random.choice([b"", b"", b"\xef\xbb\xbf"])
        + end.join(lines)
        + random.choice([end, end, b"", end * 2])
    )
    encoding = random.choice(["utf-8", "utf-8", "windows-1252", "latin-1", "shift_jis"])
    feed = Feed(
        "ledger",
        Kind.LEDGER,
        "",
        _MAPPED,
        encoding=encoding,
        final_newline=random.choice(["any", "require"]),
        **_left_out(random),
    )
    judge_file(random.choice(["a.csv", "a.tsv"]), data, feed, folder, tally)  # fmt: skip


_STRANGE_HEADERS: Final = ((b"MRN", b'"Amount"', b"TXN"), (b"MRN", b"Amount", b"Amount"))


def _strange_cell(random: Random) -> bytes:
    cell = b"".join(random.choices([*BYTES, b"1", b"ab"], k=random.choice([0, 0, 1, 1, 1, 2])))
    if random.random() < 0.5:
        return b'"' + cell.replace(b'"', b'""') + b'"'
    return cell


BYTES: Final = (
    b'"', b'""', b'","', b'"\n', b'\n"', b"\n", b"\r", b"\r\n", b"\n\n", b"\0", b",", b",,", b"\t", b";", b"|", b"\xef\xbb\xbf", b"\xff\xfe",
    b"#", b"\n#", b'="', b'="x"', b"\n,,\n", b"\xc3", b"\xa9", b"\xe2\x80\xae", b"\xe2\x80\x8b", b"\xed\xa0\x80", b"\xc0\xaf", b"\x1a", b"\x1e", b"\x1f\x8b", b"PAR1", b"\\", b"'", b" ", b"x",
)  # fmt: skip


def _damaged(random: Random, data: bytes, pieces: Sequence[bytes]) -> bytes:
    """Return a file with damage: flipped, torn off, spliced, or with pieces put in, once or a few times."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 1, 2, 5])):
        at = random.randrange(len(changed) + 1)
        match random.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << random.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                del changed[at : at + random.choice([1, 2, 30])]
            case 3:
                other = random.randrange(len(data) + 1)
                changed[at:at] = data[other : other + random.choice([1, 10, 100])]
            case 4 if at < len(changed):
                changed[at] = random.randrange(256)
            case _:
                changed[at:at] = random.choice(pieces)
    return bytes(changed)


def judge_file(name: str, data: bytes, feed: Feed, folder: Path, tally: Tally) -> None:
    try:
        found = _read(name, data, feed, folder)
    except InputError as error:
        tally.refused += 1
        tally.violations += _ill_said(error, name)
        return
    tally.rows += len(found.rows)
    try:
        meant = slow.table_of(name, data, feed)
    except slow.UNREADABLE as error:
        tally.violations.append(f"taken, and {type(error).__name__} for a slow reader: {error}")
        return
    tally.violations += _differences(found, meant, feed)


def _read(name: str, data: bytes, feed: Feed, folder: Path) -> slow.Table:
    path = folder / name
    path.write_bytes(data)
    source = inspect(path, feed, folder)
    kept = list(source.header)
    found = [
        ["" if cell is None else cell for cell in row]
        for batch in read(source)
        for row in batch.frame.select(cs.by_name(*kept)).iter_rows()
    ]
    assert len(found) == source.rows
    assert len(set(kept)) == len(kept)
    return slow.Table(kept, found, Counter(source.skipped))


def _differences(found: slow.Table, meant: slow.Table, feed: Feed) -> Iterator[str]:
    """Yield what differs. Columns that are not mapped may have any names."""
    if found.rows != meant.rows:
        yield "other cells than a slow reader finds"
    if any(found.header.index(name) != meant.header.index(name) for name in feed.columns.values()):
        yield "a column in another place"
    if found.skipped != meant.skipped:
        yield f"other lines are counted: {dict(found.skipped)} and not {dict(meant.skipped)}"


def _ill_said(error: InputError, name: str) -> Iterator[str]:
    """Yield what a refusal lacks: the file, the rule, or what to do."""
    if not error.message.startswith(name) or len(error.message) < len(name) + 10:
        yield f"a refusal that does not say where: {_said(error)}"
    if not error.fix:
        yield f"a refusal that does not say what to do: {_said(error)}"


def _said(error: InputError) -> str:
    return error.message.replace("\n", " ")


PLAYS: Final[dict[str, Play]] = {
    "rows": rows,
    "sql": sql,
    "texts": texts,
    "torn": torn,
    "strange": strange,
}
# The number of files of each class for a thousand rows.
_FILES_A_THOUSAND_ROWS: Final = {"sql": 5, "texts": 10, "torn": 30, "strange": 20}
_CASES_A_TASK: Final = 50


def cases_of(count: int) -> dict[str, int]:
    """Return the number of cases of each class with which `count` rows are judged one by one."""
    files = {name: -(-count * each // 1_000) for name, each in _FILES_A_THOUSAND_ROWS.items()}
    return {"rows": -(-count // ROWS_A_CASE), **files}


def play_all(cases: Mapping[str, int], seed: int, workers: int = 0) -> dict[str, Tally]:
    """Play cases of each class, from a seed on, in this many processes (0: one per processor)."""
    tasks = [
        (name, begin, min(begin + _CASES_A_TASK, seed + count))
        for name, count in cases.items()
        for begin in range(seed, seed + count, _CASES_A_TASK)
    ]
    tallies = {name: Tally() for name in cases}
    context = multiprocessing.get_context("spawn")  # polars does not survive a fork
    with ProcessPoolExecutor(workers or None, context, begin) as pool:
        for (name, *_), tally in zip(tasks, pool.map(played, tasks), strict=True):
            tallies[name].add(tally)
    return tallies


def begin() -> None:
    """Make polars read text in small pieces, so that each file has many of their boundaries."""
    os.environ["POLARS_CSV_CHUNK_SIZE"] = "64"


def played(task: tuple[str, int, int]) -> Tally:
    name, begin, end = task
    tally = Tally()
    with scratch() as folder:
        for seed in range(begin, end):
            play(name, seed, Path(folder), tally)
    return tally
