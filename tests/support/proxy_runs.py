"""A command that goes through a proxy."""

import asyncio
import os
import subprocess
import sys

from tests.support.world import CREDENTIALS, World


async def command(world: World, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run the command itself, and return its exit code and all that it prints."""
    own = {name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy")}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "pipeline", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=world.folder,
        env={**own, **CREDENTIALS, **variables},
    )
    return done.returncode, done.stdout + done.stderr
