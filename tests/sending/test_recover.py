"""Settling doubt: what a search is, what it may be taken for, and what the server's clock can tell."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.canvas.auth import Credentials
from pipeline.canvas.client import Client, Options
from pipeline.canvas.server_clock import ServerClock
from pipeline.canvas.transport import Reply
from pipeline.clock import HandClock, SystemClock
from pipeline.errors import SearchFailed
from pipeline.fhir.codes import Contract
from pipeline.fhir.coverage import coverage, match_key, organizations_of, payor_of
from pipeline.fhir.payment_notice import payment_notice
from pipeline.journal import opening, runs
from pipeline.journal.journal import Journal
from pipeline.journal.runs import Run
from pipeline.records import Doubt, Finding, Intent, Interaction, Settlement
from pipeline.sending.recover import Recovery
from pipeline.sending.weigh import like_of, weigh, weigh_update

BASE = "https://fumage-example.canvasmedical.com"
TOKEN_URL = f"{BASE}/auth/token/"
QUIET = timedelta(seconds=30)
SINCE = datetime(2026, 11, 21, 2, 30, tzinfo=UTC)
UNTIL = SINCE + timedelta(seconds=5)
INSIDE = SINCE + timedelta(seconds=2)
LONG_BEFORE = SINCE - timedelta(hours=1)
Resource = dict[str, Any]


def intent(resource: Resource, *, cents: int | None = 1250, claim: str = "") -> Intent:
    kind = resource["resourceType"]
    like = match_key(resource) if kind == "Coverage" else ""
    return Intent("k1", "f", kind, Interaction.CREATE, "p1", b"{}", "", cents, claim, like, "r1")


def payment(
    resource_id: str = "n1", *, patient: str = "p1", amount: Any = 12.5, claim: str | None = None
) -> Resource:
    day = date(2026, 11, 21)
    sent = payment_notice(patient=patient, amount=Decimal(1), created_on=day, claim=claim)
    made = {"id": resource_id, "created": INSIDE.isoformat(), "amount": {"value": amount}}
    return {**sent, **made}


def covered(resource_id: str = "c1", *, patient: str = "p1", member_id: str = "m1") -> Resource:
    resource = coverage(
        Contract.OF_2025_10,
        status="active",
        beneficiary=patient,
        subscriber=patient,
        member_id=member_id,
        subscriber_id=None,
        relationship="self",
        payor=payor_of(by_payer_id=True, value="60054", display=None),
        order=1,
        type_code=None,
        start_on=None,
        end_on=None,
        classes={},
    )
    return {**resource, "id": resource_id}


def doubt(of: Resource | None = None, since: datetime | None = SINCE) -> Doubt:
    until = None if since is None else UNTIL
    return Doubt(intent(of or payment()), 1, 0, since, until, False, None, "canvas|500", "lost")


# What a search may be taken for -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("like", "claimed", "settlement", "found"),
    [
        ({}, set(), Settlement.ABSENT, ""),
        ({"a": INSIDE}, set(), Settlement.FOUND, "a"),
        ({"a": SINCE}, set(), Settlement.FOUND, "a"),
        ({"a": UNTIL + QUIET}, set(), Settlement.FOUND, "a"),
        ({"a": UNTIL + QUIET + timedelta(seconds=1)}, set(), Settlement.UNCLEAR, ""),
        ({"a": LONG_BEFORE}, set(), Settlement.ABSENT, ""),
        ({"a": SINCE - timedelta(minutes=1)}, set(), Settlement.UNCLEAR, ""),
        ({"a": LONG_BEFORE, "b": INSIDE}, set(), Settlement.FOUND, "b"),
        ({"a": INSIDE, "b": INSIDE}, set(), Settlement.UNCLEAR, ""),
        ({"a": INSIDE, "b": INSIDE}, {"a"}, Settlement.FOUND, "b"),
        ({"a": INSIDE}, {"a"}, Settlement.ABSENT, ""),
        ({"a": None}, set(), Settlement.UNCLEAR, ""),
    ],
)
def test_only_what_is_certain_is_settled(
    like: dict[str, datetime | None], claimed: set[str], settlement: Settlement, found: str
) -> None:
    finding = weigh(doubt(), like, claimed, QUIET, is_time_known=True)
    assert (finding.settlement, finding.resource_id) == (settlement, found)


def test_times_prove_nothing_once_a_clock_was_set() -> None:
    for made_at in (INSIDE, LONG_BEFORE):
        finding = weigh(doubt(), {"a": made_at}, set(), QUIET, is_time_known=False)
        assert finding.settlement is Settlement.UNCLEAR


def test_a_payment_that_was_sent_while_the_servers_clock_was_set_has_no_time() -> None:
    for made_at in (INSIDE, LONG_BEFORE):
        untold = replace(doubt(), until=None)
        finding = weigh(untold, {"a": made_at}, set(), QUIET, is_time_known=True)
        assert [each.when for each in finding.candidates] == ["untold"]
        assert finding.settlement is Settlement.UNCLEAR


def test_of_payments_those_are_like_it_that_are_the_patients_to_the_cent_and_claim() -> None:
    others = [
        payment("patient", patient="p2"),
        payment("cent", amount=12.51),
        payment("claim", claim="c1"),
        {**payment("zone"), "amount": None},
        covered("coverage"),
    ]
    assert like_of(intent(payment()), [*others, payment("n1")]) == {"n1": INSIDE}
    assert set(like_of(intent(payment(), claim="c1"), [*others, payment("n1")])) == {"claim"}


def test_of_coverages_those_are_like_it_that_say_the_same_of_the_same_patient() -> None:
    others = [covered("member", member_id="m2"), covered("patient", patient="p2"), payment()]
    assert like_of(intent(covered()), [*others, covered("c1")]) == {"c1": None}


@given(st.integers(1, 99_999_999))
def test_a_payment_is_known_again_to_the_cent(cents: int) -> None:
    shown = orjson.loads(str(Decimal(cents).scaleb(-2)))
    assert like_of(intent(payment(), cents=cents), [payment("n1", amount=shown)])


# What a search is ---------------------------------------------------------------------------------


class Answers:
    """A transport that gives these answers to searches, one after the other."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)

    async def exchange(self, _: str, url: str, *__: object) -> Reply:
        if url == TOKEN_URL:
            return reply(200, {"access_token": "t", "expires_in": 3600})
        return self._replies.pop(0)


def reply(status: int | None, content: Any, problem: str = "") -> Reply:
    return Reply(status, {}, orjson.dumps(content), True, 0.0, problem)


def page(*ids: str, after: str | None = None) -> Resource:
    links = [] if after is None else [{"relation": "next", "url": f"/PaymentNotice?{after}"}]
    entries = [{"resource": payment(each)} for each in ids]
    return {"resourceType": "Bundle", "entry": entries, "link": links}


async def search(*replies: Reply) -> list[str]:
    options = Options(BASE, Credentials(TOKEN_URL, "id", "secret"), rate_per_s=1000.0)
    client = Client(options, cast("Any", Answers(*replies)), SystemClock(), Random(1))
    return [each["id"] for each in await client.search("PaymentNotice", "request", "Patient/p1")]


async def test_a_search_is_all_of_its_pages() -> None:
    pages = [page("a", "b", after="_offset=2"), page("c", after="_offset=3"), page("d")]
    assert await search(*(reply(200, each) for each in pages)) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    "answer",
    [
        reply(500, None),
        reply(None, None, "timeout"),
        reply(200, page(), "body"),
        reply(200, None),
        reply(200, {"resourceType": "OperationOutcome"}),
        reply(200, {"resourceType": "Bundle", "entry": [{}]}),
        reply(200, page(after="")),
    ],
)
async def test_a_page_that_is_none_is_never_an_empty_one(answer: Reply, is_first: bool) -> None:
    before = [] if is_first else [reply(200, page("a", after="_offset=1"))]
    with pytest.raises(SearchFailed):
        await search(*before, answer)


async def test_pages_that_go_round_in_a_circle_are_no_search() -> None:
    circle = reply(200, page("a", after="_offset=1"))
    with pytest.raises(SearchFailed):
        await search(circle, circle, circle)


# Looking ------------------------------------------------------------------------------------------

Look = Callable[..., Recovery]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with opening.open_journal(tmp_path, BASE) as opened:
        runs.start_run(opened, Run("r1", "run", SINCE.isoformat()))
        yield opened


@pytest.fixture
def over(journal: Journal) -> Look:
    """A recovery over a Canvas without a clock that shows these, search after search."""

    class Showing(Client):
        def __init__(self, shown: Sequence[list[Resource] | None]) -> None:
            options = Options(BASE, Credentials(TOKEN_URL, "id", "secret"))
            super().__init__(options, cast("Any", None), HandClock(), Random(1))
            self._left = list(shown)

        async def search(self, *_: str) -> list[Resource]:
            found = self._left.pop(0)
            if found is None:
                raise SearchFailed("no")
            return found

    def make(*shown: list[Resource] | None) -> Recovery:
        quiet_s = QUIET.total_seconds()
        return Recovery(Showing(shown), journal, HandClock(), quiet_s, "r1", lambda *_: None)

    return make


async def test_a_search_that_fails_says_nothing(over: Look) -> None:
    cases: list[list[list[Resource] | None]] = [[None], [[], None], [[payment()], None]]
    for shown in cases:
        finding = await over(*shown).look(doubt(since=None))
        assert finding.settlement is Settlement.UNKNOWN


async def test_before_a_first_send_a_search_is_made_until_it_says_something(over: Look) -> None:
    recovery = over(None, [], None, [payment()], [payment()])
    assert await recovery.first_look(intent(payment())) is None
    with pytest.raises(SearchFailed, match="cannot be searched for PaymentNotice"):
        await over(*[None] * 5).first_look(intent(payment()))


async def test_what_a_search_shows_counts_once_the_next_one_shows_it_too(over: Look) -> None:
    seen, none = [payment()], list[Resource]()
    cases: list[tuple[list[list[Resource]], Settlement]] = [
        ([none, none], Settlement.ABSENT),
        ([none, seen, seen], Settlement.FOUND),
        ([seen, none, none], Settlement.ABSENT),
        ([none, seen, none, seen], Settlement.UNKNOWN),
    ]
    for shown, settlement in cases:
        assert (await over(*shown).look(doubt(since=None))).settlement is settlement


async def test_what_is_there_before_our_first_send_is_never_taken_for_ours(over: Look) -> None:
    before = [payment("n1"), payment("n2", amount=1)]
    found: Finding | None = await over(before, before).first_look(intent(payment()))
    assert found is None, "it may be sent"
    since = [*before, payment("n3")]
    assert (await over(since, since).look(doubt(since=None))).resource_id == "n3"
    assert (await over(before, before).look(doubt(since=None))).settlement is Settlement.ABSENT


# Updates ------------------------------------------------------------------------------------------

HELD_AT = SINCE - timedelta(days=1)
LATER = HELD_AT + timedelta(seconds=1)


def updating(rule: str, held_at: datetime | None = HELD_AT) -> Doubt:
    asked = intent(covered())._replace(interaction=Interaction.UPDATE, resource_id="c1")
    return replace(doubt(covered()), intent=asked._replace(held_at=held_at), rule=rule)


@pytest.mark.parametrize(
    ("update", "is_moved", "is_probed", "expected"),
    [
        (updating("canvas|500"), False, False, (Settlement.ABSENT, HELD_AT, None)),
        (updating("canvas|500"), True, False, (Settlement.ABSENT, HELD_AT, None)),
        (updating("canvas|500"), False, True, (Settlement.ABSENT, HELD_AT, LATER)),
        (updating("update|unguarded", None), False, False, (Settlement.ABSENT, UNTIL, None)),
        (updating("conflict"), False, False, (Settlement.ABSENT, HELD_AT, LATER)),
        (updating("conflict"), False, True, (Settlement.CONFLICT, None, None)),
        (
            replace(updating("conflict"), attempts=4),
            False,
            False,
            (Settlement.ABSENT, HELD_AT, LATER),
        ),
    ],
)
def test_where_a_payer_cannot_be_compared_the_time_of_our_last_write_stays_the_condition(
    update: Doubt, *, is_moved: bool, is_probed: bool, expected: tuple[object, ...]
) -> None:
    before, sent = covered(), {**covered(), "order": 2}
    shown = {**before, "payor": [{"reference": "Organization/another"}]}
    found = weigh_update(update, sent, before, shown, {}, is_moved=is_moved, is_probed=is_probed)
    assert (found.settlement, found.held_at, found.probe_at) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("update|unguarded", (Settlement.ABSENT, None)), ("conflict", (Settlement.ABSENT, UNTIL))],
)
def test_the_condition_of_an_update_is_never_later_than_the_read_that_compared_it(
    rule: str, expected: tuple[object, ...]
) -> None:
    """The create was killed: it may have been carried out until a minute later than the read."""
    update = updating(rule, None)
    update = replace(update, until=UNTIL + timedelta(minutes=1))
    shown = {**covered(), "payor": [{"reference": "Organization/another"}]}
    found = weigh_update(
        update, {**covered(), "order": 2}, covered(), shown, {}, is_moved=False, read_at=UNTIL
    )
    assert found.held_at == UNTIL
    assert (found.settlement, found.probe_at) == expected


@pytest.mark.parametrize(
    ("update", "name", "expected"),
    [
        (updating("conflict"), "Other", Settlement.UNCLEAR),
        (updating("conflict"), "Plan", Settlement.ABSENT),  # the payer to be set is there already
        (updating("canvas|500"), "Other", Settlement.ABSENT),  # Canvas compares with our last write
        (updating("update|unguarded", None), "Other", Settlement.UNCLEAR),  # whose time is a guess
    ],
)
def test_a_change_is_not_overwritten_if_the_content_before_is_not_known_either(
    update: Doubt, name: str, expected: Settlement
) -> None:
    """The plan of the last write is gone, and the new payer is sent by an id that is not known."""
    payer = {"identifier": {"value": "60055"}, "display": "Plan"}
    sent = {**covered(), "payor": [payer]}
    shown = {**covered(), "payor": [{"reference": "Organization/another", "display": name}]}
    found = weigh_update(update, sent, None, shown, {}, is_moved=False)
    assert found.settlement is expected


@pytest.mark.parametrize("known", [{}, {"60054": "Organization/one"}], ids=["none", "the first"])
@pytest.mark.parametrize("rule", ["conflict", "canvas|500"])
def test_an_edit_equal_to_the_other_changes_does_not_prove_an_unknown_payer(
    known: dict[str, str], rule: str
) -> None:
    """Another user set the same end as the file, and the payer of the file cannot be compared."""
    before = {**covered(), "payor": [{"identifier": {"value": "60054"}}]}
    end = {"start": "2026-01-01", "end": "2026-12-31"}
    sent = {**before, "payor": [{"identifier": {"value": "87726"}}], "period": end}
    shown = {**sent, "payor": [{"reference": "Organization/other"}]}
    found = weigh_update(updating(rule), sent, before, shown, known, is_moved=False)
    assert (found.settlement, found.rule) == (Settlement.UNCLEAR, "recover|payer")
    named = {**sent, "payor": [{**sent["payor"][0], "display": "Plan"}]}
    shown["payor"][0]["display"] = "plan"
    found = weigh_update(updating(rule), named, before, shown, known, is_moved=False)
    assert found.settlement is Settlement.FOUND, "its name agrees"


@pytest.mark.parametrize(
    ("rule", "was_lost", "expected"),
    [
        ("conflict", False, Settlement.UNCLEAR),  # another user's edit, for Canvas refused ours
        ("canvas|500", True, Settlement.FOUND),
        ("recover|payer", True, Settlement.UNCLEAR),  # a later look at the same
    ],
)
def test_a_payer_that_stays_is_proven_by_other_changes_only_if_they_may_be_ours(
    rule: str, *, was_lost: bool, expected: Settlement
) -> None:
    before = {**covered(), "payor": [{"identifier": {"value": "60054"}}]}
    sent = {**before, "period": {"start": "2026-01-01", "end": "2026-12-31"}}
    shown = {**sent, "payor": [{"reference": "Organization/other"}]}
    found = weigh_update(updating(rule), sent, before, shown, {}, is_moved=False, was_lost=was_lost)
    assert found.settlement is expected


def test_an_unknown_payer_is_not_overwritten_without_any_guard() -> None:
    """Neither the content that was there before is known, nor the time of our last write."""
    update = replace(updating("update|unguarded", None), until=None)
    shown = {**covered(), "payor": [{"reference": "Organization/other"}]}
    found = weigh_update(update, covered(), None, shown, {}, is_moved=False)
    assert (found.settlement, found.rule) == (Settlement.UNCLEAR, "recover|payer")
    known = {"60054": "Organization/one"}
    found = weigh_update(update, covered(), None, shown, known, is_moved=False)
    assert found.settlement is Settlement.CONFLICT


def test_an_update_without_a_condition_needs_a_payer_that_was_not_edited() -> None:
    """The content before is known, the time of our last write is not, and the payer is compared by name only."""
    update = replace(updating("update|unguarded", None), until=None)
    before = {**covered(), "payor": [{"identifier": {"value": "60054"}, "display": "Plan"}]}
    sent = {**before, "order": 2}
    edited = {**before, "payor": [{"reference": "Organization/other", "display": "Other"}]}
    found = weigh_update(update, sent, before, edited, {}, is_moved=False)
    assert (found.settlement, found.rule) == (Settlement.UNCLEAR, "recover|payer")
    same = {**before, "payor": [{"reference": "Organization/one", "display": "PLAN"}]}
    found = weigh_update(update, sent, before, same, {}, is_moved=False)
    assert (found.settlement, found.held_at) == (Settlement.ABSENT, None)


def test_a_payer_id_that_was_shown_as_two_organizations_is_not_known() -> None:
    seen = [("60054", "Organization/one"), ("87726", "Organization/two")]
    assert organizations_of(seen) == dict(seen)
    assert organizations_of([*seen, ("60054", "Organization/two")]) == dict(seen[1:])


async def test_a_read_may_be_as_old_as_the_quiet_time(journal: Journal) -> None:
    """Then what somebody edited meanwhile is not in it, and its Date must not hide that."""
    before = {**covered(), "payor": [{"reference": "Organization/one"}]}
    update = updating("conflict")
    body = orjson.dumps({**before, "order": 2})
    update = replace(update, intent=update.intent._replace(body=body))

    async def look(*_: str) -> tuple[Resource, datetime]:
        return before, SINCE

    recovery = Recovery(
        cast("Any", SimpleNamespace(look=look)), journal, HandClock(),
        QUIET.total_seconds(), "r1", lambda *_: orjson.dumps(before),
    )  # fmt: skip
    found = await recovery.look(update)
    assert (found.settlement, found.held_at) == (Settlement.ABSENT, SINCE - QUIET)


@pytest.mark.parametrize(("run_id", "probed"), [("r1", {"k1"}), ("r2", set())])
async def test_a_probe_is_used_up_only_where_this_run_sends_with_it(
    journal: Journal, run_id: str, probed: set[str]
) -> None:
    before, sent = covered(), {**covered(), "order": 2}
    update = updating("conflict")
    update = replace(update, intent=update.intent._replace(body=orjson.dumps(sent)))

    async def look(*_: str) -> tuple[Resource, datetime]:
        return {**before, "payor": [{"reference": "Organization/another"}]}, SINCE

    recovery = Recovery(
        cast("Any", SimpleNamespace(look=look)), journal, HandClock(),
        QUIET.total_seconds(), run_id, lambda *_: orjson.dumps(before),
    )  # fmt: skip
    assert (await recovery.look(update)).probe_at == LATER
    assert recovery.probed == probed


# The server's clock -------------------------------------------------------------------------------

EXCHANGES = st.lists(
    st.tuples(
        st.floats(0.0, 600.0),  # seconds until the request
        st.floats(0.0, 10.0),  # on its way there
        st.floats(0.0, 10.0),  # on the way back
        st.floats(-1.0, 1.0),  # of the machine that answers before or behind the others
    ),
    min_size=1,
    max_size=10,
)


@given(st.floats(-7200.0, 7200.0), EXCHANGES)
def test_the_server_is_never_earlier_or_later_than_its_dates_leave_open(
    ahead_s: float, exchanges: list[tuple[float, float, float, float]]
) -> None:
    clock, ahead, at = ServerClock(), timedelta(seconds=ahead_s), SINCE
    for wait_s, there_s, back_s, off_s in exchanges:
        sent_at = at + timedelta(seconds=wait_s)
        arrived_at = sent_at + timedelta(seconds=there_s)
        at = arrived_at + timedelta(seconds=back_s)
        told = arrived_at + ahead + timedelta(seconds=off_s)
        clock.hear(format_datetime(told, usegmt=True), sent_at, at)
        earliest, latest = clock.earliest(at), clock.latest(at)
        assert earliest is not None
        assert latest is not None
        assert earliest <= at + ahead <= latest
        assert latest - earliest <= timedelta(seconds=10 + 10 + 3)


@pytest.mark.parametrize(
    "hours", [pytest.param((0, 1), id="once"), pytest.param((0, 1, 0, 0), id="and back")]
)
def test_a_clock_that_was_set_decides_nothing(hours: tuple[int, ...]) -> None:
    clock = ServerClock()
    for ahead in hours:
        told = SINCE + timedelta(hours=ahead)
        clock.hear(format_datetime(told, usegmt=True), SINCE, SINCE)
    assert clock.earliest(SINCE) is clock.latest(SINCE) is None
    assert not clock.agrees(timedelta())
