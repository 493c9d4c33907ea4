"""Check the limits of a plan: too much, too little, or not what the sender announced. Pure.

They are checked before the first write.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pipeline.errors import LimitError
from pipeline.job import Job, LimitSettings
from pipeline.reading.manifest import Expected
from pipeline.records import Disposition, counted, usd
from pipeline.rows.feed import Feed

_REPEATS_MIN: Final = 3  # a share of few creates does not stop a run

Last = Callable[[str], tuple[int, int] | None]  # feed -> its rows and cents in the last run


def check_limits(
    job: Job, metas: Mapping[str, Mapping[str, Any]], said: Mapping[str, Expected], last_feed: Last
) -> None:
    """Raise LimitError if a plan exceeds a limit of the configuration, or is not what the sender announced.

    Args:
        job: The configuration.
        metas: The plan's metadata of each feed.
        said: The control totals of manifests, by feed.
        last_feed: Returns rows and cents of a feed in the last run; None if there is none.

    Raises:
        LimitError: The first limit that is exceeded, with the others in it.
    """
    exceeded = list(_exceeded(job, metas, said, last_feed))
    if exceeded:
        first, *others = exceeded
        raise LimitError(first.message, first.fix, others)


def exceeds_early(
    job: Job, metas: Mapping[str, Mapping[str, Any]], said: Mapping[str, Expected], last_feed: Last
) -> bool:
    """Return whether a plan exceeds a limit that no answer of Canvas can bring down again.

    Args:
        job: The configuration.
        metas: The plan's metadata of each feed, with what its rows came to so far.
        said: The control totals of manifests, by feed.
        last_feed: As for `check_limits`.
    """
    for feed in job.feeds:
        if next(_of_files(job, feed, metas[feed.name], said, last_feed), None) is not None:
            return True
    return False


def _of_files(
    job: Job, feed: Feed, meta: Mapping[str, Any], said: Mapping[str, Expected], last_feed: Last
) -> Iterator[LimitError]:
    """Yield what is wrong with the files of a feed, whatever Canvas has."""
    for totals in (job.expected, said):
        yield from _not_as_expected(feed.name, meta, totals.get(feed.name, Expected()))
    yield from _rejected(feed.name, meta["limited"], job.limits)
    if feed.name not in job.inputs and not meta["is_change"]:
        yield from _changed(feed.name, meta, last_feed(feed.name), job.limits.change_max)


def _exceeded(
    job: Job, metas: Mapping[str, Mapping[str, Any]], said: Mapping[str, Expected], last_feed: Last
) -> Iterator[LimitError]:
    limits = job.limits
    for feed in job.feeds:
        meta = metas[feed.name]
        yield from _of_files(job, feed, meta, said, last_feed)
        yield from _unaccounted(feed.name, meta)
        yield from _misread(feed, meta)
        yield from _gone(feed.name, meta, job.accept_repeats or 0)
        yield from _copied(feed.name, meta["copied"], job.accept_repeats or 0)
    if not are_repeats_accepted(job, metas):
        for name in feeds_above_repeats(limits, metas):
            yield _repeated(job, name, metas)
    writes = sum(meta["to_send"] - meta["rewritten"] for meta in metas.values())
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
    """Yield an error if the reader and the mapping, which count apart (`rows/tally.py`), do not agree."""
    read = (meta["rows_read"], meta["cents_read"])
    planned = (sum(meta["planned"].values()), meta["planned_cents"])
    if read != planned:
        yield LimitError(
            f"feed {name}: {read[0]:,} rows and {usd(read[1])} USD read, "
            f"{planned[0]:,} rows and {usd(planned[1])} USD planned",
            "nothing was sent. This is a fault of canvas-ingest: report it with this line",
        )


def _misread(feed: Feed, meta: Mapping[str, Any]) -> Iterator[LimitError]:
    """Yield an error if rows are to be written from a file whose letters may be read wrong."""
    files = meta["may_be_utf8"]
    if files and meta["planned"][Disposition.PENDING.value]:
        yield LimitError(
            f"feed {feed.name}: {files[0]} is valid UTF-8, and is read as {feed.encoding}, "
            "in which each of its letters beyond ASCII becomes two or more others",
            f'set encoding = "utf-8" for {feed.name}',
        )


def _rejected(name: str, limited: Mapping[str, int], limits: LimitSettings) -> Iterator[LimitError]:
    """Yield an error if more rows are rejected than allowed, without those of reject files that are fed in again."""
    most, rows, rejected = limits.rejects_max, limited["rows"], limited["rejected"]
    if most is not None and rejected > most.of(rows):
        yield LimitError(
            f"feed {name}: {rejected:,} of {rows:,} rows rejected ({rejected / rows:.1%}), "
            f"above limits.rejects_max = {most}",
            f"see rejects-{name}.csv for what is wrong; correct the file or the configuration, "
            "or raise limits.rejects_max",
        )


def _gone(name: str, meta: Mapping[str, Any], accepted: int) -> Iterator[LimitError]:
    """Yield an error if equal rows are counted and the files lack payments of the last delivery.

    If today's files have equal payments under other keys, the payments are not gone: their keys changed.
    """
    gone, repeats = meta["gone"], meta["repeats"]["rows"]
    if gone <= accepted:
        return
    text = (
        f"feed {name}: {_payments(gone)} of the last delivery {'is' if gone == 1 else 'are'} not in today's files, "
        'and with delivery = "full" each delivery holds all rows'
    )
    if repeats:
        equal = (
            "equals a payment that an earlier run"
            if repeats == 1
            else "equal payments that earlier runs"
        )
        yield LimitError(
            f"{text}; but {_payments(repeats)} to be created {equal} sent, under another key",
            "if delivery, key or the spelling of ids was changed, restore it, and run again; only if the sender confirms "
            f"that these are new payments, run with --accept-repeats {max(gone, repeats)}",
        )
        return
    yield LimitError(
        f"{text}: a new payment that equals one of them would be taken for it, and would not be sent",
        f"ask the sender for the whole file; if it is whole, run with --accept-repeats {gone}",
    )


def _payments(count: int) -> str:
    return counted(count, "payment")


def _copied(name: str, copied: Mapping[str, Any] | None, accepted: int) -> Iterator[LimitError]:
    """Yield an error if most rows of a file are in another file, too, although their keys differ."""
    if copied is not None and copied["rows"] > accepted:
        rows = copied["rows"]
        yield LimitError(
            f"feed {name}: {_payments(rows)} of {copied['file']} to be created {'is' if rows == 1 else 'are'} in {copied['other']}, "
            "too (same patient, amount, claim, day and transaction id), which are most rows of one of the two files: each "
            "would be a second payment",
            "see whether they are one delivery twice (compressed, with other line ends, or under two feeds), and remove one; "
            f"if all are payments of their own: --accept-repeats {rows}",
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


def feeds_above_repeats(limits: LimitSettings, metas: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the feeds that have more probable repeats than `limits.repeats_max` allows."""
    return [
        name
        for name, meta in metas.items()
        if meta["repeats"]["rows"] > _repeats_allowed(limits, meta["repeats"]["creates"])
    ]


def are_repeats_accepted(job: Job, metas: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether a person accepted at least as many probable repeats as all feeds have."""
    return job.accept_repeats is not None and _repeats(metas) <= job.accept_repeats


def _repeats(metas: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(meta["repeats"]["rows"] for meta in metas.values())


def _repeats_allowed(limits: LimitSettings, creates: int) -> int:
    most = limits.repeats_max
    return most.count if most.share is None else max(_REPEATS_MIN, most.of(creates))


def _repeated(job: Job, name: str, metas: Mapping[str, Mapping[str, Any]]) -> LimitError:
    """Return the error: how many, what looks changed as far as it can be seen, and what to do."""
    limits, found, total = job.limits, metas[name]["repeats"], _repeats(metas)
    most, allowed = limits.repeats_max, _repeats_allowed(limits, found["creates"])
    of_all = " (of all feeds)" if total > found["rows"] else ""
    limit = f"{most}, which allows {allowed:,}" if most.share is not None else f"{most}"
    accepted = (
        ""
        if job.accept_repeats is None
        else f" (--accept-repeats {job.accept_repeats} allows fewer)"
    )
    return LimitError(
        f"feed {name}: {found['rows']:,} of {found['creates']:,} {found['what']} to be created each equal one that an earlier run "
        f"sent ({found['equal_in']}), under a key that no row of today's files has, above limits.repeats_max = {limit}. "
        f"{found['cause']}",
        f"{found['fix']}; if these {found['what']} are new ones: --accept-repeats {total}{of_all}{accepted}",
    )
