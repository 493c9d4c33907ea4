"""The fixtures that every test may use."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.sandbox import Sandbox, serve
from tests.world import World, seed


@pytest.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """A maker of local Canvases, each served until the test ends."""
    async with AsyncExitStack() as stack:

        async def make(*, patients: int = 20, balance: str = "1000000.00", **options: Any) -> World:
            sandbox = Sandbox(seed(patients, balance), **options)
            url = await stack.enter_async_context(serve(sandbox))
            return World(tmp_path, sandbox, url)

        yield make
