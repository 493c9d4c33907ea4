"""Hostile input by seed: rows and files that are made up, and what must be true of each of them.

Of a row: it ends as a slow judge says who knows nothing of the readers, whichever way it takes (by
whole columns, or by the row model). Of a file: it is refused by an InputError that says where and what to do,
or its rows are those that python's csv reads, all of them. A fault names its class and seed:
`python -m tests.proof input --only CLASS --seed SEED -n 1` tries that one again.
"""

import codecs
import csv
import gzip
import io
import multiprocessing
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

import orjson
import polars as pl
from backports import zstd
from polars.testing import assert_frame_equal

from pipeline.errors import InputError
from pipeline.fhir import codes
from pipeline.planning.parts import look_at
from pipeline.planning.writer import lines_of
from pipeline.reading.inspect import inspect
from pipeline.reading.read import read
from pipeline.records import Disposition
from pipeline.rows.columns import Reading
from pipeline.rows.crosswalk import Crosswalks
from pipeline.rows.dates import FORMATS, Dates
from pipeline.rows.feed import TRAITS, Feed, Kind
from pipeline.rows.map import Mapping as RowMapping
from pipeline.rows.map import map_row
from pipeline.rows.money import cents_in, cents_of
from pipeline.rows.texts import texts_of, wanted
from pipeline.rows.validate import validate

TODAY: Final = date(2026, 11, 21)
ROWS_A_CASE: Final = 400
_SHOWN_MAX: Final = 5  # violations of one case
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - a folder for files, made anew for each run
csv.field_size_limit(1 << 24)


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

# What is trimmed: Unicode's White_Space.
_BLANKS: Final = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_JOINERS: Final = "\u200c\u200d"
_UNSEEN: Final = ("Cc", "Cf", "Zl", "Zp")
_LEFT_BEHIND: Final = "\ufffc\ufffd\ufffe\uffff"
# Letters of some scripts and of musical notes, which Unicode counts among the unseen.
_SEEN: Final = {
    *map(chr, range(0x600, 0x606)), *map(chr, range(0x13430, 0x13460)), *map(chr, range(0x1BCA0, 0x1BCA4)),
    *map(chr, range(0x1D173, 0x1D17B)), *"\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd",
}  # fmt: skip
# fmt: off
_SCATTERED: Final = [  # what ends up in cells
    "\u200b", "\u200d", "\ufeff", "\u202e", "\u2066", "\u200f", "\xa0", "\xad", "\x00", "\x1f", "\x85", "\u2028", "\ufffd",
    "\t", "\n", "\r", '"', "\\", "'", ",", ";", "=", "+", "-", "@", "/", "..", "%", "{", "}", "<", "&", "\u0430", "\u0131",
    "\uff11", "\u0661", "e\u0301", "\U0001f600", "\U000e0041", "\u0000", "  ",
]
# fmt: on
_DIGITS: Final = "0123456789"
_OTHER_DIGITS: Final = ("\uff10", "\u0660", "\u06f0", "\u0966")  # the noughts of other scripts
_FORMATS: Final = (
    ("%Y-%m-%d",), ("%m/%d/%Y",), ("%Y-%m-%d", "%m/%d/%Y"), ("%m/%d/%Y", "%d/%m/%Y"), ("%Y%m%d",), ("%d.%m.%Y", "%m%d%Y"),
)  # fmt: skip
_DAYS: Final = ("posted_on", "start_on", "end_on")
WRONG: Final = object()


def rows(random: Random, _folder: Path, tally: Tally) -> None:
    """Judge rows both ways, and by the judge."""
    kind = random.choice(list(Kind))
    sign: Any = random.choice(["positive", "positive", "negative"])
    fields = TRAITS[kind].fields
    feed = Feed(
        "feed",
        kind,
        "",
        {name: name for name in fields},
        key=TRAITS[kind].key,
        dates=random.choice(_FORMATS),
        amount_sign=sign,
    )
    cells = [_row(random, feed) for _ in range(ROWS_A_CASE)]
    frame = pl.DataFrame(cells, schema=dict.fromkeys(fields, pl.String), orient="row")
    most = random.choice([None, 10_000])
    reading = Reading(Dates(feed.dates), Crosswalks(), {}, feed.amount_sign, most, feed.required)
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
    judge = _judge_ledger if kind is Kind.LEDGER else _judge_eligibility
    for number, (row, line) in enumerate(
        zip(cells, by_columns.iter_rows(named=True), strict=True), 1
    ):
        meant = judge({name: _trimmed(text) for name, text in row.items()}, feed, most)
        tally.refused += line["disposition"] == Disposition.REJECTED.value
        for fault in _compared(meant, line, kind):
            tally.violations.append(f"row {number} of {kind}: {fault}")


def _compared(meant: Mapping[str, Any], line: Mapping[str, Any], kind: Kind) -> Iterator[str]:
    """Yield what is wrong about a row's end, given the judge's view of its cells."""
    wrong = {name for name, value in meant.items() if value is WRONG}
    named = set(line["field"].split("; ")) if line["field"] else set()
    if line["disposition"] == Disposition.REJECTED.value:
        if not wrong:
            yield f"refused, and right: {line['rule']}"
        elif named != wrong:
            yield f"names {sorted(named)} and not {sorted(wrong)}"
        return
    if wrong:
        yield f"taken, and wrong in {sorted(wrong)}"
        return
    resource = orjson.loads(line["body"])
    said = _said_of_payment(resource) if kind is Kind.LEDGER else _said_of_coverage(resource)
    for name, value in said.items():
        if value != meant[name]:
            yield f"{name} is sent as something else"


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


# The judge: by hand, letter by letter, and none of it from the readers.


def _trimmed(text: str | None) -> str | None:
    return (text or "").strip(_BLANKS) or None


def _judge_ledger(row: Mapping[str, str | None], feed: Feed, most: int | None) -> dict[str, Any]:
    posted_on = _day(row["posted_on"], feed.dates)
    return {
        "transaction_id": _words(row["transaction_id"], 255, required=True),
        "patient": _identifier(row["patient"], required=True),
        "amount": _cents(row["amount"], feed.amount_sign, most),
        "posted_on": None if posted_on == TODAY else posted_on,  # the same in the resource
        "claim": _identifier(row["claim"]),
        "entry_type": _words(row["entry_type"], 255),
        "currency": "USD" if row["currency"] in {None, "USD"} else WRONG,
    }


def _judge_eligibility(
    row: Mapping[str, str | None], feed: Feed, _most: int | None
) -> dict[str, Any]:
    patient = _identifier(row["patient"], required=True)
    relationship = _among(row["relationship"], codes.RELATIONSHIPS, default=WRONG)
    if row["subscriber"] is None:
        subscriber = patient if relationship in {"self", WRONG} else WRONG
        subscriber = None if subscriber is WRONG and relationship in {"self", WRONG} else subscriber
    else:
        subscriber = _identifier(row["subscriber"])
        is_known = WRONG not in {patient, subscriber, relationship}
        if is_known and (relationship == "self") != (subscriber == patient):
            subscriber = WRONG
    start_on, end_on = _day(row["start_on"], feed.dates), _day(row["end_on"], feed.dates)
    if isinstance(start_on, date) and isinstance(end_on, date) and end_on < start_on:
        end_on = WRONG
    order = codes.ORDERS.get((row["order"] or "").casefold(), WRONG)
    return {
        "patient": patient,
        "relationship": relationship,
        "subscriber": subscriber,
        "member_id": _words(row["member_id"], 100, required=True),
        "subscriber_id": _words(row["subscriber_id"], 100),
        "payer": _words(row["payer"], 100, required=True),
        **{name: _words(row[name], 255) for name in ("payer_name", *codes.CLASSES)},
        "type": _among(row["type"], codes.TYPES),
        "order": order,
        "start_on": start_on,
        "end_on": end_on,
        "status": _among(row["status"], codes.STATUSES, default="active"),
    }


def _words(text: str | None, most: int, *, required: bool = False) -> Any:
    if text is None:
        return WRONG if required else None
    unseen = any(
        letter in _LEFT_BEHIND
        or (
            unicodedata.category(letter) in _UNSEEN
            and letter not in _JOINERS
            and letter not in _SEEN
        )
        for letter in text
    )
    return WRONG if unseen or len(text) > most else text


def _identifier(text: str | None, *, required: bool = False) -> Any:
    if text is None:
        return WRONG if required else None
    allowed = all(
        letter in _DIGITS or "a" <= letter <= "z" or "A" <= letter <= "Z" or letter in ".-"
        for letter in text
    )
    return text if allowed and len(text) <= 64 and text.strip(".") else WRONG


def _among(text: str | None, allowed: Sequence[str], default: Any = None) -> Any:
    if text is None:
        return default
    return next((code for code in allowed if code.casefold() == text.casefold()), WRONG)


def _cents(text: str | None, sign: str, most: int | None) -> Any:
    unsigned = (text or "").removeprefix("-")
    whole, dot, part = unsigned.partition(".")
    if not whole or any(letter not in _DIGITS for letter in whole + part):
        return WRONG
    if (dot and not part) or len(part) > 2 or len(whole) > 12:
        return WRONG
    cents = int(whole) * 100 + int((part + "00")[:2])
    if ((text or "")[0] == "-") != (sign == "negative"):
        return WRONG
    return cents if 1 <= cents <= min(99_999_999, most or 99_999_999) else WRONG


def amount_faults(text: str, sign: str) -> list[str]:
    """Return what is wrong about how an amount is read, alone and in a column."""
    trimmed = _trimmed(text)
    meant = WRONG if trimmed is None else _cents(trimmed, sign, None)
    amount_sign: Any = sign
    alone = cents_of(trimmed, amount_sign)
    in_column = cents_in(pl.Series([trimmed], dtype=pl.String), amount_sign)[0]
    taken = WRONG if alone is None or not 1 <= alone <= 99_999_999 else alone
    faults = [] if taken == meant else ["alone it is something else"]
    return faults + ([] if alone == in_column else ["in a column it is something else"])


def _day(text: str | None, forms: Sequence[str]) -> Any:
    if text is None:
        return None
    days = {day for form in forms if (day := _day_of(text, form)) is not None}
    return days.pop() if len(days) == 1 else WRONG


def _day_of(text: str, form: str) -> date | None:
    """Return the day of a text in the formats that are used here: three numbers, apart or adjoining."""
    letters = [form[at + 1] for at in range(len(form)) if form[at] == "%"]
    between = form[2]
    if between == "%":
        widths = [4 if letter == "Y" else 2 for letter in letters]
        if len(text) != 8:
            return None
        parts = [text[sum(widths[:at]) : sum(widths[: at + 1])] for at in range(3)]
    else:
        parts = text.split(between)
    if len(parts) != 3:
        return None
    numbers = {}
    for letter, part in zip(letters, parts, strict=True):
        digits = part.removeprefix(" ") if letter == "d" and len(part) == 2 else part
        if not digits or any(each not in _DIGITS for each in digits):
            return None
        if len(digits) > 2 if letter != "Y" else len(digits) != 4:
            return None
        numbers[letter] = int(digits)
    try:
        day = date(numbers["Y"], numbers["m"], numbers["d"])
    except ValueError:
        return None
    return day if 1880 <= day.year < 2200 else None


# What the cells are made of.


def _row(random: Random, feed: Feed) -> dict[str, str | None]:
    """Return a good row, with a few odd cells most of the time."""
    make = _ledger_row if feed.kind is Kind.LEDGER else _eligibility_row
    row = make(random, feed)
    for _ in range(random.choice([0, 0, 1, 1, 1, 2, 3])):
        name = random.choice(list(row))
        row[name] = _odd(random, name, row[name], feed)
    return row


def _ledger_row(random: Random, feed: Feed) -> dict[str, str | None]:
    return {
        "transaction_id": f"T{random.randrange(10**6)}",
        "patient": f"{random.randrange(50):032x}",
        "amount": "-" * (feed.amount_sign == "negative") + _plain(random.randrange(1, 20_000)),
        "posted_on": random.choice([None, _some_day(random).strftime(feed.dates[0])]),
        "claim": random.choice([None, f"{random.randrange(50):032x}"]),
        "entry_type": random.choice([None, "PAYMENT", "COPAY"]),
        "currency": random.choice([None, "USD"]),
    }


def _eligibility_row(random: Random, feed: Feed) -> dict[str, str | None]:
    patient = f"{random.randrange(50):032x}"
    is_own = random.choice([True, False])
    start_on = _some_day(random)
    return {
        "patient": patient,
        "relationship": "self" if is_own else random.choice(["spouse", "CHILD", "Other"]),
        "subscriber": random.choice([None, patient]) if is_own else f"{random.randrange(50):032x}",
        "member_id": f"W{random.randrange(10**6):06}",
        "subscriber_id": random.choice([None, "S1"]),
        "payer": random.choice(["60054", "00710"]),
        "payer_name": random.choice([None, "Zoë", 'The "Gold" one']),
        "type": random.choice([None, "PPO", "pay", "hmo"]),
        "plan": random.choice([None, "Choice Plus"]),
        "subplan": None,
        "group": random.choice([None, "G00017"]),
        "subgroup": None,
        "order": random.choice(["1", "2", "5", "Secondary"]),
        "start_on": start_on.strftime(feed.dates[0]),
        "end_on": random.choice([None, date(2180, 1, 31).strftime(feed.dates[0])]),
        "status": random.choice([None, "active", "Cancelled"]),
    }


def _odd(random: Random, name: str, text: str | None, feed: Feed) -> str | None:
    text = text or "x"
    nought = ord(random.choice(_OTHER_DIGITS))
    day = _spelt_day(random, feed)
    spelt = {"amount": (_money(random),)} | dict.fromkeys(_DAYS, (day,))
    words = [
        "..",
        ".p",
        "USD",
        "self",
        "self ",
        "5",
        "6",
        "HMO",
        _money(random),
        _spelt_day(random, feed),
    ]
    return random.choice(
        [
            None,
            random.choice(_BLANKS) * 2 + text + random.choice(_BLANKS),
            _scattered(random, text),
            text[: random.randrange(len(text))],
            "".join(chr(nought + int(each)) if each in _DIGITS else each for each in text),
            random.choice("ab1") * random.choice([64, 65, 100, 101, 255, 256]),
            *[random.choice(spelt.get(name, words))] * 2,
        ]
    )  # fmt: skip


def _scattered(random: Random, text: str) -> str:
    letters = list(text)
    for _ in range(random.choice([1, 1, 2, 4])):
        odd = random.choice(_SCATTERED) if random.random() < 0.8 else _any_letter(random)
        letters.insert(random.randrange(len(letters) + 1), odd)
    return "".join(letters)


def _any_letter(random: Random) -> str:
    code = random.choice(
        [random.randrange(0x500), random.randrange(0x10000), random.randrange(0x110000)]
    )
    return "x" if 0xD800 <= code < 0xE000 else chr(code)


def _some_day(random: Random) -> date:
    return date(random.randrange(1950, 2035), random.randrange(1, 13), random.randrange(1, 29))


def _plain(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"


def _money(random: Random) -> str:
    """Return an amount as people, locales and programs write it."""
    cents = random.choice(
        [0, 1, 5, 99_999_999, 100_000_000, random.randrange(10**9), random.randrange(20_000)]
    )
    whole, part = f"{cents // 100:,}", f"{cents % 100:02}"
    marks = [".,", ",.", ", ", ",'", ".'", ",\xa0", ",\u202f", ".\u066c", "\u066b\u066c", ". "]
    point, group = tuple(random.choice(marks))
    return random.choice(
        [
            _plain(cents), f"-{_plain(cents)}", f"{_plain(cents)}-", f"({_plain(cents)})", f"${_plain(cents)}", f"{_plain(cents)} USD",
            f"USD {_plain(cents)}", f"\u20ac{_plain(cents)}", f"+{_plain(cents)}", f"\u2212{_plain(cents)}", f"{cents / 100}",
            f"{cents / 100:e}", str(cents), f"{cents // 100}.", f".{part}", f"{_plain(cents)}0", f"0{_plain(cents)}", f"{cents // 100}.{cents % 100}",
            whole.replace(",", group) + point + part, f"-{whole.replace(',', group)}{point}{part}", f"{cents // 100}{point}{part}",
            "NaN", "Infinity", "1_000", "0x10", "1e3", "12 34", "1.2.3", "--5", "5..0", "1/2", "5%", f"{_plain(cents)} CR", f"{_plain(cents)}DB",
        ]
    )  # fmt: skip


def _spelt_day(random: Random, feed: Feed) -> str:
    """Return a day as people, locales and programs write it, or nearly one."""
    day = _some_day(random)
    year, month, dom = day.year, day.month, day.day
    return random.choice(
        [
            day.strftime(random.choice(feed.dates)), day.strftime(random.choice(FORMATS)), f"{year}-{month}-{dom}", f"{month}/{dom}/{year}",
            f"{dom}.{month}.{year}", f"{year}{month}{dom}", f"{month}{dom}{year}", f"{year}-{month:02}-31", f"{year}-00-{dom:02}", f"{year}-13-01",
            "0000-00-00", "9999-12-31", "1900-02-29", "2000-02-29", f"{year}-02-29", "00000000", f"{year}-{month:02}-{dom:02}T24:00:00",
            f"{year:05}-{month:02}-{dom:02}", f"{year % 100:02}-{month:02}-{dom:02}", f"{year}-{month:02}- {dom % 10}", f" {year}-{month:02}-{dom:02} ",
            f"{year}\u2010{month:02}\u2010{dom:02}", f"{year}-{month:02}-{dom:02}Z", "45000", "today", f"{year}\u5e74{month}\u6708{dom}\u65e5",
            f"-{year}-{month:02}-{dom:02}", f"{year}-{month:02}-{dom:02} 10:11:12", f"{year}--{month:02}-{dom:02}", f"{year}-{month:03}-{dom:02}",
        ]
    )  # fmt: skip


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
    """A text file as it was made: its name, its bytes, the feed that reads it, and its rows."""

    name: str
    data: bytes
    feed: Feed
    header: list[str]
    rows: list[list[str]]


def written(random: Random) -> Written:
    """Return a good file in any dialect that is read."""
    encoding = random.choice(_ENCODINGS)
    delimiter = random.choice([",", ",", "\t", "|", ";", "^", "~", " "])
    header = [*_HEADER, *(f"c{number}" for number in range(random.choice([0, 0, 1, 5])))]
    random.shuffle(header)
    alphabet = _alphabet(encoding)
    table = [
        [_cell(random, alphabet) for _ in header] for _ in range(random.choice([1, 2, 5, 20, 60]))
    ]
    end = random.choice(["\n", "\r\n"])
    quoted = random.choice(["needed", "all", "some"])
    lines = [
        delimiter.join(_quoted(random, cell, delimiter, quoted) for cell in row)
        for row in [header, *table]
    ]
    torn = random.choice([True, False, False])
    text = end.join(lines) + ("" if torn else end)
    mark = "\ufeff" if encoding in {"utf-8", "utf-16-le"} and random.random() < 0.2 else ""
    if encoding == "utf-16-le":
        mark = ""
    feed = Feed(
        "ledger",
        Kind.LEDGER,
        "",
        _MAPPED,
        delimiter=delimiter if delimiter in "^~ " else random.choice([delimiter, None]),
        encoding=encoding,
        final_newline="any" if torn else random.choice(["require", "any"]),
    )
    name, data = _packed(random, (mark + text).encode(encoding))
    return Written(name, data, feed, header, table)


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
    return "".join(random.choices(alphabet, k=length))


def _quoted(random: Random, cell: str, delimiter: str, how: str) -> str:
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
        header, found = _read(made.name, made.data, made.feed, folder)
    except InputError as error:
        tally.refused += 1
        tally.violations.append(f"refused, and right: {_said(error)}")
        return
    tally.rows += len(found)
    if header != made.header or found != made.rows:
        tally.violations.append("other cells than were written")


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
    b"\xc3", b"\xa9", b"\xe2\x80\xae", b"\xe2\x80\x8b", b"\xed\xa0\x80", b"\xc0\xaf", b"\x1a", b"\x1e", b"\x1f\x8b", b"PAR1", b"\\", b"'", b" ", b"x",
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
        header, found = _read(name, data, feed, folder)
    except InputError as error:
        tally.refused += 1
        tally.violations += _ill_said(error, name)
        return
    tally.rows += len(found)
    try:
        slow = slowly(name, data, feed, len(header))
    except (csv.Error, UnicodeError, OSError, EOFError, zstd.ZstdError) as error:
        tally.violations.append(f"taken, and {type(error).__name__} for a slow reader")
        return
    if slow != [header, *found]:
        tally.violations.append("other cells than a slow reader finds")


def _read(name: str, data: bytes, feed: Feed, folder: Path) -> tuple[list[str], list[list[str]]]:
    path = folder / name
    path.write_bytes(data)
    source = inspect(path, feed, folder)
    kept = list(source.header)
    found = [
        ["" if cell is None else cell for cell in row]
        for batch in read(source)
        for row in batch.frame.select(kept).iter_rows()
    ]
    assert len(found) == source.rows
    return kept, found


def slowly(name: str, data: bytes, feed: Feed, columns: int) -> list[list[str]]:
    """Return the header and the rows by Python's csv, with the delimiter that makes the header so wide."""
    if name.endswith(".gz"):
        data = gzip.decompress(data)
    elif name.endswith(".zst"):
        data = zstd.decompress(data)
    text = data.decode("utf-8-sig" if data.startswith(codecs.BOM_UTF8) else feed.encoding)
    for delimiter in [feed.delimiter] if feed.delimiter else [",", "\t", "|", ";"]:
        try:
            header = next(
                csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            )
        except (StopIteration, csv.Error):
            continue
        if len(header) == columns and set(_HEADER) <= set(header):
            lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            return list(lines)
    raise csv.Error("no delimiter fits")


def _ill_said(error: InputError, name: str) -> Iterator[str]:
    """Yield what a refusal lacks: the file, the rule, or what to do."""
    if not error.message.startswith(name) or len(error.message) < len(name) + 10:
        yield f"a refusal that does not say where: {_said(error)}"
    if not error.fix:
        yield f"a refusal that does not say what to do: {_said(error)}"


def _said(error: InputError) -> str:
    return error.message.replace("\n", " ")


PLAYS: Final[dict[str, Play]] = {"rows": rows, "texts": texts, "torn": torn, "strange": strange}
# The number of files of each class for a thousand rows.
_FILES_A_THOUSAND_ROWS: Final = {"texts": 10, "torn": 30, "strange": 20}
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
