"""How many writes are marked in flight ahead of the senders, and with how many commits."""

import asyncio
from collections import Counter

import pytest

from pipeline.journal import history, opening
from pipeline.journal.sqlite import SqliteStore
from pipeline.records import Intent, Interaction
from pipeline.sending.claims import Claims
from tests.support.world import LEDGER_ONLY, MakeWorld, patient_key

INTENT = Intent("k", "f", "PaymentNotice", Interaction.CREATE, "p", b"", "", 1, "", "", "r")


def groups(rate_per_s: float, sent: int) -> tuple[list[int], int]:
    """Mark and send writes one after the other. Returns the sizes of the groups, and the most that were marked."""
    claims, sizes, most = Claims(rate_per_s), list[int](), 0
    for _ in range(sent):
        if claims.is_low:
            sizes.append(claims.room)
            for _ in range(claims.room):
                claims.queue.put_nowait(INTENT)
        most = max(most, claims.queue.qsize())
        claims.queue.get_nowait()
    return sizes, most


@pytest.mark.parametrize(
    ("rate_per_s", "group", "most"),
    [(0.5, 1, 1), (5, 1, 1), (50, 5, 5), (200, 5, 6), (500, 5, 7), (2_000, 10, 20), (100_000, 128, 256)],
)  # fmt: skip
def test_a_group_is_small_at_low_rates_and_bounded_at_high_ones(
    rate_per_s: float, group: int, most: int
) -> None:
    sizes, marked = groups(rate_per_s, 2_000)
    assert (sizes[-1], marked) == (group, most)


async def test_answers_are_entered_with_the_next_claims(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 50 a second: a commit for each group of claims, and few beside them."""
    commits, commit = Counter[str](), SqliteStore.commit

    def count(store: SqliteStore) -> None:
        commits["made"] += 1
        commit(store)

    world = await make_world(patients=100)
    world.write_config(feeds=LEDGER_ONLY, rate_per_s=50.0, concurrency=8)
    world.write_ledger([(f"T{n}", patient_key(n), "1.00", "") for n in range(100)])
    monkeypatch.setattr(SqliteStore, "commit", count)
    async with asyncio.timeout(60):
        assert (await world.run()).exit_code == 0
    assert len(world.effects) == 100
    assert commits["made"] < 60, "20 groups of claims, and what a run begins and ends with"
    with opening.open_journal(world.folder / "state", world.url) as journal:
        assert history.first_break(journal) == 0
