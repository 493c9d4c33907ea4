"""Nothing of a row is in what the program writes outside the files that are meant for rows.

Distinctive values are planted in every column of both feeds, in crosswalks and in what a server
answers; each fault that there is is provoked through the real command; and all that it then shows or
leaves behind is searched: the terminal, both logs, summary, page, metrics, notice, tracebacks, the
names of files, and what the list of processes shows. In every form: as it is, and URL-encoded,
JSON- and HTML-escaped, as base64 at each offset, as hexadecimal digits and as Python shows it.
"""

import asyncio
import base64
import gzip
import json
import os
import pty
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from tests.support.planted import (
    AMOUNTS,
    DAYS,
    ELIGIBILITY,
    KEY,
    LEDGER,
    PLANTED,
    STEM,
    TEXT,
    Mirror,
    Shown,
    configure,
    coverage,
    forms_of,
    found_in,
    mirrored,
    payment,
    write,
)
from tests.support.world import CREDENTIALS, PAYER, MakeWorld, World, patient_key

# The search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("planted", PLANTED)
def test_the_search_finds_each_form_amid_other_text(planted: str) -> None:
    for name, form in forms_of(planted).items():
        assert found_in(b"<p>x = " + form + b";</p>"), name
    for before in ("", "a", "ab"):
        assert found_in(base64.b64encode((before + planted + "tail").encode())), before
    assert found_in(planted.upper().encode())
    assert not found_in(b"12 rows rejected: amount|form, patient|unknown. USD 1,234.50")


def test_the_search_sees_into_the_page_and_not_into_the_files_for_rows(tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "1"
    folder.mkdir(parents=True)
    (folder / "rejects-ledger.csv").write_text(STEM)
    (folder / "summary.json").write_text("{}")
    shown = Shown()
    shown.left_in(tmp_path)
    assert not shown.leaks
    packed = base64.b64encode(gzip.compress(f'{{"file": "{STEM}"}}'.encode(), mtime=0)).decode()
    (folder / "report.html").write_text(f'<script type="application/json">{packed}</script>')
    shown = Shown()
    shown.left_in(tmp_path)
    assert len(shown.leaks) == 1


# What is planted ----------------------------------------------------------------------------------


def in_each_field(good: dict[str, str], fields: list[str]) -> Iterator[dict[str, str]]:
    """A row for each field and each planted value in it, and some with it in all fields."""
    for number, name in enumerate(fields):
        for planted in _IN_A_CELL:
            row = {**good, name: planted}
            if "transaction_id" in good and name != "transaction_id":
                row["transaction_id"] = f"R{number}-{_IN_A_CELL.index(planted)}"
            yield row
    for planted in (TEXT, STEM, KEY, AMOUNTS[1], DAYS[1]):
        yield dict.fromkeys(fields, planted)


_IN_A_CELL = (TEXT, f"{STEM}-1", AMOUNTS[0], DAYS[0], f"{TEXT}\n\x1b[2J", "x" * 300 + STEM)


MANY = """
import json, sys
from pipeline.app.cli import cli
codes = []
for arguments in json.loads(sys.argv[1]):
    try:
        cli.main(arguments, prog_name="canvas-ingest")
    except SystemExit as ended:
        codes.append(ended.code)
with open(sys.argv[2], "w") as file:
    json.dump(codes, file)
"""


async def python(code: str, *arguments: str) -> tuple[bytes, bytes, int]:
    """Run it with the interpreter's own hook for what nobody catches."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments,
        env={**os.environ, **CREDENTIALS, "PYTHONWARNINGS": "default", "RUST_BACKTRACE": "full"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    return out, err, process.returncode or 0


async def shown_by(shown: Shown, world: World, *commands: str) -> list[int]:
    """Carry out commands, one process for all of them, and keep what they show. Their exit codes."""
    lines = []
    for typed in commands:
        name, *options = shlex.split(typed)
        lines.append([*name.split("-"), str(world.config), *options])
    codes = world.folder / "codes"
    out, err, ended = await python(MANY, json.dumps(lines), str(codes))
    assert ended == 0, err
    shown.add(f"stdout of {commands}", out)
    shown.add(f"stderr of {commands}", err)
    found: list[int] = json.loads(codes.read_text())
    return found


EACH = (
    "check -v",
    "plan -v",
    "plan --format markdown",
    "run -v",
    "verify -v",
    "report -v",
    "run --log-format json --json -v",
    "journal-show",
)


async def review(shown: Shown, world: World) -> bytes:
    """What it prints is for the person who decides, and holds rows; its log does not."""
    code = "from pipeline.app.cli import main; main()"
    out, err, _ = await python(code, "review", str(world.config), "--log-format", "json", "-v")
    shown.add("stderr of review", err)
    return out


# The faults ---------------------------------------------------------------------------------------

Fault = Callable[[Shown, MakeWorld], Awaitable[World]]


async def rows_of_all_kinds(shown: Shown, make_world: MakeWorld) -> World:
    """Rejected, contradictory, duplicate, filtered, colliding, and good ones."""
    world = await make_world(patients=8)
    configure(world)
    good = [coverage(number) for number in range(4)]
    others = [
        coverage(0, plan=TEXT),
        good[1],
        coverage(0, member_id=STEM),
        coverage(1, start_on=DAYS[1]),
    ]
    write(world, "eligibility", [*good, *others, *in_each_field(coverage(5), ELIGIBILITY)])
    paid = [payment(number) for number in range(6)]
    odd = [
        payment(0, amount=AMOUNTS[1]),
        *paid[1:3],
        *(payment(7, entry_type=STEM) for _ in range(2)),
    ]
    write(world, "ledger", [*paid, *odd, *in_each_field(payment(6), LEDGER)])
    await shown_by(shown, world, *EACH)
    return world


async def rows_that_changed_and_are_gone(shown: Shown, make_world: MakeWorld) -> World:
    world = await make_world(patients=8)
    configure(world)
    write(world, "eligibility", [coverage(number) for number in range(6)])
    write(world, "ledger", [payment(number) for number in range(6)])
    assert await shown_by(shown, world, "run -v") == [0]
    world.config.write_text(
        world.config.read_text().replace(
            'kind = "eligibility"', 'kind = "eligibility"\nmissing = "cancel"\nmissing_max = "90%"'
        )
    )
    write(
        world,
        "eligibility",
        [coverage(number, plan=f"{TEXT} changed", end_on=DAYS[0]) for number in range(4)],
    )
    write(world, "ledger", [payment(number, amount="17.01") for number in range(6)])
    await shown_by(shown, world, *EACH)
    return world


async def a_limit(shown: Shown, make_world: MakeWorld) -> World:
    world = await make_world(patients=8)
    limits = 'rejects_max = 0\ntotal_usd_max = "1.00"\namount_usd_max = "0.50"\nwrites_max = 0\nchange_max = 1.1'
    configure(world, limits=limits)
    write(world, "eligibility", [coverage(number) for number in range(6)])
    write(world, "ledger", [*(payment(number) for number in range(6)), payment(6, amount=TEXT)])
    expected = "--expect ledger:rows=2 --expect ledger:total_usd=9.99"
    assert (
        await shown_by(shown, world, "check -v", "plan -v", "run -v", f"run {expected}") == [1] * 4
    )
    return world


BROKEN = {
    "no header": f"T1,{STEM},{AMOUNTS[0]},{DAYS[0]},{KEY},{STEM},USD,{STEM}\nT2,a,1.00,,,,,\n",
    "a quote that is never closed": f'"{TEXT.replace(chr(34), "")}\n',
    "a quote in the middle": f'{STEM}"{STEM}\n',
    "too many cells": ",".join([f"{STEM} {AMOUNTS[0]}"] * 90) + "\n",
    "too few cells": f"{STEM},{KEY}\n",
    "a torn last line": f"{STEM},{DAYS[0]}",
    "a NUL": f"{STEM}\0{STEM}\n",
    "other bytes": f"{STEM} S\udcf8n\n",
    "a cell without end": STEM * 10_000 + "\n",
    "a blank line": f"\n{STEM}\n",
}


async def unfit_files(shown: Shown, make_world: MakeWorld) -> World:
    world = await make_world(patients=2)
    configure(world)
    write(world, "eligibility", [coverage(0), coverage(1)])
    write(world, "ledger", [])
    header = (world.folder / "ledger.csv").read_bytes()
    commands = []
    for number, broken in enumerate(BROKEN.values()):
        path = world.folder / f"{number}.csv"
        above = b"" if number == 0 else header
        path.write_bytes(above + broken.encode(errors="surrogateescape"))
        commands += [f"{name} -v --input ledger={path}" for name in ("check", "run")]
    assert await shown_by(shown, world, *commands) == [1] * len(commands)
    return world


async def files_of_other_kinds(shown: Shown, make_world: MakeWorld) -> World:
    world = await make_world(patients=2)
    configure(world)
    frame = pl.DataFrame({name: [TEXT, STEM] for name in LEDGER} | {"entry_type": ["PAYMENT"] * 2})
    write(world, "eligibility", [coverage(0)])
    for name, broken in {
        "0.parquet": b"PAR1" + TEXT.encode() + b"PAR1",
        "1.csv.gz": gzip.compress(TEXT.encode())[:-4],
        "2.csv.gz": TEXT.encode(),
        "3.csv": TEXT.encode("utf-16"),
    }.items():
        (world.folder / name).write_bytes(broken)
    people = pl.concat_list("patient", "claim")
    for number, odd in enumerate(
        (
            frame.with_columns(amount=pl.col("amount").cast(pl.Categorical)),
            frame.with_columns(patient=pl.struct("claim", "patient")),
            frame.with_columns(patient=people, claim=pl.col("claim").cast(pl.Binary)),
            frame.with_columns(amount=pl.Series([float(each) for each in AMOUNTS])),
        )
    ):
        odd.write_parquet(world.folder / f"{number + 4}.parquet")
    files = [path for path in sorted(world.folder.iterdir()) if path.name[0].isdigit()]
    codes = await shown_by(shown, world, *(f"run -v --input ledger={path}" for path in files))
    assert len(codes) == 8
    assert 0 not in codes
    return world


async def references(shown: Shown, make_world: MakeWorld) -> World:
    """Crosswalks that know too much or too little, and manifests that cannot be read."""
    world = await make_world(patients=4)
    lines = [
        f"{STEM}-1,{patient_key(1)}",
        f"{STEM}-2,{patient_key(2)}",
        f"{STEM}-2,{KEY}",
        f"{STEM}-3,no id {STEM}",
    ]
    table = world.folder / "crosswalk.csv"
    table.write_text("\n".join(["theirs,ours", *lines, ""]))
    section = (
        '[references.patient]\nhow = "file"\npath = "crosswalk.csv"\nfrom = "theirs"\nto = "ours"\n'
    )
    configure(world, more=section)
    people = [f"{STEM}-{number}" for number in range(4)]
    write(world, "eligibility", [coverage(0, patient=each) for each in people])
    write(world, "ledger", [payment(n, patient=people[n % 4]) for n in range(8)])
    assert await shown_by(shown, world, "check", "run") == [1, 3]
    for broken in (f"theirs,ours\n{TEXT}", f"theirs,ours\n{STEM}\n", f"{STEM},{KEY}\n"):
        table.write_text(broken)
        await shown_by(shown, world, "check", "run")
    configure(world)
    text = world.config.read_text().replace(
        'path = "ledger.csv"', 'path = "ledger.csv"\nmanifest = "m"'
    )
    world.config.write_text(text)
    for broken in (
        TEXT,
        f"rows={STEM}",
        f'{{"rows": "{STEM}"}}',
        f"total_usd={AMOUNTS[0]}0",
        "rows=9",
    ):
        (world.folder / "m").write_text(broken)
        assert await shown_by(shown, world, "check", "run") == [1, 1]
    return world


async def answers_that_repeat_it(shown: Shown, make_world: MakeWorld) -> World:
    world = await make_world(patients=60)
    async with mirrored(world, Mirror(world.url)):
        configure(world, quiet_s=0.05)
        write(world, "eligibility", [coverage(number) for number in range(60)])
        # Which rows get which answer depends on their order: a disposition's total may be one row's
        # amount. So the rows' amounts are of no planted form; the answers still tell those that are.
        write(world, "ledger", [payment(number, amount="17.01") for number in range(60)])
        *_, last, _ = await shown_by(shown, world, *EACH)
        assert last == 4
        assert b"patient 0000000000" in await review(shown, world)
    return world


async def reads_that_repeat_it(shown: Shown, make_world: MakeWorld) -> World:
    """Every request but that for a token, searches for patients by their identifiers too."""
    world = await make_world(patients=20)
    async with mirrored(world, Mirror(world.url, reads=True)):
        for more in (
            "",
            f'[references.patient]\nhow = "search"\nsystem = "https://{STEM[::-1]}.example"\n',
        ):
            configure(world, more=more, quiet_s=0.05, attempts_max=2)
            people = [f"{STEM}-{number}" if more else patient_key(number) for number in range(20)]
            write(world, "eligibility", [coverage(0, patient=each) for each in people])
            write(
                world,
                "ledger",
                [payment(number, patient=each) for number, each in enumerate(people)],
            )
            await shown_by(shown, world, "check", "run -v", "verify -v")
    return world


CRASH = """
import sys, {module} as module
def crash(*args, **options):
    secret = {planted!r}
    raise {error}(secret, repr(args))
module.{name} = crash
sys.argv[0] = "canvas-ingest"
"""
BY_COMMAND = "from pipeline.app.cli import main\nmain()"
BY_PYTHON = "import pipeline\nresult = pipeline.run_sync(sys.argv[-1])\nprint(result, result.summary)\nif result.failure: raise result.failure"
READ = "import sys; del sys.argv[0]; exec(compile(open(sys.argv[0]).read(), sys.argv[0], 'exec'))"
STAGES = [
    ("pipeline.planning.parts", "validate"),
    ("pipeline.planning.parts", "read_slice"),
    ("pipeline.planning.passes.rows", "resolve"),
    ("pipeline.sending.settler", "Attempt"),
    ("pipeline.commands.run", "report"),
    ("pipeline.reporting.files", "reconcile"),
]


async def crashes(shown: Shown, make_world: MakeWorld) -> World:
    """In a stage, with all that it holds in the error's text: by the command, and by the interpreter."""
    world = await make_world(patients=4)
    configure(world)
    # What a crash left in flight is known again by the name of its payer.
    rows = [coverage(number, payer_name=PAYER["name"]) for number in range(4)]
    write(world, "eligibility", rows)
    write(world, "ledger", [payment(number) for number in range(4)])
    driver = world.folder / "driver.py"
    for number, (module, name) in enumerate(STAGES):
        error = ("ValueError", "OSError", "UnicodeError")[number % 3]
        ways = ((BY_COMMAND, ("run", "-v")), (BY_PYTHON, ()))
        for how, arguments in ways if number % 3 == 0 else ways[:1]:
            code = CRASH.format(module=module, name=name, planted=TEXT, error=error)
            driver.write_text(code + how)
            out, err, ended = await python(READ, str(driver), *arguments, str(world.config))
            assert ended == 1, (module, name, err)
            shown.add(f"stdout of a crash in {name}", out)
            shown.add(f"stderr of a crash in {name}", err)
    return world


async def a_terminal(shown: Shown, make_world: MakeWorld) -> World:
    """The display of progress, and what is said on a terminal only."""
    world = await make_world(patients=40)
    configure(world, rate_per_s=100.0)
    write(world, "eligibility", [coverage(number) for number in range(40)])
    write(world, "ledger", [payment(number) for number in range(40)])
    main, worker = pty.openpty()
    written: list[bytes] = []
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def read() -> None:
        try:
            written.append(os.read(main, 65536))
        except OSError:  # its other end is closed
            loop.remove_reader(main)
            ended.set()

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pipeline", "run", str(world.config),
        env={**os.environ, **CREDENTIALS, "TERM": "xterm-256color", "COLUMNS": "160"},
        stdin=worker, stdout=worker, stderr=worker,
    )  # fmt: skip
    os.close(worker)
    loop.add_reader(main, read)
    assert await process.wait() == 0
    await ended.wait()
    os.close(main)
    assert b"sending" in b"".join(written)
    shown.add("the terminal", b"".join(written))
    return world


async def a_first_look(shown: Shown, make_world: MakeWorld) -> World:
    """`init`, which reads rows to guess what they are."""
    world = await make_world(patients=4)
    configure(world)
    write(world, "eligibility", [coverage(number) for number in range(4)])
    write(world, "ledger", [*(payment(number) for number in range(4)), payment(5, entry_type=STEM)])
    for kind in ("eligibility", "ledger"):
        path = str(world.folder / f"{kind}.csv")
        code = "from pipeline.app.cli import main; main()"
        out, err, ended = await python(code, "init", path, "--output", "-")
        assert ended == 0
        shown.add("stdout of init", out)
        shown.add("stderr of init", err)
    return world


FAULTS: list[Fault] = [
    rows_of_all_kinds,
    rows_that_changed_and_are_gone,
    a_limit,
    unfit_files,
    files_of_other_kinds,
    references,
    answers_that_repeat_it,
    reads_that_repeat_it,
    crashes,
    a_terminal,
    a_first_look,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_no_value_of_a_row_leaves_the_files_for_rows(
    make_world: MakeWorld, fault: Fault
) -> None:
    shown = Shown()
    world = await fault(shown, make_world)
    shown.left_in(world.folder)
    assert sum(map(len, shown.texts.values())) > 1_000, "there was something to search"
    assert not shown.leaks
