"""Files in an object store: the very bytes, by one way through the program, and errors that say what to do."""

import asyncio
import gzip
import hashlib
import io
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.commands import run as engine
from pipeline.errors import ConfigError, InputError, Stopped
from pipeline.reading import fetch as fetching
from pipeline.reading.address import address_of
from pipeline.reading.fetch import fetch
from tests.support.object_store import VARIABLES, Store, served
from tests.support.runs import check_accounts, counts, coverages, payments
from tests.support.world import CREDENTIALS, FEEDS, LEDGER_ONLY, MakeWorld, World

HERE = fetching.Options(allow_http=True)
IN_RANGES = replace(HERE, range_bytes=100)


@pytest.fixture
async def store(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Store]:
    store = Store(drop={}, empty={})
    async with served(store) as endpoint:
        for name, value in {**VARIABLES, "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        yield store


async def fetched(
    folder: Path,
    pattern: str,
    options: fetching.Options = HERE,
    check: Callable[[], None] = lambda: None,
) -> list[tuple[Path, str]]:
    return await asyncio.to_thread(fetch, pattern, "feed ledger", folder, options, check)


def csv_of(world: World, name: str, rows: Any) -> bytes:
    path = getattr(world, f"write_{name}")(rows)
    content: bytes = path.read_bytes()
    path.unlink()
    return content


def frame_of(content: bytes) -> pl.DataFrame:
    return pl.read_csv(content, infer_schema=False)


def feeds(ledger: str, eligibility: str = "", beside: str = "") -> str:
    text = LEDGER_ONLY if not eligibility else FEEDS.replace("eligibility.csv", eligibility)
    return text.replace('path = "ledger.csv"', f'path = "{ledger}"\n{beside}')


def environment() -> dict[str, str]:
    import os  # noqa: PLC0415

    return {**os.environ, **CREDENTIALS}


async def run(world: World, **options: Any) -> engine.Result:
    from pipeline.app.config.load import load  # noqa: PLC0415

    return await engine.run(load(world.config, environment=environment(), **options))


# Whole runs ---------------------------------------------------------------------------------------


async def test_text_and_parquet_are_loaded_as_local_files_are(
    make_world: MakeWorld, store: Store
) -> None:
    world = await make_world()
    rows = payments(30)
    parts = [gzip.compress(csv_of(world, "ledger", part)) for part in (rows[:10], rows[10:])]
    table = io.BytesIO()
    frame_of(csv_of(world, "eligibility", coverages())).write_parquet(table)
    store.buckets["drop"] = {
        "in/2026/ledger_1.csv.gz": parts[0],
        "in/2026/ledger_2.csv.gz": parts[1],
        "in/2026/notes.txt": b"no ledger",
        "in/elig.parquet": table.getvalue(),
    }
    world.write_config(
        feeds=feeds("s3://drop/in/2026/ledger_*.csv.gz", "s3://drop/in/elig.parquet")
    )
    result = await run(world)
    assert result.exit_code == 0
    check_accounts(world, result)
    assert counts(result) == {"created": 30}
    files = result.summary["feeds"][1]["files"]
    assert [(file["path"], file["rows"]) for file in files] == [
        ("s3://drop/in/2026/ledger_1.csv.gz", 10),
        ("s3://drop/in/2026/ledger_2.csv.gz", 20),
    ]
    assert [file["sha256"] for file in files] == [
        hashlib.sha256(part).hexdigest() for part in parts
    ]
    assert set(result.frame["file"]) == {"elig.parquet", "ledger_1.csv.gz", "ledger_2.csv.gz"}
    assert not list((world.folder / "state").rglob("*.gz"))
    again = await run(world)
    assert counts(again) == {"unchanged": 30}


@pytest.mark.parametrize(
    ("log", "kind"),
    [("_delta_log/0.json", "Delta Lake"), ("metadata/v1.metadata.json", "Iceberg")],
)
async def test_parts_of_a_table_are_refused(
    store: Store, tmp_path: Path, log: str, kind: str
) -> None:
    store.buckets["drop"] = {f"t/{log}": b"{}", "t/day=1/a.parquet": b"PAR1", "u/a.parquet": b""}
    with pytest.raises(InputError, match=f"belongs to a table of {kind}"):
        await fetched(tmp_path, "s3://drop/t/*/*.parquet")
    assert len(await fetched(tmp_path, "s3://drop/u/a.parquet")) == 1


async def test_a_workbook_is_loaded_as_a_local_one_is(make_world: MakeWorld, store: Store) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="make checks")
    world = await make_world()
    book = openpyxl.Workbook()
    for row in (["TXN", "MRN", "Amount", "Claim"], ["T1", f"{1:032x}", 5, None]):
        book.active.append(row)
    book.save(world.folder / "a.xlsx")
    store.buckets["drop"] = {"in/a.xlsx": (world.folder / "a.xlsx").read_bytes()}
    world.write_config(feeds=LEDGER_ONLY.replace("ledger.csv", "s3://drop/in/*.xlsx"))
    assert counts(await run(world)) == {"created": 1}


async def test_input_manifest_and_crosswalk_may_be_objects(
    make_world: MakeWorld, store: Store
) -> None:
    world = await make_world()
    rows = payments(3)
    crosswalk = "mrn,key\n" + "".join(f"M{n},{row[1]}\n" for n, row in enumerate(rows))
    mine = [(row[0], f"M{n}", *row[2:]) for n, row in enumerate(rows)]
    store.buckets["drop"] = {
        "other.csv": csv_of(world, "ledger", mine),
        "in/ledger.csv": csv_of(world, "ledger", mine[:2]),
        "in/ledger.manifest": b"rows=2\n",
        "patients.csv": crosswalk.encode(),
    }
    world.write_config(
        feeds=feeds("s3://drop/in/ledger.csv", beside='manifest = "s3://drop/in/*.manifest"')
        + '[references.patient]\nhow = "file"\npath = "s3://drop/patients.csv"\nfrom = "mrn"\nto = "key"\n'
    )
    assert counts(await run(world)) == {"created": 2}
    result = await run(world, inputs={"ledger": "s3://drop/other.csv"})
    assert counts(result) == {"created": 1, "unchanged": 2}
    assert result.summary["feeds"][0]["files"][0]["path"] == "s3://drop/other.csv"
    store.buckets["drop"]["in/ledger.manifest"] = b"rows=3\n"
    failed = await run(world)
    assert "rows=3, the files hold 2" in failed.summary["failure"]


async def test_files_of_one_name_in_several_folders_stay_apart(
    make_world: MakeWorld, store: Store
) -> None:
    world = await make_world()
    rows = payments(4)
    store.buckets["drop"] = {
        f"{office}/ledger.csv": csv_of(world, "ledger", part).decode().encode("utf-16")
        for office, part in (("north", rows[:2]), ("south", rows[2:]))
    }
    world.write_config(feeds=feeds("s3://drop/*/ledger.csv", beside='encoding = "utf-16"'))
    result = await run(world)
    assert counts(result) == {"created": 4}
    assert sorted(result.frame["source_id"]) == [row[0] for row in rows]


async def test_what_is_wrong_with_an_object_ends_the_run_with_a_report(
    make_world: MakeWorld, store: Store
) -> None:
    world = await make_world()
    store.buckets["drop"]["in/ledger.csv.gz"] = gzip.compress(b"TXN,MRN,Amount,Claim\n" * 999)[:40]
    world.write_config(feeds=feeds("s3://drop/in/ledger.csv.gz"))
    result = await run(world)
    assert result.exit_code == 1
    assert "ledger.csv.gz: the compressed file is damaged" in result.summary["failure"]
    assert not list((world.folder / "state").rglob("*.gz"))
    assert world.effects == []


# Finding ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        ("s3://drop/in/a_1.csv", ["in/a_1.csv"]),
        ("s3://drop/in/a_*.csv", ["in/a_1.csv", "in/a_2.csv", "in/a_3.csv", "in/a_4.csv"]),
        ("s3://drop/in/a_[12].csv", ["in/a_1.csv", "in/a_2.csv"]),
        ("s3://drop/*/b.csv", ["in/b.csv", "out/b.csv"]),
        ("s3://drop/o?t/*.csv", ["out/b.csv"]),
        ("s3://drop/in/*", [f"in/{name}.csv" for name in ("a_1", "a_2", "a_3", "a_4", "b")]),
        ("s3://drop/*.csv", ["c d.csv"]),
        ("s3://drop/c d.csv", ["c d.csv"]),
    ],
)
async def test_wildcards_mean_what_they_mean_in_paths(
    store: Store, tmp_path: Path, pattern: str, keys: list[str]
) -> None:
    names = [f"in/{name}" for name in ("a_4.csv", "a_1.csv", "a_3.csv", "a_2.csv", ".a_5.csv")]
    store.buckets["drop"] = {
        name: name.encode()
        for name in (*names, "in/b.csv", "in/deep/a_9.csv", "out/b.csv", "c d.csv")
    }
    found = await fetched(tmp_path, pattern)
    assert [address for _, address in found] == [f"s3://drop/{key}" for key in keys]
    assert [path.read_bytes().decode() for path, _ in found] == keys
    assert all(
        path.name == key.rpartition("/")[2] for (path, _), key in zip(found, keys, strict=True)
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://drop/a.csv", "http:// is not read"),
        ("file:///etc/passwd", "file:// is not read"),
        ("s3://drop", "must be s3://bucket/key"),
        ("s3:///a.csv", "must be s3://bucket/key"),
        ("s3://drop/in//a.csv", "must be s3://bucket/key"),
        ("gs://drop/../a.csv", "must be gs://bucket/key"),
        ("s3://id:secret@drop/a.csv", "must be s3://bucket/key"),
    ],
)
def test_addresses_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        address_of(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "variables", "named"),
    [
        (
            "gs://drop/a.csv",
            {"GOOGLE_SERVICE_ACCOUNT": "no-such-file.json"},
            "GOOGLE_SERVICE_ACCOUNT",
        ),
        ("az://drop/a.csv", {}, "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
async def test_each_store_has_variables_of_its_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    variables: dict[str, str],
    named: str,
) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as caught:
        await fetched(tmp_path, address)
    assert caught.value.message == f"{address}: no credentials for the store"
    assert named in caught.value.fix
    assert "AWS" not in caught.value.fix


async def test_an_input_that_is_no_address_is_refused(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    with pytest.raises(ConfigError, match="--input ledger: ftp:// is not read"):
        world.job(inputs={"ledger": "ftp://drop/a.csv"})


# Bytes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000])
async def test_the_bytes_are_those_of_the_object(store: Store, tmp_path: Path, size: int) -> None:
    content = bytes(number * 7 % 256 for number in range(size))
    store.buckets["drop"]["a.bin"] = content
    ((path, _),) = await fetched(tmp_path, "s3://drop/a.bin", IN_RANGES)
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o600
    assert len([each for each in store.requests if each[0] == "GET"]) == -(-size // 100)


async def test_what_passes_is_waited_for(store: Store, tmp_path: Path) -> None:
    store.buckets["drop"]["a.csv"] = b"A\n1\n" * 1000
    store.failures = 2
    ((path, _),) = await fetched(tmp_path, "s3://drop/a.csv")
    assert path.stat().st_size == 4000


async def test_it_stops_between_two_ranges(store: Store, tmp_path: Path) -> None:
    store.buckets["drop"]["a.csv"] = bytes(1000)

    def check() -> None:
        if len(store.requests) > 3:
            raise Stopped("interrupted")

    with pytest.raises(Stopped):
        await fetched(tmp_path, "s3://drop/a.csv", IN_RANGES, check=check)
    assert len(store.requests) == 4


# What goes wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "faults", "said"),
    [
        ("s3://drop/none.csv", {}, "there is no such object"),
        ("s3://nowhere/a.csv", {}, "there is no such bucket"),
        ("s3://nowhere/*.csv", {}, "there is no such bucket"),
        ("s3://drop/z*.csv", {}, "no object is there for feed ledger"),
        ("s3://drop/z*/a.csv", {}, "no object is there for feed ledger"),
        ("s3://drop/a.csv", {"cuts": 99}, "it was cut off while it was read"),
        ("s3://drop/a.csv", {"failures": 99}, "the store answers with an error"),
        (
            "s3://drop/a.csv",
            {"changes": {"a.csv": bytes(1001)}},
            "it was changed while it was read",
        ),
        (
            "s3://drop/a.csv",
            {"changes": {"a.csv": bytes(range(100)) * 10}, "ignores_if_match": True},
            "it was changed while it was read",
        ),
        ("s3://drop/a.csv", {"stalls_s": 1.0}, "the store did not answer in time"),
    ],
)
async def test_what_goes_wrong_names_the_object_and_what_to_do(
    store: Store,
    tmp_path: Path,
    pattern: str,
    faults: dict[str, Any],
    said: str,
) -> None:
    store.buckets["drop"]["a.csv"] = bytes(1000)
    for name, value in faults.items():
        setattr(store, name, value)
    options = replace(IN_RANGES, retries=1, timeout_s=0.3 if store.stalls_s else 60.0)
    with pytest.raises(InputError) as caught:
        await fetched(tmp_path, pattern, options)
    assert caught.value.message == f"{pattern}: {said}"
    assert caught.value.fix
    _says_no_more(caught.value)


@pytest.mark.parametrize(
    ("variables", "options", "said"),
    [
        ({"AWS_ACCESS_KEY_ID": "OTHERKEYID"}, HERE, "the store refuses it to these credentials"),
        ({}, fetching.Options(), "the endpoint is http, which is allowed only for this machine"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, HERE, "the store cannot be reached"),
        # The library asks the machine's own metadata service; here a port where nothing listens.
        (
            {
                "AWS_ACCESS_KEY_ID": "",
                "AWS_SECRET_ACCESS_KEY": "",
                "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9",
            },
            HERE,
            "no credentials for the store",
        ),
    ],
)
async def test_what_is_set_wrong_is_said(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    options: fetching.Options,
    said: str,
) -> None:
    store.buckets["drop"]["a.csv"] = b"A\n"
    for name, value in variables.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    for pattern in ("s3://drop/a.csv", "s3://drop/*.csv"):
        with pytest.raises(InputError) as caught:
            await fetched(tmp_path, pattern, replace(options, retries=0))
        assert caught.value.message == f"{pattern}: {said}"
        _says_no_more(caught.value)


def _says_no_more(error: InputError) -> None:
    """Nothing of the keys, and nothing that the store said."""
    assert error.__cause__ is None
    assert error.__suppress_context__
    for hidden in (*VARIABLES.values(), "OTHERKEYID", "said by the store", "127.0.0.1"):
        assert hidden not in str(error)
