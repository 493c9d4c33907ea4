"""What makes a row the same row: a changed key, feed name or spelling stops before anything is sent twice."""

import csv
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from pipeline.commands import check as doctor
from pipeline.commands import run as engine
from pipeline.errors import LimitError
from pipeline.reporting.terminal import summary_text
from pipeline.rows import groups
from pipeline.rows.feed import row_key
from tests.support.postgres import Server
from tests.support.runs import command, counts
from tests.support.world import MakeWorld, World, patient_key

Payment = tuple[str, int, str, str]  # transaction, patient, amount, day

LEDGER = """
[[feeds]]
name = "{name}"
kind = "ledger"
path = "ledger.csv"
{key}
[feeds.columns]
transaction_id = "TXN"
patient = "MRN"
amount = "Amount"
claim = "Claim"
posted_on = "Posted"
"""
BY_DAY = 'key = ["patient", "posted_on", "amount"]'


def configure(
    world: World, key: str = "", name: str = "ledger", more: str = "", limits: str = ""
) -> None:
    world.write_config(limits=limits, feeds=more + LEDGER.format(name=name, key=key))


def write(world: World, rows: Sequence[Payment], mrn: str = "{}") -> None:
    world._write(
        "ledger.csv",
        ["TXN", "MRN", "Amount", "Claim", "Posted"],
        [
            (txn, mrn.format(patient_key(number)), amount, "", day)
            for txn, number, amount, day in rows
        ],
    )


def nightly(count: int, day: str = "2026-11-20", first: int = 0) -> list[Payment]:
    return [(f"T{n}", n % 20, f"{n + 1}.00", day) for n in range(first, first + count)]


def renumbered(count: int) -> list[Payment]:
    """The same payments under other transaction ids."""
    return [(f"N{txn}", number, amount, day) for txn, number, amount, day in nightly(count)]


def warnings(result: engine.Result) -> list[tuple[str, str, int]]:
    """Return the warnings about rows: that a file comes again, or is short, is what most of these tests set up."""
    return [
        (each["rule"], each["feed"], each["count"])
        for each in result.summary["warnings"]
        if each["rule"] not in {"files|stale", "files|short"}
    ]


def message(result: engine.Result, rule: str) -> str:
    (found,) = [each["message"] for each in result.summary["warnings"] if each["rule"] == rule]
    return str(found)


def stopped(result: engine.Result, world: World, effects: int) -> str:
    """Why a run was stopped, with nothing of it sent."""
    assert result.exit_code == 1, result.summary["failure"]
    assert isinstance(result.failure, LimitError)
    assert len(world.effects) == effects
    return str(result.failure)


async def loaded(make_world: MakeWorld, rows: Sequence[Payment], **options: Any) -> World:
    """A Canvas that took these payments last night."""
    world = await make_world()
    configure(world, **options)
    write(world, rows)
    result = await world.run()
    assert counts(result) == {"created": len(rows)}
    assert warnings(result) == []
    return world


# Payments that are probably there already -----------------------------------------------------------


@pytest.mark.parametrize("command_", ["plan", "run"])
async def test_a_changed_key_stops_before_anything_is_sent(
    make_world: MakeWorld, command_: str
) -> None:
    world = await loaded(make_world, nightly(10))
    configure(world, key=BY_DAY)
    act = {"plan": engine.plan, "run": engine.run}[command_]
    why = stopped(await act(world.job()), world, 10)
    assert "feed ledger: 10 of 10 payments to be created each equal" in why
    assert "limits.repeats_max = 5%, which allows 3" in why
    assert "`key` of feed ledger was transaction_id and is patient, amount, posted_on now" in why
    assert "--accept-repeats 10" in why


async def test_a_renamed_feed_stops_before_anything_is_sent(make_world: MakeWorld) -> None:
    world = await loaded(make_world, nightly(10))
    configure(world, name="payments")
    why = stopped(await world.run(), world, 10)
    assert "feed payments: 10 of 10 payments to be created each equal" in why
    assert "writes of feed ledger, which this run does not have" in why
    assert "`key`" not in why


async def test_patients_spelt_in_another_way_stop_before_anything_is_sent(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    lines = [f"{mark}{n},{patient_key(n)}" for n in range(20) for mark in ("P", "P-")]
    (world.folder / "patients.csv").write_text("\n".join(["name,id", *lines]) + "\n")
    table = '[references.patient]\nhow = "file"\npath = "patients.csv"\nfrom = "name"\nto = "id"\n'
    configure(world, key=BY_DAY, more=table)
    header = ["TXN", "MRN", "Amount", "Claim", "Posted"]
    rows = [(f"T{n}", f"{n}", f"{n + 1}.00", "", "2026-11-20") for n in range(10)]
    world._write("ledger.csv", header, [(row[0], f"P{row[1]}", *row[2:]) for row in rows])
    assert counts(await world.run()) == {"created": 10}
    world._write("ledger.csv", header, [(row[0], f"P-{row[1]}", *row[2:]) for row in rows])
    why = stopped(await world.run(), world, 10)
    assert "the file spells ids in another way (patient)" in why
    assert "feed ledger, which" not in why


async def test_a_person_can_accept_as_many_as_were_found_and_no_more(
    make_world: MakeWorld,
) -> None:
    world = await loaded(make_world, nightly(10))
    configure(world, key=BY_DAY)
    process, stdout, _ = await command(world, "run", "--accept-repeats", "9")
    assert process.returncode == 1
    assert "--accept-repeats 10" in stdout
    assert "--accept-repeats 9 allows fewer" in stdout
    assert len(world.effects) == 10
    process, stdout, _ = await command(world, "run", "--accept-repeats", "10")
    assert process.returncode == 0, stdout
    assert "Accepted by --accept-repeats 10." in stdout
    assert len(world.effects) == 20
    result = await world.run()
    assert counts(result) == {"unchanged": 10}
    assert warnings(result) == []


async def test_what_was_accepted_is_a_warning(make_world: MakeWorld) -> None:
    world = await loaded(make_world, nightly(10))
    configure(world, key=BY_DAY)
    result = await engine.run(world.job(accept_repeats=10))
    assert ("repeats|accepted", "ledger", 10) in warnings(result)
    assert "row|repeats" not in {rule for rule, _, _ in warnings(result)}


async def test_a_few_are_a_warning_that_names_the_rows(make_world: MakeWorld) -> None:
    world = await loaded(make_world, nightly(3))
    write(world, renumbered(3) + nightly(40, first=3))
    planned = await engine.plan(world.job())
    assert warnings(planned) == [("row|repeats", "ledger", 3)]
    result = await world.run()
    assert warnings(result) == [("row|repeats", "ledger", 3)]
    assert result.summary["feeds"][0]["warnings"] == {"row|repeats": 3}
    said = message(result, "row|repeats")
    assert "ledger.csv:2 (row 1), ledger.csv:3 (row 2), ledger.csv:4 (row 3)" in said
    text = summary_text(result.summary, "reports/x", "my.toml")
    assert said in text
    assert said.partition("ledger.csv:2 (row 1)")[0].strip() in (
        result.folder / "report.html"
    ).read_text().replace("&#39;", "'")
    assert counts(result) == {"created": 43}
    marked = result.frame.filter(pl.col("rule") == "row|repeats")
    assert marked["row"].to_list() == [1, 2, 3]
    assert set(marked["disposition"]) == {"created"}
    assert marked["message"].str.contains("an earlier run sent an equal payment").all()


async def test_of_many_rows_twenty_are_named(make_world: MakeWorld) -> None:
    world = await loaded(make_world, nightly(30))
    configure(world, name="payments", limits="repeats_max = 30")
    result = await world.run()
    assert warnings(result) == [("row|repeats", "payments", 30)]
    assert "ledger.csv:21 (row 20) and 10 more" in message(result, "row|repeats")


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [('"5%"', 3), ('"50%"', 10), ("0", 0), ("2", 2), ("7", 7), ('"0%"', 3)],
)
async def test_the_limit_is_a_share_of_the_creates_or_a_count(
    make_world: MakeWorld, limit: str, allowed: int
) -> None:
    """Of 20 creates."""
    world = await loaded(make_world, nightly(20))
    configure(world, limits=f"repeats_max = {limit}")
    again = renumbered(allowed + 1)
    write(world, again + nightly(19 - allowed, first=100))
    stopped(await engine.plan(world.job()), world, 20)
    write(world, again[:allowed] + nightly(20 - allowed, first=100))
    assert (await world.run()).exit_code == 0


async def test_equal_rows_that_are_both_in_the_files_are_honest_pairs(
    make_world: MakeWorld,
) -> None:
    """Also if the first of each pair is there already, because the night ended halfway."""
    pairs = [(f"T{n}-{m}", n, "5.00", "2026-11-20") for m in (1, 2) for n in range(10)]
    world = await make_world()
    configure(world)
    write(world, pairs[:10])
    assert counts(await world.run()) == {"created": 10}
    write(world, pairs)
    result = await world.run()
    assert (counts(result), warnings(result)) == (
        {"unchanged": 10, "created": 10},
        [],
    )


async def test_corrected_rejects_are_judged_beside_the_file_that_they_come_from(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    configure(world)
    pairs = [(f"T{n}-{m}", n, "5.00", "2026-11-20") for m in (1, 2) for n in range(10)]
    write(world, pairs[:10] + [(txn, n, "five", day) for txn, n, _, day in pairs[10:]])
    first = await world.run()
    assert counts(first) == {"created": 10, "rejected": 10}
    with (first.folder / "rejects-ledger.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    corrected = world.folder / "corrected.csv"
    with corrected.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows({**line, "Amount": "5.00"} for line in lines)
    result = await world.run(inputs={"ledger": corrected}, only_feeds=("ledger",))
    assert (counts(result), warnings(result)) == ({"created": 10}, [])


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("2026-11-20", "2026-11-21", 0),
        ("2026-11-20", "2026-11-20", 3),
        ("", "", 3),
        ("2026-11-20", "", 3),
        ("", "2026-11-20", 3),
        ("", "2100-01-01", 0),  # after the day on which the first was sent
    ],
)
async def test_two_nights_of_equal_copays_are_told_apart_by_their_day(
    make_world: MakeWorld, first: str, second: str, found: int
) -> None:
    world = await loaded(make_world, [(f"A{n}", n, "25.00", first) for n in range(3)])
    write(world, [(f"B{n}", n, "25.00", second) for n in range(3)])
    result = await world.run()
    assert counts(result) == {"created": 3}
    assert sum(count for _, _, count in warnings(result)) == found


async def test_recurring_copays_without_a_day_are_said_to_have_none(make_world: MakeWorld) -> None:
    """They may well be new ones; nothing in the file or in the journal tells."""
    world = await loaded(make_world, [(f"A{n}", n, "25.00", "") for n in range(20)])
    write(world, [(f"B{n}", n, "25.00", "") for n in range(20)])
    why = stopped(await engine.plan(world.job()), world, 20)
    assert "same patient, amount and claim" in why
    assert "claim and day" not in why
    assert "20 of them have no day to tell them apart (posted_on)" in why
    assert "undo that change" not in why
    (text,) = (await engine.plan(world.job())).frame["message"].unique()
    assert "the day of one of them is not known" in text


@pytest.mark.parametrize("days_later", [0, 1])
async def test_a_payment_of_an_older_journal_may_have_any_day_until_it_was_sent(
    make_world: MakeWorld, days_later: int
) -> None:
    """Schema 5 kept no day."""
    world = await loaded(make_world, nightly(3))
    with sqlite3.connect(world.folder / "state" / "journal.sqlite") as connection:
        connection.execute("UPDATE write SET day = NULL")
        connection.execute("DELETE FROM feed_key")
    connection.close()
    day = (datetime.now(UTC) + timedelta(days=days_later)).date().isoformat()
    write(world, [(f"N{txn}", number, amount, day) for txn, number, amount, _ in nightly(3)])
    result = await engine.plan(world.job())
    assert sum(count for _, _, count in warnings(result)) == (0 if days_later else 3)


async def test_a_plan_with_repeats_is_carried_out_as_it_is(make_world: MakeWorld) -> None:
    world = await loaded(make_world, nightly(3))
    write(world, renumbered(3))
    planned = await engine.plan(world.job())
    result = await engine.run(world.job(), plan_id=planned.run_id)
    assert (result.exit_code, counts(result)) == (0, {"created": 3})


async def test_repeats_are_found_in_pieces_as_in_memory(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await loaded(make_world, nightly(30))
    write(world, renumbered(10) + nightly(30)[5:])
    configure(world, limits="repeats_max = 99")
    whole = await engine.plan(world.job())
    assert warnings(whole) == [("row|repeats", "ledger", 5)]
    for name, bound in (("hashes", 3), ("narrow", 2), ("whole", 2)):
        monkeypatch.setattr(groups, "BOUNDS", replace(groups.BOUNDS, **{name: bound}))
    in_pieces = await engine.plan(world.job())
    assert in_pieces.summary["warnings"] == whole.summary["warnings"]


async def test_a_journal_in_postgresql_finds_the_same(
    make_world: MakeWorld,
    database: str,
    postgres_server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGPASSWORD", postgres_server.password)
    state = f'[state]\nurl = "{database}"\nlease_s = 3\n'
    world = await loaded(make_world, nightly(10), more=state)
    configure(world, key=BY_DAY, more=state)
    why = stopped(await world.run(), world, 10)
    assert "`key` of feed ledger was transaction_id and is patient, amount, posted_on now" in why
    assert "--accept-repeats 10" in why
    result = await engine.run(world.job(accept_repeats=10))
    assert warnings(result) == [("key|changed", "ledger", 10), ("repeats|accepted", "ledger", 10)]
    assert counts(await world.run()) == {"unchanged": 10}


# The key --------------------------------------------------------------------------------------------


async def test_the_order_of_the_fields_in_a_key_is_no_part_of_it(make_world: MakeWorld) -> None:
    world = await loaded(make_world, nightly(10), key=BY_DAY)
    for key in ('["amount", "posted_on", "patient"]', '["posted_on", "patient", "amount"]'):
        configure(world, key=f"key = {key}")
        result = await world.run()
        assert (counts(result), warnings(result)) == ({"unchanged": 10}, [])


async def test_a_journal_of_schema_5_keeps_the_order_that_it_was_hashed_in(
    make_world: MakeWorld,
) -> None:
    """Until now the configuration's order was hashed, whatever it was."""
    world = await loaded(make_world, nightly(10))
    fields = ("amount", "posted_on", "patient")
    before = [
        (row_key("ledger", [str(100 * (n + 1)), "2026-11-20", patient_key(n)]), f"T{n}")
        for n in range(10)
    ]
    with sqlite3.connect(world.folder / "state" / "journal.sqlite") as connection:
        keys = dict((await world.run()).frame.select("source_id", "key").iter_rows())
        connection.execute("PRAGMA wal_checkpoint")
        connection.executemany(
            "UPDATE write SET key = ?, day = NULL WHERE key = ?",
            [(key, keys[txn]) for key, txn in before],
        )
        connection.execute("DELETE FROM feed_key")
    connection.close()
    (world.folder / "state" / "held-ledger.parquet").unlink()
    configure(world, key=f"key = {list(fields)}")
    assert counts(await world.run()) == {"unchanged": 10}
    configure(world, key=BY_DAY)  # another order, from now on known
    result = await world.run()
    assert (counts(result), warnings(result)) == ({"unchanged": 10}, [])


async def test_keys_are_hashed_as_they_were_where_none_is_configured(
    make_world: MakeWorld,
) -> None:
    world = await loaded(make_world, nightly(1))
    ((key,),) = (await world.run()).frame.select("key").iter_rows()
    assert key == row_key("ledger", ["T0"])


async def test_a_changed_key_is_said_before_anything_is_sent(make_world: MakeWorld) -> None:
    world = await loaded(make_world, nightly(10))
    configure(world, key='key = ["transaction_id", "patient"]')
    write(world, nightly(5, day="2026-11-21", first=50))
    for _ in range(2):  # a plan leaves no trace of it
        planned = await engine.plan(world.job())
        assert warnings(planned) == [("key|changed", "ledger", 10)]
    said = message(planned, "key|changed")
    assert "was transaction_id and is transaction_id, patient now" in said
    assert "10 writes that Canvas confirmed" in said
    result = await world.run()
    assert warnings(result) == [("key|changed", "ledger", 10)]
    assert warnings(await world.run()) == []


async def test_a_run_that_was_stopped_does_not_change_the_key(make_world: MakeWorld) -> None:
    world = await loaded(make_world, nightly(10))
    configure(world, key=BY_DAY)
    stopped(await world.run(), world, 10)
    stopped(await world.run(), world, 10)
    configure(world)
    result = await world.run()
    assert (counts(result), warnings(result)) == ({"unchanged": 10}, [])


# Coverages ------------------------------------------------------------------------------------------

ELIGIBILITY = """
[[feeds]]
name = "eligibility"
kind = "eligibility"
path = "eligibility.csv"
{more}
[feeds.columns]
patient = "MRN"
member_id = "Member"
relationship = "Rel"
payer = "Payer"
order = "Order"
start_on = "Start"
end_on = "End"
"""
Cover = tuple[int, str, str]  # patient, start, end


def write_coverages(world: World, rows: Sequence[Cover]) -> None:
    world.write_eligibility(
        [
            (patient_key(number), f"M{number}", "self", "60054", "1", start, end)
            for number, start, end in rows
        ]
    )


async def covered(make_world: MakeWorld, rows: Sequence[Cover], more: str = "") -> World:
    world = await make_world()
    world.write_config(feeds=ELIGIBILITY.format(more=more))
    write_coverages(world, rows)
    assert counts(await world.run()) == {"created": len(rows)}
    return world


MANY = [(n, "2026-01-01", "") for n in range(20)]


async def test_a_corrected_start_is_said_to_make_a_second_coverage(
    make_world: MakeWorld,
) -> None:
    world = await covered(make_world, MANY)
    write_coverages(world, [(0, "2026-02-01", ""), *MANY[1:]])
    planned = await engine.plan(world.job())
    assert warnings(planned) == [("row|second_period", "eligibility", 1)]
    result = await world.run()
    assert warnings(result) == [("row|second_period", "eligibility", 1)]
    said = message(result, "row|second_period")
    assert "eligibility.csv:2 (row 1)" in said
    assert 'missing = "cancel"' in said
    assert "leave start_on out of key" in said
    assert "new period" in said
    (rule, text) = result.frame.filter(pl.col("row") == 1).select("rule", "message").row(0)
    assert rule == "row|second_period"
    assert "does not know" not in text
    assert counts(result) == {"created": 1, "unchanged": 19}


async def test_a_corrected_start_that_replaces_the_older_one_is_no_warning(
    make_world: MakeWorld,
) -> None:
    world = await covered(make_world, MANY, 'missing = "cancel"')
    write_coverages(world, [(0, "2026-02-01", ""), *MANY[1:]])
    result = await world.run()
    assert warnings(result) == []
    assert result.summary["feeds"][0]["missing"]["cancelled"] == 1


async def test_a_period_that_follows_another_is_no_warning(make_world: MakeWorld) -> None:
    ended = [(n, "2026-01-01", "2026-06-30") for n in range(20)]
    world = await covered(make_world, ended)
    write_coverages(world, [(n, "2026-07-01", "") for n in range(20)])
    rules = {rule for rule, _, _ in warnings(await engine.plan(world.job()))}
    assert "row|second_period" not in rules


async def test_another_payer_is_another_coverage(make_world: MakeWorld) -> None:
    world = await covered(make_world, MANY)
    other = (patient_key(0), "M0", "self", "99999", "1", "2026-02-01", "")
    world.write_eligibility(
        [other]
        + [
            (patient_key(n), f"M{n}", "self", "60054", "1", start, end)
            for n, start, end in MANY[1:]
        ]
    )
    planned = await engine.plan(world.job())
    assert "row|second_period" not in {rule for rule, _, _ in warnings(planned)}


async def test_a_coverage_of_ours_that_is_moved_is_not_called_unknown(
    make_world: MakeWorld,
) -> None:
    world = await covered(make_world, MANY)
    world.write_eligibility(
        [(patient_key(0), "NEW", "self", "60054", "1", "2026-01-01", "")]
        + [
            (patient_key(n), f"M{n}", "self", "60054", "1", start, end)
            for n, start, end in MANY[1:]
        ]
    )
    planned = await engine.plan(world.job())
    (text,) = planned.frame.filter(pl.col("rule") == "order|taken")["message"]
    assert "an earlier run gave this order to another coverage of the patient" in text
    assert "does not know" not in text


@pytest.mark.parametrize("adopt", ["true", "false"])
async def test_a_changed_key_of_eligibility_stops_before_second_coverages_are_made(
    make_world: MakeWorld, adopt: str
) -> None:
    more = f"adopt = {adopt}\n"
    world = await covered(make_world, MANY, more)
    world.write_config(feeds=ELIGIBILITY.format(more=more + 'key = ["patient", "member_id"]'))
    why = stopped(await world.run(), world, 20)
    assert "feed eligibility: 20 of 20 coverages to be created each equal" in why
    assert "is patient, member_id now" in why
    assert "undo that change" in why
    assert "--accept-repeats 20" in why


async def test_a_key_without_a_start_is_not_advised_to_leave_it_out(
    make_world: MakeWorld,
) -> None:
    more = 'key = ["patient", "payer", "member_id", "order"]'
    world = await covered(make_world, MANY, more)
    world.write_eligibility(
        [
            (patient_key(n), f"M{n}", "self", "60054", "1" if n else "2", start, end)
            for n, start, end in [(0, "2026-02-01", ""), *MANY[1:]]
        ]
    )
    planned = await engine.plan(world.job())
    assert "leave start_on out of key" not in message(planned, "row|second_period")


async def test_what_check_finds_is_what_a_run_would_stop_at(make_world: MakeWorld) -> None:
    world = await loaded(make_world, nightly(10))
    configure(world, key=BY_DAY)
    checks = await doctor.check(world.job())
    found = {check.what: (check.state.value, check.message) for check in checks}
    assert found["key|changed"][0] == "warning"
    assert found["row|repeats"][0] == "warning"
    assert found["limits"][0] == "wrong"
    assert "`key` of feed ledger was transaction_id" in found["limits"][1]
