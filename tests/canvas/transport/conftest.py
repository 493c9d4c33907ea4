"""The transport on both event loops: what is promised holds on each."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import uvloop

from tests.canvas.transport.server import Script, Server, serving


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """A maker of servers, each open until the test ends."""
    async with AsyncExitStack() as stack:

        async def make(*scripts: Script, context: ssl.SSLContext | None = None) -> Server:
            return await stack.enter_async_context(serving(Server(*scripts), context))

        yield make
