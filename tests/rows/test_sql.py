"""SQL over one row: what is taken, what is refused, and that no row depends on the rows beside it."""

import re
import tomllib
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import IngestError
from pipeline.rows.feed import Feed, Kind
from pipeline.rows.sql import compile_condition, compile_value, evaluate
from pipeline.rows.texts import columns_read, texts_of, wanted

NUMBER = 'cast("a" as decimal(18,2))'
CAST = "cast: a text is not a plain number, or has more digits than the type holds"


def values(sql: str, *cells: str | None, b: str | None = "1") -> list[str | None]:
    """Return the value of each row, or its fault in brackets."""
    frame = pl.DataFrame(
        {"a": cells, "b": [b] * len(cells)}, schema={"a": pl.String, "b": pl.String}
    )
    value, fault = evaluate(frame, compile_value(sql))
    return [f"<{why}>" if why else text for text, why in zip(value, fault, strict=True)]


def met(sql: str, *cells: str | None) -> list[bool | None]:
    value, fault = evaluate(
        pl.DataFrame({"a": cells}, schema={"a": pl.String}), compile_condition(sql)
    )
    assert fault.null_count() == len(cells)
    return value.to_list()


@pytest.mark.parametrize(
    ("sql", "cell", "value"),
    [
        (NUMBER, "12.5", "12.50"),
        (NUMBER, "-.5", "-0.50"),
        (NUMBER, "+5.", "5.00"),
        (NUMBER, "12.3400", "12.34"),
        (NUMBER, None, None),
        (f'{NUMBER} - cast("b" as decimal(18,2))', "43.00", "42.00"),
        (f"{NUMBER} * 1.5", "12.30", "18.45"),
        (f"{NUMBER} / 100", "1250", "12.50"),
        (f"-{NUMBER}", "3", "-3.00"),
        (f"abs({NUMBER})", "-3", "3.00"),
        ("cast(replace(\"a\", ',', '') as decimal(18,2))", "1,250.00", "1250.00"),
        ('coalesce(try_cast("a" as decimal(18,2)), 0)', "n/a", "0.00"),
        ("cast(nullif(\"a\", 'n/a') as decimal(18,2))", "n/a", None),
        ('cast("a" as int)', "007", "7"),
        ('cast("a" as bigint) + 1', "9223372036854775807", f"<{CAST}>"),
        ('cast("a" as int) + 1', "2147483647", "2147483648"),
        ("case when \"a\" = '18' then 'self' when \"a\" = '01' then 'spouse' else 'other' end", "01", "spouse"),
        (f"case when \"a\" = 'n/a' then '0' else {NUMBER} end", "n/a", "0"),
        ('coalesce("a", "b")', None, "1"),
        (f'coalesce("b", {NUMBER})', "n/a", "1"),
        ('substr("a", 4, 4)', "PT-1001", "1001"),
        ('left("a", 2)', "héllo", "hé"),
        ('right("a", 4)', "PT-1001", "1001"),
        ('right("a", 4)', "001", "001"),
        ('right("a", 8)', "1001", "1001"),
        ("right(\"a\", cast('4' as int))", "7", "7"),
        ('left("a", 8)', "1001", "1001"),
        ('substr("a", 2, 8)', "1001", "001"),
        ("split_part(\"a\", '-', 2)", "PT-1001", "1001"),
        ("strpos(\"a\", '.')", "12.5", "3"),
        ("lpad(\"a\", 8, '0')", "1001", "00001001"),
        ("ltrim(\"a\", '0')", "0012", "12"),
        ("\"a\" || '-' || \"b\"", "x", "x-1"),
        ('upper("a")', "x", "X"),
        ("date(\"a\", '%m/%d/%Y')", "11/02/2026", "2026-11-02"),
        ("lpad(\"a\", 5, '0')", "123456", "123456"),  # not the id 12345
        ("rpad(\"a\", 3, '0')", "123456", "123456"),
        ("substr(lpad(\"a\", 5, '0'), 1, 2)", "123456", "12"),
        ("cast(strptime(\"a\", '%m/%d/%Y %H:%M') as date)", "11/02/2026 23:59", "2026-11-02"),
        ("\"a\" = 'x'", "x", "true"),
    ],
)  # fmt: skip
def test_values(sql: str, cell: str | None, value: str | None) -> None:
    assert values(sql, cell) == [value]


@pytest.mark.parametrize(
    "cell", ["12.345", "1e3", "1,250.00", "$5", "(5)", "NaN", "x", "12 ", "٣", "", ".", "9" * 17]
)
def test_a_cast_is_exact_or_a_fault(cell: str) -> None:
    assert values(NUMBER, cell, "5") == [f"<{CAST}>", "5.00"]
    assert values('try_cast("a" as decimal(18,2))', cell, "5") == [None, "5.00"]


@pytest.mark.parametrize(
    ("sql", "cell", "why"),
    [
        (f"{NUMBER} / 3", "10", "division: the result would be rounded"),
        ('cast(cast("a" as decimal(18,4)) as decimal(18,2))', "1.005", "cast: a number has more digits than the type holds"),
        ("date(\"a\", '%m/%d/%Y')", "02/30/2026", "date: a text is not a day of that format"),
        ('cast("a" as decimal(38,2)) * cast("a" as decimal(38,2))', "9" * 30, "a number has too many digits"),
        (f"case when \"b\" = '1' then {NUMBER} end", "x", CAST),
    ],
)  # fmt: skip
def test_a_fault_is_of_its_row_only(sql: str, cell: str, why: str) -> None:
    good = "12/31/2026" if "date" in sql else "6"
    first, second, third, blank = values(sql, good, cell, good, None)
    assert (second, blank) == (f"<{why}>", None)
    assert first is not None
    assert first == third


def test_an_expression_that_fails_for_many_rows_stops_the_run() -> None:
    product = 'cast("a" as decimal(38,2)) * cast("a" as decimal(38,2))'
    assert values(product, *["9" * 30] * 100, "2")[99:] == [
        "<a number has too many digits>",
        "4.00",
    ]
    with pytest.raises(
        IngestError, match='SQL over "a" cannot be calculated for more than 100 rows'
    ):
        values(product, *["9" * 30] * 101)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("\"a\" = 'Paid'", [True, False, None]),
        ("\"a\" <> 'Paid'", [False, True, None]),
        ("\"a\" in ('Paid', 'x')", [True, False, None]),
        ("\"a\" not in ('Paid')", [False, True, None]),
        ("\"a\" like 'P%d'", [True, False, None]),
        ("not (\"a\" like '%5%')", [True, False, None]),
        ('"a" is null or "a" = \'Paid\'', [True, False, True]),
        ('"a" is not null', [True, True, False]),
        (f"\"a\" <> 'Paid' and {NUMBER} > 5", [False, False, None]),
        (f"\"a\" = 'Paid' or {NUMBER} between 4 and 5", [True, True, None]),
        ('"a" = \'Paid\' or cast("a" as int) in (4, 5)', [True, True, None]),
        ("\"a\" ~ '^[0-9]+$'", [False, True, None]),
    ],
)
def test_conditions(sql: str, expected: list[bool | None]) -> None:
    assert met(sql, "Paid", "5", None) == expected


REFUSED = {
    "a sum": ('sum(cast("a" as decimal(18,2)))', "an aggregate"),
    "a sum beside a cell": (f'{NUMBER} - sum(cast("b" as decimal(18,2)))', "an aggregate"),
    "the first": ('first("a")', "an aggregate"),
    "a count": ("count(*)", "looks at other rows"),
    "a window": ('sum(cast("a" as decimal(18,2))) over (partition by "b")', "looks at other rows"),
    "a row's number": ('row_number() over (order by "a")', "looks at other rows"),
    "a rank": ('rank() over (order by "a")', "not allowed"),
    "the row before": ('lag("a") over (order by "b")', "a window"),
    "a query": ("(select 1)", "looks at other rows"),
    "a list by a query": ('"a" in (select "b" from t)', "cannot be read as SQL"),
    "several rows": ('unnest("a")', "several rows"),
    "several columns": ("columns('a.*')", "several columns"),
    "all columns": ('"*"', "several columns"),
    "a pattern of columns": ('"^a.*$"', "several columns"),
    "two expressions": ('"a", "b"', "cannot be read as SQL"),
    "a name": ('"a" as c', "leave the name out"),
    "a field of a column": ('"a"."b"', "a name with a dot"),
    "no column": ("'x'", "uses no column"),
    "nothing": ("", "cannot be read as SQL"),
    "half of it": ('cast("a" as', "cannot be read as SQL"),
    "a clock": ("now()", "the clock"),
    "today": ("case when \"a\" = 'x' then current_date end", "the clock"),
    "a clock as text": ('coalesce("a", cast(now() as text))', "the clock"),
    "a constant day": ("date '2026-01-01'", "write a day as date("),
    "chance": ("random()", "no function random"),
    "a file": ("read_csv('/etc/passwd')", "no function read_csv"),
    "a binary fraction": ('cast("a" as double)', "floating point"),
    "texts that are added": ('"a" + "b"', "cannot be added"),
    "a text minus a number": ('"a" - 1', "do not fit together"),
    "a text and a number": ('"a" > 5', "do not fit together"),
    "a number and a text": (f'{NUMBER} = "b"', "do not fit together"),
    "a text among numbers": ('"a" in (1, 2)', "do not fit together"),
    "a number among texts": ("cast(\"a\" as int) in ('1')", "do not fit together"),
    "an exponent": (f"{NUMBER} > 1e3", "without an exponent"),
    "a division by a column": (f'{NUMBER} / cast("b" as decimal(18,2))', "constant number"),
    "a division by zero": (f"{NUMBER} / 0", "constant number"),
    "a text as a day": ('cast("a" as date)', "can be cast to"),
    "a day by guess": ('date("a")', "needs a format"),
    "the day of an instant in UTC": ("date(\"a\", '%Y-%m-%dT%H:%M:%SZ')", "cannot read an instant"),
    "a zone": ("strptime(\"a\", '%Y-%m-%dT%H:%M:%S%z')", "instant with a zone"),
    "an instant": ("strptime(\"a\", '%Y-%m-%d %H:%M')", "result must be"),
    "a pattern of a column": ('regexp_like("a", "b")', "must be a constant"),
    "no pattern": ("\"a\" ~ '('", "no regular expression"),
    "a replacement by NULL": ("replace(\"a\", 'x', null)", "must not be NULL"),
    "a function that compares texts": ('greatest("a", "b")', "not allowed"),
    "a period": ("\"a\" + interval '1 day'", "not allowed"),
    "a length without end": (" or ".join(["\"a\" = 'x'"] * 400), "longer than"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_said_in_plain_words(name: str) -> None:
    sql, said = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        compile_value(sql)
    assert not re.search(r"polars|Expr|dtype|SQLInterface|Utf8|conversion", str(caught.value))


def test_a_condition_is_true_or_false() -> None:
    with pytest.raises(ValueError, match="must be a condition"):
        compile_condition('upper("a")')


def test_the_examples_of_the_documentation_come_to_what_they_say() -> None:
    page = (Path(__file__).parents[2] / "docs" / "mapping.md").read_text()
    (block,) = (text for text in re.findall(r"```toml\n(.*?)```", page, re.DOTALL) if "sql" in text)
    feed = tomllib.loads(block)["feeds"][0]
    more = tomllib.loads("\n".join(re.findall(r"^# (\w+ = .*)$", block, re.MULTILINE)))
    sql = {name: each["sql"] for name, each in feed["columns"].items()}
    row: dict[str, str | None] = {
        "Status": "Paid",
        "Captured": "true",
        "Amount": "43.00",
        "Amount Refunded": "15.00",
    }
    row |= {"Patient": "PT-1001", "Receipt": None, "Reference": "R2", "Dep": "00", "Sex": "F"}

    def value_of(text: str, **changes: str) -> object:
        frame = pl.DataFrame({name: [cell] for name, cell in {**row, **changes}.items()})
        compiled = compile_condition(text) if text == feed["where"] else compile_value(text)
        return evaluate(frame.cast(pl.String), compiled)[0].item()

    assert value_of(feed["where"]) is True
    assert value_of(feed["where"], Status="Failed") is False
    assert {name: value_of(text) for name, text in sql.items()} == {
        "amount": "28.00",
        "patient": "1001",
        "transaction_id": "R2",
    }
    assert value_of(more["amount"]["sql"], Amount="1,250.00") == "1250.00"
    relationship = more["relationship"]["sql"]
    assert [value_of(relationship), value_of(relationship, Dep="01")] == ["self", "child"]


def test_the_functions_of_the_documentation_are_known() -> None:
    page = (Path(__file__).parents[2] / "docs" / "mapping.md").read_text()
    (listed,) = re.findall(r"that is not listed here: (.*?); with", page, re.DOTALL)
    calls = {
        "case": "case when \"a\" = 'x' then 'y' end", "if": "if(\"a\" = 'x', 'y', 'z')", "cast": NUMBER,
        "try_cast": 'try_cast("a" as int)', "abs": f"abs({NUMBER})", "||": "\"a\" || 'x'", "concat_ws": "concat_ws('-', \"a\", 'x')",
        "split_part": "split_part(\"a\", '-', 1)", "replace": "replace(\"a\", 'x', '')", "date": "date(\"a\", '%Y-%m-%d')",
        "regexp_replace": "regexp_replace(\"a\", 'x', '')", "strptime": "cast(strptime(\"a\", '%Y-%m-%d') as date)",
        **{name: f"{name}(\"a\", 5, '0')" for name in ("lpad", "rpad")},
        **{name: f'{name}("a", 2)' for name in ("left", "right", "substr")},
        **{name: f'{name}("a")' for name in ("upper", "lower", "trim", "ltrim", "rtrim", "length")},
    }  # fmt: skip
    for name in re.findall(r"`(.*?)`", listed):
        assert compile_value(calls.get(name, f"{name}(\"a\", 'x')")).columns == ("a",)


# No row depends on another -------------------------------------------------------------------------

TEXTS = st.sampled_from(['"a"', '"b"', "'x'", "'1.5'", "''"])
NUMBERS = st.sampled_from(['cast("a" as decimal(18,2))', 'try_cast("b" as decimal(9,1))', 'cast("b" as int)', "1.25", "7"])  # fmt: skip
FORMS = [
    "({0} || {1})", "upper({0})", "substr({0}, 2, 3)", "replace({0}, '.', '')", "nullif({0}, {1})",
    "coalesce({0}, {1})", "({0} + {1})", "({0} - {1})", "({0} * {1})", "({0} / 8)", "abs({0})",
    "case when {0} = {1} then {0} else {2} end", "cast({0} as text)", "cast({0} as decimal(12,3))",
    "case when {0} is null and {1} > {2} then {1} else {2} end", "({0} in ('x', '1'))", "left({0}, 2)",
    "date({0}, '%m/%d/%Y')", "split_part({0}, '.', 1)", "lpad({0}, 5, '0')", "(not ({0} = {1} or {1} < {2}))",
    "sum({0})", "max({0})", "count({0})", "first({0})", "({0} - avg({1}))", "sum({0}) over (order by {1})",
    "row_number() over (order by {0})", "rank() over (order by {0})", "lag({0}) over (order by {1})",
    "concat({0}, {1})", "strpos({0}, {1})", "reverse({0})", "length({0})", "round({0}, 1)", "greatest({0}, {1})",
    "unnest({0})", "quantile_cont({0}, 0.5)", "coalesce({0}, first({1}))",
]  # fmt: skip
EXPRESSIONS = st.recursive(
    TEXTS | NUMBERS,
    lambda inner: st.builds(
        lambda form, parts: form.format(*parts),
        st.sampled_from(FORMS),
        st.tuples(inner, inner, inner),
    ),
    max_leaves=8,
)
CELLS = st.none() | st.sampled_from(["x", "1", "1.5", "-2.25", "n/a", "11/02/2026", "1e3", "12.345", "9" * 16])  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(EXPRESSIONS, st.lists(st.tuples(CELLS, CELLS), min_size=2, max_size=5))
@example('case when "a" = \'x\' then "b" end', [("x", "1"), (None, None)])
def test_a_row_comes_to_the_same_alone_and_among_others(
    sql: str, rows: list[tuple[str | None, str | None]]
) -> None:
    try:
        compiled = compile_value(sql)
    except ValueError:
        assume(False)
    frame = pl.DataFrame(rows, schema={"a": pl.String, "b": pl.String}, orient="row")
    value, fault = evaluate(frame, compiled)
    alone = [evaluate(frame[n : n + 1], compiled) for n in range(frame.height)]
    assert [each[0].item() for each in alone] == value.to_list()
    assert [each[1].item() for each in alone] == fault.to_list()
    assert (value.is_null() | fault.is_null()).all()
    turned = evaluate(frame.reverse(), compiled)
    assert turned[0].reverse().to_list() == value.to_list()
    assert turned[1].reverse().to_list() == fault.to_list()


@settings(max_examples=300, deadline=None)
@given(
    st.decimals(
        allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9
    )
)
def test_a_difference_is_exact(number: Decimal) -> None:
    (found,) = values(f'{NUMBER} - cast("b" as decimal(18,2))', str(number), b="0.01")
    exact = number - Decimal("0.01")
    assert found == (f"{exact:.2f}" if exact == round(exact, 2) else f"<{CAST}>")


# Feeds ---------------------------------------------------------------------------------------------


def feed_of(**changes: object) -> Feed:
    return Feed("f", Kind.LEDGER, "", {"patient": "MRN"}, **changes)  # type: ignore[arg-type]


def test_cells_are_trimmed_and_blank_is_null() -> None:
    frame = pl.DataFrame({"MRN": ["1", "2", "3"], "A": [" 5 ", "  ", None]})
    feed = feed_of(sql={"amount": "coalesce(\"A\", '0')"}, where='"A" = \'5\' or "A" is null')
    texts = texts_of(frame, feed)
    assert texts["amount"].to_list() == ["5", "0", "0"]
    assert wanted(texts, feed).to_list() == [True, True, True]


def test_null_is_not_met_and_a_fault_is_never_filtered() -> None:
    frame = pl.DataFrame({"MRN": ["1", "2", "3", "4"], "A": ["5", "-5", None, "x"]})
    feed = feed_of(where='cast("A" as decimal(18,2)) > 0')
    assert wanted(texts_of(frame, feed), feed).to_list() == [True, False, False, True]
    by_only = feed_of(sql={"entry_type": 'cast("A" as int)'}, only={"entry_type": ["5"]})
    assert wanted(texts_of(frame, by_only), by_only).to_list() == [True, False, False, True]


def test_the_columns_of_sql_are_read() -> None:
    feed = feed_of(sql={"amount": '"A" || "B"'}, where="\"C\" = 'x'")
    assert columns_read(feed) == [
        ("patient", "MRN"),
        ("amount", "A"),
        ("amount", "B"),
        ("where", "C"),
    ]
