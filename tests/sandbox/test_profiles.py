"""Fault profiles: the same decisions for the same seed, and what can be loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.sandbox import PROFILES, Faults, load_faults
from pipeline.sandbox.faults import FATES, decide

if TYPE_CHECKING:
    from pathlib import Path


def test_one_seed_replays_the_same_decisions() -> None:
    rough = PROFILES["rough"]
    keys = [f"POST PaymentNotice {number} 1" for number in range(2000)]
    first = [decide(rough, 3, key, struck=True) for key in keys]
    assert first == [decide(rough, 3, key, struck=True) for key in keys]
    assert first != [decide(rough, 4, key, struck=True) for key in keys]
    for fate in FATES:
        share = sum(decision.fate == fate for decision in first) / len(first)
        assert share == pytest.approx(getattr(rough, fate), abs=0.02)
    low, high = rough.latency_s
    assert all(low <= one.wait_before_s + one.wait_after_s <= high for one in first)


def test_faults_are_loaded_by_name_or_from_a_file(tmp_path: Path) -> None:
    assert load_faults("lost") is PROFILES["lost"]
    path = tmp_path / "mine.toml"
    path.write_text('profile = "flaky"\nlatency_s = [0.1, 0.2]\nstatuses = [503]\n')
    mine = load_faults(str(path))
    assert (mine.error_after, mine.latency_s, mine.statuses) == (0.05, (0.1, 0.2), (503,))
    path = tmp_path / "mine.json"
    path.write_text('{"lose_after": 0.5}')
    assert load_faults(str(path)) == Faults(lose_after=0.5)


@pytest.mark.parametrize(
    "text",
    [
        "lose = 1.0",
        "lose_after = 2.0",
        "lose_after = -0.1",
        'profile = "nope"',
        'location = "nope"',
        'lose_after = "often"',
        "statuses = []",
        "latency_s = [2.0, 1.0]",
    ],
)
def test_wrong_faults_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r".+"):
        load_faults(str(path))


def test_an_unknown_profile_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="none, slow, lost"):
        load_faults("nope")
