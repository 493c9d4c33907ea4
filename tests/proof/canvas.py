"""A Canvas for the simulation: no socket, virtual time, and every fault, before and after the commit.

It is the truth that the journal is held against: it knows which row each effect came from, by a mark
in what Canvas takes and does not keep (a payment's `created`, a payor's display).
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import orjson

from pipeline.canvas.transport import Reply
from tests.proof.virtual import EPOCH

BASE: Final = "https://fumage-sim.canvasmedical.com"
PAGE: Final = 2  # so that every search has pages

# What may happen to a write; each that strikes before the commit has its twin after it.
FATES: Final = (
    "unsent", "refused", "unauthorized", "throttled", "lost_before", "lost_after", "hung_before", "hung_after",
    "error_before", "error_after", "unavailable_before", "unavailable_after", "redirected", "ok_200", "no_location",
    "foreign_location", "claimed_location", "cut_body", "garbage_after", "late",
)  # fmt: skip
BEFORE: Final = {
    "lost_before",
    "hung_before",
    "error_before",
    "unavailable_before",
    "redirected",
    "throttled",
    "refused",
    "unauthorized",
    "unsent",
}
# What may happen to a search.
SEARCH_FATES: Final = (
    "search_500", "search_lost", "search_html", "search_stale", "search_unfiltered", "search_cut", "search_foreign_next",
)  # fmt: skip


@dataclass(slots=True)
class Climate:
    """How bad it is. Chances are of a request; times in seconds."""

    fates: dict[str, float] = field(default_factory=dict)
    searches: dict[str, float] = field(default_factory=dict)
    late_s: float = 1.0  # the latest that a lost write commits
    stale_s: float = 1.0  # how old a stale search may be
    timeout_s: float = 5.0
    has_date: bool = True
    skew_s: float = 0.0  # of the server's clock
    skew_jumps: bool = False
    rate_foreign: float = (
        0.0  # chance, at each request, that somebody enters an equal payment by hand
    )


@dataclass(slots=True)
class Effect:
    """One resource in Canvas."""

    resource_id: str
    resource_type: str
    mark: str  # of the row; "" where somebody else made it
    made_s: float  # true time
    content: dict[str, Any]


class SimulatedCanvas:
    """One Canvas over all lives of a client."""

    def __init__(self, random: Random, climate: Climate, step: Callable[[str], None]) -> None:
        self.random = random
        self.climate = climate
        self.step = step
        self.effects: list[Effect] = []
        self.late: list[tuple[float, str, dict[str, Any]]] = []
        self.posts = 0
        self.sent: dict[str, list[float]] = {}  # mark -> true times of its sends
        self.claimed: Callable[[], set[str]] = set  # ids that the journal holds
        self._numbers = 0

    # Time -----------------------------------------------------------------------------------------

    def clock(self, now_s: float) -> datetime:
        return EPOCH + timedelta(seconds=now_s + self.climate.skew_s)

    def advance(self, now_s: float) -> None:
        """Commit what is due."""
        due = sorted((each for each in self.late if each[0] <= now_s), key=lambda each: each[0])
        self.late = [each for each in self.late if each[0] > now_s]
        for at_s, resource_type, body in due:
            self._commit(at_s, resource_type, body)

    def settle(self) -> None:
        """Commit all that is still late."""
        self.advance(float("inf"))

    # Requests -------------------------------------------------------------------------------------

    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        """As `Transport.exchange`, with what the climate does to it."""
        del headers
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        self.step("a request is about to be sent")
        await asyncio.sleep(self.random.uniform(0.001, 0.02))
        self.advance(loop.time())
        self._meddle(loop.time())
        if url.endswith("/auth/token/"):
            reply = self._answer(
                200, {"access_token": f"t{self.random.random()}", "expires_in": 60}
            )
        elif method == "POST":
            reply = await self._post(url, orjson.loads(body or b"null"))
        else:
            reply = await self._get(url)
        self.step("an answer is under way")
        await asyncio.sleep(self.random.uniform(0.001, 0.02))
        self.step("an answer has come")
        return Reply(
            reply.status,
            reply.headers,
            reply.body,
            reply.handed_off,
            loop.time() - began_s,
            reply.problem,
        )

    async def _post(self, url: str, body: dict[str, Any]) -> Reply:  # noqa: PLR0911 - one a fate
        now_s = asyncio.get_running_loop().time()
        resource_type = url.rpartition("/")[2]
        fate = self._drawn(self.climate.fates)
        if fate == "unsent":
            return Reply(None, {}, b"", handed_off=False, latency_s=0, problem="connect")
        self.posts += 1
        self.sent.setdefault(mark_of(body), []).append(now_s)
        self.step("a write has arrived")
        if fate in BEFORE:
            return await self._struck(fate)
        if fate == "late":
            delay_s = self.random.uniform(0, self.climate.late_s)
            self.late.append((now_s + delay_s, resource_type, body))
            return await self._struck(self.random.choice(("lost_after", "error_after")))
        effect = self._commit(now_s, resource_type, body)
        self.step("a write is committed")
        if fate == "no_location":
            return self._answer(201, None)
        if fate == "foreign_location":
            return self._answer(201, None, Location=f"https://elsewhere.example/{resource_type}/x")
        if fate == "claimed_location":
            known = self.claimed()
            named = (each for each in self.effects if each.resource_id in known)
            effect = next((each for each in named if each.resource_type == resource_type), effect)
        elif fate == "cut_body":
            location = f"/{resource_type}/{effect.resource_id}"
            return Reply(
                201, {"location": location}, b"", handed_off=True, latency_s=0, problem="body"
            )
        elif fate == "garbage_after":
            return self._answer(418, None)
        elif fate == "ok_200":
            return self._answer(200, {"id": effect.resource_id})
        elif fate != "":
            return await self._struck(fate)
        return self._answer(201, None, Location=f"/{resource_type}/{effect.resource_id}/_history/1")

    async def _struck(self, fate: str) -> Reply:  # noqa: PLR0911 - one a fate
        """The answer, or none, of a fate that has no more to do with the content."""
        match fate:
            case "refused":
                issue = {"severity": "error", "code": "business-rule", "details": {"text": "no"}}
                return self._answer(422, {"resourceType": "OperationOutcome", "issue": [issue]})
            case "unauthorized":
                return self._answer(401, None)
            case "throttled":
                return self._answer(429, None)
            case "redirected":
                return self._answer(307, None, Location="/PaymentNotice")
            case "error_before" | "error_after":
                return self._answer(500, None)
            case "unavailable_before" | "unavailable_after":
                return self._answer(503, None)
            case "hung_before" | "hung_after":
                await asyncio.sleep(self.climate.timeout_s)
                return Reply(None, {}, b"", handed_off=True, latency_s=0, problem="timeout")
            case _:
                return Reply(None, {}, b"", handed_off=True, latency_s=0, problem="disconnected")

    async def _get(self, url: str) -> Reply:
        parts = urlsplit(url)
        resource_type = parts.path.rpartition("/")[2]
        query = dict(parse_qsl(parts.query))
        fate = self._drawn(self.climate.searches)
        if fate == "search_500":
            return self._answer(500, None)
        if fate == "search_lost":
            return Reply(None, {}, b"", handed_off=True, latency_s=0, problem="disconnected")
        if fate == "search_html":
            return Reply(200, {}, b"<html>", handed_off=True, latency_s=0)
        now_s = asyncio.get_running_loop().time()
        until_s = (
            now_s - self.random.uniform(0, self.climate.stale_s)
            if fate == "search_stale"
            else now_s
        )
        patient = query.get("patient") or query.get("request")
        if fate == "search_unfiltered":  # its next pages are so too
            query["_all"] = "1"
        hits = [
            each.content
            for each in self.effects
            if each.resource_type == resource_type
            and each.made_s <= until_s
            and ("_all" in query or patient == _patient(each.content))
        ]
        first = int(query.get("_offset", 0))
        bundle: dict[str, Any] = {"resourceType": "Bundle", "total": 0, "link": []}
        if hits[first : first + PAGE]:
            bundle["entry"] = [{"resource": each} for each in hits[first : first + PAGE]]
        if first + PAGE < len(hits):
            host = "https://elsewhere.example" if fate == "search_foreign_next" else ""
            kept = "&".join(f"{name}={value}" for name, value in query.items() if name != "_offset")
            after = f"{host}/{resource_type}?{kept}&_offset={first + PAGE}"
            bundle["link"].append({"relation": "next", "url": after})
        reply = self._answer(200, bundle)
        if fate == "search_cut":
            return Reply(200, reply.headers, reply.body[:-7], handed_off=True, latency_s=0)
        return reply

    # Underneath -----------------------------------------------------------------------------------

    def _drawn(self, chances: Mapping[str, float]) -> str:
        draw = self.random.random()
        for fate, chance in chances.items():
            draw -= chance
            if draw < 0:
                return fate
        return ""

    def _answer(self, status: int, content: Any, **headers: str) -> Reply:
        kept = {name.lower(): value for name, value in headers.items()}
        if self.climate.has_date:
            now = self.clock(asyncio.get_running_loop().time())
            kept["date"] = format_datetime(now, usegmt=True)
        body = b"" if content is None else orjson.dumps(content)
        return Reply(status, kept, body, handed_off=True, latency_s=0)

    def _commit(self, at_s: float, resource_type: str, body: dict[str, Any]) -> Effect:
        self._numbers += 1
        content = {**body, "id": f"{resource_type[0].lower()}{self._numbers}"}
        if resource_type == "PaymentNotice":
            content["created"] = self.clock(at_s).isoformat()
        effect = Effect(content["id"], resource_type, mark_of(body), at_s, content)
        self.effects.append(effect)
        return effect

    def _meddle(self, now_s: float) -> None:
        """Somebody enters a payment by hand that is equal to one of ours; the server's clock is set."""
        ours = [each for each in self.effects if each.resource_type == "PaymentNotice"]
        if ours and self.random.random() < self.climate.rate_foreign:
            self._commit(now_s, "PaymentNotice", self.random.choice(ours).content)
            self.effects[-1].mark = ""
        if self.climate.skew_jumps and self.random.random() < 0.02:
            self.climate.skew_s += self.random.choice((-3600, 3600, 40, -40))


def mark_of(body: Mapping[str, Any]) -> str:
    """Which row a resource was made of."""
    if body["resourceType"] == "Coverage":
        return str(body["payor"][0]["display"])
    return str(body["created"])


def _patient(content: Mapping[str, Any]) -> str:
    element = "beneficiary" if content["resourceType"] == "Coverage" else "request"
    return str(content[element]["reference"])
