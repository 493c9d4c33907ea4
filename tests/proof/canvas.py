"""A Canvas for the simulation: no socket, virtual time, and every fault, before and after the commit.

It is the truth that the journal is compared with: it knows which row each effect came from, by a mark
in what Canvas takes and replaces on a read (a payment's `created`, the text of a relationship). It keeps
all versions of each coverage, and who made them: what an update of ours overwrites is judged when it
commits, by the world's own rules (`coverages.py`).
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from functools import partial
from random import Random
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import orjson

from pipeline.canvas.transport import Reply
from tests.proof.coverages import (
    NAMES,
    differing,
    identity,
    meaning,
    organization,
    payer_id,
    shown,
    stored,
)
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
    """The faults of a world. Chances are of a request; times in seconds."""

    fates: dict[str, float] = field(default_factory=dict)
    searches: dict[str, float] = field(default_factory=dict)
    late_s: float = 1.0  # the latest that a lost write commits
    stale_s: float = 1.0  # how old a stale search may be
    timeout_s: float = 5.0
    has_date: bool = True
    skew_s: float = 0.0  # of the server's clock
    skew_jumps: bool = False
    date_skew_s: float = (
        0.0  # how far the Date of answers, a gateway's, is ahead of the server's clock
    )
    rate_foreign: float = (
        0.0  # chance, at each request, that somebody enters an equal payment by hand
    )
    rate_edits: float = 0.0  # chance, at each request, that a person edits a coverage
    rate_insurers: float = 0.0  # chance, at each request, that a person enters another insurer
    shows_names: bool = True  # a read shows the payer's name
    bumps: str = (
        "none"  # the coverages that move when a write takes an order: "none", "next" or "all"
    )
    update_bumps: bool = False  # whether an update does, too
    has_fractions: bool = False  # If-Unmodified-Since is held against fractions of a second


UNTOLD_S: Final = 70.0  # how late it may be held to be ours, where a run died over it
OURS, PERSON, MOVED = "ours", "person", "moved"  # who made a version; moved: by Canvas


@dataclass(frozen=True, slots=True)
class Version:
    """The content of a resource from some moment on."""

    at_s: float  # true time
    stamp: datetime  # by the server's clock
    author: str
    content: dict[str, Any]
    is_told: bool = False  # whether it was answered
    payer_id: str = ""  # with which it was sent; "": its Organization was named


@dataclass(slots=True)
class Effect:
    """One resource in Canvas."""

    resource_id: str
    resource_type: str
    mark: str  # of the row; "" where somebody else made it
    made_s: float  # true time
    versions: list[Version]
    seen_s: float = float("-inf")  # how it was then, a read of ours has shown
    learned: frozenset[str] = frozenset()  # payer ids that the journal knew at that read

    @property
    def content(self) -> dict[str, Any]:
        return self.versions[-1].content

    @property
    def own(self) -> int:
        """Return the number of the last version that is ours; the first one if none is."""
        ours = (n for n, each in enumerate(self.versions) if each.author == OURS)
        return max(ours, default=0)

    def as_of(self, at_s: float) -> dict[str, Any]:
        before = [each for each in self.versions if each.at_s <= at_s]
        return (before or self.versions[:1])[-1].content


class SimulatedCanvas:
    """One Canvas over all lives of a client."""

    def __init__(
        self, random: Random, people: Random, climate: Climate, step: Callable[[str], None]
    ) -> None:
        self.random = random
        self.people = people  # what they do is drawn apart
        self.climate = climate
        self.step = step
        self.effects: list[Effect] = []
        self.late: list[tuple[float, Callable[[float], object]]] = []
        self.posts = 0
        self.violations: list[str] = []
        self.said: dict[str, list[dict[str, Any]]] = {}  # mark -> what its row said so far
        self.learned: Callable[[], frozenset[str]] = frozenset  # payer ids that the journal knows
        self.was_set = False  # its clock: then times prove nothing
        self.client_was_set = False  # then when an answer was lost proves nothing
        self.trace: Callable[[str], None] = lambda _: None
        self.sent: dict[str, list[float]] = {}  # mark -> true times of its sends
        self.created_with: dict[str, str] = {}  # mark -> payer id of its last create
        self.kills_s: list[float] = []  # when lives ended amid their work
        self.unguarded_s = float("inf")  # after the last read, edits count for so long
        self.claimed: Callable[[], set[str]] = set  # ids that the journal holds
        self._numbers = 0

    # Time -----------------------------------------------------------------------------------------

    def clock(self, now_s: float) -> datetime:
        return EPOCH + timedelta(seconds=now_s + self.climate.skew_s)

    def advance(self, now_s: float) -> None:
        """Commit the writes that are due."""
        due = sorted((each for each in self.late if each[0] <= now_s), key=lambda each: each[0])
        self.late = [each for each in self.late if each[0] > now_s]
        for at_s, commit in due:
            commit(at_s)

    def settle(self) -> None:
        """Commit all late writes."""
        self.advance(float("inf"))

    # Requests -------------------------------------------------------------------------------------

    async def exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Reply:
        """Answer as `Transport.exchange` does, with the faults of the climate."""
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
        elif method == "PUT":
            reply = await self._put(url, headers, orjson.loads(body or b"null"))
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
        if resource_type == "Coverage":
            self.created_with[mark_of(body)] = payer_id(body)
        self.step("a write has arrived")
        if fate in BEFORE:
            return await self._struck(fate)
        if fate == "late":
            delay_s = self.random.uniform(0, self.climate.late_s)
            commit = partial(self._commit, resource_type=resource_type, body=body)
            self.late.append((now_s + delay_s, commit))
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
            headers = {**self._answer(201, None).headers, "location": location}  # its head is whole
            return Reply(201, headers, b"", handed_off=True, latency_s=0, problem="body")
        elif fate == "garbage_after":
            return self._answer(418, None)
        elif fate == "ok_200":
            return self._answer(200, {"id": effect.resource_id})
        elif fate != "":
            return await self._struck(fate)
        is_another = fate == "claimed_location"  # another row's: nothing is reported about that one
        if not is_another:
            self._told(effect)
        return self._answer(201, None, Location=f"/{resource_type}/{effect.resource_id}/_history/1")

    async def _put(  # noqa: PLR0911 - one a fate
        self, url: str, headers: Mapping[str, str], body: dict[str, Any]
    ) -> Reply:
        """Answer a write of a whole resource: 200 or 412, and the fates that it can have."""
        now_s = asyncio.get_running_loop().time()
        fate = self._drawn(self.climate.fates)
        if fate == "unsent":
            return Reply(None, {}, b"", handed_off=False, latency_s=0, problem="connect")
        found = [each for each in self.effects if each.resource_id == url.rpartition("/")[2]]
        if (
            not found
            or body["id"] != found[0].resource_id
            or found[0].mark not in {"", mark_of(body)}
        ):
            self.violations.append(f"an update of {mark_of(body)} goes to {url}")
            return await self._struck("refused")
        mine = {identity(each) for each in self.said[mark_of(body)]}
        if not any(identity(each.content) in mine for each in found[0].versions):
            self.violations.append(f"an update of {mark_of(body)} goes to another insurer's {url}")
        header = headers.get("If-Unmodified-Since")
        since = None if header is None else parsedate_to_datetime(header)
        commit = partial(
            self._replace, effect=found[0], body=body, since=since, seen_s=found[0].seen_s
        )
        self.step("an update has arrived")
        if fate in BEFORE:
            return await self._struck(fate)
        if fate == "late":
            delay_s = self.random.uniform(0, self.climate.late_s)
            self.late.append((now_s + delay_s, commit))
            return await self._struck(self.random.choice(("lost_after", "error_after")))
        status = commit(now_s)
        self.step("an update is committed")
        if status == 412:
            return self._answer(412, _issue("conflict"))
        if fate == "garbage_after":
            return self._answer(418, None)
        if fate == "cut_body":
            reply = self._answer(200, None)
            return Reply(200, reply.headers, b"", handed_off=True, latency_s=0, problem="body")
        if fate in {"", "ok_200", "no_location", "foreign_location", "claimed_location"}:
            self._told(found[0])
            return self._answer(200, None)
        return await self._struck(fate)

    async def _struck(self, fate: str) -> Reply:  # noqa: PLR0911 - one a fate
        """Return the answer, or none, of a fate that no longer depends on the content."""
        match fate:
            case "refused":
                return self._answer(422, _issue("business-rule"))
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
        if not parts.query:
            return self._one(resource_type, until_s, is_cut=fate == "search_cut")
        patient = query.get("patient") or query.get("request")
        if fate == "search_unfiltered":  # its next pages are so too
            query["_all"] = "1"
        hits = [
            self._shown(each.as_of(until_s))
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

    def _one(self, resource_id: str, until_s: float, *, is_cut: bool) -> Reply:
        """Answer a read of one resource, as it was then."""
        found = [each for each in self.effects if each.resource_id == resource_id]
        if not found:
            return self._answer(404, _issue("not-found"))
        reply = self._answer(200, self._shown(found[0].as_of(until_s)))
        if is_cut:
            return Reply(200, reply.headers, reply.body[:-7], handed_off=True, latency_s=0)
        found[0].seen_s = until_s
        found[0].learned = self.learned()
        return reply

    def _shown(self, content: dict[str, Any]) -> dict[str, Any]:
        if content["resourceType"] != "Coverage":
            return content
        return shown(content, has_names=self.climate.shows_names)

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
            dated = now + timedelta(seconds=self.climate.date_skew_s)
            kept["date"] = format_datetime(dated, usegmt=True)
        body = b"" if content is None else orjson.dumps(content)
        return Reply(status, kept, body, handed_off=True, latency_s=0)

    def _commit(self, at_s: float, resource_type: str, body: dict[str, Any]) -> Effect:
        self._numbers += 1
        content = {**body, "id": f"{resource_type[0].lower()}{self._numbers}"}
        if resource_type == "PaymentNotice":
            content["created"] = self.clock(at_s).isoformat()
        else:
            content = stored(content)
        sent = payer_id(body) if resource_type == "Coverage" else ""
        first = Version(at_s, self.clock(at_s), OURS, content, payer_id=sent)
        effect = Effect(content["id"], resource_type, mark_of(body), at_s, [first])
        if resource_type == "Coverage":
            self._bump(at_s, effect, None)
        self.effects.append(effect)
        return effect

    def _replace(
        self,
        at_s: float,
        effect: Effect,
        body: dict[str, Any],
        since: datetime | None,
        seen_s: float,
    ) -> int:
        """Apply or refuse an update of ours; check what it overwrites."""
        stamp = effect.versions[-1].stamp
        if not self.climate.has_fractions:
            stamp = stamp.replace(microsecond=0)
        if since is not None and stamp > since:
            self.trace(f"412 of {effect.resource_id} at {at_s:.3f}, changed {stamp}, since {since}")
            return 412
        new = stored(body)
        lost = self._overwritten(effect, new, mark_of(body), seen_s)
        if lost and not self.was_set:
            self.violations.append(
                f"an update of {effect.resource_id} at {at_s:.3f} is written over a person's {', '.join(lost)}"
            )
        self._change(at_s, effect, OURS, new, payer_id(body))
        return 200

    def forget(self, since_s: float) -> None:
        """Forget what the process that was killed had been answered since its start."""
        for effect in self.effects:
            effect.versions = [
                replace(each, is_told=each.is_told and each.at_s < since_s)
                for each in effect.versions
            ]

    @staticmethod
    def _told(effect: Effect) -> None:
        effect.versions[-1] = replace(effect.versions[-1], is_told=True)

    def _overwritten(
        self, effect: Effect, new: dict[str, Any], mark: str, seen_s: float
    ) -> list[str]:
        """Return the elements of a person's edits, made since our last version, that this update takes back.

        Not what no client can tell: an edit in the second of our own last write, by the server's clock,
        and by as much later, after that write or a read, as a gateway's Date is ahead, which only payments of the
        same run show; where that sends no Date, an edit after the read; and an edit of `order`, where a write of ours
        may have moved the patient's coverages meanwhile. A payer that was sent by an id which no read
        has explained yet cannot be compared: its edit shows only if it came later than
        the probe of one more second after our last write, our clock was not set around a lost answer, and
        nothing was moved. A coverage entered by hand counts as ours, with the payer id that we sent, from our
        last create on, whose answer was lost; a create of a process that was killed may not even have arrived.
        Nor does, to the letter, the undoing of an update of ours whose
        answer was lost: it might never have been carried out.
        """
        own = effect.versions[effect.own]
        is_ours = own.author == OURS
        sends_s = self.sent.get(mark) or self.kills_s
        wrote_s = own.at_s if is_ours else max(sends_s, default=own.at_s)
        first_said = payer_id(self.said[mark][0]) if self.kills_s and mark in self.said else ""
        payer_id_sent = own.payer_id if is_ours else self.created_with.get(mark, first_said)
        is_blind = payer_id_sent not in {"", *effect.learned}
        ours, lost = own.content, set[str]()
        unseen = timedelta(seconds=max(self.climate.date_skew_s, 0.0))
        first = own.stamp.replace(microsecond=0) + unseen
        # A Date of another clock is known to a second or two, and the probe goes one further.
        probed = timedelta(seconds=3 if self.climate.date_skew_s else 1)
        undone = effect.versions[max(effect.own - 1, 0)].content if not own.is_told else ours
        for version in effect.versions[effect.own + 1 :]:
            edited = differing(ours, version.content)
            is_undoing = not differing(undone, version.content)
            if version.author == PERSON and not is_undoing:
                is_late = (
                    version.at_s > wrote_s + UNTOLD_S
                    if not own.is_told
                    else version.stamp.replace(microsecond=0) > first + probed
                )
                is_telling = version.stamp.replace(microsecond=0) > first
                is_telling &= not 0 < version.at_s - seen_s <= unseen.total_seconds()
                if is_telling and version.at_s <= seen_s + self.unguarded_s:
                    lost |= edited if is_late or not is_blind else edited - {"payor"}
            lost &= edited
        is_moved = self._wrote_beside(effect, own.stamp.replace(microsecond=0))
        has_moved = is_moved and any(
            each.content["order"] != ours["order"] for each in effect.versions[effect.own + 1 :]
        )
        is_untold = self.client_was_set and not own.is_told
        if is_blind and (has_moved or is_untold):
            lost.discard("payor")
        if is_moved:
            lost.discard("order")
        return sorted(lost & differing(new, effect.content))

    def _wrote_beside(self, effect: Effect, since: datetime) -> bool:
        return any(
            version.author == OURS and version.stamp >= since
            for other in self.effects
            if other is not effect
            and other.resource_type == "Coverage"
            and _patient(other.content) == _patient(effect.content)
            for version in other.versions
        )

    def _change(
        self, at_s: float, effect: Effect, author: str, content: dict[str, Any], sent: str = ""
    ) -> None:
        before = effect.content["order"]
        effect.versions.append(Version(at_s, self.clock(at_s), author, content, payer_id=sent))
        self.trace(f"{effect.resource_id} is {author} at {at_s:.3f}: {told(content)}")
        if author != MOVED and self.climate.update_bumps:
            self._bump(at_s, effect, before)

    def _bump(self, at_s: float, effect: Effect, before: int | None) -> None:
        """Move down the coverage whose order a write takes, and perhaps the next in turn."""
        order = effect.content["order"]
        if self.climate.bumps == "none" or order == before:
            return
        pushed = effect
        while order < 5:
            beside = [
                each
                for each in self.effects
                if each is not effect
                and each is not pushed
                and each.resource_type == "Coverage"
                and _patient(each.content) == _patient(effect.content)
                and each.content["order"] == order
                and each.content["status"] == "active"
            ]
            if not beside:
                return
            pushed, order = beside[0], order + 1
            self._change(at_s, pushed, MOVED, {**pushed.content, "order": order})
            if self.climate.bumps == "next":
                return

    def edit(self, at_s: float, effect: Effect, changes: Mapping[str, Any]) -> None:
        """Change a coverage as a person does, or save it unchanged."""
        self.advance(at_s)
        content = {**deepcopy(effect.content), **changes}
        self._change(at_s, effect, PERSON, content)

    def _meddle(self, now_s: float) -> None:
        """Let a person enter something like ours, or edit it; or set the server's clock."""
        ours = [each for each in self.effects if each.resource_type == "PaymentNotice"]
        if ours and self.random.random() < self.climate.rate_foreign:
            self._commit(now_s, "PaymentNotice", self.random.choice(ours).content)
            self.effects[-1].mark = ""
        if self.climate.rate_insurers and self.people.random() < self.climate.rate_insurers:
            self.somebody_insures(now_s)
        if self.climate.rate_edits and self.people.random() < self.climate.rate_edits:
            self.somebody_edits(now_s, self.claimed())
        if self.climate.skew_jumps and self.random.random() < 0.02:
            self.climate.skew_s += self.random.choice((-3600, 3600, 40, -40))
            self.was_set = True

    def somebody_insures(self, at_s: float) -> None:
        """Let a person enter a coverage with a member id of ours, mostly of another insurer."""
        meant = [each[-1] for each in self.said.values() if each]
        if not meant:
            return
        body = deepcopy(self.people.choice(meant))
        if self.people.random() < 0.8:
            body = of_another(body, self.people)
        effect = self._commit(at_s, "Coverage", body)
        effect.mark = ""
        effect.versions[0] = replace(effect.versions[0], author=PERSON, payer_id="")

    def somebody_edits(self, at_s: float, known: Collection[str]) -> None:
        """Let a person edit one of the coverages that we know, or save it unchanged."""
        held = [
            each
            for each in self.effects
            if each.resource_id in known and each.resource_id[0] == "c"
        ]
        if held:
            effect, changes = self.people.choice(held), self.people.choice(EDITS)
            self.edit(at_s, effect, changes)


# What people do to a coverage.
EDITS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"period": {"end": "2026-05-31"}},
    {"period": {"end": "2026-12-31"}},
    {"order": 1},
    {"order": 4},
    *({"payor": [{"reference": f"Organization/{each}"}]} for each in NAMES),
    {"class": [{"type": {"coding": [{"code": "plan"}]}, "value": "Gold"}]},
)


def of_another(body: Mapping[str, Any], random: Random) -> dict[str, Any]:
    """Return a coverage as another insurer of the patient has it, under the same member id."""
    others = [each for each in NAMES if each != organization(body)]
    payor = {"reference": f"Organization/{random.choice(others)}"}
    return {**deepcopy(dict(body)), "payor": [payor]}


def told(content: Mapping[str, Any]) -> str:
    """Describe a coverage in a replay."""
    return str(meaning(content))


def _issue(code: str) -> dict[str, Any]:
    issue = {"severity": "error", "code": code, "details": {"text": "no"}}
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def mark_of(body: Mapping[str, Any]) -> str:
    """Return the row that a resource was made of."""
    if body["resourceType"] == "Coverage":
        return str(body["relationship"]["text"])
    return str(body["created"])


def _patient(content: Mapping[str, Any]) -> str:
    element = "beneficiary" if content["resourceType"] == "Coverage" else "request"
    return str(content[element]["reference"])
