"""Patients by identifier: Canvas is asked for the keys of the patients and subscribers of all feeds.

Few values are searched one by one. For many, the whole namespace is read in pages, unless it has more
pages than there are values, so the lookup takes at most two searches per value (docs/canvas.md,
"References"). Canvas ignores parameters that it does not know, so every hit is filtered again. A search
that fails is repeated, and in the end stops the run: it never counts as "nothing found".
"""

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

import polars as pl

from pipeline.canvas.client import Client
from pipeline.errors import WrongHost
from pipeline.job import Progress, Reference
from pipeline.rows.crosswalk import is_identifier, table_of
from pipeline.rows.feed import Feed
from pipeline.rows.texts import texts_of, wanted

_FIELDS: Final = ("patient", "subscriber")
_COUNT: Final = 100  # of a page: the most that Canvas gives
_PAGES_MAX: Final = 10  # of one value; with more, Canvas ignores the identifier

Pairs = list[tuple[str, str]]  # identifier, Patient key


async def lookup(
    batches: Iterable[tuple[Feed, pl.DataFrame]],
    reference: Reference,
    client: Client,
    concurrency: int,
    progress: Progress | None = None,
) -> dict[str, str | None]:
    """Return each value of the batches that a Patient has in the reference's system, with its key; None if several have it.

    Values that no search shows are left out. The first search names no value, so that a server that is not
    the FHIR API gets none. `progress` counts the values that were searched, or found in the whole namespace.

    Raises:
        CanvasError: Canvas cannot be searched.
        Stopped: The client was stopped.
    """
    values = await asyncio.to_thread(_values, batches)
    await client.probe("Patient")
    system, are_many = reference.system, len(values) > reference.one_by_one_max
    progress = progress or Progress()
    progress.to_send = len(values)
    pairs = await _namespace(system, values, client, progress) if are_many else None
    if pairs is None:
        progress.sent = 0
        pairs = await _one_by_one(system, values, client, concurrency, progress)
    return table_of(pairs)


def _values(batches: Iterable[tuple[Feed, pl.DataFrame]]) -> set[str]:
    """Return the distinct values of all rows that `only` keeps, without those that cannot be identifiers."""
    values = set[str]()
    for feed, frame in batches:
        texts = texts_of(frame, feed)
        kept = texts.filter(wanted(texts, feed))
        for field in _FIELDS:
            if field in kept.columns:
                values.update(kept[field].drop_nulls().unique())
    return {value for value in values if is_identifier(value)}


async def _namespace(
    system: str, values: Collection[str], client: Client, progress: Progress
) -> Pairs | None:
    query = urlencode({"identifier": f"{system}|", "_count": _COUNT, "_sort": "_id"})
    return await _searched(query, system, values, len(values), client, progress)


async def _one_by_one(
    system: str, values: Collection[str], client: Client, concurrency: int, progress: Progress
) -> Pairs:
    """Search each value. If one search fails, those in flight are awaited, so that each is recorded."""
    pairs: Pairs = []
    left = deque(sorted(values))

    async def search() -> None:
        while left:
            try:
                pairs.extend(await _one(system, left.popleft(), client))
            except Exception:  # a cancellation cancels all
                left.clear()
                raise
            progress.sent += 1

    searches = [search() for _ in range(min(concurrency, len(values)))]
    for ended in await asyncio.gather(*searches, return_exceptions=True):
        if ended is not None:
            raise ended
    return pairs


async def _one(system: str, value: str, client: Client) -> Pairs:
    query = urlencode({"identifier": f"{system}|{value}", "_count": _COUNT})
    found = await _searched(query, system, {value}, _PAGES_MAX, client)
    if found is None:
        raise WrongHost(
            f"a search for one identifier shows more than {_PAGES_MAX * _COUNT:,} Patients",
            'Canvas does not heed it: check canvas.base_url, or use references.patient.how = "file"',
        )
    return found


async def _searched(
    query: str,
    system: str,
    values: Collection[str],
    pages_max: int,
    client: Client,
    progress: Progress | None = None,
) -> Pairs | None:
    """Return what all pages of a search show of the values; None if there are more than `pages_max`."""
    pairs: Pairs = []
    seen = set[str]()
    after: str | None = query
    while after is not None:
        if len(seen) == pages_max or after in seen:
            return None
        seen.add(after)
        page = partial(client.page, "Patient", after)
        patients, after = await client.persistently(page, "Patient")
        pairs += [
            (value, patient["id"])
            for patient in patients
            for value in _identifiers(patient, system)
            if value in values
        ]
        if progress is not None:
            progress.sent = len(pairs)
    return pairs


def _identifiers(patient: Mapping[str, Any], system: str) -> list[str]:
    """Return the values that a Patient has in exactly this system."""
    identifiers = patient.get("identifier")
    return [
        each["value"]
        for each in (identifiers if isinstance(identifiers, list) else [])
        if isinstance(each, dict)
        and each.get("system") == system
        and isinstance(each.get("value"), str)
    ]
