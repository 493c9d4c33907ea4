"""What a plan may not be: too much, too little, or not what the sender announced. Pure.

Whatever is wrong here is found before the first write (interface.md, "Rules that hold everywhere").
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.errors import LimitError
from pipeline.feeds.manifest import Expected
from pipeline.job import Job, Limits
from pipeline.records import Disposition, usd

Last = Callable[[str], tuple[int, int] | None]  # feed -> its rows and cents the last time


def guard(
    job: Job, metas: Mapping[str, Mapping[str, Any]], said: Mapping[str, Expected], last_feed: Last
) -> None:
    """Raises LimitError where a plan exceeds what the configuration allows, or is not what was `said`.

    `metas`: what the plan says of each feed; `said`: what manifests say. Where several limits are
    exceeded the first is raised, with the others in it.
    """
    exceeded = list(_exceeded(job, metas, said, last_feed))
    if exceeded:
        first, *others = exceeded
        raise LimitError(first.message, first.fix, others)


def _exceeded(
    job: Job, metas: Mapping[str, Mapping[str, Any]], said: Mapping[str, Expected], last_feed: Last
) -> Iterator[LimitError]:
    limits = job.limits
    for feed in job.feeds:
        meta = metas[feed.name]
        for totals in (job.expected, said):
            yield from _not_as_expected(feed.name, meta, totals.get(feed.name, Expected()))
        yield from _unaccounted(feed.name, meta)
        yield from _rejected(feed.name, meta["planned"], limits)
        if feed.name not in job.inputs:
            yield from _changed(feed.name, meta, last_feed(feed.name), limits.change_max)
    writes = sum(meta["to_send"] for meta in metas.values())
    if limits.writes_max is not None and writes > limits.writes_max:
        yield LimitError(
            f"the plan has {writes:,} writes, above limits.writes_max = {limits.writes_max:,}",
            "check the files, and raise the limit if they are right",
        )
    cents = sum(meta["to_send_cents"] for meta in metas.values())
    if limits.total_cents_max is not None and cents > limits.total_cents_max:
        yield LimitError(
            f"the plan posts {usd(cents)} USD, above limits.total_usd_max = {usd(limits.total_cents_max)}",
            "check the files, and raise the limit if they are right",
        )


def _not_as_expected(
    name: str, meta: Mapping[str, Any], expected: Expected
) -> Iterator[LimitError]:
    rows, cents = meta["rows_read"], meta["cents_read"]
    if expected.rows not in {None, rows}:
        yield _unexpected(name, f"rows={expected.rows}", str(rows))
    if expected.total_cents is not None and expected.total_cents != cents:
        yield _unexpected(name, f"total_usd={usd(expected.total_cents)}", usd(cents))


def _unexpected(name: str, expected: str, found: str) -> LimitError:
    return LimitError(
        f"feed {name}: the sender says {expected}, the files hold {found}",
        "ask the sender which is right; the file may be cut short",
    )


def _unaccounted(name: str, meta: Mapping[str, Any]) -> Iterator[LimitError]:
    """The reader and the mapping count apart (`feeds/tally.py`): they must agree before a write."""
    read = (meta["rows_read"], meta["cents_read"])
    planned = (sum(meta["planned"].values()), meta["planned_cents"])
    if read != planned:
        yield LimitError(
            f"feed {name}: {read[0]:,} rows and {usd(read[1])} USD read, "
            f"{planned[0]:,} rows and {usd(planned[1])} USD planned",
            "nothing was sent. This is a fault of canvas-ingest: report it with this line",
        )


def _rejected(name: str, planned: Mapping[str, int], limits: Limits) -> Iterator[LimitError]:
    rejected = planned[Disposition.REJECTED.value]
    rows = sum(planned.values()) - planned[Disposition.FILTERED.value]
    fix = (
        "see rejects-"
        + name
        + ".csv for what is wrong; mend the file or the configuration, or raise limits.rejects_max"
    )
    if limits.rejects_max is not None and rejected > limits.rejects_max:
        yield LimitError(
            f"feed {name}: {rejected:,} rows rejected, above limits.rejects_max = {limits.rejects_max:,}",
            fix,
        )
    if limits.rejects_share_max is not None and rejected > limits.rejects_share_max * rows:
        yield LimitError(
            f"feed {name}: {rejected:,} of {rows:,} rows rejected ({rejected / rows:.1%}), "
            f"above limits.rejects_max = {limits.rejects_share_max:.0%}",
            fix,
        )


def _changed(
    name: str, meta: Mapping[str, Any], last: tuple[int, int] | None, change_max: float | None
) -> Iterator[LimitError]:
    if last is None or change_max is None:
        return
    for what, before, now in (
        ("rows", last[0], meta["rows_read"]),
        ("cents", last[1], meta["cents_read"]),
    ):
        if before > 0 and not before / change_max <= now <= before * change_max:
            yield LimitError(
                f"feed {name}: {now:,} {what}, and {before:,} the last time: more than limits.change_max = {change_max:g} times apart",
                "check that the file is whole, and raise the limit if it is right",
            )
