"""The command `test`: map the rows in `[[tests]]`, and compare the results with what they expect. Pure.

The rows go through the code of a run: `texts.texts_of`, `given.put_in` and `parts.look_at`, which accept,
validate and map the rows of a file too. What a run looks up elsewhere is replaced:

- If `references` finds the id of a patient, a claim or a payer in a table or by a search, it is the sender's own
  value here; in an id of Canvas a dash replaces each character that no id may have.
- With `references.subscriber.how = "row"`, the subscriber of a dependent is the row's subscriber_id.
- With `order_from = "sequence"`, the order is 1.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import orjson
import polars as pl

from pipeline.fhir.codes import ID_LENGTH_MAX, Contract
from pipeline.fhir.datatypes import is_id
from pipeline.job import Reference, References
from pipeline.planning.given import AMBIGUOUS, SIXTH, UNKNOWN, put_in
from pipeline.planning.parts import look_at
from pipeline.records import Disposition
from pipeline.rows import enrollment
from pipeline.rows.columns import Reading
from pipeline.rows.crosswalk import Crosswalk, Crosswalks, Target
from pipeline.rows.feed import Feed
from pipeline.rows.map import Mapping as RowMapping
from pipeline.rows.subscribers import subscriber_ids
from pipeline.rows.texts import columns_read, texts_of, wanted

_KEY_LENGTH_MAX: Final = 64
_TYPED: Final = (".parquet", ".xlsx")  # their days have a type (`parts.reading_of`)
_OF_834: Final = frozenset({"maintenance_type", "coverage_maintenance"})
_ORDER: Final = "1"


@dataclass(frozen=True, slots=True)
class Expectation:
    """The expected result of a row: one of a part of a resource, a rule that rejects it, and that it is filtered."""

    resource: Mapping[str, Any] | None = None
    rule: str = ""
    is_filtered: bool = False


@dataclass(frozen=True, slots=True)
class MappingTest:
    """A section of `[[tests]]`: its number in the file, from 1, and its line; 0: the line is not known."""

    number: int
    line: int
    name: str
    feed: str
    row: Mapping[str, str]
    expect: Expectation


@dataclass(frozen=True, slots=True)
class Suite:
    """The tests of a configuration, and the settings on which their results depend."""

    feeds: tuple[Feed, ...]
    tests: tuple[MappingTest, ...]
    contract: Contract
    references: References
    amount_cents_max: int | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A test, and how the result differs from what it expects; nothing if it passed."""

    test: MappingTest
    differences: tuple[str, ...] = ()


def run_tests(suite: Suite, now: datetime | None = None) -> list[Outcome]:
    """Run all tests of a suite.

    Args:
        suite: The tests.
        now: The instant of the run, which is the day of payments without one; None: by the system's clock.

    Returns:
        The outcomes, in the order of the file.
    """
    now = now or datetime.now(UTC)
    outcomes = []
    for feed in suite.feeds:
        tests = [test for test in suite.tests if test.feed == feed.name]
        if tests:
            lines = _mapped(tests, feed, suite, now).iter_rows(named=True)
            pairs = zip(tests, lines, strict=True)
            outcomes += [
                Outcome(test, tuple(_differences(test.expect, line, feed))) for test, line in pairs
            ]
    return sorted(outcomes, key=lambda outcome: outcome.test.number)


def as_json(outcomes: Sequence[Outcome], path: Path) -> dict[str, Any]:
    """Return the outcomes as `--json` prints them; exit code 1 if a test failed."""
    failed = sum(bool(outcome.differences) for outcome in outcomes)
    return {
        "shape": 1,
        "config": path.name,
        "exit_code": 1 if failed else 0,
        "counts": {"passed": len(outcomes) - failed, "failed": failed},
        "tests": [
            {
                "number": outcome.test.number,
                "line": outcome.test.line or None,
                "feed": outcome.test.feed,
                "name": outcome.test.name,
                "passed": not outcome.differences,
                "differences": list(outcome.differences),
            }
            for outcome in outcomes
        ],
    }


# Mapping ------------------------------------------------------------------------------------------


def _mapped(tests: Sequence[MappingTest], feed: Feed, suite: Suite, now: datetime) -> pl.DataFrame:
    """Return the lines (`parts.look_at`) of the tests of one feed, in their order."""
    frame, is_typed = _frame(tests, feed)
    texts = texts_of(frame, feed)
    reading = feed.reading(_crosswalks(texts, suite.references), suite.amount_cents_max)
    if is_typed:
        reading = replace(reading, dates=reading.dates.typed)
    seqs = pl.int_range(texts.height, dtype=pl.UInt32, eager=True)
    texts = put_in(texts, seqs, _given(texts, seqs, feed, reading))
    today = now.astimezone(UTC).date()  # as in a plan
    mapping = RowMapping(suite.contract, suite.references.payer.target, today)
    return look_at(texts, wanted(texts, feed), seqs, feed, reading, mapping).sort("row")


def _frame(tests: Sequence[MappingTest], feed: Feed) -> tuple[pl.DataFrame, bool]:
    """Return the rows as the reader of files does, and whether days in such files have a type."""
    columns = {column for _, column in columns_read(feed)} or {""}  # if all fields are constants
    named = columns.union(*(test.row for test in tests))
    is_834 = feed.format == "834" or not named.isdisjoint(_OF_834)
    if is_834:
        columns |= set(enrollment.COLUMNS)
    cells = {column: [test.row.get(column) for test in tests] for column in sorted(columns)}
    frame = pl.DataFrame(cells, schema=dict.fromkeys(cells, pl.String))
    return frame, is_834 or feed.path.endswith(_TYPED)


def _crosswalks(texts: pl.DataFrame, references: References) -> Crosswalks:
    """Return crosswalks that find an id for each value of these texts; none where the value is the id."""

    def of(reference: Reference, *names: str) -> Crosswalk:
        if not (reference.path or reference.system):
            return Crosswalk(reference.target)
        values = {value for name in names if name in texts.columns for value in texts[name]}
        table = {value: _own_id(value, reference.target) for value in values if value is not None}
        return Crosswalk(reference.target, table, is_search=bool(reference.system))

    return Crosswalks(
        patient=of(references.patient, "patient", "subscriber"),
        payer=of(references.payer, "payer"),
        claim=of(references.claim, "claim"),
        by_row=references.subscriber_by_row,
    )


def _own_id(value: str, target: Target = "key") -> str:
    if target == "payer_id":
        return value[:ID_LENGTH_MAX]
    return value if is_id(value) else re.sub(r"[^A-Za-z0-9-]", "-", value)[:_KEY_LENGTH_MAX]


def _given(
    texts: pl.DataFrame, seqs: pl.Series, feed: Feed, reading: Reading
) -> list[pl.DataFrame]:
    """Return what other rows would give these (`planning/given.py`)."""
    none = pl.lit(None, dtype=pl.String)
    rows = seqs.alias("seq").to_frame()
    given: list[pl.DataFrame] = []
    if feed.traits.resource_type != "Coverage":
        return given
    if reading.crosswalks.by_row:
        is_self = subscriber_ids(texts, feed, reading)["is_self"]
        ids = [
            _own_id(text) if text is not None and of_self is False else None
            for text, of_self in zip(texts["subscriber_id"], is_self, strict=True)
        ]
        subscribers = pl.Series("subscriber", ids, dtype=pl.String)
        given.append(rows.with_columns(subscribers, none.alias(UNKNOWN), none.alias(AMBIGUOUS)))
    if feed.order_from == "sequence":
        given.append(rows.with_columns(pl.lit(_ORDER).alias("order"), none.alias(SIXTH)))
    return given


# Comparing ----------------------------------------------------------------------------------------


def _differences(expect: Expectation, line: Mapping[str, Any], feed: Feed) -> list[str]:
    """Return how a line differs from what is expected of it."""
    disposition = Disposition(line["disposition"])
    rules = line["rule"].split("; ") if line["rule"] else []
    if expect.resource is not None and disposition is Disposition.PENDING:
        return _unequal("resource", expect.resource, orjson.loads(line["body"]))
    if expect.rule and expect.rule in rules:
        return []
    if expect.is_filtered and disposition is Disposition.FILTERED:
        return []
    return [f"expected {_expected(expect, feed)}, got {_got(line, disposition, feed)}"]


def _expected(expect: Expectation, feed: Feed) -> str:
    if expect.rule:
        return f"rejected by {expect.rule}"
    return "filtered" if expect.is_filtered else f"a {feed.traits.resource_type}"


def _got(line: Mapping[str, Any], disposition: Disposition, feed: Feed) -> str:
    if disposition is Disposition.REJECTED:
        return f"rejected by {line['rule']} ({line['message']})"
    if disposition is Disposition.FILTERED:
        named = ("where" if feed.where else "", "[feeds.only]" if feed.only else "")
        return f"filtered by {' or '.join(filter(None, named))}"
    return f"a {feed.traits.resource_type}"


def _unequal(path: str, expected: Any, found: Any) -> list[str]:
    """Return the differences of what is expected, with their paths. What is only in `found` is none."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        lines = []
        for name, value in expected.items():
            inner = f"{path}.{name}"
            if name in found:
                lines += _unequal(inner, value, found[name])
            else:
                lines.append(f"{inner}: expected {_shown(value)}, and it is absent")
        return lines
    if isinstance(expected, list) and isinstance(found, list):
        return _unequal_lists(path, expected, found)
    if _plain(expected) == _plain(found):
        return []
    return [f"{path}: expected {_shown(expected)}, got {_shown(found)}"]


def _unequal_lists(path: str, expected: list[Any], found: list[Any]) -> list[str]:
    """Compare lists: of one length entry by entry, else each expected entry must be in the other, in order."""
    if len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [line for at, pair in pairs for line in _unequal(f"{path}[{at}]", *pair)]
    rest = iter(found)
    for at, entry in enumerate(expected):
        if all(_unequal("", entry, each) for each in rest):
            return [f"{path}[{at}]: expected {_shown(entry)}, and the list is {_shown(found)}"]
    return []


def _plain(value: Any) -> Any:
    """Return a value of TOML or JSON as it is compared: numbers by their value, days as text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Decimal(str(value))
    return value.isoformat() if isinstance(value, date) else value


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
