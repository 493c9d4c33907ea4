"""Who holds the journal, for the message of a process that finds it held."""

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from pipeline.errors import JournalBusy
from pipeline.journal import opening, runs
from pipeline.journal.holder import HOLDER, Holder, busy, read_holder, write_holder
from pipeline.journal.runs import Run

URL = "https://fumage-example.canvasmedical.com"


def test_the_run_that_holds_the_journal_is_named_until_it_lets_go(tmp_path: Path) -> None:
    with opening.open_journal(tmp_path, URL) as journal:
        runs.start_run(journal, Run("20261128T152233Z-d578", "run", datetime.now(UTC).isoformat()))
        with pytest.raises(JournalBusy) as caught:
            opening.open_journal(tmp_path, URL)
        at = f"{datetime.now().astimezone():%H:%M}"
        who = f"PID {os.getpid()} on {socket.gethostname()}, since {at}"
        assert (
            caught.value.message
            == f"Another run is using this journal: 20261128T152233Z-d578, {who}"
        )
        assert (tmp_path / HOLDER).stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / HOLDER).exists()
    opening.open_journal(tmp_path, URL).close()


def test_a_process_that_died_is_not_named(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, check=True
    )
    gone = Holder("r", socket.gethostname(), int(child.stdout), "2026-11-28T02:30:00Z")
    (tmp_path / HOLDER).write_bytes(
        orjson.dumps(
            {"run_id": gone.run_id, "host": gone.host, "pid": gone.pid, "since": gone.since}
        )
    )
    assert read_holder(tmp_path) is None
    assert busy(None).message == "Another run is using this journal"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"pid": 1}', b'{"run_id": 1, "host": 2, "pid": "x", "since": 4}'],
)
def test_a_file_that_names_no_process_is_not_believed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / HOLDER).write_bytes(content)
    assert read_holder(tmp_path) is None


def test_the_day_is_named_if_it_is_not_today() -> None:
    at = datetime.now(UTC) - timedelta(days=2)
    shown = f"{at.astimezone():%Y-%m-%d %H:%M}"
    assert busy(Holder("", "db1", 4711, at.isoformat())).message.endswith(
        f": PID 4711 on db1, since {shown}"
    )


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (tmp_path / f".{HOLDER}.part").symlink_to(victim)
    (tmp_path / HOLDER).symlink_to(victim)
    write_holder(tmp_path, "", "2026-11-28T02:30:00Z")
    assert victim.read_text() == "kept"
