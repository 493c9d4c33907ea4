"""A plan that the workers of a Dask cluster make is the plan that one process makes, whatever befalls them."""

import asyncio
import ctypes
import gzip
import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.app.config.load import load
from pipeline.cluster.dask import _loaded, open_workers
from pipeline.commands import run as engine
from pipeline.errors import ConfigError, IngestError, InputError
from pipeline.job import EngineSettings, Job, Progress
from pipeline.planning.plan import Plan
from pipeline.planning.workers import Shared, Workers
from pipeline.rows import groups
from pipeline.system import environment
from tests.support.certificates import Authority
from tests.support.nightly import nightly, write
from tests.support.rosters import BY_ROW, roster_feed
from tests.support.runs import counts
from tests.support.world import MakeWorld

distributed = pytest.importorskip("distributed")
if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROOT = Path(__file__).parents[2]
SECRET = "Q7-planted"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers in processes of their own."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=2,
        host="127.0.0.1",
        scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
        memory_limit=None,
        silence_logs=60,
    ) as found:
        yield found


@pytest.fixture
def by_dask(cluster: Any) -> dict[str, Any]:
    """What puts a job's planning on the cluster."""
    return {"engine": {"kind": "dask", "scheduler": cluster.scheduler_address}}


@pytest.fixture
def hands(cluster: Any, tmp_path: Path) -> Iterator[Workers]:
    with open_workers(
        EngineSettings(kind="dask", scheduler=cluster.scheduler_address), tmp_path
    ) as found:
        yield found


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and from then on a slice is a row or two."""

    def shrink() -> None:
        monkeypatch.setattr(groups, "BOUNDS", groups.Bounds(whole=2, chunk_bytes=8))

    return shrink


# The same plan --------------------------------------------------------------------------------------

HEAD = b"TXN,MRN,Amount,Note\n"
ROWS = [b"T%d,%032x,%d.00,n\n" % (n, n % 7, n % 5 + 1) for n in range(24)]
GOOD = HEAD + b"".join(ROWS)
QUOTED = HEAD + b"".join(
    b'T%d,"%032x",%d.00,"one\nand ""two"", three\n\n"\n' % (n, n % 7, n + 1) for n in range(24)
)
BAD = [row.replace(b".00", b".0x") if n % 6 == 4 else row for n, row in enumerate(ROWS)]
AGAIN = [*ROWS, ROWS[3], ROWS[11].replace(b".00", b".50"), ROWS[3]]
BY_CONTENT = 'key = ["patient", "posted_on", "amount"]\nrepeats = "count"\ndelivery = "{}"'
DATED = [row.replace(b",n\n", b",2026-11-09\n") for row in AGAIN]
MAPPED = 'transaction_id = "TXN"\npatient = "MRN"\namount = "Amount"'
COUNTED = 'posted_on = "Note"\npatient = "MRN"\namount = "Amount"'
ALONE = 'patient = "MRN"\n[feeds.constants]\namount = "5.00"\nposted_on = "2026-01-31"'
FILES: dict[str, tuple[Mapping[str, bytes], str, str]] = {
    "plain": ({"a.csv": GOOD}, "", MAPPED),
    "line ends, delimiters and quotes in quotes": ({"a.csv": QUOTED}, "", MAPPED),
    "CRLF": ({"a.csv": QUOTED.replace(b"\n", b"\r\n")}, "", MAPPED),
    "a byte order mark": ({"a.csv": b"\xef\xbb\xbf" + QUOTED}, "", MAPPED),
    "a line end in the header": (
        {"a.csv": GOOD.replace(b"Note", b'"No\nte"', 1)}, "", MAPPED,
    ),
    "one column, some lines of it blank": (
        {"a.csv": b"MRN\n\n\n" + b"".join(b"\n" if n % 4 == 3 else b"%032x\n" % n for n in range(20)) + b"\n"},
        'key = ["patient", "posted_on"]',
        ALONE,
    ),
    "no line end at the end": ({"a.csv": GOOD[:-1]}, 'final_newline = "any"', MAPPED),
    "gzip": ({"a.csv.gz": gzip.compress(QUOTED, mtime=0)}, "", MAPPED),
    "zstd": ({"a.csv.zst": zstd.compress(QUOTED)}, "", MAPPED),
    "another encoding": (
        {"a.csv": GOOD.replace(b",n\n", b",\xe9\n")}, 'encoding = "windows-1252"', MAPPED,
    ),
    "rows that are rejected": ({"a.csv": HEAD + b"".join(BAD)}, "", MAPPED),
    "equal rows far from each other": ({"a.csv": HEAD + b"".join(AGAIN)}, "", MAPPED),
    "equal rows that are counted": (
        {"a.csv": HEAD + b"".join(DATED)}, BY_CONTENT.format("full"), COUNTED,
    ),
    "equal rows that are counted file by file": (
        {f"{n}.csv": HEAD + b"".join([*DATED[n * 8 : n * 8 + 8], DATED[3], DATED[3]]) for n in range(3)},
        BY_CONTENT.format("increment"),
        COUNTED,
    ),
    "many small files": (
        {f"a{n:02}.csv": HEAD + b"".join(ROWS[n * 3 : n * 3 + 3]) for n in range(8)}, "", MAPPED,
    ),
}  # fmt: skip
NOWHERE = (
    '[canvas]\nbase_url = "http://127.0.0.1:9"\ntoken_url = "http://127.0.0.1:9/auth/token/"\n'
)
FEED = '[[feeds]]\nname = "ledger"\nkind = "ledger"\npath = "in/*"\n{more}\n[feeds.columns]\n{columns}\n'


def job_of(
    folder: Path,
    files: Mapping[str, bytes],
    more: str = "",
    columns: str = MAPPED,
    **overrides: Any,
) -> Job:
    (folder / "in").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / "in" / name).write_bytes(content)
    path = folder / "config.toml"
    path.write_text(NOWHERE + FEED.format(more=more, columns=columns))
    return load(path, environment={}, overrides=overrides)


def outputs(job: Job, result: engine.Result) -> dict[str, Any]:
    """What a plan comes to, and all that it tells of its rows."""
    assert result.failure is None, str(result.failure)
    plan = Plan.open(job.state_dir / "plans" / result.run_id)
    told = {path.name: path.read_text() for path in sorted(result.folder.glob("*.csv"))}
    assert "reconciliation.csv" in told
    return {
        **{name: text.replace(result.run_id, "") for name, text in told.items()},
        "feeds": result.summary["feeds"],
        "digest": plan.digest(),
    }


def parts(job: Job, result: engine.Result) -> dict[str, pl.DataFrame]:
    """All that is in a plan's folder."""
    folder = job.state_dir / "plans" / result.run_id
    return {path.name: pl.read_parquet(path, glob=False) for path in folder.glob("*.parquet")}


def same(one: Mapping[str, pl.DataFrame], other: Mapping[str, pl.DataFrame]) -> bool:
    return one.keys() == other.keys() and all(one[name].equals(other[name]) for name in one)


@pytest.mark.parametrize("case", FILES)
async def test_workers_make_the_plan_that_one_process_makes(
    tmp_path: Path, by_dask: dict[str, Any], tiny: Callable[[], None], case: str
) -> None:
    job = job_of(tmp_path, *FILES[case])
    whole = outputs(job, await engine.plan(job))
    tiny()
    spread_job = job_of(tmp_path, *FILES[case], **by_dask)
    spread = await engine.plan(spread_job)
    assert outputs(spread_job, spread) == whole
    assert len([name for name in parts(spread_job, spread) if name.startswith("rows-")]) >= 8


ROSTER = BY_ROW + roster_feed("MRN Member Rel Sub Payer", path="in/*")


async def test_workers_find_what_rows_give_each_other(
    tmp_path: Path, by_dask: dict[str, Any], tiny: Callable[[], None]
) -> None:
    job = job_of(tmp_path, {})
    rows = [
        b"%032x,M%d,%s,S%d,60054\n" % (n % 9, n, b"child" if n % 3 else b"self", n % 9 // 2)
        for n in range(24)
    ]
    (tmp_path / "in" / "a.csv").write_bytes(b"MRN,Member,Rel,Sub,Payer\n" + b"".join(rows))
    path = tmp_path / "config.toml"
    path.write_text(NOWHERE + ROSTER)
    job = load(path, environment={})
    whole = outputs(job, await engine.plan(job))
    assert whole["feeds"][0]["rules"] == {"subscriber|unknown": 8}
    tiny()
    spread_job = load(path, environment={}, overrides=by_dask)
    assert outputs(spread_job, await engine.plan(spread_job)) == whole


async def test_the_sample_data_are_planned_alike(
    tmp_path: Path, by_dask: dict[str, Any], tiny: Callable[[], None]
) -> None:
    folders = {"state": {"dir": str(tmp_path / "state")}, "report": {"dir": str(tmp_path / "out")}}
    demo = partial(load, ROOT / "configs" / "demo.toml", environment={})
    job, spread_job = demo(overrides=folders), demo(overrides={**folders, **by_dask})
    whole = await engine.plan(job)
    assert {feed["name"] for feed in whole.summary["feeds"]} >= {"eligibility", "ledger"}
    expected = outputs(job, whole)
    spread = await engine.plan(spread_job)
    assert outputs(spread_job, spread) == expected
    assert same(parts(spread_job, spread), parts(job, whole))


async def test_parquet_is_planned_alike(
    tmp_path: Path, by_dask: dict[str, Any], tiny: Callable[[], None]
) -> None:
    job = job_of(tmp_path, {})
    pl.read_csv(GOOD, infer_schema=False).write_parquet(tmp_path / "in" / "a.parquet")
    whole = outputs(job, await engine.plan(job))
    tiny()
    spread_job = job_of(tmp_path, {}, **by_dask)
    spread = await engine.plan(spread_job)
    assert outputs(spread_job, spread) == whole
    assert len([name for name in parts(spread_job, spread) if name.startswith("rows-")]) == 12


async def test_rows_that_did_not_change_are_known_again_by_workers(
    make_world: MakeWorld, by_dask: dict[str, Any], tiny: Callable[[], None]
) -> None:
    rows = [(n, f"{n}-{order}", order, "") for n in range(8) for order in (1, 2)]
    world = await nightly(make_world, rows, 'missing = "cancel"\nmissing_max = 9\nadopt = false')
    assert counts(await world.run()) == {"unchanged": 16}
    assert (world.folder / "state" / "held-eligibility.parquet").exists()
    write(world, [*rows[5:], (9, "new", 1, ""), (3, "3-9", 7, ""), (1, "1-1", 1, "2026-12-31")])
    job = world.job()
    whole = outputs(job, await engine.plan(job))
    assert "unchanged" in whole["reconciliation.csv"]
    tiny()
    spread_job = world.job(overrides=by_dask)
    assert outputs(spread_job, await engine.plan(spread_job)) == whole


# What befalls them ------------------------------------------------------------------------------------

_MANY = 140
MANY = HEAD + b"".join(b"T%d,%032x,%d.00,n\n" % (n, n % 7, n + 1) for n in range(_MANY))


class Acting(Progress):
    """Does something once, as soon as some rows are read: in the middle, however quick or slow all is."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act: Callable[[], Any] | None = None
        super().__init__()
        self.act = act

    def __setattr__(self, name: str, value: Any) -> None:
        """As always, and then act."""
        super().__setattr__(name, value)
        if name == "rows_read" and value and self.act is not None:
            assert value < _MANY
            act, self.act = self.act, None
            act()


async def test_a_worker_that_is_killed_in_the_middle_changes_nothing(
    tmp_path: Path, cluster: Any, by_dask: dict[str, Any], tiny: Callable[[], None]
) -> None:
    tiny()
    job = job_of(tmp_path, {"a.csv": MANY})
    expected = await engine.plan(job)
    with distributed.Client(cluster, set_as_default=False) as client:
        before = list(client.run(os.getpid).values())
    spread_job = job_of(tmp_path, {"a.csv": MANY}, **by_dask)
    progress = Acting(lambda: os.kill(before[0], signal.SIGKILL))
    result = await engine.plan(spread_job, progress=progress)
    assert progress.act is None
    assert outputs(spread_job, result) == outputs(job, expected)
    assert same(parts(spread_job, result), parts(job, expected))
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2)


@pytest.mark.parametrize("harm", ["more", "gone"])
async def test_a_file_that_changes_under_the_workers_is_refused(
    tmp_path: Path, by_dask: dict[str, Any], tiny: Callable[[], None], harm: str
) -> None:
    tiny()
    path = tmp_path / "in" / "a.csv"
    act = partial(path.write_bytes, MANY + ROWS[0]) if harm == "more" else path.unlink
    job = job_of(tmp_path, {"a.csv": MANY}, **by_dask)
    result = await engine.plan(job, progress=Acting(act))
    assert isinstance(result.failure, InputError)
    said = ["changed while it was read"] + ["the file is no longer where"] * (harm == "gone")
    assert any(words in str(result.failure) for words in said)
    assert result.failure.file == "a.csv"


async def test_what_a_worker_refuses_is_told_as_one_process_tells_it(
    tmp_path: Path, by_dask: dict[str, Any], tiny: Callable[[], None]
) -> None:
    long = [*ROWS, b"T99,%032x,1.00,%s\n" % (1, b"x" * 70_000), *ROWS[:4]]
    content = {"a.csv": HEAD + b"".join(long)}
    tiny()
    refused = [
        (await engine.plan(job_of(tmp_path, content, **overrides))).failure
        for overrides in ({}, by_dask)
    ]
    assert [type(each) for each in refused] == [InputError, InputError]
    here, there = refused
    assert str(here) == str(there)
    assert vars(here) == vars(there)
    assert vars(here)["row"] == 25


async def test_interrupted_it_ends_and_leaves_nothing_unfinished(
    tmp_path: Path, by_dask: dict[str, Any], tiny: Callable[[], None]
) -> None:
    tiny()
    job, stop = job_of(tmp_path, {"a.csv": MANY}, **by_dask), asyncio.Event()
    result = await engine.plan(job, progress=Acting(stop.set), stop=stop)
    assert result.exit_code == 130
    assert not (job.state_dir / "plans" / result.run_id / "copies").exists()


# Calls ------------------------------------------------------------------------------------------------


def pid_of(_: int) -> int:
    return os.getpid()


def crash(secret: str) -> None:
    raise ValueError(secret)


def refuse() -> None:
    raise InputError("it is unfit", "fix it", file="a.csv", row=7, column="Amount")


def seconds(length: float) -> float:
    time.sleep(length)
    return length


def die_once(mark: str) -> int:
    """Kills the worker that carries it out for the first time."""
    with suppress(FileExistsError):
        Path(mark).touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def nothing() -> None:
    pass


def test_calls_are_carried_out_elsewhere_and_come_out_in_their_turn(hands: Workers) -> None:
    lengths = [0.1, 0.0, 0.05, 0.0, 0.02, 0.0]
    calls = [partial(seconds, length) for length in lengths]
    assert list(hands.in_turn(calls, nothing)) == lengths
    pids = set(hands.in_turn((partial(pid_of, n) for n in range(40)), nothing))
    assert os.getpid() not in pids
    assert len(pids) == 2


def test_no_more_calls_are_ahead_than_keep_the_workers_busy(hands: Workers) -> None:
    drawn = itertools.count()

    def calls() -> Iterator[partial[int]]:
        for number in range(100):
            next(drawn)
            yield partial(pid_of, number)

    results = hands.in_turn(calls(), nothing)
    next(results)
    assert next(drawn) <= 6


def test_long_calls_are_all_under_way_at_once_and_come_out_as_they_end(hands: Workers) -> None:
    calls = [partial(seconds, length) for length in (0.9, 0.6, 0.0)]
    assert [number for number, _ in hands.as_they_end(calls, nothing)] == [2, 1, 0]


def test_a_long_call_whose_worker_dies_is_begun_again_elsewhere(
    hands: Workers, tmp_path: Path
) -> None:
    calls: list[partial[Any]] = [partial(die_once, str(tmp_path / "mark")), partial(seconds, 0.2)]
    found = dict(hands.as_they_end(calls, nothing))
    assert found[1] == 0.2
    assert found[0] != os.getpid()


def test_a_fault_on_a_worker_tells_its_place_and_not_its_text(
    hands: Workers, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(IngestError, match=r"ValueError at test_workers\.py:\d+") as caught:
        list(hands.in_turn([partial(crash, SECRET)], nothing))
    told = "".join(capfd.readouterr()) + str(caught.value) + repr(vars(caught.value))
    assert SECRET not in told


def test_a_refusal_is_the_very_same_error(hands: Workers) -> None:
    with pytest.raises(InputError) as there:
        list(hands.in_turn([refuse], nothing))
    with pytest.raises(InputError) as here:
        refuse()
    assert str(there.value) == str(here.value)
    assert vars(there.value) == vars(here.value)


def length(shared: Shared[str]) -> int:
    return len(shared.value)


def held_by(_: int) -> int:
    return _loaded.cache_info().currsize


def test_what_is_shared_travels_as_a_file_and_is_forgotten_at_the_end(
    cluster: Any, tmp_path: Path
) -> None:
    options = EngineSettings(kind="dask", scheduler=cluster.scheduler_address)
    with open_workers(options, tmp_path) as hands:
        shared = hands.share("twelve bytes", tmp_path)
        assert "twelve" not in repr(shared)
        assert set(hands.in_turn([partial(length, shared)] * 20, nothing)) == {12}
        (path,) = tmp_path.iterdir()
        assert path.stat().st_mode & 0o777 == 0o600
    with open_workers(options, tmp_path) as hands:
        assert set(hands.in_turn((partial(held_by, n) for n in range(20)), nothing)) == {0}


def test_looking_may_end_it(hands: Workers) -> None:
    began, over = time.monotonic(), threading.Event()

    def look() -> None:
        if time.monotonic() - began > 0.2:
            over.set()
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(hands.in_turn([partial(seconds, 3.0)], look))
    assert over.is_set()


# How it is set up -----------------------------------------------------------------------------------


def engine_of(folder: Path, **keys: Any) -> EngineSettings:
    return job_of(folder, {}, engine=keys).engine


def test_workers_are_one_for_each_core_and_partitions_four_times_as_many(tmp_path: Path) -> None:
    assert engine_of(tmp_path).kind == "embedded"
    found = engine_of(tmp_path, kind="dask", workers=3)
    assert (found.scheduler, found.worker_count, found.partition_count) == ("", 3, 12)
    assert engine_of(tmp_path, kind="dask", partitions=5).partition_count == 5
    assert engine_of(tmp_path, kind="dask").worker_count >= 1


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"kind": "spark"}, "'embedded', 'join' or 'dask'"),
        ({"scheduler": "tls://dask.example.org"}, "must be tls://host:port"),
        ({"scheduler": "http://127.0.0.1:8786"}, "must be tls://host:port"),
        ({"scheduler": "tcp://127.0.0.1:99999"}, "must be tls://host:port"),
        ({"scheduler": "tcp://dask.example.org:8786"}, "write tls://"),
        ({"scheduler": "tcp://127.0.0.1.example.org:8786"}, "write tls://"),
        ({"scheduler": "tls://dask.example.org:8786"}, "needs ca_file, cert_file and key_file"),
        ({"scheduler": "tcp://127.0.0.1:8786", "workers": 2}, "keep one"),
        ({"workers": 0}, "greater than or equal to 1"),
        ({"ca_file": "ca.pem"}, "engine.ca_file: No such file"),
    ],
)
def test_a_wrong_engine_is_refused_with_what_is_allowed(
    tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match="engine") as caught:
        engine_of(tmp_path, **{"kind": "dask", **keys})
    assert said in str(caught.value)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key.pem").touch(0o644)
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        engine_of(tmp_path, kind="dask", key_file="key.pem")


async def test_a_run_needs_a_journal_that_all_workers_reach(tmp_path: Path) -> None:
    job = job_of(tmp_path, {"a.csv": GOOD}, engine={"kind": "dask", "workers": 2})
    with pytest.raises(ConfigError, match=r"\[state\] url"):
        await engine.run(job)
    assert not (tmp_path / "state").exists()


def ran(folder: Path, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    code = f"import sys\n{before}\nfrom pipeline.app.cli import main\nif __name__ == '__main__':\n    main()\n"
    (folder / "command.py").write_text(code)
    return subprocess.run(
        [sys.executable, "command.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_flags_start_workers_that_end_with_the_command(tmp_path: Path) -> None:
    job_of(tmp_path, {"a.csv": GOOD})
    spread = ran(tmp_path, "plan", "config.toml", "--engine", "dask", "--workers", "2", "-q")
    assert (spread.returncode, spread.stderr) == (0, "")
    assert spread.stdout.startswith("Plan: 24 to create")
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in found.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_a_terminal_tells_the_whole_group_ends_it_in_order(
    tmp_path: Path, number: signal.Signals
) -> None:
    job_of(
        tmp_path, {"a.csv": HEAD + b"".join(b"T%d,%032x,1.00,n\n" % (n, n) for n in range(200_000))}
    )
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "plan",
        "config.toml",
        "--engine",
        "dask",
        "--workers",
        "2",
    ]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        until = time.monotonic() + 30
        while not list(tmp_path.glob("state/plans/*/rows-*")) and time.monotonic() < until:
            time.sleep(0.01)
        os.killpg(process.pid, number)
        out, err = process.communicate()
    assert process.returncode == 130
    assert "Exit 130" in out
    assert (
        err.strip() == "Stopping: what is in flight is finished first. Once more to stop at once."
    )
    assert not list(tmp_path.glob("state/plans/*/copies"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan", "--workers", "2"), "--workers goes with --engine dask"),
        (("plan", "--scheduler", "tcp://127.0.0.1:1"), "--scheduler goes with --engine dask"),
        (("plan", "--engine", "dask", "--workers", "2", "--scheduler", "tcp://127.0.0.1:1"), "keep one"),
        (("plan", "--engine", "dask", "--scheduler", "tcp://192.0.2.1:8786"), "write tls://"),
        (("run", "--engine", "dask"), "[state] url"),
    ],
)  # fmt: skip
def test_flags_that_make_no_sense_are_refused(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    job_of(tmp_path, {"a.csv": GOOD})
    refused = ran(tmp_path, arguments[0], "config.toml", *arguments[1:])
    assert refused.returncode == 2
    assert said in refused.stderr
    assert not (tmp_path / "state").exists()


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    job_of(tmp_path, {"a.csv": GOOD})
    missing = "sys.modules['distributed'] = None"
    refused = ran(tmp_path, "plan", "config.toml", "--engine", "dask", before=missing)
    assert refused.returncode == 2
    assert 'pip install "canvas-ingest[dask]"' in refused.stdout + refused.stderr


def test_one_process_does_without_it(tmp_path: Path) -> None:
    job_of(tmp_path, {"a.csv": GOOD})
    watched = (
        "import atexit\natexit.register(lambda: print({'dask', 'distributed'} & set(sys.modules)))"
    )
    planned = ran(tmp_path, "plan", "config.toml", "-q", before=watched)
    assert planned.returncode == 0
    assert planned.stdout.endswith("set()\n")


# Through TLS ----------------------------------------------------------------------------------------


@contextmanager
def served(folder: Path, authority: Authority) -> Iterator[str]:
    """A scheduler and a worker as operators start them, who talk to nobody else."""
    tls = ["--tls-ca-file", str(authority.path), "--tls-cert", str(authority.pem())]
    told = folder / "scheduler.json"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true",
    }
    start = partial(
        subprocess.Popen, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )  # fmt: skip
    scheduler = [
        sys.executable, "-m", "distributed.cli.dask_scheduler", "--protocol", "tls", "--host", "127.0.0.1",
        "--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(told), *tls,
    ]  # fmt: skip
    worker = [
        sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny", "--nthreads", "1", "--host", "127.0.0.1",
        "--no-dashboard", "--scheduler-file", str(told), "--local-directory", str(folder), *tls,
    ]  # fmt: skip
    with start(scheduler) as one:
        try:
            until = time.monotonic() + 30
            while not told.exists() and time.monotonic() < until:
                time.sleep(0.02)
            with start(worker) as other:
                try:
                    yield pl.read_json(told)["address"][0]
                finally:
                    other.kill()
        finally:
            one.kill()


async def test_a_cluster_is_reached_through_tls_and_by_its_own_only(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    pem = str(ours.pem())
    job = job_of(tmp_path, {"a.csv": GOOD})
    expected = outputs(job, await engine.plan(job))
    with served(tmp_path, ours) as address:
        assert address.startswith("tls://127.0.0.1:")
        how = {"kind": "dask", "scheduler": address}
        trusted = {"ca_file": str(ours.path), "cert_file": pem, "key_file": pem}
        spread_job = job_of(tmp_path, {}, engine={**how, **trusted})
        assert outputs(spread_job, await engine.plan(spread_job)) == expected
        foreign = str(theirs.pem())
        for wrong in (
            {**trusted, "ca_file": str(theirs.path)},
            {**trusted, "cert_file": foreign, "key_file": foreign},
        ):
            refused = await engine.plan(job_of(tmp_path, {}, engine={**how, **wrong}))
            assert f"no Dask scheduler was reached at {address}" in str(refused.failure)
            assert refused.exit_code == 1


# Secrets of workers that are started here -----------------------------------------------------------


def seen_of(secret: str) -> dict[str, Any]:
    """What this process carries of a secret, and whether others of the same user may look into it."""
    folder = Path("/proc/self")
    return {
        "started with": secret.encode() in (folder / "environ").read_bytes(),
        "hands on": secret in os.environ.values(),
        "knows": secret in environment.variables().values(),
        "is open to others": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) != 0,
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "pid": os.getpid(),
    }


def seen_after(mark: str, secret: str) -> dict[str, Any]:
    die_once(mark)
    return seen_of(secret)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and prctl are Linux' own")
@pytest.mark.parametrize(
    "name", ["CANVAS_CLIENT_SECRET", "CANVAS_INGEST_WEBHOOK_URL", "PGPASSWORD"]
)
def test_workers_get_secrets_through_a_pipe_and_show_them_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    secret = "Canary-0f3b/+7e=9"
    monkeypatch.setenv(name, secret)
    with open_workers(EngineSettings(kind="dask", workers=1), tmp_path) as hands:
        assert environment.variables()[name] == secret
        (first,) = hands.in_turn([partial(seen_of, secret)], nothing)
        (second,) = hands.in_turn([partial(seen_after, str(tmp_path / "died"), secret)], nothing)
    assert os.environ[name] == secret
    assert first["pid"] != second["pid"] != os.getpid()
    closed = {
        "started with": False,
        "hands on": False,
        "knows": True,
        "is open to others": False,
        "core": 0,
    }
    for seen in (first, second):  # the second was started in the place of the first
        assert {name: seen[name] for name in closed} == closed
