"""A command with its journal in PostgreSQL."""

import asyncio
import os
import subprocess
import sys

from tests.support.world import CREDENTIALS, World


async def command(
    world: World, *arguments: str, start: tuple[str, ...] = ("-m", "pipeline")
) -> tuple[int, str]:
    """Return the exit code of a command, and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *start, *arguments, cwd=world.folder, env={**os.environ, **CREDENTIALS},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()
