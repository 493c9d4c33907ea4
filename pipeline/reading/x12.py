"""Decode X12 834 interchanges (005010X220A1): what the child does (`decoding.py`); `interchange.py` has the words.

pyx12's reader cuts the text into segments, and compares counts and control numbers. It stops without an error at an
empty segment and at one that is longer than its buffer, and trusts the order of segments. So all that it finds is a
refusal here, each segment must have its place (`_STAYS`, `_BEGINS`), and nothing may be left behind the last one.

SSNs (REF*SY, and NM109 with qualifier 34) are never kept, and no cell that holds its member's or subscriber's is.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

import polars as pl
from pyx12.errors import EngineError, X12Error  # type: ignore[import-untyped]
from pyx12.x12file import X12Reader  # type: ignore[import-untyped]

from pipeline.reading import interchange as words
from pipeline.reading.decoding import refusal
from pipeline.reading.trim import WITHOUT_COVERAGE
from pipeline.rows.enrollment import COLUMNS, REINSTATEMENT, TERMINATION

_VERSION: Final = "005010X220A1"
_HEAD: Final = 106  # characters of ISA, whose elements have fixed widths (ASC X12.5)
_PARTED_AT: Final = (3, 6, 17, 20, 31, 34, 50, 53, 69, 76, 81, 83, 89, 99, 101, 103)
_VERSION_AT: Final = slice(84, 89)
_CHUNK: Final = 8_192
_ROWS_A_GROUP: Final = 10_000  # as Python texts, before they become columns
_BLANKS: Final = " \r\n\t"
_AFTER_THE_END: Final = f"{_BLANKS}\x1a"  # \x1a: as programs of DOS and mainframes end a file
_NUMBER: Final = re.compile(r"[0-9]{1,10}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DIGITS: Final = range(7, 10)  # of an SSN; a program may have cut its first zeros
_FEW: Final = 20  # SSNs that are searched for one by one
_SSN: Final = "34"  # the qualifier of an SSN
_TRAILING: Final = "SEG1"  # the reader's code of elements that are left out at the end of a segment, which is allowed
_TEST: Final = "T"  # ISA15
_FULL: Final = {"4": True, "RX": True, "2": False}  # BGN08: verify, replace; change

# The loops of the guide, and the segments that stay in them. NM1 is in 2310, whose loop LX begins.
_STAYS: Final = {
    loop: frozenset(names.split())
    for loop, names in {
        "": "", "ISA": "TA1", "GS": "", "ST": "", "end": "",
        "BGN": "REF DTP QTY", "1000": "N2 N3 N4 PER ACT",
        "2000": "REF DTP", "2100A": "PER N3 N4 DMG EC ICM AMT HLH LUI", "2100": "PER N3 N4 DMG",
        "2200": "DTP", "2300": "DTP AMT REF IDC", "2310": "NM1 N2 N3 N4 PER PLA",
        "2320": "REF DTP", "2330": "N2 N3 N4 PER",
        "LS": "", "2700": "", "2750": "REF DTP", "LE": "",
    }.items()
}  # fmt: skip
_AFTER: Final = {"INS": "2000", "SE": "GS"}  # what may follow each whole member
_COVERAGE: Final = {**_AFTER, "HD": "2300", "LS": "LS"}
# And those that begin another loop.
_BEGINS: Final[Mapping[str, Mapping[str, str]]] = {
    "": {"ISA": "ISA"},
    "ISA": {"GS": "GS", "IEA": "end"},
    "GS": {"ST": "ST", "GE": "ISA"},
    "ST": {"BGN": "BGN"},
    "BGN": {**_AFTER, "N1": "1000"},
    "1000": {**_AFTER, "N1": "1000"},
    "2000": {"NM1": "2100A"},
    "2100A": {**_COVERAGE, "NM1": "2100", "DSB": "2200"},
    "2100": {**_COVERAGE, "NM1": "2100", "DSB": "2200"},
    "2200": {**_COVERAGE, "DSB": "2200"},
    "2300": {**_COVERAGE, "LX": "2310", "COB": "2320"},
    "2310": {**_COVERAGE, "LX": "2310", "COB": "2320"},
    "2320": {**_COVERAGE, "COB": "2320", "NM1": "2330"},
    "2330": {**_COVERAGE, "COB": "2320", "NM1": "2330"},
    "LS": {"LX": "2700", "LE": "LE"},
    "2700": {"N1": "2750", "LX": "2700", "LE": "LE"},
    "2750": {"LX": "2700", "LE": "LE"},
    "LE": _AFTER,
    "end": {},
}
_MEMBER: Final = ("IL", "74")  # NM101 of the member; 74: corrected

# By loop, segment and its first element: the element that is kept, and its column.
_KEPT: Final[Mapping[tuple[str, str, str], Sequence[tuple[int, str]]]] = {
    ("BGN", "REF", "38"): ((2, "master_policy"),),
    ("1000", "N1", "P5"): ((2, "sponsor_name"), (4, "sponsor_id")),
    ("1000", "N1", "IN"): ((2, "payer_name"), (4, "payer_id")),
    ("2000", "REF", "0F"): ((2, "subscriber_number"),),
    ("2000", "REF", "1L"): ((2, "group_number"),),
    ("2000", "REF", "17"): ((2, "reference_17"),),
    ("2000", "REF", "23"): ((2, "reference_23"),),
    ("2000", "REF", "3H"): ((2, "reference_3h"),),
    ("2000", "REF", "DX"): ((2, "reference_dx"),),
    ("2000", "REF", "ZZ"): ((2, "reference_zz"),),
    ("2300", "REF", "1L"): ((2, "coverage_group"),),
    ("2300", "REF", "CE"): ((2, "contract_class"),),
    ("2300", "REF", "17"): ((2, "coverage_reference_17"),),
    ("2300", "REF", "ZZ"): ((2, "coverage_reference_zz"),),
}  # fmt: skip
_INS: Final = (
    (1, "member_indicator"),
    (2, "relationship_code"),
    (3, "maintenance_type"),
    (4, "maintenance_reason"),
    (5, "benefit_status"),
    (8, "employment_status"),
)
_HD: Final = (
    (1, "coverage_maintenance"),
    (3, "insurance_line"),
    (4, "plan"),
    (5, "coverage_level"),
)
_NAME: Final = ((3, "member_last_name"), (4, "member_first_name"), (5, "member_middle_name"))
_COB: Final = ((1, "cob"), (2, "cob_number"))
_INSURER: Final = ((3, "cob_payer_name"), (9, "cob_payer_id"))
_SEVERAL: Final = ";"  # between values that are there several times: references, insurers, days
_MAY_REPEAT: Final = ("reference_", "coverage_", "contract_class")

# By loop and qualifier of a DTP: the column of the day, and that of the end of a range.
_DATES: Final = {
    ("2000", "356"): ("eligibility_start", "eligibility_end"),
    ("2000", "348"): ("member_start", "member_end"),
    ("2000", "357"): ("eligibility_end", ""),
    ("2000", "349"): ("member_end", ""),
    ("2000", "303"): ("maintenance_effective", ""),
    ("2300", "348"): ("start", "end"),
    ("2300", "349"): ("end", ""),
    ("2300", "303"): ("maintenance_effective", ""),
    ("2300", "343"): ("paid_through", ""),
}

# The guide has no 348 and 349 of a member: they count if 356 and 357 are not there.
_ELSE: Final = {"eligibility_start": "member_start", "eligibility_end": "member_end"}

_Cells = dict[str, str]


class Unfit(Exception):
    """The interchange is not read. `why` is one of the refusals of `interchange.py`."""

    def __init__(self, why: str, **facts: object) -> None:
        super().__init__(why)
        self.why = why
        self.facts = facts


def answer(path: str, copy: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Decode an interchange into the copy, as JSON values: rows, skipped and its identity; or the refusal."""
    try:
        with Path(path).open(encoding=options["encoding"], newline="") as text:
            return _decode(_Watched(text), copy)
    except Unfit as error:
        return {"refused": error.why, **error.facts}
    except UnicodeError:
        return {"refused": words.DAMAGED, "segment": 0, "line": 0}
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        return refusal(error, words.DAMAGED)


def _decode(text: "_Watched", copy: str) -> dict[str, Any]:
    head = text.peek(_HEAD)
    _check_head(head)
    segments = _Segments(text, head)
    file = _Enrollment()
    frame = file.without_late_ssns(_frame(file.rows(segments)))
    if frame.height:
        frame.write_parquet(copy, compression="lz4", statistics=False)
    return {
        "rows": frame.height,
        "skipped": {WITHOUT_COVERAGE: file.skipped} if file.skipped else {},
        "interchange": {
            "parties": file.parties,
            "identity": file.identity,
            "number": file.number,
            "is_change": file.is_full is False,
            "created": file.created,
            "is_test": file.is_test,
        },
    }


def _check_head(head: str) -> None:
    """Raise Unfit if ISA has not the form that says how all else is parted."""
    if not head.startswith("ISA") or len(head) < _HEAD:
        raise Unfit(words.NO_HEAD)
    signs = [head[3], head[104], head[105]]
    parted = tuple(at for at, letter in enumerate(head[:104]) if letter == head[3])
    is_sign = all(not sign.isalnum() and sign not in ' ."' for sign in signs)
    if parted != _PARTED_AT or not is_sign or len(set(signs)) < len(signs):
        raise Unfit(words.NO_HEAD)
    if head[_VERSION_AT] != "00501":
        raise Unfit(words.VERSION, segment=1, line=1)


class _Watched:
    """A text whose lines are counted while it is read. `head` is what was looked at before."""

    closed: Final = False  # as pyx12 asks a file

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self._head = ""
        self.lines = 1

    def peek(self, size: int) -> str:
        """Return the first characters after blanks and line ends, which are read once more."""
        while len(self._head) < size and (more := self._text.read(size - len(self._head))):
            found = self._head + more
            self._head = found.lstrip(_BLANKS)
            self.lines += found[: len(found) - len(self._head)].count("\n")
        return self._head

    def read(self, size: int) -> str:
        """Return the next characters."""
        found, self._head = self._head[:size], self._head[size:]
        found += self._text.read(size - len(found))
        self.lines += found.count("\n")
        return found


class _Segments:
    """The segments of an interchange, as pyx12 cuts them, whose order and counts were checked."""

    def __init__(self, text: _Watched, head: str) -> None:
        self._text = text
        self._separator = head[3]
        self._signs = str.maketrans("", "", head[3] + head[82] + head[104])
        try:
            self._reader = X12Reader(text)
        except X12Error:
            raise Unfit(words.NO_HEAD) from None
        self._raw, self._reader.raw = self._reader.raw, self._lines()
        self._line = ""
        self.loop = ""
        self.number = 0

    def _lines(self) -> Iterator[str]:
        """Yield the texts of the segments to pyx12, and keep the last one: its own elements are slow."""
        for line in self._raw:
            self._line = line.lstrip(" \r\n")  # blanks may fill the lines
            self.number += 1
            yield self._line

    def __iter__(self) -> Iterator[list[str]]:
        """Yield each segment as its elements, with the loop that it is in as `loop`. Raises Unfit."""
        try:
            for _ in self._reader:
                found = [each.strip(" ") for each in self._line.split(self._separator)]
                self._place(found)
                self._check(found)
                yield found
        except (X12Error, EngineError, IndexError, ValueError):  # of pyx12, at broken trailers
            self.refuse(words.ORDER)
        if self.loop != "end":
            self.refuse(words.CUT)
        rest = self._raw.buffer
        while rest and not rest.strip(_AFTER_THE_END):
            rest = self._text.read(_CHUNK)
        if rest:
            self.refuse(words.MORE)

    def _place(self, found: Sequence[str]) -> None:
        """Find the loop of a segment."""
        name = found[0]
        if self.loop == "end":
            self.refuse(words.MORE)
        begun = _BEGINS[self.loop].get(name)
        if begun is None and name not in _STAYS[self.loop]:
            self.refuse(words.ORDER)
        self.loop = begun or self.loop

    def _check(self, found: Sequence[str]) -> None:
        """Refuse a segment with characters that no element has, and what pyx12 finds of the envelope."""
        if _CONTROL.search(self._line.translate(self._signs)):
            self.refuse(words.CHARACTERS)
        said = element(self._line.split(self._separator), 1)
        if found[0] in {"SE", "GE", "IEA"} and not _NUMBER.fullmatch(said):
            self.refuse(words.COUNT)
        for kind, code, *_ in self._reader.pop_errors():
            if code != _TRAILING:
                self.refuse(
                    _FOUND.get((kind, code), words.ORDER), counted=self._reader.seg_count + 1
                )

    def refuse(self, why: str, **facts: object) -> NoReturn:
        """Raise Unfit at this segment. Its line is counted from the text that was read and not yet cut."""
        ahead = self._raw.buffer.count("\n") + self._line.count("\n")
        ahead += self._reader.seg_term == "\n"
        name = self._line[:3].split(self._separator)[0]
        said = element(self._line.split(self._separator), 1)
        if re.fullmatch(r"[A-Z][A-Z0-9]{1,2}", name):
            facts["name"] = name
        if name in {"SE", "GE", "IEA"} and _NUMBER.fullmatch(said):
            facts["said"] = int(said)
        raise Unfit(why, segment=self.number, line=self._text.lines - ahead, **facts)


_FOUND: Final = {  # by pyx12's kind and code of an error
    ("isa", "001"): words.CONTROL,
    ("isa", "021"): words.COUNT,
    ("gs", "4"): words.CONTROL,
    ("gs", "5"): words.COUNT,
    ("gs", "6"): words.TWICE,
    ("st", "3"): words.CONTROL,
    ("st", "4"): words.COUNT_SEGMENTS,
    ("st", "23"): words.TWICE,
    ("seg", "8"): words.EMPTY,
}


def element(found: Sequence[str], number: int) -> str:
    """Return an element of a segment; "" if it is left out."""
    return found[number] if number < len(found) else ""


@dataclass(slots=True)
class _Person:
    """A member while its segments are read: its cells, those of its coverages, and the insurers beside each."""

    cells: _Cells = field(default_factory=dict)
    coverages: list[_Cells] = field(default_factory=list)
    insurers: list[list[_Cells]] = field(default_factory=list)
    ssns: set[str] = field(default_factory=set)


class _Enrollment:
    """Gathers the rows of an interchange: one for each coverage of a member."""

    def __init__(self) -> None:
        self.parties = ""
        self.identity = ""
        self.number = ""
        self.created = ""
        self.is_test = False
        self.is_full: bool | None = None
        self.skipped = 0
        self._file: _Cells = {}
        self._member: _Person | None = None
        self._subscriber: set[str] = set()  # the SSN of the last subscriber
        self._families: dict[str, set[str]] = {}  # the SSNs of subscribers, by their REF*0F
        self._ssns: set[str] = set()  # of all subscribers
        self._early: dict[int, str] = {}  # rows of dependents before their subscriber: REF*0F
        self._count = 0

    def rows(self, segments: _Segments) -> Iterator[list[str | None]]:
        """Yield the rows, in the order of COLUMNS. Raises Unfit."""
        for found in segments:
            if found[0] in {"INS", "SE"} and self._member is not None:
                yield from self._finish(self._member)
                self._member = None
            self._take(found, segments)

    def _take(self, found: Sequence[str], segments: _Segments) -> None:
        match found[0]:
            case "ISA" | "GS" | "ST" | "BGN":
                self._begin(found, segments)
            case "INS":
                self._member = _Person()
                self._keep(self._member.cells, found, _INS, segments)
            case "HD" if self._member:
                self._member.coverages.append({})
                self._member.insurers.append([])
                self._keep(self._member.coverages[-1], found, _HD, segments)
            case "COB" if self._member:
                self._member.insurers[-1].append({})
                self._keep(self._member.insurers[-1][-1], found, _COB, segments)
            case "NM1" if self._member:
                self._take_name(self._member, found, segments)
            case "DMG" if self._member and segments.loop == "2100A":
                self._keep_day(
                    self._member.cells, "birth_date", element(found, 1), element(found, 2)
                )
                self._keep(self._member.cells, found, ((3, "sex"),), segments)
            case "DTP" if self._member and segments.loop in {"2000", "2300"}:
                self._take_days(self._member, found, segments.loop)
            case "REF" | "N1":
                self._take_reference(found, segments)

    def _begin(self, found: Sequence[str], segments: _Segments) -> None:
        """Read the envelope, and what kind of file it is."""
        match found[0]:
            case "ISA":
                self.number = found[13]
                self.parties = "/".join(each.strip() for each in found[5:9])
                self.identity = f"{self.parties}/{found[13]}/"
                self.is_test = found[15] == _TEST
                self._see_instant(f"20{found[9]}", found[10])
            case "GS":
                if element(found, 1) != "BE":
                    segments.refuse(words.OTHER_SET)
                if element(found, 8) != _VERSION:
                    segments.refuse(words.VERSION)
                self.identity += f"{element(found, 6)},"
                self._see_instant(element(found, 4), element(found, 5))
            case "ST":
                if element(found, 1) != "834":
                    segments.refuse(words.OTHER_SET)
                if element(found, 3) not in {"", _VERSION}:
                    segments.refuse(words.VERSION)
                self._file = {}
                self._subscriber = set()
            case "BGN":
                is_full = _FULL.get(element(found, 8))
                if is_full is None:
                    segments.refuse(words.PURPOSE)
                if self.is_full not in {None, is_full}:
                    segments.refuse(words.MIXED)
                self.is_full = is_full
                self._see_instant(element(found, 3), element(found, 4))

    def _see_instant(self, day: str, time: str) -> None:
        """Keep the latest instant of the envelope, as digits: a sender may fill one and have a constant in another."""
        text = day + time[:6].ljust(6, "0")
        if re.fullmatch("[0-9]{14}", text):
            with suppress(ValueError):
                datetime.strptime(f"{text}Z", "%Y%m%d%H%M%S%z")  # no zone is given, nor needed
                self.created = max(self.created, text)

    def _take_name(self, member: _Person, found: Sequence[str], segments: _Segments) -> None:
        code, is_ssn = element(found, 1), element(found, 8) == _SSN
        if is_ssn:  # of any person: a former one (70), a responsible person, another insured
            member.ssns.add(element(found, 9))
        if segments.loop == "2100A":
            if code not in _MEMBER:
                segments.refuse(words.ORDER)
            self._keep(member.cells, found, _NAME, segments)
            if element(found, 8) == "ZZ":
                self._keep(member.cells, found, ((9, "member_identifier"),), segments)
        elif segments.loop == "2100" and code in _MEMBER:
            segments.refuse(words.REPEATED)
        elif segments.loop == "2330" and code == "IN":
            kept = _INSURER[:1] if is_ssn else _INSURER
            self._keep(member.insurers[-1][-1], found, kept, segments)

    def _take_days(self, member: _Person, found: Sequence[str], loop: str) -> None:
        columns = _DATES.get((loop, element(found, 1)))
        if columns is None:
            return
        cells = member.cells if loop == "2000" else member.coverages[-1]
        form, text = element(found, 2), element(found, 3)
        first, dash, last = text.partition("-")
        if form == "RD8" and dash and columns[1]:
            self._keep_day(cells, columns[0], "D8", first)
            self._keep_day(cells, columns[1], "D8", last)
        else:
            self._keep_day(cells, columns[0], form, text)

    def _take_reference(self, found: Sequence[str], segments: _Segments) -> None:
        code, member = element(found, 1), self._member
        if member is None:
            cells = self._file
        else:
            cells = member.coverages[-1] if segments.loop == "2300" else member.cells
            if found[0] == "REF" and code == "SY":
                member.ssns.add(element(found, 2))
        columns = _KEPT.get((segments.loop, found[0], code), ())
        if found[0] == "N1" and element(found, 3) == _SSN:
            columns = columns[:1]
        self._keep(cells, found, columns, segments)

    @staticmethod
    def _keep(
        cells: _Cells, found: Sequence[str], columns: Sequence[tuple[int, str]], segments: _Segments
    ) -> None:
        """Keep elements of a segment. Refuse a second one, if only one can be meant."""
        for number, column in columns:
            text = element(found, number)
            if column in cells and column.startswith(_MAY_REPEAT):
                cells[column] += _SEVERAL + text
            elif cells.setdefault(column, text) != text:
                segments.refuse(words.REPEATED)

    @staticmethod
    def _keep_day(cells: _Cells, column: str, form: str, text: str) -> None:
        """Keep a day as YYYY-MM-DD, or as the sender wrote it if it is none: then the field rejects the row.

        So it does if there are two days: no one knows which is meant, and other members have nothing to do with it.
        """
        if form == "D8" and re.fullmatch("[0-9]{8}", text):
            with suppress(ValueError):
                text = date(int(text[:4]), int(text[4:6]), int(text[6:])).isoformat()
        known = cells.get(column, "").split(_SEVERAL)
        if text not in known:
            cells[column] = _SEVERAL.join(filter(None, [*known, text]))

    def _finish(self, member: _Person) -> Iterator[list[str | None]]:
        """Yield the rows of a member."""
        cells = member.cells
        for column, other in _ELSE.items():
            if not cells.get(column):
                cells[column] = cells.get(other, "")
        ssns = {digits for each in member.ssns if (digits := _ssn_of(each))}
        family = cells.get("subscriber_number", "")
        is_subscriber = cells.get("member_indicator") == "Y"
        if is_subscriber:
            self._subscriber = ssns
            self._ssns |= ssns
            if family:
                self._families.setdefault(family, set()).update(ssns)
        is_early = not is_subscriber and family not in self._families
        hidden = ssns | self._subscriber | self._families.get(family, set())
        if not member.coverages:
            if not (
                cells.get("eligibility_end")
                or cells.get("maintenance_type") in {TERMINATION, REINSTATEMENT}
            ):
                self.skipped += 1
                return
            member.coverages.append({})
            member.insurers.append([])
        for coverage, insurers in zip(member.coverages, member.insurers, strict=True):
            for _, column in (*_COB, *_INSURER) if insurers else ():
                coverage[column] = _SEVERAL.join(each.get(column, "") for each in insurers)
            row = {**self._file, **cells, **coverage}
            if not row.get("end"):
                row["end"] = row.get("eligibility_end", "")
            if is_early:
                self._early[self._count] = family
            self._count += 1
            yield [_without(row.get(column, ""), hidden) for column in COLUMNS]

    def without_late_ssns(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Blank the cells of dependents that hold an SSN of their subscriber, who came after them.

        If no subscriber in the file has their REF*0F, it may hold the SSN of any.
        """
        early = list(self._early) if self._ssns else []
        if not early:
            return frame
        rows = [
            [_without(cell or "", self._families.get(family, self._ssns)) for cell in row]
            for row, family in zip(frame[early].rows(), self._early.values(), strict=True)
        ]
        number = "number"
        fixed = pl.DataFrame(rows, schema=frame.schema, orient="row")
        fixed = fixed.insert_column(0, pl.Series(number, early, dtype=pl.UInt32))
        others = frame.with_row_index(number).filter(~pl.col(number).is_in(early))
        return pl.concat([others, fixed]).sort(number).drop(number)


def _digits_of(text: str) -> str:
    return text.replace("-", "").replace(" ", "")


def _ssn_of(text: str) -> str:
    """Return the digits of an SSN; "" for another text, and for digits that only fill the place of one.

    Those that have lost their first zeros are found with and without them.
    """
    digits = _digits_of(text)
    if len(digits) not in _DIGITS or not digits.isdecimal() or len(set(digits)) == 1:
        return ""
    short = digits.lstrip("0")
    return short if len(short) in _DIGITS else digits


def _without(text: str, hidden: set[str]) -> str | None:
    """Return a cell; None if it is blank or holds an SSN of the member or the subscriber."""
    if hidden and len(text) >= _DIGITS[0]:
        digits = _digits_of(text)
        if len(hidden) > _FEW:
            parts = (digits[at : at + size] for size in _DIGITS for at in range(len(digits)))
            return None if any(each in hidden for each in parts) else text
        if any(each in digits for each in hidden):
            return None
    return text or None


def _frame(rows: Iterator[list[str | None]]) -> pl.DataFrame:
    """Return the rows as text, with columns named by their position. Raises Unfit."""
    schema = {str(number): pl.String for number in range(len(COLUMNS))}
    parts = [pl.DataFrame(schema=schema)]
    while chunk := list(islice(rows, _ROWS_A_GROUP)):
        parts.append(pl.DataFrame(chunk, schema=schema, orient="row"))
    return pl.concat(parts)
