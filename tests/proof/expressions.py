"""SQL over one row, at random, with its value in plain Python: docs/mapping.md, "SQL".

Each part of an expression is its text, and a function from a row to its value: a text, a Decimal, a bool, or
None for NULL. A `cast` without a result raises `NoValue`, and only where it is calculated.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Context, Decimal, Inexact
from random import Random
from typing import Any, Final, NamedTuple

Row = Mapping[str, str | None]
COLUMNS: Final = ("A", "B", "C d", "E-x")
_EXACT: Final = Context(prec=80, traps=[Inexact])
_DEPTH: Final = 3


class NoValue(Exception):
    """The expression has no value for a row."""


class Part(NamedTuple):
    """A part of an expression: SQL, and what it is for a row."""

    sql: str
    value: Callable[[Row], Any]


def number(random: Random, depth: int = _DEPTH) -> Part:  # noqa: PLR0911 - one for each kind
    """Return an expression whose value is a decimal."""
    if depth <= 0:
        return _leaf(random)
    kind = random.choice(["leaf", "+", "-", "*", "/", "coalesce", "abs", "case", "nullif", "minus"])
    if kind == "leaf":
        return _leaf(random)
    first = number(random, depth - 1)
    if kind in {"+", "-"}:
        second = number(random, depth - 1)
        plus = kind == "+"
        return Part(
            f"({first.sql} {kind} {second.sql})",
            lambda row: _both(row, first, second, _EXACT.add if plus else _EXACT.subtract),
        )
    if kind == "*":
        factor = random.choice(["2", "-1", "0", "10"])
        return Part(
            f"({first.sql} * {factor})", lambda row: _each(first.value(row), lambda x: _EXACT.multiply(x, Decimal(factor)))
        )  # fmt: skip
    if kind == "/":
        return _halved(random)
    if kind == "coalesce":
        return _coalesce(first, number(random, depth - 1))
    if kind == "abs":
        return Part(f"abs({first.sql})", lambda row: _each(first.value(row), abs))
    if kind == "minus":
        return Part(f"(-{first.sql})", lambda row: _each(first.value(row), lambda x: -x))
    if kind == "nullif":
        return _nullif(first, number(random, depth - 1))
    return _case(random, depth, first, number(random, depth - 1))


def text(random: Random, depth: int = _DEPTH) -> Part:
    """Return an expression whose value is a text."""
    if depth <= 0:
        return random.choice([_column(random), _column(random), _literal(random)])
    first = text(random, depth - 1)
    second = text(random, depth - 1)
    at, many = random.choice([1, 2, 3]), random.choice([1, 2, 5])
    part = random.choice([1, 2, 3])
    found: Callable[[], Part] = random.choice(
        [
            lambda: _column(random),
            lambda: _coalesce(first, second),
            lambda: _nullif(first, second),
            lambda: _case(random, depth, first, second),
            lambda: Part(f"({first.sql} || {second.sql})", lambda row: _both(row, first, second, lambda x, y: x + y)),
            lambda: Part(f"upper({first.sql})", lambda row: _each(first.value(row), str.upper)),
            lambda: Part(f"lower({first.sql})", lambda row: _each(first.value(row), str.lower)),
            lambda: Part(f"left({first.sql}, {many})", lambda row: _each(first.value(row), lambda x: x[:many])),
            lambda: Part(f"right({first.sql}, {many})", lambda row: _each(first.value(row), lambda x: x[-many:])),
            lambda: Part(f"substr({first.sql}, {at}, {many})", lambda row: _each(first.value(row), lambda x: x[at - 1 : at - 1 + many])),
            lambda: Part(f"replace({first.sql}, ',', '')", lambda row: _each(first.value(row), lambda x: x.replace(",", ""))),
            lambda: Part(f"replace({first.sql}, '.', '$1')", lambda row: _each(first.value(row), lambda x: x.replace(".", "$1"))),
            lambda: Part(f"split_part({first.sql}, '-', {part})", lambda row: _each(first.value(row), lambda x: _split(x, part))),
        ]
    )  # fmt: skip
    return found()


def condition(random: Random, depth: int = _DEPTH) -> Part:  # noqa: PLR0911 - one for each kind
    """Return an expression whose value is true, false or NULL."""
    if depth > 1 and random.random() < 0.5:
        first, second = condition(random, depth - 1), condition(random, depth - 1)
        kind = random.choice(["and", "or", "not"])
        if kind == "not":
            return Part(f"(not {first.sql})", lambda row: _each(first.value(row), lambda x: not x))
        is_and = kind == "and"
        return Part(
            f"({first.sql} {kind} {second.sql})",
            lambda row: _joined(row, first, second, is_and=is_and),
        )
    kind = random.choice(["number", "text", "like", "in", "null", "between"])
    if kind == "number":
        return _compared(random, number(random, depth - 1), number(random, depth - 1))
    one = text(random, depth - 1)
    if kind == "text":
        return _compared(random, one, text(random, depth - 1))
    negated = random.choice(["", "not "])
    if kind == "like":
        how, pattern = random.choice(["like", "ilike"]), random.choice(["P%", "%d", "_a%", "%5_", "1.5", "%(%", "[A]%", "%", "_", "paid%"])  # fmt: skip
        flags = re.DOTALL | (re.IGNORECASE if how == "ilike" else 0)
        compiled = re.compile("".join({"%": ".*", "_": "."}.get(each, re.escape(each)) for each in pattern), flags)  # fmt: skip
        return Part(
            f"({one.sql} {negated}{how} '{pattern}')",
            lambda row: _each(one.value(row), lambda x: bool(compiled.fullmatch(x)) != bool(negated)),
        )  # fmt: skip
    if kind == "in":
        names = random.sample(["Paid", "Void", "1", "12.50", "paid", ""], random.choice([1, 2, 3]))
        listed = ", ".join(f"'{name}'" for name in names)
        return Part(
            f"({one.sql} {negated}in ({listed}))",
            lambda row: _each(one.value(row), lambda x: (x in names) != bool(negated)),
        )
    if kind == "null":
        either: Part = random.choice([one, number(random, depth - 1)])
        return Part(
            f"({either.sql} is {negated}null)",
            lambda row: (either.value(row) is None) != bool(negated),
        )
    amount = number(random, depth - 1)
    return Part(
        f"({amount.sql} {negated}between 1 and 20.5)",
        lambda row: _each(
            amount.value(row), lambda x: (1 <= x <= Decimal("20.5")) != bool(negated)
        ),
    )


def _column(random: Random) -> Part:
    name = random.choice(COLUMNS)
    return Part(f'"{name}"', lambda row: row[name])


def _literal(random: Random) -> Part:
    value = random.choice(["", "Paid", "12.50", "x-y", "é", "a.b", "-"])
    return Part(f"'{value}'", lambda _row: value)


def _leaf(random: Random) -> Part:
    name, how = random.choice(COLUMNS), random.choice(["cast", "cast", "try_cast"])
    digits, scale = random.choice([(18, 2), (18, 2), (18, 4), (10, 0), (5, 2)])
    kind = f"decimal({digits},{scale})"
    if (digits, scale) == (10, 0):
        digits, kind = random.choice([(18, "int"), (10, kind)])
    return Part(
        f'{how}("{name}" as {kind})',
        lambda row: _cast(row[name], digits, scale, is_tried=how == "try_cast"),
    )


def _cast(cell: str | None, digits: int, scale: int, *, is_tried: bool) -> Decimal | None:
    if cell is None:
        return None
    plain = re.fullmatch(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)", cell, re.ASCII)
    if plain:
        value = Decimal(cell)
        if abs(value) < 10 ** (digits - scale) and value == round(value, scale):
            return value
    if is_tried:
        return None
    raise NoValue


def _halved(random: Random) -> Part:
    name, by = random.choice(COLUMNS), random.choice(["2", "4", "3", "100"])

    def value(row: Row) -> Decimal | None:
        found = _cast(row[name], 18, 2, is_tried=False)
        if found is None:
            return None
        try:
            return _EXACT.divide(found, Decimal(by))
        except Inexact:
            raise NoValue from None

    return Part(f'(cast("{name}" as decimal(18,2)) / {by})', value)


def _each(value: Any, work: Callable[[Any], Any]) -> Any:
    return None if value is None else work(value)


def _both(row: Row, first: Part, second: Part, work: Callable[[Any, Any], Any]) -> Any:
    one, two = first.value(row), second.value(row)
    return None if one is None or two is None else work(one, two)


def _coalesce(first: Part, second: Part) -> Part:
    def value(row: Row) -> Any:
        found = first.value(row)
        return second.value(row) if found is None else found

    return Part(f"coalesce({first.sql}, {second.sql})", value)


def _nullif(first: Part, second: Part) -> Part:
    def value(row: Row) -> Any:
        one, two = first.value(row), second.value(row)
        return None if one == two else one

    return Part(f"nullif({first.sql}, {second.sql})", value)


def _case(random: Random, depth: int, first: Part, second: Part) -> Part:
    test = condition(random, depth - 1)
    if random.random() < 0.3:
        return Part(
            f"case when {test.sql} then {first.sql} end",
            lambda row: first.value(row) if test.value(row) else None,
        )
    return Part(
        f"case when {test.sql} then {first.sql} else {second.sql} end",
        lambda row: (first if test.value(row) else second).value(row),
    )


def _joined(row: Row, first: Part, second: Part, *, is_and: bool) -> bool | None:
    one = first.value(row)
    if one is not None and one != is_and:
        return bool(one)
    two = second.value(row)
    if two is not None and two != is_and:
        return bool(two)
    return None if one is None or two is None else is_and


_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "=": lambda x, y: x == y,
    "<>": lambda x, y: x != y,
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
}


def _compared(random: Random, first: Part, second: Part) -> Part:
    sign = random.choice(list(_COMPARISONS))
    return Part(
        f"({first.sql} {sign} {second.sql})",
        lambda row: _both(row, first, second, _COMPARISONS[sign]),
    )


def _split(value: str, part: int) -> str:
    pieces = value.split("-")
    return pieces[part - 1] if part <= len(pieces) else ""


def cell(random: Random) -> str | None:
    """Return a cell, good or hostile to a cast or a comparison."""
    cents = random.randrange(5000)
    plain = f"{cents // 100}.{cents % 100:02}"
    return random.choice(
        [
            plain, plain, plain, f"-{plain}", f"+{plain}", str(cents), "0", "0.00", "12.50", "12.5", "12.500", "12.345", ".5", "5.", ".", "1e3",
            "$5.00", "1,000.00", "(5.00)", "NaN", "inf", "--1", "\uff15", "0x1", "1_0", "99999999999999999.99", "9999999999999999.99",
            "123456789012345678", "1234567890123456789", "9" * 40, "0.005", "999.99", "1000.00", "00012.50", "-0", "-0.00",
            None, None, "", "  ", "Paid", "paid", "PAID", "Void", " Paid ", "a-b-c", "-", "é日", "\U0001f600-x", "a.b", "NULL", '="12.50"', '="x"',
            "it's", 'a"b', "a\nb", "[A]", "(x)", "\\", "%", "_",
        ]
    )  # fmt: skip
