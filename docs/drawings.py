"""Draw the pictures of `docs/architecture.md` as mermaid text: `make docs`.

The layers come from the contract of import-linter in `pyproject.toml`, the states of a write from
`pipeline/journal/states.py`. `tests/project/test_docs.py` fails if the page is stale.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pipeline.journal import states
from pipeline.records import State

PAGE: Final = Path(__file__).parent / "architecture.md"
_PROJECT: Final = Path(__file__).parents[1] / "pyproject.toml"


def page() -> str:
    """Return the page with its pictures drawn anew.

    Raises:
        LookupError: The page has no marked place for a picture.
    """
    text = PAGE.read_text(encoding="utf-8")
    for name, picture in (("layers", layers()), ("states", write_states())):
        place = re.search(rf"(<!-- {name}: .*?-->\n).*?(<!-- end of {name} -->)", text, re.DOTALL)
        if place is None:
            raise LookupError(f"{PAGE.name} has no place for the picture of {name}")
        drawn = f"\n```mermaid\n{picture}\n```\n\n"
        text = text[: place.end(1)] + drawn + text[place.start(2) :]
    return text


def layers() -> str:
    """Return the layers as a flowchart: one box per layer, the topmost first."""
    boxes = [
        f'    layer{number}["{" · ".join(modules)}"]'
        for number, modules in enumerate(layers_of_contract(), 1)
    ]
    arrows = " --> ".join(f"layer{number}" for number in range(1, len(boxes) + 1))
    return "\n".join(["flowchart TB", *boxes, f"    {arrows}"])


def layers_of_contract() -> list[list[str]]:
    """Return the modules of each layer, from the first contract of type `layers`.

    Raises:
        StopIteration: There is no such contract.
    """
    project: dict[str, Any] = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    contract = next(each for each in contracts if each["type"] == "layers")
    return [
        [part.strip(" ()").removeprefix("pipeline.") for part in re.split(r"[|:]", layer)]
        for layer in contract["layers"]
    ]


def write_states() -> str:
    """Return the states of a write and the steps between them as a state diagram."""
    steps: dict[tuple[State, State], list[str]] = {}
    for table, mark in (
        (states.TRANSITIONS, ""),
        (states.OF_COVERAGE, " (coverage)"),
        (states.DECLARED_GONE, " (person)"),
    ):
        _add(steps, table, mark)
    lines = [
        f"    {old.value} --> {new.value}: {', '.join(names)}"
        for (old, new), names in steps.items()
    ]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {State.PENDING.value}", *lines])


def _add(
    steps: dict[tuple[State, State], list[str]],
    table: Mapping[tuple[State, str], State],
    mark: str,
) -> None:
    for (old, name), new in table.items():
        steps.setdefault((old, new), []).append(f"{name}{mark}")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
