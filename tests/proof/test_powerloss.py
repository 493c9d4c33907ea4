"""The journal keeps what it promised through any power loss, and with less syncing it would not."""

import pytest

from tests.proof import powerloss


def test_nothing_that_was_promised_is_lost_when_the_power_goes() -> None:
    report = powerloss.run(300, seed=1)
    assert report.violations == []
    assert report.points > 200
    assert report.in_checkpoint > 10


def test_the_check_sees_what_is_lost_with_fewer_syncs() -> None:
    report = powerloss.run(120, seed=1, synchronous="NORMAL")
    assert any("is PENDING, not IN_FLIGHT" in violation for violation in report.violations)
    assert len(report.violations) > 20


def test_the_check_sees_a_journal_that_is_torn_without_syncs() -> None:
    report = powerloss.run(120, seed=1, synchronous="OFF")
    assert any("the journal is damaged" in violation for violation in report.violations)


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_a_violation_can_be_replayed(synchronous: str) -> None:
    first = powerloss.run(30, seed=2, synchronous=synchronous).violations[0]
    named, _, fault = first.partition(": ")
    seed, point, draw = (int(part.split()[1]) for part in named.split(", "))
    again = powerloss.replay(seed, point, draw, synchronous)
    assert again.partition(": ")[2] == fault
