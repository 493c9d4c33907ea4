"""X12 834 files of strangers: one row for each coverage, or refused with words; and no SSN anywhere."""

import gzip
import random
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.commands import init as drafting
from pipeline.errors import ConfigError, InputError
from pipeline.reading.inspect import inspect
from pipeline.reading.read import read
from pipeline.reading.source import Interchange, Source
from pipeline.rows import settings
from pipeline.rows.enrollment import COLUMNS, faults
from pipeline.rows.feed import Feed, Kind
from tests.proof.enrollments import VERSION, Segments, enclosed, written

ROOT = Path(__file__).parents[2]
HD = ["HD", "030", "", "HLT", "PLANA", "FAM"]
START = ["DTP", "348", "D8", "20260101"]
SSN = "123456789"


def member(*more: list[str], code: str = "030", **changes: list[str]) -> Segments:
    """A subscriber with further segments; the named ones are other than usual."""
    usual = {
        "INS": ["INS", "Y", "18", code, "XN", "A", "", "", "FT"],
        "REF": ["REF", "0F", "M1"],
        "NM1": ["NM1", "IL", "1", "LAST", "FIRST"],
    }
    return [*(usual | changes).values(), *more]


def file_of(
    *members: Segments, purpose: str = "4", number: str = "000000901", created: str = "20261128"
) -> Segments:
    inside = [
        ["ST", "834", "0001", VERSION],
        ["BGN", "00", "B", created, "0230", "", "", "", purpose],
        ["N1", "P5", "SPONSOR", "FI", "111222333"],
        ["N1", "IN", "PLAN ONE", "FI", "60054"],
        *(segment for each in members for segment in each),
    ]
    part = [*inside, ["SE", str(len(inside) + 1), "0001"]]
    return enclosed(random.Random(1), [part], number)


def put(folder: Path, segments: Segments, name: str = "a.834", **spelling: str) -> Path:
    path = folder / name
    path.write_bytes(written(segments, **spelling).encode())
    return path


def feed_of(**options: Any) -> Feed:
    return Feed("eligibility", Kind.ELIGIBILITY, "", {"plan": "plan"}, **options)


def source_of(path: Path, feed: Feed | None = None) -> Source:
    return inspect(path, feed or feed_of(), path.parent)


def rows_of(path: Path, feed: Feed | None = None) -> list[dict[str, str]]:
    return [
        {name: text for name, text in row.items() if text}
        for batch in read(source_of(path, feed))
        for row in batch.frame.iter_rows(named=True)
    ]


def refusal_of(path: Path, feed: Feed | None = None) -> str:
    with pytest.raises(InputError) as caught:
        source_of(path, feed)
    assert caught.value.message.startswith(path.name)
    assert caught.value.fix
    return str(caught.value)


# Rows ---------------------------------------------------------------------------------------------


def test_each_coverage_of_a_member_is_a_row(tmp_path: Path) -> None:
    dental = ["HD", "021", "", "DEN", "PLAND", "IND"]
    cob = [
        ["COB", "S", "OTHER1", "1"],
        ["NM1", "IN", "2", "OTHER PAYER", "", "", "", "", "NI", "87726"],
    ]
    path = put(tmp_path, file_of(member(HD, START, *cob, dental, START)))
    first, second = rows_of(path)
    assert first == {
        "member_indicator": "Y", "relationship_code": "18", "maintenance_type": "030", "maintenance_reason": "XN",
        "benefit_status": "A", "employment_status": "FT", "subscriber_number": "M1", "member_last_name": "LAST",
        "member_first_name": "FIRST", "coverage_maintenance": "030", "insurance_line": "HLT", "plan": "PLANA",
        "coverage_level": "FAM", "start": "2026-01-01", "cob": "S", "cob_number": "OTHER1",
        "cob_payer_name": "OTHER PAYER", "cob_payer_id": "87726", "payer_name": "PLAN ONE", "payer_id": "60054",
        "sponsor_name": "SPONSOR", "sponsor_id": "111222333",
    }  # fmt: skip
    assert (second["insurance_line"], second["coverage_maintenance"]) == ("DEN", "021")
    assert "cob" not in second


@pytest.mark.parametrize(
    ("days", "start", "end"),
    [
        ([START, ["DTP", "349", "D8", "20261231"]], "2026-01-01", "2026-12-31"),
        ([["DTP", "348", "RD8", "20260101-20261231"]], "2026-01-01", "2026-12-31"),
        ([["DTP", "348", "D8", "20260230"]], "20260230", None),
        ([["DTP", "348", "D6", "260101"]], "260101", None),
        ([["DTP", "349", "RD8", "20260101-20261231"]], None, "20260101-20261231"),
        ([["DTP", "348", "D8", ""]], None, None),
    ],
)
def test_days_are_real_days_or_the_text_of_the_sender(
    tmp_path: Path, days: Segments, start: str | None, end: str | None
) -> None:
    (row,) = rows_of(put(tmp_path, file_of(member(HD, *days))))
    assert (row.get("start"), row.get("end")) == (start, end)


def of_member(parts: Segments, *days: list[str]) -> Segments:
    """The segments of a member with days of the member, not of a coverage."""
    return [*parts[:2], *days, *parts[2:]]


@pytest.mark.parametrize("code", ["001", "021", "024", "025", "030"])
def test_the_end_of_a_coverage_without_one_is_the_members(tmp_path: Path, code: str) -> None:
    """DTP*357 ends all that a member is eligible for, whatever the maintenance code is."""
    own = ["DTP", "349", "D8", "20260531"]
    parts = member(["HD", code, "", "HLT", "PLANA"], START, ["HD", code, "", "DEN", "PLAND"], own)
    rows = rows_of(put(tmp_path, file_of(of_member(parts, ["DTP", "357", "D8", "20260630"]))))
    assert [row.get("end") for row in rows] == ["2026-06-30", "2026-05-31"]


@pytest.mark.parametrize("is_reversed", [False, True])
def test_days_of_a_member_that_the_guide_names_win(tmp_path: Path, *, is_reversed: bool) -> None:
    """356 and 357 are the guide's; a sender who writes 348 and 349 of a member, too, refuses no file by it."""
    days = [
        ["DTP", "348", "D8", "20260301"],
        ["DTP", "356", "D8", "20260201"],
        ["DTP", "349", "D8", "20261130"],
        ["DTP", "357", "D8", "20261231"],
    ]
    parts = member(HD, START)
    (row,) = rows_of(
        put(tmp_path, file_of(of_member(parts, *(days[::-1] if is_reversed else days))))
    )
    assert (row["eligibility_start"], row["eligibility_end"]) == ("2026-02-01", "2026-12-31")
    (row,) = rows_of(put(tmp_path, file_of(of_member(parts, days[0], days[2]))))
    assert (row["eligibility_start"], row["eligibility_end"]) == ("2026-03-01", "2026-11-30")


def test_two_days_of_which_one_can_be_meant_are_no_day_and_refuse_no_file(tmp_path: Path) -> None:
    other = ["DTP", "348", "D8", "20260201"]
    first, second = rows_of(
        put(tmp_path, file_of(member(HD, START, other, START), member(HD, START)))
    )
    assert (first["start"], second["start"]) == ("2026-01-01;2026-02-01", "2026-01-01")


@pytest.mark.parametrize("code", ["001", "030"])
def test_a_terminated_member_has_no_open_coverage(tmp_path: Path, code: str) -> None:
    parts = member(["HD", code, "", "HLT", "PLANA"], START, code="024")
    ended = [*parts[:2], ["DTP", "357", "D8", "20260630"], *parts[2:]]
    (row,) = rows_of(put(tmp_path, file_of(ended)))
    assert row["end"] == "2026-06-30"
    (row,) = rows_of(put(tmp_path, file_of(parts)))
    frame = pl.DataFrame(
        {name: [row.get(name)] for name in COLUMNS},
        schema_overrides=dict.fromkeys(COLUMNS, pl.String),
    )
    assert faults(frame)["row|no_end"][0]


@pytest.mark.parametrize(("code", "count"), [("024", 1), ("025", 1), ("001", 0), ("030", 0)])
def test_a_member_without_a_coverage_is_a_row_only_if_a_coverage_may_change(
    tmp_path: Path, code: str, count: int
) -> None:
    source = source_of(put(tmp_path, file_of(member(HD, START), member(code=code))))
    assert (source.rows, dict(source.skipped)) == (1 + count, {} if count else {"members": 1})


def test_references_and_insurers_that_are_there_twice_are_joined(tmp_path: Path) -> None:
    cob = [["COB", "P", "A"], ["COB", "S", "B"], ["NM1", "IN", "2", "SECOND"]]
    parts = member(HD, START, *cob)
    twice = [["REF", "ZZ", "one"], ["REF", "ZZ", "two"]]
    (row,) = rows_of(put(tmp_path, file_of([*parts[:2], *twice, *parts[2:]])))
    assert (row["reference_zz"], row["cob"], row["cob_number"]) == ("one;two", "P;S", "A;B")
    assert row["cob_payer_name"] == ";SECOND"


def test_no_ssn_is_in_a_row(tmp_path: Path) -> None:
    """Nor where a sender writes it as another id, of the member or of the family."""
    mine = member(
        ["REF", "SY", SSN], ["REF", "23", f"{SSN[:3]}-{SSN[3:5]}-{SSN[5:]}"], REF=["REF", "0F", SSN]
    )
    mine = [*mine[:2], *mine[3:], ["NM1", "IL", "1", "LAST", "", "", "", "", "34", SSN], HD, START]
    child = member(HD, START, INS=["INS", "N", "19", "030"], REF=["REF", "0F", f"{SSN}01"])
    rows = rows_of(put(tmp_path, file_of(mine, child)))
    assert len(rows) == 2
    assert not any(SSN in text.replace("-", "") for row in rows for text in row.values())
    assert [row.get("subscriber_number") for row in rows] == [None, None]


@pytest.mark.parametrize("family", ["M1", "M2", f"{SSN}01", ""])
def test_an_ssn_within_an_id_of_a_dependent_who_comes_first_is_blank(
    tmp_path: Path, family: str
) -> None:
    """Whether or not the dependent's REF*0F is the subscriber's."""
    child = [
        ["INS", "N", "19", "030"],
        ["REF", "0F", family],
        ["REF", "23", f"{SSN[:3]}-{SSN[3:5]}-{SSN[5:]}-01"],
        ["REF", "17", "C1"],
        ["NM1", "IL", "1", "LAST", "CHILD"],
        HD,
        START,
    ]
    parent = of_member(member(HD, START), ["REF", "SY", SSN], ["REF", "23", "MRN1"])
    others = [
        of_member(member(HD, START), ["REF", "SY", f"{4_0000_0000 + at * 7919}"])
        for at in range(30)
    ]
    found = rows_of(put(tmp_path, file_of(child, parent, *others)))
    assert not any(SSN in text.replace("-", "") for row in found for text in row.values())
    assert found[0]["reference_17"] == "C1"
    assert found[0].get("subscriber_number") == (family if family.startswith("M") else None)
    assert found[1]["reference_23"] == "MRN1"
    assert len(found) == 2 + len(others)


def family(ssn: str, *, is_subscriber: bool = True) -> Segments:
    """A member whose REF*0F is an SSN, which only the subscriber marks as one."""
    who = ["INS", "Y", "18", "030"] if is_subscriber else ["INS", "N", "19", "030"]
    parts = member(HD, START, INS=who, REF=["REF", "0F", ssn])
    return [*parts[:2], ["REF", "SY", ssn], *parts[2:]] if is_subscriber else parts


@pytest.mark.parametrize(
    "members",
    [
        [family(SSN), family("223456789"), family(SSN, is_subscriber=False)],
        [family(SSN, is_subscriber=False), family(SSN)],
        [family("012345678", is_subscriber=False), family("012345678")],
        [family("12345678")],
    ],
    ids=["all subscribers first", "dependents first", "dependents first, zeros", "cut zeros"],
)
def test_a_family_number_that_is_an_ssn_is_blank_in_any_order(
    tmp_path: Path, members: list[Segments]
) -> None:
    rows = rows_of(put(tmp_path, file_of(*members)))
    assert len(rows) == len(members)
    assert not any("subscriber_number" in row for row in rows)


def test_an_ssn_that_a_former_name_or_another_insured_has_is_in_no_row(tmp_path: Path) -> None:
    former = ["NM1", "70", "1", "OLD", "", "", "", "", "34", SSN]
    cob = [["COB", "P", "223456789"], ["REF", "SY", "223456789"]]
    (row,) = rows_of(
        put(tmp_path, file_of(member(former, HD, START, *cob, REF=["REF", "0F", SSN])))
    )
    assert row["cob"] == "P"
    assert not {"subscriber_number", "cob_number"} & set(row)


def test_the_page_of_files_has_each_column() -> None:
    page = (ROOT / "docs" / "files.md").read_text()
    for name, what in COLUMNS.items():
        assert f"| `{name}` | {what} |".replace("*", "\\*") in page


# Spellings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("signs", ["*:~", "|>~", "!<\x1c", "*:\n", "*:\r", "\x1d\x1f\x1c", "\t:~"])
def test_any_signs_and_line_ends_are_read(tmp_path: Path, signs: str, end: str) -> None:
    path = put(tmp_path, file_of(member(HD, START)), signs=signs, end=end)
    assert [row["plan"] for row in rows_of(path)] == ["PLANA"]


def test_blanks_around_elements_and_segments_are_read(tmp_path: Path) -> None:
    padded = [[segment[0], *(f"{each}  " for each in segment[1:])] for segment in member(HD, START)]
    expected = rows_of(put(tmp_path, file_of(member(HD, START))))
    assert rows_of(put(tmp_path, file_of(padded), end="   \r\n")) == expected
    text = written(file_of(member(HD, START)))
    (tmp_path / "a.834").write_text(text + "\x1a")
    assert rows_of(tmp_path / "a.834") == expected


def test_reporting_categories_may_be_empty(tmp_path: Path) -> None:
    categories = [["LS", "2700"], ["LX", "1"], ["LX", "2"], ["N1", "75", "A"], ["LE", "2700"]]
    assert len(rows_of(put(tmp_path, file_of(member(HD, START, *categories))))) == 1


def test_marks_compression_and_encodings_are_read(tmp_path: Path) -> None:
    text = written(file_of(member(HD, START, NM1=["NM1", "IL", "1", "GARCÍA"])))
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "b.dat.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.edi").write_bytes(text.encode("latin-1"))
    for name, feed in (("a.txt", None), ("b.dat.gz", None), ("c.edi", feed_of(encoding="latin-1"))):
        assert [row["member_last_name"] for row in rows_of(tmp_path / name, feed)] == ["GARCÍA"]
    assert "bytes that are not utf-8" in refusal_of(tmp_path / "c.edi")
    assert source_of(tmp_path / "a.txt", feed_of(encoding="latin-1")).rows == 1
    assert not [path for path in tmp_path.iterdir() if path.name == "interchange.txt"]


@pytest.mark.parametrize("before", ["\n", "\r\n\r\n", "  ", "\ufeff\n"])
def test_line_ends_before_the_first_segment_are_read(tmp_path: Path, before: str) -> None:
    path = tmp_path / "a.834"
    text = written(file_of(member(HD, START)))
    path.write_bytes(before.encode() + text.encode())
    assert [row["plan"] for row in rows_of(path)] == ["PLANA"]
    broken = changed(file_of(member(HD, START)), "HD", 0, "QQ")
    path.write_bytes(before.encode() + written(broken).encode())
    lines = 10 + before.count("\n")
    assert f"segment 10 (line {lines}): QQ has no place" in refusal_of(path)


def test_the_envelope_is_known(tmp_path: Path) -> None:
    source = source_of(put(tmp_path, file_of(member(HD, START), purpose="2")))
    assert source.header == tuple(COLUMNS)
    assert source.interchange == Interchange(
        parties="ZZ/SENDER/ZZ/RECEIVER",
        identity="ZZ/SENDER/ZZ/RECEIVER/000000901/1,",
        number="000000901",
        is_change=True,
        created="20261128023000",
    )


@pytest.mark.parametrize(
    ("name", "number", "text", "created", "is_test"),
    [
        ("ISA", 15, "T", "20261128023000", True),
        ("ISA", 9, "261129", "20261129023000", False),
        ("GS", 5, "02301599", "20261128023015", False),
        ("BGN", 3, "20261201", "20261201023000", False),
        ("BGN", 3, "20261301", "20261128023000", False),
        ("GS", 4, "", "20261128023000", False),
    ],
)
def test_a_file_says_when_it_was_created_and_whether_it_is_a_test(
    tmp_path: Path, name: str, number: int, text: str, created: str, *, is_test: bool
) -> None:
    segments = changed(file_of(member(HD, START)), name, number, text)
    found = source_of(put(tmp_path, segments)).interchange
    assert found is not None
    assert (found.created, found.is_test) == (created, is_test)


@pytest.mark.parametrize("members", [[], [member(code="001")]])
def test_a_file_without_a_coverage_has_no_rows(tmp_path: Path, members: list[Segments]) -> None:
    path = put(tmp_path, file_of(*members))
    source = source_of(path)
    assert (source.rows, sum(source.skipped.values()), list(read(source))) == (0, len(members), [])
    with pytest.raises(InputError, match="a draft needs some rows"):
        drafting.draft([path])


# Refusals -----------------------------------------------------------------------------------------


def changed(segments: Segments, name: str, number: int, text: str) -> Segments:
    """The same file with another element in the first segment of a name."""
    at = next(at for at, each in enumerate(segments) if each[0] == name)
    segments[at] = [*segments[at][:number], text, *segments[at][number + 1 :]]
    return segments


@pytest.mark.parametrize(
    ("name", "number", "text", "said"),
    [
        ("SE", 1, "9", "SE counts 9 segments, and 10 are there"),
        ("GE", 1, "2", "GE counts 2, and another number is there"),
        ("IEA", 1, "x", "the count of IEA is no number"),
        ("SE", 2, "0002", "the control number of SE is not that of its beginning"),
        ("GE", 2, "7", "the control number of GE"),
        ("IEA", 2, "000000902", "the control number of IEA"),
        ("GS", 8, "005010X220", "another version than 005010X220A1"),
        ("ST", 3, "004010X095A1", "another version than 005010X220A1"),
        ("ST", 1, "835", "begins something else than an 834"),
        ("BGN", 8, "", "BGN08 is none of 2 (changes), 4 and RX"),
        ("NM1", 3, "LA\nST", "control characters within a segment"),
        ("HD", 0, "XX", "XX has no place here"),
        ("NM1", 0, "N3", "N3 has no place here"),
        ("ISA", 5, "ZZZ", "the first segment (ISA) has not the 105 characters"),
        ("ISA", 12, "00401", "another version"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_whole_is_refused(
    tmp_path: Path, name: str, number: int, text: str, said: str
) -> None:
    path = put(tmp_path, changed(file_of(member(HD, START)), name, number, text))
    assert said in refusal_of(path)


def test_a_refusal_says_where(tmp_path: Path) -> None:
    segments = changed(file_of(member(HD, START)), "HD", 0, "QQ")
    assert "segment 10 (line 10): QQ has no place" in refusal_of(put(tmp_path, segments))
    assert "segment 10 (line 1): QQ has no place" in refusal_of(put(tmp_path, segments, end=""))
    assert "segment 10 (line 10): QQ" in refusal_of(put(tmp_path, segments, signs="*:\n"))


def test_a_file_that_is_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    """Here by a child, at some of them; tests/proof cuts thousands."""
    text = written(file_of(member(HD, START))).encode()
    path = tmp_path / "a.834"
    for size in range(107, len(text) - 1, 57):
        path.write_bytes(text[:size])
        assert "the file ends before its last segment" in refusal_of(path)


def test_several_interchanges_and_parts_of_two_kinds_are_refused(tmp_path: Path) -> None:
    once = written(file_of(member(HD, START)))
    (tmp_path / "a.834").write_text(once + once)
    assert "there is more after the end of the interchange" in refusal_of(tmp_path / "a.834")
    parts = [
        [
            ["ST", "834", number, VERSION],
            ["BGN", "00", "B", "20261128", "", "", "", "", purpose],
            *member(HD, START),
            ["SE", "8", number],
        ]
        for number, purpose in (("0001", "4"), ("0002", "2"))
    ]
    path = put(tmp_path, enclosed(random.Random(1), parts))
    assert "one part of the file is full and another holds changes" in refusal_of(path)


def test_two_values_for_what_is_there_once_are_refused(tmp_path: Path) -> None:
    twice = of_member(member(HD, START), ["REF", "0F", "M2"])
    assert "REF says another value than one before it" in refusal_of(put(tmp_path, file_of(twice)))


def other(group: str, number: str) -> Segments:
    segments = changed(file_of(member(HD, START)), "GS", 1, group)
    return changed(segments, "ST", 1, number)


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(
    ("group", "number", "said"),
    [
        ("HP", "835", "each would lower a patient's balance"),
        ("HC", "837", "837, claims), and only 834, enrollments, is read"),
    ],
)
def test_other_transaction_sets_are_refused_with_the_reason(
    tmp_path: Path, kind: Kind, group: str, number: str, said: str
) -> None:
    path = put(tmp_path, other(group, number))
    assert said in refusal_of(path, Feed("feed", kind, "", {}))
    with pytest.raises(InputError, match=re.escape(said)):
        drafting.draft([path], kind.value)


def test_an_834_is_no_ledger(tmp_path: Path) -> None:
    path = put(tmp_path, file_of(member(HD, START)))
    said = refusal_of(path, Feed("ledger", Kind.LEDGER, "", {}))
    assert "holds no payments of patients" in said
    with pytest.raises(ConfigError, match="enrollments, and no payments"):
        drafting.draft([path], "ledger")


def test_a_feed_of_the_format_reads_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("plan\nA\n")
    assert 'format of feed eligibility is "834"' in refusal_of(
        tmp_path / "a.csv", feed_of(format="834")
    )


@pytest.mark.parametrize(
    ("kind", "path", "changed", "said"),
    [
        ("eligibility", "in/*.834", [], ""),
        ("eligibility", "in/a.txt", ["encoding"], ""),
        ("ledger", "in/a.834", [], 'kind must be "eligibility"'),
        ("eligibility", "in/a.xlsx", [], "files that end in .xlsx are no X12 834"),
        ("eligibility", "in/a.834", ["delimiter"], 'delimiter: has no effect with format = "834"'),
    ],
)
def test_settings_that_the_format_does_not_have_are_refused(
    kind: str, path: str, changed: list[str], said: str
) -> None:
    if not said:
        settings.check_format("834", kind, path, changed)
        return
    with pytest.raises(ValueError, match=re.escape(said)):
        settings.check_format("834", kind, path, changed)
