"""Bounded memory changes nothing: many parts, passes and piles come to what one of each comes to."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pipeline.commands import run as engine
from pipeline.planning.plan import Plan
from pipeline.planning.resolve import NEEDED, resolve
from pipeline.planning.tables import VERDICT_SCHEMA
from pipeline.rows import groups
from pipeline.rows.feed import Feed, Kind
from pipeline.rows.groups import Bounds, Scan, by_hash, deal, is_among, repeated
from tests.support.known import KNOWN, SCHEMA
from tests.support.nightly import FEED, enter, nightly, write
from tests.support.runs import counts
from tests.support.world import LEDGER_ONLY, MakeWorld, World, patient_key

pytestmark = pytest.mark.slow  # many rows in many ways

TINY = Bounds(hashes=3, narrow=3, whole=2, chunk_bytes=8, lines=2)
FEEDS = (
    Feed("one", Kind.ELIGIBILITY, "", {}),
    Feed("two", Kind.ELIGIBILITY, "", {}),
    Feed("money", Kind.LEDGER, "", {}, repeats="count"),
    Feed("new", Kind.LEDGER, "", {}, repeats="count", delivery="increment"),
    Feed("unique", Kind.LEDGER, "", {}),
)
FILES = {feed.name: [f"{feed.name}-a.csv", f"{feed.name}-b.csv"] for feed in FEEDS}
few = st.integers(0, 3)
row = st.fixed_dictionaries(
    {
        "key": few.map("k{}".format),
        "fingerprint": st.sampled_from(["x", "y"]),
        "lane": st.sampled_from(["p", "q"]),
        "order": st.integers(1, 2),
        "start_day": st.integers(0, 6),
        "end_day": st.none() | st.integers(0, 9),
        "active": st.booleans(),
        "disposition": st.sampled_from(["pending", "pending", "unchanged", "rejected"]),
    }
)
known_lines = st.dictionaries(
    few,
    st.tuples(
        st.sampled_from(["CONFIRMED", "IN_DOUBT", "REFUSED", "ABANDONED"]),
        st.sampled_from(["x", "z"]),
    ),
)


def frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A feed's rows, the first half of them in one file and the rest in another."""
    half = len(rows) // 2
    lines = [
        {**row, "seq": seq, "file": int(seq >= half), "row": seq % max(half, 1) + 1}
        for seq, row in enumerate(rows)
    ]
    return pl.DataFrame(lines, schema=SCHEMA).select(NEEDED)


def in_parts(rows: pl.DataFrame, height: int) -> Scan:
    def scan(columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        return (part.select(columns) for part in rows.iter_slices(height))

    return Scan(rows.height, scan)


def resolved(
    rows: Mapping[str, pl.DataFrame], held_lines: pl.DataFrame, bounds: Bounds, height: int
) -> dict[str, pl.DataFrame]:
    found = {name: [pl.DataFrame(schema=VERDICT_SCHEMA)] for name in rows}
    with TemporaryDirectory() as folder:
        for name, verdicts in resolve(
            {name: in_parts(each, height) for name, each in rows.items()},
            FEEDS,
            FILES,
            lambda keys: held_lines.filter(pl.col("key").is_in(keys.implode())),
            Path(folder),
            bounds,
        ):
            found[name].append(verdicts)
    return {name: pl.concat(parts) for name, parts in found.items()}


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.tuples(*[st.lists(row, max_size=12)] * len(FEEDS)), known_lines)
def test_passes_parts_and_piles_judge_rows_as_one_look_at_all_of_them(
    drawn: tuple[list[dict[str, Any]], ...], known: dict[int, tuple[str, str]]
) -> None:
    rows = {feed.name: frame(lines) for feed, lines in zip(FEEDS, drawn, strict=True)}
    lines = [(f"k{key}", state, print_, f"id{key}") for key, (state, print_) in known.items()]
    held_lines = pl.DataFrame(lines, schema=KNOWN, orient="row")
    at_once = resolved(rows, held_lines, Bounds(), 1000)
    in_pieces = resolved(rows, held_lines, TINY, 2)
    for name, verdicts in at_once.items():
        assert_frame_equal(in_pieces[name], verdicts)


def test_the_other_row_is_named_by_the_file_of_its_own_feed() -> None:
    line = {
        "fingerprint": "x",
        "lane": "p",
        "order": 1,
        "start_day": 1,
        "end_day": None,
        "active": True,
        "disposition": "pending",
    }
    rows = {
        "one": frame([{**line, "key": "a"}]),
        "two": frame(
            [
                {**line, "key": "b", "lane": "q"},
                {**line, "key": "c", "lane": "q"},
                {**line, "key": "f"},
            ]
        ),
        "money": frame([]),
        "new": frame([]),
        "unique": frame([{**line, "key": key} for key in "ddee"]),
    }
    verdicts = resolved(rows, pl.DataFrame(schema=KNOWN), TINY, 1)
    told = [each["message"] for name in ("two", "unique") for each in verdicts[name].to_dicts()]
    assert [message.rpartition(" ")[2] for message in told if message] == [
        "two-a.csv:1",
        "one-b.csv:1",
        "unique-a.csv:1",
        "unique-b.csv:1",
    ]


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1), st.integers(1, 4))
def test_what_is_repeated_is_found_in_any_number_of_passes(values: list[int], at_once: int) -> None:
    hashes = pl.Series(values, dtype=pl.UInt64)

    def parts() -> Iterator[pl.Series]:
        return (part.to_series() for part in hashes.to_frame().iter_slices(2))

    several = repeated(parts, len(values), at_once)
    assert several.to_list() == sorted({each for each in values if values.count(each) > 1})
    assert is_among(hashes, several).to_list() == [values.count(each) > 1 for each in values]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 99)), min_size=1), st.integers(1, 4))
def test_piles_hold_whole_groups_in_order_and_can_be_read_again(
    lines: list[tuple[int, int]], at_once: int
) -> None:
    rows = pl.DataFrame(lines, schema={"group": pl.Int64, "value": pl.Int64}, orient="row")
    with TemporaryDirectory() as name:
        folder = Path(name) / "piles"
        parts = rows.iter_slices(2)
        piles = deal(parts, by_hash(["group"]), folder, len(lines), at_once)
        for _ in range(2):
            seen = list(piles)
            assert all(pile.height for pile in seen)
            for group in rows["group"].unique():
                mine = [pile.filter(pl.col("group") == group) for pile in seen]
                (whole,) = [pile["value"].to_list() for pile in mine if pile.height]
                assert whole == rows.filter(pl.col("group") == group)["value"].to_list()
            assert sum(pile.height for pile in seen) == rows.height
        assert folder.exists() == (len(lines) > at_once)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and from then on next to nothing is held in memory."""

    def shrink() -> None:
        monkeypatch.setattr(groups, "BOUNDS", TINY)

    return shrink


def outputs(world: World, result: engine.Result) -> dict[str, Any]:
    """All that a plan tells of its rows, and what it would send in which turn."""
    plan = Plan.open(world.folder / "state" / "plans" / result.run_id)
    kinds = dict.fromkeys(plan.meta["feeds"], "Coverage")
    told = {
        path.name: path.read_text().replace(result.run_id, "")
        for path in result.folder.glob("*.csv")
    }
    sent = {
        name: [
            (intent.key, intent.interaction, intent.resource_id, intent.body)
            for part in plan.intents(name, kind, in_order=name == "eligibility")
            for intent in part
        ]
        for name, kind in kinds.items()
    }
    return {**told, **sent, "digest": plan.digest()}


async def test_a_night_with_everything_in_it_is_planned_alike_in_pieces(
    make_world: MakeWorld, tiny: Callable[[], None]
) -> None:
    loaded = [(n, f"{n}-{order}", order, "") for n in range(8) for order in (1, 2)]
    world = await nightly(make_world, loaded, 'missing = "cancel"\nmissing_max = 9')
    enter(world, 20, "U")  # in the way of a new one
    enter(world, 21, "V", period={"start": "2026-01-01"})  # taken over
    rows = [
        (0, "0-2", 1, ""),  # swapped, and the other one of each is far away
        (5, "5-1", 2, ""),
        *((1, f"1-{order}", order, "2026-12-31") for order in (1, 2)),  # updated
        (2, "2-1", 1, ""),  # the other one is gone
        (20, "new", 1, ""),
        (21, "V", 1, ""),
        *((n, f"{n}-{order}", order, "") for n in (3, 4) for order in (1, 2)),
        (3, "3-1", 1, ""),  # a duplicate
        (3, "3-2", 2, "2026-10-01"),  # a contradiction
        (4, "moves", 1, ""),  # collides
        (6, "6-2", 1, ""),
        (6, "6-3", 2, ""),
        (0, "0-1", 2, ""),
        (5, "5-2", 1, ""),
    ]
    write(world, rows)
    whole = await engine.plan(world.job())
    assert whole.exit_code in {0, 3}
    expected = outputs(world, whole)
    tiny()
    in_pieces = await engine.plan(world.job())
    assert in_pieces.summary["feeds"] == whole.summary["feeds"]
    found = [rule for rule in whole.frame["rule"].unique() if rule]
    assert {
        "row|duplicate",
        "row|contradicts",
        "order|collides",
        "row|adopted",
        "order|taken",
    } <= set(found)
    assert outputs(world, in_pieces) == expected
    ran = await world.run()
    assert {"created", "updated", "unchanged"} <= counts(ran).keys()
    assert counts(await world.run()).keys() <= {"unchanged", "duplicate", "rejected"}


@pytest.mark.parametrize(
    "amounts",
    [
        [f"{(37 * n) % 23 + 1}.00" if n % 9 else "x" for n in range(40)],
        ["5.00", "6.00", "1.00", "2.00", "3.00", "4.00"],  # each part of it is sorted
    ],
)
async def test_a_ledger_is_sorted_in_piles_as_in_memory(
    make_world: MakeWorld, tiny: Callable[[], None], amounts: list[str]
) -> None:
    world = await make_world()
    sorted_by = 'order_by = ["amount"]\n[feeds.columns]'
    world.write_config(feeds=LEDGER_ONLY.replace("[feeds.columns]", sorted_by))
    world.write_ledger([(f"T{n}", patient_key(n), text, "") for n, text in enumerate(amounts)])
    whole = await engine.plan(world.job())
    expected = outputs(world, whole)
    assert [json.loads(body)["amount"]["value"] for *_, body in expected["ledger"]] == sorted(
        float(text) for text in amounts if text != "x"
    )
    tiny()
    in_pieces = await engine.plan(world.job())
    assert outputs(world, in_pieces) == expected
    assert Plan.open(world.folder / "state" / "plans" / in_pieces.run_id).meta["parts"] == {
        "ledger": len(amounts) // 2
    }


async def test_two_new_coverages_of_one_order_go_by_their_start(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=FEED.format(more=""))
    days = [("later", "2026-07-01", ""), ("earlier", "2026-01-01", "2026-06-30")]
    world.write_eligibility(
        [(patient_key(0), member, "self", "60054", "1", start, end) for member, start, end in days]
    )
    assert counts(await world.run()) == {"created": 2}
    created = sorted(world.sandbox.resources("Coverage"), key=lambda each: int(each["order"]))
    assert [each["identifier"][0]["value"] for each in created] == ["later", "earlier"]


@pytest.mark.parametrize("harm", ["scattered", "torn"])
async def test_rows_whose_lines_are_not_read_are_looked_at_with_the_same_end(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    rows = [(number, f"M{number}", 1, "") for number in range(30)]
    world = await nightly(make_world, rows)
    assert counts(await world.run()) == {"unchanged": 30}
    monkeypatch.setattr(groups, "BOUNDS", groups.Bounds(lines=5, lines_pieces=1))
    if harm == "torn":
        index = world.folder / "state" / "held-eligibility.parquet"
        lines = pl.read_parquet(index)
        told = pl.read_parquet_metadata(index)
        lines.write_parquet(index, metadata=told, compression="uncompressed")
        torn = index.read_bytes()
        at = torn.index(lines["key"][0].encode()) - 64
        index.write_bytes(torn[:at] + b"\xff" * 64 + torn[at + 64 :])
    write(world, rows[::-1])
    assert counts(await world.run()) == {"unchanged": 30}
