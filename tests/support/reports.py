"""Plans and reports without a Canvas."""

import asyncio
import csv
from collections.abc import Sequence
from pathlib import Path

from pipeline.app.config.load import load
from pipeline.commands import run as engine
from tests.support.world import CREDENTIALS, FEEDS

CONFIG = '[canvas]\nbase_url = "http://127.0.0.1:1"\ntoken_url = "http://127.0.0.1:1/auth/token/"\n'


def planned(folder: Path, feeds: str = FEEDS) -> engine.Result:
    (folder / "config.toml").write_text(CONFIG + feeds)
    return asyncio.run(engine.plan(load(folder / "config.toml", environment=CREDENTIALS)))


def write(path: Path, header: list[str], rows: Sequence[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(header)
        writer.writerows(rows)
