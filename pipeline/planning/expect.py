"""Add up the rows and dollars that the manifests beside a feed's files announce."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pipeline.errors import InputError
from pipeline.reading.manifest import Expected, manifest_of
from pipeline.rows.feed import Feed

_BYTES_MAX: Final = 65_536


def expect(feed: Feed, paths: Sequence[Path]) -> Expected:
    """Return the control totals of a feed's manifests; none if it has no manifest. Raises InputError."""
    if not feed.manifest:
        return Expected()
    if not paths:
        raise InputError(
            f"no manifest is there for feed {feed.name}",
            "check that the sender delivered it, and the feed's manifest",
            file=feed.manifest,
        )
    each = [manifest_of(_read(path), path.name, has_money=feed.traits.has_money) for path in paths]
    return Expected(
        _sum("rows", [one.rows for one in each], paths),
        _sum("total_usd", [one.total_cents for one in each], paths),
    )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise InputError(
            f"the manifest cannot be read: {error.strerror}",
            "check its permissions, and the feed's manifest",
            file=path.name,
        ) from None
    if len(content) > _BYTES_MAX:
        raise InputError(
            f"this is no manifest: above {_BYTES_MAX:,} bytes",
            "check the feed's manifest: it may name the data itself",
            file=path.name,
        )
    return content


def _sum(name: str, numbers: Sequence[int | None], paths: Sequence[Path]) -> int | None:
    """Return the sum if all manifests name it. If only some do, there is nothing to compare with."""
    given = [number for number in numbers if number is not None]
    if given and len(given) < len(numbers):
        raise InputError(
            f"{name} is not in it, and in another manifest of the feed",
            f"have the sender name {name} in all of them, or in none",
            file=paths[numbers.index(None)].name,
        )
    return sum(given) if given else None
