"""Pages in a real browser: Chromium, driven by Playwright; and the runs whose pages are looked at."""

import asyncio
import os
import shutil
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import run as engine
from pipeline.sandbox import Sandbox, serve
from tests.support.world import World, seed

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE_MS = 300_000  # a machine may be busy with other things


def apart(work: Callable[[], Coroutine[Any, Any, engine.Result]]) -> engine.Result:
    """Its result, from a thread of its own: Playwright keeps a loop running in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


def in_world(
    folder: Path,
    work: Callable[[World], Coroutine[Any, Any, engine.Result]],
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> engine.Result:
    """What comes of `work` in a small world; `settings` are of its configuration, `options` of its Canvas."""

    async def served() -> engine.Result:
        sandbox = Sandbox(seed(20), **options)
        async with serve(sandbox) as url:
            world = World(folder, sandbox, url)
            world.write_config(**(settings or {}))
            return await work(world)

    return apart(served)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is missing: make checks"
    )
    if CHROMIUM is None:
        pytest.skip("Chromium is missing: install it (apt-get install chromium)")
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=flags, timeout=PATIENCE_MS)
        yield opened
        opened.close()


@dataclass
class Tab:
    """A page as it is open, and whatever it said or asked for."""

    page: Any
    said: list[str]
    asked: list[str]

    def do(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def until(self, script: str) -> None:
        """Wait until it is so; under the policy only by looking."""
        for _ in range(PATIENCE_MS // 50):
            if self.do(script):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never came to be: {script}")

    def rows(self) -> None:
        self.until("document.querySelectorAll('#rows-table tbody tr').length > 0")

    @property
    def info(self) -> str:
        told: str = self.do("document.querySelector('.dt-info').textContent")
        return told

    def column(self, number: int) -> list[str]:
        cells = f"#rows-table tbody tr td:nth-child({number})"
        told: list[str] = self.do(
            "cells => [...document.querySelectorAll(cells)].map(cell => cell.textContent)", cells
        )
        return told


@contextmanager
def tab(browser: Any, path: Path, width: int = 1280, scheme: str = "light", **options: Any) -> Iterator[Tab]:  # fmt: skip
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, **options
    )
    context.set_default_timeout(PATIENCE_MS)
    opened = Tab(context.new_page(), [], [])
    opened.page.on("console", lambda message: opened.said.append(message.text))
    opened.page.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.page.on("request", lambda request: opened.asked.append(request.url))
    opened.page.goto(path.as_uri())
    yield opened
    assert opened.said == []
    assert opened.asked == [path.as_uri()]
    context.close()


def violations(opened: Tab) -> list[str]:
    axe = pytest.importorskip(
        "axe_playwright_python.base", reason="axe is missing: make checks"
    ).AXE_SCRIPT
    opened.do(axe)
    found = opened.do("axe.run()")["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found]
