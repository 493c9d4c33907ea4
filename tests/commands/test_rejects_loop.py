"""Rejected rows that are corrected bit by bit: no share stops them, and the whole file knows them afterwards."""

import csv
from pathlib import Path

import polars as pl
import pytest

from pipeline.commands import run as engine
from pipeline.errors import LimitError
from tests.support.runs import command, counts
from tests.support.world import FEEDS, LEDGER_ONLY, MakeWorld, World, patient_key

ROSTER = FEEDS[: FEEDS.rindex("[[feeds]]")]
TENTH = 'rejects_max = "10%"'


async def night_of(world: World, bad: int) -> engine.Result:
    """Run a ledger of 40 rows, of which the first `bad` have no amount that can be read."""
    world.write_config(feeds=LEDGER_ONLY, limits=TENTH)
    rows = [
        (f"T{n:02}", patient_key(n % 20), "x" if n < bad else f"{n + 1}.00", "") for n in range(40)
    ]
    world.write_ledger(rows)
    return await world.run()


def fixed(rejects: Path, folder: Path, amounts: dict[str, str]) -> Path:
    """Write a copy of a reject file with other amounts, by transaction."""
    with rejects.open(newline="") as file:
        lines = list(csv.DictReader(file))
    for line in lines:
        line["Amount"] = amounts.get(line["TXN"], line["Amount"])
    path = folder / "fixed.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


async def test_a_file_that_is_fixed_in_part_is_loaded(make_world: MakeWorld) -> None:
    world = await make_world()
    night = await night_of(world, bad=4)
    assert counts(night) == {"created": 36, "rejected": 4}
    half = fixed(night.folder / "rejects-ledger.csv", world.folder, {"T00": "1.00", "T01": "2.00"})
    loaded = await world.run(inputs={"ledger": half})
    assert loaded.failure is None
    assert (loaded.exit_code, counts(loaded)) == (3, {"created": 2, "rejected": 2})
    rest = fixed(loaded.folder / "rejects-ledger.csv", world.folder, {"T02": "3.00", "T03": "4.00"})
    loaded = await world.run(inputs={"ledger": rest})
    assert (loaded.exit_code, counts(loaded)) == (0, {"created": 2})
    assert len(world.effects) == 40


async def test_other_files_beside_a_reject_file_are_judged(make_world: MakeWorld) -> None:
    world = await make_world()
    night = await night_of(world, bad=4)
    (world.folder / "in").mkdir()
    fixed(night.folder / "rejects-ledger.csv", world.folder / "in", {})
    world.write_config(feeds=LEDGER_ONLY.replace("ledger.csv", "in/*.csv"), limits=TENTH)
    other = [("N1", patient_key(1), "1.00", ""), ("N2", patient_key(2), "y", "")]
    world.write_ledger(other, name="in/new.csv")
    stopped = await world.run()
    assert isinstance(stopped.failure, LimitError)
    assert "1 of 2 rows rejected (50.0%)" in str(stopped.failure), (
        "those of the reject file do not count"
    )


async def test_the_whole_file_counts_what_came_in_corrected(make_world: MakeWorld) -> None:
    world = await make_world()
    night = await night_of(world, bad=8)
    assert isinstance(night.failure, LimitError)
    assert not world.effects
    amounts = {f"T{n:02}": f"{n + 1}.00" for n in range(8)}
    part = fixed(night.folder / "rejects-ledger.csv", world.folder, dict(list(amounts.items())[:6]))
    loaded = await world.run(inputs={"ledger": part})
    assert counts(loaded) == {"created": 6, "rejected": 2}
    process, printed, _ = await command(world, "run")
    whole = (await world.run()).summary["feeds"][0]
    assert process.returncode == 3, "2 of 40 are above no limit"
    assert (
        f"ledger: 6 rejected rows are in Canvas already, from a corrected file (run {loaded.run_id})."
        in printed
    )
    assert whole["corrected"] == {"rows": 6, "runs": {loaded.run_id: 6}}
    assert whole["dispositions"]["rejected"] == 8
    assert whole["dispositions"]["unchanged"] == 32


async def test_a_corrected_row_is_known_though_its_key_changed(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=ROSTER)
    good = (patient_key(1), "W1", "self", "60054", "1", "2026-01-01", "")
    bad = (patient_key(2), "W2", "self", "60054", "1", "2026-13-01", "")
    world.write_eligibility([good, bad])
    night = await world.run()
    assert counts(night) == {"created": 1, "rejected": 1}
    path = night.folder / "rejects-eligibility.csv"
    (world.folder / "fixed.csv").write_text(path.read_text().replace("2026-13-01", "2026-03-01"))
    loaded = await world.run(inputs={"eligibility": world.folder / "fixed.csv"})
    assert counts(loaded) == {"created": 1}
    whole = await world.run()
    assert whole.summary["feeds"][0]["corrected"] == {"rows": 1, "runs": {loaded.run_id: 1}}
    (line,) = csv.DictReader((whole.folder / "rejects-eligibility.csv").read_text().splitlines())
    assert line["_message"].endswith(f"; a corrected row was loaded by run {loaded.run_id}")
    assert "a corrected row was loaded" not in (whole.folder / "report.html").read_text()


async def test_what_was_not_corrected_is_no_corrected_row(make_world: MakeWorld) -> None:
    world = await make_world()
    night = await night_of(world, bad=4)
    again = fixed(night.folder / "rejects-ledger.csv", world.folder, {})
    assert counts(await world.run(inputs={"ledger": again})) == {"rejected": 4}
    whole = await world.run()
    assert whole.summary["feeds"][0]["corrected"] == {"rows": 0, "runs": {}}


@pytest.mark.parametrize("command_of", ["plan", "run"])
async def test_rejects_and_messages_name_the_line_beside_the_row(
    make_world: MakeWorld, command_of: str
) -> None:
    world = await make_world()
    world.write_config(
        feeds=LEDGER_ONLY.replace('kind = "ledger"', 'kind = "ledger"\nskip_lines = 2')
    )
    text = f'Day sheet\n\nTXN,MRN,Amount,Claim,Note\nT1,{patient_key(1)},1.00,,"two\nlines"\n'
    text += f"T2,{patient_key(2)},x,,\nT1,{patient_key(1)},9.00,,\n"
    (world.folder / "ledger.csv").write_text(text)
    _, printed, _ = await command(world, command_of)
    folder = world.folder / "reports" / "latest"
    lines = list(csv.DictReader((folder / "rejects-ledger.csv").read_text().splitlines()))
    assert [(line["_row"], line["_line"]) for line in lines] == [("2", "6"), ("3", "7")]
    assert "ledger.csv:4 (row 1)" in lines[1]["_message"]
    frame = pl.read_parquet(folder / "reconciliation.parquet")
    assert frame["line"].to_list() == [4, 6, 7]
    assert "  amount|form: first in ledger.csv:6 (row 2)" in printed
    assert "  row|contradicts: first in ledger.csv:7 (row 3)" in printed
