"""The parts of a workbook that its decoder does not show: the date system, formula errors, formulas without a value.

calamine gives an empty cell for a formula's error and for a formula whose value was never stored. Both must not
pass for blanks, so this module reads the XML of the sheet a second time (ECMA-376, part 1, 18.2 and 18.3).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Final
from xml.parsers import expat
from zipfile import ZipFile, ZipInfo

from pipeline.reading.bounds import UNPACKED_BYTES_FREE, UNPACKED_RATIO_MAX, WORKBOOK_BYTES_MAX

_PARTS_MAX: Final = 10_000
_CHUNK: Final = 1 << 18
_CELL: Final = re.compile(r"([A-Z]{1,3})([1-9][0-9]{0,6})")
_XML: Final = (".xml", ".rels")
_MACROS: Final = "vbaproject.bin"
_WORKBOOK: Final = "xl/workbook.xml"
_BINARY: Final = "xl/workbook.bin"
_RELATIONS: Final = "xl/_rels/workbook.xml.rels"
ROWS_MAX: Final = 1_048_576  # of a sheet, as of its columns: the bounds of the format
COLUMNS_MAX: Final = 16_384
_TRUE: Final = {"1", "true"}

# By row and column, from 0: the error of a cell, such as #N/A; None for a formula whose value was not stored.
Marks = dict[tuple[int, int], str | None]


class Unfit(Exception):
    """The workbook is not read. `why` is one of the refusals of `workbook.py`."""

    def __init__(self, why: str, **facts: object) -> None:
        super().__init__(why)
        self.why = why
        self.facts = facts


DAMAGED: Final = "damaged"
MACROS: Final = "macros"
BINARY: Final = "binary"
BOMB: Final = "bomb"


@dataclass(frozen=True, slots=True)
class Book:
    """The facts of a workbook: its date system, and the part of the archive of each sheet, in order.

    `is_stale` if the workbook asks to be calculated when it is opened: its formulas may have no value, or a
    made-up one.
    """

    has_1904_dates: bool
    is_stale: bool
    parts: tuple[str, ...]


def checked(archive: ZipFile, size: int) -> bytes:
    """Return the XML of a workbook of `size` bytes as a new archive, after its checksums were checked.

    calamine checks none, and reads the directory of an archive in its own way. From a new archive it reads the
    same bytes as this module.

    Raises:
        Unfit: It is no workbook that is read.
        BadZipFile: It is damaged; zlib.error and others are possible, too.
    """
    infos = archive.infolist()
    names = {_normal(info.filename) for info in infos}
    unpacked = sum(info.file_size for info in infos)
    most = min(WORKBOOK_BYTES_MAX, max(UNPACKED_BYTES_FREE, size * UNPACKED_RATIO_MAX))
    if len(infos) > _PARTS_MAX or unpacked > most:
        raise Unfit(BOMB)
    if any(name.endswith(_MACROS) for name in names):
        raise Unfit(MACROS)
    if _BINARY in names:
        raise Unfit(BINARY)
    if len(names) < len(infos):
        raise Unfit(DAMAGED)
    copy = BytesIO()
    with ZipFile(copy, "w") as new:
        for info in infos:
            if _normal(info.filename).endswith(_XML):
                new.writestr(ZipInfo(info.filename), archive.read(info))
    return copy.getvalue()


def _normal(name: str) -> str:
    return name.replace("\\", "/").lower()


def read_book(archive: ZipFile) -> Book:
    """Return the facts of a workbook. Raises Unfit."""
    names = {_normal(name): name for name in archive.namelist()}
    if _WORKBOOK not in names or _RELATIONS not in names:
        raise Unfit(DAMAGED)
    found: dict[str, list[Mapping[str, str]]] = {}

    def see(name: str, attributes: Mapping[str, str]) -> None:
        if (local := _local(name)) in {"workbookPr", "calcPr", "sheet", "Relationship"}:
            found.setdefault(local, []).append(
                {_local(key): value for key, value in attributes.items()}
            )

    for part in (_WORKBOOK, _RELATIONS):
        _parse(archive, names[part], _parser(see))
    targets = {each.get("Id"): each.get("Target", "") for each in found.get("Relationship", ())}
    parts = [_part(targets.get(each.get("id"), "")) for each in found.get("sheet", ())]
    return Book(
        has_1904_dates=_says(found, "workbookPr", "date1904"),
        is_stale=_says(found, "calcPr", "fullCalcOnLoad"),
        parts=tuple(names.get(part.lower(), "") for part in parts),
    )


def _says(found: Mapping[str, list[Mapping[str, str]]], name: str, attribute: str) -> bool:
    return any(each.get(attribute) in _TRUE for each in found.get(name, ()))


def _part(target: str) -> str:
    """Return the name in the archive of a target, which is relative to the folder xl."""
    target = target.replace("\\", "/")
    if target.startswith("/"):
        return target[1:]
    return target if target.startswith("xl/") else f"xl/{target}"


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def read_marks(archive: ZipFile, part: str, *, is_stale: bool) -> Marks:
    """Return the marked cells of a sheet. Raises Unfit, or an error of zipfile, zlib or expat if it is damaged."""
    scan = _Scan(is_stale=is_stale)
    _parse(archive, part, scan.parser)
    return scan.marks


def _parser(start: Callable[[str, Mapping[str, str]], None]) -> expat.XMLParserType:
    """Return a parser that calls `start` for each element, whose name may have a prefix."""

    def refuse(*_: object) -> None:
        raise Unfit(DAMAGED)

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = (
        refuse  # a workbook has none, and entities could grow without bound
    )
    parser.StartElementHandler = start
    return parser


def _parse(archive: ZipFile, part: str, parser: expat.XMLParserType) -> None:
    with archive.open(part) as stream:
        while chunk := stream.read(_CHUNK):
            parser.Parse(chunk, False)
    parser.Parse(b"", True)


class _Scan:
    """Goes through the elements of a sheet. Texts are gathered only in cells of formulas and errors."""

    def __init__(self, *, is_stale: bool) -> None:
        self.marks: Marks = {}
        self.parser = _parser(self._start)
        self._is_stale = is_stale
        self._row = self._column = -1
        self._kind = self._text = ""
        self._has_formula = False

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        if ":" in name:
            name = _local(name)
        if name == "c":
            self._move(attributes.get("r"))
            self._kind, self._has_formula, self._text = attributes.get("t", "n"), False, ""
            if self._kind == "e":
                self.parser.EndElementHandler = self._end
        elif name == "f":
            self._has_formula = True
            self.parser.EndElementHandler = self._end
        elif name == "v" and self.parser.EndElementHandler:
            self.parser.CharacterDataHandler = self._gather
        elif name == "row":
            number = attributes.get("r", "")
            self._row = int(number) - 1 if number.isdecimal() else self._row + 1
            self._column = -1

    def _move(self, place: str | None) -> None:
        """Note the place of a cell; without one, it is to the right of the cell before."""
        if place is None:
            self._column += 1
            return
        matched = _CELL.fullmatch(place.upper())
        if matched is None:
            raise Unfit(DAMAGED)
        self._row, self._column = int(matched[2]) - 1, _column(matched[1])

    def _gather(self, text: str) -> None:
        self._text += text

    def _end(self, name: str) -> None:
        if _local(name) == "v":
            self.parser.CharacterDataHandler = None
        elif _local(name) == "c":
            self.parser.EndElementHandler = None
            self._mark()

    def _mark(self) -> None:
        """Judge a cell with a formula or an error. An empty text is a value of a formula."""
        cell, text = (self._row, self._column), self._text.strip()
        if not (0 <= cell[0] < ROWS_MAX and 0 <= cell[1] < COLUMNS_MAX):
            raise Unfit(DAMAGED)
        if self._has_formula and (self._is_stale or not (text or self._kind == "str")):
            self.marks[cell] = None
        elif self._kind == "e":
            self.marks[cell] = text or "#ERROR"


def _column(letters: str) -> int:
    """Return the number of a column, from 0: A is 0, Z 25, AA 26."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def letters_of(column: int) -> str:
    """Return the letters of a column, as a spreadsheet shows them."""
    letters = ""
    while column >= 0:
        letters, column = chr(ord("A") + column % 26) + letters, column // 26 - 1
    return letters
