"""The fixtures that every test may use."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from pipeline.sandbox import Sandbox, serve
from tests.support import postgres
from tests.support.browser import browser  # noqa: F401 - a fixture
from tests.support.journal_steps import journal, url  # noqa: F401 - fixtures
from tests.support.world import World, seed

settings.register_profile("suite", deadline=None)  # a busy machine makes no test wrong
settings.load_profile("suite")

_CLUSTER = Path(__file__).parent / "cluster"


_MARKER_BY_FIXTURE = {
    "make_world": "runs",
    "postgres_server": "postgresql",
    "database": "postgresql",
    "browser": "browser",
}

# Their tests share what takes seconds to make, such as a cluster or a browser. They run in one process.
_TOGETHER = (
    "tests/app/test_demo.py",
    "tests/cluster/test_cluster.py",
    "tests/cluster/test_workers.py",
    "tests/reporting/test_page.py",
    "tests/reporting/test_page_history.py",
)


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process a test at a time, or all tests of a module that run together."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return module if module in _TOGETHER else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    """Return how tests are given to processes (`-n`), whatever `--dist` says."""
    return _Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark each test by what it needs, so that `make test-fast` can leave it out."""
    for item in items:
        for fixture in _MARKER_BY_FIXTURE.keys() & set(item.fixturenames):
            item.add_marker(_MARKER_BY_FIXTURE[fixture])
        if hasattr(item, "callspec") and "postgresql" in item.callspec.id.split("-"):
            item.add_marker("postgresql")
        if item.path.is_relative_to(_CLUSTER):
            item.add_marker("cluster")


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
