"""Reading back: what was edited, deleted or entered twice in Canvas is found, and nothing where all is well."""

import shutil
from collections import Counter

import pytest

import pipeline
from pipeline.app.config.load import load
from pipeline.commands.verify import read_back
from pipeline.reporting.terminal import summary_text
from pipeline.sandbox import Faults
from tests.support.doubts import paid_by_hand
from tests.support.nightly import coverage, nightly, orders, write
from tests.support.runs import command, coverages, payments
from tests.support.world import CREDENTIALS, MakeWorld, World, patient_key


async def written(make_world: MakeWorld, **options: object) -> World:
    world = await make_world(patients=12, **options)
    world.write_config()
    world.write_eligibility(coverages(12))
    world.write_ledger(payments(60, patients=12))
    assert (await world.run()).exit_code == 0
    return world


def outcomes(frame: object) -> Counter[str]:
    return Counter(frame["outcome"].to_list())  # type: ignore[index]


@pytest.mark.parametrize("contract", ["2025-10", "2023"])
async def test_where_all_is_well_nothing_is_found(make_world: MakeWorld, contract: str) -> None:
    world = await make_world(patients=12, contract=contract)
    world.write_config(canvas=f'contract = "{contract}"')
    world.write_eligibility(coverages(12))
    world.write_ledger(payments(60, patients=12))
    loaded = await world.run()
    result = await read_back(world.job())
    assert (result.exit_code, outcomes(result.frame)) == (0, Counter(match=84))
    told = result.summary["verification"]
    money = loaded.summary["feeds"][1]["amount_usd"]["created"]
    assert told["usd_journal"] == told["usd_canvas"] == money
    assert result.summary["requests"]["searches"] == 12 + 12, "one a patient and resource type"
    assert (world.folder / "reports" / "latest").resolve() == loaded.folder


async def test_what_people_did_in_canvas_is_found(make_world: MakeWorld) -> None:
    world = await written(make_world)
    sandbox = world.sandbox
    first, second, third = (each["id"] for each in sandbox.resources("Coverage")[:3])
    sandbox.edit_by_hand(
        "Coverage", first, {"period": {"start": "2026-01-01", "end": "2026-06-30"}}
    )
    sandbox.edit_by_hand("Coverage", second, {"status": "cancelled"})
    sandbox.delete_by_hand("Coverage", third)
    payment = sandbox.resources("PaymentNotice")[0]
    twice = paid_by_hand(
        world, payment["request"]["reference"].removeprefix("Patient/"), payment["amount"]["value"]
    )
    paid_by_hand(world, patient_key(0), 777.77)
    result = await read_back(world.job())
    assert result.exit_code == 3
    found = {
        line["resource_id"]: (line["outcome"], line["elements"])
        for line in result.frame.to_dicts()
        if line["outcome"] != "match"
    }
    assert found == {
        first: ("differs", "period.end"),
        second: ("differs", "status"),
        third: ("missing", ""),
        twice: ("stray", ""),
    }
    told = result.summary["verification"]
    assert told["usd_journal"] == told["usd_canvas"]
    assert told["usd_strays"] == f"{payment['amount']['value']:.2f}"
    assert told["elements"] == {"period.end": 1, "status": 1}


async def test_searches_that_fail_are_never_read_as_missing(make_world: MakeWorld) -> None:
    world = await written(make_world)
    world.sandbox.set_faults(
        Faults(error_before=1.0, applies_to="reads", resource_types=("Coverage",))
    )
    world.write_config(rate_per_s=2000.0)
    result = await read_back(world.job(), sample=1)
    assert result.exit_code == 1
    assert set(outcomes(result.frame)) == {"unread", "match"}


async def test_a_sample_reads_some_patients(make_world: MakeWorld) -> None:
    world = await written(make_world)
    result = await read_back(world.job(), sample=3)
    assert result.summary["verification"]["patients"] == 3
    assert result.frame["patient"].n_unique() == 3
    assert (await read_back(world.job(), since="2999-01-01")).frame.is_empty()


async def test_without_its_plan_a_payment_is_still_compared(make_world: MakeWorld) -> None:
    world = await written(make_world)
    shutil.rmtree(world.folder / "state" / "plans")
    payment = world.sandbox.resources("PaymentNotice")[0]
    world.sandbox.edit_by_hand(
        "PaymentNotice", payment["id"], {"amount": {"value": 0.57, "currency": "USD"}}
    )
    result = await read_back(world.job())
    assert outcomes(result.frame) == Counter(match=83, differs=1)
    assert result.summary["verification"]["elements"] == {"amount": 1}


async def test_the_command_says_what_it_found(make_world: MakeWorld) -> None:
    world = await written(make_world)
    process, stdout, _ = await command(world, "verify")
    assert (process.returncode, "Canvas holds what was written" in stdout) == (0, True)
    world.sandbox.delete_by_hand("PaymentNotice", world.sandbox.resources("PaymentNotice")[0]["id"])
    process, stdout, _ = await command(world, "verify", "--since", "2020-01-01")
    assert process.returncode == 3
    assert "missing (Canvas does not show them)" in stdout


async def test_from_python(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await written(make_world)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    assert load(world.config).canvas.base_url == world.url
    assert (await pipeline.verify(world.config, sample=2)).exit_code == 0


# An order that a later write of ours moved -------------------------------------------------------


async def moved_world(make_world: MakeWorld) -> World:
    """A night after which a new coverage has the order of one that the file does not have any more."""
    world = await nightly(make_world, [(0, "old", 1, ""), (1, "other", 1, "")])
    write(world, [(0, "new", 1, ""), (1, "other", 1, "")])
    assert (await world.run()).summary["feeds"][0]["warnings"] == {"order|taken": 1}
    assert orders(world, 0) == {"new": 1, "old": 2}
    return world


async def test_an_order_that_a_later_write_of_ours_moved_is_a_match(
    make_world: MakeWorld,
) -> None:
    world = await moved_world(make_world)
    result = await read_back(world.job())
    assert (result.exit_code, outcomes(result.frame)) == (0, Counter(match=2, moved=1))
    assert (result.summary["verification"]["moved"], result.summary["verification"]["differs"]) == (
        1,
        0,
    )
    text = summary_text(result.summary, "reports", "config.toml")
    assert "1  moved (a later write of ours moved their order)" in text
    assert "Elements that differ" not in text
    assert "Payments:" not in text, "there are none"
    assert "moved (a later write of ours" in (result.folder / "report.html").read_text()


async def test_two_periods_of_one_order_are_moved_as_the_plan_warned(
    make_world: MakeWorld,
) -> None:
    world = await make_world(patients=2)
    world.write_config()
    world.write_ledger([("T1", patient_key(1), "5.00", "")])
    member = (patient_key(0), "m", "self", "60054", "1")
    world.write_eligibility([(*member, "2025-01-01", "2025-12-31"), (*member, "2026-01-01", "")])
    world.config.write_text(
        world.config.read_text().replace(
            'kind = "eligibility"',
            'kind = "eligibility"\nkey = ["patient", "member_id", "start_on"]',
        )
    )
    assert (await world.run()).summary["feeds"][0]["warnings"] == {"order|bumps": 1}
    result = await read_back(world.job())
    assert (result.exit_code, outcomes(result.frame)) == (0, Counter(match=2, moved=1))


@pytest.mark.parametrize("changes", [{"order": 3}, {"order": 2, "period": {"start": "2026-02-01"}}])
async def test_an_order_that_differs_otherwise_is_a_difference(
    make_world: MakeWorld, changes: dict[str, object]
) -> None:
    world = await moved_world(make_world)
    world.sandbox.edit_by_hand("Coverage", coverage(world, "old")["id"], changes)
    result = await read_back(world.job())
    assert (result.exit_code, outcomes(result.frame)) == (3, Counter(match=2, differs=1))


async def test_coverages_whose_plan_was_removed_are_counted_as_not_compared(
    make_world: MakeWorld,
) -> None:
    """An edit of them cannot be seen, so that a match alone would claim too much."""
    world = await written(make_world)
    assert (await read_back(world.job())).summary["verification"]["contents_unknown"] == 0
    first = world.sandbox.resources("Coverage")[0]["id"]
    world.sandbox.edit_by_hand("Coverage", first, {"status": "cancelled"})
    shutil.rmtree(world.folder / "state" / "plans")
    result = await read_back(world.job())
    count = result.summary["verification"]["contents_unknown"]
    assert count == result.frame.filter(result.frame["resource_type"] == "Coverage").height > 1
    text = summary_text(result.summary, str(result.folder), str(world.config))
    assert f"Content not compared: {count} coverages" in text
