"""Workbooks of strangers: decoded by a child, cell by cell as a spreadsheet shows them, or refused with words."""

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile

import pytest

from pipeline.commands import init as drafting
from pipeline.errors import InputError
from pipeline.reading import workbook
from pipeline.reading.bounds import WORKBOOK_BYTES_MAX
from pipeline.reading.inspect import inspect
from pipeline.reading.read import read
from pipeline.reading.sheets import Unfit, checked
from pipeline.rows.feed import Feed, Kind
from tests.support.runs import counts
from tests.support.world import LEDGER_ONLY, MakeWorld, patient_key

openpyxl = pytest.importorskip("openpyxl", reason="make checks")
workbooks = pytest.importorskip("tests.proof.workbooks", reason="make checks")

COLUMNS = {"patient": "MRN", "amount": "Amount", "transaction_id": "TXN"}
HEADER = ["TXN", "MRN", "Amount"]
GOOD = ["t1", "p1", 5]


def feed_of(columns: Mapping[str, str] = COLUMNS, **options: Any) -> Feed:
    return Feed("ledger", Kind.LEDGER, "", columns, **options)


def written(folder: Path, *rows: Sequence[Any], name: str = "a.xlsx") -> Path:
    """A workbook of one sheet."""
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(folder / name)
    return folder / name


def changed(path: Path, **parts: Any) -> Path:
    """The same workbook with other text in its parts: a function of the text, or a new part; None takes it away."""
    with ZipFile(path) as archive:
        texts: dict[str, Any] = {name: archive.read(name).decode() for name in archive.namelist()}
    for name, change in parts.items():
        texts[name] = change(texts[name]) if callable(change) else change
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            if text is not None:
                archive.writestr(name, text)
    return path


def with_cells(folder: Path, cells: str, **parts: Any) -> Path:
    """A workbook with these cells in its third row, written as XML."""
    path = written(folder, HEADER, GOOD)
    row = f'<row r="3">{cells}</row></sheetData>'
    sheet = {SHEET: lambda text: text.replace("</sheetData>", row)}
    return changed(path, **{**sheet, **parts})


SHEET = "xl/worksheets/sheet1.xml"
BOOK = "xl/workbook.xml"
CALCULATED = {BOOK: lambda text: text.replace(' fullCalcOnLoad="1"', "")}


def rows_of(path: Path, feed: Feed | None = None) -> list[dict[str, str | None]]:
    source = inspect(path, feed or feed_of(), path.parent)
    return [row for batch in read(source) for row in batch.frame.iter_rows(named=True)]


def refusal_of(path: Path, feed: Feed | None = None) -> str:
    with pytest.raises(InputError) as caught:
        inspect(path, feed or feed_of(), path.parent)
    assert caught.value.message.startswith(path.name)
    assert caught.value.fix
    return str(caught.value)


# Cells --------------------------------------------------------------------------------------------

CELLS: list[tuple[Any, str | None]] = [
    ("00123", "00123"),
    (" padded ", " padded "),
    ("two\nlines", "two\nlines"),
    ("", None),
    (None, None),
    (7, "7"),
    (7.0, "7"),
    (-3, "-3"),
    (12.5, "12.5"),
    (0.1, "0.1"),
    (1e-7, "0.0000001"),
    (999_999_999_999_999, "999999999999999"),
    (1_000_000_000_000_000, "1E+15"),
    (1_234_567_890_123_456, "1.23456789012346E+15"),
    (-4_012_888_888_881_881, "-4.01288888888188E+15"),
    (True, "true"),
    (False, "false"),
    (date(2026, 1, 2), "2026-01-02"),
    (date(2200, 12, 31), "2200-12-31"),
    (datetime.fromisoformat("2026-01-02T03:04:05"), "2026-01-02T03:04:05"),
    (datetime.fromisoformat("2026-01-02"), "2026-01-02"),
    (time(3, 4, 5), "03:04:05"),
    (timedelta(hours=30, seconds=1), "30:00:01"),
    ("#N/A", "#N/A"),
    ("#REF!", "#REF!"),
    ("#DIV/0!", "#DIV/0!"),
]


def test_each_kind_of_cell_becomes_text(tmp_path: Path) -> None:
    path = written(tmp_path, [*HEADER, "Cell"], *([*GOOD, value] for value, _ in CELLS))
    assert [row["Cell"] for row in rows_of(path)] == [text for _, text in CELLS]


def test_errors_texts_and_values_of_formulas_are_read(tmp_path: Path) -> None:
    """As spreadsheets write them: openpyxl writes no values of formulas."""
    cells = (
        '<c r="A3" t="e"><f>1/0</f><v>#DIV/0!</v></c><c r="B3" t="str"><f>"p"</f><v>p</v></c>'
        '<c r="C3"><f>B2*2</f><v>10.25</v></c><c r="D3" t="str"><f>""</f><v></v></c>'
    )
    *_, last = rows_of(with_cells(tmp_path, cells, **CALCULATED))
    assert last == {"TXN": "#DIV/0!", "MRN": "p", "Amount": "10.25"}


def test_elements_with_a_prefix_and_cells_without_a_place_are_read(tmp_path: Path) -> None:
    def prefixed(text: str) -> str:
        text = re.sub(r"<(/?)(?!\?)", r"<\1x:", text).replace("xmlns=", "xmlns:x=")
        return re.sub(r'(<x:(?:c|row)) r="\w+"', r"\1", text)

    cells = '<c t="e"><v>#NAME?</v></c><c t="inlineStr"><is><t>p</t></is></c>'
    path = changed(with_cells(tmp_path, cells), **{SHEET: prefixed})
    assert [row["TXN"] for row in rows_of(path)] == ["t1", "#NAME?"]


SERIALS: list[tuple[bool, Any, str]] = [
    (False, 46024, "2026-01-02"),
    (False, 46024.5, "2026-01-02T12:00:00"),
    (False, 1, "1900-01-01"),
    (False, 59, "1900-02-28"),
    (False, 60, "60"),
    (False, 61, "1900-03-01"),
    (False, 0, "0"),
    (False, -1, "-1"),
    (False, 2_958_465, "9999-12-31"),
    (False, 2_958_466, "2958466"),
    (False, 20260102, "20260102"),
    (False, "46024", "46024"),
    (False, True, "true"),
    (True, 44562, "2026-01-02"),
    (True, 0, "1904-01-01"),
    (True, 60, "1904-03-01"),
    (True, 2_957_004, "2957004"),
]


@pytest.mark.parametrize("has_1904_dates", [False, True])
def test_a_number_in_a_column_of_days_is_a_serial_day(tmp_path: Path, has_1904_dates: bool) -> None:
    cases = [(value, text) for system, value, text in SERIALS if system is has_1904_dates]
    path = written(tmp_path, [*HEADER, "Day", "No"], *([*GOOD, each, 46024] for each, _ in cases))
    if has_1904_dates:
        changed(
            path, **{BOOK: lambda text: text.replace("<workbookPr", '<workbookPr date1904="1"', 1)}
        )
    rows = rows_of(path, feed_of({**COLUMNS, "posted_on": "Day"}))
    assert [row["Day"] for row in rows] == [text for _, text in cases]
    assert {row["No"] for row in rows} == {"46024"}


@pytest.mark.parametrize(
    ("dates", "text"), [(("%m%d%y",), "101326"), (("%Y%m%d",), "2177-06-01"), (("%m/%d/%y",), "2177-06-01")]
)  # fmt: skip
def test_where_days_are_written_as_short_numbers_no_number_is_a_serial_day(
    tmp_path: Path, dates: tuple[str, ...], text: str
) -> None:
    path = written(tmp_path, [*HEADER, "Day"], [*GOOD, 101326])
    (row,) = rows_of(path, feed_of({**COLUMNS, "posted_on": "Day"}, dates=dates))
    assert row["Day"] == text


@pytest.mark.parametrize(
    ("cells", "parts", "cell"),
    [
        ('<c r="B3"><f>1+1</f></c>', CALCULATED, "B3"),
        ('<c r="C3"><f>1+1</f><v></v></c>', CALCULATED, "C3"),
        ('<c r="AB3"><f>1+1</f><v/></c>', CALCULATED, "AB3"),
        ('<c r="C3"><f>1+1</f><v>0</v></c>', {}, "C3"),  # not calculated by who wrote it
    ],
)
def test_a_formula_without_a_stored_value_is_no_blank(
    tmp_path: Path, cells: str, parts: dict[str, Any], cell: str
) -> None:
    path = with_cells(tmp_path, cells, **parts)
    assert f"cell {cell} of the sheet is a formula without a stored value" in refusal_of(path)
    assert len(rows_of(path, feed_of(skip_footer=1))) == 1


# The sheet ----------------------------------------------------------------------------------------


def test_the_sheet_is_the_only_visible_one_or_named(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for name, state in (("One", "visible"), ("Two", "hidden"), ("Three", "veryHidden")):
        sheet = book.create_sheet(name)
        sheet.append(HEADER)
        sheet.append([name, "p1", 5])
        sheet.sheet_state = state
    book.create_chartsheet("Chart")
    del book["Sheet"]
    path = tmp_path / "a.xlsx"
    book.save(path)
    assert rows_of(path)[0]["TXN"] == "One"
    for name in ("One", "Two", "Three"):
        assert rows_of(path, feed_of(sheet=name))[0]["TXN"] == name
    for name in ("Chart", "Four"):
        assert f'no sheet "{name}"' in refusal_of(path, feed_of(sheet=name))
        assert refusal_of(path, feed_of(sheet=name)).endswith('visible sheets: "One"')
    book["Two"].sheet_state = "visible"
    book.save(path)
    assert refusal_of(path).endswith('set sheet of feed ledger to one of "One", "Two"')
    assert rows_of(path, feed_of(sheet="Two"))[0]["TXN"] == "Two"


# Rows ---------------------------------------------------------------------------------------------


def test_rows_that_are_no_data_are_left_out_and_counted(tmp_path: Path) -> None:
    path = written(
        tmp_path, [], ["Title"], HEADER, GOOD, ["# note", "x"], [None, " "], ["t2", "p2", 6], ["Total", None, 11], ["by us"]
    )  # fmt: skip
    feed = feed_of(skip_lines=2, skip_footer=2, comment_prefix="#", blank_lines="skip")
    assert [row["TXN"] for row in rows_of(path, feed)] == ["t1", "t2"]
    found = workbook.decoded(path, tmp_path / "copy", feed)
    assert (found.rows, found.skipped) == (
        2,
        {"above": 2, "below": 2, "comments": 1, "blank": 1},
    )


def test_a_blank_row_is_refused_and_its_row_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, ["Title"], HEADER, GOOD, [], GOOD)
    assert "row 4 of the sheet is blank" in refusal_of(path, feed_of(skip_lines=1))
    assert len(rows_of(path, feed_of(skip_lines=1, blank_lines="skip"))) == 2


def test_what_is_left_of_formats_is_no_row_and_no_column(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (HEADER, GOOD, ["", "", "", " "], [" "]):
        book.active.append(row)
    for place in ("H1", "B9", "XFD1048576"):
        book.active[place].font = openpyxl.styles.Font(bold=True)
    path = tmp_path / "a.xlsx"
    book.save(path)
    assert rows_of(path) == [{"TXN": "t1", "MRN": "p1", "Amount": "5"}]


def test_hidden_rows_and_columns_and_merged_cells_are_data(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in ([*HEADER, "Note"], [*GOOD, "both"], [*GOOD, None]):
        book.active.append(row)
    book.active.merge_cells("D2:D3")
    book.active.row_dimensions[2].hidden = True
    book.active.column_dimensions["B"].hidden = True
    path = tmp_path / "a.xlsx"
    book.save(path)
    assert [(row["MRN"], row["Note"]) for row in rows_of(path)] == [("p1", "both"), ("p1", None)]


def test_numbers_and_days_in_the_header_are_texts(tmp_path: Path) -> None:
    path = written(tmp_path, [*HEADER, 2026, date(2026, 1, 2)], [*GOOD, "a", "b"])
    assert list(rows_of(path)[0]) == [*HEADER, "2026", "2026-01-02"]


def test_a_sheet_without_rows_is_refused(tmp_path: Path) -> None:
    assert "no header" in refusal_of(written(tmp_path))
    assert "no rows" in refusal_of(written(tmp_path, HEADER))
    assert "no header" in refusal_of(written(tmp_path, HEADER, GOOD), feed_of(skip_lines=9))


def test_the_bounds_of_other_files_hold(tmp_path: Path) -> None:
    wide = written(tmp_path, [*HEADER, *range(510)], GOOD)
    assert "513 columns, at most 512 are read" in refusal_of(wide)
    long = f'<c r="A3" t="inlineStr"><is><t>{"x" * 70_000}</t></is></c>'
    with pytest.raises(InputError, match="more than 64 KiB"):
        rows_of(with_cells(tmp_path, long))


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.xls", "a.xlsb", "a.xlsm", "A.XLS"])
def test_other_kinds_of_workbooks_are_refused_by_name(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, HEADER, GOOD).rename(tmp_path / name)
    assert "saved as .xlsx or CSV" in refusal_of(path)


def test_a_workbook_is_known_by_its_ending_and_its_content(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER, GOOD)
    assert rows_of(path.rename(tmp_path / "A.XLSX"))
    assert "name a workbook .xlsx" in refusal_of((tmp_path / "A.XLSX").rename(tmp_path / "a.csv"))
    (tmp_path / "b.xlsx").write_text("TXN,MRN,Amount\nt1,p1,5\n")
    assert "not an Excel workbook" in refusal_of(tmp_path / "b.xlsx")
    (tmp_path / "b.xlsx").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    assert "encrypted" in refusal_of(tmp_path / "b.xlsx")


def far(text: str) -> str:
    return text.replace("</sheetData>", '<row r="1048576"><c r="A1048576"><v>1</v></c></row></sheetData>')  # fmt: skip


DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "macros": ({"xl/vbaProject.bin": "x"}, "macros"),
    "binary": ({"xl/workbook.bin": "x", BOOK: None}, "binary"),
    "no workbook": ({BOOK: None}, "damaged"),
    "no sheet": ({SHEET: None}, "damaged"),
    "entities": (
        {SHEET: lambda text: '<!DOCTYPE a [<!ENTITY b "c">]>' + text.partition("?>")[2]},
        "damaged",
    ),
    "broken": ({SHEET: lambda text: text.replace("</row>", "", 1)}, "damaged"),
    "cut short": ({SHEET: lambda text: text.partition("</sheetData>")[0]}, "damaged"),
    "no place": ({SHEET: lambda text: text.replace('r="A1"', 'r="1A"')}, "damaged"),
    "a text that is not there": (
        {SHEET: lambda text: re.sub(r"<c r=.A2.*?</c>", '<c r="A2" t="s"><v>9</v></c>', text)},
        "damaged",
    ),
    "far away": ({SHEET: far}, "row 3 of the sheet is blank"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_hostile_and_damaged_workbooks_are_refused(tmp_path: Path, name: str) -> None:
    parts, said = DAMAGE[name]
    assert said in refusal_of(changed(written(tmp_path, HEADER, GOOD), **parts))


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER, GOOD)
    with ZipFile(path, "a") as archive:
        archive.writestr("xl/media/a.xml", bytes(80 << 20), ZIP_BZIP2)
    assert "far more than its size" in refusal_of(path)
    with ZipFile(written(tmp_path, HEADER, GOOD)) as archive:
        archive.infolist()[0].file_size = WORKBOOK_BYTES_MAX
        with pytest.raises(Unfit, match="bomb"):
            checked(archive, WORKBOOK_BYTES_MAX)


def test_a_part_that_differs_from_its_checksum_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER, GOOD)
    with ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with ZipFile(path, "w") as archive:  # stored as they are
        for name, text in parts.items():
            archive.writestr(name, text)
    assert rows_of(path)
    path.write_bytes(path.read_bytes().replace(b">p1<", b">p2<"))
    assert "damaged" in refusal_of(path)


def test_more_memory_than_there_may_be_is_a_refusal(tmp_path: Path) -> None:
    """The whole sheet, as calamine holds it: 512 columns of a million rows."""
    corner = '<row r="1048576"><c r="SR1048576"><v>1</v></c></row></sheetData>'
    path = changed(
        written(tmp_path, HEADER, GOOD),
        **{SHEET: lambda text: text.replace("</sheetData>", corner)},
    )
    assert "4 GiB of memory" in refusal_of(path)


# At length: `python -m tests.proof workbooks` ------------------------------------------------------


def test_random_tables_are_what_openpyxl_reads(tmp_path: Path) -> None:
    report = workbooks.Report()
    for seed in range(40):
        workbooks.play_table(seed, tmp_path, report, is_in_child=False)
    workbooks.play_table(40, tmp_path, report)
    assert report.violations == []
    assert report.ends.total() == 41


def test_corrupted_workbooks_are_refused_or_read_as_they_were(tmp_path: Path) -> None:
    report = workbooks.Report()
    for seed in range(300):
        workbooks.play_damage(seed, tmp_path, report, is_in_child=False)
    for seed in range(300, 306):
        workbooks.play_damage(seed, tmp_path, report)
    assert report.violations == []
    assert report.ends.total() == 306
    assert report.ends["read, and the same"] < 100


# Whole runs ---------------------------------------------------------------------------------------


async def test_a_workbook_is_loaded_and_what_it_rejects_is_csv(make_world: MakeWorld) -> None:
    """Days of a type are read whatever the feed's formats are."""
    world = await make_world()
    day = date(2026, 11, 2)
    rows = [
        (patient_key(0), 5.5, day, "created"),
        (patient_key(1), 6, 46024, "created"),
        (patient_key(2), 7, "11/02/2026", "created"),
        (patient_key(3), 8, datetime.fromisoformat("2026-11-02T03:04:05"), "created"),
        (patient_key(4), 9, 60, "rejected"),
        (patient_key(5), 1.005, day, "rejected"),
        (patient_key(6), "#N/A", day, "rejected"),
        (1_234_567_890_123_456, 5, day, "rejected"),
    ]
    table = [[f"T{number}", *row[:3]] for number, row in enumerate(rows)]
    path = written(world.folder, ["TXN", "MRN", "Amount", "Posted"], *table, name="ledger.xlsx")
    feeds = LEDGER_ONLY.replace("ledger.csv", "ledger.xlsx").replace(
        'claim = "Claim"', 'posted_on = "Posted"'
    )
    feeds = feeds.replace("[feeds.columns]", 'dates = ["%m/%d/%Y"]\n[feeds.columns]')
    world.write_config(feeds=feeds, limits='rejects_max = "90%"')
    result = await world.run()
    found = result.frame.sort("row").select("disposition", "file")
    assert found.rows() == [(row[3], "ledger.xlsx") for row in rows]
    rejects = (result.folder / "rejects-ledger.csv").read_text()
    assert "1.23456789012346E+15" in rejects
    assert "2026-11-02" in rejects
    again = await world.run(inputs={"ledger": path})
    assert counts(again) == {"unchanged": 4, "rejected": 4}


def test_a_draft_is_made_from_a_workbook(tmp_path: Path) -> None:
    path = written(tmp_path, ["MRN", "TXN", "Amount", "Posted"], ["1", "T", 1, date(2026, 1, 31)])
    text = drafting.draft([path]).text
    assert "delimiter" not in text
    assert 'posted_on = "Posted"' in text


def test_a_draft_of_a_workbook_leaves_out_titles_and_blank_rows(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        ["Sample Clinic"],
        ["MRN", "TXN", "Amount"],
        ["1", "T", 1],
        [],
        ["2", "U", 2],
    ]
    text = drafting.draft([written(tmp_path, *rows)]).text
    assert "\nskip_lines = 1 " in text
    assert '\nblank_lines = "skip"' in text
    assert 'amount = "Amount"' in text


def test_a_row_is_no_footer(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER, GOOD, ["t2", "p2", 6])
    with pytest.raises(InputError, match="skip_footer = 1 leaves out row 3 of the sheet"):
        rows_of(path, feed_of(skip_footer=1))
    for total in (["Total", None, 5], ["Total", None, "=SUM(C2:C2)"]):
        path = written(tmp_path, HEADER, GOOD, total)
        assert len(rows_of(path, feed_of(skip_footer=1))) == 1
    with pytest.raises(InputError, match="no header"):
        rows_of(written(tmp_path, HEADER), feed_of(skip_footer=1))


@pytest.mark.parametrize(
    "dates",
    [
        {"dates_of": {"posted_on": ("%m%d%y",)}},
        {"dates": ("%m%d%Y",)},  # 01022026 is typed as the number 1022026, a day in the year 4698
        {"dates_of": {"posted_on": ("%d%m%Y",)}},
    ],
)
def test_a_number_in_a_format_of_digits_is_no_serial_day(
    tmp_path: Path, dates: dict[str, Any]
) -> None:
    path = written(tmp_path, [*HEADER, "Day"], [*GOOD, 10226], [*GOOD, 1022026])
    columns = {**COLUMNS, "posted_on": "Day"}
    found = rows_of(path, feed_of(columns, **dates))
    assert [row["Day"] for row in found] == ["10226", "1022026"]


def test_a_field_with_another_format_has_serial_days(tmp_path: Path) -> None:
    path = written(tmp_path, [*HEADER, "Day"], [*GOOD, 46024])
    feed = feed_of({**COLUMNS, "posted_on": "Day"}, dates_of={"start_on": ("%m%d%y",)})
    assert rows_of(path, feed)[0]["Day"] == "2026-01-02"


def test_a_number_has_no_groups_of_three(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER, ["t1", "p1", 12.345], ["t2", "p2", "12,50"], ["t3", "p3", 5])
    found = rows_of(path, feed_of(decimal_comma=True))
    assert [row["Amount"] for row in found] == ["12,345", "12,50", "5"]


def test_a_row_has_its_number_in_the_sheet(tmp_path: Path) -> None:
    path = written(tmp_path, ["Title"], [], HEADER, GOOD, [], ["#"], GOOD, GOOD)
    feed = feed_of(skip_lines=2, comment_prefix="#", blank_lines="skip")
    source = inspect(path, feed, tmp_path)
    assert [source.line_of(row) for row in (1, 2, 3)] == [4, 7, 8]
    assert source.rows == 3
