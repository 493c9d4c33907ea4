"""What a person reads if Canvas refuses a taken order, or the removal of a coverage that a claim is linked to."""

from pipeline.canvas.reasons import with_way_out
from tests.support.nightly import FEED, MANY, Clock, coverage, enter, gone, nightly, rules, write
from tests.support.runs import command, counts
from tests.support.world import MakeWorld, patient_key

TAKEN = "The patient already has a coverage with coverage rank 1"


def test_only_a_taken_order_gets_a_way_out() -> None:
    assert with_way_out(TAKEN, "Coverage", 422).startswith(f"{TAKEN}; Canvas did not move")
    for text, resource_type, status in (
        (TAKEN, "PaymentNotice", 422),
        (TAKEN, "Coverage", 400),
        ("Coverage already exists", "Coverage", 422),
        ("body -> order - value is not a valid integer", "Coverage", 422),
        ("", "Coverage", 422),
    ):
        assert with_way_out(text, resource_type, status) == text


async def test_a_taken_order_is_refused_with_the_way_out(make_world: MakeWorld) -> None:
    world = await make_world(patients=40, clock=Clock(), taken_order="refuse")
    world.write_config(feeds=FEED.format(more=""))
    enter(world, 0, "by hand")
    write(world, [(0, "ours", 1, ""), (1, "other", 1, "")])
    process, stdout, _ = await command(world, "run")
    assert process.returncode == 3
    assert "canvas|business-rule 1" in stdout
    result = await world.run()
    assert (result.exit_code, counts(result)) == (3, {"refused": 1, "unchanged": 1})
    (message,) = result.frame.filter(disposition="refused")["message"]
    assert message.startswith(TAKEN)
    assert "give one of the two another order, or end the other one, then run again" in message
    page = (result.folder / "report.html").read_text()
    assert "give one of the two another order" in page
    write(world, [(0, "ours", 2, ""), (1, "other", 1, "")])
    assert counts(await world.run()) == {"created": 1, "unchanged": 1}


async def test_a_coverage_with_a_claim_is_not_cancelled(make_world: MakeWorld) -> None:
    rows = [*MANY, (31, "gone", 1, "")]
    world = await nightly(make_world, rows, more='missing = "cancel"')
    world.sandbox.add_by_hand("Claim", {"patient": patient_key(31), "member_id": "gone"})
    write(world, MANY)
    result = await world.run()
    assert (result.exit_code, rules(result)) == (3, {})
    assert gone(result) == {"rows": 1, "refused": 1}
    assert coverage(world, "gone")["status"] == "active"
    (line,) = (result.folder / "missing-eligibility.csv").read_text().splitlines()[1:]
    assert "linked to a claim" in line
