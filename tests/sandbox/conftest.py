"""A real sandbox on loopback, and a client that speaks to it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from pipeline.sandbox import Sandbox, serve

from .bodies import AUTH, SEED

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager


@dataclass
class Answered:
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def id(self) -> str:
        return str(self.headers["Location"]).rpartition("/")[2]

    @property
    def issues(self) -> list[tuple[str, str]]:
        read = self.json
        assert read["resourceType"] == "OperationOutcome"
        assert {issue["severity"] for issue in read["issue"]} == {"error"}
        return [(issue["code"], issue["details"]["text"]) for issue in read["issue"]]


@dataclass
class Client:
    sandbox: Sandbox
    url: str
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Answered:
        """Send one request; `body` is JSON, `data` raw bytes."""
        headers = {**AUTH, "Content-Type": "application/json", **more.pop("headers", {})}
        data = more.pop("data", None if body is None else orjson.dumps(body))
        async with self.session.request(
            method, self.url + path, data=data, headers=headers, allow_redirects=False, **more
        ) as response:
            return Answered(response.status, response.headers, await response.read())

    async def get(self, path: str, **more: Any) -> Answered:
        return await self.ask("GET", path, **more)

    async def post(self, body: Any, **more: Any) -> Answered:
        return await self.ask("POST", f"/{body['resourceType']}", body, **more)

    async def put(self, body: Any, **more: Any) -> Answered:
        return await self.ask("PUT", f"/Coverage/{body['id']}", body, **more)


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Client]:
    sandbox = Sandbox(**{"seed": SEED, **settings})
    async with serve(sandbox) as url, aiohttp.ClientSession() as session:
        yield Client(sandbox, url, session)


@pytest.fixture
def sandboxed() -> Callable[..., AbstractAsyncContextManager[Client]]:
    """Open a sandbox with settings of one's own."""
    return opened


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Client]:
    """A sandbox of the current contract in which nothing goes wrong."""
    async with opened() as client:
        yield client
