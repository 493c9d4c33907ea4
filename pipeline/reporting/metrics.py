"""The last run as Prometheus text, for a node exporter's textfile collector.

All are gauges of the last `run` that ended, with or without success: a file that is rewritten each time
has no counters. The label `config` separates several configurations on one machine. No run id and no
file name is a label, because each would begin a new series every night.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pipeline.files import replacing

# metric -> (help, labels beside `config`). docs/operations.md shows it.
METRICS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "canvas_ingest_last_run_timestamp_seconds": ("When the last run ended, as Unix time.", ()),
    "canvas_ingest_last_run_duration_seconds": ("How long it took.", ()),
    "canvas_ingest_last_run_exit_code": (
        "0 reconciled, 1 failed, 2 configuration, 3 rows to fix, 4 in doubt, 5 journal held, 130 interrupted.",
        (),
    ),
    "canvas_ingest_last_run_balanced": (
        "1 if rows and cents add up in every feed, else 0.",
        (),
    ),
    "canvas_ingest_last_run_rows": (
        "Rows read, by disposition.",
        ("feed", "disposition"),
    ),
    "canvas_ingest_last_run_amount_dollars": (
        "US dollars read, by disposition of their rows.",
        ("feed", "disposition"),
    ),
    "canvas_ingest_writes_in_doubt": (
        "Writes in doubt in the whole journal: see canvas-ingest review.",
        (),
    ),
    "canvas_ingest_last_run_requests": (
        "Requests to Canvas, by status; none if there was no answer.",
        ("status",),
    ),
    "canvas_ingest_last_run_requests_per_second": ("Their mean rate.", ()),
}


def metrics_text(config: str, summary: Mapping[str, Any]) -> bytes:
    """Return the content of the file for a summary.

    For a run without a summary it has only `started_at`, `finished_at` and `exit_code`.
    """
    from prometheus_client import (  # noqa: PLC0415 - few want metrics, and all wait for imports
        CollectorRegistry,
        Gauge,
        generate_latest,
    )

    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}

    def put(name: str, value: float, **labels: str) -> None:
        text, names = METRICS[name]
        if name not in gauges:
            gauges[name] = Gauge(name, text, ("config", *names), registry=registry)
        gauges[name].labels(config=config, **labels).set(value)

    began, ended = (
        datetime.fromisoformat(summary[name]).timestamp() for name in ("started_at", "finished_at")
    )
    put("canvas_ingest_last_run_timestamp_seconds", ended)
    put("canvas_ingest_last_run_duration_seconds", round(max(ended - began, 0.0), 3))
    put("canvas_ingest_last_run_exit_code", summary["exit_code"])
    if "feeds" not in summary:
        return generate_latest(registry)
    put("canvas_ingest_last_run_balanced", int(summary["balanced"]))
    in_doubt = summary["in_doubt_elsewhere"]
    for feed in summary["feeds"]:
        for word, count in feed["dispositions"].items():
            put("canvas_ingest_last_run_rows", count, feed=feed["name"], disposition=word)
            if "amount_usd" in feed:
                put(
                    "canvas_ingest_last_run_amount_dollars",
                    float(feed["amount_usd"][word]),
                    feed=feed["name"],
                    disposition=word,
                )
        in_doubt += feed["dispositions"]["in_doubt"]
    put("canvas_ingest_writes_in_doubt", in_doubt)
    requests = summary["requests"]
    for status, count in requests["by_status"].items():
        put("canvas_ingest_last_run_requests", count, status=status)
    put("canvas_ingest_last_run_requests_per_second", requests["rate_per_s"] or 0.0)
    return generate_latest(registry)


def write_metrics(path: Path, config: str, summary: Mapping[str, Any]) -> None:
    """Write the whole file or nothing of it, readable for all, as the node exporter is another user.

    Raises OSError.
    """
    with replacing(path, mode=0o644) as part:
        part.write_bytes(metrics_text(config, summary))
