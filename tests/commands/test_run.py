"""Whole runs against a local Canvas: its own account of what it did is held against the report."""

import asyncio
import csv
import json
import re
import resource
import signal
import time
from collections import Counter
from decimal import Decimal
from typing import Any

import polars as pl
import pytest

import pipeline
from pipeline.app.config.arguments import expectations_of
from pipeline.commands import run as engine
from pipeline.errors import InputError, LimitError, WrongHost
from pipeline.sandbox import Faults
from tests.support.runs import (
    check_accounts,
    command,
    counts,
    coverages,
    effects_reach,
    payments,
    start,
)
from tests.support.world import CREDENTIALS, FEEDS, LEDGER_ONLY, MakeWorld, patient_key


async def test_two_files_arrive_and_a_second_run_sends_nothing(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config()
    world.write_eligibility(coverages())
    rows = payments(200)
    world.write_ledger(rows)
    result = await world.run()
    assert (result.exit_code, counts(result, 0), counts(result, 1)) == (
        0,
        {"created": 40},
        {"created": 200},
    )
    check_accounts(world, result)
    sent = {
        key: [amount for _, patient, amount, _ in rows if patient == key]
        for key in {row[1] for row in rows}
    }
    for key, amounts in sent.items():
        mine = [effect for effect in world.effects if effect["patient"] == key]
        assert [effect["order"] for effect in mine[:2]] == [1, 2], (
            "coverages before payments, in the file's order"
        )
        assert [effect["amount"] for effect in mine[2:]] == amounts
    total = sum((Decimal(row[2]) for row in rows), Decimal(0))
    money = result.summary["feeds"][1]["amount_usd"]
    assert (money["read"], money["created"]) == (str(total), str(total))

    again = await world.run()
    assert (again.exit_code, counts(again, 0), counts(again, 1)) == (
        0,
        {"unchanged": 40},
        {"unchanged": 200},
    )
    assert len(world.effects) == 240
    assert again.summary["requests"]["total"] == 0
    assert again.frame["resource_id"].to_list() == result.frame["resource_id"].to_list()


async def test_a_reexport_in_another_dialect_sends_nothing(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    rows = payments(50)
    world.write_ledger(rows)
    await world.run()
    (world.folder / "ledger.csv").write_text(
        '"Claim"|"Amount"|"MRN"|"TXN"\r\n'
        + "".join(
            f'""|"{amount}"|"{patient}"|"{txn}"\r\n' for txn, patient, amount, _ in reversed(rows)
        )
    )
    again = await world.run()
    assert counts(again) == {"unchanged": 50}


@pytest.mark.parametrize(
    ("faults", "never_arrived"),
    [
        (Faults(lose_after=0.1), False),
        (Faults(lose_before=0.1), True),
        (Faults(error_before=0.1), True),
        (Faults(error_after=0.1), False),
        (Faults(no_location=0.05, duplicate_location=0.05), False),
        (Faults(redirect=0.05), True),
        (Faults(cut_body=0.2, location="mixed", created_body="null"), False),
        (Faults(late_commit=0.1, late_commit_s=0.05), False),
        (
            Faults(
                lose_before=0.03,
                lose_after=0.03,
                error_before=0.03,
                error_after=0.03,
                throttle=0.05,
                retry_after_s=0,
                token_uses=40,
            ),
            True,
        ),
    ],
    ids=[
        "lost_after",
        "lost_before",
        "5xx_before",
        "5xx_after",
        "201_without_id",
        "redirect",
        "odd_201",
        "late",
        "all",
    ],
)
async def test_never_two_effects_for_a_row_under_faults(
    make_world: MakeWorld, faults: Faults, never_arrived: bool
) -> None:
    """What arrived is found; a coverage that did not goes again; a payment that did not is parked."""
    world = await make_world(faults=faults, fault_seed=7)
    world.write_config(doubts_max=1000, attempts_max=20)
    world.write_eligibility(coverages())
    world.write_ledger(payments(200))
    result = await world.run()
    await asyncio.sleep(0.1)  # for late commits
    check_accounts(world, result)
    doubted = counts(result, 0).get("in_doubt", 0) + counts(result, 1).get("in_doubt", 0)
    assert result.exit_code == (4 if doubted else 0)
    assert (doubted > 0) is never_arrived
    parked = result.frame.filter(pl.col("disposition") == "in_doubt")
    assert set(parked["rule"]) <= {"recover|absent"}

    world.sandbox.set_faults(Faults())
    effects = len(world.effects)
    again = await world.run()
    check_accounts(world, again, earlier=effects)
    assert counts(again, 0).get("in_doubt", 0) + counts(again, 1).get("in_doubt", 0) == doubted
    paid = Counter(
        (effect["patient"], effect["amount"]) for effect in world.effects if effect["amount"]
    )
    assert max(paid.values()) == 1, "over both runs"


async def test_a_lane_stays_shut_behind_a_write_in_doubt(make_world: MakeWorld) -> None:
    world = await make_world(patients=1, faults=Faults(lose_before=1.0))
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(5, patients=1))
    result = await world.run()
    assert counts(result) == {"in_doubt": 1, "pending": 4}
    assert result.frame["rule"].to_list() == ["recover|absent", *["lane|in_doubt"] * 4]
    world.sandbox.set_faults(Faults())
    again = await world.run()
    assert counts(again) == {"in_doubt": 1, "pending": 4}, "in the next run too"
    assert again.frame["rule"].to_list() == result.frame["rule"].to_list()
    assert len(world.effects) == 0


async def test_lost_answers_in_a_row_stop_the_sending_until_a_read_succeeds(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=100, faults=Faults(lose_before=1.0, faults_max=5))
    world.write_config(feeds=LEDGER_ONLY, concurrency=2, doubts_max=3)
    world.write_ledger([(f"T{n}", patient_key(n), "5.00", "") for n in range(100)])
    result = await world.run()
    assert counts(result) == {"in_doubt": 5, "created": 95}
    assert result.summary["requests"]["searches"] >= 2


async def test_too_many_requests_pause_all_and_are_sent_again(make_world: MakeWorld) -> None:
    world = await make_world(
        faults=Faults(throttle=1.0, faults_max=3, retry_after="either", retry_after_s=1)
    )
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(50))
    result = await world.run()
    assert counts(result) == {"created": 50}
    assert (
        result.summary["requests"]["retried"] == result.summary["requests"]["by_status"]["429"] == 3
    )
    check_accounts(world, result)


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_nothing_is_sent_for_as_long_as_canvas_asks(make_world: MakeWorld, form: str) -> None:
    world = await make_world(
        patients=1, faults=Faults(throttle=1.0, faults_max=1, retry_after=form, retry_after_s=2)
    )
    world.write_config(feeds=LEDGER_ONLY, concurrency=1)
    world.write_ledger(payments(2, patients=1))
    assert counts(await world.run()) == {"created": 2}
    first, second, _ = world.sandbox.account()["writes_of"][patient_key(0)]
    assert (first["outcome"], second["outcome"]) == ("429", "201")
    assert second["arrived_s"] - first["arrived_s"] >= 1.9


async def test_tokens_are_renewed_for_all_waiters(make_world: MakeWorld) -> None:
    world = await make_world(faults=Faults(token_uses=30))
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(100))
    result = await world.run()
    assert counts(result) == {"created": 100}
    assert world.sandbox.account()["requests"]["by"]["POST /auth/token/"]["200"] <= 6
    check_accounts(world, result)


async def test_refused_by_canvas_is_reported_in_its_own_words_and_tried_anew(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=2, balance="10.00")
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(
        [
            ("T1", patient_key(0), "7.00", ""),
            ("T2", patient_key(0), "7.01", ""),
            ("T3", patient_key(0), "3.00", ""),
        ]
    )
    result = await world.run()
    assert (result.exit_code, counts(result)) == (3, {"created": 2, "refused": 1})
    line = result.frame.row(1, named=True)
    assert (line["http_status"], line["rule"]) == (422, "canvas|business-rule")
    assert line["message"]
    assert line["correlation_id"]
    again = await world.run()
    assert counts(again) == {"unchanged": 2, "refused": 1}
    assert len(world.effects) == 2


async def test_corrected_rejects_can_be_fed_in_as_they_are(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(
        [
            ("T1", patient_key(0), "7.00", ""),
            ("T2", patient_key(1), "8 USD", ""),
            ("T3", "", "x", ""),
        ]
    )
    result = await world.run()
    assert (result.exit_code, counts(result)) == (3, {"created": 1, "rejected": 2})
    path = result.folder / "rejects-ledger.csv"
    lines = list(csv.DictReader(path.read_text().splitlines()))
    assert [line["_row"] for line in lines] == ["2", "3"]
    assert [line["_rule"] for line in lines] == ["amount|form", "patient|required; amount|form"]
    assert [line["Amount"] for line in lines] == ["8 USD", "x"]
    path.write_text(path.read_text().replace("8 USD", "8.00"))
    corrected = await world.run(inputs={"ledger": path})
    assert counts(corrected) == {"created": 1, "rejected": 1}
    whole = await world.run()
    assert counts(whole) == {"unchanged": 1, "rejected": 2}, (
        "the source file still holds the faulty rows"
    )


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ('rejects_max = "10%"', "rejects_max"),
        ("rejects_max = 0", "rejects_max"),
        ('total_usd_max = "5.00"', "total_usd_max"),
        ("writes_max = 3", "writes_max"),
    ],
)
async def test_a_limit_that_is_exceeded_writes_nothing_and_reports(
    make_world: MakeWorld, limits: str, said: str
) -> None:
    world = await make_world()
    world.write_config(limits=limits, feeds=LEDGER_ONLY)
    world.write_ledger([*payments(5), ("TX", "", "bad", "")])
    result = await world.run()
    assert (result.exit_code, counts(result)) == (1, {"pending": 5, "rejected": 1})
    assert isinstance(result.failure, LimitError)
    assert said in result.summary["failure"]
    assert world.effects == []
    assert result.summary["requests"]["total"] == 0


async def test_a_share_allows_exactly_that_share_of_the_rows(make_world: MakeWorld) -> None:
    """29 % of 100 rows are 29; as floats, 0.29 * 100 is 28.999..."""
    world = await make_world(patients=71)
    world.write_config(limits='rejects_max = "29%"', feeds=LEDGER_ONLY)
    world.write_ledger([*payments(71), *(("TX", "", "bad", "") for _ in range(29))])
    result = await world.run()
    assert (result.exit_code, counts(result)) == (3, {"created": 71, "rejected": 29})


@pytest.mark.parametrize("expected", ["ledger:rows=6", "ledger:total_usd=10.00"])
async def test_the_senders_control_totals_must_match(make_world: MakeWorld, expected: str) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([(f"T{n}", patient_key(n), "5.00", "") for n in range(5)])
    result = await world.run(expected=expectations_of([expected]))
    assert (result.exit_code, world.effects) == (1, [])
    right = expectations_of(["ledger:rows=5", "ledger:total_usd=25.00"])
    assert (await world.run(expected=right)).exit_code == 0


async def test_a_file_far_smaller_than_the_last_one_writes_nothing(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(limits="change_max = 3.0", feeds=LEDGER_ONLY)
    world.write_ledger(payments(50))
    await world.run()
    world.write_ledger(payments(10, seed=2))
    assert isinstance((await world.run()).failure, LimitError)


async def test_an_unfit_file_writes_nothing_and_reports(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config()
    world.write_eligibility(coverages())
    world.write_ledger(payments(5))
    (world.folder / "ledger.csv").write_bytes((world.folder / "ledger.csv").read_bytes()[:-4])
    result = await world.run()
    assert (result.exit_code, result.summary["balanced"], world.effects) == (1, False, [])
    assert isinstance(result.failure, InputError)
    assert json.loads((result.folder / "summary.json").read_text())["exit_code"] == 1


async def test_a_wrong_address_stops_before_the_first_write(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.config.write_text(
        world.config.read_text().replace(
            f'base_url = "{world.url}"', f'base_url = "{world.url}/elsewhere"'
        )
    )
    world.write_ledger(payments(5))
    result = await world.run()
    assert (result.exit_code, counts(result)) == (1, {"pending": 5})
    assert isinstance(result.failure, WrongHost)


async def test_plan_writes_nothing_to_canvas_and_reports(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config()
    world.write_eligibility(coverages())
    world.write_ledger(payments(10))
    planned = await engine.plan(world.job())
    assert (planned.exit_code, counts(planned, 0), counts(planned, 1)) == (
        0,
        {"pending": 40},
        {"pending": 10},
    )
    assert set(planned.frame["interaction"]) == {"create"}
    assert world.effects == []
    assert (world.folder / "reports" / "latest").resolve() == planned.folder
    assert (await world.run()).exit_code == 0


async def test_the_report_is_written_again_from_the_journal(make_world: MakeWorld) -> None:
    world = await make_world(
        faults=Faults(lose_after=0.1, throttle=0.1, retry_after_s=0), fault_seed=3
    )
    world.write_config(doubts_max=100)
    world.write_eligibility(coverages())
    world.write_ledger(payments(50))
    result = await world.run()
    before = {path.name: path.read_bytes() for path in result.folder.iterdir()}
    for path in result.folder.iterdir():
        path.unlink()
    again = await engine.report_again(world.job())
    assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == before


async def test_a_rows_order_may_be_sorted_by_fields(make_world: MakeWorld) -> None:
    world = await make_world(patients=1)
    world.write_config(
        feeds=LEDGER_ONLY.replace("[feeds.columns]", 'order_by = ["amount"]\n[feeds.columns]')
    )
    world.write_ledger(
        [
            ("T1", patient_key(0), "100.00", ""),
            ("T2", patient_key(0), "5.00", ""),
            ("T3", patient_key(0), "20.00", ""),
        ]
    )
    assert (await world.run()).exit_code == 0
    assert [effect["amount"] for effect in world.effects] == ["5.00", "20.00", "100.00"]


async def test_copays_name_their_claim(make_world: MakeWorld) -> None:
    world = await make_world(patients=1, balance="0.00")
    world.write_config(feeds=LEDGER_ONLY)
    claim = "f0dfefbe-3fe0-4ee7-bd44-000000000000"
    world.write_ledger(
        [("T1", patient_key(0), "20.00", claim), ("T2", patient_key(0), "20.00", "")]
    )
    result = await world.run()
    assert counts(result) == {"created": 1, "refused": 1}
    assert world.effects[0]["claim"] == claim


async def test_two_equal_payments_of_one_patient_both_arrive(make_world: MakeWorld) -> None:
    world = await make_world(patients=1)
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([(f"T{n}", patient_key(0), "20.00", "") for n in range(3)])
    assert counts(await world.run()) == {"created": 3}
    assert len(world.effects) == 3


async def test_the_2023_contract(make_world: MakeWorld) -> None:
    world = await make_world(contract="2023")
    world.write_config(canvas='contract = "2023"', feeds=FEEDS[: FEEDS.rindex("[[feeds]]")])
    world.write_eligibility(coverages())
    assert counts(await world.run()) == {"created": 40}


async def test_a_frame_in_place_of_a_file(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    frame = pl.DataFrame(payments(10), schema=["TXN", "MRN", "Amount", "Claim"], orient="row")
    result = await pipeline.run(world.config, inputs={"ledger": frame})
    assert result.frame["disposition"].to_list() == ["created"] * 10
    assert (await pipeline.report(world.config)).summary == result.summary


# The command itself -------------------------------------------------------------------------------


async def test_killed_in_the_middle_nothing_is_twice_and_nothing_missing(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=200)
    world.write_config(rate_per_s=400.0)
    world.write_eligibility(coverages(200))
    world.write_ledger(payments(300, patients=200))
    for kill_at in (50, 200, 400):
        process = await start(world, "run", "--no-progress")
        await effects_reach(world, kill_at)
        process.kill()
        assert await process.wait() == -signal.SIGKILL
        await process.communicate()
    effects = len(world.effects)
    process, stdout, _ = await command(world, "run", "--no-progress", "--json")
    summary: dict[str, Any] = json.loads(stdout)
    rows = sum((Counter(feed["dispositions"]) for feed in summary["feeds"]), Counter[str]())
    assert process.returncode == (4 if rows["in_doubt"] else 0)
    assert rows["in_doubt"] <= 3 * (8 + 4 + 1), "what was claimed when it was killed, three times"
    frame = pl.read_parquet(world.folder / "reports" / "latest" / "reconciliation.parquet")
    known = set(frame.filter(pl.col("resource_id") != "")["resource_id"])
    assert known <= {effect["id"] for effect in world.effects}
    assert len(world.effects) - len(known) <= rows["in_doubt"]
    assert len(world.effects) - effects == rows["created"]
    paid = Counter(
        (effect["patient"], effect["amount"]) for effect in world.effects if effect["amount"]
    )
    assert max(paid.values()) == 1
    held = Counter(
        (effect["patient"], effect["member_id"]) for effect in world.effects if effect["member_id"]
    )
    assert max(held.values()) == 1
    assert rows.total() == 700
    assert summary["balanced"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_it_finishes_what_is_in_flight(
    make_world: MakeWorld, number: signal.Signals
) -> None:
    world = await make_world(patients=50, faults=Faults(latency_s=(0.02, 0.05)))
    world.write_config(feeds=LEDGER_ONLY, rate_per_s=200.0)
    world.write_ledger(payments(300, patients=50))
    process = await start(world, "run", "--no-progress", "--json")
    await effects_reach(world, 30)
    process.send_signal(number)
    stdout, stderr = await process.communicate()
    summary = json.loads(stdout)
    assert process.returncode == summary["exit_code"] == 130
    ends = summary["feeds"][0]["dispositions"]
    assert ends["created"] + ends["pending"] == 300
    assert ends["created"] == len(world.effects)
    assert b"what is in flight is finished" in stderr
    again = await world.run()
    assert counts(again) == {"unchanged": ends["created"], "created": ends["pending"]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_run_that_waits_for_its_rate_ends_at_once(
    make_world: MakeWorld, number: signal.Signals
) -> None:
    """At 0.05 requests a second the next permit is up to 20 s away."""
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY, rate_per_s=0.05)
    world.write_ledger(payments(5))
    process = await start(world, "run", "--no-progress")
    async with asyncio.timeout(30):
        while not world.sandbox.account()["requests"]["total"]:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    asked, started_s = world.sandbox.account()["requests"]["total"], time.monotonic()
    process.send_signal(number)
    await process.communicate()
    assert time.monotonic() - started_s < 8.0
    assert process.returncode == 130
    assert world.sandbox.account()["requests"]["total"] == asked
    assert world.effects == []


async def test_a_second_run_at_the_same_time_exits_with_5(make_world: MakeWorld) -> None:
    world = await make_world(patients=50)
    world.write_config(feeds=LEDGER_ONLY, rate_per_s=10.0)
    world.write_ledger(payments(200, patients=50))
    first = await start(world, "run", "--no-progress")
    await effects_reach(world, 1)
    second, stdout, stderr = await command(world, "run", "--json")
    first.terminate()
    await first.communicate()
    assert second.returncode == 5
    assert json.loads(stdout)["exit_code"] == 5
    named = rf"Another run is using this journal: \d{{8}}T\d{{6}}Z-[0-9a-f]{{4}}, PID {first.pid} on \S+, since \d\d:\d\d\n"
    assert re.search(named, stderr)


async def test_a_full_disk_ends_the_run_and_loses_nothing(make_world: MakeWorld) -> None:
    world = await make_world(patients=100)
    world.write_config(feeds=LEDGER_ONLY, rate_per_s=1000.0)
    world.write_ledger(payments(1500, patients=100))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))

    process = await start(world, "run", "--no-progress", before=limit)
    _, stderr = await process.communicate()
    assert process.returncode == 1
    assert b"check the disk of state.dir" in stderr
    assert 0 < len(world.effects) < 1500
    again = await world.run()
    ends = Counter(counts(again))
    assert ends["created"] + ends["unchanged"] + ends["in_doubt"] + ends["pending"] == 1500
    assert len(world.effects) == ends["created"] + ends["unchanged"]
    paid = Counter((effect["patient"], effect["amount"]) for effect in world.effects)
    assert max(paid.values()) == 1


async def test_the_summary_on_the_terminal(make_world: MakeWorld) -> None:
    world = await make_world(patients=2, balance="10.00")
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(
        [
            ("T1", patient_key(0), "7.00", ""),
            ("T2", patient_key(0), "8.00", ""),
            ("T3", "", "1.00", ""),
        ]
    )
    process, stdout, stderr = await command(world, "run")
    assert process.returncode == 3
    table = [line.split() for line in stdout.splitlines()[2:8]]
    assert table == [
        ["ledger"],
        ["rows", "USD"],
        ["read", "3", "16.00"],
        ["created", "1", "7.00"],
        ["rejected", "1", "1.00"],
        ["refused", "1", "8.00"],
    ]
    assert "Exit 3: finished, with rows rejected or refused." in stdout
    assert "--feed ledger --input ledger=" in stdout
    assert stderr == ""


async def test_a_configuration_error_exits_with_2(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY.replace("kind =", "knid ="))
    process, stdout, stderr = await command(world, "run", "--json")
    assert process.returncode == 2
    assert 'Did you mean "kind"?' in stderr
    assert json.loads(stdout)["exit_code"] == 2
