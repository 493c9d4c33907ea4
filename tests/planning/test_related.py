"""What rows give each other, compared with a slow reading of the same rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands.run import Result
from pipeline.fhir.codes import line_of
from pipeline.planning.given import AMBIGUOUS, UNKNOWN
from pipeline.planning.plan import Plan
from pipeline.planning.subscribers import RELATION, find_subscribers
from pipeline.rows import groups
from tests.support.reports import planned, write
from tests.support.rosters import BY_ROW, roster_feed
from tests.support.world import patient_key

FILES = ["a.csv", "b.csv"]
Relation = tuple[int, str, bool, str | None]  # file, id, is_self, patient

relations = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from("XYZ"),
        st.booleans(),
        st.sampled_from(["p1", "p2", None]),
    ),
    max_size=8,
)
earlier_ones = st.dictionaries(
    st.sampled_from("XYZ"), st.lists(st.sampled_from(["q1", "q2"]), min_size=1, unique=True)
)


def naive(rows: Sequence[Relation], earlier: Mapping[str, Sequence[str]], at: int) -> str:
    """Return the patient who is the subscriber of a dependent, or the rule that it breaks."""
    mine = rows[at][1]
    persons = [patient for _, each, is_self, patient in rows if is_self and each == mine]
    known = set(persons) - {None}
    if not persons:
        known = set(earlier.get(mine, ()))
    if len(known) == 1:
        return str(known.pop())
    return AMBIGUOUS if known else UNKNOWN


@given(relations, earlier_ones)
def test_subscribers_are_those_that_a_person_would_find(
    rows: list[Relation], earlier: dict[str, list[str]]
) -> None:
    frame = pl.DataFrame(
        [(at, file, at + 1, each, own, who) for at, (file, each, own, who) in enumerate(rows)],
        schema=RELATION,
        orient="row",
    )

    def before(ids: pl.Series) -> pl.DataFrame:
        lines = [(each, lane) for each in ids for lane in earlier.get(each, ())]
        return pl.DataFrame(lines, schema={"id": pl.String, "lane": pl.String}, orient="row")

    found = find_subscribers(frame, FILES, before).sort("seq")
    assert found["seq"].to_list() == [at for at, row in enumerate(rows) if not row[2]]
    for seq, subscriber, unknown, ambiguous in found.iter_rows():
        rules = [rule for rule, text in ((UNKNOWN, unknown), (AMBIGUOUS, ambiguous)) if text]
        given_to_it = [each for each in (subscriber, *rules) if each]
        assert given_to_it == [naive(rows, earlier, seq)]
        for message in filter(None, (unknown, ambiguous)):
            assert ".csv:" in message


# Whole plans --------------------------------------------------------------------------------------

HEADER = ["MRN", "Member", "Rel", "Sub", "Payer", "Type"]
CONFIG = BY_ROW + roster_feed(" ".join(HEADER), path="in/*.csv")


class Line(NamedTuple):
    patient: int
    member: str
    relationship: str
    subscriber_id: str
    payer: str
    type: str


def drawn(random: Random) -> list[list[Line]]:
    """Draw the rows of some files."""
    lines = [
        Line(
            random.randrange(6),
            f"m{number}",
            random.choice(["self", "self", "child"]),
            random.choice(["S1", "S2", "S3", "S4", ""]),
            random.choice(["60054"] * 6 + ["NULL"]),
            random.choice(["PPO", "DENTAL", "VISPOL", "LIFE", ""]),
        )
        for number in range(random.randint(1, 40))
    ]
    cut = random.randint(0, len(lines))
    return [each for each in (lines[:cut], lines[cut:]) if each]


def expected(files: Sequence[Sequence[Line]]) -> dict[str, tuple[str, ...]]:
    """Return subscriber and order by member id, or the rules that a row breaks."""
    lines = [line for file in files for line in file]
    rows = [
        (0, each.subscriber_id, each.relationship == "self", str(each.patient)) for each in lines
    ]
    found: dict[str, tuple[str, ...]] = {}
    good: dict[int, list[tuple[int, int, Line, str]]] = {}
    for at, each in enumerate(lines):
        rules = []
        subscriber = str(each.patient)
        if each.relationship == "child":
            subscriber = naive(rows, {}, at) if each.subscriber_id else "subscriber|required"
            if "|" in subscriber:
                rules.append(subscriber)
            elif subscriber == str(each.patient):
                rules.append("subscriber|not_self")
        if each.payer == "NULL":
            rules.append("payer|placeholder")
        if rules:
            found[each.member] = tuple(sorted(rules))
        else:
            line = line_of(each.type or None)
            good.setdefault(each.patient, []).append((line, at, each, subscriber))
    for mine in good.values():
        for order, (_, _, each, subscriber) in enumerate(sorted(mine, key=lambda one: one[:2]), 1):
            is_in = order <= 5
            found[each.member] = (subscriber, str(order)) if is_in else ("order|sixth",)
    return found


def of_plan(
    folder: Path, result: Result, files: Sequence[Sequence[Line]]
) -> dict[str, tuple[str, ...]]:
    """Return the same of a plan."""
    plan = Plan.open(folder / "state" / "plans" / result.run_id)
    members = [line.member for file in files for line in file]
    found: dict[str, tuple[str, ...]] = {}
    for intents in plan.intents("roster", "Coverage", in_order=True):
        for intent in intents:
            body: dict[str, Any] = orjson.loads(intent.body)
            subscriber = str(int(body["subscriber"]["reference"].split("/")[1], 16))
            found[body["identifier"][0]["value"]] = (subscriber, str(body["order"]))
    seqs = [
        member for part in plan.rows("roster") for member in part.select("seq", "rule").iter_rows()
    ]
    return found | {
        members[seq]: tuple(sorted(rule.split("; "))) for seq, rule in seqs if "|" in (rule or "")
    }


@pytest.mark.parametrize("seed", range(12))
def test_a_roster_is_planned_as_a_slow_reading_says_in_pieces_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    files = drawn(Random(seed))
    (tmp_path / "in").mkdir()
    for number, lines in enumerate(files):
        rows = [(patient_key(line.patient), *line[1:]) for line in lines]
        write(tmp_path / "in" / f"{number}.csv", HEADER, rows)
    result = planned(tmp_path, CONFIG)
    whole = of_plan(tmp_path, result, files)
    assert whole == expected(files)
    tiny = groups.Bounds(hashes=3, narrow=3, whole=2, chunk_bytes=8, lines=2)
    monkeypatch.setattr(groups, "BOUNDS", tiny)
    in_pieces = planned(tmp_path, CONFIG)
    assert of_plan(tmp_path, in_pieces, files) == whole
    assert in_pieces.frame.drop("run_id", strict=False).equals(
        result.frame.drop("run_id", strict=False)
    )
