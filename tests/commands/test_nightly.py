"""The nightly file: only what changed is sent, nobody's edit is written over, and nothing is guessed.

The story is told in `golden/nightly.txt`: what each night's rows came to, and what Canvas held then;
`GOLDEN=write` writes it anew, for a person to read.
"""

import asyncio
import os
import stat
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.commands import run as engine
from pipeline.commands.decisions import Decisions
from pipeline.commands.review import as_json, review
from pipeline.commands.verify import read_back
from pipeline.journal import runs
from pipeline.planning import parts
from pipeline.reporting.cases import review_text
from pipeline.rows.accept import accept
from pipeline.sandbox import Faults
from tests.support.nightly import (
    FEED,
    MANY,
    Clock,
    Row,
    coverage,
    enter,
    gone,
    held,
    nightly,
    orders,
    rules,
    stopped,
    told,
    write,
    writes,
)
from tests.support.runs import counts
from tests.support.world import MakeWorld, patient_key

GOLDEN = Path(__file__).parents[1] / "golden"


# The story ----------------------------------------------------------------------------------------


async def test_a_nights_story(make_world: MakeWorld) -> None:
    first: list[Row] = [
        (0, "swap-a", 1, ""),
        (0, "swap-b", 2, ""),
        (1, "ends", 1, ""),
        (2, "gone", 1, ""),
        (3, "third", 1, ""),
        *((number, f"same{number}", 1, "") for number in range(10, 30)),
    ]
    clock = Clock()
    world = await make_world(patients=40, clock=clock)
    world.write_config(feeds=FEED.format(more='missing = "cancel"'))
    write(world, first)
    story = ["day 1: all is new", told(world, await world.run())]

    clock.next_day()
    enter(world, 4, "entered")
    enter(world, 5, "entered-wrong", period={"start": "2026-01-01", "end": "2026-02-01"})
    second: list[Row] = [
        (0, "swap-a", 2, ""),
        (0, "swap-b", 1, ""),
        (1, "ends", 1, "2026-06-30"),
        (3, "third", 2, ""),
        (3, "new-first", 1, ""),
        (4, "entered", 1, ""),
        (5, "entered-wrong", 1, ""),
        *first[5:],
    ]
    write(world, second)
    story += [
        "day 2: a swap, an end, one gone, one new before another, two that a person had entered",
        told(world, await world.run()),
    ]
    before = writes(world)
    assert counts(await world.run()) == {"unchanged": len(second)}
    assert writes(world) == before, "the same file again sends nothing"

    clock.next_day()
    edited = coverage(world, "ends")["id"]
    world.sandbox.edit_by_hand(
        "Coverage", edited, {"period": {"start": "2026-01-01", "end": "2026-05-31"}}
    )
    write(world, [(1, "ends", 1, "2026-07-31"), *second[3:13]])
    story += ["day 3: an edit by hand, and half a file", told(world, await world.run())]
    golden = GOLDEN / "nightly.txt"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text("\n".join(story) + "\n")
    assert "\n".join(story) + "\n" == golden.read_text()


# Updating -----------------------------------------------------------------------------------------


async def test_a_changed_row_is_rejected_where_the_feed_does_not_update(
    make_world: MakeWorld,
) -> None:
    world = await nightly(make_world, [(0, "a", 1, ""), (1, "b", 1, "")], more="update = false")
    write(world, [(0, "a", 1, "2026-12-31"), (1, "b", 1, "")])
    result = await world.run()
    assert (result.exit_code, counts(result)) == (3, {"rejected": 1, "unchanged": 1})
    assert rules(result) == {"row|changed": 1}
    assert writes(world) == 2


async def test_a_payment_that_changed_is_rejected(make_world: MakeWorld) -> None:
    world = await make_world(patients=2)
    world.write_config()
    world.write_eligibility(
        [(patient_key(0), "a", "self", "60054", "1", "2026-01-01", "")],
    )
    world.write_ledger([("T1", patient_key(0), "5.00", ""), ("T2", patient_key(1), "5.00", "")])
    assert (await world.run()).exit_code == 0
    world.write_ledger([("T1", patient_key(0), "5.01", ""), ("T2", patient_key(1), "5.00", "")])
    result = await world.run()
    assert result.summary["feeds"][1]["dispositions"]["rejected"] == 1
    assert rules(result) == {"row|changed": 1}
    assert writes(world) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"period": {"start": "2026-01-01", "end": "2026-03-31"}},
        {"order": 3},
        {"payor": [{"reference": "Organization/0d2b8b5c-0000-4000-8000-000000000000"}]},
        {"class": [{"type": {"coding": [{"code": "plan"}]}, "value": "Gold"}]},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_what_a_person_edited_is_never_written_over(
    make_world: MakeWorld, changes: dict[str, Any]
) -> None:
    world = await nightly(make_world, [(0, "a", 1, ""), (1, "b", 1, "")])
    world.sandbox.edit_by_hand("Coverage", coverage(world, "a")["id"], changes)
    edited = coverage(world, "a")
    write(world, [(0, "a", 1, "2026-12-31"), (1, "b", 1, "2026-12-31")])
    for _ in range(2):
        result = await world.run()
        assert (result.exit_code, counts(result)["refused"]) == (3, 1)
        assert rules(result) == {"conflict": 1}
        (line,) = result.frame.filter(result.frame["disposition"] == "refused").to_dicts()
        assert next(iter(changes)) in line["message"]
        assert coverage(world, "a") == edited
    assert coverage(world, "b")["period"]["end"] == "2026-12-31"


async def test_what_was_refused_for_an_edit_is_looked_at_only_after_the_quiet_time(
    make_world: MakeWorld,
) -> None:
    """A read may be as old as that, and would not show what the 412 is about."""
    world = await nightly(make_world, [(0, "a", 1, "")])
    world.sandbox.edit_by_hand("Coverage", coverage(world, "a")["id"], {"order": 3})
    write(world, [(0, "a", 1, "2026-12-31")])
    result = await world.run()
    with engine.open_journal(world.job()) as journal:
        exchanges = runs.exchanges(journal, result.run_id)
    refused = exchanges.filter(pl.col("http_status") == 412)["sent_at"][0]
    looked = exchanges.filter((pl.col("purpose") == "read") & (pl.col("sent_at") > refused))
    waited = datetime.fromisoformat(looked["sent_at"][0]) - datetime.fromisoformat(refused)
    assert waited.total_seconds() >= world.job().upload.quiet_s > 0


async def test_once_canvas_and_the_file_agree_a_conflict_is_over(make_world: MakeWorld) -> None:
    world = await nightly(make_world, [(0, "a", 1, "")])
    period = {"start": "2026-01-01", "end": "2026-05-31"}
    world.sandbox.edit_by_hand("Coverage", coverage(world, "a")["id"], {"period": period})
    write(world, [(0, "a", 1, "2026-12-31")])
    assert counts(await world.run()) == {"refused": 1}
    write(world, [(0, "a", 1, "2026-05-31")])
    assert counts(await world.run()) == {"updated": 1}
    assert counts(await world.run()) == {"unchanged": 1}
    assert writes(world) == 1, "nothing was sent that Canvas held already"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_updates_whose_answers_are_lost_arrive(make_world: MakeWorld, when: str) -> None:
    rows: list[Row] = [(number, f"m{number}", 1, "") for number in range(30)]
    world = await nightly(make_world, rows)
    world.write_config(feeds=FEED.format(more=""), doubts_max=1000)
    world.sandbox.set_faults(
        Faults(lose_before=0.3) if when == "before" else Faults(lose_after=0.3)
    )
    write(world, [(number, member, order, "2026-12-31") for number, member, order, _ in rows])
    for _ in range(5):
        result = await world.run()
        if result.exit_code == 0:
            break
    world.sandbox.set_faults(Faults())
    assert (await world.run()).exit_code == 0
    assert all(each["period"].get("end") == "2026-12-31" for each in held(world))
    assert len(held(world)) == 30


async def test_a_coverage_that_is_gone_from_canvas_is_told(make_world: MakeWorld) -> None:
    world = await nightly(make_world, [(0, "a", 1, "")])
    world.sandbox.delete_by_hand("Coverage", coverage(world, "a")["id"])
    write(world, [(0, "a", 1, "2026-12-31")])
    result = await world.run()
    assert (counts(result), rules(result)) == ({"refused": 1}, {"canvas|not-found": 1})


# Order --------------------------------------------------------------------------------------------


async def test_an_unchanged_coverage_that_would_be_moved_is_written_again(
    make_world: MakeWorld,
) -> None:
    world = await nightly(make_world, [(0, "a", 1, ""), (0, "b", 2, ""), (1, "other", 1, "")])
    write(world, [(0, "new", 1, ""), (0, "b", 2, ""), (0, "a", 3, ""), (1, "other", 1, "")])
    result = await world.run()
    assert result.exit_code == 0
    assert orders(world, 0) == {"new": 1, "b": 2, "a": 3}
    assert rules(result)["order|kept"] == 1 or counts(result)["updated"] == 2
    before = writes(world)
    assert counts(await world.run()) == {"unchanged": 4}
    assert writes(world) == before


async def test_what_is_in_the_way_of_an_order_is_told_before_it_is_sent(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=3)
    enter(world, 0, "by-hand", order=1)
    enter(world, 1, "by-hand-2", order=4)
    world.write_config(feeds=FEED.format(more=""))
    write(world, [(0, "a", 1, ""), (1, "b", 1, ""), (2, "c", 1, "")])
    planned = await engine.plan(world.job())
    assert planned.summary["feeds"][0]["warnings"] == {"order|taken": 1}
    assert writes(world) == 0
    result = await world.run()
    assert result.summary["feeds"][0]["warnings"] == {"order|taken": 1}
    assert counts(result) == {"created": 3}
    assert orders(world, 0) == {"a": 1, "by-hand": 2}


# Taking over --------------------------------------------------------------------------------------


async def test_each_patient_is_searched_once_and_what_is_known_not_at_all(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=12)
    world.write_config(feeds=FEED.format(more=""))
    rows: list[Row] = [(number // 2, f"m{number}", number % 2 + 1, "") for number in range(20)]
    write(world, rows)
    result = await world.run()
    assert result.summary["requests"]["searches"] == 1 + 10, "a probe, and each patient"
    write(world, [*rows, (11, "new", 1, "")])
    assert (await world.run()).summary["requests"]["searches"] == 1 + 1
    assert (await world.run()).summary["requests"]["total"] == 0


async def test_without_adopt_nobody_is_searched(make_world: MakeWorld) -> None:
    world = await make_world(patients=2)
    enter(world, 0, "a")
    world.write_config(feeds=FEED.format(more="adopt = false"))
    write(world, [(0, "a", 1, "")])
    result = await world.run()
    assert (counts(result), result.summary["requests"]["searches"]) == ({"created": 1}, 1)


async def test_several_are_told_apart_by_period_and_order(make_world: MakeWorld) -> None:
    world = await make_world(patients=2)
    old = enter(world, 0, "a", 2, period={"start": "2025-01-01", "end": "2025-12-31"})
    new = enter(world, 0, "a", 1)
    world.write_config(feeds=FEED.format(more="").replace('"member_id"]', '"member_id", "order"]'))
    write(world, [(1, "b", 1, "")])  # shows the Organization of the payer id
    assert counts(await world.run()) == {"created": 1}
    write(world, [(1, "b", 1, ""), (0, "a", 1, "")])
    result = await world.run()
    assert counts(result) == {"unchanged": 2}
    assert result.frame["resource_id"].to_list()[1:] == [new]
    assert old != new
    assert writes(world) == 1, "nothing but the first create"


async def test_what_could_be_several_is_rejected_and_nothing_is_sent(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=2)
    for _ in range(2):
        enter(world, 0, "a", 1)
    world.write_config(feeds=FEED.format(more=""))
    write(world, [(0, "a", 3, "2026-12-31"), (1, "b", 1, "")])
    result = await world.run()
    assert (result.exit_code, counts(result)) == (3, {"rejected": 1, "created": 1})
    assert rules(result) == {"row|ambiguous": 1}


async def test_what_another_row_has_is_not_taken_over(make_world: MakeWorld) -> None:
    world = await nightly(make_world, [(0, "a", 1, "")])
    write(world, [(0, "a", 1, ""), (1, "b", 1, "")])
    world.write_config(feeds=FEED.format(more="").replace('"eligibility"', '"again"', 1))
    result = await world.run()
    assert counts(result) == {"created": 2}, "a feed of another name, whose rows are others"


async def test_a_search_that_fails_is_never_nothing_there(make_world: MakeWorld) -> None:
    world = await make_world(patients=2)
    enter(world, 0, "a")
    world.write_config(feeds=FEED.format(more=""))
    write(world, [(0, "a", 1, "")])
    world.sandbox.set_faults(Faults(error_before=1.0, applies_to="reads"))
    result = await world.run()
    assert (result.exit_code, writes(world)) == (1, 0)


# What is gone -------------------------------------------------------------------------------------


async def test_what_is_gone_is_cancelled_and_comes_back(make_world: MakeWorld) -> None:
    world = await nightly(make_world, MANY, more='missing = "cancel"')
    write(world, MANY[1:])
    result = await world.run()
    assert (result.exit_code, gone(result)) == (0, {"rows": 1, "cancelled": 1})
    assert coverage(world, "m0")["status"] == "cancelled"
    listed = (result.folder / "missing-eligibility.csv").read_text()
    assert coverage(world, "m0")["id"] in listed
    assert gone(await world.run()) == {}
    write(world, MANY)
    assert counts(await world.run()) == {"unchanged": 29, "updated": 1}
    assert coverage(world, "m0")["status"] == "active"


async def test_what_is_gone_is_only_told_where_the_feed_says_so(make_world: MakeWorld) -> None:
    world = await nightly(make_world, MANY, more='missing = "report"')
    write(world, MANY[:10])
    result = await world.run()
    assert (result.exit_code, gone(result)) == (0, {"rows": 20, "reported": 20})
    assert writes(world) == 30


async def test_too_many_gone_and_nothing_is_cancelled(make_world: MakeWorld) -> None:
    world = await nightly(make_world, MANY, more='missing = "cancel"')
    write(world, MANY[2:])
    result = await world.run()
    assert (result.exit_code, gone(result)) == (3, {"rows": 2, "not_cancelled": 2})
    assert "missing|too-many" in (result.folder / "missing-eligibility.csv").read_text()
    assert "None is cancelled in eligibility" in result.summary["warnings"][0]["message"]
    assert writes(world) == 30


async def test_a_row_that_was_rejected_today_is_not_gone(make_world: MakeWorld) -> None:
    """Its key may be another one because of what is wrong with it."""
    world = await make_world(patients=40)
    key = '"member_id", "start_on"]'
    world.write_config(feeds=FEED.format(more='missing = "cancel"').replace('"member_id"]', key))
    write(world, MANY)
    await world.run()
    content = (world.folder / "eligibility.csv").read_text()
    (world.folder / "eligibility.csv").write_text(content.replace("2026-01-01", "01.01.26", 1))
    result = await world.run()
    assert counts(result)["rejected"] == 1
    assert gone(result) == {"rows": 1, "not_cancelled": 1}
    assert all(each["status"] == "active" for each in held(world))


async def test_a_file_given_by_hand_is_not_the_whole_file(make_world: MakeWorld) -> None:
    world = await nightly(make_world, MANY, more='missing = "cancel"')
    other = world.folder / "other.csv"
    write(world, MANY[:29])
    (world.folder / "eligibility.csv").rename(other)
    write(world, MANY)
    assert gone(await world.run(inputs={"eligibility": other})) == {}
    assert all(each["status"] == "active" for each in held(world))
    write(world, MANY[:29])
    assert gone(await world.run()) == {"rows": 1, "cancelled": 1}


async def test_a_cancel_that_was_not_sent_is_not_forgotten(make_world: MakeWorld) -> None:
    world = await nightly(make_world, MANY, more='missing = "cancel"')
    write(world, MANY[1:])
    world.sandbox.set_faults(Faults(error_before=1.0, applies_to="writes"))
    result = await world.run()
    assert (result.exit_code, gone(result)) == (1, {"rows": 1, "pending": 1})
    world.sandbox.set_faults(Faults())
    result = await world.run()
    assert (result.exit_code, gone(result)) == (0, {"rows": 1, "cancelled": 1})
    assert coverage(world, "m0")["status"] == "cancelled"


# Verifying ----------------------------------------------------------------------------------------


async def test_after_every_kind_of_night_canvas_holds_what_the_file_says(
    make_world: MakeWorld,
) -> None:
    world = await nightly(make_world, MANY, more='missing = "cancel"')
    enter(world, 30, "entered")
    enter(world, 31, "other", period={"start": "2026-01-01", "end": "2026-02-01"})
    write(
        world,
        [(0, "m0", 1, "2026-12-31"), *MANY[2:], (30, "entered", 1, ""), (31, "other", 1, "")],
    )
    result = await world.run()
    assert counts(result) == {"updated": 2, "unchanged": 29}
    found = await read_back(world.job())
    assert (found.exit_code, found.summary["verification"]["match"]) == (0, 32)


async def test_an_update_in_doubt_is_listed_and_decided_on(make_world: MakeWorld) -> None:
    world = await nightly(make_world, [(0, "a", 1, "")])
    write(world, [(0, "a", 1, "2026-12-31")])
    world.write_config(feeds=FEED.format(more=""), quiet_s=30.0)
    world.sandbox.set_faults(Faults(lose_after=1.0))
    assert (await stopped(world, at=2)).exit_code == 130
    world.sandbox.set_faults(Faults(error_before=1.0, applies_to="reads"))
    reviewed = await review(world.job())
    (case,) = as_json(reviewed)["in_doubt"]
    assert (case["interaction"], case["resource_id"]) == ("update", coverage(world, "a")["id"])
    assert f"an update of Coverage/{case['resource_id']}" in review_text(
        as_json(reviewed), "config.toml", world.url
    )
    world.sandbox.set_faults(Faults())
    wrong = await review(world.job(), Decisions(confirm={case["key"]: "other"}, who="somebody"))
    assert wrong.decided[0].what == "refused"
    done = await review(
        world.job(), Decisions(confirm={case["key"]: case["resource_id"]}, who="somebody")
    )
    assert (done.exit_code, done.decided[0].what) == (0, "confirmed")
    assert counts(await world.run()) == {"unchanged": 1}


# Skipping in bulk ---------------------------------------------------------------------------------


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were read and mapped, and not known again, batch by batch."""
    seen: list[int] = []
    whole = accept

    def counting(texts: pl.DataFrame, *more: Any) -> Any:
        seen.append(texts.height)
        return whole(texts, *more)

    monkeypatch.setattr(parts, "accept", counting)
    return seen


async def test_rows_that_did_not_change_are_not_looked_at_one_by_one(
    make_world: MakeWorld, looked_at: list[int]
) -> None:
    world = await nightly(make_world, MANY)
    looked_at.clear()
    result = await world.run()
    assert (sum(looked_at), counts(result)) == (0, {"unchanged": 30})
    assert result.summary["requests"]["total"] == 0
    assert result.frame["resource_id"].n_unique() == 30
    write(world, [(0, "m0", 1, "2026-12-31"), *MANY[1:]])
    assert counts(await world.run()) == {"unchanged": 29, "updated": 1}
    assert sum(looked_at) == 1


async def test_another_quoting_column_order_or_row_order_is_no_change(
    make_world: MakeWorld, looked_at: list[int]
) -> None:
    world = await nightly(make_world, MANY)
    looked_at.clear()
    path = world.folder / "eligibility.csv"
    frame = pl.read_csv(path, infer_schema=False).reverse()
    frame.select(sorted(frame.columns, reverse=True)).write_csv(path, quote_style="always")
    result = await world.run()
    assert (sum(looked_at), counts(result)) == (0, {"unchanged": 30})


@pytest.mark.parametrize("change", ["codes", "dates", "key column", "contract"])
async def test_another_mapping_has_every_row_looked_at_again(
    make_world: MakeWorld, looked_at: list[int], change: str
) -> None:
    world = await nightly(make_world, MANY)
    text = world.config.read_text()
    changed = {
        "codes": text + '[feeds.codes.relationship]\n"18" = "self"\n',
        "dates": text.replace("key =", 'dates = ["%Y-%m-%d", "%m/%d/%Y"]\nkey ='),
        "key column": text.replace('payer = "Payer"', 'payer = "Payer"\nplan = "Rel"'),
        "contract": text.replace("[upload]", 'contract = "2023"\n[upload]'),
    }
    world.config.write_text(changed[change])
    looked_at.clear()
    planned = await engine.plan(world.job())
    assert sum(looked_at) == 30
    is_same = change in {"codes", "dates"}
    assert counts(planned) == ({"unchanged": 30} if is_same else {"pending": 30})


async def test_another_answer_of_a_crosswalk_has_that_row_looked_at_again(
    make_world: MakeWorld, looked_at: list[int]
) -> None:
    world = await make_world(patients=40)
    crosswalk = world.folder / "payers.csv"
    crosswalk.write_text("name,id\nA,60054\nB,60054\n")
    world.write_config(
        feeds='[references.payer]\nhow = "file"\npath = "payers.csv"\nfrom = "name"\nto = "id"\n'
        + FEED.format(more="")
    )
    rows = [
        (patient_key(number), f"m{number}", "self", "AB"[number == 7], "1", "2026-01-01", "")
        for number in range(20)
    ]
    world.write_eligibility(rows)
    assert counts(await world.run()) == {"created": 20}
    looked_at.clear()
    crosswalk.write_text("name,id\nA,60054\nB,60055\n")
    assert counts(await engine.plan(world.job())) == {"unchanged": 19, "pending": 1}
    assert sum(looked_at) == 1


async def test_what_the_journal_learned_since_wins_over_the_index(
    make_world: MakeWorld, looked_at: list[int]
) -> None:
    """A run of a file that --input names writes to the journal, and leaves the index as it is."""
    world = await nightly(make_world, MANY)
    write(world, [(0, "m0", 1, "2026-12-31"), *MANY[1:]])
    named = {"eligibility": str(world.folder / "eligibility.csv")}
    assert counts(await engine.run(world.job(inputs=named))) == {"unchanged": 29, "updated": 1}
    write(world, MANY)
    looked_at.clear()
    assert counts(await world.run()) == {"unchanged": 29, "updated": 1}
    assert sum(looked_at) == 1
    assert "end" not in coverage(world, "m0")["period"]


@pytest.mark.parametrize("damage", [b"", b"PAR1 and nothing behind it", None])
async def test_without_its_index_a_run_comes_to_the_same(
    make_world: MakeWorld, damage: bytes | None
) -> None:
    world = await nightly(make_world, MANY)
    index = world.folder / "state" / "held-eligibility.parquet"
    assert stat.S_IMODE(index.stat().st_mode) == 0o600
    if damage is None:
        index.unlink()
    else:
        index.write_bytes(damage)
    before = writes(world)
    assert counts(await world.run()) == {"unchanged": 30}
    assert writes(world) == before


async def test_rows_that_are_skipped_still_count_as_duplicates_and_contradictions(
    make_world: MakeWorld,
) -> None:
    world = await nightly(make_world, MANY)
    write(world, [*MANY, MANY[3], (4, "m4", 2, ""), (0, "x", 1, "")])
    result = await world.run()
    assert counts(result) == {"unchanged": 30, "duplicate": 1, "rejected": 2}
    assert rules(result) == {"row|duplicate": 1, "row|contradicts": 1, "order|collides": 1}
    assert result.summary["balanced"]


async def test_the_report_of_a_night_is_the_same_after_the_next_one(make_world: MakeWorld) -> None:
    world = await make_world(patients=40)
    world.write_config(feeds=FEED.format(more=""))
    write(world, MANY)
    first = await world.run()
    write(world, [(0, "m0", 1, "2026-12-31"), *MANY[1:]])
    await asyncio.sleep(1.1)  # run ids sort by the second
    assert counts(await world.run()) == {"unchanged": 29, "updated": 1}
    again = await engine.report_again(world.job(), first.run_id)
    assert again.summary == first.summary
    assert again.frame.drop("settled_at").equals(first.frame.drop("settled_at"))
