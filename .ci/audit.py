"""Holds every version that is locked against the known advisories. `make audit` runs it.

    0    all were asked about, and nothing is known of any
    1    something is known: each with what mends it
    3    not audited, in whole or in part: that is no pass

pip-audit alone does not do: it takes an address that answers everything with nothing for good news,
leaves out what another platform would install, and ends with 1 for a finding as for no network. So the
versions are asked about whatever platform they are for, and with them one that advisories are known
of: where the service does not know of those, it is not believed.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

_LOCKS: Final = ("requirements.lock", "requirements-checks.lock")
_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_KNOWN: Final = ("jinja2", "2.4.1")  # of 2010: advisories are known of it since 2014
_SERVICE: Final = "https://api.osv.dev/v1/query"
_TIMEOUT_S: Final = "15"
_CLEAN, _FOUND, _NOT_AUDITED = 0, 1, 3


def main() -> int:
    """Ask, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service", default=_SERVICE, help="The address of an OSV service.")
    parser.add_argument("locks", nargs="*", default=_LOCKS)
    asked = parser.parse_args()
    pins = sorted({pin for lock in asked.locks for pin in _PIN.findall(Path(lock).read_text())})
    if not pins:
        return _not_audited(f"no version stands in {', '.join(asked.locks)}")
    if not any(each["vulns"] for each in _told([_KNOWN], asked.service) or []):
        return _not_audited(f"{asked.service} cannot be reached, or does not know what it should")
    told = _told(pins, asked.service)
    if told is None:
        return _not_audited(f"{asked.service} did not answer for all of {len(pins)} versions")
    silent = sorted({name for name, _ in pins} - {each["name"] for each in told})
    if silent:
        return _not_audited(f"nothing was told of {', '.join(silent)}")
    found = [(each, known) for each in told for known in each["vulns"]]
    for each, known in found:
        mended = ", ".join(known["fix_versions"]) or "no version yet"
        print(f"{each['name']} {each['version']}: {known['id']}; mended in {mended}")  # noqa: T201
    print(f"{len(pins)} locked versions audited, {len(found)} advisories.")  # noqa: T201
    return _FOUND if found else _CLEAN


def _not_audited(why: str) -> int:
    print(f"NOT AUDITED: {why}. That is no pass: audit where the service can be reached.")  # noqa: T201
    return _NOT_AUDITED


def _told(pins: list[tuple[str, str]], service: str) -> list[dict[str, Any]] | None:
    """What is told of each version that was asked about; None where there was no answer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "versions.txt")
        path.write_text("".join(f"{name}=={version}\n" for name, version in pins))
        options = ["--format", "json", "--progress-spinner", "off", "--timeout", _TIMEOUT_S]
        source = ["--requirement", str(path), "--disable-pip", "--no-deps", "--cache-dir", folder]
        asked = ["--vulnerability-service", "osv", "--osv-url", service]
        done = subprocess.run(  # noqa: S603 - the command line is ours
            [sys.executable, "-m", "pip_audit", *options, *source, *asked],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        lines: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return None
    return [line for line in lines if "vulns" in line]


if __name__ == "__main__":
    sys.exit(main())
