"""Judge the limits that need no Canvas before patients are searched, which may take hours."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from pipeline.journal import runs
from pipeline.planning import limits
from pipeline.planning.given import Given
from pipeline.planning.parts import parts_of
from pipeline.planning.passes.tasks import part_task
from pipeline.planning.state import Build
from pipeline.planning.survey import Counts, survey_counts
from pipeline.reading.read import read
from pipeline.records import counted
from pipeline.rows.crosswalk import Crosswalk, is_identifier
from pipeline.rows.feed import Feed
from pipeline.rows.texts import texts_of

UNSEARCHED: Final = "patients|unsearched"
_FIELDS: Final = ("patient", "subscriber")


def judge_early(build: Build) -> bool:
    """Return whether a limit is exceeded for any patients that Canvas may find. Then each is taken for a patient of its own.

    Nothing of such a plan is written: `seal_plan` raises LimitError for the same limit. Sets `crosswalks` and `is_unsearched`.
    """
    limited = build.job.limits
    is_judged = limited.rejects_max is not None or limited.change_max is not None
    if not (is_judged or build.job.expected or any(build.expected.values())):
        return False
    known = build.crosswalks
    patients = {value: f"{number:032x}" for number, value in enumerate(sorted(_values(build)))}
    stand_in = Crosswalk(build.job.references.patient.target, patients, is_search=True)
    build.set_crosswalks(replace(known, patient=stand_in))
    folder = build.new_folder()
    build.given = {feed.name: Given(folder, feed.name) for feed in build.job.feeds}
    metas = {feed.name: _meta(build, feed) for feed in build.job.feeds}
    last = partial(runs.last_feed, build.journal)
    if limits.exceeds_early(build.job, metas, build.expected, last):
        build.is_unsearched = True
        build.notices.append(
            {
                "rule": UNSEARCHED,
                "feed": "",
                "count": len(patients),
                "message": f"Canvas was not searched for {counted(len(patients), 'patient')}, because a limit was exceeded before. "
                "Rows of patients that Canvas does not know, and rows that were sent before, are among those that could be sent.",
            }
        )
        return True
    build.set_crosswalks(known)
    return False


def _values(build: Build) -> set[str]:
    """Return the identifiers that would be searched for, filtered rows included."""
    values: set[str] = set()
    for feed in build.job.feeds:
        for source in build.sources[feed.name]:
            for batch in read(source):
                build.check_stop()
                texts = texts_of(batch.frame, feed)
                for name in set(_FIELDS).intersection(texts.columns):
                    values.update(texts[name].drop_nulls().unique())
    return {value for value in values if is_identifier(value)}


def _meta(build: Build, feed: Feed) -> dict[str, object]:
    """Return what the limits judge of a feed. Rows that only other rows or Canvas make wrong are not counted as rejected."""
    counts = Counts()
    for part in _counted(build, feed):
        counts.add(part)
    is_excusable = any(build.writer.folder.parent.glob(f"*/corrected-{feed.name}.parquet"))
    return {
        "rows_read": sum(source.rows for source in build.sources[feed.name]),
        "cents_read": counts.cents,
        "limited": {"rows": counts.rows, "rejected": 0 if is_excusable else counts.rejected},
        "is_change": build.has_changes_only(feed.name),
    }


def _counted(build: Build, feed: Feed) -> Iterator[Counts]:
    scratch = build.new_folder()
    task = build.workers.share(part_task(build, feed, scratch, held=False), scratch)
    parts = enumerate(parts_of(build.sources[feed.name]))
    calls = (partial(survey_counts, task, at, part) for at, part in parts)
    return build.workers.in_turn(calls, build.check_stop)
