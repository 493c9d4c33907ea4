"""One strike of each of three kinds; `python -m tests.proof cluster` makes more of them."""

from collections import Counter
from pathlib import Path

import pytest

from tests.proof import cluster
from tests.support.postgres import missing

pytestmark = pytest.mark.slow  # a cluster that is struck

pytest.importorskip("distributed")


@pytest.mark.skipif(bool(missing()), reason=missing() or "a server can be started")
async def test_struck_three_times_nothing_is_twice_and_nothing_is_lost(tmp_path: Path) -> None:
    strikes = Counter(kill=1, freeze=1, restart=1)
    told = await cluster.run(strikes, 1, tmp_path, patients=40)
    assert told.violations == []
    assert told.strikes == strikes
    assert told.row_count // 2 < told.effects <= told.row_count
