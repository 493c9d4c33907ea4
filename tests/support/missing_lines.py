"""The lines of missing-<feed>.csv."""

import csv

from pipeline.commands.run import Result


def missing_lines(result: Result, feed: str = "eligibility") -> list[dict[str, str]]:
    path = result.folder / f"missing-{feed}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
