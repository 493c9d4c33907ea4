"""Nightly life: the log, the metrics, the notice of how it ended, and a stop by signal."""

import ast
import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from pipeline.app import logs, notify
from pipeline.app.config.load import load
from pipeline.app.config.sections import NotifySection
from pipeline.commands import run as engine
from pipeline.errors import ConfigError, IngestError
from pipeline.journal import doubts
from pipeline.reporting import metrics
from pipeline.sandbox import Faults
from tests.support.journals import forget_plans
from tests.support.runs import command, effects_reach, payments, start
from tests.support.world import CREDENTIALS, LEDGER_ONLY, MakeWorld, World, patient_key

ROOT = Path(__file__).parents[2]
PLANTED = "Zq7planted"


def lines_of(stderr: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.splitlines()]


def events_of(stderr: str) -> list[str]:
    return [line["event"] for line in lines_of(stderr)]


# Logs ---------------------------------------------------------------------------------------------


def _logged() -> Iterator[tuple[str, set[str]]]:
    """Each event that the code logs, with the fields that it names."""
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            logger, method = ast.unparse(node.func.value), node.func.attr
            if logger not in {"log", "structlog.get_logger()"}:
                continue
            name = node.args[1 if method == "log" else 0]
            assert isinstance(name, ast.Constant), "an event is one of a table, never a text"
            yield str(name.value), {word.arg for word in node.keywords if word.arg}


def test_every_event_and_field_is_in_the_table() -> None:
    logged = list(_logged())
    assert {event for event, _ in logged} | {"unnamed"} == set(logs.EVENTS)
    assert set().union(*(fields for _, fields in logged)) <= set(logs.FIELDS)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nothing_that_is_not_allowed_leaves(log_format: str) -> None:
    code = (
        "import asyncio, logging, structlog, warnings\nfrom pipeline.app import logs\n"
        f"logs.configure({log_format!r}, 10)\n"
        "log = structlog.get_logger()\n"
        f"log.info('progress', patient='{PLANTED}', count='{PLANTED}', sent=3)\n"
        f"log.warning('{PLANTED}')\n"
        f"logging.getLogger('some.library').error('%s', '{PLANTED}')\n"
        f"logging.getLogger('asyncio').error('{PLANTED}')\n"
        f"warnings.warn('{PLANTED}')\n"
        f"try: raise ValueError('{PLANTED}')\n"
        "except ValueError: log.exception('run_failed')\n"
        "except BaseException: pass\n"
        "try: 1 / 0\nexcept ZeroDivisionError: logging.getLogger('some.library').exception('x')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert PLANTED not in done.stdout + done.stderr
    assert done.stdout == ""
    if log_format == "json":
        assert [(line["event"], line["level"]) for line in lines_of(done.stderr)] == [
            ("progress", "info"),
            ("unnamed", "warning"),
            ("library_logged", "error"),
            ("library_logged", "warning"),
            ("run_failed", "error"),
            ("library_logged", "error"),
        ]
        assert lines_of(done.stderr)[2]["logger"] == "some.library"
        assert lines_of(done.stderr)[0]["sent"] == 3


async def test_a_log_for_machines_is_one_object_a_line_from_beginning_to_end(
    make_world: MakeWorld,
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([*payments(5), ("T9", "", "1.00", "")])
    process, stdout, stderr = await command(world, "run", "--json", "--log-format", "json")
    summary = json.loads(stdout)
    lines = lines_of(stderr)
    assert process.returncode == 3
    assert [line["event"] for line in lines] == ["run_started", "run_finished"]
    for line in lines:
        assert list(line)[:4] == ["timestamp", "level", "event", "run_id"]
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() == timedelta(0)
        assert line["run_id"] == summary["run_id"]
    last = lines[-1]
    assert (last["exit_code"], last["rows_read"], last["created"], last["rejected"]) == (3, 6, 5, 1)


async def test_what_fails_without_a_report_is_an_object_too(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY.replace("kind =", "knid ="))
    process, stdout, stderr = await command(world, "run", "--log-format", "json")
    (line,) = lines_of(stderr)
    assert (process.returncode, stdout) == (2, "")
    assert (line["event"], line["error"], line["exit_code"]) == ("command_failed", "ConfigError", 2)
    assert 'Did you mean "kind"?' in line["message"]


async def test_what_nobody_foresaw_is_an_object_too_without_its_text(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(3))
    result = await world.run()
    for path in (world.folder / "state" / "plans" / result.run_id).rglob("*.parquet"):
        path.write_bytes(PLANTED.encode())
    forget_plans(world.folder / "state")
    process, stdout, stderr = await command(world, "report", "--log-format", "json", "--json")
    (line,) = lines_of(stderr)
    assert process.returncode == json.loads(stdout)["exit_code"] == 1
    assert line["event"] == "command_failed"
    assert "a fault of canvas-ingest itself: ComputeError at " in line["message"]
    assert PLANTED not in stdout + stderr


async def test_a_state_folder_that_cannot_be_made_is_said(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    (world.folder / "state").write_text("")
    process, _, stderr = await command(world, "run", "--log-format", "json")
    assert process.returncode == 2
    assert f"{world.folder / 'state'} cannot be made: File exists" in stderr


# Metrics ------------------------------------------------------------------------------------------


def with_metrics(world: World, path: str = "ingest.prom", more: str = "", **options: Any) -> Path:
    report = f'[report]\ndir = "reports"\nmetrics = "{path}"\n'
    world.write_config(**{"feeds": report + more + LEDGER_ONLY, **options})
    return world.folder / path


def metrics_of(path: Path) -> dict[tuple[str, ...], float]:
    """By name and the values of its labels, in the order of their names, without `config`."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.type == "gauge"
        assert family.documentation == metrics.METRICS[family.name][0]
        for sample in family.samples:
            assert sample.labels.pop("config") == "config"
            key = (sample.name, *(sample.labels[name] for name in sorted(sample.labels)))
            found[key] = sample.value
    return found


async def test_the_metrics_say_what_the_summary_says(make_world: MakeWorld) -> None:
    world = await make_world(faults=Faults(lose_before=0.3), fault_seed=4)
    path = with_metrics(world, resend_absent="none")
    world.write_ledger([*payments(20), (PLANTED, "", "1.25", "")])
    for _ in range(2):
        result = await world.run()
        summary, found = result.summary, metrics_of(path)
        (feed,) = summary["feeds"]
        without = set() if summary["requests"]["total"] else {"canvas_ingest_last_run_requests"}
        assert {key[0] for key in found} == set(metrics.METRICS) - without
        for word, count in feed["dispositions"].items():
            assert found["canvas_ingest_last_run_rows", word, "ledger"] == count
            shown = found["canvas_ingest_last_run_amount_dollars", word, "ledger"]
            assert f"{shown:.2f}" == feed["amount_usd"][word]
        for status, count in summary["requests"]["by_status"].items():
            assert found["canvas_ingest_last_run_requests", status] == count
        ended = datetime.fromisoformat(summary["finished_at"]).timestamp()
        assert found["canvas_ingest_last_run_timestamp_seconds",] == ended
        assert found["canvas_ingest_last_run_exit_code",] == result.exit_code
        assert found["canvas_ingest_last_run_balanced",] == 1
        with engine.open_journal(world.job()) as journal:
            in_doubt = doubts.count_doubts(journal, result.run_id)
        assert found["canvas_ingest_writes_in_doubt",] == in_doubt
        assert PLANTED not in path.read_text()
        assert patient_key(1) not in path.read_text()
        world.write_ledger(payments(2, seed=2))  # the doubts are of rows outside these files now
    assert in_doubt > 0


async def test_a_node_exporter_may_read_them(make_world: MakeWorld) -> None:
    world = await make_world()
    path = with_metrics(world)
    world.write_ledger(payments(2))
    process, _, _ = await command(world, "run")
    assert process.returncode == 0
    assert path.stat().st_mode & 0o777 == 0o644
    assert [each.name for each in world.folder.iterdir() if "prom" in each.name] == [path.name]


async def test_a_run_that_fails_is_measured_with_its_code(make_world: MakeWorld) -> None:
    world = await make_world()
    path = with_metrics(world)
    assert (await world.run()).exit_code == 1  # there is no file
    assert metrics_of(path)["canvas_ingest_last_run_exit_code",] == 1
    world.write_ledger(payments(2))
    with engine.open_journal(world.job()), pytest.raises(IngestError):
        await world.run()
    found = metrics_of(path)
    assert found["canvas_ingest_last_run_exit_code",] == 5
    assert {key[0] for key in found} == {
        "canvas_ingest_last_run_exit_code",
        "canvas_ingest_last_run_timestamp_seconds",
        "canvas_ingest_last_run_duration_seconds",
    }


async def test_a_plan_is_no_run(make_world: MakeWorld) -> None:
    world = await make_world()
    path = with_metrics(world)
    world.write_ledger(payments(2))
    await engine.plan(world.job())
    assert not path.exists()


async def test_an_unwritable_path_is_a_warning(make_world: MakeWorld) -> None:
    world = await make_world()
    with_metrics(world, "nowhere/ingest.prom")
    world.write_ledger(payments(2))
    process, _, stderr = await command(world, "run", "--log-format", "json")
    assert process.returncode == 0
    (line,) = (line for line in lines_of(stderr) if line["event"] == "metrics_unwritten")
    assert line["why"] == "No such file or directory"


# The notice ---------------------------------------------------------------------------------------

TELL = '[notify]\ncommand = ["{python}", "-c", "{code}", "{file}"]\n{more}'
KEEP = "import os, sys; open(sys.argv[1], 'w').write(sys.stdin.read() + str([n for n in os.environ if n.startswith('CANVAS_')]))"


class Hook:
    """Takes notices, on loopback."""

    def __init__(self) -> None:
        self.url = ""
        self.told: list[dict[str, Any]] = []
        self.status = 200
        self.waits_s = 0.0

    async def answer(self, request: web.Request) -> web.Response:
        self.told.append(await request.json())
        await asyncio.sleep(self.waits_s)
        return web.Response(status=self.status, headers={"Location": self.url})


@pytest.fixture
async def hook(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hook]:
    hook = Hook()
    app = web.Application()
    app.router.add_post("/secret-path", hook.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hook.url = f"http://127.0.0.1:{runner.addresses[0][1]}/secret-path?key=secret-key"
    monkeypatch.setenv("CANVAS_INGEST_WEBHOOK_URL", hook.url)
    yield hook
    await runner.cleanup()


def telling(world: World, code: str = KEEP, more: str = "") -> Path:
    """A configuration whose command keeps the notice in a file."""
    path = world.folder / "told"
    section = TELL.format(python=sys.executable, code=code, file=path, more=more)
    world.write_config(feeds=section + LEDGER_ONLY)
    return path


async def test_who_is_to_be_told_is_told(make_world: MakeWorld, hook: Hook) -> None:
    world = await make_world()
    path = telling(world)
    world.write_ledger([*payments(3), (PLANTED, PLANTED, f"{PLANTED}$", "")])
    process, stdout, stderr = await command(world, "run", "--json", "--log-format", "json")
    summary = json.loads(stdout)
    assert process.returncode == 3
    (told,) = hook.told
    assert path.read_text() == f"{json.dumps(told, separators=(',', ':'))}[]", (
        "and no secret of ours"
    )
    assert told["run_id"] == summary["run_id"]
    assert told["exit_code"] == 3
    assert told["verdict"] == "finished, with rows rejected or refused"
    assert Path(told["folder"]) == world.folder / "reports" / summary["run_id"]
    assert told["feeds"] == [
        {"name": "ledger", "rows_read": 4, "dispositions": summary["feeds"][0]["dispositions"]}
    ]
    assert told["verdict"] in told["text"]
    assert PLANTED not in json.dumps(told)
    assert patient_key(1) not in json.dumps(told)
    assert events_of(stderr)[-2:] == ["notice_sent", "notice_sent"]
    assert "secret" not in stderr


async def test_nobody_is_told_of_what_went_well_or_is_only_planned(
    make_world: MakeWorld, hook: Hook
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    assert (await command(world, "plan"))[0].returncode == 1  # there is no file
    world.write_ledger(payments(3))
    assert (await command(world, "run"))[0].returncode == 0
    world.write_ledger([("T9", "", "1.00", "")])
    telling(world, more="on = [0, 4]\n")
    assert (await command(world, "run"))[0].returncode == 3
    assert hook.told == []
    world.write_ledger(payments(3))
    assert (await command(world, "run"))[0].returncode == 0
    assert [told["exit_code"] for told in hook.told] == [0]


async def test_failures_without_a_report_are_told(make_world: MakeWorld, hook: Hook) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger(payments(3))
    with engine.open_journal(world.job()):
        assert (await command(world, "run"))[0].returncode == 5
    assert (await command(world, "run"))[0].returncode == 0
    (world.folder / "state" / "journal.sqlite").unlink()
    assert (await command(world, "verify"))[0].returncode == 1
    world.config.write_text(world.config.read_text().replace("kind =", "knid ="))
    assert (await command(world, "run"))[0].returncode == 2
    world.config.write_text("[canvas")
    assert (await command(world, "run"))[0].returncode == 2
    assert [told["exit_code"] for told in hook.told] == [5, 1, 2, 2]
    assert [told["command"] for told in hook.told] == ["run", "verify", "run", "run"]
    assert "Another run is using this journal: " in hook.told[0]["text"]
    assert "Journal not found: " in hook.told[1]["failure"]
    assert all((told["run_id"], told["folder"]) == ("", "") for told in hook.told)


@pytest.mark.parametrize(
    ("code", "status", "waits_s", "said"),
    [
        ("raise SystemExit(7)", 500, 0.0, ["it ended with 7", "answered with 500"]),
        ("import time; time.sleep(60)", 200, 60.0, ["not done after 2 s", "no answer: timeout"]),
        ("pass", 307, 0.0, ["", "answered with 307"]),
    ],
)
async def test_a_notice_that_fails_changes_nothing(
    make_world: MakeWorld, hook: Hook, code: str, status: int, waits_s: float, said: list[str]
) -> None:
    world = await make_world()
    telling(world, code, f"timeout_s = {2.0 if waits_s else 60.0}\n")
    world.write_ledger([("T1", "", "1.00", "")])
    hook.status, hook.waits_s = status, waits_s
    process, stdout, stderr = await command(world, "run", "--log-format", "json")
    assert process.returncode == 3
    assert "Exit 3" in stdout
    lines = [line for line in lines_of(stderr) if line["event"].startswith("notice")]
    assert [line.get("why", "") for line in lines] == said
    assert len(hook.told) == 1, "a redirect is not followed"
    assert "secret" not in stderr


def test_a_command_that_ends_before_it_is_given_the_notice_changes_nothing() -> None:
    """The loop is busy meanwhile, so that the command has ended when it would be written to."""
    recipients = notify.Recipients(
        NotifySection(on=(0,), command=("true",), timeout_s=10.0, env=()), ""
    )

    async def tell() -> None:
        telling_all = [notify.notify({"exit_code": 0, "run_id": ""}, recipients) for _ in range(8)]
        told = asyncio.gather(*telling_all)
        while not told.done():
            await asyncio.sleep(0)
            time.sleep(0.02)  # noqa: ASYNC251 - that is the point
        await told

    uvloop.run(tell())


async def test_a_command_that_is_not_there_is_a_warning(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds='[notify]\ncommand = ["no-such-command"]\n' + LEDGER_ONLY)
    process, _, stderr = await command(world, "run", "--log-format", "json")
    assert process.returncode == 1
    assert lines_of(stderr)[-1]["why"] == "it cannot be started: No such file or directory"


@pytest.mark.parametrize(
    ("text", "variables", "said"),
    [
        ("[notify]\non = [6]\n", {}, "notify.on: must be exit codes: 0, 1, 2, 3, 4, 5, 130"),
        ("[notify]\nurl = 'https://x'\n", {}, "notify.url: no such key"),
        ("[report]\ndir = 'r'\nmetrics = 'm.txt'\n", {}, "report.metrics: must end in .prom"),
        ("", {"CANVAS_INGEST_WEBHOOK_URL": "http://hook.example/secret"}, "must be https://"),
        ("", {"CANVAS_INGEST_WEBHOOK_URL": "https://secret@hook.example/"}, "must be https://"),
        ("", {"CANVAS_INGEST_WEBHOOK_URL": "https://[secret/"}, "must be https://"),
    ],
)
async def test_what_is_set_wrong_is_said_at_once(
    make_world: MakeWorld, text: str, variables: dict[str, str], said: str
) -> None:
    world = await make_world()
    world.write_config(feeds=text + LEDGER_ONLY)
    with pytest.raises(ConfigError) as caught:
        load(world.config, environment={**CREDENTIALS, **variables})
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_the_webhook_may_stand_in_a_private_file(
    make_world: MakeWorld, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    monkeypatch.delenv("CANVAS_INGEST_WEBHOOK_URL")
    file = world.folder / "hook"
    file.write_text(hook.url)
    file.chmod(0o600)
    monkeypatch.setenv("CANVAS_INGEST_WEBHOOK_URL_FILE", str(file))
    assert (await command(world, "run"))[0].returncode == 1
    assert [told["exit_code"] for told in hook.told] == [1]


# Signals ------------------------------------------------------------------------------------------


async def test_an_orchestrators_sigterm_drains_and_is_told(
    make_world: MakeWorld, hook: Hook
) -> None:
    world = await make_world(patients=50, faults=Faults(latency_s=(0.02, 0.05)))
    path = with_metrics(world, rate_per_s=200.0)
    world.write_ledger(payments(300, patients=50))
    process = await start(world, "run", "--json", "--log-format", "json")
    await effects_reach(world, 30)
    process.terminate()
    stdout, stderr = await process.communicate()
    summary = json.loads(stdout)
    ends = summary["feeds"][0]["dispositions"]
    assert process.returncode == summary["exit_code"] == 130
    assert ends["in_doubt"] == 0
    assert ends["created"] == len(world.effects)
    assert ends["pending"] == 300 - len(world.effects)
    assert "stopping" in events_of(stderr.decode())
    assert metrics_of(path)["canvas_ingest_last_run_exit_code",] == 130
    assert [told["exit_code"] for told in hook.told] == [130]


async def test_the_second_signal_stops_at_once_and_the_journal_is_true(
    make_world: MakeWorld, hook: Hook
) -> None:
    world = await make_world(patients=50, faults=Faults(latency_s=(3.0, 3.0)))
    path = with_metrics(world, canvas="", rate_per_s=200.0)
    world.config.write_text(world.config.read_text().replace("timeout_s = 2.0", "timeout_s = 60.0"))
    world.write_ledger(payments(50, patients=50))
    process = await start(world, "run", "--log-format", "json")
    assert process.stderr is not None
    while b"run_started" not in await process.stderr.readline():
        pass
    while not world.sandbox.account()["open_writes_max"]:
        await asyncio.sleep(0.05)
    process.terminate()
    while b"stopping" not in await process.stderr.readline():
        pass
    process.send_signal(signal.SIGTERM)
    _, stderr = await process.communicate()
    assert process.returncode == 130
    assert events_of(stderr.decode())[-1] == "stopped_at_once"
    assert metrics_of(path)["canvas_ingest_last_run_exit_code",] == 130
    assert hook.told == [], "whoever sends a second one waits for nothing more"
    world.sandbox.set_faults(Faults())
    world.config.write_text(world.config.read_text().replace("timeout_s = 60.0", "timeout_s = 5.0"))
    again = await world.run()
    ends = again.summary["feeds"][0]["dispositions"]
    assert len(world.effects) == len({each["patient"] + each["amount"] for each in world.effects})
    assert ends["created"] + ends["unchanged"] + ends["in_doubt"] + ends["pending"] == 50


# The page -----------------------------------------------------------------------------------------


def section(page: str, heading: str) -> str:
    """Return the text of one section of a page."""
    return page.split(f"## {heading}\n")[1].split("\n## ", maxsplit=1)[0]


def test_the_page_says_what_the_code_does() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    tables = section(page, "The log") + section(page, "Metrics")
    lines = [line for line in tables.splitlines() if line.startswith("| `")]
    events = [f"| `{name}` | {text} |" for name, text in logs.EVENTS.items()]
    gauges = [
        f"| `{name}` | {', '.join(f'`{label}`' for label in labels)} | {text} |"
        for name, (text, labels) in metrics.METRICS.items()
    ]
    assert lines == [*events, *gauges]
    unwrapped = " ".join(page.split())
    assert ", ".join(f"`{name}`" for name in logs.FIELDS) in unwrapped


async def test_the_page_shows_a_notice_as_it_is(make_world: MakeWorld, hook: Hook) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    shown = json.loads(page.split("```json\n")[1].split("```")[0])
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    assert (await command(world, "run"))[0].returncode == 1
    assert list(hook.told[0]) == list(shown)
    assert list(hook.told[0]["feeds"][0]) == list(shown["feeds"][0])
