"""Checks that only Canvas can answer: a handful of questions, none of which writes."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from pipeline.canvas.client import Client, transport_of
from pipeline.canvas.skew import Skew, measure
from pipeline.clock import SystemClock
from pipeline.commands.checks.context import Check, Context, failed, ok, warning, wrong
from pipeline.errors import CanvasError, Unreachable
from pipeline.planning.lookup import lookup
from pipeline.records import counted
from pipeline.rows.texts import texts_of

_GROUP: Final = "Canvas"
_EXAMPLE_HOSTS: Final = frozenset({"fumage-example.canvasmedical.com", "example.canvasmedical.com"})
_FHIR_VERSIONS: Final = {"4.0.0", "4.0.1"}
_TIMEOUT_S_MAX: Final = 10.0  # of one request
_SKEW_MAX: Final = timedelta(seconds=30)


async def check_canvas(context: Context) -> list[Check]:
    """Check its address, its clock, a token, the scope, and a search of each resource type."""
    canvas = context.job.canvas
    hosts = {urlsplit(url).hostname for url in (canvas.base_url, canvas.credentials.token_url)}
    if hosts & _EXAMPLE_HOSTS:
        message = "still to be decided: it names the example's host"
        todo = "set canvas.base_url and canvas.token_url to your instance"
        return [wrong(_GROUP, "canvas.base_url", message, todo)]
    async with _connected(context) as client:
        checks = await _check_proxy(context, client)
        if any(check.is_wrong for check in checks):
            return checks
        host = await _check_host(context, client)
        token = await _check_token(context, client) if canvas.credentials.are_given else []
        checks += host + token
        if token and not any(check.is_wrong for check in host + token):
            checks += await _check_access(context, client)
    if context.is_beside_run:  # a check has a limiter of its own
        asked = f"{counted(len(client.exchanges), 'request')} of this check"
        message = f"a run is using this journal: {asked} came on top of the run's upload.rate_per_s"
        todo = "check again once the run has ended if Canvas must not get more"
        checks.append(warning(_GROUP, "rate", message, todo))
    return checks


@asynccontextmanager
async def _connected(context: Context) -> AsyncIterator[Client]:
    canvas = context.job.canvas
    options = replace(canvas, timeout_s=min(canvas.timeout_s, _TIMEOUT_S_MAX))
    async with transport_of(options) as transport:
        client = Client(options, transport, SystemClock(), context.random)
        stopping = asyncio.ensure_future(_stop(context, client))
        try:
            yield client
        finally:
            stopping.cancel()


async def _stop(context: Context, client: Client) -> None:
    await context.stop.wait()
    client.stop()


async def _ask(context: Context, what: str, asked: Awaitable[str]) -> Check:
    """Return how a question to Canvas came out."""
    started_s = time.monotonic()
    try:
        async with asyncio.timeout(context.step_s_max):
            return ok(_GROUP, what, await asked)
    except TimeoutError:
        message = f"no good answer within {time.monotonic() - started_s:.0f} s"
        todo = "check canvas.base_url, canvas.token_url and the network; Canvas may be down"
        return failed(_GROUP, what, Unreachable(message, todo))
    except CanvasError as error:
        return failed(_GROUP, what, error)


async def _check_proxy(context: Context, client: Client) -> list[Check]:
    """Check that the proxy lets us through: if it is wrong, nothing beyond it can be asked."""
    proxy, unused = context.job.canvas.proxy, context.job.canvas.unused_proxy
    todo = "set canvas.proxy if the proxy is the only way out"
    checks = [warning(_GROUP, "proxy", unused, todo)] if unused else []
    if proxy is None:
        return checks

    async def ask() -> str:
        await client.reach()
        how = "with CANVAS_PROXY_USERNAME" if proxy.username else "without credentials"
        return f"{proxy.address} lets requests through, {how}"

    return [*checks, await _ask(context, "proxy", ask())]


async def _check_host(context: Context, client: Client) -> list[Check]:
    async def ask() -> str:
        statement = await client.capabilities()
        version = str(statement.get("fhirVersion"))
        message = f"{context.job.canvas.base_url} is a FHIR server"
        return f"{message} ({version})" if version in _FHIR_VERSIONS else message

    host = await _ask(context, "host", ask())
    if host.is_wrong:
        return [host]
    ahead = client.server_clock.ahead
    if ahead is None:
        return [host, ok(_GROUP, "clock", "Canvas sends no time to compare with")]
    if abs(ahead) <= _SKEW_MAX:
        return [host, ok(_GROUP, "clock", "agrees with this machine's")]
    side = "behind" if ahead > timedelta() else "ahead of"
    message = (
        f"the clock of this machine is {abs(ahead).total_seconds():,.0f} s {side} that of Canvas"
    )
    todo = "set it by NTP: without a `posted_on` or `start_on` today's day is taken from it"
    return [host, warning(_GROUP, "clock", message, todo)]


async def _check_token(context: Context, client: Client) -> list[Check]:
    scopes: list[str] = []

    async def sign_in() -> str:
        scopes.append(await client.sign_in())
        return "CANVAS_TOKEN is used" if context.job.canvas.credentials.token else "given"

    token = await _ask(context, "token", sign_in())
    if not token.is_wrong and scopes[0]:
        return [token, _check_scope(context, scopes[0])]
    return [token]


def _check_scope(context: Context, scope: str) -> Check:
    """Warn at most: how a system-wide writer is authorised Canvas does not say."""
    types = _types(context)
    missing = [
        f"{name}.{right}"
        for name in types
        for right in ("read", "write")
        if not _grants(scope, name, right)
    ]
    if not missing:
        return ok(_GROUP, "scope", f"holds {', '.join(types)}")
    message = f"the token's scope does not name {', '.join(missing)}"
    todo = "give the application these scopes in Canvas, or set canvas.scope"
    return warning(_GROUP, "scope", message, todo)


def _grants(scope: str, resource_type: str, right: str) -> bool:
    """Return whether a SMART scope holds `<context>/<type>.read` or `.write`, a wider one, or version 2's letters."""
    letters = "rs" if right == "read" else "cu"
    for name in scope.split():
        granted, _, rights = name.partition("/")[2].partition(".")
        if granted in {resource_type, "*"}:
            rights = rights.partition("?")[0]
            is_wide = rights in {right, "*"}
            if is_wide or (rights not in {"read", "write"} and set(letters) <= set(rights)):
                return True
    return False


def _types(context: Context) -> list[str]:
    return sorted({feed.traits.resource_type for feed in context.job.feeds})


async def _check_access(context: Context, client: Client) -> list[Check]:
    checks = []
    is_searched = bool(context.job.references.patient.system)
    for resource_type in [*_types(context), *(["Patient"] if is_searched else [])]:

        async def probe(name: str = resource_type) -> str:
            await client.probe(name)
            return "can be searched"

        checks.append(await _ask(context, resource_type, probe()))
        if resource_type == "Patient":
            is_searched = not checks[-1].is_wrong
    if context.stamped:
        checks.append(_check_skew(await measure(client, context.stamped)))
    if is_searched:
        checks += await _check_patients(context, client)
    return checks


def _check_skew(skew: Skew | None) -> Check:
    """Return how far the `Date` of answers is from the clock that stamps payments."""
    what = "clock of Date"
    if skew is None:
        message = "the last payments do not show how far it is from the clock that stamps them"
        return ok(_GROUP, what, message)
    if skew.is_none:
        return ok(_GROUP, what, "agrees with the clock that stamps payments")
    side = "behind" if skew.most > timedelta() else "ahead of"
    seconds = round(abs((skew.least + skew.most) / 2).total_seconds())
    return warning(
        _GROUP,
        what,
        f"the Date of answers was {counted(seconds, 'second')} {side} the clock that stamps payments: "
        "a gateway replaces it",
        "have the gateway pass on the Date of Canvas (nginx: proxy_pass_header Date), or set its clock by NTP",
    )


async def _check_patients(context: Context, client: Client) -> list[Check]:
    """Search for a few of the files' patients."""
    reference = context.job.references.patient
    values: set[str] = set()
    for feed, frame in context.patients:
        values.update(texts_of(frame, feed)["patient"].drop_nulls())
    if not values:
        return []
    missing = 0

    async def look() -> str:
        nonlocal missing
        found = await lookup(context.patients, reference, client, context.job.canvas.concurrency)
        missing = sum(value not in found for value in values)
        return f"{len(values) - missing} of the first {counted(len(values), 'patient')} are there"

    patients = await _ask(context, "patients", look())
    if missing:
        result = wrong if missing == len(values) else warning
        todo = "check references.patient.system, and that these patients are in Canvas; `plan` looks up all"
        return [result(_GROUP, "patients", patients.message, todo)]
    return [patients]
