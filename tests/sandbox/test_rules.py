"""No body, however odd, is anything but taken or refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sandbox import Sandbox
from pipeline.sandbox.coverage import CONTRACTS, CoverageDraft, check_coverage
from pipeline.sandbox.rules import PaymentDraft, Refusal, check_payment
from pipeline.sandbox.sandbox import patient_of

from .bodies import CLAIM, SEED, coverage, payer_id, payment

pytestmark = pytest.mark.slow  # many requests

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner)
)
COVERAGES = [coverage(), coverage(payor=payer_id("13162"))]


def paths(value: Any) -> list[tuple[Any, ...]]:
    """List the ways into a body: keys and positions."""
    items: Any = []
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [(key, *rest) for key, inner in items for rest in [(), *paths(inner)]]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Copy a body with another value at one path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_odd_coverages_are_taken_or_refused(data: st.DataObject) -> None:
    body = data.draw(st.sampled_from(COVERAGES))
    odd = replaced(body, data.draw(st.sampled_from(paths(body))), data.draw(values))
    patient_of(odd, "Coverage")
    for contract in CONTRACTS.values():
        read = check_coverage(odd, contract)
        if isinstance(read, CoverageDraft):
            Sandbox(SEED, contract=contract.name).store.create_coverage(read)
        else:
            assert read.status == 400
            assert read.issues


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_odd_payments_are_taken_or_refused(data: st.DataObject) -> None:
    body = payment(claim=CLAIM)
    odd = replaced(body, data.draw(st.sampled_from(paths(body))), data.draw(values))
    patient_of(odd, "PaymentNotice")
    read = check_payment(odd)
    if isinstance(read, PaymentDraft):
        sandbox = Sandbox(SEED)
        before = sum(sandbox.store.balances.values())
        written = sandbox.store.create_payment(read)
        paid = 0 if isinstance(written, Refusal) else read.amount_usd
        assert sum(sandbox.store.balances.values()) == before - paid
