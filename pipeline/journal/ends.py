"""The ends of a run's rows, as the journal had them when the run was first reported.

Later runs and reviews change what the journal says of a row, and a report of an earlier run must not
change with it. So the first report keeps what it was made of in the plan's folder, `ends*`, until the
plan is purged.
"""

from pathlib import Path
from typing import Any, Final

import orjson
import polars as pl

from pipeline.files import replacing, write_private
from pipeline.journal import doubts, lookups
from pipeline.journal.journal import Journal
from pipeline.journal.settling import settling_of
from pipeline.records import Disposition, Interaction, State, usd

_CAUSES: Final = ("found", "sent_again", "set_aside", "retried", "compared")
_ENDINGS: Final = {
    State.CONFIRMED: Disposition.CREATED,
    State.REFUSED: Disposition.REFUSED,
    State.PENDING: Disposition.PENDING,
}


class Ends:
    """The ends of one run's writes. `facts` holds what is not about single rows."""

    def __init__(self, folder: Path, journal: Journal, run_id: str) -> None:
        """Load what was kept in the plan's `folder`, or ask the journal."""
        self.journal = journal
        self._run_id = run_id
        self._folder = folder
        try:
            self.facts: dict[str, Any] = orjson.loads(self._seal.read_bytes())
            self._is_kept = True
        except (OSError, orjson.JSONDecodeError):
            self.facts = _facts(journal, run_id)
            self._is_kept = False

    @property
    def _seal(self) -> Path:
        return self._folder / "ends.json"

    def writes(self, name: str, keys: pl.Series) -> pl.DataFrame:
        """Return the writes with these keys as `lookups.writes_of` does; `name` tells parts apart."""
        path = self._folder / f"ends-{name}.parquet"
        if self._is_kept:
            return pl.read_parquet(path, glob=False)
        writes = lookups.writes_of(self.journal, keys, self._run_id)
        with replacing(path) as part:
            writes.write_parquet(part, compression_level=1)
        return writes

    def keep(self) -> None:
        """Keep what was asked for further reports of the run, once the first one is written."""
        if not self._is_kept and self._folder.is_dir():
            write_private(self._seal, orjson.dumps(self.facts))


def _facts(journal: Journal, run_id: str) -> dict[str, Any]:
    found = settling_of(journal, run_id)
    settled: dict[str, dict[str, list[int | None]]] = {}
    again: dict[str, list[int | None]] = {}
    keys = pl.Series("key", sorted(found.ends), dtype=pl.String)
    for key, last_run, feed, interaction, cents in lookups.amounts(journal, keys).iter_rows():
        is_sent = key in found.sent_again
        if is_sent:
            again.setdefault(feed, []).append(cents)
        if not (is_sent and last_run == run_id):  # else it is a row of this run's own files
            ending = _ENDINGS.get(found.ends[key], Disposition.IN_DOUBT)
            if ending is Disposition.CREATED and interaction == Interaction.UPDATE.value:
                ending = Disposition.UPDATED
            settled.setdefault(feed, {}).setdefault(ending.value, []).append(cents)
    return {
        "shut": sorted(doubts.shut_queues(journal)),
        "doubts": doubts.count_doubts(journal, run_id),
        "recovered": {cause: found.causes[cause] for cause in _CAUSES},
        "settled": {
            feed: {ending: _sum(cents) for ending, cents in sorted(endings.items())}
            for feed, endings in sorted(settled.items())
        },
        "sent_again": {feed: _sum(cents) for feed, cents in sorted(again.items())},
    }


def _sum(cents: list[int | None]) -> dict[str, Any]:
    """Return the number of writes, and their sum if they are payments."""
    amounts = [each for each in cents if each is not None]
    return {"rows": len(cents), **({"usd": usd(sum(amounts))} if amounts else {})}
