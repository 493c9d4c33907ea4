"""A resource that Canvas no longer has: reported by verify, and written again after a person's word only."""

from collections import Counter
from typing import Any

import pytest

from pipeline.commands import run as engine
from pipeline.commands.decisions import Decisions
from pipeline.commands.journal import inventory
from pipeline.commands.review import as_json, review
from pipeline.commands.verify import read_back
from pipeline.errors import ConfigError, JournalError
from pipeline.journal import decisions, doubts, history, lookups
from pipeline.journal.journal import Journal
from pipeline.records import Finding, Settlement, State, Verdict
from pipeline.reporting.terminal import summary_text
from pipeline.sandbox import Faults
from tests.support.doubts import paid_by_hand
from tests.support.journal_steps import NOW, attempt, claim, intent, settle
from tests.support.nightly import MANY, coverage, nightly, rules, write
from tests.support.runs import command, counts
from tests.support.world import LEDGER_ONLY, MakeWorld, World, patient_key

ABSENT = Finding(Settlement.ABSENT, "review|gone", "declared gone by Pat")


async def paid(make_world: MakeWorld) -> tuple[World, str]:
    """A world with two payments, and the id of the first one, which was deleted in Canvas."""
    world = await make_world(patients=2)
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([(f"T{n}", patient_key(n), "20.00", "") for n in range(2)])
    assert counts(await world.run()) == {"created": 2}
    (gone,) = [each["id"] for each in world.sandbox.resources("PaymentNotice") if of(each) == 0]
    world.sandbox.delete_by_hand("PaymentNotice", gone)
    return world, gone


def of(resource: dict[str, Any]) -> int:
    element = resource["request" if "request" in resource else "beneficiary"]
    return int(element["reference"].removeprefix("Patient/"), 16)


async def missing_key(world: World) -> str:
    result = await read_back(world.job())
    (key,) = result.frame.filter(result.frame["outcome"] == "missing")["key"]
    return str(key)


async def resend(world: World, key: str, **more: Any) -> tuple[str, str]:
    reviewed = await review(world.job(), Decisions(resend=(key,), who="Pat", **more))
    (decided,) = as_json(reviewed)["decided"]
    return decided["what"], decided["message"]


def payments_of(world: World, number: int) -> list[dict[str, Any]]:
    return [each for each in world.sandbox.resources("PaymentNotice") if of(each) == number]


# Payments -----------------------------------------------------------------------------------------


async def test_a_payment_that_is_missing_is_sent_again_by_the_command_that_verify_names(
    make_world: MakeWorld,
) -> None:
    world, gone = await paid(make_world)
    process, stdout, _ = await command(world, "verify")
    assert process.returncode == 3
    key = await missing_key(world)
    assert "canvas-ingest review " in stdout
    assert f"config.toml --resend {key}\n" in stdout
    process, stdout, _ = await command(world, "review", "--resend", key, "--by", "Pat")
    assert (process.returncode, f"{key}: sent again: created" in stdout) == (0, True)
    (paid_again,) = payments_of(world, 0)
    assert paid_again["id"] != gone
    result = await read_back(world.job())
    assert (result.exit_code, Counter(result.frame["outcome"])) == (0, {"match": 2})
    assert counts(await world.run()) == {"unchanged": 2}
    assert len(world.effects) == 3, "exactly one payment was made again"
    history = inventory(world.job(), key).history or []
    assert [(line.event, line.resource_id, line.who) for line in history if line.who] == [
        ("gone", gone, "Pat")
    ]


async def test_a_payment_that_canvas_still_shows_is_not_sent_again(make_world: MakeWorld) -> None:
    world, _ = await paid(make_world)
    with engine.open_journal(world.job()) as opened:
        held = lookups.confirmed(opened).filter(lookups.confirmed(opened)["lane"] == patient_key(1))
    reviewed = await review(world.job(), Decisions(resend=(held["key"][0],), who="Pat"))
    assert reviewed.exit_code == 3
    what, message = await resend(world, held["key"][0])
    assert (what, "Canvas still has PaymentNotice/" in message) == ("refused", True)
    assert len(world.effects) == 2
    assert counts(await world.run()) == {"unchanged": 2}


async def test_beside_one_like_it_that_no_row_has_a_payment_is_not_sent_again(
    make_world: MakeWorld,
) -> None:
    world, _ = await paid(make_world)
    key = await missing_key(world)
    other = paid_by_hand(world, patient_key(0))
    what, message = await resend(world, key)
    assert (what, len(world.effects)) == ("refused", 2)
    assert other in message
    assert f"--resend {key} --foreign ID" in message
    assert await missing_key(world) == key, "nothing was changed"
    assert await resend(world, key, foreign=(other,)) == ("sent again", "created")
    assert (len(payments_of(world, 0)), len(world.effects)) == (2, 3)


async def test_without_its_content_or_without_an_answer_nothing_is_changed(
    make_world: MakeWorld,
) -> None:
    world, _ = await paid(make_world)
    key = await missing_key(world)
    world.sandbox.set_faults(Faults(error_before=1.0, applies_to="reads"))
    what, message = await resend(world, key)
    assert (what, "could not be asked" in message) == ("refused", True)
    world.sandbox.set_faults(Faults())
    plans = world.folder / "state" / "plans"
    plans.rename(world.folder / "plans")
    what, message = await resend(world, key)
    assert (what, "the plan of run" in message) == ("refused", True)
    (world.folder / "state" / "plans").rmdir()
    (world.folder / "plans").rename(plans)
    assert await missing_key(world) == key
    assert len(world.effects) == 2


async def test_only_what_canvas_took_can_be_declared_gone(make_world: MakeWorld) -> None:
    world, _ = await paid(make_world)
    with pytest.raises(ConfigError, match="the journal does not know it"):
        await resend(world, "0" * 16)


@pytest.mark.parametrize("is_in_file", [True, False], ids=["in the file", "not in the file"])
async def test_after_a_crash_right_behind_the_decision_the_next_run_sends_it_once(
    make_world: MakeWorld, is_in_file: bool
) -> None:
    world, gone = await paid(make_world)
    key = await missing_key(world)
    with engine.open_journal(world.job()) as opened:
        doubt = await doubts.doubt_of(opened, key)
        assert doubt is not None
        await decisions.declare_gone(opened, "r", doubt.intent, ABSENT, NOW, NOW, "Pat")
    if not is_in_file:
        world.write_ledger([("T1", patient_key(1), "20.00", "")])
    for _ in range(2):
        assert (await world.run()).exit_code == 0
    assert [each["id"] == gone for each in payments_of(world, 0)] == [False]
    assert len(world.effects) == 3


@pytest.mark.parametrize("faults", [Faults(lose_after=1.0), Faults(lose_before=1.0)])
async def test_a_lost_answer_to_the_send_ends_in_doubt_and_is_never_sent_twice(
    make_world: MakeWorld, faults: Faults
) -> None:
    world, _ = await paid(make_world)
    key = await missing_key(world)
    world.write_config(feeds=LEDGER_ONLY, resend_absent="all", doubts_max=1000)
    world.sandbox.set_faults(faults)
    await resend(world, key)
    world.sandbox.set_faults(Faults())
    for _ in range(2):
        result = await world.run()
        assert result.exit_code in {0, 4}
    assert len(payments_of(world, 0)) == (1 if faults.lose_after else 0)


async def test_what_was_declared_gone_and_is_there_again_is_a_stray(make_world: MakeWorld) -> None:
    world, gone = await paid(make_world)
    key = await missing_key(world)
    assert (await resend(world, key))[0] == "sent again"
    (again,) = payments_of(world, 0)
    world.sandbox.store.change_by_hand("add", {**again, "id": gone})
    result = await read_back(world.job())
    assert result.exit_code == 3
    assert Counter(result.frame["outcome"]) == {"match": 2, "stray": 1}


# Coverages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_changed", [False, True], ids=["unchanged", "refused first"])
async def test_a_coverage_is_created_again_by_the_next_run_whose_file_has_the_row(
    make_world: MakeWorld, is_changed: bool
) -> None:
    world = await nightly(make_world, MANY)
    gone = coverage(world, "m0")["id"]
    world.sandbox.delete_by_hand("Coverage", gone)
    today = [(0, "m0", 1, "2026-12-31" if is_changed else ""), *MANY[1:]]
    write(world, today)
    result = await world.run()
    if is_changed:
        assert rules(result) == {"canvas|not-found": 1}
    else:
        assert counts(result) == {"unchanged": 30}
    key = await missing_key(world)
    what, message = await resend(world, key)
    assert (what, message) == (
        "declared gone",
        f"Coverage/{gone}: the next run whose file has the row creates it again",
    )
    assert len(world.effects) == 30, "nothing was sent yet"
    write(world, today[1:])
    assert counts(await world.run()) == {"unchanged": 29}
    write(world, today)
    assert counts(await world.run()) == {"unchanged": 29, "created": 1}
    assert counts(await world.run()) == {"unchanged": 30}
    assert coverage(world, "m0")["id"] != gone
    result = await read_back(world.job())
    assert (result.exit_code, result.summary["verification"]["match"]) == (0, 30)
    assert len(world.effects) == 31


async def test_the_summary_names_a_command_for_some_of_the_missing(make_world: MakeWorld) -> None:
    world = await nightly(make_world, MANY)
    for each in world.sandbox.resources("Coverage")[:7]:
        world.sandbox.delete_by_hand("Coverage", each["id"])
    result = await read_back(world.job())
    text = summary_text(result.summary, "reports", "nightly.toml")
    assert text.count("canvas-ingest review nightly.toml --resend ") == 5
    assert "(2 more: the column key)" in text
    page = (result.folder / "report.html").read_text()
    assert "canvas-ingest review CONFIG --resend " in page


# The step, in both databases ----------------------------------------------------------------------


@pytest.mark.parametrize("resource_type", ["PaymentNotice", "Coverage"])
async def test_the_step_gives_the_resource_up_and_resets_the_write(
    journal: Journal,
    resource_type: str,
) -> None:
    made = intent()._replace(resource_type=resource_type)
    await claim(journal, made)
    await settle(journal, attempt(made, Verdict.ACCEPTED, "n1"))
    await decisions.declare_gone(
        journal, "r1", made._replace(resource_id="n1"), ABSENT, NOW, NOW, "Pat"
    )
    doubt = await doubts.doubt_of(journal, "k1")
    assert doubt is not None
    is_payment = resource_type == "PaymentNotice"
    assert (doubt.is_owed, doubt.resent, doubt.attempts) == (True, int(is_payment), 0)
    assert (doubt.since, doubt.until, doubt.held.fingerprint) == (NOW, None, "")
    assert [each.intent.key for each in doubts.all_doubts(journal)] == (
        ["k1"] if is_payment else []
    )
    assert lookups.confirmed(journal).is_empty()
    assert await doubts.assigned_ids(journal, resource_type, "p1", ["n1"]) == {"n1"}
    assert doubts.gone_ids(journal) == {"n1"}
    assert history.first_break(journal) == 0
    await claim(journal, made)
    assert await settle(journal, attempt(made, Verdict.ACCEPTED, "n1")) == [State.IN_DOUBT]


async def test_the_step_changes_nothing_unless_the_write_has_that_resource(
    journal: Journal,
) -> None:
    await claim(journal, intent())
    await settle(journal, attempt(intent(), Verdict.ACCEPTED, "n1"))
    with pytest.raises(JournalError, match="in another state than expected"):
        await decisions.declare_gone(
            journal, "r1", intent()._replace(resource_id="n2"), ABSENT, NOW, NOW, "Pat"
        )
    assert lookups.states_of(journal, ["k1"]) == {"k1": State.CONFIRMED}
    assert doubts.gone_ids(journal) == set()
