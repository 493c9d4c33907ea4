"""Files without ids: equal rows are counted, so what a file holds decides which payments they are."""

import gzip
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.commands import run as engine
from pipeline.errors import InputError, LimitError
from tests.support.runs import command, counts
from tests.support.world import LEDGER_ONLY, MakeWorld, World, patient_key

FEED = """
[[feeds]]
name = "ledger"
kind = "ledger"
path = "in/*"
key = ["patient", "posted_on", "amount"]
repeats = "count"
{more}
[feeds.columns]
patient = "MRN"
posted_on = "Day"
amount = "Amount"
"""
FULL, INCREMENT = FEED.format(more='delivery = "full"'), FEED.format(more='delivery = "increment"')
COVERAGES = """
[[feeds]]
name = "eligibility"
kind = "eligibility"
path = "in/*"
{more}
[feeds.columns]
patient = "MRN"
member_id = "Member"
relationship = "Rel"
payer = "Payer"
order = "Order"
"""
TWICE = [(0, "5.00"), (0, "5.00"), (1, "7.00")]


def deliver(world: World, rows: Sequence[tuple[int, str]], name: str = "a.csv") -> Path:
    """A file with rows of (patient, amount), all of one day."""
    path = world.folder / "in" / name
    path.parent.mkdir(exist_ok=True)
    lines = [f"{patient_key(number)},2026-11-09,{amount}\n" for number, amount in rows]
    path.write_text("".join(["MRN,Day,Amount\n", *lines]))
    return path


async def loaded(make_world: MakeWorld, feed: str) -> World:
    """A world whose first delivery, TWICE, is in Canvas."""
    world = await make_world()
    world.write_config(feeds=feed)
    deliver(world, TWICE)
    result = await world.run()
    assert (result.exit_code, counts(result)) == (0, {"created": 3})
    return world


# The configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feed", "said"),
    [
        (FEED.format(more=""), 'repeats = "count" needs delivery'),
        (
            FULL.replace('"posted_on", ', ""),
            "a payment of another day with the same values would be the same payment",
        ),
        (FULL.replace('"patient", ', ""), "and patient is not in it"),
        (FULL.replace(', "amount"]', "]"), "and amount is not in it"),
        (f'{FULL}claim = "Claim"\n', "and claim is not in it"),
        (
            FULL.replace('key = ["patient", "posted_on", "amount"]\n', "")
            + 'transaction_id = "T"\n',
            "and patient is not in it",
        ),
        (
            COVERAGES.format(more='repeats = "count"\ndelivery = "full"'),
            "repeats: eligibility has no equal rows to count",
        ),
        (
            COVERAGES.format(more='missing = "report"\ndelivery = "increment"'),
            'missing = "report" needs files that hold all rows',
        ),
    ],
)
async def test_what_counting_needs_is_a_matter_of_the_configuration(
    make_world: MakeWorld, feed: str, said: str
) -> None:
    """The first is what `init` drafted before there was a `delivery`."""
    world = await make_world()
    world.write_config(feeds=feed)
    deliver(world, TWICE)
    process, _, stderr = await command(world, "run", "--no-progress")
    assert process.returncode == 2
    assert said in stderr
    assert world.effects == []


# Each delivery holds all rows ----------------------------------------------------------------------


async def test_a_full_delivery_again_is_unchanged_and_one_with_more_sends_only_that(
    make_world: MakeWorld,
) -> None:
    world = await loaded(make_world, FULL)
    assert counts(await world.run()) == {"unchanged": 3}
    deliver(world, [*TWICE, (0, "5.00"), (2, "1.00")])
    assert counts(await world.run()) == {"unchanged": 3, "created": 2}
    assert len(world.effects) == 5


async def test_two_equal_files_of_full_deliveries_are_refused(make_world: MakeWorld) -> None:
    world = await loaded(make_world, FULL)
    deliver(world, TWICE, "b.csv")
    result = await world.run()
    assert result.exit_code == 1
    assert isinstance(result.failure, InputError)
    assert "b.csv: the file has the same content as a.csv" in str(result.failure)
    assert "remove one of the two" in str(result.failure)
    assert len(world.effects) == 3


@pytest.mark.parametrize("by_input", [False, True])
async def test_a_full_delivery_that_lacks_payments_of_the_last_one_stops(
    make_world: MakeWorld, by_input: bool
) -> None:
    """What was meant as an increment: its first 5.00 would be taken for one that is posted."""
    world = await loaded(make_world, FULL)
    path = deliver(world, [(0, "5.00"), (3, "2.00")])
    inputs = {"ledger": path} if by_input else {}
    result = await world.run(inputs=inputs)
    assert result.exit_code == 1
    assert isinstance(result.failure, LimitError)
    assert "feed ledger: 2 payments of the last delivery are not in today's files" in str(
        result.failure
    )
    assert "--accept-repeats 2" in str(result.failure)
    assert len(world.effects) == 3
    few = await engine.run(replace(world.job(inputs=inputs), accept_repeats=1))
    assert few.exit_code == 1
    accepted = await engine.run(replace(world.job(inputs=inputs), accept_repeats=2))
    assert (accepted.exit_code, counts(accepted)) == (0, {"unchanged": 1, "created": 1})
    again = await world.run(inputs=inputs)
    assert (again.exit_code, counts(again)) == (0, {"unchanged": 2})


async def test_a_changed_delivery_is_not_blamed_on_the_file(make_world: MakeWorld) -> None:
    """The file is whole: to accept would post all of its payments a second time."""
    world = await loaded(make_world, INCREMENT)
    world.write_config(feeds=FULL)
    result = await world.run()
    assert isinstance(result.failure, LimitError)
    assert "3 payments to be created equal payments that earlier runs sent" in str(result.failure)
    assert "if delivery, key or the spelling of ids was changed, restore it" in str(result.failure)
    assert "ask the sender" not in str(result.failure)
    assert len(world.effects) == 3


async def test_one_payment_that_is_gone_is_said_in_the_singular(make_world: MakeWorld) -> None:
    world = await loaded(make_world, FULL)
    deliver(world, TWICE[:2])
    assert "1 payment of the last delivery is not in" in str((await world.run()).failure)


async def test_payments_that_are_gone_are_seen_though_the_plan_of_the_last_run_is_gone(
    make_world: MakeWorld,
) -> None:
    world = await loaded(make_world, FULL)
    shutil.rmtree(world.folder / "state" / "plans")
    deliver(world, [(0, "5.00")])
    assert "2 payments of the last delivery" in str((await world.run()).failure)


async def test_payments_that_were_never_posted_may_be_gone(make_world: MakeWorld) -> None:
    world = await make_world(patients=2, balance="7.00")
    world.write_config(feeds=FULL)
    deliver(world, [(0, "5.00"), (0, "5.00"), (1, "7.00")])
    assert counts(await world.run()) == {"created": 2, "refused": 1}
    deliver(world, [(0, "5.00"), (1, "7.00")])
    assert counts(await world.run()) == {"unchanged": 2}


# Each delivery holds new rows only -----------------------------------------------------------------


async def test_equal_rows_of_two_increments_are_two_payments(make_world: MakeWorld) -> None:
    world = await loaded(make_world, INCREMENT)
    deliver(world, [(0, "5.00"), (0, "5.00"), (3, "2.00")], "a.csv")
    assert counts(await world.run()) == {"created": 3}
    assert Counter(effect["amount"] for effect in world.effects) == {
        "2.00": 1,
        "5.00": 4,
        "7.00": 1,
    }
    assert counts(await world.run()) == {"unchanged": 3}


async def test_the_same_bytes_are_the_same_delivery_under_any_name(make_world: MakeWorld) -> None:
    world = await loaded(make_world, INCREMENT)
    (world.folder / "in" / "a.csv").rename(world.folder / "in" / "z.csv")
    assert counts(await world.run()) == {"unchanged": 3}
    deliver(world, TWICE, "a.csv")
    assert counts(await world.run()) == {"unchanged": 3, "duplicate": 3}
    assert counts(await world.run(inputs={"ledger": world.folder / "in" / "z.csv"})) == {
        "unchanged": 3
    }
    assert len(world.effects) == 3


async def test_the_same_bytes_twice_in_one_night_are_posted_once(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=INCREMENT)
    deliver(world, TWICE, "a.csv")
    deliver(world, TWICE, "b.csv")
    deliver(world, [(0, "5.00")], "c.csv")
    result = await world.run()
    assert counts(result) == {"created": 4, "duplicate": 3}
    assert len(world.effects) == 4
    assert counts(await world.run()) == {"unchanged": 4, "duplicate": 3}


async def test_a_compressed_increment_has_rows_of_its_own(make_world: MakeWorld) -> None:
    """The bytes decide, not what is in them: a delivery that repeats another one is another check's."""
    world = await make_world()
    world.write_config(feeds=INCREMENT)
    path = deliver(world, TWICE)
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()
    assert counts(await world.run()) == {"created": 3}
    assert counts(await world.run()) == {"unchanged": 3}


@pytest.mark.parametrize(
    ("feed", "said"),
    [
        (FULL, "correct them in the whole file of feed ledger"),
        (INCREMENT, "have the sender put the corrected rows into the next delivery of feed ledger"),
    ],
)
async def test_rejects_of_counted_rows_are_not_taken_alone(
    make_world: MakeWorld, feed: str, said: str
) -> None:
    world = await make_world()
    world.write_config(feeds=feed)
    deliver(world, [*TWICE, (2, "x")])
    first = await world.run()
    assert counts(first) == {"created": 3, "rejected": 1}
    again = await world.run(inputs={"ledger": first.folder / "rejects-ledger.csv"})
    assert again.exit_code == 1
    assert re.search(said, str(again.failure))
    assert len(world.effects) == 3


# One delivery in two forms -------------------------------------------------------------------------


def compressed(path: Path) -> None:
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def other_line_ends(path: Path) -> None:
    path.with_name("b.csv").write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def other_columns(path: Path) -> None:
    lines = (line.split(",") for line in path.read_text().splitlines())
    text = "".join(f"{amount},{patient},{day}\n" for patient, day, amount in lines)
    path.with_name("b.csv").write_text(text)


@pytest.mark.parametrize("feed", [FULL, INCREMENT])
@pytest.mark.parametrize("copy", [compressed, other_line_ends, other_columns])
@pytest.mark.parametrize("is_late", [False, True])
async def test_a_delivery_that_is_there_in_two_forms_is_posted_once(
    make_world: MakeWorld, feed: str, copy: Callable[[Path], None], is_late: bool
) -> None:
    world = await make_world()
    world.write_config(feeds=feed)
    path = deliver(world, TWICE)
    if is_late:
        assert counts(await world.run()) == {"created": 3}
    copy(path)
    result = await world.run()
    assert (result.exit_code, len(world.effects)) == (1, 3 if is_late else 0)
    assert isinstance(result.failure, LimitError)
    assert "each would be a second payment" in str(result.failure)
    few = await engine.run(replace(world.job(), accept_repeats=2))
    assert few.exit_code == 1
    accepted = await engine.run(replace(world.job(), accept_repeats=3))
    assert (accepted.exit_code, len(world.effects)) == (0, 6)
    assert counts(await world.run()) == {"unchanged": 6}


async def test_a_file_that_holds_most_of_another_one_stops(make_world: MakeWorld) -> None:
    """Increments that became full deliveries, beside the ones before them."""
    world = await make_world()
    world.write_config(feeds=INCREMENT)
    before = [(number, "5.00") for number in range(5)]
    deliver(world, before)
    assert counts(await world.run()) == {"created": 5}
    deliver(world, [*before, *((number, "6.00") for number in range(15))], "b.csv")
    result = await world.run()
    assert (result.exit_code, len(world.effects)) == (1, 5)
    assert "5 payments of b.csv to be created are in a.csv" in str(result.failure)


async def test_one_file_under_two_feeds_is_posted_once(make_world: MakeWorld) -> None:
    world = await make_world()
    world.write_config(feeds=LEDGER_ONLY)
    world.write_ledger([(f"T{n}", patient_key(n), "5.00", "") for n in range(4)])
    assert counts(await world.run()) == {"created": 4}
    second = LEDGER_ONLY.replace('name = "ledger"', 'name = "copays"')
    world.write_config(feeds=LEDGER_ONLY + second)
    result = await world.run()
    assert (result.exit_code, len(world.effects)) == (1, 4)
    assert "4 payments of ledger.csv to be created are in ledger.csv of feed ledger" in str(
        result.failure
    )
