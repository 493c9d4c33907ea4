"""A server between a run and the local Canvas, which answers some requests itself.

Use it for what a firewall, a gateway, a token service or an outage does to chosen requests.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import ClientSession, web

from tests.support.world import World


@dataclass(slots=True)
class Asked:
    """One request: its method, path, token and body, its number, from 1, among those of its method and path, and its query."""

    method: str
    path: str
    token: str
    body: bytes
    number: int
    query: str = ""

    @property
    def is_write(self) -> bool:
        """Return whether it creates or updates a resource."""
        return self.method in {"POST", "PUT"} and not self.path.startswith("/auth")

    @property
    def is_for_token(self) -> bool:
        """Return whether it asks for a token."""
        return self.path.startswith("/auth")


@dataclass(frozen=True, slots=True)
class Slow:
    """An answer that comes after some seconds."""

    seconds: float
    answer: "web.Response | str | None"


# An answer; None to pass the request on; LOST to pass it on and lose the answer.
Answer = web.Response | Slow | str | None
LOST = "lost"


@dataclass(slots=True)
class Between:
    """The requests that it got, and its answers."""

    canvas: str
    answer: Callable[[Asked], Answer]
    asked: list[Asked] = field(default_factory=list)

    @property
    def writes(self) -> list[Asked]:
        """Return the writes that arrived, in order."""
        return [each for each in self.asked if each.is_write]

    @property
    def tokens(self) -> list[Asked]:
        """Return the requests for a token that arrived."""
        return [each for each in self.asked if each.is_for_token]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, or pass it on."""
        path = request.path
        same = (request.method, path)
        number = 1 + sum((each.method, each.path) == same for each in self.asked)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        asked = Asked(
            request.method, path, token, await request.read(), number, request.query_string
        )
        self.asked.append(asked)
        answer = self.answer(asked)
        if isinstance(answer, Slow):
            await asyncio.sleep(answer.seconds)
            answer = answer.answer
        if isinstance(answer, web.Response):
            return answer
        passed = await self._passed_on(request, asked)
        return _hang_up(request) if answer == LOST else passed

    async def _passed_on(self, request: web.BaseRequest, asked: Asked) -> web.Response:
        dropped = {"host", "content-length", "connection"}
        headers = {n: v for n, v in request.headers.items() if n.lower() not in dropped}
        async with (
            ClientSession(auto_decompress=False) as session,
            session.request(
                asked.method, self.canvas + request.path_qs, headers=headers, data=asked.body
            ) as reply,
        ):
            kept = {"Location", "Date", "Content-Type", "Retry-After", "fumage-correlation-id"}
            passed = {n: v for n, v in reply.headers.items() if n in kept}
            return web.Response(status=reply.status, body=await reply.read(), headers=passed)


@asynccontextmanager
async def between(world: World, answer: Callable[[Asked], Answer]) -> AsyncIterator[Between]:
    """Put such a server between `world` and its Canvas while the block runs."""
    server = Between(world.url, answer)
    runner = web.ServerRunner(web.Server(server.handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    canvas, world.url = world.url, f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        world.url = canvas
        await runner.cleanup()


def page(status: int = 403) -> web.Response:
    """Return the page of something that is not the FHIR API."""
    return web.Response(
        status=status, text="<html>Request blocked</html>", content_type="text/html"
    )


def outcome(status: int, code: str, text: str) -> web.Response:
    """Return an OperationOutcome of one issue."""
    issue = {"severity": "error", "code": code, "details": {"text": text}}
    body = {"resourceType": "OperationOutcome", "issue": [issue]}
    return web.json_response(body, status=status, content_type="application/fhir+json")


def _hang_up(request: web.BaseRequest) -> web.StreamResponse:
    request.protocol.force_close()
    return web.Response()
