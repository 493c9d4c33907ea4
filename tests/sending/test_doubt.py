"""Lost answers in whole runs: settled by searching, by the server's own account never twice."""

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import Any

import polars as pl
import pytest

from pipeline.canvas.transport import Reply, Transport
from pipeline.commands import run as engine
from pipeline.sandbox import Faults
from tests.support.doubts import LOST, THROTTLED, paid_by_hand
from tests.support.runs import counts, effects_reach
from tests.support.world import LEDGER_ONLY, MakeWorld, patient_key


@pytest.mark.parametrize("ahead_s", [0.0, 7200.0, -90.0])
@pytest.mark.parametrize("arrived", [True, False])
async def test_what_was_there_before_is_told_apart_by_the_servers_clock(
    make_world: MakeWorld, ahead_s: float, *, arrived: bool
) -> None:
    """Somebody entered an equal payment an hour before: it is never taken for ours."""
    late_s = -3600.0
    world = await make_world(
        patients=1,
        faults=Faults(lose_after=1.0) if arrived else Faults(lose_before=1.0),
        clock=lambda: time.time() + ahead_s + late_s,
    )
    before = paid_by_hand(world, patient_key(0))
    late_s = 0.0
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([("T0", patient_key(0), "20.00", "")])
    result = await world.run()
    if arrived:
        assert counts(result) == {"created": 1}
        assert result.frame["resource_id"][0] == world.effects[0]["id"] != before
        assert result.frame["rule"][0] == "recover|found"
    else:
        assert counts(result) == {"in_doubt": 1}
        assert result.frame["rule"][0] == "recover|absent"


@pytest.mark.parametrize(
    "is_stopped", [False, True], ids=["heard at once", "heard in the next run"]
)
async def test_a_clock_that_was_set_and_set_back_proves_nothing_in_later_runs(
    make_world: MakeWorld, *, is_stopped: bool
) -> None:
    """The server's clock is an hour behind when it takes the payment: our own looks like an older one."""
    ahead_s = 0.0
    world = await make_world(
        patients=1, faults=Faults(lose_after=1.0), clock=lambda: time.time() + ahead_s
    )
    world.write_config(feeds=LEDGER_ONLY, resend_absent="all")
    world.write_ledger([("T0", patient_key(0), "20.00", "")])
    commit, stop = world.sandbox.store.create_payment, asyncio.Event()

    def late(draft: object) -> object:
        nonlocal ahead_s
        ahead_s = -3600.0
        if is_stopped:
            stop.set()
        return commit(draft)  # type: ignore[arg-type]

    world.sandbox.store.create_payment = late  # type: ignore[method-assign,assignment]
    await engine.run(world.job(), stop=stop)
    if is_stopped:
        assert counts(await world.run()) == {"in_doubt": 1}
    world.sandbox.store.create_payment = commit  # type: ignore[method-assign]
    world.sandbox.set_faults(Faults())
    ahead_s = 0.0
    result = await world.run()
    assert len(world.effects) == 1, "it is never sent twice"
    assert (counts(result), result.frame["rule"][0]) == ({"in_doubt": 1}, "recover|untimely")


async def test_two_equal_payments_both_arrive_once_each_though_their_answers_are_lost(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=1, faults=Faults(lose_after=1.0, faults_max=2))
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([(f"T{n}", patient_key(0), "20.00", "") for n in range(3)])
    result = await world.run()
    assert counts(result) == {"created": 3}
    assert result.frame["resource_id"].to_list() == [effect["id"] for effect in world.effects]
    causes = {cause: count for cause, count in result.summary["recovered"].items() if count}
    assert causes == {"found": 2}


async def test_an_equal_payment_made_meanwhile_by_hand_parks_the_row(make_world: MakeWorld) -> None:
    world = await make_world(patients=1, faults=Faults(lose_after=1.0))
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([("T0", patient_key(0), "20.00", "")])
    commit = world.sandbox.store.create_payment

    def both(draft: object) -> object:
        paid_by_hand(world, patient_key(0))
        return commit(draft)  # type: ignore[arg-type]

    world.sandbox.store.create_payment = both  # type: ignore[method-assign,assignment]
    result = await world.run()
    assert counts(result) == {"in_doubt": 1}
    assert result.frame["rule"][0] == "recover|several"


@pytest.mark.parametrize(
    ("resend_absent", "coverage", "payment"),
    [("none", "in_doubt", "in_doubt"), ("coverage", "created", "in_doubt"), ("all", "created", "created")],
)  # fmt: skip
async def test_what_is_absent_is_sent_again_as_the_user_decided(
    make_world: MakeWorld, resend_absent: str, coverage: str, payment: str
) -> None:
    world = await make_world(patients=2, faults=Faults(lose_before=1.0, faults_max=2))
    world.write_config(resend_absent=resend_absent, concurrency=2)
    world.write_eligibility([(patient_key(0), "M0", "self", "60054", "1", "2026-01-01", "")])
    world.write_ledger([("T1", patient_key(1), "5.00", "")])
    result = await world.run()
    assert (counts(result, 0), counts(result, 1)) == ({coverage: 1}, {payment: 1})
    made = [coverage, payment].count("created")
    assert len(world.effects) == result.summary["recovered"]["sent_again"] == made


async def test_what_a_process_that_may_live_can_still_send_is_not_sent_again(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=1, faults=Faults(lose_before=1.0))
    world.write_config(feeds=LEDGER_ONLY, resend_absent="none")
    world.write_ledger([("T0", patient_key(0), "5.00", "")])
    assert counts(await world.run()) == {"in_doubt": 1}
    with closing(sqlite3.connect(world.folder / "state" / "journal.sqlite")) as journal, journal:
        journal.execute("UPDATE write SET orphaned = 1")
    world.sandbox.set_faults(Faults())
    world.write_config(feeds=LEDGER_ONLY, resend_absent="all")
    assert counts(await world.run()) == {"in_doubt": 1}
    assert world.effects == []


async def test_it_is_sent_again_only_once(make_world: MakeWorld) -> None:
    world = await make_world(patients=1, faults=Faults(lose_before=1.0))
    world.write_config(feeds=LEDGER_ONLY, resend_absent="all", doubts_max=100)
    world.write_ledger([("T0", patient_key(0), "5.00", "")])
    assert counts(await world.run()) == {"in_doubt": 1}
    assert counts(await world.run()) == {"in_doubt": 1}
    assert len(world.sandbox.account()["writes_of"][patient_key(0)]) == 2


async def test_a_run_first_settles_what_an_earlier_one_left(make_world: MakeWorld) -> None:
    """Interrupted before the quiet time was over: the next run finds one, and sends the other."""
    world = await make_world(
        patients=2, faults=Faults(lose_after=1.0, resource_types=("PaymentNotice",))
    )
    world.write_config(feeds=LEDGER_ONLY, quiet_s=60.0)
    world.write_ledger([("T0", patient_key(0), "5.00", "")])
    stop = asyncio.Event()
    task = asyncio.create_task(engine.run(world.job(), stop=stop))
    await effects_reach(world, 1)
    await asyncio.sleep(0.1)
    stop.set()
    interrupted = await task
    assert (interrupted.exit_code, counts(interrupted)) == (130, {"in_doubt": 1})
    world.sandbox.set_faults(Faults())
    world.write_config(feeds=LEDGER_ONLY, quiet_s=0.1)
    world.write_ledger([("T1", patient_key(0), "6.00", "")])
    result = await world.run()
    assert (result.exit_code, counts(result)) == (0, {"created": 1})
    assert result.summary["recovered"]["found"] == 1
    first = await engine.report_again(world.job(), interrupted.run_id)
    assert counts(first) == {"in_doubt": 1}, "the report of the first run stays what it was"


async def test_what_is_to_go_again_goes_though_its_row_is_in_no_file_today(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=2, faults=Faults(lose_before=1.0))
    world.write_config(feeds=LEDGER_ONLY, resend_absent="none")
    world.write_ledger([("T0", patient_key(0), "5.00", "")])
    assert counts(await world.run()) == {"in_doubt": 1}
    world.sandbox.set_faults(Faults())
    world.write_config(feeds=LEDGER_ONLY, resend_absent="all")
    world.write_ledger([("T1", patient_key(1), "6.00", "")])
    result = await world.run()
    assert (result.exit_code, counts(result)) == (0, {"created": 1})
    assert [effect["amount"] for effect in world.effects] == ["5.00", "6.00"]


async def test_a_dead_server_leaves_few_rows_in_doubt(make_world: MakeWorld) -> None:
    """It answers nothing for a while, in the midst: the run goes on by itself when it is back."""
    world = await make_world(patients=200)
    world.write_config(feeds=LEDGER_ONLY, concurrency=4, doubts_max=3)
    world.write_ledger([(f"T{n}", patient_key(n), "5.00", "") for n in range(200)])
    task = asyncio.create_task(world.run())
    await effects_reach(world, 20)
    world.sandbox.set_faults(Faults(lose_before=1.0, applies_to="all", faults_max=12))
    result = await task
    doubted = counts(result).get("in_doubt", 0)
    assert 0 < doubted <= 4 + 3
    assert counts(result)["created"] == 200 - doubted
    parked = result.frame.filter(pl.col("disposition") == "in_doubt")
    assert set(parked["rule"]) == {"recover|absent"}


async def test_a_resend_that_is_tried_again_may_find_its_own_late_effect(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Canvas tells no time; it carries the first send out while the second one is throttled."""
    world = await make_world(patients=1)
    world.write_config(feeds=LEDGER_ONLY, quiet_s=0.1, resend_absent="all")
    world.write_ledger([("T0", patient_key(0), "20.00", "")])
    exchange, posts = Transport.exchange, [0]

    async def struck(self: Transport, method: str, url: str, *rest: Any) -> Reply:
        if method == "POST" and url.endswith("PaymentNotice"):
            posts[0] += 1
            if posts[0] == 1:
                return LOST
            if posts[0] == 2:
                await exchange(self, method, url, *rest)
                return THROTTLED
        reply = await exchange(self, method, url, *rest)
        timeless = {name: text for name, text in reply.headers.items() if name != "date"}
        return reply._replace(headers=timeless)

    monkeypatch.setattr(Transport, "exchange", struck)
    result = await world.run()
    assert (counts(result), len(world.effects)) == ({"in_doubt": 1}, 1)
    assert result.frame["rule"][0] == "recover|untimely"
