"""The child that decodes Parquet: what it could do if a file took it over."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pipeline.system import confinement
from tests.support import without_calls
from tests.support.world import CREDENTIALS, LEDGER_ONLY, MakeWorld, World

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="Landlock and seccomp are Linux' own"
)

# In place of the module that decodes: what a file can do that runs code of its own in it, in any thread.
TAKEN_OVER = """
import ctypes, os, socket, subprocess, sys, threading, types
from pathlib import Path

secret, port = sys.argv[1:]


def tried(attempt):
    try:
        return str(attempt() or "done")
    except OSError as error:
        return type(error).__name__


def connected(kind, family=socket.AF_INET, address=None):
    with socket.socket(family, kind) as link:
        link.connect(address or ("127.0.0.1", int(port)))


def answer(path, copy, options):
    beside = Path(copy).with_name("beside")
    attempts = {
        "own file": lambda: Path(path).read_bytes()[:4],
        "own copy": lambda: Path(copy).write_bytes(b"copy"),
        "another file": lambda: Path(secret).read_text(),
        "its folder": lambda: os.listdir(Path(secret).parent),
        "passwords": lambda: Path("/etc/passwd").read_text(),
        "environment of the command": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        "a new file": lambda: beside.write_text("x"),
        "a changed source": lambda: Path(path).open("r+b").close(),
        "a removed source": lambda: os.unlink(path),
        "a link": lambda: os.symlink(secret, beside),
        "TCP": lambda: connected(socket.SOCK_STREAM),
        "UDP": lambda: connected(socket.SOCK_DGRAM),
        "IPv6": lambda: connected(socket.SOCK_STREAM, socket.AF_INET6, ("::1", int(port))),
        "a Unix socket": lambda: connected(socket.SOCK_STREAM, socket.AF_UNIX, "\\0none"),
        "another program": lambda: subprocess.run(["/bin/true"]),
        "a signal to the command": lambda: os.kill(os.getppid(), 0),
    }
    found = {}
    thread = threading.Thread(
        target=lambda: found.update({name: tried(each) for name, each in attempts.items()})
    )
    thread.start()
    thread.join()
    return found


module = types.ModuleType("pipeline.reading.parquet")
module.answer = answer
sys.modules["pipeline.reading.parquet"] = module
from pipeline.reading.decoder import main

main()
"""
OWN = {"own file": "b'PAR1'", "own copy": "4"}


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def tried(folder: Path, port: int, *before: str) -> dict[str, str]:
    """What a child that was taken over got, by what it tried."""
    path = folder / "a.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(path)
    secret = folder / "secret"
    secret.write_text("a secret")
    done = subprocess.run(
        [*before, sys.executable, "-P", "-c", TAKEN_OVER, secret, str(port)],
        input=json.dumps(["Parquet file", str(path), str(folder / "copy.parquet"), {}]),
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(confinement.lacking() != [], reason="this kernel lacks Landlock or seccomp")
def test_a_child_that_a_file_took_over_opens_its_own_files_and_nothing_else(
    tmp_path: Path, port: int
) -> None:
    found = tried(tmp_path, port)
    allowed = {name: answer for name, answer in found.items() if answer != "PermissionError"}
    assert allowed == OWN
    assert len(found) == 16
    assert (tmp_path / "a.parquet").exists()
    assert not (tmp_path / "beside").exists()


@pytest.mark.skipif(not without_calls.is_possible(), reason="calls are taken away on x86-64 only")
def test_where_the_kernel_has_no_landlock_the_network_is_shut_all_the_same(
    tmp_path: Path, port: int
) -> None:
    lacks = [sys.executable, "-P", "-m", "tests.support.without_calls", without_calls.LANDLOCK]
    found = tried(tmp_path, port, *lacks)
    assert (found["TCP"], found["UDP"]) == ("PermissionError", "PermissionError")
    assert found["another file"] == "a secret"


@pytest.mark.skipif(not without_calls.is_possible(), reason="calls are taken away on x86-64 only")
@pytest.mark.parametrize("is_lacking", [True, False])
async def test_check_says_what_the_kernel_cannot_shut(
    make_world: MakeWorld, is_lacking: bool
) -> None:
    world = await make_world()
    pl.DataFrame(
        {"TXN": ["T1"], "MRN": [f"{1:032x}"], "Amount": ["1.00"], "Claim": [""]}
    ).write_parquet(world.folder / "ledger.parquet")
    world.write_config(feeds=LEDGER_ONLY.replace("ledger.csv", "ledger.parquet"))
    lacks = ["-m", "tests.support.without_calls", without_calls.LANDLOCK, sys.executable, "-P"]
    done = await ran(
        world, *(lacks if is_lacking else ()), "-m", "pipeline", "check", "config.toml", "--json"
    )
    answer = json.loads(done)
    found = [each for each in answer["checks"] if each["what"] == "Parquet, .xlsx"]
    assert answer["exit_code"] == 0
    if is_lacking:
        (only,) = found
        assert (only["group"], only["state"]) == ("Files", "warning")
        assert "Landlock" in only["message"]
    else:
        assert found == []


async def ran(world: World, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", *arguments, cwd=world.folder, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **CREDENTIALS, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    out, _ = await process.communicate()
    return out.decode()
