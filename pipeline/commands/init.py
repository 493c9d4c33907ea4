"""The command `init`: a draft of a configuration, from the headers of files and samples of them.

A sure guess becomes a setting; an unsure one is a line with DECIDE in it, for a person. If the draft could
do harm as it is, the value itself is DECIDE, with which no plan is made; else it is a comment, which `check`
lists. No value of a file goes into the draft except codes of coded fields and known spellings of "blank" and
"no date", and none is printed. Names of columns that may be values, because the file may have no header, are
left out.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.commands.drafts import enrollment, files, names
from pipeline.commands.drafts.columns import guess_columns
from pipeline.commands.drafts.days import guess_formats
from pipeline.commands.drafts.entries import ask_for_condition, guess_only
from pipeline.commands.drafts.feed import FeedDraft, Found
from pipeline.commands.drafts.identity import guess_key, guess_references
from pipeline.commands.drafts.meanings import MEANINGS, guess_codes
from pipeline.commands.drafts.money import guess_amount_form
from pipeline.errors import ConfigError
from pipeline.files import FILE_MODE
from pipeline.records import counted
from pipeline.reporting.draft import FeedLines, draft_text
from pipeline.rows import synonyms
from pipeline.rows.feed import TRAITS, Kind
from pipeline.system.temporary import temporary_folder


@dataclass(slots=True)
class Drafted:
    """A draft, and a report about it. `path` None: it goes to stdout."""

    text: str
    path: Path | None
    sources: list[str]  # the files, in words
    guessed: list[tuple[str, str]] = field(default_factory=list)  # the setting, and its source
    undecided: list[str] = field(default_factory=list)


def draft(paths: Sequence[Path], kind: str | None = None, output: Path | None = None) -> Drafted:
    """Draft one configuration for files, with a feed for each kind of file, and write it with mode 0600.

    Args:
        paths: The files. Those of one folder with the same header, and with names that differ by a date or a
            number, are one feed.
        kind: "eligibility" or "ledger"; None: the names of the columns decide.
        output: The configuration to write; None: write nothing.

    Returns:
        The draft.

    Raises:
        InputError: A file is unfit.
        ConfigError: `output` exists, or the kind of a file cannot be known.
    """
    if output is not None and output.exists():
        raise ConfigError(
            f"{output} is there already, and is not written over",
            "name another file with --output, or move it away",
        )
    folder = Path.cwd() if output is None else output.parent.resolve()
    found: list[Found] = []
    for path in dict.fromkeys(paths):
        with temporary_folder() as scratch:
            found.append(files.find(path, kind, scratch))
    feeds = [_feed_draft(group, folder) for group in _groups(found)]
    _name_apart(feeds)
    for feed in feeds:
        _guess(feed)
    drafted = _drafted(feeds, found, output)
    if output is not None:
        _write(output, drafted.text)
    return drafted


def _groups(found: Sequence[Found]) -> list[list[Found]]:
    """Return the files of each feed, coverages first: a patient's coverages go before the payments."""
    groups: dict[object, list[Found]] = {}
    for each in found:
        one = (each.kind, tuple(each.header), names.group_of(each.path))
        groups.setdefault(one, []).append(each)
    return sorted(groups.values(), key=lambda group: list(Kind).index(group[0].kind))


def _feed_draft(group: Sequence[Found], folder: Path) -> FeedDraft:
    found, placeholders = files.without_placeholders(files.joined(group))
    name, is_glob = names.feed_path([each.path for each in group])
    lines = FeedLines(
        name=names.feed_name(found.path, found.kind.value),
        kind=found.kind.value,
        path=os.path.relpath(found.path.resolve().parent / name, folder),
        is_glob=is_glob,
        read_from=", ".join(
            f"{each.path.name} ({counted(each.source.rows, 'row')})" for each in group
        ),
    )
    draft_ = FeedDraft(found, lines, synonyms.candidates(found.header, found.kind))
    if enrollment.is_834(draft_):
        enrollment.know_columns(draft_)
    files.note_reading(draft_, placeholders)
    return draft_


def _name_apart(feeds: Sequence[FeedDraft]) -> None:
    """Give each feed a name of its own."""
    taken: set[str] = set()
    for feed in feeds:
        name = feed.lines.name
        choices = (name, *(f"{name[:60]}_{number}" for number in range(2, len(feeds) + 1)))
        feed.lines.name = next(choice for choice in choices if choice not in taken)
        taken.add(feed.lines.name)


def _guess(feed: FeedDraft) -> None:
    """Make all guesses about a feed. The order matters: one guess needs another."""
    guess_columns(feed)
    if enrollment.is_834(feed):
        enrollment.note_enrollment(feed)
    guess_codes(feed, enrollment.MEANINGS if enrollment.is_834(feed) else MEANINGS)
    guess_formats(feed)
    if feed.kind is Kind.LEDGER:
        guess_only(feed)
        guess_amount_form(feed)
    ask_for_condition(feed)
    guess_key(feed)
    guess_references(feed)
    if "start_on" in feed.columns:
        complete = "recommended if each file has all members: who is gone gets a last day; set timezone, too"
        feed.show("missing", "end", complete)
    order = TRAITS[feed.kind].fields
    feed.lines.columns.sort(key=lambda setting: order.index(setting.key))


def _drafted(feeds: Sequence[FeedDraft], found: Sequence[Found], output: Path | None) -> Drafted:
    references = _references(feeds)
    guessed, undecided = [], []
    for feed in feeds:
        prefix = f"{feed.lines.name}: " if len(feeds) > 1 else ""
        guessed += [(f"{prefix}{what}", why) for what, why in feed.guessed]
        undecided += [f"{prefix}{what}" for what in feed.undecided]
    return Drafted(
        draft_text([feed.lines for feed in feeds], references),
        output,
        [files.describe(each) for each in found],
        guessed,
        [*undecided, *(_REFERENCES[kind] for kind, how in references.items() if how == "file")],
    )


_REFERENCES = {
    "patient": "references.patient: how the sender's ids become Patient keys (a table, or a search)",
    "payer": "references.payer: how the sender's payers become payer ids (a table)",
}


def _references(feeds: Sequence[FeedDraft]) -> dict[str, str]:
    """Return how the ids of each kind become Canvas' ids: in one way for all feeds."""
    found: dict[str, str] = {}
    for feed in feeds:
        for kind, how in feed.references.items():
            found[kind] = how if found.get(kind, how) == how else "file"
    if any("subscriber" not in each.references for each in feeds if each.kind is Kind.ELIGIBILITY):
        found.pop(
            "subscriber", None
        )  # it is for all feeds, and each of them would need subscriber_id
    return found


def _write(output: Path, text: str) -> None:
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
    except OSError as error:
        raise ConfigError(
            f"{output} cannot be written: {error.strerror}", "name another file with --output"
        ) from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
