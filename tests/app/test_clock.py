"""Times of day as instants: on days that are an hour short or long, too."""

import os
import subprocess
import sys
from datetime import datetime, time
from zoneinfo import ZoneInfo

import pytest

from pipeline.clock import next_time

NEW_YORK, LORD_HOWE = ZoneInfo("America/New_York"), ZoneInfo("Australia/Lord_Howe")


@pytest.mark.parametrize(
    ("zone", "now", "at", "comes"),
    [
        # An ordinary day: EST is UTC-5.
        (NEW_YORK, "2026-01-10T05:00:20Z", "02:30", "2026-01-10T07:30:00Z"),
        (NEW_YORK, "2026-01-10T07:29:59Z", "02:30", "2026-01-10T07:30:00Z"),
        (NEW_YORK, "2026-01-10T07:30:00Z", "02:30", "2026-01-11T07:30:00Z"),
        (NEW_YORK, "2026-01-10T07:30:20Z", "02:30", "2026-01-11T07:30:00Z"),
        (NEW_YORK, "2026-01-10T23:00:00Z", "00:00", "2026-01-11T05:00:00Z"),
        # 2026-03-08: 02:00 becomes 03:00 EDT, at 07:00 UTC. 02:30 is skipped: the clock passes it then.
        (NEW_YORK, "2026-03-08T05:00:00Z", "02:30", "2026-03-08T07:00:00Z"),
        (NEW_YORK, "2026-03-08T05:00:00Z", "02:00", "2026-03-08T07:00:00Z"),
        (NEW_YORK, "2026-03-08T05:00:00Z", "03:00", "2026-03-08T07:00:00Z"),
        (NEW_YORK, "2026-03-08T05:00:00Z", "01:59", "2026-03-08T06:59:00Z"),
        (NEW_YORK, "2026-03-08T05:00:00Z", "03:30", "2026-03-08T07:30:00Z"),
        # 2026-11-01: 02:00 EDT becomes 01:00 EST, at 06:00 UTC. 01:30 is there twice: the next one counts.
        (NEW_YORK, "2026-11-01T04:00:00Z", "01:30", "2026-11-01T05:30:00Z"),
        (NEW_YORK, "2026-11-01T05:45:00Z", "01:30", "2026-11-01T06:30:00Z"),
        (NEW_YORK, "2026-11-01T06:15:00Z", "01:30", "2026-11-01T06:30:00Z"),
        (NEW_YORK, "2026-11-01T06:45:00Z", "01:30", "2026-11-02T06:30:00Z"),
        (NEW_YORK, "2026-11-01T04:00:00Z", "02:30", "2026-11-01T07:30:00Z"),
        # Half an hour is skipped, at 02:00 on 2026-10-04.
        (LORD_HOWE, "2026-10-03T14:00:00Z", "02:15", "2026-10-03T15:30:00Z"),
    ],
)
def test_a_time_of_day_is_the_next_instant_at_which_the_clock_reaches_it(
    zone: ZoneInfo, now: str, at: str, comes: str
) -> None:
    found = next_time(time.fromisoformat(at), datetime.fromisoformat(now), zone)
    assert found == datetime.fromisoformat(comes)


def test_without_a_zone_it_is_the_machines() -> None:
    code = (
        "from datetime import datetime, time; from pipeline.clock import next_time; "
        "print(next_time(time(2, 30), datetime.fromisoformat('2026-03-08T05:00:00Z')).isoformat())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TZ": "America/New_York"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "2026-03-08T07:00:00+00:00"
