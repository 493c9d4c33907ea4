"""Compare a new plan with the one that a person looked at and wants to have carried out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import PlanError
from pipeline.planning.plan import Plan


def require_same_plan(sealed: Plan, meant: Plan) -> None:
    """Raise PlanError if a plan is not the one that is to be carried out.

    Args:
        sealed: The plan that was just made.
        meant: The plan that is to be carried out (`run --plan`).
    """
    why = _what_differs(meant.meta, sealed.meta)
    if not why and meant.digest() != sealed.digest():
        why = "the journal, or what Canvas holds, came to differ since"
    if why:
        raise PlanError(
            f"plan {meant.folder.name} cannot be carried out as it is: {why}",
            "nothing of these files was sent; plan anew, look at it, and run that one",
        )


def _what_differs(meant: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if meant["feeds"].keys() != now["feeds"].keys():
        return f"it is of the feeds {', '.join(meant['feeds'])} (--feed)"
    for name, feed in meant["feeds"].items():
        before = {file["sha256"]: Path(file["path"]).name for file in feed["files"]}
        after = {file["sha256"]: Path(file["path"]).name for file in now["feeds"][name]["files"]}
        changed = [*(before.keys() - after.keys()), *(after.keys() - before.keys())]
        if changed:
            names = sorted({{**before, **after}[sha256] for sha256 in changed})
            return f"files of feed {name} are others by now ({', '.join(names)})"
    if meant["config_sha256"] != now["config_sha256"]:
        return "the configuration was changed"
    if meant.get("rewrite", "") != now["rewrite"]:
        return "it was made with another --rewrite, or one of the two has none"
    if _end_days(meant) != _end_days(now):
        return "coverages that are gone from the files would end on another day by now"
    return ""


def _end_days(meta: Mapping[str, Any]) -> list[list[str]]:
    return [feed["missing"].get("end_on", []) for feed in meta["feeds"].values()]
