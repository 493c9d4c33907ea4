"""The key of each feed: its fields in the order in which the journal's keys of that feed were hashed.

The order in which the configuration names the fields is not part of a row's identity. The set of fields
is: with another set no row keeps its key, and each would be created once more.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from pipeline.journal import lookups, runs
from pipeline.journal.journal import Journal
from pipeline.rows.feed import Feed, Traits


def keep_order(
    feeds: Sequence[Feed], journal: Journal
) -> tuple[tuple[Feed, ...], dict[str, tuple[str, ...]]]:
    """Put the fields of each key in the order in which they are hashed.

    Returns:
        The feeds, and by feed the former fields of a key that has other ones now.
    """
    former: dict[str, tuple[str, ...]] = {}
    ordered = []
    for feed in feeds:
        known = runs.feed_key(journal, feed.name)
        if known is not None and set(known) != set(feed.key):
            former[feed.name] = known
        ordered.append(replace(feed, key=_hashed_order(feed, known, journal)))
    return tuple(ordered), former


def _hashed_order(feed: Feed, known: tuple[str, ...] | None, journal: Journal) -> tuple[str, ...]:
    if known is not None and set(known) == set(feed.key):
        return known
    if known is None and lookups.has_writes(journal, feed.name):
        return feed.key  # written by schema 5, which hashed the configuration's order
    return canonical_order(feed.key, feed.traits)


def canonical_order(fields: Collection[str], traits: Traits) -> tuple[str, ...]:
    """Return the order of a key that the journal does not know: the default key's, then the model's."""
    return tuple(name for name in dict.fromkeys((*traits.key, *traits.fields)) if name in fields)


def keys_of(metas: Mapping[str, Mapping[str, Sequence[str]]]) -> dict[str, Sequence[str]]:
    """Return the fields of each feed's key from what a plan notes of the feeds."""
    return {name: meta["key"] for name, meta in metas.items()}
