"""Ends of coverages in the journal: the day that is planned, and the day that Canvas has."""

import polars as pl

from pipeline.journal import decisions, doubts, lookups, runs, writes
from pipeline.journal.journal import Journal
from pipeline.records import Finding, Intent, Interaction, Settlement, Verdict
from tests.support.journal_steps import NOW, attempt, claim, intent, settle

DAY = "2026-11-20"
KEYS = pl.Series("key", ["k1"])
COVERAGE = intent()._replace(feed="roster", resource_type="Coverage", amount_cents=None, rank=1)
UPDATE = COVERAGE._replace(interaction=Interaction.UPDATE, resource_id="c1", fingerprint="g")
END = UPDATE._replace(fingerprint="e", is_cancel=True, end_on=DAY)


def active(journal: Journal) -> list[tuple[str, str | None]]:
    return list(lookups.active(journal, KEYS).select("held", "end_on").iter_rows())


def ended(journal: Journal) -> list[tuple[str, str]]:
    return list(lookups.ended(journal, KEYS).iter_rows())


async def written(journal: Journal, each: Intent) -> None:
    await claim(journal, each)
    await settle(journal, attempt(each, Verdict.ACCEPTED, "c1"))


async def test_an_end_is_known_from_its_plan_to_the_row_that_is_back(journal: Journal) -> None:
    await written(journal, COVERAGE)
    assert (active(journal), ended(journal)) == ([("f", None)], [])
    await writes.intend(journal, "r1", [END], NOW)
    assert (active(journal), ended(journal)) == ([("f", DAY)], [])
    assert lookups.cancel_keys(journal, "roster").to_list() == ["k1"]
    assert runs.runs_holding(journal, ["roster"]) == ["r1"]
    await written(journal, END)
    assert (active(journal), ended(journal)) == ([], [("k1", DAY)])
    assert lookups.cancel_keys(journal, "roster").to_list() == []
    assert lookups.active_keys(journal, "roster").to_list() == []
    assert runs.runs_holding(journal, ["roster"]) == []
    ranks = lookups.ranks(journal, pl.Series(["p1"]))
    assert ranks.select("rank", "held_end").rows() == [(1, DAY)], "its order may still be taken"
    await written(journal, UPDATE)
    assert (active(journal), ended(journal)) == ([("g", None)], [])


async def test_an_end_whose_answer_was_lost_keeps_its_day(journal: Journal) -> None:
    await written(journal, COVERAGE)
    await claim(journal, END)
    await settle(journal, attempt(END, Verdict.LOST))
    (doubt,) = doubts.all_doubts(journal)
    assert doubt.intent.end_on == DAY
    assert (active(journal), ended(journal)) == ([("f", None)], []), "until it is settled"
    found = Finding(Settlement.FOUND, "recover|found", "", "c1")
    await decisions.confirm(journal, "r1", doubt.intent, found, NOW)
    assert (active(journal), ended(journal)) == ([], [("k1", DAY)])


async def test_an_end_that_was_refused_keeps_its_day(journal: Journal) -> None:
    await written(journal, COVERAGE)
    await claim(journal, END)
    await settle(journal, attempt(END, Verdict.REFUSED))
    assert (active(journal), ended(journal)) == ([("f", DAY)], [])
    assert lookups.cancel_keys(journal, "roster").to_list() == ["k1"]
