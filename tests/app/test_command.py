"""The command line as a person meets it."""

import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parents[2]
HEAVY = {
    "polars",
    "pydantic",
    "aiohttp",
    "rich",
    "structlog",
    "jinja2",
    "orjson",
    "uvloop",
    "asyncio",
}


def canvas_ingest(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], capture_output=True, text=True, check=False
    )


def test_help_names_every_command() -> None:
    shown = canvas_ingest("-h").stdout
    for command in ("plan", "run", "report", "sandbox", "demo", "completion"):
        assert re.search(rf"^  {command} +[A-Z]", shown, re.MULTILINE)


def test_without_arguments_it_shows_the_first_steps() -> None:
    done = canvas_ingest()
    steps = [line.split()[1] for line in done.stdout.splitlines()[:5]]
    assert (done.returncode, steps) == (2, ["demo", "init", "check", "plan", "run"])


@pytest.mark.parametrize(
    "arguments", [(), ("--help",), ("--version",), ("run", "--help"), ("completion", "bash")]
)
def test_what_needs_no_library_imports_none(arguments: tuple[str, ...]) -> None:
    code = (
        "import sys, contextlib\nfrom pipeline.app.cli import main\n"
        f"sys.argv = ['canvas-ingest', *{arguments!r}]\nwith contextlib.suppress(SystemExit): main()\n"
        f"print(*{HEAVY!r} & sys.modules.keys(), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout
    assert ran.stderr.split() == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_command_collects_garbage_once_it_works(fails: bool) -> None:
    """It does not while it imports: that is a tenth of the start."""
    code = (
        "import gc\nfrom pipeline.app.execute import run_work\nfrom pipeline.errors import IngestError\n"
        "async def working(): print(gc.isenabled())\n"
        "def work(progress, stop):\n"
        f"    if {fails}: raise IngestError('no', 'none')\n"
        "    print(gc.isenabled())\n    return working()\n"
        "try: run_work(work, {'quiet': True})\n"
        "except SystemExit: print(gc.isenabled())"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.split() == (["True"] if fails else ["False", "True"])


def test_version() -> None:
    assert canvas_ingest("--version").stdout == f"canvas-ingest {pipeline.__version__}\n"


@pytest.mark.parametrize(
    ("shell", "holds"), [("bash", "complete"), ("zsh", "compdef"), ("fish", "complete")]
)
def test_completion_scripts(shell: str, holds: str) -> None:
    assert holds in canvas_ingest("completion", shell).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("run",),
        ("run", "a.toml", "--nope"),
        ("sandbox", "--faults", "nope"),
        ("sandbox", "--port", "99999"),
        ("sandbox", "--seed", __file__),
    ],
)
def test_usage_errors_exit_with_2(arguments: tuple[str, ...]) -> None:
    assert canvas_ingest(*arguments).returncode == 2


def test_a_port_that_is_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = canvas_ingest("sandbox", "--port", str(port))
    assert done.returncode == 2
    assert f"port {port} cannot be used: Address already in use" in done.stderr


def test_completion_shows_the_exports_alone() -> None:
    assert sorted(dir(pipeline)) == sorted(pipeline.__all__)
    for name in set(pipeline.__all__) - {"__version__"}:
        assert callable(getattr(pipeline, name))


def test_direct_dependencies_have_their_reason() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    names = tomllib.loads(project)["project"]["dependencies"]
    assert len(names) <= 15
    for name in names:
        assert re.search(rf'"{re.escape(name)}", +# \w+', project), name
