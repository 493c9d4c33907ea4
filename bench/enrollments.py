"""Planning an X12 834 of 50,000 members beside a CSV file of the same rows: CPU, and the peak memory of its decoder."""

import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from typing import Final

from bench.rounds import Asked, Line, environment, used
from bench.validate import NOWHERE

_MEMBERS, _MEMBERS_QUICK = 50_000, 500
_ROUNDS: Final = 3
_MB_MAX: Final = 400.0
_FEED: Final = """
[[feeds]]
name = "eligibility"
kind = "eligibility"
path = "roster.834"
[feeds.columns]
patient = "reference_23"
member_id = "subscriber_number"
relationship = "relationship_code"
payer = "payer_id"
plan = "plan"
start_on = "start"
end_on = "end"
[feeds.constants]
order = "1"
[feeds.codes.relationship]
"18" = "self"
"""
_DECODE: Final = (
    "import sys; from pipeline.reading import x12; "
    "x12.answer(sys.argv[1], sys.argv[2], {'encoding': 'utf-8'})"
)
_TO_CSV: Final = (
    "import sys, polars as pl; from pipeline.rows.enrollment import COLUMNS; "
    "pl.read_parquet(sys.argv[1]).rename(lambda name: list(COLUMNS)[int(name)]).write_csv(sys.argv[2])"
)


def measure(asked: Asked) -> Iterator[Line]:
    """Yield the lines of the table."""
    members = _MEMBERS_QUICK if asked.quick else _MEMBERS
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "roster.834", members)
        (folder / "config.toml").write_text(NOWHERE + _FEED)
        copy, table = str(folder / "copy.parquet"), str(folder / "roster.csv")
        decoder = _used(folder, "-c", _DECODE, str(folder / "roster.834"), copy)
        _used(folder, "-c", _TO_CSV, copy, table)
        taken: dict[str, list[float]] = {"834": [], "csv": []}
        for _ in range(1 if asked.quick else _ROUNDS):
            for form, seconds in taken.items():
                path = f"eligibility={folder / f'roster.{form}'}"
                command = ("-m", "pipeline", "plan", "config.toml", "-q", "--input", path)
                seconds.append(_used(folder, *command)[0])
    what, size = "plan, X12 834, by CPU", f"{members:,} members"
    yield Line(
        what, size, taken["834"], "s", note=f"{taken['834'][0] / members * 1e6:,.0f} us a member"
    )
    ratios = [ours / theirs for ours, theirs in zip(taken["834"], taken["csv"], strict=True)]
    yield Line(what, "a CSV file of the same rows", ratios, "x", note=f"{min(taken['csv']):.2f} s")
    goal = None if asked.quick else _MB_MAX
    yield Line("decode, X12 834: peak memory", size, [decoder[1]], "MB", goal, at_most=True)


def _used(folder: Path, *arguments: str) -> tuple[float, float]:
    """Run Python in a process of its own. Returns its seconds of CPU, its children included, and its peak in MB."""
    usage = used([sys.executable, *arguments], folder, environment(), DEVNULL)
    assert usage.exit_code == 0
    return usage.cpu_s, usage.peak_mb


def write(path: Path, members: int) -> None:
    """Write a full file of subscribers with one coverage each."""
    version = "005010X220A1"
    with path.open("w") as file:
        file.write(
            "ISA*00*          *00*          *ZZ*BENCH          *ZZ*PRACTICE       *261128*0230*^*00501*000000001*0*P*:~\n"
            f"GS*BE*BENCH*PRACTICE*20261128*0230*1*X*{version}~\nST*834*0001*{version}~\n"
            "BGN*00*B1*20261128*0230****4~\nN1*P5*SPONSOR*FI*000000001~\nN1*IN*PLAN*FI*60054~\n"
        )
        for number in range(members):
            file.write(
                f"INS*Y*18*030*XN*A***FT~\nREF*0F*M{number:08}~\nREF*1L*G1~\nREF*23*{number:032x}~\n"
                f"NM1*IL*1*LAST{number}*FIRST{number}****34*{900_000_000 + number}~\nN3*1 SAMPLE STREET~\n"
                f"N4*SPRINGFIELD*IL*62701~\nDMG*D8*19800101*F~\nHD*030**HLT*PLAN {number % 7}*FAM~\n"
                "DTP*348*D8*20260101~\n"
            )
        file.write(f"SE*{members * 10 + 5}*0001~\nGE*1*1~\nIEA*1*000000001~\n")
