"""Reports that are written under odd conditions."""

import csv
from pathlib import Path

from aiohttp import web

from tests.support.planted import Mirror, outcome


def cells_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Refusing(Mirror):
    """Refuses every write, with words that a spreadsheet would run and a terminal obey."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if request.method != "POST" or "token" in request.path:
            return await self.as_canvas(request, body)
        return outcome(422, f'=HYPERLINK("http://x"){NASTY}', "business-rule", {})


NASTY = "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\u2066\x9b31m\r\x08"
