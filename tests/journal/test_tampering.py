"""What lies beside the journal is used only as the run that wrote it left it."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from pipeline.commands import run as engine
from pipeline.errors import PlanError
from pipeline.sandbox import Faults
from tests.support.doubts import decide, doubtful, keys
from tests.support.missing_lines import missing_lines
from tests.support.nightly import MANY, coverage, nightly, write
from tests.support.nightly_corners import CANCEL
from tests.support.runs import counts
from tests.support.world import FEEDS, LEDGER_ONLY, MakeWorld, World, patient_key

ELIGIBILITY_ONLY = FEEDS[: FEEDS.rindex("[[feeds]]")]


def rewrite(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Change a Parquet file as its writer would: with the same metadata."""
    kept = {k: v for k, v in pl.read_parquet_metadata(path).items() if k != "ARROW:schema"}
    change(pl.read_parquet(path)).write_parquet(path, metadata=kept)


def change_bodies(part: Path, before: bytes, after: bytes) -> None:
    """Change the bodies of a plan's rows or verdicts, and nothing else."""
    bodies = [body and body.replace(before, after) for body in pl.read_parquet(part)["body"]]
    rewrite(part, lambda rows: rows.with_columns(pl.Series("body", bodies, pl.Binary)))


def plan_of(world: World, run_id: str) -> Path:
    return world.folder / "state" / "plans" / run_id


async def test_an_edited_index_never_makes_a_changed_row_unchanged(make_world: MakeWorld) -> None:
    """The digest of the changed row is written over that of the row before."""
    world = await make_world(patients=3)
    world.write_config(feeds=ELIGIBILITY_ONLY)
    row = (patient_key(0), "M1", "self", "60054", "1", "2025-01-01")
    world.write_eligibility([(*row, "2026-12-31")])
    assert counts(await world.run()) == {"created": 1}
    world.write_eligibility([(*row, "2027-06-30")])
    planned = await engine.plan(world.job())
    assert counts(planned) == {"pending": 1}
    part = pl.read_parquet(plan_of(world, planned.run_id) / "rows-eligibility-00000.parquet")
    digests = part.select("digest", "digest_2").to_dicts()[0]
    index = world.folder / "state" / "held-eligibility.parquet"
    rewrite(
        index,
        lambda lines: lines.with_columns(pl.lit(v, pl.UInt64).alias(k) for k, v in digests.items()),
    )
    assert counts(await world.run()) == {"updated": 1}


@pytest.mark.parametrize("is_tampered", [False, True])
async def test_a_payment_is_sent_again_only_as_the_sealed_plan_has_it(
    make_world: MakeWorld, *, is_tampered: bool
) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0), rows=1)
    (plan,) = (world.folder / "state" / "plans").iterdir()
    if is_tampered:
        change_bodies(plan / "rows-ledger-00000.parquet", b"20.00", b"99.00")
    (key,) = keys(await decide(world)).values()
    reviewed = await decide(world, resend=(key,))
    if is_tampered:
        assert (reviewed.exit_code, world.effects) == (4, [])
        assert "was changed after" in reviewed.decided[0].message
    else:
        assert [effect["amount"] for effect in world.effects] == ["20.00"]


@pytest.mark.parametrize("is_tampered", [False, True])
async def test_a_coverage_is_cancelled_only_with_the_content_of_the_sealed_plan(
    make_world: MakeWorld, *, is_tampered: bool
) -> None:
    """The content of a row that is gone from the file is in the plan of the run that wrote it."""
    world = await nightly(make_world, [*MANY, (0, "gone", 2, "")], more=CANCEL)
    (plan,) = (world.folder / "state" / "plans").iterdir()
    if is_tampered:
        change_bodies(plan / "rows-eligibility-00000.parquet", b"2026-01-01", b"2020-01-01")
    write(world, MANY)
    result = await world.run()
    shown = coverage(world, "gone")
    (line,) = missing_lines(result)
    assert (shown["status"], shown["period"]["start"]) == (
        "active" if is_tampered else "cancelled",
        "2026-01-01",
    )
    assert line["rule"] == ("missing|unknown" if is_tampered else "")


async def test_a_report_is_not_written_again_from_a_changed_plan(make_world: MakeWorld) -> None:
    world = await make_world(patients=1)
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([("T0", patient_key(0), "20.00", "")])
    result = await world.run()
    part = plan_of(world, result.run_id) / "rows-ledger-00000.parquet"
    rewrite(part, lambda rows: rows.with_columns(pl.lit(9900, pl.Int64).alias("amount_cents")))
    with pytest.raises(PlanError, match="was changed after"):
        await engine.report_again(world.job(), result.run_id)


async def test_a_changed_plan_is_not_carried_out(make_world: MakeWorld) -> None:
    world = await make_world(patients=1)
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([("T0", patient_key(0), "20.00", "")])
    planned = await engine.plan(world.job())
    part = plan_of(world, planned.run_id) / "rows-ledger-00000.parquet"
    change_bodies(part, b"20.00", b"99.00")
    result = await engine.run(world.job(), plan_id=planned.run_id)
    assert (result.exit_code, world.effects) == (1, [])
    assert "was changed after" in str(result.failure)
