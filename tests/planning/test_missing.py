"""Missing rows: what protects a coverage from being cancelled, and what the report says of it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cluster.senders import _left
from pipeline.commands import run as engine
from pipeline.planning.plan import Plan
from pipeline.planning.ranks import after, can_be_last
from pipeline.records import Intent, Interaction
from pipeline.reporting.terminal import summary_text
from pipeline.sandbox import Faults
from pipeline.sending.queues import PatientQueues
from pipeline.sending.session import intents_of
from tests.support.missing_lines import missing_lines
from tests.support.nightly import (
    FEED,
    MANY,
    Row,
    coverage,
    enter,
    gone,
    held,
    nightly,
    orders,
    rules,
    write,
)
from tests.support.nightly_corners import CANCEL, two_feeds
from tests.support.world import LEDGER_ONLY, PAYER, MakeWorld, World, patient_key

Cells = tuple[str, ...]


def cells(row: Row) -> Cells:
    number, member, order, end = row
    return (patient_key(number), member, "self", "60054", str(order), "2026-01-01", end)


def status(world: World) -> dict[str, str]:
    return {each["identifier"][0]["value"]: each["status"] for each in held(world)}


# A rejected row of the patient -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "more", "today"),
    [
        ("order|collides", "", [(0, "new", 1, ""), (0, "new2", 1, "")]),
        ("row|contradicts", "", [(0, "new", 1, ""), (0, "new", 2, "")]),
        ("row|ambiguous", "", [(0, "twice", 3, "2026-12-31")]),
        ("row|changed", "update = false", [(0, "stays", 2, "2026-12-31")]),
    ],
)
async def test_no_coverage_is_cancelled_of_a_patient_with_a_rejected_row(
    make_world: MakeWorld, rule: str, more: str, today: list[Row]
) -> None:
    stays: Row = (0, "stays", 2, "")
    world = await nightly(make_world, [*MANY, stays], more=f"{CANCEL}\n{more}")
    for _ in range(2 if rule == "row|ambiguous" else 0):
        enter(world, 0, "twice", 5)
    write(world, [*MANY[1:], *([] if more else [stays]), *today])
    result = await world.run()
    assert rules(result).get(rule) == 1
    assert gone(result) == {"rows": 1, "not_cancelled": 1}
    assert coverage(world, "m0")["status"] == "active"
    (line,) = missing_lines(result)
    assert line["rule"] == "missing|unread"
    row = 29 + (0 if more else 1) + len(today)
    assert f"eligibility.csv:{row + 1} (row {row}) " in line["message"]


@pytest.mark.parametrize("rejects", ["one", "two"])
async def test_a_rejected_row_of_any_feed_protects_its_patient(
    make_world: MakeWorld, rejects: str
) -> None:
    two: list[Row] = [(number, f"b{number}", 2, "") for number in range(30)]
    world = await two_feeds(make_world, MANY, two, more=CANCEL)
    wrong = (*cells((0, "new", 3, ""))[:5], "no day", "")
    for name, rows in (("one", MANY[1:]), ("two", two)):
        more = [wrong] if name == rejects else []
        world.write_eligibility([*(cells(row) for row in rows), *more])
        (world.folder / "eligibility.csv").rename(world.folder / f"{name}.csv")
    result = await world.run()
    assert gone(result) == {"rows": 1, "not_cancelled": 1}
    assert f"{rejects}.csv:" in missing_lines(result, "one")[0]["message"]
    assert coverage(world, "m0")["status"] == "active"


# A rejected row of an unknown patient ------------------------------------------------------------


@pytest.mark.parametrize(
    ("member", "came_to", "rule"),
    [
        ("another", {"rows": 1, "cancelled": 1}, ""),
        (" M0 ", {"rows": 1, "not_cancelled": 1}, "missing|unidentified"),
        ("", {"rows": 1, "not_cancelled": 1}, "missing|unidentified"),
    ],
    ids=["another member", "the same member", "no member id"],
)
@pytest.mark.parametrize("patient", ["not a key!", ""], ids=["unreadable", "blank"])
async def test_a_row_of_an_unknown_patient_protects_only_what_it_may_be(
    make_world: MakeWorld, patient: str, member: str, came_to: dict[str, int], rule: str
) -> None:
    world = await nightly(make_world, MANY, more=CANCEL)
    unknown = (patient, member, *cells(MANY[0])[2:])
    world.write_eligibility([*(cells(row) for row in MANY[1:]), unknown])
    result = await world.run()
    assert (result.exit_code, gone(result)) == (3, came_to)
    (line,) = missing_lines(result)
    assert line["rule"] == rule
    assert ("eligibility.csv:31 (row 30) " in line["message"]) == bool(rule)
    assert status(world)["m0"] == ("active" if rule else "cancelled")


async def test_a_patient_that_the_crosswalk_does_not_know_is_unknown(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=40)
    lines = [f"P{number},{patient_key(number)}" for number in range(30)]
    (world.folder / "patients.csv").write_text("\n".join(["name,id", *lines]) + "\n")
    table = '[references.patient]\nhow = "file"\npath = "patients.csv"\nfrom = "name"\nto = "id"\n'
    world.write_config(feeds=table + FEED.format(more=CANCEL))
    named: list[Cells] = [(f"P{row[0]}", *cells(row)[1:]) for row in MANY]
    world.write_eligibility(named)
    assert (await world.run()).exit_code == 0
    world.write_eligibility([*named[1:], ("P99", *cells((0, "m99", 1, ""))[1:])])
    result = await world.run()
    assert gone(result) == {"rows": 1, "cancelled": 1}
    assert status(world)["m0"] == "cancelled"


# Fewer files than the last time ------------------------------------------------------------------


def write_parts(world: World, parts: dict[str, list[Row]]) -> None:
    """Deliver these files, and no other."""
    for path in world.folder.glob("part-*.csv"):
        path.unlink()
    for name, rows in parts.items():
        write(world, rows)
        (world.folder / "eligibility.csv").rename(world.folder / f"part-{name}.csv")


async def test_with_fewer_files_than_the_last_time_nothing_is_cancelled(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=40)
    world.write_config(feeds=FEED.format(more=CANCEL).replace("eligibility.csv", "part-*.csv"))
    write_parts(world, {"a": MANY[:15], "b": MANY[15:29], "c": MANY[29:]})
    first = await world.run()
    assert (first.exit_code, first.summary["warnings"]) == (0, [])
    write_parts(world, {"a": MANY[:15], "b": MANY[15:29]})
    assert len((await engine.plan(world.job())).summary["warnings"]) == 1
    for _ in range(2):  # running it again, or after a plan, is not the next delivery
        result = await world.run()
        assert (result.exit_code, gone(result)) == (3, {"rows": 1, "not_cancelled": 1})
        assert missing_lines(result)[0]["rule"] == "missing|files"
        (warning,) = result.summary["warnings"]
        assert (warning["rule"], warning["feed"], warning["count"]) == (
            "files|fewer",
            "eligibility",
            1,
        )
        assert "Feed eligibility has 2 files; its last complete run had 3." in warning["message"]
        assert warning["message"] in summary_text(result.summary, "reports", "config.toml")
        assert "its last complete run had 3" in (result.folder / "report.html").read_text()
    write_parts(world, {"a": [*MANY[:15], (35, "m35", 1, "")], "b": MANY[15:29]})
    result = await world.run()
    assert (result.exit_code, gone(result)) == (0, {"rows": 1, "cancelled": 1})
    assert result.summary["warnings"] == []


async def test_fewer_files_of_a_ledger_are_a_warning(make_world: MakeWorld) -> None:
    world = await make_world(patients=5)
    world.write_config(feeds=LEDGER_ONLY.replace("ledger.csv", "day-*.csv"))
    for day in range(3):
        rows = [(f"T{day}{number}", patient_key(number), "5.00", "") for number in range(5)]
        world.write_ledger(rows, f"day-{day}.csv")
    assert (await world.run()).exit_code == 0
    (world.folder / "day-0.csv").unlink()
    result = await world.run()
    assert result.exit_code == 0
    assert [each["rule"] for each in result.summary["warnings"]] == ["files|fewer"]


# A replacement that is not written ---------------------------------------------------------------


def unpayable(row: Row) -> Cells:
    """Cells of a row that Canvas refuses, for it does not know the payer."""
    return (*cells(row)[:3], "99999", *cells(row)[4:])


async def replaced(make_world: MakeWorld, order: int, replacement: Callable[[Row], Cells]) -> World:
    """A night after which patient 0's second coverage, `old`, gave way to `new` with that order."""
    world = await nightly(make_world, [*MANY, (0, "old", 2, "")], more=CANCEL)
    world.write_eligibility([*(cells(row) for row in MANY), replacement((0, "new", order, ""))])
    return world


async def test_what_a_refused_row_may_replace_is_not_cancelled(make_world: MakeWorld) -> None:
    world = await replaced(make_world, 3, unpayable)
    for _ in range(2):
        result = await world.run()
        assert (result.exit_code, gone(result)) == (3, {"rows": 1, "not_cancelled": 1})
        (line,) = missing_lines(result)
        assert line["rule"] == "missing|unreplaced"
        assert line["replacement"] == "eligibility.csv:32 (row 31) refused"
        assert line["message"].startswith(
            "not cancelled: eligibility.csv:32 (row 31) of the same patient was refused"
        )
        assert status(world)["old"] == "active"
    again = await engine.report_again(world.job(), result.run_id)
    assert missing_lines(again) == [line]
    with engine.open_journal(world.job()) as journal:
        plan = Plan.open(world.folder / "state" / "plans" / result.run_id)
        left = _left(intents_of(world.job(), plan), journal, result.run_id)
        assert [intent for batch in left for intent in batch] == [], (
            "no worker that takes over cancels it"
        )
    world.write_eligibility([cells(row) for row in [*MANY, (0, "new", 3, "")]])
    assert gone(await world.run()) == {"rows": 1, "cancelled": 1}
    assert (status(world)["new"], status(world)["old"]) == ("active", "cancelled")


async def test_a_coverage_is_cancelled_behind_its_replacement(make_world: MakeWorld) -> None:
    world = await replaced(make_world, 3, cells)
    result = await world.run()
    assert (result.exit_code, gone(result)) == (0, {"rows": 1, "cancelled": 1})
    assert [effect["interaction"] for effect in world.effects][-2:] == ["create", "update"]
    assert missing_lines(result)[0]["replacement"] == "eligibility.csv:32 (row 31) created"
    assert orders(world, 0) == {"m0": 1, "new": 3}


async def test_a_cancellation_that_had_to_go_first_names_the_replacement_that_was_refused(
    make_world: MakeWorld,
) -> None:
    world = await replaced(make_world, 2, unpayable)
    result = await world.run()
    assert result.exit_code == 3
    assert gone(result) == {"rows": 1, "cancelled": 1, "cancelled_without_replacement": 1}
    (line,) = missing_lines(result)
    assert (line["outcome"], line["replacement"]) == (
        "cancelled",
        "eligibility.csv:32 (row 31) refused",
    )
    (warning,) = result.summary["warnings"]
    assert (warning["rule"], warning["feed"], warning["count"]) == (
        "missing|unreplaced",
        "eligibility",
        1,
    )
    assert "eligibility: 1 coverage was cancelled" in summary_text(
        result.summary, "reports", "config.toml"
    )


async def test_what_a_row_in_doubt_may_replace_is_not_cancelled(make_world: MakeWorld) -> None:
    world = await replaced(make_world, 3, cells)
    world.write_config(feeds=FEED.format(more=CANCEL), resend_absent="none")
    world.sandbox.set_faults(Faults(lose_before=1.0, applies_to="writes"))
    result = await world.run()
    assert (result.exit_code, gone(result)) == (4, {"rows": 1, "pending": 1})
    assert missing_lines(result)[0]["replacement"] == "eligibility.csv:32 (row 31) in doubt"
    assert status(world)["old"] == "active"


async def test_a_plan_names_the_rows_beside_a_cancellation(make_world: MakeWorld) -> None:
    world = await replaced(make_world, 3, cells)
    result = await engine.plan(world.job())
    assert (result.exit_code, gone(result)) == (0, {"rows": 1, "pending": 1})
    assert missing_lines(result)[0]["replacement"] == "eligibility.csv:32 (row 31) pending"
    assert result.summary["warnings"] == []


@pytest.mark.parametrize(
    ("before", "gone_", "written", "last"),
    [
        ({"a": 1}, {"c": 2}, [], {"c"}),
        ({"a": 1}, {"c": 2}, [("n", 3)], {"c"}),
        ({"a": 1}, {"c": 2}, [("n", 2)], set()),
        ({"a": 1}, {"c": 2}, [("n", 1)], set()),
        ({"a": 1}, {"c": 3}, [("n", 1)], {"c"}),
        ({"a": 1, "b": 2}, {"c": 3}, [("n", 1)], set()),
        ({"a": 1, "b": 2}, {"c": 5}, [("n", 1)], {"c"}),
        ({}, {"c": 5}, [("n", 5)], set()),
        ({"a": 1, "b": 2, "d": 3, "e": 4}, {"c": 5}, [("n", 1)], set()),
        ({"a": 1}, {"c": 2, "d": 4}, [("n", 2)], {"d"}),
        ({"a": 1}, {"c": 2, "d": 3}, [("n", 2)], {"d"}),
        ({"a": 1}, {"c": 2}, [("a", None), ("n", 1)], {"c"}),
        ({"a": 1, "b": 3}, {"c": 2}, [("a", 3), ("b", 1)], {"c"}),
    ],
)
def test_a_cancellation_goes_last_only_if_no_write_touches_its_order(
    before: dict[str, int],
    gone_: dict[str, int],
    written: list[tuple[str, int | None]],
    last: set[str],
) -> None:
    assert can_be_last(before, gone_, written) == last


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 5)),
    st.dictionaries(st.sampled_from("xyz"), st.integers(1, 5)),
    st.lists(st.tuples(st.sampled_from("abcno"), st.integers(1, 5) | st.none()), max_size=4),
)
def test_orders_end_the_same_with_cancellations_last(
    before: dict[str, int], gone_: dict[str, int], written: list[tuple[str, int | None]]
) -> None:
    def end(orders: dict[str, int]) -> dict[str, int]:
        for key, order in written:
            if order is None:
                orders.pop(key, None)
            else:
                orders = after(orders, key, order)
        return orders

    last = can_be_last(before, gone_, written)
    late = end({**before, **{key: gone_[key] for key in last}})
    assert {key: late[key] for key in last} == {key: gone_[key] for key in last}
    assert {key: order for key, order in late.items() if key not in last} == end({**before})


def intent(key: str, lane: str = "p", *, is_cancel: bool = False) -> Intent:
    made = Intent(key, "f", "Coverage", Interaction.UPDATE, lane, b"", "", None, "", "", "r")
    return made._replace(is_cancel=is_cancel)


def test_behind_a_refused_coverage_the_patients_cancellations_are_dropped() -> None:
    lanes = PatientQueues()
    queue = [intent("a"), intent("c", is_cancel=True), intent("b"), intent("o", "other")]
    assert all(lanes.offer(each) for each in queue)
    (first, other) = lanes.take(2)
    assert lanes.refused(first) == 1
    assert lanes.refused(other) == 0
    assert not lanes.offer(intent("d", is_cancel=True))
    assert lanes.offer(intent("e", "third", is_cancel=True))
    assert [each.key for each in lanes.take(5)] == ["b", "e"]
    assert lanes.refused(intent("e", "third", is_cancel=True)) == 0
    assert lanes.offer(intent("g", "third", is_cancel=True)), "a cancellation replaces nothing"
    lanes.ended(queue[2])
    lanes.ended(lanes.take(1)[0])
    assert (lanes.is_empty, len(lanes)) == (True, 0)


# A cancellation that Canvas refuses --------------------------------------------------------------


async def test_a_refused_cancellation_names_the_way_out(make_world: MakeWorld) -> None:
    """Here for another reason than a claim: Canvas' words are shown as they are, beside the way out."""
    world = await nightly(make_world, MANY, more=CANCEL)
    world.sandbox.delete_by_hand("Organization", PAYER["id"])
    write(world, MANY[1:])
    result = await world.run()
    assert (result.exit_code, gone(result)) == (3, {"rows": 1, "refused": 1})
    (line,) = missing_lines(result)
    assert line["message"].startswith("not cancelled: ")
    assert line["message"].endswith('it can only be ended: missing = "end"')
