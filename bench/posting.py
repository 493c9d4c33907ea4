"""Scripts that people write instead of a run: each only posts its rows.

    python -m bench.posting WAY URL FILE CONCURRENCY      WAY: bare, naive, fhirpy

FILE has a PaymentNotice in JSON on each line. It imports nothing of ours, so that `fhirpy` runs where
only fhirpy is installed. `bare` keeps no account of anything, in the shape and with the settings that
ours has: it is what aiohttp allows. `naive` is a careful script: it writes down each record before it
is sent and after, and waits until it is on disk.
"""

import asyncio
import json
import sqlite3
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.rounds import compete

HEADERS: Final = {
    "Authorization": "Bearer bench",
    "Accept": "application/json",
    "Content-Type": "application/json",
}
_CREATED: Final = 201


async def bare(url: str, bodies: list[bytes], concurrency: int) -> int:
    """Post by one worker per connection: bytes out, the answer's body read."""
    import aiohttp  # noqa: PLC0415 - each way needs its own library

    left, ids = iter(bodies), []
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with (
        aiohttp.ClientSession(connector=connector, headers=HEADERS) as session,
        asyncio.TaskGroup() as workers,
    ):

        async def post() -> None:
            for body in left:
                async with session.post(f"{url}/PaymentNotice", data=body) as response:
                    await response.read()
                    assert response.status == _CREATED
                    ids.append(response.headers["Location"])

        for _ in range(concurrency):
            workers.create_task(post())
    return len(ids)


async def naive(url: str, bodies: list[bytes], concurrency: int) -> int:
    """Post by one task per row, with a commit before and one after."""
    import aiohttp  # noqa: PLC0415

    with TemporaryDirectory() as folder:
        database = sqlite3.connect(Path(folder) / "sent.db", isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE sent (number INTEGER PRIMARY KEY, state TEXT, id TEXT)")
        places = asyncio.Semaphore(concurrency)
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

            async def post(number: int, body: bytes) -> None:
                async with places:
                    database.execute("INSERT INTO sent VALUES (?, 'sending', '')", (number,))
                    async with session.post(f"{url}/PaymentNotice", data=body) as response:
                        await response.read()
                        assert response.status == _CREATED
                        place = response.headers["Location"]
                    database.execute(
                        "UPDATE sent SET state = 'sent', id = ? WHERE number = ?", (place, number)
                    )

            async with asyncio.TaskGroup() as tasks:
                for number, body in enumerate(bodies):
                    tasks.create_task(post(number, body))
        (count,) = database.execute("SELECT count(*) FROM sent WHERE state = 'sent'").fetchone()
        database.close()
    return int(count)


async def fhirpy(url: str, bodies: list[bytes], concurrency: int) -> int:
    """Post with fhirpy, as its documentation shows it."""
    client = import_module("fhirpy").AsyncFHIRClient(url, authorization=HEADERS["Authorization"])
    places, count = asyncio.Semaphore(concurrency), 0

    async def post(content: dict[str, Any]) -> None:
        nonlocal count
        async with places:
            await client.resource(**content).save()
        count += 1

    async with asyncio.TaskGroup() as tasks:
        for body in bodies:
            content = json.loads(body)
            tasks.create_task(post({"resource_type": content.pop("resourceType"), **content}))
    return count


Way = Callable[[str, list[bytes], int], Coroutine[Any, Any, int]]
WAYS: Final[dict[str, Way]] = {"bare": bare, "naive": naive, "fhirpy": fhirpy}


def main() -> None:
    way, url, path, concurrency = sys.argv[1:]
    run: Callable[[Coroutine[Any, Any, int]], int] = asyncio.run
    with suppress(ImportError):
        run = import_module("uvloop").run  # where ours has it
    bodies = Path(path).read_bytes().splitlines()

    def work() -> None:
        assert run(WAYS[way](url, bodies, int(concurrency))) == len(bodies)

    compete(work)


if __name__ == "__main__":
    main()
