"""A journal in both stores, and the steps of a write."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.journal import opening, runs, writes
from pipeline.journal.journal import Journal
from pipeline.journal.runs import Run
from pipeline.journal.store import Database
from pipeline.records import (
    Attempt,
    Exchange,
    Intent,
    Interaction,
    State,
    Verdict,
)

URL = "https://fumage-example.canvasmedical.com"


NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of the journal: each test of it runs with both stores."""
    if request.param == "sqlite":
        return ""
    monkeypatch.setenv("PGPASSWORD", request.getfixturevalue("postgres_server").password)
    return str(request.getfixturevalue("database"))


def database_of(url: str) -> Database | None:
    return Database(url, lease_s=3.0) if url else None


@pytest.fixture
def journal(tmp_path: Path, url: str) -> Iterator[Journal]:
    with opening.open_journal(tmp_path, URL, database=database_of(url)) as opened:
        runs.start_run(opened, Run("r1", "run", NOW.isoformat()))
        yield opened


def intent(
    key: str = "k1", lane: str = "p1", cents: int = 500, claim: str = "", run_id: str = "r1"
) -> Intent:
    return Intent(
        key,
        "ledger",
        "PaymentNotice",
        Interaction.CREATE,
        lane,
        b"{}",
        "f",
        cents,
        claim,
        "",
        run_id,
    )


def attempt(of: Intent, verdict: Verdict, resource_id: str = "") -> Attempt:
    return Attempt(
        of, Exchange("write", NOW, 0.1, 201, "c1"), verdict, resource_id, "rule", "message"
    )


async def settle(journal: Journal, *attempts: Attempt) -> list[State]:
    return [state for state, _ in await writes.settle(journal, "r1", attempts, NOW)]


async def claim(journal: Journal, *intents: Intent) -> None:
    await writes.begin(journal, "r1", intents, NOW, NOW)
