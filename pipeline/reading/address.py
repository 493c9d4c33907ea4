"""The address of an object in a store: s3://bucket/key, gs://bucket/key, az://container/key. Pure.

A key may hold the wildcards of a file's path (`*`, `?`, `[...]`); none of them reaches across a `/`.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

SCHEMES: Final = ("s3", "gs", "az")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_WILD: Final = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Address:
    """The address of an object, or of several: `key` may hold wildcards."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        """Return the address as it is configured, and as reports show it."""
        return f"{self.scheme}://{self.bucket}/{self.key}"


def is_address(text: str) -> bool:
    """Return whether a text is an address, not a path."""
    return _SCHEME.match(text) is not None


def address_of(text: str) -> Address:
    """Parse an address. Raises ValueError that says what is allowed."""
    found = _SCHEME.match(text)
    scheme = found[1] if found else ""
    bucket, _, key = text.removeprefix(f"{scheme}://").partition("/")
    if scheme not in SCHEMES:
        raise ValueError(
            f"{scheme}:// is not read: only s3://, gs:// and az://, or a path on this machine"
        )
    segments = key.split("/")
    if not _BUCKET.fullmatch(bucket) or any(each in {"", ".", ".."} for each in segments):
        raise ValueError(
            f"must be {scheme}://bucket/key: a bucket's name, then the whole key, with nothing empty between two /"
        )
    return Address(scheme, bucket, key)


def is_wild(segment: str) -> bool:
    """Return whether a segment holds a wildcard."""
    return _WILD.search(segment) is not None


def matches(name: str, segment: str) -> bool:
    """Return whether a segment of a pattern matches a name. As with files, `*` does not match a leading dot."""
    return fnmatchcase(name, segment) and (segment.startswith(".") or not name.startswith("."))
