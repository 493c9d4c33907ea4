"""An OpenLineage event from summary.json: which files, by hash, became which resources of which Canvas.

    python openlineage_event.py reports/latest/summary.json |
        curl --fail --json @- https://lineage.example.org/api/v1/lineage

It needs nothing but Python. No value of a row is in it: names of files, hashes, and numbers of rows.
"""

import json
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

PRODUCER = "https://github.com/example/canvas-ingest"  # yours: who makes these events
SPEC = "https://openlineage.io/spec"
EVENT = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
LOADED = (0, 3)  # exit codes of a run that is done
WRITTEN = ("created", "updated")


def event_of(summary: dict[str, Any], job: str) -> dict[str, Any]:
    """Return the event that ends a run of a job."""
    facets = {}
    if summary["failure"]:
        facets["errorMessage"] = facet(
            "1-0-1/ErrorMessageRunFacet", message=summary["failure"], programmingLanguage="Python"
        )
    written: Counter[str] = Counter()
    for feed in summary["feeds"]:
        written[feed["resource_type"]] += sum(feed["dispositions"][word] for word in WRITTEN)
    return {
        "eventType": "COMPLETE" if summary["exit_code"] in LOADED else "FAIL",
        "eventTime": summary["finished_at"],
        "producer": PRODUCER,
        "schemaURL": EVENT,
        "run": {"runId": str(uuid.uuid5(uuid.NAMESPACE_URL, summary["run_id"])), "facets": facets},
        "job": {"namespace": "canvas-ingest", "name": job},
        "inputs": [input_of(file) for feed in summary["feeds"] for file in feed["files"]],
        "outputs": [
            {
                "namespace": summary["journal"]["base_url"],
                "name": resource_type,
                "outputFacets": {
                    "outputStatistics": facet(
                        "1-0-2/OutputStatisticsOutputDatasetFacet", rowCount=rows
                    )
                },
            }
            for resource_type, rows in written.items()
        ],
    }


def input_of(file: dict[str, Any]) -> dict[str, Any]:
    """Return a file as a dataset, whose version is its hash."""
    return {
        "namespace": "file",
        "name": file["path"],
        "facets": {
            "version": facet(
                "1-0-1/DatasetVersionDatasetFacet", datasetVersion=f"sha256:{file['sha256']}"
            )
        },
        "inputFacets": {
            "inputStatistics": facet(
                "1-0-0/InputStatisticsInputDatasetFacet", rowCount=file["rows"]
            )
        },
    }


def facet(schema: str, **values: Any) -> dict[str, Any]:
    """Return a facet of the standard."""
    version, _, name = schema.partition("/")
    url = f"{SPEC}/facets/{version}/{name}.json#/$defs/{name}"
    return {"_producer": PRODUCER, "_schemaURL": url, **values}


if __name__ == "__main__":
    path = Path(sys.argv[1])
    json.dump(event_of(json.loads(path.read_text()), job="nightly"), sys.stdout)
