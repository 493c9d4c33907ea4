"""The rules that a plan's rows break: how often, where, and what would fix them. Pure, except for the plan.

Output has row numbers, counts and rules. The only values of rows in it are codes of coded fields, on
request, and only if they look like codes (`rows.spellings`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from pipeline.fhir import codes
from pipeline.planning.plan import Plan
from pipeline.planning.tables import SEQ
from pipeline.records import Disposition, counted
from pipeline.rows.dates import FORMATS, fitting, reads
from pipeline.rows.feed import Feed
from pipeline.rows.spellings import CODED, shown
from pipeline.rows.texts import texts_of

_ROWS_SHOWN: Final = 3
_FORMATS_TRIED: Final = 50_000  # distinct dates that are kept to find the format that fits them
# The rules of coded fields, and what is allowed.
_ALLOWED: Final = {
    "relationship|code": ", ".join(codes.RELATIONSHIPS),
    "type|code": "the type codes of Canvas, such as HMO, PPO, MCPOL, SUBSIDIZ or pay",
    "status|code": ", ".join(codes.STATUSES),
    "order|range": "1 to 5, primary, secondary, tertiary ...",
}


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule, the rows that break it, and what to do if the message does not say it.

    `is_configuration`: a setting would fix it.
    """

    rule: str
    count: int
    where: str
    message: str
    todo: str
    is_configuration: bool


@dataclass(slots=True)
class _Seen:
    """The rows that break one rule. `texts`: the texts of the field, with counts; not for all rules.

    `rows`: of several files their names, lines and numbers; else their lines, or numbers (`noun` says which).
    """

    message: str
    count: int = 0
    noun: str = ""
    rows: list[str] = field(default_factory=list)
    texts: Counter[str] = field(default_factory=Counter)


def diagnose(plan: Plan, feed: Feed, *, show_values: bool) -> list[Broken]:
    """Return the rules that rows of a feed break, most rows first."""
    seen: dict[str, _Seen] = {}
    is_named = len(plan.meta["feeds"][feed.name]["files"]) > 1
    for part, source in zip(plan.rows(feed.name), plan.sources(feed.name), strict=True):
        rejected = part.filter(pl.col("disposition") == Disposition.REJECTED.value)
        texts = _texts_by_seq(rejected, source, feed)
        columns = rejected.select("seq", "file", "row", "rule", "message")
        for seq, file, row, rules, messages in columns.iter_rows():
            names = rules.split("; ")
            for rule, message in zip(names, _parted(messages, names, feed), strict=True):
                one = seen.setdefault(rule, _Seen(message))
                one.count += 1
                if len(one.rows) < _ROWS_SHOWN:
                    where = plan.row_id(feed.name, file, row)
                    one.rows.append(str(where) if is_named else str(where.line or row))
                    one.noun = "" if is_named else "line" if where.line else "row"
                text = texts.get(seq, {}).get(rule.partition("|")[0])
                if text and _is_looked_at(rule) and len(one.texts) < _FORMATS_TRIED:
                    one.texts[text] += 1
    ordered = sorted(seen.items(), key=lambda item: -item[1].count)
    return [_broken(rule, one, feed, show_values=show_values) for rule, one in ordered]


def spelt(name: str, counts: Counter[str], *, show_values: bool) -> str:
    """Return the spellings of a field with their counts; only how many there are if they may not be shown."""
    filled = {text: count for text, count in counts.items() if text}
    if not filled:
        return "only blanks"
    if not show_values:
        spellings = counted(len(filled), "spelling")
        return f"{spellings} (to see them: --show-values)"
    visible = shown(name, filled)
    named = [f'"{text}" ({count:,})' for text, count in visible.items()]
    hidden = len(filled) - len(named)
    if hidden:
        named.append(f"{hidden:,} more (not shown: they do not look like codes)")
    return ", ".join(named)


def _is_looked_at(rule: str) -> bool:
    return rule in _ALLOWED or rule.endswith("|date")


def _broken(rule: str, seen: _Seen, feed: Feed, *, show_values: bool) -> Broken:
    more = ", ..." if seen.count > _ROWS_SHOWN else ""
    rows = ", ".join(seen.rows) + more
    where = f"{seen.noun}{'s' if seen.count > 1 else ''} {rows}" if seen.noun else rows
    name, _, what = rule.partition("|")
    message, todo, is_configuration = seen.message, "", False
    if rule in _ALLOWED:
        spellings = spelt(name, seen.texts, show_values=show_values)
        message, is_configuration = f"no such code: {spellings}", True
        todo = f"map them in [feeds.codes.{name}] of {feed.name} to {_ALLOWED[rule]}; or have the file corrected"
    elif what == "date":
        todo, is_configuration = _on_dates(feed, seen.texts)
    elif what == "required" and name in CODED:
        todo = f"rows without it can be left out with [feeds.only] of {feed.name}: name the values to keep"
    elif rule == "amount|sign":
        other = "negative" if feed.amount_sign == "positive" else "positive"
        todo = (
            f'if all payments are written so: amount_sign = "{other}" in {feed.name}; '
            "if these are charges or refunds: leave them out with [feeds.only]"
        )
    return Broken(rule, seen.count, where, message, todo, is_configuration)


def _on_dates(feed: Feed, texts: Counter[str]) -> tuple[str, bool]:
    """Return what to do about dates, and whether the configuration would fix it."""
    forms = fitting(list(texts))
    named = " and ".join(f'"{form}"' for form in forms)
    if len(forms) == 1:
        return f"{named} fits all of them: add it to dates of {feed.name}", True
    if forms:
        return (
            f"{named} fit all of them: find out which is meant, and add that one to dates of {feed.name}",
            True,
        )
    fits = Counter(form for text in texts for form in FORMATS if reads(form, text)).most_common(1)
    best = ""
    if fits:
        best = f' ("{fits[0][0]}" fits {fits[0][1]:,} of the {len(texts):,} different ones)'
    todo = f"no one format fits all of them{best}: fix these rows (a day that means no date: open_dates), or add formats to dates of {feed.name}"
    return todo, False


def _texts_by_seq(
    rejected: pl.DataFrame, source: pl.DataFrame, feed: Feed
) -> dict[int, dict[str, str | None]]:
    """Return our fields of the rejected rows of a part."""
    seqs = rejected.select(pl.col("seq").alias(SEQ))
    mine = source.join(seqs, on=SEQ, how="semi", maintain_order="left")
    texts = texts_of(mine.drop(SEQ), feed)
    return dict(zip(mine[SEQ], texts.iter_rows(named=True), strict=True))


def _parted(messages: str, rules: Sequence[str], feed: Feed) -> Iterator[str]:
    """Yield the messages of a row that breaks several rules, one for each, without the name of the field."""
    left = messages
    for number, rule in enumerate(rules, 1):
        left = left.removeprefix(_prefix(rule, feed))
        part = left
        if number < len(rules):
            part, _, left = left.partition(f"; {_prefix(rules[number], feed)}")
        yield part


def _prefix(rule: str, feed: Feed) -> str:
    name = rule.partition("|")[0]
    return f'{name} (column "{feed.columns[name]}"): ' if name in feed.columns else f"{name}: "
