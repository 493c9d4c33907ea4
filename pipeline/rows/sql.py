"""SQL over one row: the expressions of `where` and `{ sql = "..." }`, by polars' own SQL.

A row must become the same whatever rows are beside it, and whenever it is read. So an expression is taken
apart when the configuration is read, and each of its parts must be in the lists below: no aggregate, no
window, no subquery, no clock, nothing that reads a file.

polars rounds where it casts (`12.345` as decimal(18,2) is 12.34), reads `1e3` as a number, and fails a whole
file for one cell. So each cast is replaced: its result is exact or NULL, and a row in which `cast` (not
`try_cast`) has no exact result is a fault, with a reason. As in SQL, only the branch of a `case` that is
taken can fail, only the arguments of `coalesce` that are needed, and of `and` and `or` the right side only
if the left side leaves it open.
"""

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, NoReturn

import polars as pl

from pipeline.errors import IngestError
from pipeline.rows.dates import has_zone

Json = dict[str, Any]

_LENGTH_MAX: Final = 4_000  # characters: polars' parser recurses
_OPERATORS: Final = frozenset(
    {"Eq", "NotEq", "EqValidity", "NotEqValidity", "Lt", "LtEq", "Gt", "GtEq", "And", "Or"}
)
_ARITHMETIC: Final = frozenset({"Plus", "Minus", "Multiply", "Divide"})
_SPELLINGS: Final = {"Mul": "Multiply", "Div": "Divide"}  # polars has two ways to write an operator
_WHOLE_DIGITS: Final = 18
_FAILED_MAX: Final = 100  # rows that are looked for by halves: each takes some 20 evaluations
_FUNCTIONS: Final = frozenset(
    {"Coalesce", "FillNull", "Abs", "Negate", "Sql.Binary", "Sql.IsIn"}
    | {"Boolean.Not", "Boolean.IsNull", "Boolean.IsNotNull", "StringExpr.Slice"}
    | {"StringExpr.StartsWith", "StringExpr.EndsWith", "StringExpr.Contains", "StringExpr.Find"}
    | {"StringExpr.Lowercase", "StringExpr.Uppercase", "StringExpr.Replace", "StringExpr.LenChars"}
    | {"StringExpr.StripChars", "StringExpr.StripCharsStart", "StringExpr.StripCharsEnd"}
    | {"StringExpr.PadStart", "StringExpr.PadEnd", "StringExpr.ConcatHorizontal"}
    | {"StringExpr.Split", "ListExpr.Get", "StringExpr.Strptime"}
)
_PATTERNS: Final = frozenset({"StringExpr.Contains", "StringExpr.Find", "StringExpr.Replace"})
_CONSTANTS: Final = frozenset({"String", "Null", "Boolean", "Int", "Decimal", "Series"})
_WHOLE_NUMBERS: Final = re.compile("U?Int(8|16|32|64|128)")
_REFUSED: Final = {
    "Agg": "an aggregate (sum, count, min, max ...) looks at other rows",
    "Len": "a count or a number of a row looks at other rows",
    "Over": "a window (over) looks at other rows",
    "Rolling": "a window (over) looks at other rows",
    "SubPlan": "a query in the expression (select, exists) looks at other rows",
    "Explode": "unnest makes several rows of one",
    "Selector": "it stands for several columns: name one, in double quotes",
    "Alias": "it has a name (as ...): leave the name out",
    "StructExpr": 'a name with a dot is not a column: write the whole name in double quotes, "a.b"',
    "Range": "a number of a row looks at other rows",
}
_NOT_ALLOWED: Final = "it has a part that is not allowed here"
_COLUMNS_HELP: Final = "columns are written in double quotes, texts in single quotes"


@dataclass(frozen=True, slots=True)
class Compiled:
    """An expression that is fit to be evaluated.

    `value` is a text, or true, false or NULL for a condition; `fault` the reason why a row has no value, or
    NULL.
    """

    columns: tuple[str, ...]
    value: pl.Expr
    fault: pl.Expr
    kind: type[pl.DataType]  # of the value
    is_decimal: bool = False  # the text is a number with a decimal point


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of an expression. Where a fault's condition is true, the part has no value, for that reason."""

    node: Json
    kind: pl.DataType
    faults: tuple[tuple[pl.Expr, str], ...] = ()

    @property
    def expr(self) -> pl.Expr:
        return _expr(self.node)


@cache
def compile_value(text: str) -> Compiled:
    """Return the expression of a field. Raises ValueError that says in plain words what is wrong with it."""
    part, columns = _parsed(text, "set a value for all rows in [feeds.constants]")
    kind, value = part.kind, part.expr.cast(pl.String)
    if isinstance(kind, pl.Decimal):  # 12.34000000 is 12.34
        value = value.str.replace(r"^(-?\d+\.\d\d\d*?)0+$", "${1}")
    elif kind not in (pl.String, pl.Boolean, pl.Date) and not kind.is_integer():
        raise ValueError(
            "its result must be a text, a decimal, a whole number, a day, or true or false"
        )
    is_decimal = isinstance(kind, pl.Decimal)
    return Compiled(columns, value, _reason(part.faults), pl.String, is_decimal)


@cache
def compile_condition(text: str) -> Compiled:
    """Return the condition of `where`. Raises ValueError that says in plain words what is wrong with it."""
    part, columns = _parsed(text, "all rows would meet it, or none")
    if part.kind != pl.Boolean:
        raise ValueError("it must be a condition, that is true or false for a row")
    return Compiled(columns, part.expr, _reason(part.faults), pl.Boolean)


def evaluate(frame: pl.DataFrame, compiled: Compiled) -> tuple[pl.Series, pl.Series]:
    """Return the value of each row, and the reason if it has none (else null).

    Args:
        frame: The columns of the expression, trimmed, and null if blank.
        compiled: The expression.

    Raises:
        IngestError: polars cannot calculate it for many rows.
    """
    found = pl.concat(_by_halves(frame, compiled, []))
    failed = found["fault"].is_not_null()
    return found["value"].set(failed, None), found["fault"]


def _by_halves(
    frame: pl.DataFrame, compiled: Compiled, failed: list[None]
) -> Iterator[pl.DataFrame]:
    """Yield value and fault of each row; if polars cannot calculate all of them at once, by halves.

    Only what no list above foresees fails so, such as a product of more than 38 digits.
    """
    try:
        # Not by `select`: polars makes one row of a comparison that no row can meet.
        both = frame.with_columns(value=compiled.value, fault=compiled.fault)
        yield both.select("value", "fault")
    except pl.exceptions.PolarsError:
        if frame.height > 1:
            for half in (frame[: frame.height // 2], frame[frame.height // 2 :]):
                yield from _by_halves(half, compiled, failed)
            return
        failed.append(None)
        if len(failed) > _FAILED_MAX:
            columns = ", ".join(f'"{name}"' for name in compiled.columns)
            raise IngestError(
                f"the SQL over {columns} cannot be calculated for more than {_FAILED_MAX} rows: numbers of more than 38 digits",
                "cast to a type that holds fewer, such as decimal(18,2)",
            ) from None
        kinds: Json = {"value": compiled.kind, "fault": pl.String}
        yield pl.DataFrame({"value": [None], "fault": ["a number has too many digits"]}, kinds)


def _reason(faults: Sequence[tuple[pl.Expr, str]]) -> pl.Expr:
    reasons = [pl.when(is_fault).then(pl.lit(reason)) for is_fault, reason in faults]
    return pl.coalesce(*reasons, pl.lit(None, dtype=pl.String))


def _parsed(text: str, without_columns: str) -> tuple[_Part, tuple[str, ...]]:
    if len(text) > _LENGTH_MAX:
        raise ValueError(f"it is longer than {_LENGTH_MAX:,} characters")
    try:
        found = pl.sql_expr(text)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, RecursionError) as error:
        unknown = re.match(r"unsupported function '(\w+)'", str(error))
        what = f"there is no function {unknown[1]}" if unknown else "it cannot be read as SQL"
        raise ValueError(f"{what}: {_COLUMNS_HELP}") from None
    try:
        node = json.loads(found.meta.serialize(format="json"))
    except pl.exceptions.PolarsError:  # some windows cannot be written down
        raise ValueError(_NOT_ALLOWED) from None
    columns = tuple(dict.fromkeys(found.meta.root_names()))
    schema = pl.Schema(dict.fromkeys(columns, pl.String()))
    part = _Reader(schema).read(node)
    if not columns:
        raise ValueError(f"it uses no column: {without_columns}")
    try:  # comparisons of different kinds fail on any row, even on a blank one
        pl.DataFrame({name: [None] for name in columns}, schema=schema).select(part.expr)
    except pl.exceptions.PolarsError:
        _mixed()
    return part, columns


def _mixed() -> NoReturn:
    raise ValueError(
        "its parts do not fit together: cells are texts; cast them to calculate, or to compare them with numbers: "
        'cast("Amount" as decimal(18,2)) > 0'
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the parts of an expression, from the inner to the outer ones, all of which must be in the lists."""

    schema: pl.Schema

    def read(self, node: Any) -> _Part:
        kind, body = _kind_of(node)
        if kind == "Column":
            return _Part(node, pl.String())
        if kind == "Literal":
            return self._constant(node)
        if kind == "BinaryExpr":
            sides = body["left"], body["right"]
            return self._operator(
                sides,
                body["op"],
                lambda left, right: {kind: {**body, "left": left, "right": right}},
            )
        if kind == "Cast":
            return self._cast(body)
        if kind == "Ternary":
            return self._choice(body)
        if kind == "Function":
            return self._function(body)
        raise ValueError(_REFUSED.get(kind, _NOT_ALLOWED))

    def _part(self, node: Json, faults: Sequence[tuple[pl.Expr, str]]) -> _Part:
        try:
            (kind,) = pl.LazyFrame(schema=self.schema).select(_expr(node)).collect_schema().dtypes()
        except (pl.exceptions.PolarsError, ValueError):
            _mixed()
        if kind.is_float():
            raise ValueError(
                "a number with a floating point is not exact: cast to decimal(18,2) instead, on both sides of a division"
            )
        return _Part(node, kind, tuple(faults))

    def _constant(self, node: Json) -> _Part:
        kind = next(iter(node["Literal"]))
        inner = node["Literal"][kind]
        named = next(iter(inner)) if isinstance(inner, dict) else kind
        if named == "Float":
            raise ValueError("write a number without an exponent")
        if named not in _CONSTANTS and not _WHOLE_NUMBERS.fullmatch(named):
            raise ValueError(
                "the clock (now, current_date) and constant days are not allowed, because a row must become the same "
                "on every day: write a day as date('2026-11-01', '%Y-%m-%d')"
            )
        return self._part(node, ())

    def _operator(
        self, sides: Sequence[Json], op: str, node: Callable[[Json, Json], Json]
    ) -> _Part:
        left, right = map(self.read, sides)
        if op not in _OPERATORS | _ARITHMETIC:
            raise ValueError("it has an operator that is not allowed here")
        faults = list(left.faults)
        if op in ("And", "Or"):
            is_open = left.expr.fill_null(op == "And") == (op == "And")
            faults += [(is_open & is_fault, reason) for is_fault, reason in right.faults]
        else:
            faults += right.faults
        are_texts = [part.kind == pl.String for part in (left, right) if part.kind != pl.Null]
        if op not in ("And", "Or") and any(are_texts) and not all(are_texts):
            _mixed()
        if op == "Divide" and not _is_nonzero(sides[1]):
            raise ValueError("a division must be by a constant number that is not zero")
        part = self._part(node(left.node, right.node), faults)
        if op in _ARITHMETIC and part.kind == pl.String and not all(map(_is_cast_to_text, sides)):
            raise ValueError(
                "texts cannot be added: cast them to decimal(18,2), or join them with ||"
            )
        if op != "Divide":
            return part
        is_fault = (part.expr * right.expr != left.expr).fill_null(value=False)
        return replace(
            part, faults=(*part.faults, (is_fault, "division: the result would be rounded"))
        )

    def _choice(self, body: Json) -> _Part:
        test, then, other = (self.read(body[name]) for name in ("predicate", "truthy", "falsy"))
        is_met = test.expr.fill_null(value=False)
        faults = [
            *test.faults,
            *((is_met & is_fault, reason) for is_fault, reason in then.faults),
            *((~is_met & is_fault, reason) for is_fault, reason in other.faults),
        ]
        node = {"predicate": test.node, "truthy": then.node, "falsy": other.node}
        return self._part({"Ternary": node}, faults)

    def _function(self, body: Json) -> _Part:
        name = ".".join(_names(body["function"]))
        if name not in _FUNCTIONS:
            raise ValueError(
                _REFUSED.get(name.partition(".")[0], "it has a function that is not allowed here")
            )
        if name == "Sql.Binary":
            op = body["function"]["Sql"]["Binary"]
            return self._operator(
                body["input"],
                _SPELLINGS.get(op, op),
                lambda *sides: {"Function": {**body, "input": list(sides)}},
            )
        if name == "StringExpr.Slice" and _is_padded(body["input"][0]):
            return self.read(body["input"][0])  # lpad would cut a longer id to another one
        inputs = [self.read(each) for each in body["input"]]
        if (
            name == "Sql.IsIn"
            and _item(inputs[1].kind) == pl.String
            and inputs[0].kind != pl.String
        ):
            _mixed()
        if name == "StringExpr.Slice" and "Literal" not in inputs[1].node:
            inputs[1] = replace(inputs[1], node=_json(_not_negative(inputs[1].expr)))
        faults: list[tuple[pl.Expr, str]] = []
        before = pl.lit(value=True)
        for part in inputs:
            faults += [(before & is_fault, reason) for is_fault, reason in part.faults]
            if name == "Coalesce":
                before &= part.expr.is_null()
        node = {"Function": {**body, "input": [part.node for part in inputs]}}
        if name in _PATTERNS:
            _check_pattern(body)
        if name == "StringExpr.Find":  # strpos looks for a text, not for a pattern
            body["function"]["StringExpr"]["Find"]["literal"] = True
        part = self._part(node, faults)
        return self._day(part, inputs[0]) if name == "StringExpr.Strptime" else part

    def _day(self, part: _Part, text: _Part) -> _Part:
        options = part.node["Function"]["function"]["StringExpr"]["Strptime"][1]
        if options["format"] is None:
            raise ValueError("date needs a format: date(\"Posted\", '%m/%d/%Y')")
        signs = ("%z", "%Z", "%:", "%#", "%+", "%s")
        if has_zone(options["format"]) or any(sign in options["format"] for sign in signs):
            raise ValueError(
                "date cannot read an instant with a zone: map the column itself, and set timezone"
            )
        options["strict"] = False
        is_fault = text.expr.is_not_null() & part.expr.is_null()
        fault = is_fault, "date: a text is not a day of that format"
        return _Part(part.node, part.kind, (*part.faults, fault))

    def _cast(self, body: Json) -> _Part:
        inner = self.read(body["expr"])
        kind = self._part(inner.node, ()).kind
        target = body["dtype"]
        is_whole = _WHOLE_NUMBERS.fullmatch(str(target.get("Literal")))
        if is_whole and (kind == pl.String or isinstance(kind, pl.Decimal)):
            target = {"Literal": {"Decimal": [_WHOLE_DIGITS, 0]}}  # which does not overflow unseen
        node = {"Cast": {"expr": inner.node, "dtype": target, "options": "NonStrict"}}
        made = self._part(node, inner.faults)
        is_plain = made.kind in (pl.String, kind)
        is_plain |= made.kind == pl.Date and isinstance(kind, pl.Datetime)
        if is_plain:
            return made
        is_number = isinstance(made.kind, pl.Decimal) or made.kind.is_integer()
        if not is_number or not (kind in (pl.String, pl.Null) or kind.is_numeric()):
            raise ValueError(
                "a text can be cast to a decimal or a whole number only; a day is date(\"Posted\", '%m/%d/%Y')"
            )
        reason = "cast: a number has more digits than the type holds"
        if kind == pl.String and isinstance(made.kind, pl.Decimal):
            fits = (
                inner.expr.str.contains(_number(made.kind.scale)) & made.expr.is_not_null()
            ).fill_null(value=False)
            reason = "cast: a text is not a plain number, or has more digits than the type holds"
        else:
            fits = (made.expr.cast(kind, strict=False) == inner.expr).fill_null(value=False)
        exact = self._part(_json(pl.when(fits).then(made.expr)), inner.faults)
        if body["options"] != "Strict":
            return exact
        is_fault = inner.expr.is_not_null() & ~fits
        return _Part(exact.node, exact.kind, (*inner.faults, (is_fault, reason)))


def _not_negative(start: pl.Expr) -> pl.Expr:
    """Return where a part of a text starts: polars counts a negative one, as of right("A", 4) of a short text, from the end."""
    return pl.when(start < 0).then(0).otherwise(start)


def _number(scale: int) -> str:
    """Return the pattern of the texts that a decimal with `scale` digits after the point holds without rounding."""
    return rf"\A[+-]?(?:[0-9]+(?:\.[0-9]{{0,{scale}}}0*)?|\.[0-9]{{0,{scale}}}0*)\z"


def _is_cast_to_text(node: Json) -> bool:
    return "Cast" in node and node["Cast"]["dtype"] == {"Literal": "String"}


def _check_pattern(body: Json) -> None:
    """Raise ValueError for a pattern that is not a constant, or no pattern."""
    pattern = body["input"][1].get("Literal", {}).get("Scalar", {}).get("String")
    if pattern is None or any("Literal" not in each for each in body["input"][1:]):
        raise ValueError("the text or pattern that is looked for must be a constant, not a column")
    if any(each["Literal"] == {"Scalar": {"Null": "Null"}} for each in body["input"][1:]):
        raise ValueError("the text that replaces another must not be NULL: write ''")
    try:
        pl.Series([""]).str.contains(pattern, literal=bool(_is_literal(body)))
    except pl.exceptions.PolarsError:
        raise ValueError("its pattern is no regular expression") from None


def _is_literal(body: Json) -> bool:
    (options,) = body["function"]["StringExpr"].values()
    return bool(options["literal"])


def _is_padded(node: Json) -> bool:
    """Return whether a node pads a text; polars' `lpad` and `rpad` cut its result to the length."""
    function = node.get("Function", {}).get("function", {})
    names = ".".join(_names(function)) if function else ""
    return names in ("StringExpr.PadStart", "StringExpr.PadEnd")


def _is_nonzero(node: Json) -> bool:
    """Return whether a node is a constant number other than zero."""
    constant = node.get("Literal", {})
    numbers = constant.get("Dyn", constant.get("Scalar", {}))
    value = next(iter(numbers.values()), 0)
    return bool(value[0] if isinstance(value, list) else value)


def _item(kind: pl.DataType) -> object:
    return kind.inner if isinstance(kind, pl.List) else kind


def _kind_of(node: Any) -> tuple[str, Any]:
    return next(iter(node.items())) if isinstance(node, dict) else (str(node), None)


def _names(function: Any) -> Iterator[str]:
    """Yield the names of a function as polars nests them, at most two."""
    kind, body = _kind_of(function)
    yield kind
    if body is not None and kind in ("StringExpr", "Boolean", "ListExpr", "Sql"):
        yield _kind_of(body)[0]


def _expr(node: Json) -> pl.Expr:
    return pl.Expr.deserialize(io.StringIO(json.dumps(node)), format="json")


def _json(expr: pl.Expr) -> Json:
    found: Json = json.loads(expr.meta.serialize(format="json"))
    return found
