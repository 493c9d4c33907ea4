"""The resources, byte for byte as the Canvas pages show them, in both contracts."""

from datetime import date
from decimal import Decimal
from typing import Any

import orjson
import pytest

from pipeline.fhir.codes import TYPES, Contract
from pipeline.fhir.coverage import coverage, is_like, match_key, payor_of
from pipeline.fhir.datatypes import is_id, reference
from pipeline.fhir.outcome import Issue, issues_of
from pipeline.rows.eligibility import EligibilityRow
from pipeline.rows.ledger import LedgerRow
from pipeline.rows.map import Mapping, map_row

TODAY = date(2026, 11, 21)
ROW = EligibilityRow.model_construct(
    patient="febae9dcb7cf4d88ba27cc552a3f96b3",
    relationship="self",
    subscriber="febae9dcb7cf4d88ba27cc552a3f96b3",
    member_id="1234",
    subscriber_id=None,
    payer="6741b035-2846-45b3-b7a3-251f7b7fc728",
    payer_name="Medicare Advantage",
    type="MILITARY",
    plan="Starfleet HMO",
    subplan="Stars",
    group="Captains Only",
    subgroup="Subgroup 2",
    order=1,
    start_on=date(2021, 6, 27),
    end_on=date(2023, 6, 27),
    status="active",
)


def concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}]}


def mapped(row: EligibilityRow, contract: Contract, payer: Any = "organization") -> Any:
    return orjson.loads(map_row(row, Mapping(contract, payer, TODAY)).body)


PATIENT = {"reference": "Patient/febae9dcb7cf4d88ba27cc552a3f96b3"}
COMMON = {
    "resourceType": "Coverage",
    "order": 1,
    "status": "active",
    "subscriber": PATIENT,
    "beneficiary": PATIENT,
    "period": {"start": "2021-06-27", "end": "2023-06-27"},
    "payor": [
        {
            "reference": "Organization/6741b035-2846-45b3-b7a3-251f7b7fc728",
            "type": "Organization",
            "display": "Medicare Advantage",
        }
    ],
}
CLASSES = [
    ("plan", "Starfleet HMO"),
    ("subplan", "Stars"),
    ("group", "Captains Only"),
    ("subgroup", "Subgroup 2"),
]


def classes(system: str) -> list[dict[str, Any]]:
    return [{"type": concept(system, code), "value": value} for code, value in CLASSES]


def test_coverage_of_the_2023_page() -> None:
    value_sets = "http://hl7.org/fhir/ValueSet/"
    assert mapped(ROW, Contract.OF_2023) == {
        **COMMON,
        "subscriberId": "1234",
        "type": concept(f"{value_sets}coverage-type", "MILITARY"),
        "relationship": concept(f"{value_sets}subscriber-relationship", "self"),
        "class": classes(f"{value_sets}coverage-class"),
    }


def test_coverage_of_2025() -> None:
    systems = "http://terminology.hl7.org/CodeSystem/"
    assert mapped(ROW, Contract.OF_2025_10) == {
        **COMMON,
        "identifier": [{"type": concept(f"{systems}v2-0203", "MB"), "value": "1234"}],
        "subscriberId": "1234",
        "type": concept(f"{systems}v3-ActCode", "MILITARY"),
        "relationship": concept(f"{systems}subscriber-relationship", "self"),
        "class": classes(f"{systems}coverage-class"),
    }


def test_self_pay_has_a_coding_system_of_its_own() -> None:
    row = ROW.model_copy(update={"type": "pay"})
    system = mapped(row, Contract.OF_2025_10)["type"]["coding"][0]["system"]
    assert system == "http://terminology.hl7.org/CodeSystem/coverage-selfpay"


def test_the_subscriber_of_another_has_an_id_only_if_it_is_given() -> None:
    row = ROW.model_copy(update={"relationship": "child", "subscriber": "p2"})
    assert "subscriberId" not in mapped(row, Contract.OF_2025_10)
    given = row.model_copy(update={"subscriber_id": "S9"})
    assert mapped(given, Contract.OF_2025_10)["subscriberId"] == "S9"


def test_a_payer_id_goes_out_as_identifier() -> None:
    row = ROW.model_copy(update={"payer": "13162", "payer_name": None})
    system = "https://www.claim.md/services/era/"
    assert mapped(row, Contract.OF_2025_10, "payer_id")["payor"] == [
        {"identifier": {"system": system, "value": "13162"}}
    ]


def test_what_is_blank_is_left_out() -> None:
    blank = dict.fromkeys(("type", "plan", "subplan", "group", "subgroup", "start_on", "end_on"))
    resource = mapped(ROW.model_copy(update=blank), Contract.OF_2025_10)
    assert not {"type", "class", "period"} & set(resource)
    assert b"null" not in orjson.dumps(resource)


PAYMENT = LedgerRow.model_construct(
    transaction_id="t1",
    patient="bc4ec998a49745b488f552bebddf7261",
    amount=Decimal(10),
    posted_on=date(2023, 9, 12),
    claim="f0dfefbe-3fe0-4ee7-bd44-636f7be073e9",
    entry_type=None,
    currency="USD",
)


def test_payment_notice_of_the_page() -> None:
    draft = map_row(PAYMENT, Mapping(Contract.OF_2025_10, "payer_id", TODAY))
    assert orjson.loads(draft.body) == {
        "resourceType": "PaymentNotice",
        "extension": [
            {
                "extension": [
                    {
                        "url": "claim",
                        "valueReference": {
                            "reference": "Claim/f0dfefbe-3fe0-4ee7-bd44-636f7be073e9"
                        },
                    }
                ],
                "url": "http://schemas.canvasmedical.com/fhir/copayment-claims",
            }
        ],
        "status": "active",
        "request": {"reference": "Patient/bc4ec998a49745b488f552bebddf7261"},
        "created": "2023-09-12",
        "payment": {},
        "recipient": {},
        "amount": {"value": 10.0, "currency": "USD"},
    }
    assert b'"value":10.00,' in draft.body


@pytest.mark.parametrize("text", ["0.01", "0.10", "1.00", "1234.56", "999999.99"])
def test_amounts_are_clean_numbers_of_two_decimals(text: str) -> None:
    row = PAYMENT.model_copy(update={"amount": Decimal(text)})
    body = map_row(row, Mapping(Contract.OF_2025_10, "payer_id", TODAY)).body
    assert b'"value":%s,' % text.encode() in body


def test_the_day_of_sending_is_no_part_of_a_payments_content() -> None:
    row = PAYMENT.model_copy(update={"posted_on": None})
    drafts = [
        map_row(row, Mapping(Contract.OF_2025_10, "payer_id", day))
        for day in (TODAY, date(2026, 11, 22))
    ]
    assert drafts[0].fingerprint == drafts[1].fingerprint
    assert drafts[0].body != drafts[1].body


def test_ids_that_would_change_an_address_are_none() -> None:
    bad = ["", ".", "..", "a/b", "a b", "a?b", "x" * 65, "\uff41", "a\n"]
    assert [text for text in bad if is_id(text)] == []
    assert all(is_id(text) for text in ("a39cafb9d1b445be95a2e2548e12a787", "A.b-1", "x" * 64))
    with pytest.raises(ValueError, match="Patient"):
        reference("Patient", "..")


def test_there_are_53_types() -> None:
    assert len(TYPES) == len(set(TYPES)) == 53


@pytest.mark.parametrize(
    ("body", "issues"),
    [
        (b'{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"business-rule","details":{"text":"No"}}]}',
         [Issue("business-rule", "No")]),
        (b'{"resourceType":"OperationOutcome","issue":[{"code":7},3,{"code":"a name","details":{"text":"x\\u001b[2Jy"}}]}',
         [Issue("unknown", ""), Issue("unknown", "x [2Jy")]),
        (b'{"resourceType":"OperationOutcome","issue":[{"code":"not-found","details":{"text":"no"}}]}',
         [Issue("not-found", "no")]),
        (b'{"resourceType":"OperationOutcome","issue":[{"severity":"information","code":"informational","details":{"text":"old"}},{"severity":"warning"},{"severity":"error","code":"business-rule","details":{"text":"No"}}]}',
         [Issue("business-rule", "No")]),
        (b'{"resourceType":"OperationOutcome","issue":[{"severity":"warning","code":"value","details":{"text":"Old"}}]}',
         [Issue("value", "Old")]),
        (b'{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"value","diagnostics":"Too\\u0007 long"}]}',
         [Issue("value", "Too  long")]),
        (b'{"resourceType":"OperationOutcome","issue":[{"severity":["x"],"code":"value","details":{"text":"a"},"diagnostics":"b"}]}',
         [Issue("value", "a")]),
        (b'{"resourceType":"OperationOutcome","issue":{}}', []),
        (b'{"detail":"Method Not Allowed"}', []),
        (b"<html>", []),
        (b"[1]", []),
        (b"", []),
    ],
)  # fmt: skip
def test_outcomes_are_read_whatever_comes(body: bytes, issues: list[Issue]) -> None:
    assert issues_of(body) == issues


def test_a_coverage_is_known_again_wherever_its_member_id_stands() -> None:
    """A read may tell it as an identifier, typed or not, or as `subscriberId`; and fills in more."""
    sent = sent_coverage(start_on=None)
    told = {
        **sent,
        "id": "c1",
        "order": 3,
        "period": {"start": "2026-11-21"},
        "payor": [{"reference": "Organization/6741b035", "display": "Plan"}],
    }
    assert is_like(told, match_key(sent))
    assert is_like({**told, "identifier": [{"value": "M1"}], "subscriberId": "x"}, match_key(sent))
    without = {name: value for name, value in told.items() if name != "identifier"}
    assert is_like({**without, "subscriberId": "M1"}, match_key(sent))
    for changed in (
        {"identifier": [{"value": "M2"}], "subscriberId": "M2"},
        {"status": "cancelled"},
        {"beneficiary": {"reference": "Patient/other"}},
        {"class": [{"type": {"coding": [{"code": "plan"}]}, "value": "Gold"}]},
    ):
        assert not is_like({**told, **changed}, match_key(sent))
    others: list[Any] = [
        {},
        None,
        [],
        {**told, "payor": None, "class": "x"},
        {**told, "class": [None]},
    ]
    for broken in others:
        assert not is_like(broken, match_key(sent))


def test_what_is_sent_counts_when_a_coverage_is_known_again() -> None:
    sent = sent_coverage(start_on=date(2026, 1, 1), by_payer_id=False)
    assert is_like(sent, match_key(sent))
    assert not is_like({**sent, "period": {"start": "2026-01-02"}}, match_key(sent))
    assert not is_like({**sent, "payor": [{"reference": "Organization/other"}]}, match_key(sent))


def sent_coverage(*, start_on: date | None, by_payer_id: bool = True) -> dict[str, Any]:
    return coverage(
        Contract.OF_2025_10,
        status="active",
        beneficiary="p1",
        subscriber="p1",
        member_id="M1",
        subscriber_id=None,
        relationship="self",
        payor=payor_of(by_payer_id=by_payer_id, value="60054", display=None),
        order=1,
        type_code=None,
        start_on=start_on,
        end_on=None,
        classes={},
    )
