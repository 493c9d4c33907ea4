"""Every class of answer to a POST, as docs/guarantees.md lists them."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.canvas.judge import Backoff, judge_create, location_id, refuses_token, retry_after_s
from pipeline.canvas.transport import Reply
from pipeline.records import Verdict

TOKEN = ("login", "expired")  # codes of a 403 that is about the token
HOST = "fumage-example.canvasmedical.com"
HOSTS = frozenset({HOST})
ID = "a7c6af04-a22f-47bf-9cc8-d41158b2ad62"
OUTCOME = b'{"resourceType":"OperationOutcome","issue":[{"code":"business-rule","details":{"text":"Too much"}}]}'


def outcome(code: str, text: str = "") -> bytes:
    """Return an OperationOutcome of one issue."""
    issue = {"severity": "error", "code": code, "details": {"text": text}}
    return json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}).encode()


def reply(
    status: int | None, body: bytes = b"", *, handed_off: bool = True, **headers: str
) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, named, body, handed_off, 0.1, "" if status else "timeout")


@pytest.mark.parametrize(
    ("answer", "proven", "verdict", "stops"),
    [
        (reply(201, location=f"/Coverage/{ID}"), False, Verdict.ACCEPTED, False),
        (reply(201), True, Verdict.LOST, False),
        (reply(201, location="/Coverage/.."), True, Verdict.LOST, False),
        (
            reply(201, location=f"https://elsewhere.example/Coverage/{ID}"),
            True,
            Verdict.LOST,
            False,
        ),
        (reply(None, handed_off=False), True, Verdict.NOT_APPLIED, False),
        (reply(401), True, Verdict.NOT_APPLIED, False),
        (reply(429), True, Verdict.NOT_APPLIED, False),
        (reply(None), True, Verdict.LOST, False),
        *(
            (reply(status, OUTCOME), True, Verdict.REFUSED, False)
            for status in (400, 403, 406, 411, 413, 414, 415, 422)
        ),
        *((reply(status, b"<html>"), True, Verdict.REFUSED, False) for status in (400, 422)),
        (reply(403, b"<html>"), True, Verdict.LOST, False),
        (reply(403, b"<html>"), False, Verdict.LOST, True),
        *((reply(403, outcome(code)), True, Verdict.NOT_APPLIED, False) for code in TOKEN),
        *((reply(status), True, Verdict.REFUSED, False) for status in (404, 405)),
        *((reply(status), False, Verdict.NOT_APPLIED, True) for status in (404, 405)),
        *(
            (reply(status, OUTCOME), True, Verdict.LOST, False)
            for status in (
                200,
                202,
                204,
                301,
                302,
                307,
                308,
                408,
                409,
                412,
                421,
                425,
                418,
                500,
                501,
                502,
                503,
                504,
                599,
            )
        ),
    ],
)
def test_each_answer_has_its_class(
    answer: Reply, proven: bool, verdict: Verdict, stops: bool
) -> None:
    judgement = judge_create(answer, "Coverage", HOST, proven=proven)
    assert judgement.verdict is verdict
    assert (judgement.stop is not None) is stops
    assert judgement.rule or verdict is Verdict.ACCEPTED


@given(st.integers(100, 999), st.binary(max_size=50), st.booleans())
def test_only_a_201_with_an_id_is_created(status: int, body: bytes, proven: bool) -> None:
    assert (
        judge_create(reply(status, body), "Coverage", HOST, proven=proven).verdict
        is not Verdict.ACCEPTED
    )


@pytest.mark.parametrize(
    ("code", "text", "is_of_token"),
    [
        ("expired", "", True),
        ("login", "", True),
        ("forbidden", "The access token has expired", True),
        ("security", "Invalid token", True),
        ("unknown", "token is not valid", True),
        ("forbidden", "Authorization failed", False),
        ("security", "Not permitted for this patient", False),
        ("business-rule", "The coverage has expired", False),
        ("invalid", "invalid value", False),
        ("forbidden", "token " + "x" * 200 + " expired", False),
    ],
)
def test_a_403_is_about_the_token_only_if_it_says_so(
    code: str, text: str, is_of_token: bool
) -> None:
    assert refuses_token(reply(403, outcome(code, text))) is is_of_token
    assert not refuses_token(reply(422, outcome(code, text)))


def test_the_refusal_says_what_canvas_said() -> None:
    judgement = judge_create(reply(422, OUTCOME), "PaymentNotice", HOST, proven=True)
    assert (judgement.rule, judgement.message) == ("canvas|business-rule", "Too much")


@pytest.mark.parametrize(
    ("location", "found"),
    [
        (f"/Coverage/{ID}", ID),
        (f"Coverage/{ID}", ID),
        (f"https://{HOST}/Coverage/{ID}", ID),
        (f"http://{HOST}/Coverage/{ID}/_history/1", ID),
        (f"/fhir/Coverage/{ID}/", ID),
        (f"/Patient/{ID}", None),
        (f"//evil.example/Coverage/{ID}", None),
        ("/Coverage/", None),
        ("/Coverage/a%2Fb", None),
        (f"/Coverage/{ID}/x", None),
        ("http://[", None),
        ("", None),
    ],
)
def test_the_id_in_a_location(location: str, found: str | None) -> None:
    assert location_id(location, "Coverage", HOSTS) == found


def test_retry_after_in_both_its_forms() -> None:
    now = datetime(2026, 11, 21, 3, 0, tzinfo=UTC)
    date = "Sat, 21 Nov 2026 02:00:10 GMT"
    assert retry_after_s(reply(429, retry_after="7"), now) == 7.0
    assert (
        retry_after_s(reply(429, retry_after=date, date="Sat, 21 Nov 2026 02:00:00 GMT"), now)
        == 10.0
    )
    assert retry_after_s(reply(429, retry_after=date), now) == 0.0
    assert retry_after_s(reply(429, retry_after="soon"), now) is None
    assert retry_after_s(reply(429), now) is None


def test_backoff_doubles_within_its_bound() -> None:
    class Most:
        def uniform(self, _: float, high: float) -> float:
            return high

    delays = [Backoff(1.0, 30.0).delay_s(tries, Most()) for tries in (1, 2, 3, 6, 1000)]  # type: ignore[arg-type]
    assert delays == [1.0, 2.0, 4.0, 30.0, 30.0]
