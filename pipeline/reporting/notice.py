"""The notice of how a command ended, for a webhook or a command: counts and words, no rows."""

from collections.abc import Mapping
from typing import Any

from pipeline.reporting.words import verdict


def notice_of(config: str, summary: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Return the notice. `summary` as in summary.json, or what is known of a command without one.

    `text` has all of it in one line: chat systems show a field of that name.
    """
    code, command = summary["exit_code"], summary["command"]
    how = verdict(summary)
    failure = summary.get("failure", "")
    text = f"canvas-ingest {command} {config}: {how} (exit {code})."
    if failure:
        text += f" {failure.splitlines()[0]}"
    if folder:
        text += f" Report: {folder}"
    return {
        "shape": 1,
        "text": text,
        "command": command,
        "config": config,
        "run_id": summary.get("run_id", ""),
        "exit_code": code,
        "verdict": how,
        "failure": failure,
        "started_at": summary.get("started_at", ""),
        "finished_at": summary.get("finished_at", ""),
        "version": summary["version"],
        "folder": folder,
        "feeds": [
            {
                "name": feed["name"],
                "rows_read": feed["rows_read"],
                "dispositions": feed["dispositions"],
            }
            for feed in summary.get("feeds", [])
        ],
    }
