"""The journal: the table of states, what SQLite refuses, and who may open it."""

import re
import sqlite3
import stat
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.errors import JournalBusy, JournalError, JournalForeign
from pipeline.journal import decisions, doubts, lookups, opening, runs, states, writes
from pipeline.journal.journal import Journal
from pipeline.journal.loss_detection import file_system_of
from pipeline.journal.runs import Run
from pipeline.records import (
    Doubt,
    Finding,
    Interaction,
    Settlement,
    State,
    Verdict,
)
from tests.support.journal_steps import NOW, URL, attempt, claim, database_of, intent, settle

SOON = timedelta(seconds=2)
LATER = NOW + timedelta(days=3)


def state_of(journal: Journal, key: str = "k1") -> str:
    found = lookups.known(journal, pl.Series([key]))
    return str(found["state"][0])


def test_the_table_of_states_names_each_step_once() -> None:
    """No way from a send to another one without `not_applied`, `absent`, or Canvas' refusal between."""
    assert set(states.TRANSITIONS.values()) == set(State)
    into_flight = {old for (old, _), new in states.TRANSITIONS.items() if new is State.IN_FLIGHT}
    assert into_flight == {State.PENDING}
    back = {
        (old, event) for (old, event), new in states.TRANSITIONS.items() if new is State.PENDING
    }
    assert back == {
        (State.IN_FLIGHT, "not_applied"), (State.IN_DOUBT, "absent"), (State.REFUSED, "retry")
    }  # fmt: skip
    assert not any(old is State.CONFIRMED for old, _ in states.TRANSITIONS)


@pytest.mark.parametrize("resource_type", ["PaymentNotice", "Coverage"])
@pytest.mark.parametrize("old", list(State))
@pytest.mark.parametrize("new", list(State))
async def test_the_database_allows_the_steps_of_the_table_and_no_other(
    journal: Journal, old: State, new: State, resource_type: str
) -> None:
    await claim(journal, intent()._replace(resource_type=resource_type))
    ways = {
        State.IN_FLIGHT: [],
        State.PENDING: ["PENDING"],
        State.IN_DOUBT: ["IN_DOUBT"],
        State.CONFIRMED: ["CONFIRMED"],
        State.REFUSED: ["REFUSED"],
        State.ABANDONED: ["IN_DOUBT", "ABANDONED"],
    }
    force = (
        "UPDATE write SET interaction = 'update', resource_id = 'id', state = ? WHERE key = 'k1'"
    )
    for step in ways[old]:
        await journal.write(partial(journal.store.execute, force, (step,)))
    table = {**states.TRANSITIONS, **(states.OF_COVERAGE if resource_type == "Coverage" else {})}
    allowed = (old, new) in {(first, last) for (first, _), last in table.items()}
    if allowed:
        await journal.write(lambda: journal.store.execute(force, (new.value,)))
        assert state_of(journal) == new.value
    else:
        with pytest.raises(JournalError, match="refuses a step"):
            await journal.write(lambda: journal.store.execute(force, (new.value,)))


async def test_what_has_a_resource_is_neither_created_again_nor_given_another(
    journal: Journal,
) -> None:
    covered = intent()._replace(resource_type="Coverage")
    await claim(journal, covered)
    await settle(journal, attempt(covered, Verdict.ACCEPTED, "id1"))
    run = journal.store.execute
    open_again = "UPDATE write SET state = 'PENDING' WHERE key = 'k1'"
    update = "UPDATE write SET interaction = 'update', state = 'IN_FLIGHT' WHERE key = 'k1'"
    await journal.write(lambda: (run(open_again), run(update)))
    for resource_id in ("id2", None):
        change = "UPDATE write SET resource_id = ? WHERE key = 'k1'"
        with pytest.raises(JournalError, match="refuses a step"):
            journal.read(partial(run, change, (resource_id,)))
    await settle(journal, attempt(covered, Verdict.NOT_APPLIED))
    with pytest.raises(JournalError, match="refuses a step"):
        await claim(journal, covered)


async def test_a_write_lives_from_claim_to_confirmation(journal: Journal) -> None:
    await claim(journal, intent())
    assert state_of(journal) == "IN_FLIGHT"
    assert await settle(journal, attempt(intent(), Verdict.ACCEPTED, "id1")) == [State.CONFIRMED]
    line = lookups.writes_of(journal, pl.Series(["k1"])).row(0, named=True)
    assert (line["state"], line["resource_id"], line["attempts"], line["correlation_id"]) == (
        "CONFIRMED",
        "id1",
        1,
        "c1",
    )


@pytest.mark.parametrize("verdict", [Verdict.ACCEPTED, Verdict.LOST])
async def test_what_was_sent_and_may_have_arrived_is_never_claimed_again(
    journal: Journal, verdict: Verdict
) -> None:
    await claim(journal, intent())
    await settle(journal, attempt(intent(), verdict, "id1"))
    with pytest.raises(JournalError, match="another state than expected"):
        await claim(journal, intent())


async def test_a_claim_is_not_made_twice(journal: Journal) -> None:
    await claim(journal, intent())
    with pytest.raises(JournalError):
        await claim(journal, intent())


async def test_an_equal_payment_is_not_sent_while_its_twin_is_unsettled(journal: Journal) -> None:
    await claim(journal, intent("k1"))
    await settle(journal, attempt(intent("k1"), Verdict.LOST))
    with pytest.raises(JournalError, match="refuses a step"):
        await claim(journal, intent("k2"))


async def test_different_payments_of_a_patient_are_no_twins(journal: Journal) -> None:
    await claim(
        journal,
        intent("k1"),
        intent("k2", cents=501),
        intent("k3", claim="c"),
        intent("k4", lane="p2"),
    )
    assert await settle(journal, attempt(intent("k1"), Verdict.ACCEPTED, "id1")) == [
        State.CONFIRMED
    ]
    await claim(journal, intent("k5"))


async def test_an_id_of_another_row_is_no_proof(journal: Journal) -> None:
    one, two = intent("k1"), intent("k2", lane="p2")
    await claim(journal, one, two)
    ends = await settle(
        journal, attempt(one, Verdict.ACCEPTED, "id1"), attempt(two, Verdict.ACCEPTED, "id1")
    )
    assert ends == [State.CONFIRMED, State.IN_DOUBT]


async def test_a_runs_attempts_are_counted(journal: Journal) -> None:
    for tries in (1, 2):
        await claim(journal, intent())
        ends = await writes.settle(journal, "r1", [attempt(intent(), Verdict.NOT_APPLIED)], NOW)
        assert ends == [(State.PENDING, tries)]
    runs.start_run(journal, Run("r2", "run", NOW.isoformat()))
    await claim(journal, intent(run_id="r2"))
    assert lookups.writes_of(journal, pl.Series(["k1"]))["attempts"][0] == 1


async def test_a_released_claim_costs_no_attempt(journal: Journal) -> None:
    await claim(journal, intent())
    await writes.settle(journal, "r1", [], NOW, unsent=[intent()])
    assert state_of(journal) == "PENDING"
    await claim(journal, intent())
    assert lookups.writes_of(journal, pl.Series(["k1"]))["attempts"][0] == 1


async def test_what_a_crash_left_in_flight_is_in_doubt(tmp_path: Path, url: str) -> None:
    with opening.open_journal(tmp_path, URL, database=database_of(url)) as journal:
        runs.start_run(journal, Run("r1", "run", NOW.isoformat()))
        await claim(journal, intent("k1"), intent("k2", lane="p2"))
    with opening.open_journal(tmp_path, URL, database=database_of(url)) as journal:
        assert runs.start_run(journal, Run("r2", "run", NOW.isoformat())) == 2
        assert state_of(journal) == "IN_DOUBT"
        assert doubts.shut_queues(journal) == {"p1", "p2"}


async def owed(journal: Journal, since: datetime) -> Doubt:
    """A write whose answer was lost and which a search did not show: it goes again."""
    await writes.begin(journal, "r1", [intent()], since, since)
    sent = attempt(intent(), Verdict.LOST)._replace(since=since, until=since + SOON)
    await writes.settle(journal, "r1", [sent], since)
    absent = Finding(Settlement.ABSENT, "recover|absent", "")
    await decisions.allow_resend(journal, "r1", intent(), absent, since)
    return doubts.all_doubts(journal)[0]


async def test_a_resend_keeps_the_clocks_of_the_first_send(journal: Journal) -> None:
    """`since` is the first send's, and without how far apart the clocks were then it proves nothing."""
    before = await owed(journal, NOW)
    await writes.begin(journal, "r1", [intent()], LATER, LATER - timedelta(hours=1))
    await settle(journal, attempt(intent(), Verdict.LOST))
    (after,) = doubts.all_doubts(journal)
    assert (after.since, after.ahead) == (before.since, before.ahead) == (NOW, timedelta())


async def test_a_claim_that_is_taken_back_does_not_forget_the_last_send(journal: Journal) -> None:
    before = await owed(journal, NOW)
    await writes.begin(journal, "r1", [intent()], LATER, LATER)
    await writes.settle(journal, "r1", [], LATER, unsent=[intent()])
    (after,) = doubts.all_doubts(journal)
    assert after.until == before.until == NOW + SOON


async def test_a_resend_that_a_crash_cut_off_is_dated_to_itself(tmp_path: Path, url: str) -> None:
    with opening.open_journal(tmp_path, URL, database=database_of(url)) as journal:
        runs.start_run(journal, Run("r1", "run", NOW.isoformat()))
        await owed(journal, NOW)
        await writes.begin(journal, "r1", [intent()], LATER, LATER)
    with opening.open_journal(tmp_path, URL, database=database_of(url)) as journal:
        runs.start_run(journal, Run("r2", "run", (LATER + SOON).isoformat()))
        (doubt,) = doubts.all_doubts(journal)
    assert doubt.since == NOW
    assert doubt.until is not None
    assert LATER <= doubt.until <= LATER + timedelta(minutes=2)


def test_only_one_run_holds_it(tmp_path: Path, url: str) -> None:
    with opening.open_journal(tmp_path, URL, database=database_of(url)), pytest.raises(JournalBusy):
        opening.open_journal(tmp_path, URL, database=database_of(url))
    opening.open_journal(tmp_path, URL, database=database_of(url)).close()


def test_it_belongs_to_one_canvas(tmp_path: Path, url: str) -> None:
    opening.open_journal(tmp_path, URL, database=database_of(url)).close()
    with pytest.raises(JournalForeign, match=r"other\.example"):
        opening.open_journal(tmp_path, "https://other.example", database=database_of(url))


@pytest.mark.parametrize(
    "damage",
    [
        b"not a database at all, but long enough to look" * 100,
        b"SQLite format 3\0" + b"\xff" * 4096,
    ],
)
def test_a_damaged_journal_is_not_started_afresh(tmp_path: Path, damage: bytes) -> None:
    opening.open_journal(tmp_path, URL).close()
    (tmp_path / "journal.sqlite").write_bytes(damage)
    with pytest.raises(JournalError):
        opening.open_journal(tmp_path, URL)
    assert (tmp_path / "journal.sqlite").read_bytes() == damage


@pytest.mark.parametrize("url", [""])
def test_it_is_durable_and_private(tmp_path: Path, journal: Journal) -> None:
    def settings() -> dict[str, Any]:
        names = ("journal_mode", "synchronous", "locking_mode")
        return {name: journal.store.execute(f"PRAGMA {name}").fetchone()[0] for name in names}

    assert journal.read(settings) == {
        "journal_mode": "wal",
        "synchronous": 2,
        "locking_mode": "exclusive",
    }
    for path in tmp_path.glob("journal*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("statement", ["DELETE FROM write", "DELETE FROM trail", "UPDATE trail SET key = ''",
                                       "INSERT INTO write (key, state, run_id, feed, resource_type, lane, claim, likeness, fingerprint) VALUES ('k9', 'IN_FLIGHT', 'r1', '', '', '', '', '', '')"])  # fmt: skip
async def test_nothing_that_was_sent_is_forgotten(journal: Journal, statement: str) -> None:
    await claim(journal, intent())
    await settle(journal, attempt(intent(), Verdict.ACCEPTED, "id1"))
    with pytest.raises(JournalError, match="refuses a step"):
        await journal.write(lambda: journal.store.execute(statement))


@pytest.mark.parametrize("url", [""])
async def test_after_a_failed_write_nothing_more_is_written(journal: Journal) -> None:
    def fail() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(JournalError, match="cannot be read or written"):
        await journal.write(fail)
    with pytest.raises(JournalError, match="cannot be read or written"):
        await claim(journal, intent())


@pytest.mark.parametrize("url", [""])
@pytest.mark.parametrize("query", ["shut_lanes", "doubt_count", "doubts", "doubts_of", "left_in_flight", "claimed", "answers", "known", "writes"])  # fmt: skip
def test_no_question_asked_at_each_start_reads_all_writes(journal: Journal, query: str) -> None:
    names = dict.fromkeys(re.findall(r":(\w+)", journal.store.sql[query]), "[]")
    explained = "EXPLAIN QUERY PLAN " + journal.store.sql[query]
    steps = journal.read(lambda: journal.store.execute(explained, names).fetchall())
    scans = [line[3] for line in steps if line[3].startswith("SCAN write")]
    assert all("USING" in scan for scan in scans), scans


# What each event of the table may be taken from: state -> events, given whether the write has an
# effect in Canvas. "absent" is true only after the quiet time; "suspected" is the look before a
# first send by a journal that was lost.
Truth = tuple[State, int]


def reachable(*, is_absent_true: bool, is_crash_doubted: bool = True) -> set[Truth]:
    """All that can come of one write: (state, effects in Canvas), however often it is tried."""
    seen: set[Truth] = set()
    open_: list[Truth] = [(State.PENDING, 0)]
    while open_:
        state, effects = open_.pop()
        if (state, effects) in seen or effects > 2:
            continue
        seen.add((state, effects))
        for (old, event), new in states.TRANSITIONS.items():
            if old is state:
                open_ += [(new, after) for after in truths(event, effects, is_absent_true)]
        if state is State.IN_FLIGHT and not is_crash_doubted:
            open_ += [(State.PENDING, effects), (State.PENDING, effects + 1)]
    return seen


def truths(event: str, effects: int, is_absent_true: bool) -> list[int]:
    """The effects that there may be once an event has happened; none: it cannot happen."""
    match event:
        case "accepted":
            return [effects + 1]
        case "lost":
            return [effects, effects + 1]
        case "found" | "suspected":
            return [effects] if effects else []
        case "absent":
            return [effects] if not effects or not is_absent_true else []
        case _:  # claim, refused, not_applied, retry, abandoned, reopened: nothing arrives by them
            return [effects]


def test_no_path_through_the_table_has_two_effects() -> None:
    ends = reachable(is_absent_true=True)
    assert max(effects for _, effects in ends) == 1
    assert {effects for state, effects in ends if state is State.CONFIRMED} == {1}
    assert {effects for state, effects in ends if state in {State.PENDING, State.REFUSED}} == {0}
    assert {state for state, _ in ends} == set(State)


def test_the_exploration_sees_two_effects_where_there_can_be_two() -> None:
    assert max(effects for _, effects in reachable(is_absent_true=False)) > 1
    tried_again = reachable(is_absent_true=True, is_crash_doubted=False)
    assert max(effects for _, effects in tried_again) > 1


MOUNTS = rb"""overlay / overlay rw,relatime 0 0
proc /proc proc rw 0 0
fs:/a /srv/night\040files nfs4 rw 0 0
fs:/b /srv/a\134b cifs rw 0 0
fs:/c /srv/tab\011and\043 lustre rw 0 0
/dev/sda1 /mnt ext4 rw 0 0
fs:/d /mnt nfs rw 0 0
fs:/e /srv/<ff> ceph rw 0 0
""".replace(b"<ff>", b"\xff")


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/night files/state", "nfs4"),
        ("/srv/night files", "nfs4"),
        ("/srv/night", "overlay"),
        ("/srv/a\\b/state", "cifs"),
        ("/srv/tab\tand#/state", "lustre"),
        ("/mnt/state", "nfs"),
        ("/mnt2/state", "overlay"),
        ("/srv/\udcff/state", "ceph"),
        ("/", "overlay"),
    ],
)
def test_the_file_system_of_a_folder_is_found_whatever_its_path_holds(
    folder: str, kind: str
) -> None:
    assert file_system_of(Path(folder), MOUNTS) == kind


async def test_times_are_forgotten_of_what_is_not_settled_once_a_clock_was_set(
    journal: Journal,
) -> None:
    rows = [intent(key, lane=key) for key in ("lost", "flying", "owed", "confirmed")]
    await claim(journal, *rows)
    await settle(
        journal,
        attempt(rows[0], Verdict.LOST),
        attempt(rows[2], Verdict.LOST),
        attempt(rows[3], Verdict.ACCEPTED, "n1"),
    )
    absent = Finding(Settlement.ABSENT, "recover|absent", "a search shows none like it")
    await decisions.allow_resend(journal, "r1", rows[2], absent, NOW)
    await decisions.forget_times(journal, lambda ahead: ahead != timedelta())
    assert [each.ahead for each in doubts.all_doubts(journal)] == [timedelta()] * 2
    await decisions.forget_times(journal, lambda _: True)
    assert [each.ahead for each in doubts.all_doubts(journal)] == [None] * 2
    runs.start_run(journal, Run("r2", "run", NOW.isoformat()))
    crashed = await doubts.doubt_of(journal, "flying")
    assert crashed is not None
    assert (crashed.ahead, crashed.until) == (None, None)


async def test_a_lost_update_is_known_until_the_next_confirmed_write(journal: Journal) -> None:
    found = Finding(Settlement.FOUND, "recover|found", "a read shows it", "c1")
    row = intent()._replace(resource_type="Coverage", amount_cents=None)
    await claim(journal, row, intent("payment", lane="p2"))
    await settle(journal, attempt(row, Verdict.ACCEPTED, "c1"))
    assert doubts.lost_updates(journal) == frozenset()
    row = row._replace(interaction=Interaction.UPDATE, resource_id="c1", fingerprint="g")
    await claim(journal, row)
    await settle(
        journal, attempt(row, Verdict.LOST), attempt(intent("payment", lane="p2"), Verdict.LOST)
    )
    assert doubts.lost_updates(journal) == {"k1"}
    await decisions.confirm(journal, "r1", row, found, NOW)
    assert doubts.lost_updates(journal) == frozenset()
    await claim(journal, row._replace(fingerprint="h"))
    runs.start_run(journal, Run("r2", "run", NOW.isoformat()))
    assert doubts.lost_updates(journal) == {"k1"}, "the run that sent it was killed"
