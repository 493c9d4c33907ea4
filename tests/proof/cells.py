# ruff: noqa: DTZ001 - senders write local times without a zone
"""Rows as senders write them, at random: mostly good ones, with cells that are odd, or nearly right."""

from datetime import UTC, datetime, timedelta, timezone
from random import Random
from typing import Any, Final
from zoneinfo import ZoneInfo

from pipeline.rows.dates import FORMATS
from pipeline.rows.feed import TRAITS, Feed, Kind
from tests.proof.judge import BLANKS, DIGITS

# fmt: off
_SCATTERED: Final = [  # what ends up in cells
    "\u200b", "\u200d", "\ufeff", "\u202e", "\u2066", "\u200f", "\xa0", "\xad", "\x00", "\x1f", "\x85", "\u2028", "\ufffd",
    "\t", "\n", "\r", '"', "\\", "'", ",", ";", "=", "+", "-", "@", "/", "..", "%", "{", "}", "<", "&", "\u0430", "\u0131",
    "\uff11", "\u0661", "e\u0301", "\U0001f600", "\U000e0041", "\u0000", "  ", "$", "(", ")", "#", "\u017f", "\u212a",
]
# fmt: on
_OTHER_DIGITS: Final = ("\uff10", "\u0660", "\u06f0", "\u0966")  # the noughts of other scripts
_DAY_FORMATS: Final = (
    ("%Y-%m-%d",), ("%m/%d/%Y",), ("%Y-%m-%d", "%m/%d/%Y"), ("%m/%d/%Y", "%d/%m/%Y"), ("%Y%m%d",), ("%d.%m.%Y", "%m%d%Y"),
    ("%d-%b-%Y", "%b %d, %Y"), ("%Y-%m-%d", "%Y%m%d", "%m%d%Y"),
)  # fmt: skip
_TIME_FORMATS: Final = (
    ("%Y-%m-%dT%H:%M:%S",), ("%Y-%m-%d", "%m/%d/%Y %I:%M %p"), ("%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S"),
)  # fmt: skip
_ZONE_FORMATS: Final = (
    ("%Y-%m-%dT%H:%M:%SZ",), ("%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d"), ("%Y-%m-%d %H:%M:%S.%f%z", "%Y-%m-%d %H:%M:%S%z"),
    ("%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%SZ", "%m/%d/%Y"), ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"),
)  # fmt: skip
_ZONES: Final = (
    "America/New_York", "America/Los_Angeles", "America/Phoenix", "Asia/Kathmandu", "Pacific/Apia", "Pacific/Kiritimati",
    "Australia/Lord_Howe", "Europe/London", "UTC",
)  # fmt: skip
_NULLS: Final = (
    "NULL",
    "\\N",
    "N/A",
    "null",
    "0.00",
    "12.50",
    "1",
    "T1",
    "^A.*$",
    '="x"',
    "0000-00-00",
    "self",
)
_DAY_FIELDS: Final = ("posted_on", "start_on", "end_on")
PLACEHOLDERS: Final = (
    "NULL", "null", "Null", "(null)", "<NULL>", "\\N", "\\n", "nan", "NaN", "NaT", "None", "NONE", "<NA>", "N/A", "n/a", "#N/A",
    "#n/a", "#REF!", "#ref!", "#VALUE!", "#DIV/0!", "#NAME?", "#NUM!", "#NULL!", "########", "##", "9.01235E+11", "9E+11",
    "1.5e+08", "1.0E+123", "123456.0", "0.0", "'00123", "'0",
)  # fmt: skip
NEAR_PLACEHOLDERS: Final = (
    "NUL", "NULLS", "nul l", "(null", "\\", "N", "nano", "NA", "N.A.", "#NA", "#REF", "#DIV/0", "#", "# #", "9.01235E11", "9.E+11",
    "90.1E+11", "9.01E+1", "9.01E+1234", "E+11", "123456.00", "123.0.0", ".0", "'A123", "''1", "'", "\uff11\uff12.0", "n\u0430n", "123456.",
)  # fmt: skip


def feed_of(random: Random, kind: Kind) -> Feed:
    """Return a feed with some of the options by which cells are read."""
    fields = TRAITS[kind].fields
    days = [name for name in _DAY_FIELDS if name in fields]

    def sometimes(*values: Any) -> Any:
        return random.choice([values[0], values[0], *values])

    zone = sometimes("", *_ZONES)
    formats = _DAY_FORMATS + _TIME_FORMATS * 2 + (_ZONE_FORMATS * 3 if zone else ())
    dates: tuple[str, ...] = random.choice(formats)
    dates_of: dict[str, Any] = {}
    if random.random() < 0.2:
        dates, dates_of = ("%Y-%m-%d",), {random.choice(days): random.choice(formats)}
    names = sometimes("{}", "{}", "^{}.*$", " {} ", "The {}")
    constants = {"currency": "USD"} if "currency" in fields and random.random() < 0.1 else {}
    codes = sometimes(
        {}, {"order": {"1st": "1", "5": "2"}, "relationship": {"18": "self", "self": "child"}}
    )
    only: Any = sometimes({}, {"entry_type": ("PAYMENT", "COPAY")} if kind is Kind.LEDGER else {"relationship": ("self", "spouse")})  # fmt: skip
    keys = {
        Kind.LEDGER: (("transaction_id",), ("patient", "posted_on", "amount", "claim")),
        Kind.ELIGIBILITY: (TRAITS[Kind.ELIGIBILITY].key,),
    }
    return Feed(
        "feed",
        kind,
        "",
        {name: names.format(name) for name in fields if name not in constants},
        constants=constants,
        codes=codes if kind is Kind.ELIGIBILITY else {},
        only=only,
        key=random.choice(keys[kind]),
        dates=dates,
        dates_of=dates_of,
        amount_sign=sometimes("positive", "negative"),
        decimal_comma=sometimes(False, True),
        amount_unit=sometimes("dollars", "cents"),
        timezone=zone,
        open_dates=sometimes(
            (), ("1900-01-01", "2099-12-31"), ("12/31/2099", "never", "2100-01-01")
        ),
        null_values=tuple(random.sample(_NULLS, random.choice([0, 0, 1, 3]))),
    )


def row_of(random: Random, feed: Feed) -> dict[str, str | None]:
    """Return a good row, with a few odd cells most of the time."""
    if random.random() < 0.01:  # the header again, or nearly
        row: dict[str, str | None] = dict(feed.columns)
        if random.random() < 0.5:
            row[random.choice(list(row))] = random.choice([None, "x"])
        return row
    made = (_ledger_row if feed.kind is Kind.LEDGER else _eligibility_row)(random, feed)
    row = {name: made[name] for name in feed.columns}
    for _ in range(random.choice([0, 0, 1, 1, 1, 2, 3])):
        name = random.choice(list(row))
        row[name] = _odd(random, name, row[name], feed)
    return row


def _ledger_row(random: Random, feed: Feed) -> dict[str, str | None]:
    cents = random.choice([random.randrange(1, 20_000), random.randrange(1, 30)])
    return {
        "transaction_id": f"T{random.randrange(10**6)}",
        "patient": f"{random.randrange(50):032x}",
        "amount": spelt_amount(random, cents, feed),
        "posted_on": random.choice([None, *[_good_day(random, feed, "posted_on")] * 4]),
        "claim": random.choice([None, f"{random.randrange(50):032x}"]),
        "entry_type": random.choice([None, "PAYMENT", "COPAY"]),
        "currency": random.choice([None, "USD"]),
    }


def _eligibility_row(random: Random, feed: Feed) -> dict[str, str | None]:
    patient = f"{random.randrange(50):032x}"
    is_own = random.choice([True, False])
    words = {value: key for key, value in feed.codes.get("relationship", {}).items()}
    own, spouse = words.get("self", "self"), random.choice(["spouse", "Other", words.get("child", "CHILD")])  # fmt: skip
    forms = feed.dates_of.get("end_on", feed.dates)
    return {
        "patient": patient,
        "relationship": own if is_own else spouse,
        "subscriber": random.choice([None, patient]) if is_own else f"{random.randrange(50):032x}",
        "member_id": f"W{random.randrange(10**6):06}",
        "subscriber_id": random.choice([None, "S1"]),
        "payer": random.choice(["60054", "00710"]),
        "payer_name": random.choice([None, "Zoë", 'The "Gold" one']),
        "type": random.choice([None, "PPO", "pay", "hmo"]),
        "plan": random.choice([None, "Choice Plus"]),
        "subplan": None,
        "group": random.choice([None, "G00017"]),
        "subgroup": None,
        "order": random.choice(["1", "2", "4", "Secondary"]),
        "start_on": _good_day(random, feed, "start_on"),
        "end_on": random.choice([None, written_at(random, datetime(2180, 1, 31, 12), forms[0])]),
        "status": random.choice([None, "active", "Cancelled"]),
    }


def _odd(random: Random, name: str, text: str | None, feed: Feed) -> str | None:
    text = text or "x"
    nought = ord(random.choice(_OTHER_DIGITS))
    day = spelt_day(random, feed, name)
    spelt: dict[str, tuple[str]] = {"amount": (odd_amount(random),)}
    spelt |= dict.fromkeys(_DAY_FIELDS, (day,))
    words = ["..", ".p", "USD", "self", "self ", "5", "6", "1st", "HMO", odd_amount(random), day]
    words += [random.choice(PLACEHOLDERS)] * 6 + [random.choice(NEAR_PLACEHOLDERS)] * 4
    inner = random.choice([text, f" {text} ", text + '"', "NULL", "", "00123"])
    return random.choice(
        [
            None,
            random.choice(BLANKS) * 2 + text + random.choice(BLANKS),
            _scattered(random, text),
            text[: random.randrange(len(text))],
            "".join(chr(nought + int(each)) if each in DIGITS else each for each in text),
            random.choice("ab1") * random.choice([64, 65, 100, 101, 255, 256]),
            random.choice([f'="{inner}"', f'="{text}"', f' ="{text}" ', f'="{inner}', f'x="{inner}"', f'=""{text}"']),
            random.choice([*feed.null_values, *feed.open_dates, *PLACEHOLDERS]),
            *[random.choice(spelt.get(name, words))] * 3,
        ]
    )  # fmt: skip


def _scattered(random: Random, text: str) -> str:
    letters = list(text)
    for _ in range(random.choice([1, 1, 2, 4])):
        odd = random.choice(_SCATTERED) if random.random() < 0.8 else _any_letter(random)
        letters.insert(random.randrange(len(letters) + 1), odd)
    return "".join(letters)


def _any_letter(random: Random) -> str:
    code = random.choice(
        [random.randrange(0x500), random.randrange(0x10000), random.randrange(0x110000)]
    )
    return "x" if 0xD800 <= code < 0xE000 else chr(code)


# Amounts ------------------------------------------------------------------------------------------


def spelt_amount(random: Random, cents: int, feed: Feed) -> str:
    """Return an amount in one of the spellings that the feed reads."""
    point, group = (",", ".") if feed.decimal_comma else (".", ",")
    if feed.amount_unit == "cents":
        number = random.choice([str(cents), f"{cents:,}".replace(",", group)])
    else:
        whole = random.choice([str(cents // 100), f"{cents // 100:,}".replace(",", group)])
        whole = random.choice([whole, "$" + whole])
        if cents < 100:
            whole = random.choice([whole, whole.replace("0", "")])
        part = f"{cents % 100:02}"
        parts = [part, part, part + random.choice(["0", "00", "0000000000"])]
        parts += [part[:1]] * (part[1] == "0") + [""] * (part == "00" and whole not in {"", "$"})
        part = random.choice(parts)
        number = whole + (point + part if part else "")
    if feed.amount_sign == "negative":
        return random.choice([f"-{number}", f"({number})", f"{number}-"])
    return random.choice([number, number, f"+{number}"])


def odd_amount(random: Random) -> str:
    """Return an amount as people, locales and programs write it."""
    cents = random.choice(
        [0, 1, 5, 99_999_999, 100_000_000, random.randrange(10**9), random.randrange(20_000), 10**14 - 1, 10**14]
    )  # fmt: skip
    whole, part = f"{cents // 100:,}", f"{cents % 100:02}"
    plain = f"{cents // 100}.{part}"
    marks = [".,", ",.", ", ", ",'", ".'", ",\xa0", ",\u202f", ".\u066c", "\u066b\u066c", ". "]
    point, group = tuple(random.choice(marks))
    return random.choice(
        [
            plain, f"-{plain}", f"{plain}-", f"({plain})", f"${plain}", f"{plain} USD", f"-${plain}", f"$-{plain}", f"(${plain})",
            f"${plain}-", f"$({plain})", f"--{plain}", f"-({plain})", f"({plain}", f"{plain})", f"(-{plain})", f"({plain})-", f"-{plain}-",
            f"+-{plain}", f"+{plain}-", f"$ {plain}", f"$${plain}", f"{plain}$", f"- {plain}", f"( {plain} )", f"+${plain}", f"\uff04{plain}",
            f"USD {plain}", f"\u20ac{plain}", f"+{plain}", f"\u2212{plain}", f"{cents / 100}", f"\uff08{plain}\uff09",
            f"{cents / 100:e}", str(cents), f"{cents // 100}.", f".{part}", f"{plain}0", f"{plain}000000", f"{plain}001", f"0{plain}",
            f"{cents // 100}.{cents % 100}", f"-.{part}", f"(.{part})", f"$.{part}", f",{part}", ".", "-", "$", "()", "(", "+", "-$", "$.", ",", "(.)",
            whole.replace(",", group) + point + part, f"-{whole.replace(',', group)}{point}{part}", f"{cents // 100}{point}{part}",
            f"{whole}.{part}", f"{whole[:-1]}.{part}", f"{whole},.{part}", f",{whole}", f"0,{cents % 1000:03}.{part}", f"{whole}.", f"{whole},5",
            "1,23.4", "1,,234.50", "1,2345.00", "1234,567.00", "12,345,67", "0,012.00", "000,123.00", "1,234,567,890,123.00", "1.234.50",
            "NaN", "Infinity", "1_000", "0x10", "1e3", "12 34", "1.2.3", "--5", "5..0", "1/2", "5%", f"{plain} CR", f"{plain}DB", "12\xa0345.00",
        ]
    )  # fmt: skip


# Days ---------------------------------------------------------------------------------------------


def written_at(random: Random, at: datetime, form: str) -> str:
    """Return a moment in a format, with another zone and another length of its fraction now and then."""
    text = at.strftime(
        form.replace("%z", "\x00").replace("%f", "\x01").replace("%Y", f"{at.year:04}")
    )
    fraction = f"{at.microsecond:06}"
    text = text.replace(
        "\x01", random.choice([fraction, fraction, fraction[:3], "0", fraction + "789"])
    )
    if "\x00" in text:
        minutes = random.choice([0, 0, -300, -240, 345, 840, -720])
        moved = at + timedelta(minutes=minutes)
        return written_at(random, moved, form.replace("%z", _offset(random, minutes)))
    return text


def _offset(random: Random, minutes: int) -> str:
    sign = "+" if minutes >= 0 else "-"
    hours, rest = divmod(abs(minutes), 60)
    spelt = [f"{sign}{hours:02}:{rest:02}", f"{sign}{hours:02}{rest:02}"]
    spelt += [f"{sign}{hours:02}"] * (rest == 0) + ["Z"] * (minutes == 0)
    return random.choice(spelt)


def _good_day(random: Random, feed: Feed, name: str) -> str:
    forms = feed.dates_of.get(name, feed.dates)
    return written_at(random, _moment(random, feed), random.choice(forms))


def _moment(random: Random, feed: Feed) -> datetime:
    """Return a moment, often near midnight or a change of the clocks in the feed's time zone."""
    year = random.randrange(1950, 2035)
    day = datetime(year, random.randrange(1, 13), random.randrange(1, 29))
    if random.random() < 0.3:
        return day
    if random.random() < 0.3:
        day = random.choice([datetime(2026, 3, 8, 7), datetime(2026, 11, 1, 6), datetime(2011, 12, 30, 10), datetime(2026, 4, 4, 15)])  # fmt: skip
        return day + timedelta(minutes=random.randrange(-90, 90))
    if feed.timezone and random.random() < 0.6:
        midnight = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(feed.timezone))
        at = midnight.astimezone(UTC) + timedelta(seconds=random.choice([-1, 0, 1, 0]))
        return at.replace(tzinfo=None)
    return day + timedelta(microseconds=random.randrange(86_400 * 10**6))


def spelt_day(random: Random, feed: Feed, name: str) -> str:
    """Return a day as people, locales and programs write it, or nearly one."""
    at = _moment(random, feed)
    year, month, dom = at.year, at.month, at.day
    forms = feed.dates_of.get(name, feed.dates)
    form = random.choice(forms)
    good = written_at(random, at, form)
    far = at.replace(year=random.choice([1879, 1880, 2199, 2200, 9999, 1, 1582, 1753]), day=28)
    edge = random.choice([datetime(2199, 12, 31, 23, 59, 59), datetime(2200, 1, 1), datetime(1880, 1, 1), datetime(1879, 12, 31, 23, 59, 59),
                          datetime(9999, 12, 31, 23, 59, 59), datetime(9999, 12, 31), datetime(1, 1, 1), datetime(1, 1, 1, 23), datetime(1900, 1, 1),
                          datetime(2099, 12, 31)])  # fmt: skip
    return random.choice(
        [
            good, _shifted(random, at, form), at.strftime(random.choice(FORMATS)), f"{year}-{month}-{dom}", f"{month}/{dom}/{year}",
            *[far.strftime(form.replace("%Y", f"{far.year:04}").replace("%z", "+00:00"))] * 2,
            *[edge.strftime(form.replace("%Y", f"{edge.year:04}").replace("%z", random.choice(["Z", "+00", "-14:00", "+1400"])))] * 3,
            f"{dom}.{month}.{year}", f"{year}{month}{dom}", f"{month}{dom}{year}", f"{year}-{month:02}-31", f"{year}-00-{dom:02}", f"{year}-13-01",
            "0000-00-00", "9999-12-31", "1900-02-29", "2000-02-29", f"{year}-02-29", "00000000", f"{year}-{month:02}-{dom:02}T24:00:00",
            "0000-00-00 00:00:00", "0000-00-00T00:00:00Z", "0000-00-00 00:00:01", "0000-00-01", "00/00/0000", "0000-00-00 00:00:00.000",
            f"{year:05}-{month:02}-{dom:02}", f"{year % 100:02}-{month:02}-{dom:02}", f"{year}-{month:02}- {dom % 10}", f" {year}-{month:02}-{dom:02} ",
            f"{year}\u2010{month:02}\u2010{dom:02}", f"{year}-{month:02}-{dom:02}Z", "45000", "today", f"{year}\u5e74{month}\u6708{dom}\u65e5",
            f"-{year}-{month:02}-{dom:02}", f"{year}-{month:02}-{dom:02} 10:11:12", f"{year}--{month:02}-{dom:02}", f"{year}-{month:02}-{dom:03}",
            good.replace("T", "t"), good.replace("Z", "z"), good + "0", good[:-1], good.replace(":", ""), good.replace("+", "\u2212"), good + "+25:00",
            good.replace(" ", "  "), good.replace("-", "/"), good.replace("0", "\uff10"), good.replace(" ", "\xa0"), good + "+0", good.lower(),
        ]
    )  # fmt: skip


def _shifted(random: Random, at: datetime, form: str) -> str:
    """Return a moment with an offset of any whole number of minutes."""
    minutes = random.randrange(-1439, 1440)
    zone = timezone(timedelta(minutes=minutes))
    moved = at.replace(tzinfo=UTC).astimezone(zone)
    return moved.strftime(form)
