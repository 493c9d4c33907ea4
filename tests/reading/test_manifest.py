"""The manifest beside the input: the files must match it to the row and the cent, or nothing is written."""

from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.app.config.arguments import expectations_of
from pipeline.commands import run as engine
from pipeline.errors import ConfigError, InputError, LimitError
from pipeline.reading.manifest import Expected, manifest_of
from tests.support.world import CREDENTIALS, FEEDS, LEDGER_ONLY, MakeWorld, World, patient_key

WITH_MANIFEST = LEDGER_ONLY.replace(
    'path = "ledger.csv"', 'path = "ledger.csv"\nmanifest = "ledger.manifest"'
)


async def told(make_world: MakeWorld, manifest: str | None, **options: Any) -> World:
    """Three payments of 15.10 USD in all, and a manifest."""
    world = await make_world()
    world.write_config(**{"feeds": WITH_MANIFEST, **options})
    world.write_ledger([(f"T{n}", patient_key(n), amount, "") for n, amount in enumerate(AMOUNTS)])
    if manifest is not None:
        (world.folder / "ledger.manifest").write_text(manifest)
    return world


AMOUNTS = ["5.00", "0.10", "10"]


@pytest.mark.parametrize(
    "manifest",
    [
        "rows=3\ntotal_usd=15.10\n",
        "\ufeff# of the 21st\n\n rows = 3   # all of them\r\ntotal_usd=15.1",
        "total_usd=15.10",
        '{"rows": 3, "total_usd": 15.10}',
        '\n{"rows": "3", "total_usd": "15.1"}\n',
        '{"rows": 3}',
    ],
)
async def test_files_that_match_are_loaded(make_world: MakeWorld, manifest: str) -> None:
    world = await told(make_world, manifest)
    assert (await world.run()).exit_code == 0
    assert len(world.effects) == 3


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("rows=4\ntotal_usd=15.10", "rows=4, the files hold 3"),
        ("rows=2", "rows=2, the files hold 3"),
        ("rows=3\ntotal_usd=15.11", "total_usd=15.11, the files hold 15.10"),
        ('{"total_usd": 15.09}', "total_usd=15.09, the files hold 15.10"),
        ("total_usd=-15.10", "total_usd=-15.10, the files hold 15.10"),
    ],
)
async def test_a_row_or_a_cent_too_many_writes_nothing(
    make_world: MakeWorld, manifest: str, said: str
) -> None:
    world = await told(make_world, manifest)
    for command in (engine.plan, engine.run):
        result = await command(world.job())
        assert (result.exit_code, world.effects) == (1, [])
        assert isinstance(result.failure, LimitError)
        assert said in result.summary["failure"]


async def test_the_manifests_of_a_glob_are_added_up(make_world: MakeWorld) -> None:
    feeds = WITH_MANIFEST.replace("ledger.csv", "ledger_*.csv").replace(
        "ledger.manifest", "ledger_*.manifest"
    )
    world = await told(make_world, None, feeds=feeds)
    for number in range(3):
        row = (f"T{number}", patient_key(number), "0.10", "")
        world.write_ledger([row], name=f"ledger_{number}.csv")
    for number in range(2):
        (world.folder / f"ledger_{number}.manifest").write_text("rows=1\ntotal_usd=0.10")
    result = await world.run()
    assert (result.exit_code, world.effects) == (1, [])
    assert "rows=2, the files hold 3" in result.summary["failure"]
    last = world.folder / "ledger_2.manifest"
    last.write_text('{"rows": 1}')
    result = await world.run()
    assert (result.exit_code, world.effects) == (1, [])
    assert "ledger_2.manifest: total_usd is not in it" in result.summary["failure"]
    last.write_text('{"rows": 1, "total_usd": 0.10}')
    assert (await world.run()).exit_code == 0
    assert len(world.effects) == 3


async def test_a_manifest_and_expect_must_both_match(make_world: MakeWorld) -> None:
    world = await told(make_world, "rows=3")
    for manifest, expect in (("rows=3", "ledger:rows=4"), ("rows=4", "ledger:rows=3")):
        (world.folder / "ledger.manifest").write_text(manifest)
        result = await world.run(expected=expectations_of([expect]))
        assert (result.exit_code, world.effects) == (1, [])
        assert "rows=4, the files hold 3" in result.summary["failure"]


@pytest.mark.parametrize("manifest", ["missing", "folder", "closed", "huge", "binary"])
async def test_a_manifest_that_cannot_be_read_is_told_before_the_files_are(
    make_world: MakeWorld, manifest: str
) -> None:
    world = await told(make_world, None)
    path = world.folder / "ledger.manifest"
    if manifest == "folder":
        path.mkdir()
    elif manifest == "closed":
        path.write_text("rows=3")
        path.chmod(0)
        if _may_read(path):
            pytest.skip("this user may read everything")
    elif manifest == "huge":
        path.write_text("#" * 70_000)
    elif manifest == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    (world.folder / "ledger.csv").unlink()
    result = await world.run()
    assert (result.exit_code, world.effects) == (1, [])
    assert isinstance(result.failure, InputError)
    assert "ledger.manifest: " in result.failure.message
    assert "manifest" in result.failure.message.partition(": ")[2]
    assert result.failure.fix


def _may_read(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return False
    return True


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("", "ledger.manifest: it names neither rows nor total_usd"),
        ("# nothing\n\n", "neither rows nor total_usd"),
        ("{}", "neither rows nor total_usd"),
        ("rows=3\nZq7=1", "ledger.manifest:2: only rows and total_usd are known"),
        (
            "\n\nrow=3",
            'ledger.manifest:3: only rows and total_usd are known. Did you mean "rows"?',
        ),
        ('{"rows": 3, "Zq7": 1}', "key number 2: only rows and total_usd are known"),
        ('{"total": 3}', 'Did you mean "total_usd"?'),
        ("Rows=3", "Did you mean"),
        ("rows 3 Zq7", "ledger.manifest:1: this is no name=number"),
        ("TXN,MRN,Zq7\n", "ledger.manifest:1: this is no name=number"),
        ("[3]", "ledger.manifest:1: this is no name=number"),
        ("rows=3\nrows=3", "ledger.manifest:2: rows is named twice"),
        ('{"rows": 3, "rows": 3}', "rows is named twice"),
        ('{"rows": 3,\n Zq7}', "ledger.manifest:2: no valid JSON"),
        ('{"rows": 3} Zq7', "ledger.manifest:1: no valid JSON"),
        ('{"a":' * 12_000, "no valid JSON"),
        ("rows=", "rows must be a whole number"),
        ("rows=3.0", "rows must be a whole number"),
        ("rows=-3", "rows must be a whole number"),
        ("rows=5,000", "rows must be a whole number"),
        ("rows=\uff13", "rows must be a whole number"),
        ('{"rows": 3.0}', "rows must be a whole number"),
        ('{"rows": true}', "rows must be a whole number"),
        ('{"rows": null}', "rows must be a whole number"),
        ('{"rows": {"rows": 3}}', "rows must be a whole number"),
        ('{"rows": ["3"]}', "rows must be a whole number"),
        ('{"rows": ' + "9" * 5_000 + "}", "rows must be a whole number"),
        ("total_usd=15.100", "at most two decimals"),
        ("total_usd=$15.10", "at most two decimals"),
        ("total_usd=1,005.10", "at most two decimals"),
        ('{"total_usd": 1.51e1}', "at most two decimals"),
        ('{"total_usd": 15.1000000000000000001}', "at most two decimals"),
        ('{"total_usd": NaN}', "at most two decimals"),
    ],
)
async def test_a_manifest_of_another_form_writes_nothing(
    make_world: MakeWorld, manifest: str, said: str
) -> None:
    world = await told(make_world, manifest)
    result = await world.run()
    assert (result.exit_code, world.effects) == (1, [])
    assert isinstance(result.failure, InputError)
    assert said in str(result.failure)
    assert "total_usd=12345.67" in result.failure.fix
    assert "Zq7" not in str(result.failure), "it may be the wrong file, and hold rows"


def test_a_total_is_read_to_the_cent_however_large() -> None:
    content = b'{"total_usd": 900719925474.01}'
    assert manifest_of(content, "m", has_money=True) == Expected(None, 90_071_992_547_401)


async def test_an_eligibility_feed_has_rows_and_no_dollars(make_world: MakeWorld) -> None:
    world = await make_world()
    only = FEEDS[: FEEDS.rindex("[[feeds]]")]
    world.write_config(feeds=only.replace("path =", 'manifest = "e.manifest"\npath ='))
    world.write_eligibility([(patient_key(0), "M0", "self", "60054", "1", "2026-01-01", "")])
    (world.folder / "e.manifest").write_text("rows=1\ntotal_usd=0.00")
    result = await world.run()
    assert (result.exit_code, world.effects) == (1, [])
    assert "e.manifest:2: total_usd is named" in result.summary["failure"]
    (world.folder / "e.manifest").write_text("rows=1")
    assert (await world.run()).exit_code == 0
    with pytest.raises(ConfigError, match="an eligibility feed has no amounts"):
        world.job(expected=expectations_of(["eligibility:total_usd=0.00"]))


async def test_it_says_nothing_of_another_input(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await told(make_world, "rows=3\ntotal_usd=15.10")
    other = world.write_ledger([("T9", patient_key(9), "1.00", "")], name="other.csv")
    assert (await world.run(inputs={"ledger": other})).exit_code == 0
    (world.folder / "ledger.manifest").unlink()
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    again = await pipeline.run(world.config, inputs={"ledger": other})
    assert again.frame["disposition"].to_list() == ["unchanged"]
    assert (await world.run()).exit_code == 1
    assert len(world.effects) == 1
