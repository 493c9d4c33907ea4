"""Rows whose values must not appear outside the files for rows."""

import base64
import contextlib
import csv
import gzip
import html
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

from aiohttp import ClientSession, web

from pipeline.rows.eligibility import EligibilityRow
from pipeline.rows.ledger import LedgerRow
from tests.support.world import World, patient_key

# A stem of ASCII letters survives most ways of writing; what follows it does not.
STEM = "Zq7Plantagenet"


TEXT = f'{STEM} O\'Neil & "Søn" <b>/+=@'


# Values that have to have a form of their own. None of them is the sum of anything here.
KEY = "5eed5eedfacade5eed5eedfacade5eed"


AMOUNTS = ("48213.77", "39171.03")


DAYS = ("1957-08-23", "08/23/1957", "1957-08-24")


PLANTED = (STEM, TEXT, KEY, *AMOUNTS, *DAYS)


# What a run leaves for people who work on rows: docs/reports.md, "The report folder".
FOR_ROWS = re.compile(r"(reconciliation|verification)\.\w+|(rejects|missing|changes)-\w+\.csv")


def forms_of(value: str) -> dict[str, bytes]:
    """Return all ways in which a value may be written; of base64 the part that does not depend on its neighbours."""
    raw = value.encode()
    forms = {
        "raw": raw,
        "latin-1": value.encode("latin-1", "replace"),
        "utf-16": value.encode("utf-16-le"),
        "url": quote(value, safe="").encode(),
        "url, plus": quote_plus(value).encode(),
        "json": json.dumps(value)[1:-1].encode(),
        "json, utf-8": json.dumps(value, ensure_ascii=False)[1:-1].encode(),
        "html": html.escape(value).encode(),
        "html, decimal": value.encode("ascii", "xmlcharrefreplace"),
        "hex": raw.hex().encode(),
        "repr": repr(value)[1:-1].encode(),
        "ascii": ascii(value)[1:-1].encode(),
    }
    for offset in range(3):
        text = base64.b64encode(b"\0" * offset + raw).decode()
        first, last = (0, 2, 3)[offset], (len(raw) + offset) * 8 // 6
        forms[f"base64, {offset}"] = text[first:last].encode()
        forms[f"base64, {offset}, for URLs"] = (
            text[first:last].replace("+", "-").replace("/", "_").encode()
        )
    return forms


FORMS = [
    (name, form.lower(), planted) for planted in PLANTED for name, form in forms_of(planted).items()
]


def found_in(content: bytes) -> set[str]:
    """Return the forms in which planted values are in a text, in any case."""
    lowered = content.lower()
    return {f"{name} of {planted[:20]}" for name, form, planted in FORMS if form in lowered}


@dataclass
class Shown:
    """The outputs of a run, by place."""

    texts: dict[str, bytes] = field(default_factory=dict)

    def add(self, where: str, content: bytes | str) -> None:
        raw = content if isinstance(content, bytes) else content.encode(errors="replace")
        self.texts[f"{len(self.texts)} {where}"] = raw

    def left_in(self, folder: Path) -> None:
        """Take all that a run left except the files for rows, and the names of files. Packed blocks are unpacked."""
        for path in sorted(folder.rglob("*")):
            self.add("the name of a file", str(path.relative_to(folder)))
            inside = path.relative_to(folder).parts[0]
            if not path.is_file() or inside == "state" or inside not in _LEFT:
                continue
            if FOR_ROWS.fullmatch(path.name):
                continue
            content = path.read_bytes()
            self.add(path.name, content)
            for block in re.findall(rb">\s*(H4sI[A-Za-z0-9+/=]+)\s*<", content):
                self.add(f"{path.name}, unpacked", gzip.decompress(base64.b64decode(block)))

    @property
    def leaks(self) -> dict[str, set[str]]:
        return {where: found for where, text in self.texts.items() if (found := found_in(text))}


_LEFT = {"reports", "ingest.prom", "outcome", "cmdline", "environ"}


ELIGIBILITY = list(EligibilityRow.model_fields)


LEDGER = list(LedgerRow.model_fields)


_ONLY = {"ledger": '[feeds.only]\nentry_type = ["PAYMENT"]\n'}


MORE = f"of the sender {STEM[::-1]}"  # a column that is mapped to nothing


TELL = (
    "[notify]\non = [0, 1, 2, 3, 4, 5, 130]\n"
    'command = ["{python}", "-c", "{code}", "{folder}"]\n'
    '[report]\ndir = "reports"\nmetrics = "ingest.prom"\n'
)


KEEP = (
    "import os, sys; f = sys.argv[1]; p = open(f + '/outcome', 'ab'); p.write(sys.stdin.buffer.read());"
    " q = f'/proc/{os.getppid()}/'; open(f + '/cmdline', 'ab').write(open(q + 'cmdline', 'rb').read());"
    " open(f + '/environ', 'ab').write(open(q + 'environ', 'rb').read())"
)


def configure(world: World, *, more: str = "", limits: str = "", **settings: Any) -> None:
    """Configure both feeds with a column of the same name for every field."""
    feeds = TELL.format(python=sys.executable, code=KEEP, folder=world.folder) + more
    for kind, fields in (("eligibility", ELIGIBILITY), ("ledger", LEDGER)):
        lines = "".join(f'{name} = "{name}"\n' for name in fields)
        feeds += (
            f'[[feeds]]\nname = "{kind}"\nkind = "{kind}"\npath = "{kind}.csv"\n'
            f'dates = ["%Y-%m-%d", "%m/%d/%Y"]\n{_ONLY.get(kind, "")}[feeds.columns]\n{lines}'
        )
    world.write_config(feeds=feeds, limits=limits, **settings)


def write(world: World, kind: str, rows: list[dict[str, str]]) -> None:
    fields = [*(ELIGIBILITY if kind == "eligibility" else LEDGER), MORE]
    with (world.folder / f"{kind}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fields, restval="")
        writer.writeheader()
        writer.writerows({MORE: TEXT, **row} for row in rows)


def coverage(number: int, **changes: str) -> dict[str, str]:
    """Return a row that Canvas takes, of only planted values if their form allows it."""
    named = ("member_id", "subscriber_id", "payer_name", "plan", "subplan", "group", "subgroup")
    return {
        "patient": patient_key(number),
        "relationship": "self",
        "payer": "60054",
        "order": "1",
        "start_on": DAYS[0],
        **{name: f"{TEXT} {name} {number}" for name in named},
        **changes,
    }


def payment(number: int, **changes: str) -> dict[str, str]:
    return {
        "transaction_id": f"T{number}",
        "patient": patient_key(number),
        "amount": AMOUNTS[number % 2],
        "posted_on": DAYS[2],
        "entry_type": "PAYMENT",
        **changes,
    }


class Mirror:
    """A server in front of a local Canvas that answers with all parts of the request, and more of that kind."""

    def __init__(self, canvas: str, *, reads: bool = False) -> None:
        self.canvas, self.reads, self.turn = canvas, reads, 0

    async def answer(self, request: web.Request) -> web.StreamResponse:  # noqa: PLR0911 - an answer each
        body = await request.read()
        is_write = request.method in {"POST", "PUT"} and "token" not in request.path
        is_struck = is_write or (self.reads and "token" not in request.path)
        self.turn += is_struck
        if not is_struck or (self.turn % 3 == 0 and not self.reads):
            return await self.as_canvas(request, body)
        said = " ".join(
            [request.method, str(request.url), str(request.headers), body.decode(), *PLANTED]
        )
        headers = {"fumage-correlation-id": f"{STEM} {KEY}", "Retry-After": STEM, "X-Said": STEM}
        match (self.turn // 3 if not self.reads else self.turn) % 11:
            case 0 | 1:
                return outcome(400, said, STEM, headers)
            case 2:
                return outcome(
                    422,
                    f"Patient {KEY} has paid {AMOUNTS[0]} on {DAYS[0]}",
                    "business-rule",
                    headers,
                )
            case 3:
                return web.Response(
                    status=503, text=f"<h1>{said}</h1>", content_type="text/html", headers=headers
                )
            case 4:
                return web.Response(
                    status=500, text=json.dumps({"message": said}), content_type="application/json"
                )
            case 5:
                return web.Response(
                    status=307,
                    headers={**headers, "Location": f"https://{STEM}.example/{KEY}?{STEM}"},
                )
            case 6:
                return web.Response(
                    status=201, text=said, headers={**headers, "Location": f"https://other/{STEM}"}
                )
            case 7:
                return web.Response(
                    status=200, text=f"[{said}", content_type="application/json", headers=headers
                )
            case 8:
                return web.Response(status=429, reason=STEM, text=said, headers=headers)
            case 9:
                return outcome(403, said, TEXT, headers)
            case _:
                if request.transport is not None:
                    request.transport.close()
                return web.Response()

    async def as_canvas(self, request: web.Request, body: bytes) -> web.Response:
        headers = {
            n: v for n, v in request.headers.items() if n.lower() not in {"host", "content-length"}
        }
        async with (
            ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, self.canvas + request.path_qs, headers=headers, data=body
            ) as reply,
        ):
            kept = {
                n: v for n, v in reply.headers.items() if n in {"Location", "Date", "Content-Type"}
            }
            return web.Response(status=reply.status, body=await reply.read(), headers=kept)


def outcome(status: int, said: str, code: str, headers: dict[str, str]) -> web.Response:
    issue = {
        "severity": "error",
        "code": code,
        "details": {"text": said},
        "diagnostics": said,
        "expression": [said],
    }
    resource = {"resourceType": "OperationOutcome", "id": STEM, "issue": [issue, issue]}
    return web.json_response(resource, status=status, headers=headers)


@contextlib.asynccontextmanager
async def mirrored(world: World, mirror: Mirror) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", mirror.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    world.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        await runner.cleanup()
