"""A person's decisions on what is in doubt, and a journal that was lost."""

import asyncio
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.app.config.load import load
from pipeline.canvas.transport import TLS, Reply, Transport
from pipeline.commands import run as engine
from pipeline.commands.decisions import Decisions
from pipeline.commands.journal import inventory
from pipeline.commands.review import as_json, review
from pipeline.errors import ConfigError, IngestError, JournalError, JournalLost
from pipeline.journal import writes
from pipeline.reporting.cases import review_text
from pipeline.sandbox import Faults
from tests.support.doubts import LOST, THROTTLED, decide, doubtful, keys, paid_by_hand
from tests.support.runs import counts, effects_reach
from tests.support.world import CREDENTIALS, LEDGER_ONLY, MakeWorld, World, patient_key


async def test_it_lists_what_a_person_needs_to_decide(make_world: MakeWorld) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0))
    found = paid_by_hand(world, patient_key(1))
    reviewed = await decide(world)
    assert reviewed.exit_code == 4
    texts = review_text(as_json(reviewed), "c.toml", "https://fumage-acme.canvasmedical.com")
    for wanted in ("ledger.csv:2 (row 1)", "ledger.csv:3 (row 2)", "USD 20.00", "transaction T0", "transaction T1", found,
                   f"https://acme.canvasmedical.com/patient/{patient_key(0)}", "shows nothing like these", "--resend KEY"):  # fmt: skip
        assert wanted in texts
    assert as_json(reviewed)["in_doubt"][0]["sent_at"]


async def test_a_person_confirms_what_is_there(make_world: MakeWorld) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0))
    key = keys(await decide(world))[patient_key(0)]
    found = paid_by_hand(world, patient_key(0))
    reviewed = await decide(world, confirm={key: found})
    assert [each.what for each in reviewed.decided] == ["confirmed"]
    assert len(reviewed.cases) == 1
    again = await world.run()
    assert counts(again) == {"unchanged": 1, "in_doubt": 1}
    history = [line for line in inventory(world.job(), key).history or [] if line.event == "found"]
    assert [(line.who, line.resource_id) for line in history] == [("Pat", found)]


async def test_what_is_confirmed_must_be_like_the_row(make_world: MakeWorld) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0))
    by_patient = keys(await decide(world))
    first, second = by_patient[patient_key(0)], by_patient[patient_key(1)]
    wrong = {
        first: paid_by_hand(world, patient_key(0), 20.01),
        second: paid_by_hand(world, patient_key(0)),
    }
    reviewed = await decide(world, confirm=wrong)
    assert {each.what for each in reviewed.decided} == {"refused"}
    missing = await decide(world, confirm={first: "no-such-id"})
    assert "Canvas has no" in missing.decided[0].message
    assert len(missing.cases) == 2


async def test_one_resource_is_never_confirmed_for_two_rows(make_world: MakeWorld) -> None:
    world = await make_world(patients=1, faults=Faults(lose_before=1.0))
    world.write_config(feeds=LEDGER_ONLY, quiet_s=0.05)
    world.write_ledger([("T0", patient_key(0), "20.00", ""), ("T1", patient_key(0), "20.00", "")])
    await world.run()
    found = paid_by_hand(world, patient_key(0))
    (key,) = keys(await decide(world)).values()
    await decide(world, confirm={key: found})
    await world.run()
    (other,) = keys(await decide(world)).values()
    assert other != key
    reviewed = await decide(world, confirm={other: found})
    assert "belongs to another row" in reviewed.decided[0].message


async def test_a_resend_searches_once_more_right_before(make_world: MakeWorld) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0))
    by_patient = keys(await decide(world))
    foreign = paid_by_hand(world, patient_key(1))
    reviewed = await decide(world, resend=tuple(by_patient.values()))
    ends = {each.key: each for each in reviewed.decided}
    sent, refused = ends[by_patient[patient_key(0)]], ends[by_patient[patient_key(1)]]
    assert (sent.what, sent.message) == ("sent again", "created")
    assert refused.what == "refused"
    assert foreign in refused.message
    assert [effect["patient"] for effect in world.effects] == [patient_key(0)]
    forced = await decide(world, resend=(refused.key,), foreign=(foreign,))
    assert [each.message for each in forced.decided] == ["created"]
    assert len(world.effects) == 2
    assert counts(await world.run()) == {"unchanged": 2}


async def test_all_absent_ones_are_sent_again_at_once(make_world: MakeWorld) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0), rows=5)
    paid_by_hand(world, patient_key(3))
    reviewed = await decide(world, resend_absent=True)
    assert [each.message for each in reviewed.decided] == ["created"] * 4
    assert (reviewed.exit_code, len(reviewed.cases)) == (4, 1)
    last = await decide(world, confirm_found=True)
    assert (last.exit_code, len(world.effects)) == (0, 4)


async def test_what_was_abandoned_is_never_sent_again_unless_a_person_says_so(
    make_world: MakeWorld,
) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0), rows=1)
    (key,) = keys(await decide(world)).values()
    reviewed = await decide(world, abandon=(key,))
    assert (reviewed.exit_code, reviewed.cases) == (0, [])
    again = await world.run()
    assert (again.exit_code, counts(again)) == (3, {"rejected": 1})
    assert again.frame["rule"].to_list() == ["row|abandoned"]
    assert world.effects == []
    assert (await decide(world, resend=(key,))).exit_code == 0
    assert len(world.effects) == 1
    assert counts(await world.run()) == {"unchanged": 1}


async def test_a_key_that_is_not_in_doubt_is_an_error(make_world: MakeWorld) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0), rows=1)
    with pytest.raises(ConfigError, match="does not know it"):
        await decide(world, resend=("0123456789abcdef",))


async def test_without_credentials_it_lists_without_evidence(make_world: MakeWorld) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0), rows=1)
    reviewed = await review(load(world.config, environment={}))
    assert (reviewed.cases[0].finding, reviewed.exit_code) == (None, 4)
    assert "CANVAS_CLIENT_ID" in reviewed.unasked


async def test_a_plan_that_is_gone_leaves_the_row_in_doubt(make_world: MakeWorld) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0), rows=1)
    shutil.rmtree(world.folder / "state" / "plans")
    reviewed = await decide(world)
    assert reviewed.cases[0].row is None
    refused = await decide(world, resend=tuple(keys(reviewed).values()))
    assert (
        "its content" in refused.decided[0].message or "the content" in refused.decided[0].message
    )
    assert world.effects == []


# A journal that was lost --------------------------------------------------------------------------


async def loaded(make_world: MakeWorld) -> World:
    world = await make_world(patients=4)
    world.write_config()
    world.write_eligibility(
        [(patient_key(n), f"M{n}", "self", "60054", "1", "2026-01-01", "") for n in range(4)]
    )
    world.write_ledger([(f"T{n}", patient_key(n), f"{n + 1}.00", "") for n in range(4)])
    assert (await world.run()).exit_code == 0
    return world


def journal_of(world: World) -> Path:
    return world.folder / "state" / "journal.sqlite"


def drop_missing(world: World) -> None:
    for path in (world.folder / "state").glob("journal.sqlite*"):
        path.unlink()


def drop_all_state(world: World) -> None:
    shutil.rmtree(world.folder / "state")


def replace_it(world: World) -> None:
    drop_missing(world)
    other = World(world.folder / "other", world.sandbox, world.url)
    other.folder.mkdir()
    other.write_config(feeds=LEDGER_ONLY)
    engine.open_journal(other.job()).close()
    shutil.copy(journal_of(other), journal_of(world))


def damage(world: World) -> None:
    path = journal_of(world)
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    path.write_bytes(content)


def restore(world: World) -> None:
    """An empty journal, as a backup from before the run would be: same name, older trail."""
    connection = sqlite3.connect(journal_of(world))
    connection.executescript(
        "DROP TRIGGER trail_is_append_only_delete; DROP TRIGGER write_stays; DELETE FROM trail WHERE number > 2;"
        "DELETE FROM write; DELETE FROM run_feed; DELETE FROM run;"
    )
    connection.close()


LOSSES: dict[str, list[Callable[[World], None]]] = {
    "missing": [drop_missing, drop_all_state],
    "replaced": [replace_it],
    "corrupt": [damage],
    "restored": [restore],
}


@pytest.mark.parametrize(
    ("loss", "lose"), [(loss, lose) for loss, ways in LOSSES.items() for lose in ways]
)
async def test_a_journal_that_forgot_stops_the_run_and_says_how(
    make_world: MakeWorld, loss: str, lose: Callable[[World], None]
) -> None:
    world = await loaded(make_world)
    lose(world)
    with pytest.raises(JournalLost) as caught:
        await world.run()
    assert caught.value.loss == loss
    assert "--journal-lost" in caught.value.fix
    for command in (engine.plan, engine.report_again, review):
        with pytest.raises(JournalLost):
            await command(world.job())
    assert len(world.effects) == 8, "nothing was sent"

    world.write_ledger(
        [(f"T{n}", patient_key(n), f"{n + 1}.00", "") for n in range(4)]
        + [("T9", patient_key(9), "9.00", "")]
    )
    result = await engine.run(world.job(), journal_lost=True)
    assert counts(result, 0) == {"in_doubt": 4}
    assert counts(result, 1) == {"pending": 4, "refused": 1}, "an unknown patient is no old row"
    assert len(world.effects) == 8
    with pytest.raises(ConfigError, match="whole"):
        await engine.run(world.job(), journal_lost=True)
    told = [line for line in inventory(world.job(), "").history or [] if line.event == "loss"]
    assert [line.detail for line in told] == [loss]
    assert told[0].who
    assert (await decide(world, confirm_found=True)).exit_code == 0
    second = await world.run()
    assert counts(second, 1) == {"in_doubt": 4, "refused": 1}
    assert (await decide(world, confirm_found=True)).exit_code == 0
    assert counts(await world.run()) == {"unchanged": 4, "refused": 1}
    assert len(world.effects) == 8


async def restore_into(world: World, rows: range) -> None:
    """A run posts these rows, and then a backup of `state.dir` that was made meanwhile is put back."""
    state, backup = world.folder / "state", world.folder / "backup"
    world.write_config(feeds=LEDGER_ONLY, rate_per_s=100.0, concurrency=2)
    world.write_ledger([(f"T{n}", patient_key(n), "5.00", "") for n in rows])
    task = asyncio.create_task(world.run())
    await effects_reach(world, len(world.effects) + 5)
    shutil.copytree(state, backup)
    assert counts(await task) == {"created": len(rows)}
    shutil.rmtree(state)
    backup.rename(state)
    world.write_config(feeds=LEDGER_ONLY)


async def test_a_backup_that_was_made_during_a_run_is_noticed(make_world: MakeWorld) -> None:
    """The journal knows that run, but not how it went on. Once a person has said so, all is well."""
    world = await make_world(patients=30, faults=Faults(latency_s=(0.01, 0.02)))
    for rows in (range(15), range(15, 30)):
        await restore_into(world, rows)
        with pytest.raises(JournalLost) as caught:
            await world.run()
        assert caught.value.loss == "restored"
        result = await engine.run(world.job(), journal_lost=True)
        assert set(counts(result)) == {"unchanged", "in_doubt"}
        assert (await decide(world, confirm_found=True)).exit_code == 0
        assert counts(await world.run()) == {"unchanged": 15}
    assert len(world.effects) == 30


def drop_journal_and_anchor(world: World) -> None:
    for path in (world.folder / "state").glob("journal.*"):
        path.unlink()


@pytest.mark.parametrize("lose", [drop_all_state, drop_journal_and_anchor])
async def test_where_only_plans_were_made_there_is_nothing_to_lose(
    make_world: MakeWorld, lose: Callable[[World], None]
) -> None:
    world = await make_world(patients=2)
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([("T0", patient_key(0), "5.00", ""), ("T1", patient_key(1), "", "")])
    assert counts(await engine.plan(world.job())) == {"pending": 1, "rejected": 1}
    lose(world)
    assert counts(await world.run()) == {"created": 1, "rejected": 1}
    assert counts(await world.run()) == {"unchanged": 1, "rejected": 1}


@pytest.mark.parametrize("lose", [drop_all_state, drop_journal_and_anchor])
async def test_a_plan_that_found_rows_held_is_a_trace(
    make_world: MakeWorld, lose: Callable[[World], None]
) -> None:
    world = await loaded(make_world)
    shutil.rmtree(world.folder / "reports")
    assert (await engine.plan(world.job())).exit_code == 0
    lose(world)
    with pytest.raises(JournalLost) as caught:
        await world.run()
    assert caught.value.loss == "missing"


async def test_a_new_folder_is_no_loss(make_world: MakeWorld) -> None:
    world = await loaded(make_world)
    world.config.write_text(world.config.read_text() + '\n[state]\ndir = "elsewhere"\n')
    assert counts(await engine.plan(world.job())) == {"pending": 4}


async def test_a_journal_replaced_while_it_is_open_sends_nothing_more(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=30, faults=Faults(latency_s=(0.02, 0.02)))
    world.write_config(feeds=LEDGER_ONLY, rate_per_s=50.0)
    world.write_ledger([(f"T{n}", patient_key(n), "5.00", "") for n in range(30)])
    task = asyncio.create_task(world.run())
    while len(world.effects) < 3:
        await asyncio.sleep(0.01)
    journal_of(world).rename(world.folder / "moved")
    with pytest.raises(JournalError, match="replaced or deleted"):
        await task
    assert len(world.effects) < 20


async def test_the_trail_shows_where_it_was_changed(make_world: MakeWorld) -> None:
    world = await loaded(make_world)
    assert inventory(world.job()).first_break == 0
    connection = sqlite3.connect(journal_of(world))
    connection.execute("DROP TRIGGER trail_is_append_only_update")
    connection.execute("UPDATE trail SET who = 'nobody' WHERE number = 7")
    connection.commit()
    connection.close()
    assert inventory(world.job()).first_break == 7


# What a fresh pair of eyes found ------------------------------------------------------------------


async def test_what_goes_again_is_the_row_that_was_sent_and_no_other_of_its_key(
    make_world: MakeWorld,
) -> None:
    """A later row with the same key and other content was rejected: it must never be sent."""
    world = await make_world(patients=2, faults=Faults(lose_before=1.0))
    world.write_config(feeds=LEDGER_ONLY, quiet_s=0.05)
    world.write_ledger([("T0", patient_key(0), "20.00", ""), ("T0", patient_key(1), "99.00", "")])
    assert counts(await world.run()) == {"in_doubt": 1, "rejected": 1}
    world.sandbox.set_faults(Faults())
    reviewed = await decide(world)
    assert str(reviewed.cases[0].row and reviewed.cases[0].row.row) == "ledger.csv:2 (row 1)"
    await decide(world, resend=tuple(keys(reviewed).values()))
    assert [(each["patient"], each["amount"]) for each in world.effects] == [
        (patient_key(0), "20.00")
    ]


@pytest.mark.parametrize(("age_s", "decided"), [(86400.0, ["sent again"]), (300.0, [])])
async def test_what_was_there_before_is_never_confirmed_with_the_others(
    make_world: MakeWorld, age_s: float, decided: list[str]
) -> None:
    """A day before it is somebody else's; some minutes before, a person has to look."""
    now_s = [time.time() - age_s]
    world = await make_world(patients=1, faults=Faults(lose_before=1.0), clock=lambda: now_s[0])
    paid_by_hand(world, patient_key(0))
    now_s[0] += age_s
    world.write_config(feeds=LEDGER_ONLY, quiet_s=0.05)
    world.write_ledger([("T0", patient_key(0), "20.00", "")])
    await world.run()
    world.sandbox.set_faults(Faults())
    reviewed = await decide(world, confirm_found=True, resend_absent=True)
    assert [each.what for each in reviewed.decided] == decided
    assert len(world.effects) == len(decided)


async def test_what_is_decided_by_key_is_not_decided_with_the_others(make_world: MakeWorld) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0), rows=1)
    (key,) = keys(await decide(world)).values()
    foreign = paid_by_hand(world, patient_key(0))
    reviewed = await decide(world, confirm_found=True, resend=(key,), foreign=(foreign,))
    assert [each.message for each in reviewed.decided] == ["created"]
    assert len(world.effects) == 1
    with pytest.raises(ConfigError, match="twice"):
        await decide(world, resend=(key, key))


async def test_a_decision_that_is_refused_does_not_reopen_what_was_abandoned(
    make_world: MakeWorld,
) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0), rows=1)
    (key,) = keys(await decide(world)).values()
    await decide(world, abandon=(key,))
    world.write_config(feeds=LEDGER_ONLY, quiet_s=0.05, resend_absent="all")
    refused = await decide(world, confirm={key: "no-such-id"})
    assert (refused.exit_code, refused.cases) == (3, [])
    again = await decide(world, abandon=(key,))
    assert (again.exit_code, again.cases) == (0, [])
    assert counts(await world.run()) == {"rejected": 1}
    assert world.effects == []


async def test_what_is_still_to_be_sent_again_can_be_decided_on(make_world: MakeWorld) -> None:
    """A resend that Canvas throttled away is owed; a person may give it up, or have it sent."""
    world = await doubtful(make_world, Faults(lose_before=1.0))
    by_patient = keys(await decide(world))
    world.write_config(feeds=LEDGER_ONLY, quiet_s=0.05, attempts_max=1)
    world.sandbox.set_faults(Faults(throttle=1.0, retry_after_s=0, applies_to="writes"))
    reviewed = await decide(world, resend=tuple(by_patient.values()))
    assert [each.message for each in reviewed.decided] == ["not sent: the next run tries again"] * 2
    world.sandbox.set_faults(Faults())
    first, second = by_patient[patient_key(0)], by_patient[patient_key(1)]
    ended = await decide(world, abandon=(first,), resend=(second,))
    assert (ended.exit_code, len(world.effects)) == (0, 1)


async def test_an_equal_payment_in_doubt_goes_before_what_is_owed(make_world: MakeWorld) -> None:
    """Two equal payments: one is owed, its twin is in doubt. The twin is settled first."""
    world = await make_world(patients=1, faults=Faults(lose_before=1.0))
    world.write_config(feeds=LEDGER_ONLY, quiet_s=0.05, attempts_max=1)
    world.write_ledger([("T0", patient_key(0), "20.00", "")])
    await world.run()
    (owed,) = keys(await decide(world)).values()
    world.sandbox.set_faults(Faults(throttle=1.0, retry_after_s=0))
    await decide(world, resend=(owed,))
    shutil.rmtree(world.folder / "state" / "plans")
    world.sandbox.set_faults(Faults(lose_after=1.0))
    world.write_config(feeds=LEDGER_ONLY, quiet_s=2.0, attempts_max=1)
    world.write_ledger([("T1", patient_key(0), "20.00", "")])
    stop = asyncio.Event()
    task = asyncio.create_task(engine.run(world.job(), stop=stop))
    await effects_reach(world, 1)
    await asyncio.sleep(0.1)
    stop.set()
    assert counts(await task) == {"in_doubt": 1}
    world.sandbox.set_faults(Faults())
    world.write_config(feeds=LEDGER_ONLY, quiet_s=0.05)
    result = await world.run()
    assert counts(result) == {"unchanged": 1}
    assert result.exit_code == 4, "the owed one is still to be decided on: its plan is gone"
    assert (await decide(world, abandon=(owed,))).exit_code == 0


def at_post(monkeypatch: pytest.MonkeyPatch, strike: Callable[[int], Reply | None]) -> None:
    """Have payments answered by `strike`, which is told how many were sent, and may raise."""
    exchange, posts = Transport.exchange, [0]

    async def struck(self: Transport, method: str, url: str, *rest: Any) -> Reply:
        if method == "POST" and url.endswith("PaymentNotice"):
            posts[0] += 1
            reply = strike(posts[0])
            if reply is not None:
                return reply
        return await exchange(self, method, url, *rest)

    monkeypatch.setattr(Transport, "exchange", struck)


async def test_a_fault_of_ours_while_sending_costs_one_row(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world(patients=20, faults=Faults(latency_s=(0.01, 0.02)))
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([(f"T{n}", patient_key(n), "5.00", "") for n in range(20)])

    def fail(post: int) -> None:
        if post == 8:
            raise ZeroDivisionError

    at_post(monkeypatch, fail)
    result = await world.run()
    assert result.exit_code == 1
    assert "ZeroDivisionError" in str(result.failure)
    ends = counts(result)
    assert ends["in_doubt"] == 1
    assert ends["created"] == len(world.effects) >= 7
    assert ends["created"] + ends["pending"] == 19


async def test_a_certificate_that_is_not_trusted_stops_the_run_and_sent_nothing(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world(patients=20, faults=Faults(latency_s=(0.01, 0.02)))
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([(f"T{n}", patient_key(n), "5.00", "") for n in range(20)])
    untrusted = Reply(
        None,
        {},
        b"",
        handed_off=False,
        latency_s=0.0,
        problem=TLS,
        detail="its certificate has expired",
    )
    at_post(monkeypatch, lambda post: untrusted if post >= 8 else None)
    result = await world.run()
    assert (result.exit_code, set(counts(result))) == (1, {"created", "pending"})
    assert "certificate" in str(result.failure)


async def test_a_disk_that_is_full_while_reporting_names_the_cause(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world(patients=2)
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([("T0", patient_key(0), "5.00", "")])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "report", full)
        with pytest.raises(IngestError, match="No space left on device") as caught:
            await world.run()
    assert "canvas-ingest report" in caught.value.fix
    assert counts(await engine.report_again(world.job())) == {"created": 1}


async def test_a_loss_is_noticed_in_a_crowd_of_other_reports(make_world: MakeWorld) -> None:
    """Another configuration's reports share the folder, and are many and newer."""
    world = await loaded(make_world)
    before = world.folder / "before"
    shutil.copytree(world.folder / "state", before)
    assert (await world.run()).exit_code == 0
    for number in range(80):
        other = world.folder / "reports" / f"29990101T0000{number:02}Z-0000"
        other.mkdir()
        (other / "summary.json").write_text('{"journal": {"id": "x", "dir": "y", "base_url": "z"}}')
    shutil.rmtree(world.folder / "state")
    before.rename(world.folder / "state")
    with pytest.raises(JournalLost) as caught:
        await world.run()
    assert caught.value.loss == "restored"


def put_back(world: World, age: timedelta) -> None:
    """As if what the journal knows of the sends had happened that long ago."""
    connection = sqlite3.connect(journal_of(world))
    for key, *times in connection.execute("SELECT key, since, until FROM write").fetchall():
        instants = [time and (datetime.fromisoformat(time) - age).isoformat() for time in times]
        connection.execute("UPDATE write SET since = ?, until = ? WHERE key = ?", (*instants, key))
    connection.commit()
    connection.close()


async def test_a_resend_after_the_servers_clock_was_set_is_not_sent_a_third_time(
    make_world: MakeWorld,
) -> None:
    """It arrived, an hour before the first send as the server's clock tells it."""
    set_s = [0.0]
    world = await make_world(
        patients=1, faults=Faults(lose_before=1.0), clock=lambda: time.time() + set_s[0]
    )
    world.write_config(feeds=LEDGER_ONLY, doubts_max=1000, quiet_s=0.05)
    world.write_ledger([("T0", patient_key(0), "20.00", "")])
    assert counts(await world.run()) == {"in_doubt": 1}
    set_s[0] = -3600.0
    world.sandbox.set_faults(Faults(lose_after=1.0, applies_to="writes"))
    await decide(world, resend=tuple(keys(await decide(world)).values()))
    world.sandbox.set_faults(Faults())
    reviewed = await decide(world, resend_absent=True)
    assert (reviewed.decided, len(world.effects)) == ([], 1)


async def test_a_payment_made_after_the_last_send_is_not_taken_for_what_is_owed(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resend was marked in flight, and the run stopped before it left."""
    world = await doubtful(make_world, Faults(lose_before=1.0), rows=1)
    (key,) = keys(await decide(world)).values()
    stop, settle = asyncio.Event(), writes.settle

    async def stopped(*what: Any, **more: Any) -> Any:
        ends = await settle(*what, **more)
        if more["begun"] is not None:
            stop.set()
            await asyncio.sleep(0.05)
        return ends

    with monkeypatch.context() as patched:
        patched.setattr(writes, "settle", stopped)
        await review(world.job(), Decisions(resend=(key,), who="Pat"), stop=stop)
    assert world.effects == []
    put_back(world, timedelta(days=3))
    paid_by_hand(world, patient_key(0))
    result = await world.run()
    assert (counts(result), result.frame["rule"][0]) == ({"in_doubt": 1}, "recover|untimely")


DIES_AFTER_A_PAYMENT = """
import os
from pipeline.canvas.transport import Transport
from pipeline.app.cli import main
exchange = Transport.exchange
async def dying(self, method, url, *rest):
    reply = await exchange(self, method, url, *rest)
    if method == "POST" and url.endswith("PaymentNotice"):
        os._exit(9)
    return reply
Transport.exchange = dying
main()
"""


async def test_a_resend_that_was_killed_and_arrived_is_found(make_world: MakeWorld) -> None:
    """Also days after the first send."""
    world = await doubtful(make_world, Faults(lose_before=1.0), rows=1)
    (key,) = keys(await decide(world)).values()
    put_back(world, timedelta(days=1))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", DIES_AFTER_A_PAYMENT, "review", str(world.config), "--resend", key,
        env={**os.environ, **CREDENTIALS}, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert (await process.wait(), len(world.effects)) == (9, 1)
    assert counts(await world.run()) == {"unchanged": 1}


@pytest.mark.parametrize("is_in_todays_file", [True, False])
async def test_todays_rows_do_not_overtake_what_is_owed(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, *, is_in_todays_file: bool
) -> None:
    """Lost, sent again, throttled; and throttled again when the next run settles it."""
    world = await make_world(patients=1)
    world.write_config(feeds=LEDGER_ONLY, quiet_s=0.05, attempts_max=1, resend_absent="all")
    first, second = (("T0", patient_key(0), "20.00", ""), ("T1", patient_key(0), "30.00", ""))
    world.write_ledger([first])
    at_post(monkeypatch, {1: LOST, 2: THROTTLED, 3: THROTTLED}.get)
    assert counts(await world.run()) == {"pending": 1}
    world.write_ledger([first, second] if is_in_todays_file else [second])
    waits = await world.run()
    if is_in_todays_file:  # it goes with today's rows, before the others of its patient
        assert (waits.exit_code, counts(waits), world.effects) == (1, {"pending": 2}, [])
        assert counts(await world.run()) == {"created": 2}
    else:
        assert (waits.exit_code, counts(waits), world.effects) == (4, {"pending": 1}, [])
        assert counts(await world.run()) == {"created": 1}
    assert [effect["amount"] for effect in world.effects] == ["20.00", "30.00"]


async def test_behind_what_is_still_owed_nothing_of_its_patient_goes(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows of a patient are owed; the one that is settled first is throttled again."""
    world = await make_world(patients=1)
    world.write_config(feeds=LEDGER_ONLY, quiet_s=0.05, attempts_max=1)
    strikes = [LOST, LOST, THROTTLED, THROTTLED]
    at_post(monkeypatch, lambda post: strikes[post - 1] if post <= len(strikes) else None)
    by_row: list[str] = []
    for row in (("T0", patient_key(0), "20.00", ""), ("T1", patient_key(0), "30.00", "")):
        for given_up in by_row:
            await decide(world, abandon=(given_up,))
        world.write_ledger([row])
        assert counts(await world.run()) == {"in_doubt": 1}
        by_row += keys(await decide(world)).values()
    await decide(world, resend=tuple(reversed(by_row)))
    assert ((await world.run()).exit_code, world.effects) == (4, [])
    assert (await world.run()).exit_code == 0
    assert sorted(effect["amount"] for effect in world.effects) == ["20.00", "30.00"]
