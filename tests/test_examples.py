"""The examples, tried as far as one machine can: units and manifests checked, command lines parsed."""

import ast
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import cli
from pipeline.views.words import _MEANING

EXAMPLES = Path(__file__).parents[1] / "examples"
PROGRAM = "/opt/canvas-ingest/bin/canvas-ingest"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def text_of(name: str) -> str:
    return (EXAMPLES / name).read_text()


def _crontab() -> Iterator[list[str]]:
    for line in text_of("crontab").splitlines():
        if line and not line.startswith("#") and not re.match(r"[A-Z_]+=", line):
            *when, what = line.split(maxsplit=5)
            assert all(re.fullmatch(r"[0-9*/,-]+", field) for field in when)
            assert "%" not in what, "cron takes it for a line's end"
            yield shlex.split(what)


def _unit(name: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text_of(name).splitlines() if line[:1].isalpha())
    return {key: value for key, _, value in pairs}


def _manifests() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="make checks installs it")
    return list(yaml.safe_load_all(text_of("cronjob.yaml")))


def _pod() -> dict[str, Any]:
    pod: dict[str, Any] = _manifests()[1]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return pod


def _cronjob() -> Iterator[list[str]]:
    container = _pod()["containers"][0]
    yield [*container["command"], *container["args"]]


def _airflow() -> Iterator[list[str]]:
    for node in ast.walk(ast.parse(text_of("airflow_dag.py"))):
        if isinstance(node, ast.keyword) and node.arg == "bash_command":
            yield shlex.split(ast.literal_eval(node.value))[1:]  # after exec


def _dagster() -> Iterator[list[str]]:
    for node in ast.parse(text_of("dagster_job.py")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMMAND":
            yield ast.literal_eval(node.value)


COMMANDS: dict[str, tuple[Callable[[], Iterator[list[str]]], int]] = {
    "crontab": (_crontab, 2),
    "canvas-ingest.service": (
        lambda: iter([shlex.split(_unit("canvas-ingest.service")["ExecStart"])]),
        1,
    ),
    "cronjob.yaml": (_cronjob, 1),
    "airflow_dag.py": (_airflow, 2),
    "dagster_job.py": (_dagster, 1),
}


@pytest.fixture
def at_night(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone in which it is between two and three: `--until 05:30` is then to come."""
    monkeypatch.setenv("TZ", f"NIGHT{datetime.now(UTC).hour - 2:+d}")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_line_is_one_of_ours(name: str, at_night: None) -> None:
    find, count = COMMANDS[name]
    commands = list(find())
    assert len(commands) == count
    for program, *arguments in commands:
        assert program in {PROGRAM, "canvas-ingest"}
        group = cli.make_context("canvas-ingest", list(arguments))
        command_name, command, rest = cli.resolve_command(group, arguments)
        assert command is not None
        with command.make_context(command_name, rest, parent=group) as context:
            assert str(context.params["config"]) == "/etc/canvas-ingest/nightly.toml"


def test_every_example_is_tried() -> None:
    tried = {*COMMANDS, "canvas-ingest.timer"}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == tried


@needs_systemd
def test_the_units_hold_no_unknown_key(tmp_path: Path) -> None:
    for name in ("canvas-ingest.service", "canvas-ingest.timer"):
        (tmp_path / name).write_text(text_of(name).replace(PROGRAM, "/bin/true"))
    assert _verified(tmp_path) == (0, "")
    service = tmp_path / "canvas-ingest.service"
    service.write_text(service.read_text().replace("KillMode", "KilMode"))
    code, said = _verified(tmp_path)
    assert code != 0, "a fault is seen"
    assert "KilMode" in said


def _verified(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--recursive-errors=no",
            "--man=no",
            *sorted(folder.iterdir()),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@needs_systemd
def test_the_timer_has_a_calendar() -> None:
    when = _unit("canvas-ingest.timer")["OnCalendar"]
    subprocess.run(["systemd-analyze", "calendar", when], capture_output=True, check=True)


def test_the_manifests_are_valid() -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="make checks installs it")
    version = kubernetes.latest_version()
    manifests = _manifests()
    assert [each["kind"] for each in manifests] == ["PersistentVolumeClaim", "CronJob"]
    for manifest in manifests:
        kubernetes.validate(manifest, version, strict=True)
    manifests[1]["spec"]["concurencyPolicy"] = "Forbid"
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(manifests[1], version, strict=True)


def test_the_cronjob_says_what_becomes_of_each_exit_code() -> None:
    job = _manifests()[1]["spec"]["jobTemplate"]["spec"]
    stay = job["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"]
    assert set(_MEANING) - {0} - set(stay) == {1, 130}, "these are tried again"
    assert _pod()["restartPolicy"] == "Never", "a podFailurePolicy needs it"


def test_the_grace_is_long_enough_for_what_is_in_flight() -> None:
    """The default of canvas.timeout_s, a minute for a large report, and the notice's timeout."""
    enough_s = 30 + 60 + 10
    assert int(_unit("canvas-ingest.service")["TimeoutStopSec"]) >= enough_s
    assert _pod()["terminationGracePeriodSeconds"] >= enough_s
