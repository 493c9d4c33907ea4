"""Copy objects out of a store, byte for byte, into the run's own folder; from then on they are files.

The only home of obstore, which takes credentials and endpoints from the variables that the stores'
own tools use (AWS_..., GOOGLE_..., AZURE_...). An object is read in ranges of one version, so that
memory is bounded and a change is seen. The library's own texts hold addresses and the store's answers,
and are never shown.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from pipeline.errors import InputError
from pipeline.files import FILE_MODE, FOLDER_MODE
from pipeline.reading import lake
from pipeline.reading.address import Address, address_of, is_wild, matches

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig

_STORES: Final = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
_THIS_MACHINE: Final = "127.0.0.1,localhost,::1"
_OBJECTS_MAX: Final = 10_000  # that one pattern may name

Store = S3Store | GCSStore | AzureStore


@dataclass(frozen=True, slots=True)
class Options:
    """Settings of requests to stores. `allow_http` only if the endpoint is this machine."""

    allow_http: bool = False
    timeout_s: float = 60.0  # for each range
    range_bytes: int = 8 << 20  # in memory at once
    retries: int = 3  # of each request


def fetch(
    pattern: str, what: str, folder: Path, options: Options, check_stop: Callable[[], None]
) -> list[tuple[Path, str]]:
    """Copy the objects that an address or a pattern names into `folder`.

    Args:
        pattern: The address; its key may hold wildcards.
        what: The owner of the objects, for messages.
        folder: For the copies.
        options: Settings of requests.
        check_stop: Called between two ranges; may raise.

    Returns:
        (path of the copy, address of the object), sorted by key.

    Raises:
        InputError: There is no object, or it cannot be read.
    """
    wanted = address_of(pattern)
    with _explained(str(wanted)):
        store = _open(wanted, options)
    addresses = _find(store, wanted)
    if not addresses:
        _refuse(
            pattern,
            f"no object is there for {what}",
            "check that the sender delivered, and the bucket, the prefix and the wildcards",
        )
    _refuse_tables(store, addresses)
    copies = []
    for number, address in enumerate(addresses):
        path = folder / f"{number:05}" / Path(address.key).name
        path.parent.mkdir(parents=True, mode=FOLDER_MODE)
        _copy(store, address, path, options.range_bytes, check_stop)
        copies.append((path, str(address)))
    return copies


def _open(address: Address, options: Options) -> Store:
    client: ClientConfig = {
        "timeout": timedelta(seconds=options.timeout_s),
        "user_agent": "canvas-ingest",
    }
    if options.allow_http:
        client["allow_http"] = True
        # Without encryption nothing leaves this machine, so no proxy of the environment is used. Only
        # a proxy that is named here can have exceptions; this one is never used either.
        client["proxy_url"], client["proxy_excludes"] = "http://127.0.0.1:9", _THIS_MACHINE
    store: Store = _STORES[address.scheme](
        address.bucket, client_options=client, retry_config={"max_retries": options.retries}
    )
    return store


# Finding ------------------------------------------------------------------------------------------


def _find(store: Store, wanted: Address) -> list[Address]:
    """Return the addresses that a pattern names. The search goes folder by folder, and only into folders that match."""
    segments = wanted.key.split("/")
    if not any(map(is_wild, segments)):
        return [wanted]
    with _explained(str(wanted)):
        keys = sorted(_keys(store, [], segments))
    if len(keys) > _OBJECTS_MAX:
        _refuse(
            str(wanted),
            f"more than {_OBJECTS_MAX:,} objects",
            "name a narrower pattern: a run reads all that it names",
        )
    return [Address(wanted.scheme, wanted.bucket, key) for key in keys]


def _keys(store: Store, above: list[str], segments: Sequence[str]) -> Iterator[str]:
    """Yield the keys below the folder `above` that the rest of the pattern names."""
    fixed = next(number for number, each in enumerate([*segments, "*"]) if is_wild(each))
    above = [*above, *segments[:fixed]]
    if fixed == len(segments):
        key = "/".join(above)
        if _is_there(store, key):
            yield key
        return
    segment, *rest = segments[fixed:]
    listed = obstore.list_with_delimiter(store, "/".join(above) or None)
    if not rest:
        names = (each["path"] for each in listed["objects"])
        yield from (name for name in names if matches(name.rpartition("/")[2], segment))
        return
    for prefix in listed["common_prefixes"]:
        name = prefix.rstrip("/").rpartition("/")[2]
        if matches(name, segment):
            yield from _keys(store, [*above, name], rest)


def _is_there(store: Store, key: str) -> bool:
    try:
        obstore.head(store, key)
    except FileNotFoundError:
        return False
    return True


def _refuse_tables(store: Store, addresses: Sequence[Address]) -> None:
    """Raise InputError for Parquet files of a Delta or Iceberg table, if the folders above may be listed."""
    parts = [each for each in addresses if each.key.endswith(".parquet")]
    folders = {
        "/".join(names[:count]): each
        for each in parts
        for names in [each.key.split("/")[:-1]]
        for count in range(len(names) + 1)
    }
    for folder, address in folders.items():
        above = f"{folder}/" if folder else ""
        for kind, prefix, ending in (
            (lake.DELTA, lake.DELTA_LOG, ""),
            (lake.ICEBERG, lake.ICEBERG_FOLDER, lake.ICEBERG_FILE),
        ):
            if any(name.endswith(ending) for name in _listed(store, f"{above}{prefix}/")):
                lake.refuse_part(kind, str(address))


def _listed(store: Store, prefix: str) -> list[str]:
    """Return the keys in a folder; none if it may not be listed."""
    try:
        return [each["path"] for each in obstore.list_with_delimiter(store, prefix)["objects"]]
    except (exceptions.BaseError, FileNotFoundError):
        return []


# Copying ------------------------------------------------------------------------------------------


def _copy(
    store: Store, address: Address, path: Path, range_bytes: int, check_stop: Callable[[], None]
) -> None:
    """Copy all bytes of one version of an object into a file for its owner only."""
    with _explained(str(address)):
        found = _head(store, address)
    size, start = found["size"], 0
    try:
        with path.open("xb") as file:
            while start < size:
                check_stop()
                with _explained(str(address)):
                    part = _part(store, address.key, found, start, range_bytes)
                file.write(part)
                start += len(part)
        path.chmod(FILE_MODE)
        modified_s = found["last_modified"].timestamp()
        os.utime(path, (modified_s, modified_s))
    except OSError as error:
        _refuse(
            str(address),
            f"it cannot be copied into state.dir: {error.strerror}",
            "check the disk of state.dir: there must be room for the whole object",
        )


def _head(store: Store, address: Address) -> "ObjectMeta":
    """Return an object's metadata. A missing object and a missing bucket give different errors."""
    try:
        return obstore.head(store, address.key)
    except FileNotFoundError:
        above = address.key.rpartition("/")[0]
        try:
            obstore.list_with_delimiter(store, above or None)
        except exceptions.BaseError as error:  # the credentials may read and not list
            if _why(error) == _NO_BUCKET:
                raise error from None
        _refuse(
            str(address),
            "there is no such object",
            "check that the sender delivered, and the path",
        )


def _part(store: Store, key: str, found: "ObjectMeta", start: int, size: int) -> memoryview:
    """Return the range that begins at `start`, of the version that was found."""
    end = min(start + size, found["size"])
    got = obstore.get(store, key, options={"range": (start, end), "if_match": found["e_tag"]})
    if (got.meta["e_tag"], got.meta["size"]) != (found["e_tag"], found["size"]):
        raise exceptions.PreconditionError  # a store that ignored If-Match
    part = memoryview(got.bytes())
    if len(part) != end - start:
        raise exceptions.GenericError("error decoding response body")
    return part


# What went wrong ----------------------------------------------------------------------------------

_VARIABLES: Final = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION",
    "gs": "GOOGLE_SERVICE_ACCOUNT to the path of a key file",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_NO_CREDENTIALS: Final = (
    "no credentials for the store",
    "set {variables}, or run where the machine or the pod has a role",
)
_FORBIDDEN: Final = (
    "the store refuses it to these credentials",
    "allow them to read the object and to list the bucket, and check that they are the ones meant",
)
_NO_BUCKET: Final = ("there is no such bucket", "check its name, and the region or the endpoint")
_OF_TYPE: Final = (
    ((exceptions.PermissionDeniedError, exceptions.UnauthenticatedError), *_FORBIDDEN),
    (
        (exceptions.PreconditionError, FileNotFoundError),  # not found after it was found
        "it was changed while it was read",
        "wait until the sender is done and run again",
    ),
)
# By a part of the library's text, tried in this order: a listing's errors have no types.
_OF_TEXT: Final = (
    (
        ("ExpiredToken", "RequestTimeTooSkewed"),
        "the store's credentials have run out, or this machine's clock is wrong",
        "renew them, check the clock, and run again",
    ),
    (
        (
            "/latest/api/token",
            "/latest/meta-data",
            "computeMetadata",
            "/metadata/identity",
            "Account must be specified",
            "service account",
        ),
        *_NO_CREDENTIALS,
    ),
    (
        ("BadScheme",),
        "the endpoint is http, which is allowed only for this machine",
        "name an https endpoint in AWS_ENDPOINT_URL",
    ),
    (
        ("without LOCATION", "PermanentRedirect", "AuthorizationHeaderMalformed"),
        "the bucket is in another region",
        "set AWS_REGION to the bucket's region",
    ),
    (("403 Forbidden", "401 Unauthorized"), *_FORBIDDEN),
    (("404 Not Found",), *_NO_BUCKET),
    (
        ("kind: Body", "kind: Decode", "error decoding response body", "IncompleteMessage"),
        "it was cut off while it was read",
        "run again; if it stays, see whether the store is well",
    ),
    (
        ("kind: Timeout", "TimedOut"),
        "the store did not answer in time",
        "run again; if it stays, see whether the store is well",
    ),
    (
        ("kind: Connect",),
        "the store cannot be reached",
        "check the network, the region and the endpoint (AWS_ENDPOINT_URL)",
    ),
)
_OTHERWISE: Final = (
    "the store answers with an error",
    "run again; if it stays, see whether the store is well",
)


@contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except (exceptions.BaseError, FileNotFoundError, ValueError) as error:
        message, fix = _why(error)
        _refuse(address, message, fix.format(variables=_VARIABLES[address[:2]]))


def _why(error: Exception) -> tuple[str, str]:
    """Return what went wrong and what to do, in words of ours."""
    for kinds, message, fix in _OF_TYPE:
        if isinstance(error, kinds):
            return message, fix
    text = str(error)
    for needles, message, fix in _OF_TEXT:
        if any(needle in text for needle in needles):
            return message, fix
    return _OTHERWISE


def _refuse(address: str, message: str, fix: str) -> NoReturn:
    raise InputError(message, fix, file=address) from None
