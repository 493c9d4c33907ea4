"""The public API in a typed program, by the strict modes of two type checkers."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # they start programs

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "script.py"
WRONG = "\npipeline.run_sync('nightly.toml', plan=3)\n"


def mypy(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "script.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={
            "PATH": "",
            "PYTHONPATH": str(ROOT),
            "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache" / "user"),
        },
    )
    return done.returncode, done.stdout + done.stderr


def pyright(folder: Path) -> tuple[int, str]:
    program = Path(sys.executable).with_name("basedpyright")
    if not program.exists():
        pytest.skip("make checks installs it")
    settings = {
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "include": ["script.py"],
        "extraPaths": [str(ROOT)],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [program, "--pythonpath", sys.executable],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("check", [mypy, pyright])
def test_a_script_with_the_public_names_passes(
    check: Callable[[Path], tuple[int, str]], tmp_path: Path
) -> None:
    shutil.copy(SCRIPT, tmp_path / "script.py")
    code, said = check(tmp_path)
    assert code == 0, said
    with (tmp_path / "script.py").open("a") as file:
        file.write(WRONG)
    code, said = check(tmp_path)
    assert (code, "plan" in said) == (1, True), "what is wrong is found"
