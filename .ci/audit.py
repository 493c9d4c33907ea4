"""Compare every locked version with the known advisories. `make audit` runs it.

    0    all versions were looked up, and no advisory is known
    1    advisories are known: each is printed with the versions that fix it
    3    not audited, in whole or in part: that is not a pass

pip-audit alone is not enough. It believes any address that answers "none" to everything, leaves out what only
another platform installs, and ends with 1 both for a finding and for no network. So all versions are looked up,
whatever their platform, and first one that has known advisories: a service that does not know those is not believed.
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
_KNOWN: Final = ("jinja2", "2.4.1")  # of 2010: it has had known advisories since 2014
_SERVICE: Final = "https://api.osv.dev/v1/query"
_TIMEOUT_S: Final = "15"
_CLEAN, _FOUND, _NOT_AUDITED = 0, 1, 3


def main() -> int:
    """Look up the versions, print the result, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service", default=_SERVICE, help="The address of an OSV service.")
    parser.add_argument("locks", nargs="*", default=_LOCKS)
    arguments = parser.parse_args()
    pins = sorted({pin for lock in arguments.locks for pin in _PIN.findall(Path(lock).read_text())})
    if not pins:
        return _not_audited(f"{', '.join(arguments.locks)} locks no version")
    known = _look_up([_KNOWN], arguments.service) or []
    if not any(each["vulns"] for each in known):
        return _not_audited(
            f"{arguments.service} cannot be reached, or does not know a well-known advisory"
        )
    answers = _look_up(pins, arguments.service)
    if answers is None:
        return _not_audited(f"{arguments.service} did not answer for all of {len(pins)} versions")
    unanswered = sorted({name for name, _ in pins} - {each["name"] for each in answers})
    if unanswered:
        return _not_audited(f"there was no answer for {', '.join(unanswered)}")
    found = [(each, advisory) for each in answers for advisory in each["vulns"]]
    for each, advisory in found:
        fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
        print(f"{each['name']} {each['version']}: {advisory['id']}; fixed in {fixed}")  # noqa: T201
    print(f"{len(pins)} locked versions audited, {len(found)} advisories.")  # noqa: T201
    return _FOUND if found else _CLEAN


def _not_audited(why: str) -> int:
    print(f"NOT AUDITED: {why}. That is not a pass: audit where the service can be reached.")  # noqa: T201
    return _NOT_AUDITED


def _look_up(pins: list[tuple[str, str]], service: str) -> list[dict[str, Any]] | None:
    """Return the answer for each version that has one; None if the service did not answer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "versions.txt")
        path.write_text("".join(f"{name}=={version}\n" for name, version in pins))
        options = ["--format", "json", "--progress-spinner", "off", "--timeout", _TIMEOUT_S]
        source = ["--requirement", str(path), "--disable-pip", "--no-deps", "--cache-dir", folder]
        where = ["--vulnerability-service", "osv", "--osv-url", service]
        done = subprocess.run(  # noqa: S603 - the command line is ours
            [sys.executable, "-m", "pip_audit", *options, *source, *where],
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
