"""The sender's control totals, and the manifest that names them. Pure.

Numbers are read as they are written, never through a float: a total must match to the cent. An error
names the line or the key and never repeats the content, because the file may be the wrong one and hold
rows.
"""

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NoReturn

from pipeline.errors import InputError
from pipeline.fhir.datatypes import DOLLARS

_ROWS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
_USD: Final = re.compile(rf"-?{DOLLARS}", re.ASCII)
_FIX: Final = 'a manifest is {"rows": 5000, "total_usd": "12345.67"}, or the lines rows=5000 and total_usd=12345.67'


@dataclass(frozen=True, slots=True)
class Expected:
    """The sender's control totals for a feed. None: not given."""

    rows: int | None = None
    total_cents: int | None = None


def manifest_of(content: bytes, file: str, *, has_money: bool) -> Expected:
    """Parse one manifest. Raises InputError. `has_money`: whether the feed has a total."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError("this is no manifest: bytes that are not UTF-8", _FIX, file=file) from None
    pairs = _of_json(text, file) if text.lstrip().startswith("{") else _of_lines(text, file)
    found: dict[str, int] = {}
    for where, line, name, value in pairs:
        reader = _READERS.get(name)
        if reader is None:
            near = difflib.get_close_matches(name, _READERS, n=1, cutoff=0.6)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            _refuse(f"{where}only rows and total_usd are known.{hint}", file, line)
        if name == "total_usd" and not has_money:
            _refuse(
                f"{where}total_usd is named, and an eligibility feed has no amounts", file, line
            )
        if name in found:
            _refuse(f"{where}{name} is named twice", file, line)
        pattern, allowed, scale = reader
        if not isinstance(value, str) or not pattern.fullmatch(value):
            _refuse(f"{where}{name} must be {allowed}", file, line)
        found[name] = int(Decimal(value).scaleb(scale))
    if not found:
        _refuse("it names neither rows nor total_usd", file)
    return Expected(found.get("rows"), found.get("total_usd"))


_READERS: Final = {
    "rows": (_ROWS, "a whole number, such as 5000", 0),
    "total_usd": (
        _USD,
        "a plain number with at most two decimals, such as 12345.67: no currency sign, no thousands separator, no exponent",
        2,
    ),
}

Pair = tuple[
    str, int | None, str, object
]  # the place if it has no line, the line, the name, the value


def _of_lines(text: str, file: str) -> Iterable[Pair]:
    for number, line in enumerate(text.splitlines(), 1):
        said = line.partition("#")[0].strip()
        name, equals, value = said.partition("=")
        if said and not equals:
            _refuse("this is no name=number", file, number)
        if said:
            yield "", number, name.strip(), value.strip()


def _of_json(text: str, file: str) -> Iterable[Pair]:
    """Yield pairs of JSON. Objects are parsed as tuples, so that a repeated name shows, and numbers as text."""
    try:
        pairs = json.loads(
            text, parse_float=str, parse_int=str, parse_constant=str, object_pairs_hook=tuple
        )
    except json.JSONDecodeError as error:
        _refuse("no valid JSON", file, error.lineno)
    except RecursionError:
        _refuse("no valid JSON: too deep", file)
    for number, (name, value) in enumerate(pairs, 1):
        where = "" if name in _READERS else f"key number {number}: "
        yield where, None, name, value


def _refuse(message: str, file: str, line: int | None = None) -> NoReturn:
    raise InputError(message, f"{_FIX}; ask the sender for it again", file=file, line=line)
