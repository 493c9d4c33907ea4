"""Twenty kills at random moments; `tests.proof.kills` makes more of them."""

from pathlib import Path

import pytest

from tests.proof import kills

pytestmark = pytest.mark.slow  # processes that are killed


async def test_killed_twenty_times_nothing_is_twice_and_nothing_is_lost(tmp_path: Path) -> None:
    report = await kills.run(20, 1, tmp_path)
    assert report.violations == []
    assert report.kills == 20
    assert report.amid >= 5, "kills between a world's first effect and its last"
    assert 0 < report.effects - report.updates <= report.rows
    assert report.updates > 0, "some killed runs update payers and ends"
