"""`report.html`: the summary as one self-contained page, without script and without a request."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from pipeline.views.words import OUTCOMES, WORDS, notes, verdict


def page(summary: Mapping[str, Any]) -> str:
    """The page for what `summary.json` holds. It shows counts, rules and ids of files, no rows."""
    style = _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _template().render(
        summary=summary,
        verdict=verdict(summary),
        words=WORDS,
        outcomes=OUTCOMES,
        notes=notes(summary) if "recovered" in summary else [],
        style=style,
        style_hash=f"sha256-{digest}",
    )


def _asset(name: str) -> str:
    return resources.files("pipeline.views").joinpath(name).read_text()


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("page.html.j2"))
