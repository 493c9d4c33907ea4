"""Real things made small: a local Canvas on loopback, and a configuration that points at it."""

import csv
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.app.config.load import load
from pipeline.commands import run as engine
from pipeline.job import Job
from pipeline.sandbox import Sandbox

CREDENTIALS = {"CANVAS_CLIENT_ID": "sandbox", "CANVAS_CLIENT_SECRET": "sandbox"}
PAYER = {"id": "6741b035-2846-45b3-b7a3-251f7b7fc728", "name": "Plan", "payer_id": "60054"}
OTHER_PAYER = {
    "id": "8a3fd6a5-5b0d-4e7e-9f77-ec4c6e7b9d01",
    "name": "Other Plan",
    "payer_id": "87726",
}


def patient_key(number: int) -> str:
    return f"{number:032x}"


def seed(patients: int, balance: str = "1000000.00") -> dict[str, Any]:
    return {
        "patients": [
            {"id": patient_key(n), "identifiers": [], "balance": balance} for n in range(patients)
        ],
        "organizations": [PAYER, OTHER_PAYER],
        "claims": [
            {"id": f"f0dfefbe-3fe0-4ee7-bd44-{n:012x}", "patient": patient_key(n)}
            for n in range(patients)
        ],
    }


class World:
    """A local Canvas, a folder with files, and a configuration that loads the ones into the other."""

    def __init__(self, folder: Path, sandbox: Sandbox, url: str) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.url = url
        self.settings: dict[str, Any] = {"rate_per_s": 2000.0, "concurrency": 8, "quiet_s": 0.2}

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    def write_config(
        self, *, limits: str = "", canvas: str = "", feeds: str = "", **settings: Any
    ) -> Path:
        upload = "\n".join(
            f"{name} = {value!r}" for name, value in {**self.settings, **settings}.items()
        )
        self.config.write_text(
            f'[canvas]\nbase_url = "{self.url}"\ntoken_url = "{self.url}/auth/token/"\ntimeout_s = 2.0\n{canvas}\n'
            f"[upload]\n{upload}\n[limits]\n{limits}\n{feeds or FEEDS}"
        )
        return self.config

    def write_ledger(
        self, rows: Sequence[tuple[str, str, str, str]], name: str = "ledger.csv"
    ) -> Path:
        """Write rows of (transaction, patient, amount, claim)."""
        return self._write(name, ["TXN", "MRN", "Amount", "Claim"], rows)

    def write_eligibility(self, rows: Sequence[tuple[str, ...]]) -> Path:
        """Write rows of (patient, member id, relationship, payer, order, start, end)."""
        return self._write(
            "eligibility.csv", ["MRN", "Member", "Rel", "Payer", "Order", "Start", "End"], rows
        )

    def _write(self, name: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
        path = self.folder / name
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)
        return path

    def job(self, **options: Any) -> Job:
        return load(self.config, environment=CREDENTIALS, **options)

    async def run(self, **options: Any) -> engine.Result:
        return await engine.run(self.job(**options))

    @property
    def effects(self) -> list[dict[str, Any]]:
        """Return the effects in the local Canvas, by its own records."""
        effects: list[dict[str, Any]] = self.sandbox.account()["effects"]
        return effects


FEEDS = """
[[feeds]]
name = "eligibility"
kind = "eligibility"
path = "eligibility.csv"
[feeds.columns]
patient = "MRN"
member_id = "Member"
relationship = "Rel"
payer = "Payer"
order = "Order"
start_on = "Start"
end_on = "End"
[[feeds]]
name = "ledger"
kind = "ledger"
path = "ledger.csv"
[feeds.columns]
transaction_id = "TXN"
patient = "MRN"
amount = "Amount"
claim = "Claim"
"""
LEDGER_ONLY = FEEDS[FEEDS.rindex("[[feeds]]") :]


MakeWorld = Callable[..., Awaitable[World]]
