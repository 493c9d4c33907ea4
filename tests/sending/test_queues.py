"""One open write a patient, in order: a property over every way in which sends may end."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import Intent, Interaction
from pipeline.sending.queues import PatientQueues


def intent(number: int, lane: str) -> Intent:
    return Intent(
        f"{number:04}", "f", "PaymentNotice", Interaction.CREATE, lane, b"", "", 1, "", "", "r"
    )


@given(
    st.lists(st.sampled_from("abc"), max_size=30),
    st.integers(0, 2**32),
    st.sets(st.sampled_from("abc")),
)
def test_a_patient_has_one_open_write_and_its_order_is_kept(
    names: list[str], seed: int, shut: set[str]
) -> None:
    random = Random(seed)
    lanes = PatientQueues(shut)
    offered = [intent(number, name) for number, name in enumerate(names)]
    refused = [each for each in offered if not lanes.offer(each)]
    assert {each.lane for each in refused} <= shut
    opened: list[Intent] = []
    ended: dict[str, list[str]] = {}
    dropped = 0
    while not lanes.is_empty:
        opened += lanes.take(random.randint(1, 3))
        assert len({each.lane for each in opened}) == len(opened)
        current = opened.pop(random.randrange(len(opened)))
        match random.choice(["end", "end", "again", "shut"]):
            case "end":
                ended.setdefault(current.lane, []).append(current.key)
                lanes.ended(current)
            case "again":
                lanes.again(current)
            case _:
                ended.setdefault(current.lane, []).append(current.key)
                dropped += lanes.shut(current)
                assert not lanes.offer(current)
    assert all(keys == sorted(keys) for keys in ended.values())
    assert sum(map(len, ended.values())) + dropped + len(refused) == len(offered)
    assert len(lanes) == 0
