"""What the program is made of: installed by hash, audited, listed, and built to the same bytes."""

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

pytestmark = pytest.mark.slow  # installs and builds

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-checks.lock")
OF_EXAMPLES = (
    "examples/locks/airflow.lock",
    "examples/locks/dagster.lock",
    "examples/locks/openlineage.lock",
    "examples/locks/prefect.lock",
)
PIN = re.compile(r"^([a-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def test_every_line_that_installs_wants_hashes_or_installs_only_the_project() -> None:
    pages = [ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / "README.md"]
    pages += [*(ROOT / "docs").glob("*"), *(ROOT / "examples").iterdir()]
    lines = [
        line
        for page in pages
        if page.is_file()
        for line in page.read_text().replace("\\\n", " ").splitlines()
        if re.search(
            r"\bpip (download|(--python \S+ )?install)\b|\buvx?\b.* (run|tool|add|sync)\b|\bpipx\b",
            line,
        )
    ]
    installs = [
        each
        for line in lines
        for each in re.findall(r"pip (?:--python \S+ )?install\b[^&;|]*", line)
    ]
    assert len(installs) >= 6
    for each in installs:
        # The image installs from a folder that was filled by hash.
        fit = (
            "--require-hashes -r requirements",
            "--require-hashes -r examples/locks",
            "--no-deps",
            "--no-index --find-links=/wheels",
        )
        assert any(how in each for how in fit), each
    for line in lines:
        if "pip download" in line:
            assert "--require-hashes -r requirements.lock" in line
        assert not re.search(r"\buvx\b|\buv (run|tool|add|sync)\b|\bpipx\b", line), line


def test_every_pin_of_the_locks_has_its_hashes() -> None:
    for name in (*LOCKS, *OF_EXAMPLES):
        lock = (ROOT / name).read_text()
        blocks = re.split(r"^(?=[a-z])", lock, flags=re.MULTILINE)[1:]
        assert all(PIN.match(block) and "\n    --hash=sha256:" in block for block in blocks), name
        assert not re.search(r"://|^-|@ ", lock, re.MULTILINE), f"{name} names no address"


def test_the_workflow_runs_what_ci_runs_with_few_rights_and_pinned_actions() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    uses = re.findall(r"uses: (\S+)", workflow)
    assert uses
    assert [each for each in uses if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", each)] == []
    assert re.findall(r"- run: (.*)", workflow) == [".ci/run"]
    assert "permissions:\n  contents: read\n" in workflow
    assert "write" not in workflow


# The audit ----------------------------------------------------------------------------------------

OLD = "jinja2"  # of which the service has to know


def advisory(name: str) -> dict[str, object]:
    """As the OSV service tells it."""
    events = [{"introduced": "0"}, {"fixed": "9.9.9"}]
    return {
        "schema_version": "1.6.0",
        "id": "PYSEC-2026-1",
        "modified": "2026-11-01T00:00:00Z",
        "published": "2026-11-01T00:00:00Z",
        "summary": "made up for this test",
        "affected": [
            {
                "package": {"name": name, "ecosystem": "PyPI"},
                "ranges": [{"type": "ECOSYSTEM", "events": events}],
            }
        ],
    }


@asynccontextmanager
async def advisories(known: set[str], fails: set[str]) -> AsyncIterator[str]:
    """A service that knows of these packages, and fails when it is asked of those."""

    async def answer(request: web.Request) -> web.Response:
        name = json.loads(await request.read())["package"]["name"]
        if name in fails:
            return web.Response(status=503)
        return web.json_response({"vulns": [advisory(name)]} if name in known else {})

    app = web.Application()
    app.router.add_post("/v1/query", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1/query"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("known", "fails", "code", "said"),
    [
        ({OLD}, set(), 0, "3 locked versions audited, 0 advisories"),
        ({OLD, "orjson"}, set(), 1, "orjson 3.13.0: PYSEC-2026-1; fixed in 9.9.9"),
        (set(), set(), 3, "NOT AUDITED"),  # answers, and knows nothing
        ({OLD}, {OLD}, 3, "NOT AUDITED"),
        ({OLD}, {"click"}, 3, "NOT AUDITED"),  # fails for one of them
    ],
)
async def test_only_an_audit_of_all_is_a_pass(
    tmp_path: Path, known: set[str], fails: set[str], code: int, said: str
) -> None:
    lock = tmp_path / "some.lock"
    lock.write_text(
        "click==8.5.0 \\\n    --hash=sha256:00\norjson==3.13.0 \\\n    --hash=sha256:00\n"
        "colorama==0.4.6 ; sys_platform == 'win32' \\\n    --hash=sha256:00\n"
    )
    async with advisories(known, fails) as service:
        ended, shown = await audited(service, lock)
    assert (ended, said in shown) == (code, True), shown


async def test_a_service_that_cannot_be_reached_is_no_pass() -> None:
    ended, shown = await audited("http://127.0.0.1:9/v1/query", *(ROOT / name for name in LOCKS))
    assert (ended, "NOT AUDITED" in shown) == (3, True), shown


async def audited(service: str, *locks: Path) -> tuple[int, str]:
    pytest.importorskip("pip_audit", reason="make checks")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / ".ci" / "audit.py"), "--service", service, *map(str, locks),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    shown, _ = await process.communicate()
    return process.returncode or 0, shown.decode()


# What it is made of, and what is built ------------------------------------------------------------


def test_the_bill_of_materials_lists_what_is_locked(tmp_path: Path) -> None:
    pytest.importorskip("cyclonedx_py", reason="make checks")
    (line,) = re.findall(r"cyclonedx-py (requirements .*) -o", (ROOT / "Makefile").read_text())
    made = []
    for name in ("first", "second"):
        path = tmp_path / name
        command = [sys.executable, "-m", "cyclonedx_py", *line.split(), "-o", str(path)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        made.append(path.read_bytes())
    assert made[0] == made[1]
    bill = json.loads(made[0])
    assert bill["bomFormat"] == "CycloneDX"
    listed = {(each["name"], each["version"]) for each in bill["components"]}
    assert listed == set(PIN.findall((ROOT / "requirements.lock").read_text()))
    assert all(each["purl"].startswith("pkg:pypi/") for each in bill["components"])


def test_a_wheel_that_is_built_elsewhere_at_another_time_is_the_same_to_the_byte(
    tmp_path: Path,
) -> None:
    named = ("pipeline", "configs", "sample_data", "README.md", "LICENSE", "pyproject.toml")
    digests = []
    for number, (umask, zone) in enumerate(((0o022, "UTC"), (0o077, "Asia/Tokyo"))):
        folder = tmp_path / ("a" * (number + 1)) / "source"
        for name in named:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            folder.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, folder / name)
        for path in folder.rglob("*"):
            os.utime(path, (1e9 + number * 1e7,) * 2)
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1790000000", "TZ": zone}
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "../out"]
        subprocess.run(
            command, cwd=folder, env=environment, umask=umask, check=True, capture_output=True
        )
        (wheel,) = (folder.parent / "out").glob("*.whl")
        digests.append(hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
