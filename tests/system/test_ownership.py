"""Files and folders that other users could change are not used: each case is refused before anything is sent."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.app.config.load import load
from pipeline.errors import ConfigError, IngestError, JournalError, JournalLost
from tests.support.runs import counts
from tests.support.world import LEDGER_ONLY, MakeWorld, World, patient_key

STATE_FILES = ("journal.sqlite", "journal.sqlite-wal", "journal.anchor")


async def paid(make_world: MakeWorld, **settings: str) -> World:
    world = await make_world(patients=2)
    world.write_config(feeds=LEDGER_ONLY, **settings)
    world.write_ledger([("T0", patient_key(0), "20.00", "")])
    assert counts(await world.run()) == {"created": 1}
    world.write_ledger([(f"T{n}", patient_key(n), "20.00", "") for n in range(2)])
    return world


async def refused(world: World) -> IngestError:
    """The error of a run that sends nothing."""
    before = len(world.effects)
    try:
        error = (await world.run()).failure
    except IngestError as raised:
        error = raised
    assert error is not None
    assert len(world.effects) == before
    return error


def state_file(world: World, name: str) -> Path:
    """One of the journal's files. SQLite removes the write-ahead log when it closes: it is made here."""
    path = world.folder / "state" / name
    path.touch(mode=0o600)
    return path


@pytest.mark.parametrize("name", STATE_FILES)
async def test_a_file_of_the_journal_with_a_second_name_is_refused(
    make_world: MakeWorld, name: str
) -> None:
    world = await paid(make_world)
    os.link(state_file(world, name), world.folder / "elsewhere")
    error = await refused(world)
    assert isinstance(error, JournalError)
    assert f"{name} is known by another name, too" in error.message


@pytest.mark.parametrize("name", STATE_FILES)
async def test_a_link_in_the_place_of_a_file_of_the_journal_is_refused(
    make_world: MakeWorld, name: str
) -> None:
    world = await paid(make_world)
    path = state_file(world, name)
    path.rename(world.folder / "elsewhere")
    path.symlink_to(world.folder / "elsewhere")
    error = await refused(world)
    assert isinstance(error, JournalError)
    assert f"{name} is not a file" in error.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("name", STATE_FILES)
async def test_a_file_of_the_journal_that_another_user_owns_is_refused(
    make_world: MakeWorld, name: str
) -> None:
    world = await paid(make_world)
    os.chown(state_file(world, name), 4711, 4711)
    error = await refused(world)
    assert isinstance(error, JournalError)
    assert f"{name} belongs to another user" in error.message


@pytest.mark.parametrize("where", ["state", "report"])
async def test_a_folder_below_one_that_all_users_can_write_to_is_refused(
    make_world: MakeWorld, where: str
) -> None:
    """Whoever can write to the folder above can put another one in its place."""
    world = await make_world(patients=2)
    world.write_config(feeds=f'[{where}]\ndir = "shared/{where}"\n{LEDGER_ONLY}')
    world.write_ledger([("T0", patient_key(0), "20.00", "")])
    shared = world.folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    error = await refused(world)
    assert isinstance(error, ConfigError)
    assert f"{shared}, a folder above {where}, can be written to by all users" in error.message
    shared.chmod(0o1777)
    assert (await world.run()).exit_code == 0


@pytest.mark.parametrize("mode", [0o666, 0o602])
def test_a_configuration_that_all_users_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """`[notify] command` is executed: it is not, not even to tell of this failure."""
    path, proof = tmp_path / "nightly.toml", tmp_path / "executed"
    path.write_text(f'[notify]\non = [2]\ncommand = ["touch", "{proof}"]\n')
    path.chmod(mode)
    ended = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", str(path)], capture_output=True, check=False
    )
    assert ended.returncode == 2
    assert b"can be written to by all users" in ended.stderr
    assert not proof.exists()


def test_a_configuration_in_a_folder_that_all_users_can_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "nightly.toml").write_text("")
    folder.chmod(0o777)
    with pytest.raises(
        ConfigError, match=r"a folder above nightly\.toml, can be written to by all"
    ):
        load(folder / "nightly.toml", environment={})


@pytest.mark.parametrize("is_moved", [False, True])
async def test_a_state_folder_that_vanished_is_a_lost_journal(
    make_world: MakeWorld, *, is_moved: bool
) -> None:
    """Reports of earlier runs show it, though all was moved, or is mounted at another place by now."""
    world = await paid(make_world)
    shutil.rmtree(world.folder / "state")
    if is_moved:
        world.folder = world.folder.rename(world.folder.with_name("moved"))
    error = await refused(world)
    assert isinstance(error, JournalLost)
    assert error.loss == "missing"


async def test_reports_of_another_journal_that_is_there_are_no_loss(make_world: MakeWorld) -> None:
    """Two configurations for one Canvas may share a folder of reports."""
    world = await paid(make_world)
    world.write_config(feeds=f'[state]\ndir = "state_2"\n{LEDGER_ONLY}')
    assert (await world.run()).exit_code == 0
