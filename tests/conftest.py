"""The fixtures that every test may use."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.sandbox import Sandbox, serve
from tests.support import postgres
from tests.support.journal_steps import journal, url  # noqa: F401 - fixtures
from tests.support.world import World, seed


@pytest.fixture
async def make_world(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """A maker of local Canvases, each served until the test ends."""
    async with AsyncExitStack() as stack:

        async def make(*, patients: int = 20, balance: str = "1000000.00", **options: Any) -> World:
            sandbox = Sandbox(seed(patients, balance), **options)
            url = await stack.enter_async_context(serve(sandbox))
            return World(tmp_path, sandbox, url)

        yield make


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """A PostgreSQL for all tests of a process; those that stop it start their own."""
    if why := postgres.missing():
        pytest.skip(why)
    with postgres.served() as server:
        yield server


@pytest.fixture
def database(postgres_server: postgres.Server) -> Iterator[str]:
    """The address of an empty database, without the password: that is `postgres_server.password`."""
    name = postgres_server.create()
    yield postgres_server.url(name)
    postgres_server.drop(name)
