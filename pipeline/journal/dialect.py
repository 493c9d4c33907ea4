"""Statements of SQLite, and values, as PostgreSQL takes them. Pure."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, cast

import orjson

from pipeline.journal.audit_log import Line
from pipeline.journal.store import Parameters

LINES_A_GROUP: Final = 512
_RUN_ID: Final = Line._fields.index("run_id")


def groups_of(part: int, lines: Sequence[Sequence[Any]]) -> Iterator[dict[str, object]]:
    """Yield the rows of `trail_group` for numbered lines of the audit log, each with its hash behind it."""
    for run_id, some in itertools.groupby(lines, key=lambda line: line[_RUN_ID]):
        of_run = list(some)
        for start in range(0, len(of_run), LINES_A_GROUP):
            group = of_run[start : start + LINES_A_GROUP]
            values = [[*line[1:_RUN_ID], *line[_RUN_ID + 1 : -2]] for line in group]
            values[-1].append(group[-1][-1])
            yield {
                "part": part,
                "number": group[0][0],
                "last": group[-1][0],
                "run_id": run_id,
                "lines": orjson.dumps(values).decode(),
            }


def columns(lines: Sequence[Parameters]) -> Parameters:
    """Return the values of these lines as one array for each name."""
    named = cast("Sequence[Mapping[str, object]]", lines)
    return {name: array([line[name] for line in named]) for name in named[0]}


def array(values: Sequence[object]) -> str:
    """Return texts, numbers and None as PostgreSQL writes an array: as JSON does, but for the escapes in texts."""
    written = orjson.dumps(values)
    if b"\\" in written:
        written = b"[" + b",".join(map(_element, values)) + b"]"
    return f"{{{written[1:-1].decode()}}}"


def _element(value: object) -> bytes:
    if not isinstance(value, str):
        return orjson.dumps(value)
    text = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'.encode()


@lru_cache(maxsize=256)
def translate(sql: str) -> str:
    """Return a statement of SQLite's in PostgreSQL's dialect."""
    text = re.sub(r"--[^\n]*", "", sql)
    text = re.sub(
        r"SELECT value FROM json_each\((:\w+)\)",
        r"SELECT jsonb_array_elements_text(CAST(\1 AS jsonb))",
        text,
    )
    text = re.sub(r"(?<!:):([a-z_]\w*)", r"%(\1)s", text.replace("%", "%%"))
    return re.sub(r"\?", "%s", text)
