"""Decide whether X12 834 files may be loaded now. Pure.

Older content must not replace newer content. A file is newer than what was loaded before if its control number is new, or
if it was created later: some senders never change the number, others never the time. The bytes of a file that was loaded
before a later one prove that it is older, whatever they say.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.errors import InputError
from pipeline.journal.runs import LoadedInterchange, LoadedRun
from pipeline.reading.source import Interchange, Source
from pipeline.records import counted
from pipeline.rows.feed import Feed

CHANGES: Final = "files|changes"
TEST: Final = "files|test"
NO_COVERAGE: Final = "files|no_coverage"
SAME_NUMBER: Final = "files|control_number"
OLDER: Final = "files|older"


@dataclass(frozen=True, slots=True)
class _File:
    """An 834 of today."""

    source: Source
    said: Interchange

    @property
    def place(self) -> tuple[str, str]:
        """Return its place among the files of its sender: all control numbers have nine digits."""
        return self.said.created, self.said.number


def check_interchanges(
    feed: Feed, sources: Sequence[Source], before: Sequence[LoadedRun]
) -> Iterator[dict[str, Any]]:
    """Yield warnings about the 834 files of a feed, as the plan keeps them.

    Args:
        feed: The feed.
        sources: All of its files.
        before: The runs that loaded interchanges of the feed, in their order.

    Raises:
        InputError: A file may not be loaded now.
    """
    files = [_File(each, each.interchange) for each in sources if each.interchange]
    today: dict[str, Source] = {}
    for file in files:
        _refuse_mixed(file, sources, feed)
        other = today.setdefault(file.said.identity, file.source)
        if other.sha256 != file.source.sha256:
            raise _used_twice(file, f"in {other.name}")
    _refuse_several_changes(files, feed)
    for file in files:
        yield from _compare_with_loaded(file, feed, before)
    yield from _notices(files, feed)


def _refuse_mixed(file: _File, sources: Sequence[Source], feed: Feed) -> None:
    """Raise InputError if a file of changes is read beside a full one: which of their rows is newer is not known."""
    others = [each for each in sources if not (each.interchange and each.interchange.is_change)]
    if file.said.is_change and others:
        raise InputError(
            f"the file holds changes only (BGN08 = 2), and {others[0].name} is a full file",
            f"load the full file first, then the changes by another run: make the path of feed {feed.name} match one kind",
            file=file.source.name,
        )


def _refuse_several_changes(files: Sequence[_File], feed: Feed) -> None:
    """Raise InputError for several files of changes of one sender: the later one counts, so each needs a run."""
    by_parties: dict[str, dict[str, _File]] = {}
    for file in files:
        if file.said.is_change:
            by_parties.setdefault(file.said.parties, {})[file.source.sha256] = file
    for several in by_parties.values():
        if len(several) > 1:
            first, *others = sorted(several.values(), key=lambda each: each.place)
            names = ", then ".join(each.source.origin for each in others)
            raise InputError(
                f"{len(several)} files of changes (BGN08 = 2) of one sender, and a later one may change what an earlier one does",
                f"load each by a run of its own, in the order of their times and control numbers: first this one "
                f"(--input {feed.name}={first.source.origin}), then {names}",
                file=first.source.name,
            )


def _compare_with_loaded(
    file: _File, feed: Feed, before: Sequence[LoadedRun]
) -> Iterator[dict[str, Any]]:
    """Compare a file with what was loaded of its sender before. Raises InputError if it is not newer."""
    before = [run for run in before if _of_sender(run, file)]
    if before and _has_bytes(before[-1], file):
        return  # the last file again, or a run that was killed goes on
    loaded = [run for run in before if run.is_complete and _has_bytes(run, file)]
    if loaded:
        raise InputError(
            f"interchange {file.said.number} was loaded by run {loaded[-1].run_id}, and a later one after it: its content "
            "would replace newer content",
            "check the path; ask the sender for the newest file, under a new control number",
            file=file.source.name,
        )
    for run in reversed(before):
        same = [each for each in run.interchanges if each.identity == file.said.identity]
        if run.is_complete and same:
            if not _is_later(file, same):
                raise _used_twice(file, f"by run {run.run_id}")
            yield _notice(
                SAME_NUMBER,
                feed,
                f"{file.source.name} has the control number {file.said.number} of the file that run {run.run_id} loaded, and was "
                f"created later ({_shown(file.said.created)}), so it is loaded: ask the sender for a new control number (ISA13) "
                "in each file",
            )
            return
    if before:
        yield from _compare_places(file, feed, before[-1])


def _compare_places(file: _File, feed: Feed, run: LoadedRun) -> Iterator[dict[str, Any]]:
    """Refuse a file with a lower number and an earlier time than the last one of its sender; warn of the time alone."""
    theirs = _of_sender(run, file)
    if not file.said.created or not all(file.said.created < each.created for each in theirs):
        return
    created, theirs_created = _shown(file.said.created), _shown(theirs[0].created)
    if all(file.said.number < _number_of(each, file) for each in theirs):
        raise InputError(
            f"interchange {file.said.number} was created ({created}) before the one that run {run.run_id} loaded "
            f"({theirs_created}), and has a lower control number: its content would replace newer content",
            "files of one sender are loaded in their order; ask the sender for a new full file",
            file=file.source.name,
        )
    yield _notice(
        OLDER,
        feed,
        f"{file.source.name} says that it was created ({created}) before the file that run {run.run_id} loaded "
        f"({theirs_created}), although its control number is higher: see that it is the newer one",
    )


def _of_sender(run: LoadedRun, file: _File) -> list[LoadedInterchange]:
    """Return the interchanges of a run with the sender and receiver of a file."""
    return [each for each in run.interchanges if _number_of(each, file)]


def _has_bytes(run: LoadedRun, file: _File) -> bool:
    return any(each.sha256 == file.source.sha256 for each in run.interchanges)


def _is_later(file: _File, loaded: Sequence[LoadedInterchange]) -> bool:
    return all(each.created and file.said.created > each.created for each in loaded)


def _number_of(loaded: LoadedInterchange, file: _File) -> str:
    """Return the control number of an interchange of the same sender and receiver; "" if it is of others."""
    if not loaded.identity.startswith(f"{file.said.parties}/"):
        return ""
    number = loaded.identity[len(file.said.parties) + 1 :].partition("/")[0]
    return number if len(number) == len(file.said.number) else ""


def _shown(created: str) -> str:
    """Return an instant of an envelope for people; "on an unknown day" if there is none."""
    if not created:
        return "on an unknown day"
    return f"{created[:4]}-{created[4:6]}-{created[6:8]} {created[8:10]}:{created[10:12]}"


def _used_twice(file: _File, where: str) -> InputError:
    return InputError(
        f"interchange {file.said.number} (sender, receiver and control numbers) was loaded {where} with other content, and this "
        "file was not created later (ISA09, GS04, BGN03)",
        "ask the sender which file is right, and for a new control number (ISA13) in it",
        file=file.source.name,
    )


def _notices(files: Sequence[_File], feed: Feed) -> Iterator[dict[str, Any]]:
    """Yield what else to know about the files."""
    tests = [file.source.name for file in files if file.said.is_test]
    if tests:
        what = "is a test file" if len(tests) == 1 else "are test files"
        yield _notice(
            TEST,
            feed,
            f"{', '.join(tests)} {what} (ISA15 = T), and read like any other: ask the sender whether the content is meant to be loaded",
            len(tests),
        )
    empty = [file.source for file in files if not file.source.rows]
    if empty:
        members = sum(sum(each.skipped.values()) for each in empty)
        only = f"only {counted(members, 'member')} without one" if members else "and no member"
        holds = "holds" if len(empty) == 1 else "hold"
        yield _notice(
            NO_COVERAGE,
            feed,
            f"{', '.join(each.name for each in empty)} {holds} no coverage, {only}: nothing is created or updated by it",
            len(empty),
        )
    if feed.missing != "ignore" and any(file.said.is_change for file in files):
        yield _notice(
            CHANGES,
            feed,
            f"Feed {feed.name} was read from a file of changes (X12 834, BGN08 = 2): who is not in it is not missing. The next "
            "full file decides about missing rows",
            len(files),
        )


def _notice(rule: str, feed: Feed, message: str, count: int = 1) -> dict[str, Any]:
    return {"rule": rule, "feed": feed.name, "count": count, "message": f"{message}."}
