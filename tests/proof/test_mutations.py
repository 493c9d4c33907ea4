"""The faults that the proof plants can all be planted, by tests that exist: a line that was changed takes its fault along."""

import ast
from functools import cache

import pytest

from tests.proof.mutations import _ROOT, MUTATIONS, Mutation, StaleError, _problems


def test_each_fault_can_be_planted() -> None:
    assert not _problems(MUTATIONS, _ROOT)
    numbers = [each.number for each in MUTATIONS]
    assert len(set(numbers)) == len(numbers)


def test_the_tests_that_see_a_fault_exist() -> None:
    unknown = {test for each in MUTATIONS for test in each.tests if not _exists(test)}
    assert not unknown


def _exists(test: str) -> bool:
    path, _, rest = test.partition("::")
    return not rest or rest.partition("[")[0] in _functions(path)


@cache
def _functions(path: str) -> set[str]:
    tree = ast.parse((_ROOT / path).read_text())
    return {
        each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    }


IF = Mutation("1", "", "a.py", "    if run(a, b):\n        return 1\n", "    if True:\n", ())
CALL = Mutation("2", "", "a.py", "run(a, b,)", "run(a)", ())


@pytest.mark.parametrize(
    ("fault", "source", "planted"),
    [
        (IF, "x\n    if run(a, b):\n        return 1\n    y\n", "x\n    if True:\n    y\n"),
        (IF, "x\nif run(\n  a,\n  b,\n):\n    return 1\ny\n", "x\nif True:\ny\n"),
        (IF, "x\n        if run(a, b): return 1\n", "x\n        if True:\n"),
        (CALL, "x = run(a, b)\n", "x = run(a)\n"),
        (CALL, "x = run(\n    a,\n    b,\n)\n", "x = run(a)\n"),
    ],
)
def test_a_fault_is_planted_however_the_code_is_formatted(
    fault: Mutation, source: str, planted: str
) -> None:
    assert fault.plant(source) == planted


@pytest.mark.parametrize("source", ["", "run(a, c)", "run(ab)", "run(a, b) + run(a, b)"])
def test_a_fault_whose_code_was_changed_is_stale(source: str) -> None:
    with pytest.raises(StaleError, match=r"2: its text is [02] times in a\.py"):
        CALL.plant(source)
