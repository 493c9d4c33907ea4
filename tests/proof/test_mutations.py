"""The faults that the proof plants can all be planted: a line that was changed takes its fault along."""

from tests.proof.mutations import _ROOT, MUTATIONS, _problems


def test_the_text_of_each_fault_is_in_its_file_once() -> None:
    assert not _problems(MUTATIONS, _ROOT)
    numbers = [each.number for each in MUTATIONS]
    assert len(set(numbers)) == len(numbers)
