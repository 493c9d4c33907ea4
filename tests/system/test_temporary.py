"""Folders for temporary files: a run needs none, and what `init` and `check` copy to one does not stay there."""

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import read_only
from tests.support.runs import coverages, payments
from tests.support.world import CREDENTIALS, MakeWorld, World

pytestmark = pytest.mark.slow  # commands that are killed

ROOT = Path(__file__).parents[2]
NOTICE = '[notify]\non = [0, 1, 2, 3, 4]\ncommand = ["/bin/sh", "-c", "cat > {told}"]\n'
without_temporary = pytest.mark.skipif(
    not read_only.is_possible(), reason="this kernel has no Landlock"
)


def environment(**variables: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in {"TMPDIR", "TEMP", "TMP"}
    }
    return {**kept, **CREDENTIALS, "PYTHONPATH": str(ROOT), **variables}


async def ran(
    world: World, *arguments: str, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """The command on a machine on which it can write to the world's folder only, started in /."""
    program = [sys.executable, "-P", "-m", "pipeline", *arguments]
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-P", "-m", "tests.support.read_only", str(world.folder), *program],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=environment(**variables),
    )


async def filled(make_world: MakeWorld) -> World:
    world = await make_world()
    world.write_eligibility(coverages(3))
    world.write_ledger(payments(5, patients=3))
    world.write_config()
    return world


# No folder for temporary files ----------------------------------------------------------------------


@without_temporary
@pytest.mark.parametrize("variables", [{}, {"TMPDIR": "/proc/1/no-such-folder"}])
async def test_a_run_ends_the_same_without_a_folder_for_temporary_files(
    make_world: MakeWorld, variables: Mapping[str, str]
) -> None:
    world = await filled(make_world)
    told = world.folder / "told"
    world.config.write_text(NOTICE.format(told=told) + world.config.read_text())
    done = await ran(world, "run", str(world.config), "-q", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(told.read_text())["exit_code"] == 0
    assert len(world.effects) == 11


@without_temporary
async def test_a_local_cluster_plans_without_a_folder_for_temporary_files(
    make_world: MakeWorld,
) -> None:
    pytest.importorskip("distributed")
    world = await filled(make_world)
    done = await ran(world, "plan", str(world.config), "-q", "--engine", "dask", "--workers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in (world.folder / "state").glob(".*")) == []


@without_temporary
async def test_check_says_that_there_is_no_folder_for_temporary_files(
    make_world: MakeWorld,
) -> None:
    world = await filled(make_world)
    done = await ran(world, "check", str(world.config), "--json")
    assert done.stderr == ""
    told = json.loads(done.stdout)
    (found,) = [each for each in told["checks"] if each["what"] == "temporary files"]
    assert (found["group"], found["state"]) == ("Folders", "wrong")
    assert "set TMPDIR" in found["todo"]
    assert told["exit_code"] == 1
    assert {"Secrets", "Canvas"} <= {each["group"] for each in told["checks"]}


@without_temporary
async def test_init_says_that_there_is_no_folder_for_temporary_files(
    make_world: MakeWorld,
) -> None:
    world = await filled(make_world)
    output = world.folder / "draft.toml"
    done = await ran(world, "init", str(world.folder / "ledger.csv"), "--output", str(output))
    assert done.returncode == 2
    assert "set TMPDIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()


# Copies ---------------------------------------------------------------------------------------------


def packed(folder: Path) -> Path:
    """A file that takes seconds to copy, so that a command is met while it does: 8 members of one packed text."""
    path = folder / "ledger.csv.gz"
    lines = b"".join(b"T%08d,P%04d,1.00,\n" % (n, n % 1000) for n in range(1_000_000))
    path.write_bytes(gzip.compress(b"TXN,MRN,Amount,Claim\n", 1) + gzip.compress(lines, 1) * 8)
    return path


# Under nohup a process ignores SIGHUP, and so do those that it starts: the tests may run so.
HEARS_HANGUPS = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-P", "-m", "pipeline", *sys.argv[1:]])
"""


def command(folder: Path, temporary: Path, name: str) -> "subprocess.Popen[bytes]":
    arguments = {
        "init": ["init", "ledger.csv.gz", "--kind", "ledger", "--output", "-"],
        "check": ["check", "config.toml", "--no-progress"],
        "report": ["report", "config.toml"],
    }[name]
    return subprocess.Popen(
        [sys.executable, "-P", "-c", HEARS_HANGUPS, *arguments],
        cwd=folder,
        env=environment(TMPDIR=str(temporary)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def copying(process: "subprocess.Popen[bytes]", temporary: Path, other: Path | None = None) -> Path:
    """The folder of a command's copies, once there is one."""
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        for private in temporary.iterdir():
            found = [name for _, _, names in os.walk(private) for name in names]
            if private != other and any(name.endswith(".csv") for name in found):
                return private
        time.sleep(0.005)
    raise AssertionError(process.communicate())


@pytest.fixture
def setting(tmp_path: Path) -> tuple[Path, Path]:
    """A folder with a configuration and a packed file, and a folder for temporary files."""
    folder, temporary = tmp_path / "here", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir(mode=0o777)
    packed(folder)
    (folder / "config.toml").write_text(
        '[canvas]\nbase_url = "http://127.0.0.1:9"\ntoken_url = "http://127.0.0.1:9/auth/token/"\n'
        '[[feeds]]\nname = "ledger"\nkind = "ledger"\npath = "ledger.csv.gz"\n'
        '[feeds.columns]\ntransaction_id = "TXN"\npatient = "MRN"\namount = "Amount"\n'
    )
    return folder, temporary


@pytest.mark.parametrize("name", ["init", "check"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_copies_are_private_and_go_when_the_command_is_ended(
    setting: tuple[Path, Path], name: str, number: signal.Signals
) -> None:
    folder, temporary = setting
    with command(folder, temporary, name) as process:
        private = copying(process, temporary)
        assert private.stat().st_mode & 0o777 == 0o700
        process.send_signal(number)
        process.communicate(timeout=120)
    assert list(temporary.iterdir()) == []
    assert process.returncode != 0


@pytest.mark.parametrize("name", ["init", "check"])
def test_copies_of_a_command_that_was_killed_go_with_the_next_one_and_those_of_a_running_one_stay(
    setting: tuple[Path, Path], name: str
) -> None:
    folder, temporary = setting
    with command(folder, temporary, name) as process:
        left = copying(process, temporary)
        process.kill()
    assert left.is_dir()
    foreign = temporary / f"{left.name[:-4]}link"
    foreign.symlink_to(folder)
    with command(folder, temporary, name) as running:
        own = copying(running, temporary, left)
        running.send_signal(signal.SIGSTOP)  # so that it does not end meanwhile
        assert not left.exists()
        with command(folder, temporary, "report") as other:
            other.communicate(timeout=60)
        assert own.is_dir()
        running.send_signal(signal.SIGCONT)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=120)
    assert list(temporary.iterdir()) == [foreign]
    assert (folder / "ledger.csv.gz").exists()


def test_a_purge_names_the_copies_that_it_removes(setting: tuple[Path, Path]) -> None:
    folder, temporary = setting
    with command(folder, temporary, "init") as process:
        left = copying(process, temporary)
        process.kill()

    def purged(*more: str) -> str:
        return subprocess.run(
            [sys.executable, "-P", "-m", "pipeline", "journal", "purge", "config.toml",
             "--older-than", "30", *more],
            cwd=folder, env=environment(TMPDIR=str(temporary)),
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    assert f"Would remove copies that a killed command left: {left}" in purged("--dry-run")
    assert left.is_dir()
    assert json.loads(purged("--yes", "--json"))["copies"] == [str(left)]
    assert list(temporary.iterdir()) == []


# What polars writes when memory is short ------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--engine", "dask", "--workers", "1"]])
def test_rows_that_do_not_fit_into_memory_are_kept_from_the_common_folder(
    setting: tuple[Path, Path], arguments: list[str]
) -> None:
    """Polars would spill to a folder whose name everybody knows beforehand."""
    if arguments:
        pytest.importorskip("distributed")
    folder, temporary = setting
    lines = b"".join(b"T%08d,%032x,1.00\n" % (n, n % 1000) for n in range(300_000))
    (folder / "ledger.csv.gz").write_bytes(gzip.compress(b"TXN,MRN,Amount\n" + lines, 1))
    variables = {"TMPDIR": str(temporary), "POLARS_OOC_MEMORY_BUDGET_MB": "1"}
    variables["USER"] = f"doors-{os.getpid()}"  # polars takes /var/tmp/polars-USER
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pipeline", "plan", "config.toml", "-q", *arguments],
        cwd=folder, env=environment(**variables), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("Plan: 300,000 to create")
    common = [place / f"polars-{variables['USER']}" for place in (Path("/tmp"), Path("/var/tmp"))]  # noqa: S108 - that is the fault
    assert [folder for folder in [*common, *temporary.iterdir()] if folder.exists()] == []
    assert list((folder / "state").rglob("*.ipc")) == []
