"""The open decisions of a drafted configuration: found by line, in values and in comments, and nowhere else."""

import tomllib

import pytest

from pipeline.app.config.undecided import undecided_in, without_undecided
from pipeline.job import Undecided

HEAD = "[[feeds]]\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('where = "DECIDE"', [(2, "where", True)]),
        ('where = "DECIDE: which rows"  # DECIDE: perhaps', [(2, "where: perhaps", True)]),
        ("where = 'DECIDE: which rows'", [(2, "where", True)]),
        ('# which of\n# them?\nwhere = "DECIDE"', [(4, "where: which of them?", True)]),
        ('# DECIDE: one\n# two\nx = ""', [(2, "one two", False)]),
        ('# DECIDE: one\n# two\n# dates = ["x"]', [(2, "dates: one two", False)]),
        ("# DECIDE: one\n# DECIDE: two\n", [(2, "one", False), (3, "two", False)]),
        (
            '# DECIDE: one\n# x = 1\n# and\nwhere = "DECIDE"',
            [(2, "x: one", False), (5, "where: and", True)],
        ),
        ('# x = "1"   # DECIDE: which?', [(2, "x: which?", False)]),
        ('only = ["A", "DECIDE"]', [(2, "only", True)]),
        ('x = """\n# DECIDE: a text"""\n# DECIDE: y', [(4, "y", False)]),
        ("x = '''\n\"a\" # DECIDE''''\n# DECIDE: y", [(4, "y", False)]),
        ('x = "\\\\" # DECIDE: after a backslash', [(2, "x: after a backslash", False)]),
        ('x = "UNDECIDED"\ny = "DECIDED"\nz = "to DECIDE"  # decide, DECIDED', []),
    ],
)
def test_each_mark_is_found_by_its_line(text: str, found: list[tuple[int, str, bool]]) -> None:
    content = HEAD + text
    tomllib.loads(content)
    assert undecided_in(content.encode()) == tuple(Undecided(*each) for each in found)


def test_a_check_leaves_out_what_is_not_decided_but_for_columns() -> None:
    feed = {
        "name": "x",
        "where": "DECIDE: which",
        "timezone": "DECIDE: the practice's",
        "columns": {"patient": "DECIDE: patient"},
        "only": {"entry_type": ["DECIDE"], "claim": ["1"]},
    }
    tables = {"canvas": {"base_url": "DECIDE"}, "feeds": [feed]}
    assert without_undecided(tables) == {
        "canvas": {"base_url": "DECIDE"},
        "feeds": [
            {
                "name": "x",
                "timezone": "UTC",
                "columns": {"patient": "DECIDE: patient"},
                "only": {"claim": ["1"]},
            }
        ],
    }
