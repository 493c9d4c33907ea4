"""A server that answers with the very bytes it is told to, and ends its connections as it is told to."""

import asyncio
import contextlib
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

CLOSE: Final = "close"
RESET: Final = "reset"
Step = bytes | float | str  # to be sent, seconds to wait, or one of the two above
Script = Sequence[Step]


class Server:
    """Plays one script for each request, the last of them again and again."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts
        self.connections = 0
        self.open = self.open_most = 0
        self.requests: list[bytes] = []
        self.played = 0
        self.url = ""
        self.reads_bodies = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.open += 1
        self.open_most = max(self.open, self.open_most)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def is_left(self) -> None:
        """Wait until nobody is connected, but not for ever: some clients stay."""
        for _ in range(100):
            if not self.open:
                break
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)  # all is on one loop: in its next turns the client sees it too

    async def is_played(self) -> None:
        """Wait until all that follows the last request was sent."""
        while self.played < len(self.requests):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)  # as above

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", request)
        if length is not None and self.reads_bodies:
            request += await reader.readexactly(int(length[1]))
        script = self.scripts[min(len(self.requests), len(self.scripts) - 1)]
        self.requests.append(request)
        for step in script:
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                case float():
                    await asyncio.sleep(step)
                case "close":
                    return False
                case _:
                    reset(writer)
                    return False
        self.played += 1
        return True


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with a TCP reset."""
    raw = writer.get_extra_info("socket")
    if raw is not None:  # else the client was first
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@asynccontextmanager
async def serving(server: Server, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Serve it on loopback, and end what is open when the test ends."""
    tasks: set[asyncio.Task[None]] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        with contextlib.suppress(asyncio.CancelledError):
            await server.serve(reader, writer)

    listening = await asyncio.start_server(tracked, "127.0.0.1", 0, ssl=context)
    port = listening.sockets[0].getsockname()[1]
    server.url = f"{'https' if context else 'http'}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        listening.close()
        for _ in range(100):  # they end by themselves once their client is gone
            if not tasks:
                break
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
