"""What a person sees on a terminal: widths, colours, and the line of progress."""

import asyncio
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.app.display import Line
from pipeline.app.screen import is_coloured, painted
from pipeline.job import Progress
from pipeline.records import Disposition
from pipeline.sandbox import Faults
from tests.support.doubts import doubtful
from tests.support.runs import coverages, payments
from tests.support.terminal import COLOUR, Shown, on_terminal
from tests.support.world import CREDENTIALS, MakeWorld, World, patient_key

AMOUNT = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})*\.\d\d(?![\d])")


class Stream:
    def __init__(self, *, is_terminal: bool) -> None:
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


async def filled(make_world: MakeWorld) -> World:
    world = await make_world()
    world.write_config(rate_per_s=200.0)
    world.write_eligibility(coverages(20))
    world.write_ledger([*payments(60), ("T900", patient_key(1), "1,25", "")])
    return world


async def shown(world: World, *arguments: str, columns: int = 80, **environment: str) -> Shown:
    return await on_terminal(
        arguments,
        columns,
        24 if columns == 80 else 40,
        {**CREDENTIALS, **environment},
        world.folder,
    )


async def piped(world: World, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-m", "pipeline", *arguments]
    clean = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
    ended = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, cwd=world.folder,
        env={**clean, **CREDENTIALS, **environment},
    )  # fmt: skip
    return ended.stdout + ended.stderr


def too_wide(lines: Sequence[str], columns: int) -> list[str]:
    """The lines that do not fit, but for commands and for single words, such as a path."""
    return [
        line
        for line in lines
        if len(line) > columns
        and not line.lstrip().startswith("canvas-ingest ")
        and len(max(line.split(), key=len)) + len(line) - len(line.lstrip()) <= columns
    ]


@pytest.mark.parametrize("columns", [80, 120])
async def test_the_commands_fit_the_terminal(make_world: MakeWorld, columns: int) -> None:
    world = await filled(make_world)
    told = {}
    for command in (
        ("check", "config.toml"),
        ("plan", "config.toml"),
        ("run", "config.toml"),
        ("verify", "config.toml"),
        ("review", "config.toml"),
        ("journal", "show", "config.toml"),
        ("run", "nowhere/there-is-no-such-folder/config.toml"),
        (),
    ):
        ended = await shown(world, *command, columns=columns)
        told[command] = ended
        assert too_wide(ended.lines, columns) == [], command
        if command:
            assert COLOUR.search(ended.raw), command
    run = told["run", "config.toml"]
    assert run.code == 3
    summary = (world.folder / "reports" / "latest" / "summary.json").read_text()
    assert '"verify"' not in summary
    text = "\n".join(run.lines)
    for amount in re.findall(r'"(?:read|created)": "([\d.]+)"', summary):
        assert f"{float(amount):,.2f}" in AMOUNT.findall(text)


@pytest.mark.parametrize("columns", [80, 120])
async def test_a_review_fits_the_terminal(make_world: MakeWorld, columns: int) -> None:
    world = await doubtful(make_world, Faults(lose_before=1.0))
    ended = await shown(world, "review", "config.toml", columns=columns)
    assert ended.code == 4
    assert too_wide(ended.lines, columns) == []
    assert "USD 20.00  transaction T0" in "\n".join(ended.lines)


# Colours ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("is_terminal", "environment", "allowed", "expected"),
    [
        (True, {}, True, True),
        (False, {}, True, False),
        (True, {"TERM": "dumb"}, True, False),
        (True, {"NO_COLOR": "1"}, True, False),
        (True, {"NO_COLOR": ""}, True, True),
        (False, {"FORCE_COLOR": "1"}, True, True),
        (False, {"FORCE_COLOR": "3", "TERM": "dumb"}, True, True),
        (True, {"FORCE_COLOR": "0"}, True, False),
        (True, {"FORCE_COLOR": ""}, True, True),
        (True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        (True, {"FORCE_COLOR": "1"}, False, False),
        (True, {}, False, False),
    ],
)
def test_when_there_are_colours(
    is_terminal: bool, environment: dict[str, str], allowed: bool, expected: bool
) -> None:
    stream: Any = Stream(is_terminal=is_terminal)
    assert is_coloured(stream, environment, allowed=allowed) is expected


@pytest.mark.parametrize(
    ("line", "coloured"),
    [
        ("Exit 0: everything reconciled.", "\x1b[32m\x1b[1mExit 0: everything reconciled.\x1b[0m"),
        ("Exit 3: finished, with rows rejected or refused.", "\x1b[33m\x1b[1mExit 3: finished, with rows rejected or refused.\x1b[0m"),
        ("Exit 4: finished, with writes in doubt.", "\x1b[35m\x1b[1mExit 4: finished, with writes in doubt.\x1b[0m"),
        ("Exit 130: interrupted.", "\x1b[31m\x1b[1mExit 130: interrupted.\x1b[0m"),
        ("  wrong    host   no", "  \x1b[31m\x1b[1mwrong\x1b[0m    host   no"),
        ("in doubt   12   1.00", "\x1b[35m\x1b[1min doubt\x1b[0m   12   1.00"),
        ("Error: no", "\x1b[31m\x1b[1mError:\x1b[0m no"),
        ("0 wrong, 1 warning, 14 ok. Next:", "\x1b[32m\x1b[1m0 wrong\x1b[0m, 1 warning, 14 ok. Next:"),
        ("10 wrong, 0 warnings, 1 ok.", "\x1b[31m\x1b[1m10 wrong\x1b[0m, 0 warnings, 1 ok."),
        ("rejected in an earlier run", "rejected in an earlier run"),
        ("Report: reports/x", "Report: reports/x"),
    ],
)  # fmt: skip
def test_verdicts_are_coloured_and_nothing_else(line: str, coloured: str) -> None:
    assert painted(line) == coloured


async def test_no_colour_in_a_pipe_a_log_or_against_the_users_will(make_world: MakeWorld) -> None:
    world = await filled(make_world)
    plain = await piped(world, "plan", "config.toml")
    assert "\x1b" not in plain
    assert "\x1b" not in await piped(world, "check", "config.toml")
    assert "\x1b" not in await piped(world, "plan", "config.toml", "--json", FORCE_COLOR="1")
    assert COLOUR.search(await piped(world, "plan", "config.toml", FORCE_COLOR="1"))
    assert not COLOUR.search(
        await piped(world, "plan", "config.toml", "--no-color", FORCE_COLOR="1")
    )
    for ended in (
        await shown(world, "plan", "config.toml", NO_COLOR="1"),
        await shown(world, "plan", "config.toml", "--no-color"),
        await shown(world, "--no-color", "plan", "config.toml"),
    ):
        assert not re.search(r"\x1b\[[0-9;]*[1-9][0-9;]*m", ended.raw)
        assert ended.moments[0].startswith("starting")


async def test_in_a_pipe_a_sentence_is_one_line(make_world: MakeWorld) -> None:
    world = await filled(make_world)
    plain = await piped(world, "plan", "config.toml")
    assert any(len(line) > 80 for line in plain.splitlines())
    table = [line for line in plain.splitlines() if re.match(r"(read|pending|rejected) ", line)]
    assert len(table) == 3


# Progress -----------------------------------------------------------------------------------------


async def test_progress_is_there_in_the_first_second_with_its_stages(make_world: MakeWorld) -> None:
    world = await filled(make_world)
    world.write_config(rate_per_s=20.0)
    ended = await shown(world, "run", "config.toml")
    stages = list(dict.fromkeys(each.split("  ")[0].strip() for each in ended.moments))
    assert stages[0] == "starting", "before any file is read"
    assert "sending" in stages
    assert any(re.search(r"sending .* about \d+ s left", each) for each in ended.moments)
    sending = [each for each in ended.moments if each.startswith("sending")]
    assert max(map(len, sending)) < 80
    assert any(re.search(r"\[━+ *\]  \d+ of \d+  \d+/s", each) for each in sending)


async def test_no_progress_in_a_pipe_or_on_a_dumb_terminal(make_world: MakeWorld) -> None:
    world = await filled(make_world)
    assert "reading files" not in await piped(world, "plan", "config.toml")
    ended = await shown(world, "plan", "config.toml", TERM="dumb")
    assert "\x1b" not in ended.raw
    assert "reading files" not in ended.raw
    quiet = await shown(world, "plan", "config.toml", "--no-progress")
    assert "reading files" not in quiet.raw


class Time:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_line_of_progress_has_the_stage_the_count_and_what_is_left() -> None:
    time, progress = Time(), Progress(stage="sending", to_send=12_000)
    line = Line("#", time)
    assert line.text(progress, 79) == "sending  [                ]  0 of 12,000  for 0 s"
    for second in range(60):
        time.now_s, progress.sent = float(second), 100 * second
        text = line.text(progress, 79)
    assert text == "sending  [#######         ]  5,900 of 12,000  100/s  about 1 min left"


def test_a_rate_is_that_of_the_last_half_minute_and_of_this_stage() -> None:
    time, progress = Time(), Progress(stage="searching", to_send=1_000)
    line = Line("#", time)
    for second in range(100):
        time.now_s = float(second)
        progress.sent = second if second < 50 else 50 + 10 * (second - 50)
        text = line.text(progress, 79)
    assert "10/s" in text
    progress.stage, progress.sent = "sending", 0
    assert line.text(progress, 79).endswith("0 of 1,000  for 0 s")


@pytest.mark.parametrize("columns", [20, 40, 60, 79, 119])
def test_the_line_of_progress_fits_and_drops_the_least_first(columns: int) -> None:
    time = Time()
    counts = Counter(dict.fromkeys(Disposition, 1_234_567))
    progress = Progress(stage="looking up", to_send=5_000_000, dispositions=counts)
    line = Line("#", time)
    for second in range(30):
        time.now_s, progress.sent = float(second), 1_000 * second
        text = line.text(progress, columns)
    assert len(text) <= columns
    assert text.startswith("looking up patients"[:columns])
    assert ("about 1 h 23 min left" in text) == (columns >= 79)
    assert ("1,234,567 created" in text) == (columns >= 119)


def test_while_files_are_read_their_rows_are_counted() -> None:
    time, line = Time(), Line("#", Time())
    assert line.text(Progress(stage="reading"), 79) == "reading files  for 0 s"
    progress = Progress(stage="reading", rows=1_000, rows_read=250)
    assert line.text(progress, 79).startswith("reading files  [####            ]  250 of 1,000")
    assert time.now_s == 0.0
