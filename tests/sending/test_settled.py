"""What a run settles or sends for earlier runs: counted, and never with content that is out of date."""

import asyncio
from dataclasses import replace
from decimal import Decimal

import orjson
import pytest

from pipeline.commands import run as engine
from pipeline.reporting.words import doubt_notes
from pipeline.sandbox import Faults
from tests.support.runs import command, counts, effects_reach
from tests.support.world import LEDGER_ONLY, MakeWorld, World, patient_key

ROWS = [(f"T{n}", patient_key(n), "5.00", "") for n in range(4)]
LOST = Faults(lose_before=1.0, resource_types=("PaymentNotice",))


async def in_doubt(make_world: MakeWorld, faults: Faults = LOST) -> tuple[World, engine.Result]:
    """Four payments in doubt, with a Canvas that answers again."""
    world = await make_world(patients=5, faults=faults)
    world.write_config(feeds=LEDGER_ONLY, resend_absent="none", doubts_max=100)
    world.write_ledger(ROWS)
    first = await world.run()
    world.sandbox.set_faults(Faults())
    world.write_config(feeds=LEDGER_ONLY, resend_absent="all")
    return world, first


def given(world: World, *results: engine.Result) -> None:
    """Compare Canvas with docs/reports.md, "The report folder": created rows of all reports and of what was settled."""
    rows, cents = 0, Decimal(0)
    for result in results:
        for feed in result.summary["feeds"]:
            rows += feed["dispositions"]["created"]
            cents += Decimal(feed.get("amount_usd", {}).get("created", "0"))
        for endings in result.summary["settled"].values():
            rows += endings.get("created", {}).get("rows", 0)
            cents += Decimal(endings.get("created", {}).get("usd", "0"))
    assert rows == len(world.effects)
    assert cents == sum(Decimal(effect["amount"]) for effect in world.effects)


async def test_payments_in_doubt_are_not_sent_while_the_file_is_late(make_world: MakeWorld) -> None:
    world, first = await in_doubt(make_world)
    assert counts(first) == {"in_doubt": 4}
    (world.folder / "ledger.csv").unlink()
    process, out, _ = await command(world, "run")
    assert process.returncode == 1
    assert "Stopped before anything was sent." in out
    late = await engine.report_again(world.job())
    assert (late.exit_code, world.effects) == (1, [])
    assert late.summary["settled"] == {"ledger": {"pending": {"rows": 4, "usd": "20.00"}}}
    assert late.summary["requests"]["writes"] == 0
    world.write_ledger(ROWS)
    last = await world.run()
    assert (last.exit_code, counts(last)) == (0, {"created": 4})
    assert last.summary["sent_again"] == {"ledger": {"rows": 4, "usd": "20.00"}}
    given(world, first, late, last)


async def test_what_is_in_no_file_of_today_is_sent_again_and_counted(make_world: MakeWorld) -> None:
    world, first = await in_doubt(make_world)
    world.write_ledger([("T9", patient_key(4), "7.00", "")])
    process, out, _ = await command(world, "run")
    assert process.returncode == 0
    summary = orjson.loads((world.folder / "reports" / "latest" / "summary.json").read_bytes())
    assert summary["settled"] == {"ledger": {"created": {"rows": 4, "usd": "20.00"}}}
    assert summary["sent_again"] == {"ledger": {"rows": 4, "usd": "20.00"}}
    page = (world.folder / "reports" / "latest" / "report.html").read_text()
    for told in (out, page):
        assert "Writes of earlier runs, ledger: 4 rows (20.00 USD) created." in told
        assert "Sent again for earlier runs, ledger: 4 rows (20.00 USD)." in told
    last = await engine.report_again(world.job())
    given(world, first, last)


async def test_what_arrived_is_found_and_counted_once(make_world: MakeWorld) -> None:
    world = await make_world(patients=2, faults=Faults(lose_after=1.0))
    world.write_config(feeds=LEDGER_ONLY, quiet_s=60.0)
    world.write_ledger(ROWS[:1])
    stop = asyncio.Event()
    task = asyncio.create_task(engine.run(world.job(), stop=stop))
    await effects_reach(world, 1)
    await asyncio.sleep(0.1)
    stop.set()
    first = await task
    assert counts(first) == {"in_doubt": 1}
    world.sandbox.set_faults(Faults())
    world.write_config(feeds=LEDGER_ONLY, quiet_s=0.1)
    second = await world.run()
    assert counts(second) == {"unchanged": 1}
    assert second.summary["settled"] == {"ledger": {"created": {"rows": 1, "usd": "5.00"}}}
    assert second.summary["sent_again"] == {}
    given(world, first, second)


@pytest.mark.parametrize("amount", ["7.00", "x"])
async def test_a_payment_in_doubt_is_never_sent_again_with_content_that_is_out_of_date(
    make_world: MakeWorld, amount: str
) -> None:
    world, first = await in_doubt(make_world)
    world.write_ledger([("T0", patient_key(0), amount, ""), *ROWS[1:]])
    result = await world.run()
    amounts = sorted(effect["amount"] for effect in world.effects)
    assert amounts == ["5.00"] * 3 + (["7.00"] if amount == "7.00" else [])
    given(world, first, result)


async def test_the_report_and_review_show_both_amounts(make_world: MakeWorld) -> None:
    world, _ = await in_doubt(make_world)
    world.write_config(feeds=LEDGER_ONLY, resend_absent="none")
    world.write_ledger([("T0", patient_key(0), "7.00", ""), *ROWS[1:]])
    result = await world.run()
    assert (result.exit_code, world.effects) == (4, [])
    lines = result.frame.select("amount_usd", "amount_in_doubt_usd", "rule").rows()
    assert lines[0] == (Decimal("7.00"), Decimal("5.00"), "amount|in_doubt")
    assert lines[1][:2] == (Decimal("5.00"), Decimal("5.00"))
    assert lines[1][2] != "amount|in_doubt"
    (feed,) = result.summary["feeds"]
    assert (feed["amount_usd"]["in_doubt"], feed["amount_in_doubt_usd"]) == ("22.00", "20.00")
    _, out, _ = await command(world, "review")
    assert "USD 5.00" in out
    assert "Now ledger.csv:2 (row 1) has USD 7.00" in out
    _, out, _ = await command(world, "review", "--json")
    cases = {case["key"]: case for case in orjson.loads(out)["in_doubt"]}
    changed = cases.pop(result.frame["key"][0])
    assert (changed["amount_cents"], changed["now"]) == (
        500,
        {"row": "ledger.csv:2 (row 1)", "amount_cents": 700, "run_id": result.run_id},
    )
    assert [case["now"] for case in cases.values()] == [None] * 3


async def test_an_old_report_is_the_first_one_to_the_byte(make_world: MakeWorld) -> None:
    world = await make_world(patients=9, balance="10.00")
    world.write_config(feeds=LEDGER_ONLY, resend_absent="none", doubts_max=100, concurrency=1)
    lost = [(f"L{n}", patient_key(n), "5.00", "") for n in range(3)]
    refused = [(f"R{n}", patient_key(n), "11.00", "") for n in (3, 4)]
    rest = [("B1", patient_key(5), "x", ""), ("C1", patient_key(6), "2.00", "")]
    world.write_ledger([*lost, *refused, *rest])
    world.sandbox.set_faults(replace(LOST, faults_max=3))
    first = await world.run()
    assert counts(first) == {"in_doubt": 3, "refused": 2, "rejected": 1, "created": 1}
    files = ("reconciliation.csv", "reconciliation.parquet", "rejects-ledger.csv", "summary.json")
    before = {name: (first.folder / name).read_bytes() for name in files}
    world.write_config(feeds=LEDGER_ONLY, resend_absent="all")
    fixed = [("R3", patient_key(3), "6.00", ""), ("B1", patient_key(5), "1.00", "")]
    world.write_ledger([*lost, *fixed, refused[1], rest[1]])
    second = await world.run()
    assert counts(second) == {"created": 5, "refused": 1, "unchanged": 1}
    given(world, first, second)
    again = await engine.report_again(world.job(), first.run_id)
    assert again.exit_code == first.exit_code
    for name, content in before.items():
        assert (first.folder / name).read_bytes() == content, name
    kept = list((world.folder / "state" / "plans" / first.run_id).glob("ends*"))
    assert len(kept) == 3
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in kept)


def test_each_cause_has_its_words() -> None:
    zero = dict.fromkeys(("found", "sent_again", "set_aside", "retried", "compared"), 0)
    for name, words in {
        "retried": "1 update was retried because the coverage had changed in Canvas meanwhile.",
        "compared": "1 update was compared with Canvas before it was sent.",
    }.items():
        summary = {
            "recovered": {**zero, name: 1}, "settled": {}, "sent_again": {}, "in_doubt_elsewhere": 0,
        }  # fmt: skip
        assert doubt_notes(summary) == [words]
