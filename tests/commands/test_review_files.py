"""`review` for many writes at once: in groups, out as a CSV file, and a decided file back in."""

import asyncio
import csv
import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.app.config.arguments import decisions_of
from pipeline.commands.review import as_json
from pipeline.errors import ConfigError
from pipeline.reporting.cases import review_csv, review_text
from pipeline.sandbox import Faults
from tests.support.doubts import decide, doubtful, paid_by_hand
from tests.support.runs import counts
from tests.support.world import CREDENTIALS, FEEDS, MakeWorld, World, patient_key


async def _review(world: World, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "review", str(world.config), *options]
    return await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, env=CREDENTIALS
    )


def _decided(
    text: str, path: Path, decide: Callable[[dict[str, str]], str], delimiter: str
) -> Path:
    """Fill in the column `decision` and save, as a spreadsheet would."""
    lines = list(csv.DictReader(io.StringIO(text)))
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), delimiter=delimiter, lineterminator="\r\n")
        writer.writeheader()
        for line in lines:
            writer.writerow({**line, "decision": decide(line)})
    return path


@pytest.mark.parametrize("delimiter", [",", ";"])
async def test_a_file_goes_out_is_decided_and_comes_back_in(
    make_world: MakeWorld, tmp_path: Path, delimiter: str
) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0), rows=3)
    found = paid_by_hand(world, patient_key(1))
    out = await _review(world, "--format", "csv")
    assert out.returncode == 4, out.stderr
    words = {"T0": "resend", "T1": "confirm", "T2": ""}
    path = _decided(
        out.stdout, tmp_path / "doubts.csv", lambda line: words[line["transaction_id"]], delimiter
    )
    ids = {line["transaction_id"]: line["id"] for line in csv.DictReader(io.StringIO(out.stdout))}
    assert ids == {"T0": "", "T1": found, "T2": ""}
    back = await _review(world, "--decisions", str(path))
    assert back.returncode == 4, back.stderr  # one is left
    assert counts(await world.run()) == {"unchanged": 2, "in_doubt": 1}
    assert len(world.effects) == 1, "the one that was sent again"


async def test_a_key_that_is_decided_twice_is_refused(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0), rows=1)
    out = (await _review(world, "--format", "csv")).stdout
    path = _decided(out, tmp_path / "doubts.csv", lambda _: "resend", ",")
    key = next(csv.DictReader(io.StringIO(out)))["key"]
    twice = await _review(world, "--decisions", str(path), "--abandon", key)
    assert (twice.returncode, world.effects) == (2, [])
    assert "is decided on by an option and in the file" in twice.stderr


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["key,decision,id", "aa,keep,"],
            "line 2: the decision is none of confirm, resend, abandon",
        ),
        (["key,decision,id", "aa,confirm,"], "line 2: no id"),
        (["key,decision,id", "aa,confirm,a b"], "line 2: the id is no id of a resource"),
        (
            ["key,decision,id", "aa,resend,", "aa,abandon,"],
            "line 3: the key is there twice; the other is in line 2",
        ),
        (
            ["key,decision,id", "aa,keep,", "bb,resend,", ",abandon,", "cc,confirm,"],
            "3 lines\n  line 2: the decision is none of confirm, resend, abandon\n  line 4: no key\n  line 5: no id",
        ),
        (["key,decision,id", ",resend,"], "line 2: no key"),
        (["key,what", "aa,resend"], "line 1 does not name the columns key, decision and id"),
        ([], "line 1 does not name the columns"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(
    tmp_path: Path, lines: Sequence[str], message: str
) -> None:
    path = tmp_path / "doubts.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=message):
        decisions_of(path)


async def test_writes_that_can_be_decided_together_are_a_group(make_world: MakeWorld) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0), rows=3)
    paid_by_hand(world, patient_key(1))
    text = review_text(as_json(await decide(world)), "c.toml", world.url)
    one, none = (
        text.index("just one that each can be (1 write, 20.00 USD)"),
        text.index("nothing like these (2 writes, 40.00 USD)"),
    )
    assert one < text.index("transaction T1") < text.index("review c.toml --confirm-found") < none
    assert (
        none
        < text.index("transaction T0")
        < text.index("transaction T2")
        < text.index("review c.toml --resend-absent")
    )


async def test_a_coverage_is_shown_by_payer_last_digits_and_start(make_world: MakeWorld) -> None:
    world = await make_world(faults=Faults(lose_before=1.0))
    world.write_config(
        feeds=FEEDS[: FEEDS.rindex("[[feeds]]")],
        doubts_max=1000,
        quiet_s=0.05,
        resend_absent="none",
    )
    world.write_eligibility([(patient_key(0), "W12345678", "self", "60054", "1", "2026-01-01", "")])
    assert counts(await world.run()) == {"in_doubt": 1}
    reviewed = as_json(await decide(world))
    text = review_text(reviewed, "c.toml", world.url)
    assert "payer 60054, member ID ...5678, from 2026-01-01" in text
    assert "W12345678" not in text + review_csv(reviewed, world.url)


def test_cells_that_a_spreadsheet_would_run_are_harmless() -> None:
    case: dict[str, Any] = {
        "key": "0123456789abcdef", "feed": "ledger", "row": "ledger.csv:1", "source_id": "=1+1",
        "interaction": "create", "resource_type": "PaymentNotice", "resource_id": "", "patient": "p",
        "amount_cents": 100, "coverage": None, "evidence": "none", "now": None, "run_id": "r",
        "sent_at": None, "rule": "", "message": "m", "finding": None,
    }  # fmt: skip
    (line,) = csv.DictReader(io.StringIO(review_csv({"in_doubt": [case]}, "http://127.0.0.1")))
    assert line["transaction_id"] == "'=1+1"
