"""Dependents whose subscriber is found in another row: of today's files, or of earlier ones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from tests.support.nightly import Clock, stopped
from tests.support.postgres import Server
from tests.support.rosters import BY_ROW, roster_feed
from tests.support.runs import counts
from tests.support.world import MakeWorld, World, patient_key

HEADER = ["MRN", "Member", "Rel", "Sub", "Payer", "Order", "Start"]
ROSTER = BY_ROW + roster_feed(" ".join(HEADER), "{more}", path="roster*.csv")

# patient, member id, relationship, subscriber id; optionally the payer
Row = tuple[str, ...]


def write(world: World, rows: Sequence[Row], name: str = "roster.csv") -> Path:
    lines = []
    for patient, member, relationship, subscriber_id, *payer in rows:
        mrn = patient_key(int(patient)) if patient.isdigit() else patient
        payer_id = payer[0] if payer else "60054"
        lines.append((mrn, member, relationship, subscriber_id, payer_id, "1", "2026-01-01"))
    return world._write(name, HEADER, lines)


async def roster(make_world: MakeWorld, more: str = "") -> World:
    world = await make_world(patients=20)
    world.write_config(feeds=ROSTER.format(more=more))
    return world


def subscribers(world: World) -> dict[str, int]:
    """Return the subscriber of each coverage in Canvas, by member id, as the number of the patient."""
    return {
        each["identifier"][0]["value"]: int(each["subscriber"]["reference"].split("/")[1], 16)
        for each in world.sandbox.resources("Coverage")
    }


def messages(result: Any) -> dict[int, tuple[str, str]]:
    """Return rule and message of rejected rows, by row."""
    rejected = [
        line for line in result.frame.iter_rows(named=True) if line["disposition"] == "rejected"
    ]
    return {line["row"]: (line["rule"], line["message"]) for line in rejected}


SELF, CHILD = ("1", "A1", "self", "S1"), ("2", "A2", "child", "S1")


@pytest.mark.parametrize(
    "files", [[[SELF, CHILD]], [[CHILD, SELF]], [[CHILD], [SELF]], [[SELF], [CHILD]]]
)
async def test_a_dependent_finds_its_subscriber_wherever_that_row_is(
    make_world: MakeWorld, files: list[list[Row]]
) -> None:
    world = await roster(make_world)
    for number, rows in enumerate(files):
        write(world, rows, f"roster{number}.csv")
    result = await world.run()
    assert counts(result) == {"created": 2}
    assert subscribers(world) == {"A1": 1, "A2": 1}
    again = await world.run()
    assert counts(again) == {"unchanged": 2}


async def test_a_dependent_that_comes_alone_has_the_subscriber_confirmed_last(
    make_world: MakeWorld,
) -> None:
    world = await roster(make_world)
    write(world, [SELF])
    assert counts(await world.run()) == {"created": 1}
    change = write(world, [CHILD, ("3", "A3", "spouse", "S2")], "change.csv")
    result = await world.run(inputs={"roster": change})
    assert counts(result) == {"created": 1, "rejected": 1}
    assert subscribers(world) == {"A1": 1, "A2": 1}
    rule, message = messages(result)[2]
    assert rule == "subscriber|unknown"
    assert "change.csv:3 (row 2)" in message
    assert "S2" not in message


async def test_a_subscriber_that_changes_updates_dependents_whose_rows_did_not(
    make_world: MakeWorld,
) -> None:
    world = await roster(make_world)
    other = [("5", "B5", "self", "S5"), ("6", "B6", "child", "S5")]
    write(world, [SELF, CHILD, *other])
    await world.run()
    write(world, [("4", "A4", "self", "S1"), CHILD, *other])
    result = await world.run()
    assert counts(result) == {"created": 1, "updated": 1, "unchanged": 2}
    assert subscribers(world) == {"A1": 1, "A2": 4, "A4": 4, "B5": 5, "B6": 5}
    change = write(world, [("3", "A3", "child", "S1")], "change.csv")
    await world.run(inputs={"roster": change})
    assert subscribers(world)["A3"] == 4
    # The row of the first night is back. It is unchanged, and its patient is the subscriber again.
    write(world, [SELF, CHILD, *other])
    assert counts(await world.run()) == {"updated": 1, "unchanged": 3}
    change = write(world, [("7", "A7", "child", "S1")], "change.csv")
    await world.run(inputs={"roster": change})
    assert subscribers(world)["A7"] == 1


async def test_a_change_file_between_two_whole_files_does_not_outlast_them(
    make_world: MakeWorld,
) -> None:
    world = await roster(make_world)
    write(world, [SELF])
    await world.run()
    change = write(world, [("4", "A4", "self", "S1")], "change.csv")
    await world.run(inputs={"roster": change})
    assert counts(await world.run()) == {"unchanged": 1}
    change = write(world, [CHILD], "change.csv")
    await world.run(inputs={"roster": change})
    assert subscribers(world)["A2"] == 1


async def test_a_subscriber_whose_row_is_rejected_for_another_field_is_known(
    make_world: MakeWorld,
) -> None:
    world = await roster(make_world)
    write(world, [("1", "NULL", "self", "S1"), CHILD])
    result = await world.run()
    assert counts(result) == {"created": 1, "rejected": 1}
    assert subscribers(world) == {"A2": 1}
    # Canvas has not confirmed that row, so it says nothing to later files.
    change = write(world, [("3", "A3", "child", "S1")], "change.csv")
    assert messages(await world.run(inputs={"roster": change}))[1][0] == "subscriber|unknown"


async def test_a_subscriber_who_cannot_be_read_is_not_replaced_by_an_earlier_one(
    make_world: MakeWorld,
) -> None:
    world = await roster(make_world)
    write(world, [SELF])
    await world.run()
    write(world, [CHILD, ("no id", "A1", "self", "S1")])
    result = await world.run()
    rule, message = messages(result)[1]
    assert rule == "subscriber|unknown"
    assert "roster.csv:3 (row 2)" in message
    assert messages(result)[2][0] == "patient|form"
    assert subscribers(world) == {"A1": 1}


async def test_a_subscriber_whom_canvas_refused_is_none_of_later_files(
    make_world: MakeWorld,
) -> None:
    world = await roster(make_world)
    write(world, [("99", "A99", "self", "S1")])  # Canvas does not know this patient
    assert counts(await world.run()) == {"refused": 1}
    change = write(world, [CHILD], "change.csv")
    result = await world.run(inputs={"roster": change})
    assert messages(result)[1][0] == "subscriber|unknown"


async def test_a_subscriber_whose_end_is_a_conflict_is_known_in_later_files(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=20, clock=(clock := Clock()))
    world.write_config(feeds=ROSTER.format(more='missing = "end"\nmissing_max = "100%"'))
    write(world, [SELF, CHILD])
    await world.run()
    clock.next_day()
    coverages = world.sandbox.resources("Coverage")
    own = next(each["id"] for each in coverages if each["identifier"][0]["value"] == "A1")
    world.sandbox.edit_by_hand("Coverage", own, {"subscriberId": "edited"})
    write(world, [CHILD])
    for _ in range(2):
        result = await world.run()
        assert (result.exit_code, counts(result)) == (3, {"unchanged": 1})


async def test_two_subscribers_of_one_id_are_ambiguous(make_world: MakeWorld) -> None:
    world = await roster(make_world)
    write(world, [CHILD, SELF], "roster1.csv")
    write(world, [("4", "A4", "self", "S1"), ("5", "A5", "self", "S1")], "roster2.csv")
    result = await world.run()
    rule, message = messages(result)[1]
    assert rule == "subscriber|ambiguous"
    assert "roster1.csv:3 (row 2)" in message
    assert "roster2.csv:2 (row 1)" in message
    assert "S1" not in message
    assert counts(result) == {"created": 3, "rejected": 1}
    change = write(world, [CHILD], "change.csv")
    result = await world.run(inputs={"roster": change})
    assert messages(result)[1][0] == "subscriber|ambiguous"
    assert "A2" not in subscribers(world)


async def test_rows_that_are_filtered_and_blank_ids_relate_to_nobody(
    make_world: MakeWorld,
) -> None:
    world = await roster(make_world, 'where = """"Payer" <> \'87726\'"""')
    write(world, [("1", "A1", "self", "S1", "87726"), CHILD, ("3", "A3", "child", "")])
    result = await world.run()
    assert {row: rule for row, (rule, _) in messages(result).items()} == {
        2: "subscriber|unknown",
        3: "subscriber|required",
    }


async def test_a_dependent_who_is_the_subscriber_is_rejected(make_world: MakeWorld) -> None:
    world = await roster(make_world)
    write(world, [SELF, ("1", "A9", "child", "S1")])
    assert messages(await world.run())[2][0] == "subscriber|not_self"


async def test_a_run_that_is_stopped_after_the_subscriber_is_continued(
    make_world: MakeWorld,
) -> None:
    world = await roster(make_world)
    world.write_config(feeds=ROSTER.format(more=""), rate_per_s=5.0, concurrency=1)
    rows = [SELF, CHILD, *((str(n), f"B{n}", "self", f"T{n}") for n in range(5, 12))]
    write(world, rows)
    assert (await stopped(world, at=1)).exit_code == 130
    world.write_config(feeds=ROSTER.format(more=""))
    change = write(world, [("3", "A3", "child", "S1")], "change.csv")
    assert counts(await world.run(inputs={"roster": change})) == {"created": 1}
    assert subscribers(world)["A3"] == 1
    result = await world.run()
    assert result.exit_code == 0
    assert subscribers(world)["A2"] == 1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('subscriber_id = "Sub"\n', "", "needs subscriber_id in feed roster"),
        ('subscriber_id = "Sub"', 'subscriber_id = "Sub"\nsubscriber = "S"', "maps subscriber too"),
    ],
)
async def test_the_configuration_says_what_is_missing(
    make_world: MakeWorld, old: str, new: str, says: str
) -> None:
    world = await roster(make_world)
    world.write_config(feeds=ROSTER.format(more="").replace(old, new))
    with pytest.raises(ConfigError, match=says):
        world.job()


async def test_a_journal_in_postgresql_knows_the_subscribers_of_earlier_files(
    make_world: MakeWorld,
    database: str,
    postgres_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    world = await make_world(patients=20)
    state = f'[state]\nurl = "{database}"\nlease_s = 3\n'
    world.write_config(feeds=state + ROSTER.format(more=""))
    write(world, [SELF])
    await world.run()
    change = write(world, [("4", "A4", "self", "S1")], "change.csv")
    await world.run(inputs={"roster": change})
    assert counts(await world.run()) == {"unchanged": 1}
    change = write(world, [CHILD], "change.csv")
    assert counts(await world.run(inputs={"roster": change})) == {"created": 1}
    assert subscribers(world) == {"A1": 1, "A4": 4, "A2": 1}


async def test_a_run_that_was_refused_does_not_hide_subscribers_from_the_next(
    make_world: MakeWorld,
) -> None:
    """Its rows are unchanged by the index of unchanged rows only once their subscriber ids are entered."""
    world = await make_world(patients=20)
    world.write_config(feeds=ROSTER.format(more="").replace(BY_ROW, ""))
    write(world, [SELF])
    await world.run()
    new = ("5", "A5", "self", "S5")
    write(world, [SELF, new])
    world.write_config(feeds=ROSTER.format(more=""), limits="writes_max = 0")
    assert (await world.run()).exit_code == 1
    world.write_config(feeds=ROSTER.format(more=""))
    assert counts(await world.run()) == {"created": 1, "unchanged": 1}
    change = write(world, [CHILD], "change.csv")
    assert counts(await world.run(inputs={"roster": change})) == {"created": 1}
