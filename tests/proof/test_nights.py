"""A few nights with changed keys, deliveries and files; `python -m tests.proof nights` plays more."""

from collections import Counter

import pytest

from tests.proof.nights import played
from tests.proof.simulation import over

pytestmark = pytest.mark.slow  # nights of whole runs

SCENARIOS = range(1000, 1006)


def test_nights_of_changed_keys_deliveries_and_files_post_each_payment_once() -> None:
    stories = list(over(played, SCENARIOS))
    assert [each for story in stories for each in story.violations] == []
    total = Counter[str]()
    for story in stories:
        total.update(runs=story.runs, refusals=story.refusals, effects=story.effects)
    assert total["runs"] >= 2 * len(SCENARIOS)
    assert total["effects"] > len(SCENARIOS), "most of the payments are posted"
    assert total["refusals"] > 0, "some mistakes are refused"
