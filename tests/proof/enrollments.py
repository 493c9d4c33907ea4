"""X12 834 files by seed: random members, damaged in many ways, and read as a run reads them.

A file that was damaged must be refused by words with a place, or be read as exactly the rows that a second reader finds
in the same bytes: one that only cuts the text at its signs and remembers where it is. Damage that a count or a control
number shows must be refused; another spelling of the same file must be read. No SSN may be in a row or a refusal.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import polars as pl

from pipeline.errors import InputError
from pipeline.reading import x12
from pipeline.reading.inspect import inspect
from pipeline.reading.interchange import _refusal
from pipeline.reading.read import read
from pipeline.rows.enrollment import COLUMNS
from pipeline.rows.feed import Feed, Kind

FEED: Final = Feed("eligibility", Kind.ELIGIBILITY, "", {"plan": "plan", "start_on": "start"})
NAME: Final = "a.834"
VERSION: Final = "005010X220A1"
_DAY: Final = date(2026, 1, 1)

Rows = list[dict[str, str]]
Segments = list[list[str]]


@dataclass
class Report:
    """The results of many files."""

    ends: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)


# Good files ---------------------------------------------------------------------------------------


def made(random: Random, members: int = 6) -> Segments:
    """Return the segments of a good file."""
    parts = [
        _transaction(random, f"{number:04}", members // 2 or 1)
        for number in range(1, random.choice([1, 1, 3]) + 1)
    ]
    return enclosed(random, parts)


def enclosed(random: Random, parts: list[Segments], number: str = "000000901") -> Segments:
    """Return transaction sets in one or two groups of an interchange."""
    cut = random.randrange(len(parts)) if len(parts) > 1 else 0
    groups = [each for each in (parts[:cut], parts[cut:]) if each]
    found = [
        ["ISA", "00", " " * 10, "00", " " * 10, "ZZ", f"{'SENDER':15}", "ZZ", f"{'RECEIVER':15}",
         "261128", "0230", "^", "00501", number, "0", "P", ":"],
    ]  # fmt: skip
    for at, group in enumerate(groups, 1):
        found.append(["GS", "BE", "SENDER", "RECEIVER", "20261128", "0230", str(at), "X", VERSION])
        for part in group:
            found += part
        found.append(["GE", str(len(group)), str(at)])
    return [*found, ["IEA", str(len(groups)), number]]


def _transaction(random: Random, number: str, members: int, purpose: str = "4") -> Segments:
    found = [
        ["ST", "834", number, VERSION],
        ["BGN", "00", "BATCH", "20261128", "0230", "", "", "", purpose],
        ["REF", "38", "POLICY01"],
        ["DTP", "007", "D8", "20261128"],
        ["N1", "P5", "SPONSOR ONE", "FI", "123456780"],
        ["N1", "IN", "PLAN ONE", "FI", "60054"],
    ]
    for each in range(members):
        who = f"{number}{each:03}"
        found += _member(random, who, is_subscriber=True)
        for child in range(random.choice([0, 0, 1, 2])):
            found += _member(random, f"{who}D{child}", is_subscriber=False)
    return [*found, ["SE", str(len(found) + 1), number]]


def _ssn(random: Random) -> str:
    return f"{random.randrange(10**8, 10**9)}"


def _day(random: Random) -> str:
    found = f"{_DAY + timedelta(random.randrange(300)):%Y%m%d}"
    return random.choice([found] * 20 + ["20260230", "99991231", "2026013", "00000000"])


def _member(random: Random, who: str, *, is_subscriber: bool) -> Segments:
    code = random.choice(["030", "030", "001", "021", "024", "025"])
    ssn = _ssn(random)
    family = f"M{who.partition('D')[0]}"
    found = [
        ["INS", "Y" if is_subscriber else "N", "18" if is_subscriber else random.choice(["01", "19", "G8"]), code, "XN", "A"],
        ["REF", "0F", random.choice([family] * 9 + [ssn])],
    ]  # fmt: skip
    optional: list[list[str]] = [
        ["REF", "1L", f"GROUP{random.randrange(9)}"],
        ["REF", "17", f"C{random.randrange(99)}"],
        ["REF", "23", f"MRN{who}"],
        ["REF", "ZZ", f"Z{who}"],
        ["REF", "SY", ssn],
        ["DTP", "356", "D8", _day(random)],
        ["DTP", "357", "D8", _day(random)],
        ["DTP", "348", "D8", _day(random)],
        ["DTP", "349", "D8", _day(random)],
        ["DTP", "336", "D8", _day(random)],
    ]
    found += [each for each in optional if random.random() < 0.4]
    named = random.choice([["34", ssn], ["ZZ", f"I{who}"], []])
    found.append(["NM1", "IL", "1", f"LAST{who}", f"FIRST{who}", "", "", "", *named])
    if random.random() < 0.5:
        found += [["N3", "1 SAMPLE STREET"], ["N4", "SPRINGFIELD", "IL", "62701"]]
    if random.random() < 0.7:
        found.append(["DMG", "D8", "19800101", random.choice(["F", "M", "U"])])
    if random.random() < 0.1:
        found.append(["NM1", "31", "1"])
        found += [["N3", "2 OTHER STREET"], ["N4", "SPRINGFIELD", "IL", "62701"]]
    for line in random.sample(["HLT", "DEN", "VIS"], random.choice([0, 1, 1, 2, 3])):
        found += _coverage(random, line, code)
    return found


def _coverage(random: Random, line: str, code: str) -> Segments:
    found = [
        ["HD", random.choice([code, code, "030"]), "", line, f"PLAN{random.randrange(4)}", "FAM"]
    ]
    if random.random() < 0.2:
        found.append(["DTP", "348", "RD8", f"{_day(random)}-{_day(random)}"])
    else:
        found.append(["DTP", "348", "D8", _day(random)])
        if random.random() < 0.4:
            found.append(["DTP", "349", "D8", _day(random)])
    optional = [["DTP", "303", "D8", _day(random)], ["DTP", "343", "D8", _day(random)]]
    optional += [
        ["REF", "1L", "POL1"],
        ["REF", "CE", "CLASS"],
        ["REF", "ZZ", "A"],
        ["REF", "ZZ", "B"],
    ]
    found += [each for each in optional if random.random() < 0.3]
    for priority in random.sample(["P", "S", "T"], random.choice([0, 0, 1, 2])):
        found += [["COB", priority, f"OTHER{random.randrange(99)}", "1"]]
        found += random.choice(
            [[], [["REF", "SY", _ssn(random)]], [["NM1", "IN", "2", "OTHER PAYER"]]]
        )
    return found


# A second reader ----------------------------------------------------------------------------------

_OF_MEMBER: Final = {
    "REF": {"0F": "subscriber_number", "1L": "group_number", "17": "reference_17", "23": "reference_23",
            "3H": "reference_3h", "DX": "reference_dx", "ZZ": "reference_zz"},
    "DTP": {"356": "eligibility_start", "348": "else_start", "357": "eligibility_end",
            "349": "else_end", "303": "maintenance_effective"},
}  # fmt: skip
_OF_COVERAGE: Final = {
    "REF": {"1L": "coverage_group", "CE": "contract_class", "17": "coverage_reference_17", "ZZ": "coverage_reference_zz"},
    "DTP": {"348": "start", "349": "end", "303": "maintenance_effective", "343": "paid_through"},
}  # fmt: skip


def slow_rows(text: str) -> Rows:
    """Return the rows of a text by a reader that trusts it, and knows nothing of ours."""
    part, end = text[3], text[105]
    texts = (each.lstrip(" \r\n") for each in text.split(end))
    segments = [[cell.strip(" ") for cell in each.split(part)] for each in texts]
    return [row for member in _members(segments) for row in _rows_of(*member)]


def _members(segments: Segments) -> Iterator[tuple[dict[str, str], list[dict[str, str]], set[str]]]:
    """Yield the cells of each member, its coverages, and the SSNs of the family."""
    file: dict[str, str] = {}
    found: tuple[dict[str, str], list[dict[str, str]], set[str]] | None = None
    family = set[str]()
    within = ""
    for segment in segments:
        name, get = segment[0], partial(_at, segment)
        if name in {"INS", "SE"} and found:
            family = found[2] if found[0].get("member_indicator") == "Y" else family
            yield found[0], found[1], found[2] | family
            found = None
        if name == "ST":
            file, within, family = {}, "file", set()
        elif name == "INS":
            found, within = ({**file}, [], set()), "member"
            names = (
                "indicator",
                "relationship",
                "maintenance_type",
                "reason",
                "benefit_status",
                "",
                "",
                "employment_status",
            )
            columns = {
                "indicator": "member_indicator",
                "relationship": "relationship_code",
                "reason": "maintenance_reason",
            }
            found[0].update(
                {columns.get(each, each): get(at) for at, each in enumerate(names, 1) if each}
            )
        elif found is None:
            _read_file(file, name, get)
        else:
            within = _read_member(found, name, get, within)


def _at(segment: Sequence[str], number: int) -> str:
    return segment[number] if number < len(segment) else ""


def _read_file(file: dict[str, str], name: str, get: Callable[[int], str]) -> None:
    if (name, get(1)) == ("REF", "38"):
        file["master_policy"] = get(2)
    if name == "N1" and get(1) in {"P5", "IN"}:
        who = {"P5": "sponsor", "IN": "payer"}[get(1)]
        file[f"{who}_name"] = get(2)
        file[f"{who}_id"] = "" if get(3) == "34" else get(4)


def _read_member(
    found: tuple[dict[str, str], list[dict[str, str]], set[str]],
    name: str,
    get: Callable[[int], str],
    within: str,
) -> str:
    """Read one segment of a member. Returns what the next ones belong to."""
    cells, coverages, ssns = found
    if name == "HD":
        columns = {1: "coverage_maintenance", 3: "insurance_line", 4: "plan", 5: "coverage_level"}
        coverages.append({column: get(at) for at, column in columns.items()})
        return "coverage"
    if name == "COB":
        is_first = "cob" not in coverages[-1]
        texts = {"cob": get(1), "cob_number": get(2), "cob_payer_name": "", "cob_payer_id": ""}
        for column, text in texts.items():
            coverages[-1][column] = text if is_first else f"{coverages[-1][column]};{text}"
        return "cob"
    if name == "NM1":
        return _read_name(found, get, within)
    within = name if name in {"LX", "LS", "DSB"} else within
    if name == "DMG" and within == "person":
        cells["birth_date"] = _both(cells.get("birth_date", ""), _iso(get(1), get(2)))
        cells["sex"] = get(3)
    if name == "REF" and get(1) == "SY" and within == "member":
        ssns.add(get(2))
    if within == "member":
        _read_element(cells, _OF_MEMBER, name, get)
    elif within == "coverage":
        _read_element(coverages[-1], _OF_COVERAGE, name, get)
    return within


def _read_element(
    target: dict[str, str],
    names: Mapping[str, Mapping[str, str]],
    name: str,
    get: Callable[[int], str],
) -> None:
    """Read a reference or a day."""
    column = names.get(name, {}).get(get(1))
    if column is None:
        return
    if name == "REF":
        is_joined = column in target and column not in {"subscriber_number", "group_number"}
        target[column] = f"{target[column]};{get(2)}" if is_joined else get(2)
        return
    first, dash, last = get(3).partition("-")
    days = {column: _iso(get(2), get(3))}
    if get(2) == "RD8" and dash and get(1) in {"348", "356"}:
        days = {column: _iso("D8", first), column.replace("start", "end"): _iso("D8", last)}
    for each, day in days.items():
        target[each] = _both(target.get(each, ""), day)


def _both(known: str, day: str) -> str:
    """Return the days of an element that is there twice."""
    if not known or not day or day in known.split(";"):
        return known or day
    return f"{known};{day}"


def _read_name(
    found: tuple[dict[str, str], list[dict[str, str]], set[str]],
    get: Callable[[int], str],
    within: str,
) -> str:
    cells, coverages, ssns = found
    if within == "cob":
        if get(1) == "IN":
            for column, text in (
                ("cob_payer_name", get(3)),
                ("cob_payer_id", "" if get(8) == "34" else get(9)),
            ):
                before = coverages[-1][column].rpartition(";")
                coverages[-1][column] = "".join(before[:2]) + text
        return "cob"
    if get(1) not in {"IL", "74"}:
        return "other"
    for at, column in (
        (3, "member_last_name"),
        (4, "member_first_name"),
        (5, "member_middle_name"),
    ):
        cells[column] = get(at)
    if get(8) == "34":
        ssns.add(get(9))
    elif get(8) == "ZZ":
        cells["member_identifier"] = get(9)
    return "person"


def _iso(form: str, text: str) -> str:
    try:
        day = (
            date.fromisoformat(f"{text[:4]}-{text[4:6]}-{text[6:]}")
            if form == "D8" and text.isascii()
            else None
        )
    except ValueError:
        return text
    return text if day is None else str(day)


def _rows_of(cells: dict[str, str], coverages: list[dict[str, str]], ssns: set[str]) -> Rows:
    for which in ("start", "end"):
        other = cells.pop(f"else_{which}", "")
        cells[f"eligibility_{which}"] = cells.get(f"eligibility_{which}") or other
    is_told = cells.get("eligibility_end") or cells.get("maintenance_type") in {"024", "025"}
    rows = []
    for coverage in coverages or ([{}] if is_told else []):
        row = {**cells, **coverage}
        row["end"] = row.get("end") or row["eligibility_end"]
        rows.append(
            {name: text for name, text in row.items() if text and not holds_ssn(text, ssns)}
        )
    return rows


def holds_ssn(text: str, ssns: set[str]) -> bool:
    """Return whether a text has the digits of one of these SSNs."""
    plain = re.sub("[- ]", "", text)
    known = {re.sub("[- ]", "", each) for each in ssns}
    return any(
        re.fullmatch(r"\d{9}", each) and len(set(each)) > 1 and each in plain for each in known
    )


# Damage -------------------------------------------------------------------------------------------


def written(segments: Segments, signs: str = "*:~", end: str = "\n") -> str:
    """Return segments as a text."""
    part, component, last = list(signs)
    lines = [part.join(each) for each in segments]
    lines[0] = lines[0][:-1] + component
    end = {"\n": "", "\r": end[-1:]}.get(last, end)
    return "".join(line + last + end for line in lines)


def _spelt(random: Random) -> tuple[str, str]:
    return random.choice(["*:~", "*:~", "|>~", "*:\n", "!<~", "~:\r"]), random.choice(
        ["\n", "\n", "", "\r\n"]
    )


def _recount(segments: Segments) -> None:
    """Let the counts of the trailers be right."""
    began = groups = sets = 0
    for at, each in enumerate(segments):
        match each[0]:
            case "ST":
                began, sets = at, sets + 1
            case "SE":
                each[1:2] = [str(at - began + 1)]
            case "GS":
                groups, sets = groups + 1, 0
            case "GE":
                each[1:2] = [str(sets)]
            case "IEA":
                each[1:2] = [str(groups)]


def _within(segments: Segments, random: Random) -> int:
    """Return the number of a segment in a transaction set."""
    inside = [
        at
        for at, each in enumerate(segments)
        if each[0] not in {"ISA", "GS", "ST", "SE", "GE", "IEA"}
    ]
    return random.choice(inside)


def damaged(random: Random) -> tuple[str, bytes, bool | None]:
    """Return the kind of damage, the file's bytes, and whether it must be read (True) or refused (False)."""
    segments = [list(each) for each in made(random)]
    kind = random.choice(list(_KINDS))
    signs, end = _spelt(random)
    verdict = _KINDS[kind](segments, random)
    data = written(segments, signs, end).encode()
    match kind:
        case "mark":
            data = b"\xef\xbb\xbf" + data
        case "cut":
            data = data[: random.randrange(len(data.rstrip(b"\r\n")) or 1)]
            if signs[2] == "\n" and data.endswith(b"IEA"):
                verdict = None
        case "flip":
            changed = bytearray(data)
            for _ in range(random.choice([1, 1, 2, 8])):
                changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
            data, verdict = bytes(changed), None
        case "insert":
            at = random.randrange(len(data))
            data = (
                data[:at]
                + random.choice([b"*", b"~", b"\n", b"~~", b"\0", b"INS*", b" "])
                + data[at:]
            )
            verdict = None
        case "delete":
            at = random.randrange(len(data))
            data, verdict = data[:at] + data[at + random.randrange(1, 30) :], None
        case "second":
            data, verdict = data + data, False
    return kind, data, verdict


def _drop(segments: Segments, random: Random) -> bool:
    del segments[random.randrange(len(segments))]
    return False


def _drop_and_recount(segments: Segments, random: Random) -> None:
    del segments[_within(segments, random)]
    _recount(segments)


def _repeat(segments: Segments, random: Random) -> bool:
    at = random.randrange(len(segments))
    segments.insert(at, list(segments[at]))
    return False


def _repeat_and_recount(segments: Segments, random: Random) -> None:
    segments.insert(_within(segments, random), list(segments[_within(segments, random)]))
    _recount(segments)


def _swap(segments: Segments, random: Random) -> None:
    one = _within(segments, random)
    other = random.choice([min(one + 1, len(segments) - 1), _within(segments, random)])
    segments[one], segments[other] = segments[other], segments[one]


def _move(segments: Segments, random: Random) -> None:
    moved = segments.pop(_within(segments, random))
    segments.insert(_within(segments, random), moved)


def _count(segments: Segments, random: Random) -> bool:
    trailer = random.choice([each for each in segments if each[0] in {"SE", "GE", "IEA"}])
    trailer[1] = random.choice(
        [
            str(int(trailer[1]) + random.choice([-1, 1, 10])),
            f" {trailer[1]}",
            f"+{trailer[1]}",
            "",
            "x",
        ]
    )
    return False


def _control(segments: Segments, random: Random) -> bool:
    at = {"SE": 2, "GE": 2, "IEA": 2, "ST": 2, "GS": 6}
    chosen = random.choice([each for each in segments if each[0] in at])
    chosen[at[chosen[0]]] = random.choice([f"{chosen[at[chosen[0]]]}9", "", "77"])
    return False


def _version(segments: Segments, random: Random) -> bool:
    chosen = random.choice([each for each in segments if each[0] in {"GS", "ST"}])
    if chosen[0] == "GS":
        chosen[random.choice([1, 8])] = random.choice(
            ["HP", "HC", "005010X220", "005010X221A1", ""]
        )
    else:
        at = random.choice([1, 3])
        chosen[at] = random.choice(["835", "837", "005010X222A1", "x"])
    return False


def _purpose(segments: Segments, random: Random) -> bool | None:
    sets = [each for each in segments if each[0] == "BGN"]
    code = random.choice(["2", "RX", "", "0", "22"])
    sets[-1][8:] = [code]
    return None if code == "RX" or (code == "2" and len(sets) == 1) else False


def _element(segments: Segments, random: Random) -> None:
    chosen = segments[_within(segments, random)]
    at = random.randrange(1, max(len(chosen), 2))
    chosen[at:] = random.choice(
        [[], chosen[at + 1 :], ["", *chosen[at:]], ["IL", *chosen[at + 1 :]]]
    )


def _fine(segments: Segments, random: Random) -> bool:
    return True


def _any(segments: Segments, random: Random) -> bool:
    return False


_KINDS: Final[dict[str, Callable[[Segments, Random], bool | None]]] = {
    "none": _fine, "mark": _fine, "cut": _any, "flip": _fine, "insert": _fine, "delete": _fine, "second": _any,
    "drop": _drop, "drop, counted": _drop_and_recount, "repeat": _repeat, "repeat, counted": _repeat_and_recount,
    "swap": _swap, "move": _move, "count": _count, "control": _control, "version": _version, "purpose": _purpose,
    "element": _element,
}  # fmt: skip


def play(seed: int, folder: Path, report: Report, *, is_in_child: bool = False) -> None:
    """Play one file: by a run's own reader, or without its child, which is quick."""
    kind, data, must_read = damaged(Random(seed))
    path = folder / NAME
    path.write_bytes(data)
    try:
        rows = _rows(path) if is_in_child else _rows_here(path)
    except InputError as error:
        if not error.fix or not error.message.startswith(NAME):
            report.violations.append(f"seed {seed}: a refusal without its place or what to do")
        if must_read:
            report.violations.append(f"seed {seed}: {kind} was refused: {error.message}")
        if re.search(r"\d{9}", error.message.replace("000000901", "")):
            report.violations.append(f"seed {seed}: nine digits are in a refusal")
        report.ends["refused"] += 1
        return
    except Exception as error:  # noqa: BLE001 - what is raised would end the child
        report.violations.append(f"seed {seed}: {kind}: {type(error).__name__} was raised")
        return
    if must_read is False:
        report.violations.append(f"seed {seed}: {kind} was read")
    report.violations += _faults(seed, kind, data, rows)
    report.ends["read" if must_read else "damaged, and read as it is"] += 1


def _faults(seed: int, kind: str, data: bytes, rows: Rows) -> Iterator[str]:
    try:
        meant = slow_rows(data.decode("utf-8-sig"))
    except (ValueError, IndexError) as error:
        yield f"seed {seed}: {kind} was read, and the second reader fails: {type(error).__name__}"
        return
    if rows != meant:
        yield f"seed {seed}: {kind} was read as other rows"


def _rows(path: Path) -> Rows:
    source = inspect(path, FEED, path.parent)
    return [_filled(row) for batch in read(source) for row in batch.frame.iter_rows(named=True)]


def _rows_here(path: Path) -> Rows:
    copy = path.with_name("copy.parquet")
    answer: dict[str, Any] = x12.answer(str(path), str(copy), {"encoding": "utf-8-sig"})
    if answer.get("refused"):
        message, fix = _refusal(answer)
        raise InputError(message, fix, file=path.name)
    if not answer["rows"]:
        return []
    named = dict(enumerate(COLUMNS))
    frame = pl.read_parquet(copy)
    return [
        _filled({named[int(name)]: cell for name, cell in row.items()})
        for row in frame.iter_rows(named=True)
    ]


def _filled(row: dict[str, str | None]) -> dict[str, str]:
    return {name: text for name, text in row.items() if text}
