"""X12 834 files night after night: full files and changes, replays, maintenance codes, rejects that go in again."""

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.commands.run import plan
from pipeline.rows.enrollment import COLUMNS
from pipeline.sandbox import Sandbox, serve
from tests.proof.enrollments import Segments, written
from tests.reading.test_x12 import file_of
from tests.support.nightly import gone, held
from tests.support.runs import counts
from tests.support.world import MakeWorld, World, patient_key

FEED = """
[[feeds]]
name = "eligibility"
kind = "eligibility"
path = "*.834"
key = ["patient", "payer", "member_id", "type", "start_on"]
{more}
[feeds.columns]
patient = "reference_23"
subscriber = "reference_zz"
member_id = "subscriber_number"
relationship = "relationship_code"
payer = "payer_id"
type = "insurance_line"
plan = "plan"
order = {{ sql = '''case "insurance_line" when 'HLT' then '1' when 'DEN' then '2' end''' }}
start_on = "start"
end_on = "end"
[feeds.codes.relationship]
"18" = "self"
"01" = "spouse"
"19" = "child"
[feeds.codes.type]
HLT = "PPO"
DEN = "DENTAL"
"""
SSN = "987123654"
START = ["DTP", "348", "D8", "20260101"]


def person(
    number: int, *more: list[str], code: str = "030", line: str = "HLT", of: int | None = None
) -> Segments:
    """A member with one coverage; `of`: the number of the subscriber."""
    who, family = patient_key(number), number if of is None else of
    return [
        ["INS", "Y" if of is None else "N", "18" if of is None else "19", code, "XN", "A"],
        ["REF", "0F", f"M{family}"],
        ["REF", "23", who],
        *([["REF", "ZZ", patient_key(of)]] if of is not None else []),
        ["REF", "SY", SSN],
        ["NM1", "IL", "1", f"LAST{number}", "FIRST", "", "", "", "34", SSN],
        ["HD", code, "", line, "PLANA", "FAM"],
        START,
        *more,
    ]


def put(
    world: World,
    *members: Segments,
    purpose: str = "4",
    number: int = 1,
    name: str = "roster.834",
    created: str = "20261128",
) -> Path:
    path = world.folder / name
    segments = file_of(*members, purpose=purpose, number=f"{number:09}", created=created)
    path.write_text(written(segments))
    return path


async def world_of(make_world: MakeWorld, more: str = "", limits: str = "") -> World:
    world = await make_world(patients=40)
    world.write_config(feeds=FEED.format(more=more), limits=limits)
    return world


def numbered(more: str = "") -> str:
    """The feed, whose coverages are numbered."""
    own = next(line for line in FEED.splitlines() if line.startswith("order = "))
    return FEED.replace(own, "").format(more=f'order_from = "sequence"\n{more}')


async def failure(world: World, **options: Any) -> str:
    result = await world.run(**options)
    assert result.exit_code == 1
    return str(result.summary["failure"])


def everybody(numbers: Sequence[int] = range(30)) -> list[Segments]:
    return [person(number) for number in numbers]


async def test_a_full_file_and_the_same_again(make_world: MakeWorld) -> None:
    world = await world_of(make_world)
    members = [person(0), person(0, line="DEN"), person(1, of=0), *everybody(range(2, 9))]
    put(world, *members)
    result = await world.run()
    assert (result.exit_code, counts(result)) == (0, {"created": 10})
    child = next(
        each for each in held(world) if each["beneficiary"]["reference"].endswith(patient_key(1))
    )
    assert child["subscriber"]["reference"] == f"Patient/{patient_key(0)}"
    assert counts(await world.run()) == {"unchanged": 10}
    put(world, *members, number=2)
    assert counts(await world.run()) == {"unchanged": 10}


# Full files and changes ---------------------------------------------------------------------------


async def test_a_file_of_changes_ends_nobody_and_the_next_full_file_knows_it(
    make_world: MakeWorld,
) -> None:
    world = await world_of(make_world, 'missing = "report"', "change_max = 2.0")
    put(world, *everybody())
    assert counts(await world.run()) == {"created": 30}
    ended = person(0, ["DTP", "349", "D8", "20260630"], code="024")
    put(world, ended, person(30, code="021"), purpose="2", number=2)
    result = await world.run()
    assert (result.exit_code, counts(result), gone(result)) == (0, {"created": 1, "updated": 1}, {})
    assert {each["rule"] for each in result.summary["warnings"]} == {"files|changes", "end_on|past"}
    assert [each["period"].get("end") for each in held(world)].count("2026-06-30") == 1
    put(world, *everybody(range(1, 31)), number=3)
    result = await world.run()
    assert (counts(result), gone(result)) == ({"unchanged": 30}, {"rows": 1, "reported": 1})
    put(world, *everybody(range(1, 30)), number=4)
    assert gone(await world.run()) == {"rows": 1, "reported": 1}


async def test_a_file_of_changes_moves_no_order_of_a_coverage_that_it_lacks(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=40)
    world.write_config(feeds=numbered())
    put(world, person(0), person(0, line="DEN"), *everybody(range(1, 9)))
    await world.run()
    before = {each["id"]: each["order"] for each in held(world)}
    end = ["DTP", "349", "D8", "20301231"]
    put(world, person(0, end, line="DEN", code="001"), purpose="2", number=2)
    result = await world.run()
    assert (result.exit_code, counts(result)) == (0, {"updated": 1})
    assert {each["id"]: each["order"] for each in held(world)} == before


async def test_who_came_by_a_change_is_missing_in_a_full_file_without_them(
    make_world: MakeWorld,
) -> None:
    world = await world_of(make_world, 'missing = "cancel"\nmissing_max = 3')
    put(world, *everybody())
    await world.run()
    put(world, person(30, code="021"), purpose="2", number=2)
    await world.run()
    put(world, person(31, code="021"), purpose="2", number=3)
    await world.run()
    put(world, *everybody(), number=4)
    result = await world.run()
    assert gone(result) == {"rows": 2, "cancelled": 2}


async def test_the_whole_file_is_known_again_after_a_file_of_changes(make_world: MakeWorld) -> None:
    """The index of unchanged rows is that of the last full file."""
    world = await world_of(make_world)
    put(world, *everybody())
    await world.run()
    index = world.folder / "state" / "held-eligibility.parquet"
    before = index.read_bytes()
    put(world, person(30, code="021"), purpose="2", number=2)
    await world.run()
    assert index.read_bytes() == before


async def test_a_full_file_beside_changes_is_refused(make_world: MakeWorld) -> None:
    world = await world_of(make_world)
    put(world, *everybody(), name="a.834")
    put(world, person(30), purpose="2", number=2, name="b.834")
    assert (
        "b.834: the file holds changes only (BGN08 = 2), and a.834 is a full file"
        in await failure(world)
    )
    assert held(world) == []


# Replays ------------------------------------------------------------------------------------------


async def test_a_control_number_with_other_content_is_refused(make_world: MakeWorld) -> None:
    world = await world_of(make_world)
    put(world, *everybody(range(3)))
    await world.run()
    put(world, *everybody(range(4)))
    assert (
        "interchange 000000001 (sender, receiver and control numbers) was loaded by run"
        in await failure(world)
    )
    assert len(held(world)) == 3


async def test_an_older_file_is_refused_after_a_later_one(make_world: MakeWorld) -> None:
    world = await world_of(make_world)
    old = put(world, *everybody(range(3)))
    await world.run()
    text = old.read_text()
    put(world, *everybody(range(4)), number=2)
    await world.run()
    old.write_text(text)
    assert "and a later one after it: its content would replace newer content" in await failure(
        world
    )
    named = await failure(world, inputs={"eligibility": old})
    assert "and a later one after it" in named


async def test_an_interchange_by_input_is_known_too(make_world: MakeWorld) -> None:
    world = await world_of(make_world)
    path = put(world, *everybody(range(3)), name="given.x12")
    assert counts(await world.run(inputs={"eligibility": path})) == {"created": 3}
    assert counts(await world.run(inputs={"eligibility": path})) == {"unchanged": 3}
    put(world, *everybody(range(4)), name="given.x12")
    assert "other content" in await failure(world, inputs={"eligibility": path})


async def test_a_sender_whose_number_never_changes_is_read_by_the_time(
    make_world: MakeWorld,
) -> None:
    """Older content never replaces newer content, and each later file is loaded with a warning."""
    world = await world_of(make_world)
    texts = {}
    for day in (23, 24, 25):
        put(world, *everybody(range(day)), created=f"202612{day}")
        texts[day] = (world.folder / "roster.834").read_text()
        result = await world.run()
        assert (result.exit_code, counts(result)["created"]) == (0, day if day == 23 else 1)
        said = [each["rule"] for each in result.summary["warnings"]]
        assert said == ([] if day == 23 else ["files|control_number"])
    assert counts(await world.run()) == {"unchanged": 25}
    (world.folder / "roster.834").write_text(texts[23])
    assert "and a later one after it" in await failure(world)
    put(world, *everybody(range(3)), created="20261225")
    assert "was not created later" in await failure(world)
    assert len(held(world)) == 25


# Files without a coverage --------------------------------------------------------------------------


def address_change(number: int) -> Segments:
    """A member without a coverage."""
    return [*person(number, code="001")[:-2], ["N3", f"{number} NEW STREET"]]


@pytest.mark.parametrize("members", [[], [address_change(0), address_change(1)]])
async def test_changes_without_a_coverage_are_read_and_change_nothing(
    make_world: MakeWorld, members: list[Segments]
) -> None:
    world = await world_of(make_world, 'missing = "end"\ntimezone = "America/New_York"')
    put(world, *everybody(range(5)))
    await world.run()
    put(world, *members, purpose="2", number=2)
    for result in (await plan(world.job()), await world.run()):
        assert (result.exit_code, counts(result), gone(result)) == (0, {}, {})
        assert result.summary["balanced"]
        assert result.summary["feeds"][0]["rows_read"] == 0
        said = {each["rule"] for each in result.summary["warnings"]}
        assert said == {"files|changes", "files|no_coverage"}
        assert (result.folder / "report.html").exists()
    put(world, *everybody(range(5)), number=3)
    assert counts(await world.run()) == {"unchanged": 5}
    assert not [each for each in held(world) if each["period"].get("end")]


@pytest.mark.parametrize(
    ("limits", "most", "kept"),
    [
        ("change_max = 2.0", "5%", "failure"),
        ("", "5%", "held"),
        ("", "100%", "ended"),
    ],
)
async def test_an_empty_full_file_ends_nobody_unless_the_limits_allow_it(
    make_world: MakeWorld, limits: str, most: str, kept: str
) -> None:
    more = f'missing = "end"\nmissing_max = "{most}"\ntimezone = "America/New_York"'
    world = await make_world(patients=40)
    world.write_config(feeds=numbered(more), limits=limits)
    put(world, *everybody(range(5)))
    await world.run()
    put(world, address_change(0), number=2)
    if kept == "failure":
        assert "0 rows, and 5 the last time" in await failure(world)
    else:
        result = await world.run()
        assert result.summary["balanced"]
        word = "ended" if kept == "ended" else "not_ended"
        assert (result.exit_code, gone(result)) == (
            0 if kept == "ended" else 3,
            {"rows": 5, word: 5},
        )
    ends = [each["period"].get("end") for each in held(world)]
    assert all(ends) if kept == "ended" else not any(ends)
    put(world, *everybody(range(5)), number=3)
    result = await world.run()
    assert result.exit_code == 0
    assert not any(each["period"].get("end") for each in held(world))


async def test_several_files_of_changes_go_in_by_input_in_their_order(
    make_world: MakeWorld,
) -> None:
    world = await world_of(make_world)
    put(world, *everybody(range(5)))
    await world.run()
    (world.folder / "roster.834").unlink()
    end = ["DTP", "349", "D8", "20261231"]
    first = put(world, person(0, end), purpose="2", number=2, name="b.834")
    second = put(world, person(0), purpose="2", number=3, name="a.834")
    assert "b.834: 2 files of changes (BGN08 = 2) of one sender" in await failure(world)
    for path in (first, second):
        result = await world.run(inputs={"eligibility": path})
        assert (result.exit_code, counts(result)) == (0, {"updated": 1})
    assert not [each for each in held(world) if each["period"].get("end")]


async def test_a_test_file_is_loaded_with_a_warning(make_world: MakeWorld) -> None:
    world = await world_of(make_world)
    path = put(world, *everybody(range(3)))
    path.write_text(path.read_text().replace("*0*P*:", "*0*T*:"))
    for result in (await plan(world.job()), await world.run()):
        assert [each["rule"] for each in result.summary["warnings"]] == ["files|test"]


# Days of the member --------------------------------------------------------------------------------


async def test_a_coverage_ends_with_its_member_and_two_days_reject_one_member(
    make_world: MakeWorld,
) -> None:
    world = await world_of(make_world)
    ended = person(0)
    ended.insert(3, ["DTP", "357", "D8", "20261231"])
    several = person(1)
    several[3:3] = [["DTP", "357", "D8", "20261130"], ["DTP", "357", "D8", "20261231"]]
    put(world, ended, several, *everybody(range(2, 6)))
    result = await world.run()
    assert counts(result) == {"created": 5, "rejected": 1}
    assert result.summary["feeds"][0]["rules"] == {"end_on|date": 1}
    assert sorted(each["period"].get("end", "") for each in held(world)) == [
        *[""] * 4,
        "2026-12-31",
    ]


# Maintenance codes --------------------------------------------------------------------------------


async def test_rows_that_a_code_does_not_settle_are_rejected_and_go_in_again_once_corrected(
    make_world: MakeWorld,
) -> None:
    world = await world_of(make_world)
    unnamed = person(2, code="024")[:-2]
    put(world, person(0, code="024"), person(1, code="002"), unnamed, person(3, code="025"))
    result = await world.run()
    assert counts(result) == {"created": 1, "rejected": 3}
    rules = result.summary["feeds"][0]["rules"]
    assert {rule: count for rule, count in rules.items() if rule.startswith("row|")} == {
        "row|no_end": 1,
        "row|maintenance": 1,
        "row|no_coverage": 1,
    }
    rejects = result.folder / "rejects-eligibility.csv"
    with rejects.open(newline="") as text:
        lines = list(csv.DictReader(text))
    assert list(lines[0])[: len(COLUMNS)] == list(COLUMNS)
    again = await world.run(inputs={"eligibility": rejects})
    assert counts(again) == {"rejected": 3}
    lines[0]["end"] = "2026-06-30"
    lines[1]["coverage_maintenance"] = "001"
    corrected = world.folder / "corrected.csv"
    with corrected.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines[:2])
    assert counts(await world.run(inputs={"eligibility": corrected})) == {"created": 2}
    ends = sorted(each["period"].get("end", "") for each in held(world))
    assert ends == ["", "", "2026-06-30"]


async def test_a_rejected_834_goes_in_again_where_the_format_is_named(
    make_world: MakeWorld,
) -> None:
    world = await world_of(make_world, 'format = "834"')
    put(world, person(0, code="024"), person(1))
    result = await world.run()
    rejects = result.folder / "rejects-eligibility.csv"
    assert counts(await world.run(inputs={"eligibility": rejects})) == {"rejected": 1}


# SSNs ---------------------------------------------------------------------------------------------


async def test_no_ssn_is_left_anywhere(make_world: MakeWorld) -> None:
    world = await world_of(make_world)
    put(world, *everybody(range(5)), person(5, code="024"), person(6, code="002"))
    result = await world.run()
    assert counts(result) == {"created": 5, "rejected": 2}
    (world.folder / "roster.834").unlink()
    for path in [each for each in world.folder.rglob("*") if each.is_file()]:
        text = path.read_bytes()
        if path.suffix == ".parquet":
            text = (
                pl.read_parquet(path, glob=False)
                .with_columns(pl.col(pl.Binary).cast(pl.String))
                .write_json()
                .encode()
            )
        assert SSN.encode() not in text, path.name


# The sample files -----------------------------------------------------------------------------------

SAMPLE = Path(__file__).parents[2] / "sample_data"
REFERENCES = f"""
[references.patient]
how = "file"
path = "{SAMPLE}/crosswalk_patients.csv"
from = "mrn"
to = "canvas_key"
[references.payer]
how = "file"
path = "{SAMPLE}/crosswalk_payers.csv"
from = "sender_code"
to = "payer_id"
target = "payer_id"
"""
TWIN = {
    "reference_23": "MRN",
    "reference_zz": "Subscriber MRN",
    "subscriber_number": "Member ID",
    "relationship_code": "Rel Code",
    "payer_id": "Payer ID",
    "insurance_line": "Line",
    '"plan"': '"Plan"',
    '"start"': '"Start"',
    '"end"': '"End"',
    "group_number": "Group",
}


def sample_feed(name: str) -> str:
    feed = FEED.format(more="").replace('"*.834"', f'"{name}"')
    feed = feed.replace('plan = "plan"', 'plan = "plan"\ngroup = "group_number"')
    if name.endswith(".csv"):
        feed = feed.replace("key = ", 'dates = ["%m/%d/%Y"]\nkey = ')
        for column, theirs in TWIN.items():
            feed = feed.replace(column, theirs)
    return REFERENCES + feed


def shown(world: World) -> list[dict[str, Any]]:
    """Return what Canvas holds, in the words of the expected coverages."""
    found = [
        {
            "patient": each["beneficiary"]["reference"].removeprefix("Patient/"),
            "subscriber": each["subscriber"]["reference"].removeprefix("Patient/"),
            "member_id": each["identifier"][0]["value"],
            "relationship": each["relationship"]["coding"][0]["code"],
            "type": each["type"]["coding"][0]["code"],
            "plan": next(
                one["value"] for one in each["class"] if one["type"]["coding"][0]["code"] == "plan"
            ),
            "group": next(
                one["value"] for one in each["class"] if one["type"]["coding"][0]["code"] == "group"
            ),
            "order": each["order"],
            "start": each["period"]["start"],
            "end": each["period"].get("end"),
        }
        for each in held(world)
    ]
    return sorted(found, key=lambda one: (one["patient"], one["order"]))


def expected(name: str) -> list[dict[str, Any]]:
    meant = json.loads((SAMPLE / "enrollments_expected.json").read_text())[name]
    found = [{word: value for word, value in each.items() if word != "payer"} for each in meant]
    return sorted(found, key=lambda one: (one["patient"], one["order"]))


async def test_the_sample_files_and_their_csv_twin_come_to_the_same_coverages(
    tmp_path: Path,
) -> None:
    people = json.loads((SAMPLE / "canvas_seed.json").read_text())
    for name in ("enrollments_full.834", "enrollments_full.csv"):
        folder = tmp_path / name
        folder.mkdir()
        sandbox = Sandbox(people)
        async with serve(sandbox) as url:
            world = World(folder, sandbox, url)
            shutil.copy(SAMPLE / name, folder)
            world.write_config(feeds=sample_feed(name))
            assert (await world.run()).exit_code == 0
            assert shown(world) == expected("full")
            if name.endswith(".834"):
                shutil.copy(SAMPLE / "enrollments_changes.834", folder / name)
                assert counts(await world.run()) == {"created": 1, "updated": 3}
                assert shown(world) == expected("after_changes")
