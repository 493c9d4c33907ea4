"""The local Canvas of the commands `sandbox` and `demo`."""

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pipeline
from pipeline.app.config.load import load
from pipeline.commands.run import Result, run
from pipeline.errors import ConfigError
from pipeline.job import Progress
from pipeline.sandbox import Sandbox, load_faults, load_seed, serve

_ENVIRONMENT: Final = {"CANVAS_CLIENT_ID": "sandbox", "CANVAS_CLIENT_SECRET": "sandbox"}


def make_sandbox(
    seed: Path | None,
    faults: str,
    fault_seed: int,
    contract: str,
    state: Path | None,
    taken_order: str = "move",
    timezone: str = "UTC",
) -> Sandbox:
    """Return a local Canvas. Raises ConfigError if there is no such fault profile, or a file is wrong."""
    try:
        profile = load_faults(faults)
    except ValueError as error:
        raise ConfigError(str(error), "name a profile or a file") from None
    try:
        return Sandbox(
            None if seed is None else load_seed(seed),
            contract=contract,
            faults=profile,
            fault_seed=fault_seed,
            state=state,
            taken_order=taken_order,
            timezone=timezone,
        )
    except ValueError as error:
        raise ConfigError(
            str(error), "change the option, or the file: sample_data/canvas_seed.json is a seed"
        ) from None


async def serve_until(
    stop: asyncio.Event, sandbox: Sandbox, port: int, say: Callable[[str], None]
) -> None:
    """Serve on loopback until `stop` is set. Raises ConfigError if the port cannot be used."""
    async with AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(serve(sandbox, port=port))
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be used: {os.strerror(error.errno or 0)}",
                "choose another --port; 0 picks a free one",
            ) from None
        say(f"A local Canvas is at {url}")
        say(f"  base_url = {url}")
        say(f"  token_url = {url}/auth/token/")
        if not sandbox.store.resources["Patient"]:
            say("  It holds no patient, so every row is refused: give it some with --seed FILE,")
            say("  at each start, because --state keeps only what was written since.")
        say("  CANVAS_CLIENT_ID=sandbox CANVAS_CLIENT_SECRET=sandbox")
        say("  Its own account of what it did (Ctrl-C ends it):")
        say(f"  {url}/_sandbox/account")
        await stop.wait()


async def run_demo(
    progress: Progress,
    stop: asyncio.Event,
    faults: str,
    folder: Path,
    *,
    rate_per_s: float = 500.0,
) -> Result:
    """Load the sample data into a fresh local Canvas; write state and reports into `folder`."""
    root = _root()
    sandbox = make_sandbox(root / "sample_data" / "canvas_seed.json", faults, 0, "2025-10", None)
    async with serve(sandbox, port=0) as url:
        job = load(
            root / "configs" / "demo.toml",
            environment=_ENVIRONMENT,
            overrides={
                "canvas": {"base_url": url, "token_url": f"{url}/auth/token/"},
                "state": {"dir": str(folder / f"state-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")},
                "report": {"dir": str(folder / "reports")},
                "upload": {"rate_per_s": rate_per_s},
            },
        )
        return await run(job, progress=progress, stop=stop)


def _root() -> Path:
    """Return the folder of `configs/` and `sample_data/`: in the package if installed, else beside it."""
    package = Path(pipeline.__file__).parent
    return package / "_demo" if (package / "_demo").is_dir() else package.parent
