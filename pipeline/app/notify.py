"""Send the notice of how a command ended: to a command's stdin, and to a webhook.

A failure here is a warning in the log. The webhook's address is a secret and is never shown; the
command gets only the part of our environment that it needs.
"""

import asyncio
import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import structlog

from pipeline.app.config.sections import NotifySection
from pipeline.canvas.transport import Transport
from pipeline.system.environment import of_command

_OK: Final = range(200, 300)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Recipients:
    """The recipients of the notice: the command of `[notify]` and a webhook, each may be empty."""

    settings: NotifySection
    webhook: str = field(repr=False)


async def notify(notice: Mapping[str, Any], recipients: Recipients) -> None:
    """Send a notice to both at the same time, if its exit code is one of those to be reported."""
    settings, webhook = recipients.settings, recipients.webhook
    if notice["exit_code"] not in settings.on:
        return
    body = orjson.dumps(notice)
    ways = {
        "command": _run(settings, body) if settings.command else None,
        "webhook": _post(webhook, body, settings.timeout_s) if webhook else None,
    }
    asked = {how: way for how, way in ways.items() if way is not None}
    for how, why in zip(asked, await asyncio.gather(*asked.values()), strict=True):
        if why:
            log.warning("notice_failed", run_id=notice["run_id"], how=how, why=why)
        else:
            log.info("notice_sent", run_id=notice["run_id"], how=how)


async def _run(settings: NotifySection, body: bytes) -> str:
    """Run the command with the notice on its stdin. Returns why it failed, or ""."""
    # A pipe of our own: uvloop raises an error if the command ends before asyncio's pipe is written to.
    stdin, pipe = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *settings.command,
            stdin=stdin,
            stdout=asyncio.subprocess.DEVNULL,  # ours is for the summary
            stderr=asyncio.subprocess.DEVNULL,  # and ours for the log
            env=of_command(settings.env),
        )
    except OSError as error:
        os.close(pipe)
        return f"it cannot be started: {error.strerror}"
    finally:
        os.close(stdin)
    try:
        async with asyncio.timeout(settings.timeout_s):
            await asyncio.to_thread(_write, pipe, body)
            await process.wait()
    except TimeoutError:
        return f"not done after {settings.timeout_s:g} s"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return f"it ended with {process.returncode}" if process.returncode else ""


def _write(pipe: int, body: bytes) -> None:
    """Write the notice and close the pipe; the command need not read it."""
    with contextlib.suppress(BrokenPipeError), open(pipe, "wb") as file:
        file.write(body)


async def _post(url: str, body: bytes, timeout_s: float) -> str:
    """POST the notice. Returns why it failed, or ""."""
    async with Transport(timeout_s, 1) as transport:
        reply = await transport.exchange("POST", url, {"Content-Type": "application/json"}, body)
    if reply.status is None:
        return f"no answer: {reply.problem}"
    return "" if reply.status in _OK else f"answered with {reply.status}"
