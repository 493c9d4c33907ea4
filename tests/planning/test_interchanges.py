"""Which X12 834 files may be loaded now: newer ones, by their control number or their time."""

from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.journal.runs import LoadedInterchange, LoadedRun
from pipeline.planning.interchanges import check_interchanges
from pipeline.reading.source import Interchange, Slice, Source, Stamp
from pipeline.rows.feed import Feed, Kind

FEED = Feed("eligibility", Kind.ELIGIBILITY, "", {"start_on": "start"})
ONE_ROW = (Slice(1, 1, 0, 1),)


def source_of(
    number: int = 1,
    sha256: str = "a",
    created: str = "",
    *,
    name: str = "a.834",
    parties: str = "ZZ/A/B/ZZ/C",
    is_change: bool = False,
    is_test: bool = False,
    rows: int = 1,
) -> Source:
    found = Interchange(
        parties, f"{parties}/{number:09}/1,", f"{number:09}", is_change, created, is_test
    )
    return Source(
        Path(name),
        f"in/{name}",
        Path(),
        (),
        ONE_ROW * rows,
        sha256,
        Stamp(0, 0, 0),
        is_parquet=True,
        delimiter=",",
        skipped={} if rows else {"members": 2},
        interchange=found,
    )


def run(run_id: str, *loaded: Source, is_complete: bool = True) -> LoadedRun:
    entered = [
        LoadedInterchange(each.interchange.identity, each.sha256, each.interchange.created)
        for each in loaded
        if each.interchange
    ]
    return LoadedRun(run_id, is_complete, entered)


def rules(*sources: Source, before: tuple[LoadedRun, ...] = (), feed: Feed = FEED) -> list[str]:
    return [each["rule"] for each in check_interchanges(feed, sources, before)]


ONE, TWO = source_of(1, "a"), source_of(2, "c")
CORRECTED = source_of(1, "b")
OTHERS = source_of(1, "o", parties="ZZ/OTHER/ZZ/C")
MONDAY, TUESDAY, WEDNESDAY = (
    source_of(5, sha256, created)
    for sha256, created in (
        ("m", "20261123023000"),
        ("t", "20261124023000"),
        ("w", "20261125023000"),
    )
)


@pytest.mark.parametrize(
    ("today", "before", "said"),
    [
        (ONE, (), ""),
        (ONE, (run("r1", ONE),), ""),  # the latest again
        (ONE, (run("r1", ONE, is_complete=False),), ""),  # a killed run continues
        (ONE, (run("r1", CORRECTED, is_complete=False),), ""),  # corrected before any run ended
        (ONE, (run("r1", CORRECTED),), "other content"),
        (ONE, (run("r1", ONE), run("r2", TWO)), "later one"),
        (ONE, (run("r1", ONE), run("r2", TWO, is_complete=False)), "later one"),
        (ONE, (run("r1", ONE), run("r2", TWO), run("r3", ONE, is_complete=False)), ""),
        (ONE, (run("r1", ONE, is_complete=False), run("r2", TWO)), ""),
        # The number never changes: the time tells.
        (TUESDAY, (run("r1", MONDAY),), "files|control_number"),
        (TUESDAY, (run("r1", TUESDAY),), ""),
        (MONDAY, (run("r1", TUESDAY),), "not created later"),
        (MONDAY, (run("r1", MONDAY), run("r2", TUESDAY)), "later one"),
        (WEDNESDAY, (run("r1", MONDAY), run("r2", TUESDAY)), "files|control_number"),
        (TUESDAY, (run("r1", source_of(5, "m")),), "not created later"),  # entered without a time
        # The number is new: the time may contradict it.
        (source_of(6, "x", "20261124023000"), (run("r1", MONDAY),), ""),
        (source_of(6, "x", "20261122023000"), (run("r1", MONDAY),), "files|older"),
        (source_of(4, "x", "20261122023000"), (run("r1", MONDAY),), "has a lower control number"),
        (source_of(4, "x", "20261124023000"), (run("r1", MONDAY),), ""),  # it began again
        (source_of(4, "x", "20261123023000"), (run("r1", MONDAY),), ""),
        (source_of(4, "x", "20261122023000", parties="ZZ/A/B"), (run("r1", MONDAY),), ""),
        (source_of(4, "x"), (run("r1", MONDAY),), ""),
        # Files of other senders are no later ones of this sender.
        (ONE, (run("r1", ONE, OTHERS), run("r2", OTHERS)), ""),
        (ONE, (run("r1", ONE, OTHERS), run("r2", TWO), run("r3", OTHERS)), "later one"),
    ],
)  # fmt: skip
def test_what_was_loaded_before(today: Source, before: tuple[LoadedRun, ...], said: str) -> None:
    if said and "|" not in said:
        with pytest.raises(InputError, match=said) as caught:
            rules(today, before=before)
        assert caught.value.fix
        return
    assert rules(today, before=before) == ([said] if said else [])


def test_several_files_of_changes_of_one_sender_are_refused_with_their_order() -> None:
    late = source_of(3, "x", "20261124023000", name="a.834", is_change=True)
    early = source_of(2, "y", "20261124013000", name="b.834", is_change=True)
    with pytest.raises(InputError) as caught:
        rules(late, early)
    assert caught.value.message.startswith("b.834: 2 files of changes")
    assert "first this one (--input eligibility=in/b.834), then in/a.834" in caught.value.fix
    other = source_of(2, "y", "20261124013000", parties="ZZ/OTHER", is_change=True)
    assert rules(late, other) == []
    assert rules(late, late) == []  # one file under two names


def test_the_same_number_twice_in_one_run_is_refused() -> None:
    with pytest.raises(InputError, match=r"was loaded in a\.834 with other content"):
        rules(ONE, source_of(1, "b", name="b.834"))


def test_tests_and_files_without_coverages_are_reported() -> None:
    test = source_of(1, "a", name="a.834", is_test=True)
    empty = source_of(2, "b", name="b.834", rows=0)
    first, second = check_interchanges(FEED, [test, empty], ())
    assert (first["rule"], first["count"]) == ("files|test", 1)
    assert first["message"].startswith("a.834 is a test file (ISA15 = T)")
    assert second["rule"] == "files|no_coverage"
    assert second["message"].startswith("b.834 holds no coverage, only 2 members without one: ")
