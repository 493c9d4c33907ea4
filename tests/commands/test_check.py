"""`check`: each fault that is planted is named in one line, with what to do; and nothing is written."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from aiohttp import web

from pipeline.app.config.load import load_to_check
from pipeline.commands import check as doctor
from pipeline.commands.checks.context import Check, State
from pipeline.errors import ConfigError
from pipeline.journal import opening
from pipeline.sandbox import Faults
from tests.support.runs import coverages, obey_modes, payments, start
from tests.support.world import CREDENTIALS, FEEDS, LEDGER_ONLY, MakeWorld, World, patient_key

GOLDEN = Path(__file__).parents[1] / "golden"


async def checked(
    world: World,
    environment: Mapping[str, str] = CREDENTIALS,
    *,
    step_s_max: float = 20.0,
    show_values: bool = False,
    **options: Any,
) -> list[Check]:
    job, no_secrets = load_to_check(world.config, environment=environment, **options)
    before = written(world)
    checks = await doctor.check(
        job, no_secrets=no_secrets, step_s_max=step_s_max, show_values=show_values
    )
    assert written(world) == before, "it writes nothing"
    assert not world.effects
    return checks


def written(world: World) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(world.folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in world.folder.rglob("*")
    }


def bad(checks: list[Check]) -> list[Check]:
    return [check for check in checks if check.state is not State.OK]


def only(checks: list[Check], what: str) -> Check:
    (found,) = (check for check in checks if check.what == what)
    return found


async def fit(make_world: MakeWorld, **options: Any) -> World:
    world = await make_world(**options)
    world.write_config()
    world.write_eligibility(coverages())
    world.write_ledger(payments(30))
    return world


async def test_where_all_is_well_nothing_is_wrong(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    checks = await checked(world)
    assert not bad(checks)
    assert {check.group for check in checks} == {
        "Configuration",
        "Secrets",
        "Folders",
        "Journal",
        "Files",
        "Rows of eligibility",
        "Rows of ledger",
        "Limits",
        "Engine",
        "Canvas",
    }
    assert doctor.as_json(checks)["exit_code"] == 0
    assert world.sandbox.account()["requests"]["by"].keys() == {
        "GET /metadata",
        "POST /auth/token/",
        "GET /Coverage",
        "GET /PaymentNotice",
    }
    told = " ".join(check.message for check in checks if check.what == "rows")
    assert told == "40 to be sent 30 to be sent"


async def test_after_a_run_what_is_there_is_unchanged(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    await world.run()
    job, _ = load_to_check(world.config, environment=CREDENTIALS)
    before, effects = written(world), len(world.effects)
    checks = await doctor.check(job)
    assert (written(world), len(world.effects)) == (before, effects)
    assert [check.what for check in bad(checks)] == ["files|stale", "files|stale"]
    assert [check.message for check in checks if check.what == "rows"] == [
        "40 unchanged",
        "30 unchanged",
    ]


# Files and rows -----------------------------------------------------------------------------------


async def test_all_missing_columns_are_named_and_all_other_feeds_are_still_read(
    make_world: MakeWorld,
) -> None:
    world = await fit(make_world)
    text = (world.folder / "eligibility.csv").read_text().splitlines()
    text[0] = "MRN,member,Rel,Payer,Order,Begin,End"
    (world.folder / "eligibility.csv").write_text("\n".join(text) + "\n")
    checks = await checked(world)
    member, start = bad(checks)
    assert member.message == 'no column "Member", which is mapped to member_id of eligibility'
    assert member.todo.startswith('did you mean "member"?')
    assert 'no column "Start"' in start.message
    assert only(checks, "rows").group == "Rows of ledger"


async def test_a_file_that_is_not_there_or_is_torn(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    (world.folder / "eligibility.csv").unlink()
    path = world.folder / "ledger.csv"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    gone, torn = bad(await checked(world))
    assert "no file is there for feed eligibility" in gone.message
    assert (torn.what, torn.state) == ("ledger.csv", State.WRONG)
    assert torn.todo


async def test_dates_that_fit_no_format_and_the_one_that_would(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    world.write_eligibility(
        [
            (patient_key(n), f"M{n}", "self", "60054", "1", f"13.{n % 9 + 1:02}.2026", "")
            for n in range(20)
        ]
    )
    check = only(await checked(world), "start_on|date")
    assert check.state is State.WRONG
    assert check.message.startswith("20 rows (lines 2, 3, 4, ...)")
    assert check.todo == '"%d.%m.%Y" fits all of them: add it to dates of eligibility'


async def test_days_and_months_that_could_be_either_are_both_named(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    rows = [
        (patient_key(n), f"M{n}", "self", "60054", "1", f"0{n + 1}/05/2026", "") for n in range(9)
    ]
    world.write_eligibility(rows)
    todo = only(await checked(world), "start_on|date").todo
    assert '"%m/%d/%Y" and "%d/%m/%Y" fit all of them' in todo


async def test_codes_without_a_mapping_are_told_with_counts(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    rows = [
        (patient_key(n), f"M{n}", ["18", "G8", "self"][n % 3], "60054", "1", "2026-01-01", "")
        for n in range(20)
    ]
    world.write_eligibility(rows)
    check = only(await checked(world, show_values=True), "relationship|code")
    assert check.state is State.WRONG
    assert '"18" (7), "G8" (7)' in check.message
    assert "[feeds.codes.relationship] of eligibility" in check.todo


async def test_a_column_of_names_that_is_mapped_by_mistake_is_not_shown(
    make_world: MakeWorld,
) -> None:
    world = await fit(make_world)
    rows = [
        (patient_key(n), f"M{n}", f"Sample{n} Person{n}", "60054", "1", "2026-01-01", "")
        for n in range(20)
    ]
    world.write_eligibility(rows)
    told = json.dumps(doctor.as_json(await checked(world, show_values=True)))
    assert "Person" not in told
    assert "20 more (not shown" in told
    assert patient_key(3) not in told


async def test_crosswalk_misses_are_counted_and_a_missing_table_hides_nothing_else(
    make_world: MakeWorld,
) -> None:
    world = await fit(make_world)
    table = '[references.patient]\nhow = "file"\npath = "walk.csv"\nfrom = "a"\nto = "b"\n'
    world.write_config(feeds=table + FEEDS)
    checks = await checked(world)
    (missing,) = bad(checks)
    assert (missing.what, missing.state) == ("references.patient", State.WRONG)
    assert '"a" and "b"' in missing.todo
    assert [check.message for check in checks if check.what == "rows"] == [
        "40 to be sent",
        "30 to be sent",
    ]

    pairs = {"a": [patient_key(n) for n in range(19)], "b": [patient_key(n) for n in range(19)]}
    pl.DataFrame(pairs).write_csv(world.folder / "walk.csv")
    found = [check for check in await checked(world) if check.what == "patient|unknown"]
    ledger = pl.read_csv(world.folder / "ledger.csv", infer_schema=False)
    missing_rows = [2, ledger.filter(pl.col("MRN") == patient_key(19)).height]
    assert [int(check.message.split()[0]) for check in found] == [
        each for each in missing_rows if each
    ]


async def test_only_that_leaves_out_everything(make_world: MakeWorld) -> None:
    world = await make_world()
    only_ = '[feeds.only]\nentry_type = ["PAYMENT"]\n'
    world.write_config(feeds=LEDGER_ONLY.replace('claim = "Claim"', 'entry_type = "Claim"') + only_)
    world.write_ledger([(f"T{n}", patient_key(n), "1.00", "PMT") for n in range(12)])
    check = only(await checked(world, show_values=True), "only")
    assert check.state is State.WRONG
    assert 'the file holds entry_type: "PMT" (12)' in check.todo


async def test_every_limit_that_is_exceeded_is_told(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    world.write_config(limits='total_usd_max = "5.00"\nwrites_max = 10\nrejects_max = "1%"')
    world.write_eligibility([*coverages(), (patient_key(1), "", "self", "60054", "3", "", "")])
    checks = await checked(world)
    told = [check.message for check in checks if check.group == "Limits"]
    assert len(told) == 3
    for name in ("rejects_max", "writes_max", "total_usd_max"):
        assert any(name in message for message in told)


async def test_a_draft_that_is_not_decided_is_told(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    text = FEEDS.replace(
        'member_id = "Member"', 'member_id = "DECIDE: member_id" # DECIDE: perhaps "X"'
    )
    world.write_config(
        feeds=text.replace("[feeds.columns]", "# DECIDE: is it all?\n[feeds.columns]", 1)
    )
    lines = world.config.read_text().splitlines()
    comment, value = bad(await checked(world))
    assert lines[int(comment.what.removeprefix("line ")) - 1] == "# DECIDE: is it all?"
    assert comment.message == "still to be decided: is it all?"
    assert "remove the word DECIDE" in comment.todo
    assert lines[int(value.what.removeprefix("line ")) - 1].startswith("member_id")
    assert value.message == 'still to be decided: member_id: perhaps "X"'
    with pytest.raises(ConfigError, match=f"{value.what}: member_id: perhaps"):
        world.job()
    world.config.write_text(world.config.read_text().replace("DECIDE: member_id", "Member"))
    assert world.job().undecided, "a comment stops no run"


# The journal and the folders ----------------------------------------------------------------------


async def test_a_journal_of_another_canvas(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    (world.folder / "state").mkdir(mode=0o700)
    opening.open_journal(world.folder / "state", "https://fumage-other.canvasmedical.com").close()
    check = only(await checked(world), "journal")
    assert check.state is State.WRONG
    assert "belongs to https://fumage-other.canvasmedical.com" in check.message
    assert "canvas-ingest journal move CONFIG" in check.todo


async def test_a_journal_that_another_run_holds(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    (world.folder / "state").mkdir(mode=0o700)
    with opening.open_journal(world.folder / "state", world.url):
        check = only(await checked(world), "journal")
    assert check.state is State.WARNING
    assert f"Another run is using this journal: PID {os.getpid()} on " in check.message


async def test_a_check_beside_a_run_says_that_its_requests_come_on_top(
    make_world: MakeWorld,
) -> None:
    world = await fit(make_world)
    assert not [check for check in await checked(world) if check.what == "rate"]
    (world.folder / "state").mkdir(mode=0o700)
    asked = world.sandbox.account()["requests"]["total"]
    with opening.open_journal(world.folder / "state", world.url):
        check = only(await checked(world), "rate")
    asked = world.sandbox.account()["requests"]["total"] - asked
    assert check.state is State.WARNING
    assert check.message == (
        f"a run is using this journal: {asked} requests of this check came on top of the run's "
        "upload.rate_per_s"
    )


async def test_a_journal_that_is_lost_is_told_and_not_touched(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    await world.run()
    (world.folder / "state" / "journal.sqlite").unlink()
    world.sandbox.store.account.effects.clear()
    check = only(await checked(world), "journal")
    assert check.state is State.WRONG
    assert f"Journal not found: {world.folder}/state/journal.sqlite. " in check.message

    for path in sorted((world.folder / "state").rglob("*"), reverse=True):
        path.unlink() if not path.is_dir() else path.rmdir()
    assert (
        f"Journal not found: {world.folder}/state/journal.sqlite. "
        in only(await checked(world), "journal").message
    ), "the reports tell it"


async def test_doubts_that_wait(make_world: MakeWorld) -> None:
    world = await fit(make_world, faults=Faults(lose_after=1.0, faults_max=3))
    world.write_config(feeds=LEDGER_ONLY, quiet_s=60.0, resend_absent="none")
    run = asyncio.ensure_future(world.run())
    await asyncio.sleep(1.5)
    run.cancel()
    await asyncio.wait([run])
    world.sandbox.store.account.effects.clear()
    check = only(await checked(world), "in doubt")
    assert check.state is State.WARNING
    assert "canvas-ingest review" in check.todo


async def test_a_folder_that_is_a_file(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    (world.folder / "reports").write_text("")
    check = only(await checked(world), "report.dir")
    assert (check.state, check.todo) == (State.WRONG, "name another report.dir")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere: run as another user")
async def test_a_folder_that_cannot_be_written(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    (world.folder / "reports").mkdir(mode=0o500)
    assert "cannot be written to" in only(await checked(world), "report.dir").message


async def test_a_folder_that_others_may_look_into(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    (world.folder / "reports").mkdir()
    (world.folder / "reports").chmod(0o755)
    check = only(await checked(world), "report.dir")
    assert check.state is State.WARNING
    assert check.todo.startswith("chmod 700")


# Secrets and Canvas -------------------------------------------------------------------------------


async def test_no_credentials_and_a_secret_that_others_may_read(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    (none,) = bad(await checked(world, {}))
    assert (none.group, none.state) == ("Secrets", State.WRONG)
    assert "CANVAS_CLIENT_ID" in none.todo

    secret = world.folder / "secret"
    secret.write_text("sandbox")
    secret.chmod(0o644)
    (open_,) = bad(await checked(world, {"CANVAS_TOKEN_FILE": str(secret)}))
    assert "CANVAS_TOKEN_FILE: others may read that file" in open_.message
    assert open_.todo.startswith("chmod 600")


async def test_a_secret_that_has_expired(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    (check,) = bad(await checked(world, {**CREDENTIALS, "CANVAS_CLIENT_SECRET": "of-last-year"}))
    assert (check.what, check.state) == ("token", State.WRONG)
    assert "answers HTTP 401 (invalid_client)" in check.message
    assert "make a new secret in Canvas" in check.todo
    assert "of-last-year" not in json.dumps(doctor.as_json([check]))
    asked = world.sandbox.account()["requests"]["by"]["POST /auth/token/"]
    assert asked == {"401": 1}, "a refusal is not asked again"


async def test_a_token_that_is_not_taken(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    told = bad(await checked(world, {"CANVAS_TOKEN": "stale"}))
    assert "does not accept the token in CANVAS_TOKEN" in told[0].message


async def test_a_scope_that_lacks_a_right(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    scope = "system/Coverage.read system/Coverage.write system/PaymentNotice.read"
    world.write_config(canvas=f'scope = "{scope}"')
    (check,) = bad(await checked(world))
    assert (check.what, check.state) == ("scope", State.WARNING)
    assert "PaymentNotice.write" in check.message


async def test_a_resource_that_may_not_be_read(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    world.write_config(canvas='scope = "system/Coverage.read"')
    told = {check.what: check for check in bad(await checked(world))}
    assert told["PaymentNotice"].state is State.WRONG
    assert "may not read PaymentNotice" in told["PaymentNotice"].message


async def test_a_blocked_address(make_world: MakeWorld) -> None:
    world = await fit(make_world, faults=Faults(forbid=1.0, applies_to="all"))
    for check in bad(await checked(world)):
        assert "403 and no FHIR resource" in check.message
        assert "blocked" in check.todo


@asynccontextmanager
async def answering(status: int, body: str, content_type: str) -> AsyncIterator[str]:
    """A server that has one answer for everything."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, text=body, content_type=content_type)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("status", "body", "content_type", "todo"),
    [
        (404, "<html>no such page</html>", "text/html", "another host or path"),
        (403, "<html>blocked</html>", "text/html", "ask Canvas to let it in"),
        (200, "<html>welcome</html>", "text/html", "no FHIR server"),
        (200, '{"hello": 1}', "application/json", "no FHIR server"),
    ],
)
async def test_a_host_that_is_none(
    make_world: MakeWorld, status: int, body: str, content_type: str, todo: str
) -> None:
    world = await fit(make_world)
    async with answering(status, body, content_type) as url:
        world.config.write_text(
            world.config.read_text().replace(f'base_url = "{world.url}"', f'base_url = "{url}"')
        )
        (check,) = bad(await checked(world))
    assert (check.what, check.state) == ("host", State.WRONG)
    assert f"answered with HTTP {status}" in check.message
    assert todo in check.todo


async def test_a_dead_server_and_a_name_without_an_address(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    text = world.config.read_text()
    dead = text.replace(world.url, "http://127.0.0.1:9")
    world.config.write_text(dead)
    told = {check.what: check for check in bad(await checked(world, {}))}
    assert told["host"].message == (
        "Cannot connect to http://127.0.0.1:9/metadata: connection refused, 1 attempt"
    )

    world.config.write_text(text.replace(world.url, "https://canvas.invalid"))
    told = {check.what: check for check in bad(await checked(world, {}))}
    assert told["host"].message == (
        "Cannot connect to https://canvas.invalid/metadata: there is no host canvas.invalid, 1 attempt"
    )


async def test_a_silent_token_endpoint_does_not_hold_it(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    async with answering(503, "<html>down</html>", "text/html") as url:
        text = world.config.read_text()
        world.config.write_text(text.replace(f"{world.url}/auth", f"{url}/auth"))
        (check,) = bad(await checked(world, step_s_max=0.3))
    assert check.what == "token"
    assert "no good answer within" in check.message


async def test_a_clock_that_is_wrong(make_world: MakeWorld) -> None:
    world = await fit(make_world, clock=lambda: time.time() + 600)
    (check,) = bad(await checked(world))
    assert (check.what, check.state) == ("clock", State.WARNING)
    assert "behind that of Canvas" in check.message
    assert "NTP" in check.todo


async def test_the_example_host_is_not_asked(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    text = world.config.read_text()
    world.config.write_text(text.replace(world.url, "https://fumage-example.canvasmedical.com"))
    (check,) = bad(await checked(world))
    assert "still to be decided" in check.message


async def test_patients_that_are_searched_for(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    search = '[references.patient]\nhow = "search"\nsystem = "urn:old"\n'
    world.write_config(feeds=search + FEEDS)
    told = {check.what: check for check in await checked(world)}
    assert told["Patient"].state is State.OK
    assert told["patients"].state is State.WRONG
    assert "references.patient.system" in told["patients"].todo
    assert told["rows"].state is State.OK


# The command --------------------------------------------------------------------------------------


async def command(world: World, *options: str) -> "subprocess.CompletedProcess[str]":
    arguments = [sys.executable, "-m", "pipeline", "check", str(world.config), *options]
    environment = {**os.environ, **CREDENTIALS, "COLUMNS": "80"}
    return await asyncio.to_thread(
        subprocess.run,
        arguments,
        capture_output=True,
        text=True,
        check=False,
        cwd=world.folder,
        env=environment,
    )


async def test_the_command_prints_lines_or_one_object(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    well = await command(world)
    assert (well.returncode, well.stdout.splitlines()[-1]) == (
        0,
        "  canvas-ingest plan config.toml",
    )
    (world.folder / "ledger.csv").unlink()
    told = await command(world, "--json")
    assert told.returncode == 1
    shown = json.loads(told.stdout)
    assert (shown["shape"], shown["exit_code"], shown["counts"]["wrong"]) == (1, 1, 1)
    assert {"what", "state", "message", "todo"} <= shown["checks"][0].keys()
    world.config.write_text("[canvas]\n")
    assert (await command(world)).returncode == 2


async def test_a_messy_setup_as_it_is_told(make_world: MakeWorld) -> None:
    """`GOLDEN=write` writes it anew, for a person to read."""
    world = await fit(make_world, clock=lambda: time.time() - 300)
    table = (
        '[references.payer]\nhow = "file"\npath = "payers.csv"\nfrom = "code"\nto = "payer_id"\n'
    )
    world.write_config(feeds=table + FEEDS, limits='rejects_max = "10%"\ntotal_usd_max = "5.00"')
    rows = [
        (
            patient_key(n),
            "" if n == 7 else f"M{n}",
            "18" if n % 2 else "self",
            "AETNA",
            "1",
            day,
            "",
        )
        for n in range(20)
        for day in [f"{n % 9 + 1}/14/2026" if n > 4 else "2026-01-01"]
    ]
    world.write_eligibility(rows)
    world.write_ledger([(f"T{n}", patient_key(n), f"{n - 3}.00", "") for n in range(12)])
    (world.folder / "reports").mkdir(mode=0o755)
    text = (
        (await command(world)).stdout.replace(str(world.folder), "...").replace(world.url, "CANVAS")
    )
    told = "\n".join(
        line
        for line in text.splitlines()
        if not any(word in line for word in (" disk of ", "  clock ", "NTP"))
    )
    golden = GOLDEN / "check.txt"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(told + "\n")
    assert told + "\n" == golden.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="modes are ignored by another capability")
@pytest.mark.parametrize("name", ["check", "run"])
@pytest.mark.parametrize("closed", ["the file", "its folder"])
async def test_a_file_that_may_not_be_read_is_named(
    make_world: MakeWorld, name: str, closed: str
) -> None:
    world = await make_world()
    folder = world.folder / "in"
    folder.mkdir()
    world.write_config(feeds=LEDGER_ONLY.replace('"ledger.csv"', '"in/ledger.csv"'))
    (folder / "ledger.csv").write_text("transaction_id,patient,amount\n")
    path = folder / "ledger.csv" if closed == "the file" else folder
    path.chmod(0)
    process = await start(world, name, before=obey_modes)
    stdout, stderr = (text.decode() for text in await process.communicate())
    path.chmod(0o700)
    assert process.returncode == 1
    shown = " ".join((stdout + stderr).split())
    assert re.search(r"ledger.csv:? this user may not read it", shown), shown
    assert "fault" not in stdout + stderr


@pytest.mark.skipif(sys.platform != "linux", reason="modes are ignored by another capability")
@pytest.mark.parametrize("name", ["journal show", "run", "review"])
async def test_a_journal_that_may_not_be_read_is_no_fault_of_the_program(
    make_world: MakeWorld, name: str
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(1))
    await world.run()
    path = world.folder / "state" / "journal.sqlite"
    path.chmod(0)
    process = await start(world, name, before=obey_modes)
    stdout, stderr = (text.decode() for text in await process.communicate())
    path.chmod(0o600)
    assert process.returncode == 1
    assert "the journal cannot be read or written" in stdout + stderr
    assert "Traceback" not in stdout + stderr


async def test_the_engine_is_looked_at(make_world: MakeWorld) -> None:
    world = await fit(make_world)
    engine = only(await checked(world), "engine")
    assert engine.state is State.OK
    assert engine.message == "embedded: this process reads and judges the rows"
    pytest.importorskip("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        scheduler = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    settings = f'[engine]\nkind = "dask"\nscheduler = "{scheduler}"\n'
    world.config.write_text(settings + world.config.read_text())
    checks = [check for check in await checked(world, step_s_max=1.0) if check.group == "Engine"]
    assert [check.state for check in checks] == [State.WRONG, State.WRONG]
    journal, workers = checks
    assert "set [state] url to a PostgreSQL database" in journal.todo
    assert workers.message.startswith(f"no Dask scheduler was reached at {scheduler}")


async def test_the_disks_are_those_of_the_configuration(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await fit(make_world)
    usage = shutil.disk_usage(world.folder)
    asked: list[Path] = []

    def full(folder: Path) -> Any:
        asked.append(Path(folder))
        return usage._replace(free=1_000)

    monkeypatch.setattr("pipeline.commands.checks.folders.shutil.disk_usage", full)
    disk = only(await checked(world), "disk of state.dir and report.dir")
    assert asked == [world.folder], "not that of the copies"
    assert disk.state is State.WRONG
    assert re.fullmatch(r"1 kB free, and a run needs some \d+ kB", disk.message)
