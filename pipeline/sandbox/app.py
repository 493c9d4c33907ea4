"""The sandbox on a socket: routes, authorization, answers, and faults.

It uses aiohttp's low-level server and a routing of its own, because the paths are few and every path, even
an unknown one, has a documented answer. It listens on loopback only.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from contextlib import asynccontextmanager
from email.utils import formatdate, parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote

import orjson
from aiohttp import web

from pipeline.sandbox import rules
from pipeline.sandbox.account import Attempt, Effect
from pipeline.sandbox.answers import (
    CUT_BODY,
    CUT_LENGTH,
    Answer,
    error_answer,
    html_answer,
    json_answer,
    location_of,
    refusal_answer,
    resource_answer,
    throttled_answer,
)
from pipeline.sandbox.auth import allows
from pipeline.sandbox.coverage import CoverageDraft, check_coverage
from pipeline.sandbox.metadata import capability_statement
from pipeline.sandbox.rules import PaymentDraft, Refusal, check_payment
from pipeline.sandbox.sandbox import Sandbox, patient_of
from pipeline.sandbox.search import bundle, known_params, page_of
from pipeline.sandbox.store import TYPES

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from pipeline.sandbox.faults import Decision

BODY_MAX: Final = 256 * 1024
"""Bytes of a request's body; a resource of these types has less than ten thousand."""
METHODS: Final = frozenset(("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"))
WRITES: Final = frozenset((("POST", "Coverage"), ("PUT", "Coverage"), ("POST", "PaymentNotice")))
SHUTDOWN_S: Final = 0.2
"""How long open requests may take when the server stops."""
QUERY_FIELDS_MAX: Final = 50
CONTENT_TYPES: Final = frozenset(("application/json", "application/fhir+json"))
NOT_JSON: Final = object()
"""In place of a body that is no JSON."""


class Request:
    """One FHIR request as it arrived."""

    __slots__ = (
        "arrived_s",
        "body",
        "method",
        "parsed",
        "query",
        "raw",
        "resource_id",
        "resource_type",
        "writes",
    )

    def __init__(self, raw: web.BaseRequest, arrived_s: float) -> None:
        """Parse the address. `resource_type` is empty if the path is unknown."""
        path, _, self.query = raw.raw_path.partition("?")
        parts = path[1:].split("/")
        known = parts[0] in TYPES and len(parts) <= 2 and parts[-1] != ""
        self.raw = raw
        self.arrived_s = arrived_s
        self.method = raw.method if raw.method in METHODS else "OTHER"
        self.resource_type = parts[0] if known else ""
        self.resource_id = unquote(parts[1]) if known and len(parts) > 1 else None
        self.body: bytes | None = b""
        self.parsed: object = NOT_JSON
        to_one = self.resource_id is not None
        written = (self.method, self.resource_type) in WRITES
        self.writes = written and to_one is (self.method == "PUT")


class Served:
    """Answers the requests of one sandbox."""

    def __init__(self, sandbox: Sandbox) -> None:
        """Serve this sandbox."""
        self._sandbox = sandbox
        self._store = sandbox.store
        self._account = sandbox.store.account
        self._metadata = orjson.dumps(capability_statement(sandbox.contract))

    async def handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever it is."""
        path = raw.raw_path.partition("?")[0]
        if path.startswith("/_sandbox/"):
            return await self._send(raw, self._own(path))
        if path == "/auth/token/":
            answer = await self._token(raw)
            self._account.answer(f"{raw.method} {path}", str(answer.status))
            return await self._send(raw, answer)
        arrived_s = time.monotonic()
        self._account.arrive(arrived_s)
        if path == "/metadata":
            return await self._send_metadata(raw)
        request = Request(raw, arrived_s)
        answer = await (self._write(request) if request.writes else self._other(request))
        self._account.answer(f"{request.method} /{request.resource_type or '?'}", answer.outcome)
        return await self._send(raw, answer)

    def _own(self, path: str) -> Answer:
        """Answer a request for the sandbox's own pages, which Canvas does not have."""
        if path == "/_sandbox/account":
            return json_answer(200, self._sandbox.account())
        if path == "/_sandbox/health":
            return json_answer(200, {"status": "ok", "contract": self._sandbox.contract.name})
        return refusal_answer(rules.NOT_FOUND)

    async def _token(self, raw: web.BaseRequest) -> Answer:
        """Answer POST /auth/token/ (docs/canvas.md, Access)."""
        if raw.method != "POST":
            return refusal_answer(rules.NOT_SUPPORTED)
        form = await _read(raw)
        if form is None:
            return refusal_answer(rules.TOO_LARGE)
        if _content_type(raw) != "application/x-www-form-urlencoded":
            return json_answer(400, {"error": "invalid_request"})
        sandbox = self._sandbox
        token_url = f"{raw.scheme}://{raw.host}{raw.path}"
        answer = sandbox.auth.issue(form, token_url, sandbox.faults, sandbox.clock())
        return json_answer(answer.status, answer.body)

    async def _send_metadata(self, raw: web.BaseRequest) -> web.StreamResponse:
        """Answer GET /metadata, which needs no token."""
        get = raw.method == "GET"
        answer = Answer(200, self._metadata) if get else refusal_answer(rules.NOT_SUPPORTED)
        self._account.answer(f"{raw.method} /metadata", str(answer.status))
        return await self._send(raw, answer)

    async def _other(self, request: Request) -> Answer:
        """Answer a request that writes nothing."""
        asked = request.raw.raw_path
        decision = self._sandbox.decide(request.method, request.resource_type, asked, write=False)
        return await self._under(request, decision)

    async def _write(self, request: Request) -> Answer:
        """Answer a create or an update, and record it."""
        request.body = await _read(request.raw)
        request.parsed = _parse(request.body)
        resource_type = request.resource_type
        patient = patient_of(request.parsed, resource_type)
        decision = self._sandbox.decide(request.method, resource_type, patient, write=True)
        if not patient:
            return await self._under(request, decision)
        self._account.open_write(patient, request.raw)
        answer = Answer(500, lost=True)
        try:
            await asyncio.sleep(0)  # so that writes which arrived together are seen open together
            answer = await self._under(request, decision)
        finally:
            effect = answer.effect.n if answer.effect is not None else None
            attempt = Attempt(
                request.arrived_s, request.method, resource_type, answer.outcome, effect
            )
            self._account.close_write(patient, request.raw, attempt)
        return answer

    async def _under(self, request: Request, decision: Decision) -> Answer:
        """Answer a request under the fate that was decided for it."""
        if decision.wait_before_s:
            await asyncio.sleep(decision.wait_before_s)
        answer = self._before(request, decision)
        if answer is None:
            answer = self._after(request, decision, self._answer(request, decision))
        if decision.wait_after_s:
            await asyncio.sleep(decision.wait_after_s)
        return answer

    def _before(self, request: Request, decision: Decision) -> Answer | None:
        """Return the answer of a fate that applies before the write, or None."""
        fate = decision.fate
        if fate == "throttle" or not self._sandbox.admit(time.monotonic()):
            return throttled_answer(self._retry_after(decision))
        if fate == "lose_before":
            return Answer(500, lost=True)
        if fate == "error_before":
            return error_answer(decision.status)
        if fate == "forbid":
            return html_answer(403)
        if fate == "redirect":
            return Answer(307, headers={"Location": request.raw.raw_path})
        return None

    def _retry_after(self, decision: Decision) -> str | None:
        """Write Retry-After in the decided form; a date is rounded up to the next second."""
        wait_s = self._sandbox.faults.retry_after_s
        if decision.retry_after == "none":
            return None
        if decision.retry_after == "date":
            return formatdate(int(self._sandbox.clock()) + wait_s + 1, usegmt=True)
        return str(wait_s)

    def _after(self, request: Request, decision: Decision, answer: Answer) -> Answer:
        """Change an answer as a fate after the write does."""
        fate = decision.fate
        if fate in {"lose_after", "late_commit"}:
            answer.lost = True
        elif fate == "error_after":
            failed = error_answer(decision.status)
            failed.effect = answer.effect
            return failed
        elif answer.status == 201:
            self._spoil_created(request, fate, answer)
        return answer

    def _spoil_created(self, request: Request, fate: str, answer: Answer) -> None:
        if fate == "no_location":
            answer.headers.pop("Location", None)
        elif fate == "cut_body":
            answer.cut = True
        elif fate == "duplicate_location":
            earlier = next(iter(self._store.resources[request.resource_type]))
            if answer.effect is not None and "Location" in answer.headers:
                location = answer.headers["Location"]
                answer.headers["Location"] = location.replace(answer.effect.id, earlier)

    def _answer(self, request: Request, decision: Decision) -> Answer:
        """Answer as Canvas does when nothing goes wrong before the write."""
        refusal = self._refuse(request)
        if refusal is not None:
            return refusal_answer(refusal)
        if not request.writes:
            return self._look(request)
        draft = self._check(request)
        if isinstance(draft, Refusal):
            return refusal_answer(draft)
        if decision.fate == "late_commit":
            delay_s = self._sandbox.faults.late_commit_s
            self._sandbox.commit_later(delay_s, lambda: self._commit(request, draft))
            return Answer(202)
        written = self._commit(request, draft)
        if isinstance(written, Refusal):
            return refusal_answer(written)
        return self._written(request, decision, written)

    def _refuse(self, request: Request) -> Refusal | None:
        """Return the 404, 405, 401 or 403 that does not depend on the body, or None."""
        if not request.resource_type:
            return rules.NOT_FOUND
        if not request.writes and request.method != "GET":
            return rules.NOT_SUPPORTED
        authorization = request.raw.headers.get("Authorization", "")
        scope = self._sandbox.auth.scope_of(authorization, self._sandbox.clock())
        if scope is None:
            return rules.AUTHENTICATION_FAILED
        if not allows(scope, request.resource_type, write=request.writes):
            return rules.AUTHORIZATION_FAILED
        return None

    def _look(self, request: Request) -> Answer:
        """Read one resource, or search."""
        resource_type, resource_id = request.resource_type, request.resource_id
        if resource_id is None:
            return self._search(request)
        resource = self._store.get(resource_type, resource_id)
        if resource is None:
            return refusal_answer(rules.unknown_resource(resource_type, resource_id))
        return resource_answer(resource)

    def _search(self, request: Request) -> Answer:
        try:
            params = parse_qsl(
                request.query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX
            )
        except ValueError:
            return refusal_answer(rules.refuse(400, "invalid", "query - too many parameters"))
        page = page_of(params)
        if isinstance(page, Refusal):
            return refusal_answer(page)
        resource_type = request.resource_type
        identifier = self._sandbox.contract.member_in_identifier
        known = known_params(resource_type, params, identifier=identifier)
        ids = self._store.find(resource_type, known, in_order_of_id=("_sort", "_id") in params)
        if isinstance(ids, Refusal):
            return refusal_answer(ids)
        by_id = self._store.resources[resource_type]
        found = [by_id[hit] for hit in ids[page.offset : page.offset + page.count]]
        return resource_answer(bundle(resource_type, params, page, len(ids), found))

    def _check(self, request: Request) -> CoverageDraft | PaymentDraft | Refusal:
        """Check the shape of a write's body, without the store."""
        if request.body is None:
            return rules.TOO_LARGE
        if _content_type(request.raw) not in CONTENT_TYPES:
            return rules.WRONG_CONTENT_TYPE
        body = request.parsed
        if not isinstance(body, dict):
            return rules.NOT_JSON if body is NOT_JSON else rules.NOT_AN_OBJECT
        if request.resource_type == "PaymentNotice":
            return check_payment(body)
        if request.resource_id is not None and body.get("id") != request.resource_id:
            return rules.id_mismatch()
        return check_coverage(body, self._sandbox.contract)

    def _commit(self, request: Request, draft: CoverageDraft | PaymentDraft) -> Effect | Refusal:
        if isinstance(draft, PaymentDraft):
            return self._store.create_payment(draft)
        if request.resource_id is None:
            return self._store.create_coverage(draft)
        since = _unmodified_since(request.raw)
        return self._store.update_coverage(draft, request.resource_id, since)

    def _written(self, request: Request, decision: Decision, effect: Effect) -> Answer:
        """Answer 201 with the id in Location only, or 200; no body (docs/canvas.md, Answers)."""
        if effect.interaction == "update":
            return Answer(200, effect=effect)
        body = b"null" if self._sandbox.faults.created_body == "null" else b""
        answer = Answer(201, body, effect=effect)
        if decision.location != "missing":
            host = request.raw.headers.get("Host", "localhost")
            answer.headers["Location"] = location_of(
                decision.location, host, effect.resource_type, effect.id
            )
        return answer

    async def _send(self, raw: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        """Send an answer, part of it, or nothing."""
        if answer.lost:
            return _hang_up(raw)
        headers = answer.headers
        headers["Content-Type"] = answer.content_type
        headers["Date"] = self._sandbox.date()
        headers["fumage-correlation-id"] = self._sandbox.correlation_id()
        if answer.cut:
            return await _send_cut(raw, answer.status, headers)
        return web.Response(status=answer.status, body=answer.body, headers=headers)


@asynccontextmanager
async def serve(
    sandbox: Sandbox,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Serve a sandbox while the block runs; yield its address, `http://127.0.0.1:43211`.

    Port 0 takes a free one. With `tls` it is https. At the end late commits are made and the state file is closed.
    Raises ValueError for a host that is not loopback, because the sandbox has no protection.
    """
    address = _loopback(host)
    server = web.Server(Served(sandbox).handle, access_log=None, auto_decompress=False)
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, address, port, ssl_context=tls).start()
        shown = f"[{address}]" if ":" in address else address
        yield f"{'https' if tls else 'http'}://{shown}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
        sandbox.close()


def _loopback(host: str) -> str:
    literal = "127.0.0.1" if host == "localhost" else host
    try:
        if ipaddress.ip_address(literal).is_loopback:
            return literal
    except ValueError:
        pass
    raise ValueError(f"the sandbox listens on loopback only (127.0.0.1 or ::1), not on {host!r}")


async def _read(raw: web.BaseRequest) -> bytes | None:
    """Return the body, or None if it is larger than `BODY_MAX`; empty if it is broken."""
    if (raw.content_length or 0) > BODY_MAX:
        return None
    if raw.transport is not None and raw.headers.get("Expect", "").lower() == "100-continue":
        raw.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    try:
        async for chunk in raw.content.iter_any():
            body += chunk
            if len(body) > BODY_MAX:
                return None
    except (web.RequestPayloadError, ConnectionError):
        return b""  # a body that was cut is no body
    return bytes(body)


def _parse(body: bytes | None) -> object:
    """Return the JSON value of a body, or `NOT_JSON`."""
    try:
        return NOT_JSON if body is None else orjson.loads(body)
    except orjson.JSONDecodeError:
        return NOT_JSON


def _content_type(raw: web.BaseRequest) -> str:
    return raw.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _unmodified_since(raw: web.BaseRequest) -> float | None:
    """Return If-Unmodified-Since in seconds since 1970; None if there is no valid date."""
    text = raw.headers.get("If-Unmodified-Since")
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None


def _hang_up(raw: web.BaseRequest) -> web.StreamResponse:
    """Close the connection without an answer."""
    raw.protocol.force_close()
    return web.Response()


async def _send_cut(
    raw: web.BaseRequest, status: int, headers: dict[str, str]
) -> web.StreamResponse:
    """Send an answer whose body ends before its Content-Length, and close the connection."""
    response = web.StreamResponse(
        status=status, headers={**headers, "Content-Length": str(CUT_LENGTH)}
    )
    await response.prepare(raw)
    await response.write(CUT_BODY)
    raw.protocol.force_close()
    return response
