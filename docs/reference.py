"""`docs/configuration.md` and the JSON Schema, made from the options themselves: `make docs`.

A key is described beside the key (`pipeline/app/config/`, `pipeline/job.py`), a field beside the field
(`pipeline/rows/`). `tests/project/test_docs.py` fails if a description is missing or the page is stale.
"""

import json
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from pipeline.app import config
from pipeline.app.config.file import File
from pipeline.rows.feed import TRAITS

Json = dict[str, Any]

PAGE: Final = Path(__file__).parent / "configuration.md"
SCHEMA: Final = Path(config.__file__).parent / "schema.json"  # part of the package

_HEAD: Final = """\
# The configuration

<!-- Made by `make docs` from the options in pipeline/app/config/: change the descriptions there. -->

One TOML file. `configs/nightly.toml` is a whole one with comments, to copy from; here is every key. An unknown key is an
error, with a "did you mean". Relative paths start at the file's folder.

**It never holds secrets.** They come from the environment, or from a file of mode 0600 that the same name with `_FILE`
at its end names:

| variable | is |
|---|---|
| `CANVAS_CLIENT_ID`, `CANVAS_CLIENT_SECRET` | the application's id and secret, for which a token is asked |
| `CANVAS_PRIVATE_KEY` | in place of the application's secret: a private key, PEM or JWK, with which a request for a token is signed (`private_key_jwt`, as SMART Backend Services have it: RS384 or ES384). What Canvas itself publishes names the secret only: ask before you rely on it |
| `CANVAS_TOKEN` | or a ready token, as long as it lasts; it goes before the others |
| `CANVAS_PROXY_USERNAME`, `CANVAS_PROXY_PASSWORD` | what the proxy in `canvas.proxy` is shown, if it asks for credentials |
"""
_FIELDS: Final = """\
## Fields

What `[feeds.columns]` maps, in the order in which a row is read; **required** ones are in `columns` or `constants`. Cells are
text, and blanks around them are no part of a value. What a wrong one breaks: [the rules](rules.md).
"""
_WORDS: Final = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "array": "list of texts",
    "object": "table",
}
_BOUNDS: Final = (
    ("exclusiveMinimum", "above {}"),
    ("minimum", "from {}"),
    ("exclusiveMaximum", "below {}"),
    ("maximum", "at most {}"),
    ("minItems", "at least {}"),
)


def page(file: type[BaseModel] = File) -> str:
    """Return the whole page of a configuration. Raises LookupError if a key or a field has no description."""
    schema = file.model_json_schema(mode="serialization")
    sections: list[str] = []
    for name, key in schema["properties"].items():
        sections += _section(name, key, schema["$defs"])
    return "\n".join([_HEAD, *sections, _FIELDS, *_kinds()])


def _section(name: str, key: Json, models: Json, default: Json | None = None) -> list[str]:
    """Return a heading, the purpose of the section, and its keys; then the sections inside of it."""
    model = _model(key, models) or _model(key["items"], models)
    if model is None:
        raise LookupError(f"{name} is no section")
    given = default if default is not None else key.get("default") or {}
    heading = f"## `[[{name}]]`" if key.get("type") == "array" else f"## `[{name}]`"
    lines = [heading, "", _description(name, key), ""]
    keys = {
        each: value for each, value in model["properties"].items() if not _is_section(value, models)
    }
    if keys:
        lines += ["| key | type | default | allowed | what it is for |", "|---|---|---|---|---|"]
        required = model.get("required", [])
        for each, value in keys.items():
            shown = _shown(
                given.get(each, value.get("default")),
                is_required=each in required and each not in given,
            )
            cells = [
                f"`{each}`",
                _type(value, models),
                shown,
                _allowed(value, models),
                _description(f"{name}.{each}", value),
            ]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    for each, value in model["properties"].items():
        if each not in keys:
            lines += _section(f"{name}.{each}", value, models)
    return lines


def _model(key: Json, models: Json) -> Json | None:
    """Return the section that a key holds; None if it holds a value."""
    reference = key.get("$ref", "")
    found: Json | None = models.get(reference.rpartition("/")[2])
    return found if found is not None and "properties" in found else None


def _is_section(key: Json, models: Json) -> bool:
    return _model(key, models) is not None


def _description(name: str, key: Json) -> str:
    try:
        return str(key["description"])
    except KeyError:
        raise LookupError(
            f"{name} has no description: give it one, Field(description=...), in pipeline/app/config/ or pipeline/job.py; then `make docs`"
        ) from None


def _parts(key: Json, models: Json) -> list[Json]:
    """Return the types that a value may have, without null."""
    every = key.get("anyOf", [key])
    resolved = [
        models[part["$ref"].rpartition("/")[2]] if "$ref" in part else part for part in every
    ]
    return [part for part in resolved if part["type"] != "null"]


def _type(key: Json, models: Json) -> str:
    return " or ".join(_type_of(part, models) for part in _parts(key, models))


def _type_of(part: Json, models: Json) -> str:
    values = part.get("additionalProperties")
    if isinstance(values, dict) and "anyOf" in values:
        return f"table, each {_type(values, models)}"
    if part["type"] == "array" and part["items"]["type"] != "string":
        return f"list of {_WORDS[part['items']['type']]}s"
    return _WORDS[part["type"]]


def _allowed(key: Json, models: Json) -> str:
    allowed = []
    for part in _parts(key, models):
        allowed += [f"`{_toml(value)}`" for value in part.get("enum", ())]
        bounds = [text.format(f"{part[name]:,}") for name, text in _BOUNDS if name in part]
        allowed += [", ".join(bounds)] if bounds else []
    return ", ".join(allowed)


def _shown(default: object, *, is_required: bool) -> str:
    if is_required:
        return "**required**"
    return "none" if default is None else f"`{_toml(default)}`"


def _toml(value: object) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _kinds() -> list[str]:
    lines = []
    for kind, traits in TRAITS.items():
        lines += [
            f"### `{kind.value}`: {traits.resource_type}",
            "",
            "| field | what it is |",
            "|---|---|",
        ]
        for name, field in traits.model.model_fields.items():
            if not field.description:
                raise LookupError(
                    f"{kind.value}.{name} has no description: give it one, Field(description=...), in pipeline/rows/; then `make docs`"
                )
            shown = f"**`{name}`**, required" if name in traits.required else f"`{name}`"
            lines.append(f"| {shown} | {field.description.replace('|', chr(92) + '|')} |")
        lines.append("")
    return lines


def schema(file: type[BaseModel] = File) -> str:
    """Return the JSON Schema of a configuration, as `canvas-ingest schema` prints it."""
    content = file.model_json_schema(mode="validation")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The configuration of canvas-ingest",
    }
    return json.dumps({**content, **head}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    SCHEMA.write_text(schema(), encoding="utf-8")
