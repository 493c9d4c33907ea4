"""Days: instants, open dates, bounds of years and the formats that are tried."""

from datetime import date

import pytest

from pipeline.rows.dates import FORMATS, Dates, fitting, has_zone

ISO = ("%Y-%m-%d",)
INSTANT = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S%z")


@pytest.mark.parametrize(
    ("text", "day", "time_us"),
    [
        ("2026-01-01T05:00:00Z", date(2026, 1, 1), None),
        ("2027-01-01T04:59:59Z", date(2026, 12, 31), 86_399_000_000),
        ("2026-07-01T03:59:59Z", date(2026, 6, 30), 86_399_000_000),
        ("2026-01-01 00:00:00+00", date(2025, 12, 31), 68_400_000_000),
        ("2026-01-01 00:00:00-05:00", date(2026, 1, 1), None),
        ("2026-01-01 00:00:00-0500", date(2026, 1, 1), None),
    ],
)
def test_an_instant_is_a_day_and_a_time_in_the_practice(
    text: str, day: date, time_us: int | None
) -> None:
    dates = Dates(INSTANT, "America/New_York")
    assert dates.read(text, "posted_on") == day
    assert dates.time_us(text) == time_us


def test_a_text_without_a_zone_keeps_its_day() -> None:
    dates = Dates(("%Y-%m-%d", "%Y-%m-%d %H:%M:%S"), "America/New_York")
    assert dates.read("2026-01-01", "end_on") == date(2026, 1, 1)
    assert dates.read("2026-01-01 23:59:59", "end_on") == date(2026, 1, 1)


@pytest.mark.parametrize(
    ("form", "expected"),
    [("%Y-%m-%dT%H:%M:%SZ", True), ("%Y-%m-%d %H:%M:%S%z", True), ("%Y-%m-%d", False), ("%Y-%m-%d %Z", False),
     ("%YZ", False), ("%H:%M %Y-%m-%d%%z", False)],
)  # fmt: skip
def test_which_formats_read_instants(form: str, *, expected: bool) -> None:
    assert has_zone(form) is expected


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("end_on", "9999-12-31", None), ("end_on", "2200-01-01", None), ("end_on", "2199-12-31", date(2199, 12, 31)),
        ("end_on", "1879-12-31", "year"), ("end_on", "0000-00-00", None), ("end_on", "0000-00-00 00:00:00", None),
        ("start_on", "1879-12-31", None), ("start_on", "0001-01-01", None), ("start_on", "1880-01-01", date(1880, 1, 1)),
        ("start_on", "2200-01-01", "year"), ("start_on", "0000-00-00", None), ("start_on", "0000-00-01", "date"),
        ("posted_on", "9999-12-31", "year"), ("posted_on", "1879-12-31", "year"), ("posted_on", "0000-00-00", "date"),
        ("end_on", "2026-02-30", "date"),
    ],
)  # fmt: skip
def test_open_dates_are_built_in_by_field(field: str, text: str, expected: object) -> None:
    assert Dates(ISO).read(text, field) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12/31/2099", None), ("2099-12-31", None), ("none", None), ("00/00/0000", None), ("01/01/1900", None),
     ("2098-12-31", date(2098, 12, 31)), ("None", "date")],
)  # fmt: skip
def test_further_open_dates_are_texts_or_days(text: str, expected: object) -> None:
    forms = ("%Y-%m-%d", "%m/%d/%Y")
    dates = Dates(forms, "", ["2099-12-31", "none", "00/00/0000", "01/01/1900"])
    assert dates.read(text, "end_on") == expected
    assert dates.read(text, "start_on") == expected
    assert dates.read(text, "posted_on") is not None


def test_an_open_date_in_two_formats() -> None:
    dates = Dates(("%m/%d/%Y", "%d/%m/%Y"), "", ["2099-01-12"])
    assert dates.read("01/12/2345", "end_on") is None, "both are open"
    assert dates.read("01/12/2099", "end_on") == "ambiguous", "one is open, and the other a day"
    assert dates.read("01/12/2026", "end_on") == "ambiguous"
    adjoining = Dates(("%Y%m%d", "%d%m%Y"))
    assert adjoining.read("20100102", "start_on") == date(2010, 1, 2), "not October 20 of 102"


def test_the_first_and_the_last_instant_have_no_other_day() -> None:
    dates = Dates(INSTANT, "Asia/Tokyo")
    assert dates.read("9999-12-31T23:59:59Z", "end_on") is None
    assert Dates(INSTANT, "America/New_York").read("0001-01-01T00:00:00Z", "start_on") is None


def test_fields_may_have_their_own_formats() -> None:
    dates = Dates(ISO, by_field={"start_on": ["%m/%d/%Y"]})
    assert dates.read("01/02/2026", "start_on") == date(2026, 1, 2)
    assert dates.read("2026-01-02", "start_on") == "date"
    assert dates.read("2026-01-02", "end_on") == date(2026, 1, 2)
    assert dates.read("01/02/2026", "end_on") == "date"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("02JAN2026", "%d%b%Y"),
        ("02JAN2026:03:04:05", "%d%b%Y:%H:%M:%S"),
        ("2026-01-02 03:04:05.1234567", "%Y-%m-%d %H:%M:%S.%f"),
        ("2026-01-02T03:04:05.123456789Z", "%Y-%m-%dT%H:%M:%S.%fZ"),
        ("2026-01-02 03:04:05+00", "%Y-%m-%d %H:%M:%S%z"),
        ("2026-01-02 03:04:05+00:00", "%Y-%m-%d %H:%M:%S%z"),
        ("2026-01-02 03:04:05.12-05", "%Y-%m-%d %H:%M:%S.%f%z"),
    ],
)
def test_formats_that_are_tried(text: str, form: str) -> None:
    assert form in FORMATS
    assert fitting([text]) == [form]


def test_open_dates_do_not_keep_a_format_from_fitting() -> None:
    assert fitting(["12/31/9999", "01/02/2026", "0000-00-00"]) == ["%m/%d/%Y"]
    assert fitting(["0000-00-00"]) == []
    assert fitting(["20100102", "20261231"]) == ["%Y%m%d"]


def test_a_fraction_is_cut_and_not_rounded() -> None:
    dates = Dates(("%Y-%m-%d %H:%M:%S.%f",))
    assert dates.time_us("2026-01-02 00:00:00.1234569") == 123_456
