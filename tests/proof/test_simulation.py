"""A share of `make simulate`: schedules of everything that can go wrong, and every crash point."""

from collections import Counter

import pytest

from tests.proof.simulation import Outcome, crash_points, outcome, over

SCHEDULES = 2_400
UPDATED = 300  # a share of them, for the faults that are planted
CRASH_POINT_SEEDS = (2, 17, 40, 66, 91, 120)


def every_crash_point(seed: int) -> list[Outcome]:
    return list(crash_points(seed))


def test_schedules_of_all_faults_and_crashes_violate_nothing() -> None:
    states: Counter[str] = Counter()
    crashes = 0
    for each in over(outcome, range(SCHEDULES)):
        assert each.violations == []
        states += each.states
        crashes += each.crashes
    assert crashes > SCHEDULES / 4, "they are killed often"
    assert states["CONFIRMED"] > 0.6 * states.total(), "and most rows arrive all the same"
    assert states["IN_DOUBT"] > 0, "what cannot be known is parked"


def test_updates_write_over_nobodys_edit() -> None:
    updates: Counter[str] = Counter()
    for each in over(outcome, range(UPDATED)):
        assert each.violations == []
        updates += each.updates
    assert updates["CONFIRMED"] > 0.4 * updates.total(), "most updates of what nobody edited arrive"
    assert updates["conflict"] > 0, "and people did edit"


def test_a_read_of_a_coverage_does_not_count_as_a_write_that_moves_its_siblings() -> None:
    assert outcome(15477).violations == []


def test_every_crash_point_in_turn_with_another_in_the_recovery() -> None:
    points = [each for found in over(every_crash_point, CRASH_POINT_SEEDS) for each in found]
    assert len(points) >= 500
    assert [line for each in points for line in each.violations] == []
    assert sum(each.crashes for each in points) > 1.5 * len(points)


@pytest.mark.parametrize("seed", [3, 863])
def test_a_seed_replays(seed: int) -> None:
    assert outcome(seed) == outcome(seed)
