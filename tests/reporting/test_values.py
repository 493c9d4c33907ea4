"""Values of cells: what `check` and `init` show of them, and what a spreadsheet would run in our CSV files."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import command, coverages
from tests.support.world import FEEDS, LEDGER_ONLY, MakeWorld, patient_key

ELIGIBILITY_ONLY = FEEDS[: FEEDS.rindex("[[feeds]]")]
FORMULAS = "=+-@\uff1d\uff0b\uff0d\uff20"


# Coded columns ------------------------------------------------------------------------------------


async def test_check_shows_spellings_only_when_it_is_asked_to(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(
        feeds=FEEDS.replace('claim = "Claim"', 'claim = "Claim"\nentry_type = "Kind"\n')
        + '[feeds.only]\nentry_type = ["payment"]\n'
    )
    rows = [[*row] for row in coverages(12)]
    for row in rows:
        row[2] = "Qzmother"
    world.write_eligibility([tuple(row) for row in rows])
    ledger = [(f"T{n}", patient_key(n), "1.00", "", "Qzcopay") for n in range(12)]
    world._write("ledger.csv", ["TXN", "MRN", "Amount", "Claim", "Kind"], ledger)

    for form in ((), ("--json",)):
        process, out, err = await command(world, "check", *form)
        assert process.returncode == 1, err
        assert "Qz" not in out + err, out
        assert "no such code: 1 spelling" in out, "how many there are"
        assert "lines 2, 3, 4, ..." in out, "and where"
        assert "entry_type: 1 spelling" in out
        assert out.count("--show-values") >= 2, "and how to see them"
    process, out, err = await command(world, "check", "--show-values")
    assert process.returncode == 1, err
    assert '"Qzmother" (24)' in out
    assert '"Qzcopay" (12)' in out


def test_init_writes_spellings_into_the_draft_and_does_not_print_them(tmp_path: Path) -> None:
    path = tmp_path / "ledger.csv"
    kinds = ["Qzcopay", "PMT", "Qzrefund"]
    rows = [f"T{n},{patient_key(n)},1.00,2026-01-01,{kinds[n % 3]}" for n in range(30)]
    path.write_text("TXN,MRN,Amount,Posted,Transaction Type\n" + "\n".join(rows) + "\n")
    printed, text = drafted(path, "ledger")
    assert "Qz" not in printed, printed
    assert "PMT" not in printed, printed
    assert '"Qzcopay" (10 rows)' in text
    assert 'entry_type = ["PMT"]' in text

    path = tmp_path / "eligibility.csv"
    lines = [f"{patient_key(n)},M{n}x,{('EMP', 'Qzward')[n % 2]},Qzplan,1" for n in range(30)]
    path.write_text("MRN,Member ID,Relationship,Payer,Order\n" + "\n".join(lines) + "\n")
    printed, text = drafted(path, "eligibility")
    assert "Qz" not in printed, printed
    assert "Qzward" in text


def drafted(path: Path, kind: str) -> tuple[str, str]:
    """Run `init`. Returns what it printed, and the draft."""
    draft = path.with_suffix(".toml")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "init", str(path), "--kind", kind, "--output", str(draft)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr, draft.read_text() if draft.exists() else ""


# Files without a header ---------------------------------------------------------------------------

# A row of such a file that looks most like the mapped columns.
CELLS = ["Membery", "Relton", "Payerly", "Ordera", "Startt", "Endde", "MRNA"]


@pytest.mark.parametrize("verb", ["check", "plan", "run"])
async def test_cells_of_a_file_without_a_header_are_no_suggestions(
    make_world: MakeWorld, verb: str
) -> None:
    world = await make_world()
    world.write_config(feeds=ELIGIBILITY_ONLY)
    world._write("eligibility.csv", CELLS, [CELLS, CELLS])
    process, out, err = await command(world, verb)
    assert process.returncode == 1
    for cell in CELLS:
        assert cell not in out + err, out + err
    assert "column number" in out + err, "where it is"


async def test_a_header_that_looks_like_one_is_suggested_by_name(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    header = ["TXN", "Mrn", "Amount Paid", "Claims", "Posted Date"]
    world._write("ledger.csv", header, [("T1", patient_key(0), "1.00", "", "2026-01-01")])
    process, out, err = await command(world, "check")
    assert process.returncode == 1
    assert 'did you mean "Mrn"?' in out, out + err
    assert 'did you mean "Claims"?' in out, "most names of the line are known"


def test_init_shows_no_cell_of_a_file_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "eligibility.csv"
    lines = ["Qzsmith,self,Qzhealth,Qzward,active"] * 3
    path.write_text("\n".join(lines) + "\n")
    for kind in ("eligibility", "ledger"):
        printed, text = drafted(path, kind)
        assert "Qz" not in printed + text, printed + text
        path.with_suffix(".toml").unlink(missing_ok=True)


# Spreadsheets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
async def test_names_of_files_are_no_formulas_in_any_csv_file_of_ours(
    make_world: MakeWorld, delimiter: str
) -> None:
    """A spreadsheet splits at commas, semicolons and tabs, whatever the dialect of the sender is."""
    world = await make_world()
    world.write_config(
        feeds=ELIGIBILITY_ONLY.replace('"eligibility.csv"', '"*sender*.csv"').replace(
            "[feeds.columns]",
            f'delimiter = {json.dumps(delimiter)}\nupdate = true\nmissing = "report"\n[feeds.columns]',
        )
    )
    names = [f"{start}sender{n}.csv" for n, start in enumerate(f"{FORMULAS}\t\r\n")]
    names += ["b\t=sender.csv", "\t=sender.csv", "c,\t=sender.csv"]
    names += [f"a{cut}{start}sender{ord(cut)}.csv" for cut in ",;\t|" for start in "=@"]
    header = ["MRN", "Member", "Rel", "Payer", "Order", "Start", "End"]

    def write(rel: str, order: str, kept: int = 1) -> None:
        for n, name in enumerate(names):
            rows = [
                [patient_key(n), f"M{n}", "self", "60054", order, "2026-01-01", ""],
                [patient_key(n), f"N{n}", rel, "87726", "2", "2026-01-01", ""],
            ]
            with (world.folder / name).open("w", newline="") as file:
                csv.writer(file, delimiter=delimiter).writerows([header, *rows[: kept + 1]])

    write("self", "1")
    await command(world, "run")
    write("?", "3")
    process, out, err = await command(world, "run")
    assert process.returncode == 3, out + err
    written = [*(world.folder / "reports" / "latest").resolve().glob("*.csv")]
    assert {path.name for path in written} >= {
        "reconciliation.csv", "rejects-eligibility.csv", "changes-eligibility.csv",
    }  # fmt: skip
    for path in written:
        for cut in ",;\t|":
            with path.open(newline="") as file:
                cells = [cell for line in csv.reader(file, delimiter=cut) for cell in line]
            bad = [cell for cell in cells if cell.lstrip("\t\r\n").startswith(tuple(FORMULAS))]
            assert not bad, (path.name, cut, bad[:3])
