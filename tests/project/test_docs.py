"""The pages under docs/ and the README against the program: what they name is there, and the other way round."""

import ast
import inspect
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel, Field, PlainValidator, ValidationError

from docs import drawings, reference
from pipeline.app.cli import cli
from pipeline.reading import bounds
from pipeline.records import State
from pipeline.rows import columns, money
from pipeline.rows.columns import Reading
from pipeline.rows.crosswalk import Crosswalk, Crosswalks
from pipeline.rows.dates import Dates
from pipeline.rows.feed import TRAITS, Traits
from tests.support.world import patient_key

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
RULES = ROOT / "docs" / "rules.md"
FILES = ROOT / "docs" / "files.md"


# The configuration --------------------------------------------------------------------------------


def test_the_page_of_the_configuration_is_made_of_the_options() -> None:
    assert reference.PAGE.read_text() == reference.page(), (
        "docs/configuration.md is stale: make docs"
    )


def test_the_schema_is_made_of_the_options() -> None:
    assert reference.SCHEMA.read_text() == reference.schema(), "schema.json is stale: make docs"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.name
)
def test_the_schema_takes_the_configurations_that_are_handed_out(path: Path) -> None:
    """By a validator of its own. A misspelt key, and a wrong type, are found."""
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(reference.SCHEMA.read_text()))
    content = tomllib.loads(path.read_text())
    assert list(validator.iter_errors(content)) == []
    content["canvas"]["base_ur"] = content["feeds"][0]["skip_lines"] = "x"
    assert len(list(validator.iter_errors(content))) == 2


def test_a_key_without_a_description_is_named() -> None:
    class Section(BaseModel):
        told: int = Field(1, description="Told.")
        untold: int = 1

    class File(BaseModel):
        upload: Section = Field(Section.model_validate({}), description="A section.")

    with pytest.raises(LookupError, match=r"upload\.untold has no description"):
        reference.page(File)


# The architecture ---------------------------------------------------------------------------------


def test_the_pictures_of_the_architecture_are_drawn_from_the_code() -> None:
    assert drawings.PAGE.read_text() == drawings.page(), "docs/architecture.md is stale: make docs"


def test_the_pictures_show_every_layer_and_every_state() -> None:
    shown = {name for layer in drawings.layers_of_contract() for name in layer}
    modules = {path.stem for path in (ROOT / "pipeline").iterdir() if path.suffix == ".py"}
    assert shown >= (modules - {"__init__"}) | set(packages())
    assert {state.value for state in State} <= set(re.findall(r"\w+", drawings.write_states()))


def test_the_architecture_describes_every_package() -> None:
    text = drawings.PAGE.read_text()
    assert [name for name in packages() if f"| `{name}/` |" not in text] == []


def packages() -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py"))


# The rules ----------------------------------------------------------------------------------------

# What the page's placeholders stand for.
GROUPS = {
    "<field>": {name for traits in TRAITS.values() for name in traits.fields},
    "<text>": {"member_id", "subscriber_id", "payer_name", "plan", "subplan", "group", "subgroup"}
    | {"transaction_id", "entry_type"},
    "<day>": {"start_on", "end_on", "posted_on"},
    "<reference>": {"patient", "subscriber", "payer", "claim"},
    "<id>": {
        "patient",
        "subscriber",
        "payer",
        "claim",
        "member_id",
        "subscriber_id",
        "transaction_id",
    },
    "<name>": {"payer_name", "plan", "subplan", "group", "subgroup"},
}
# Rules whose second half is not in the code: what Canvas says.
OF_CANVAS = {"canvas|<code>", "canvas|<status>"}
RULE = re.compile(r"[a-z_]+\|[a-z_-]+")


def test_the_page_of_rules_names_what_the_code_emits_and_no_more() -> None:
    page = {each for rule, _ in lines_of_rules() for each in meant(rule)}
    code = rules_of_cells() | rules_in_code() | OF_CANVAS | {"conflict"}
    assert page - code == set(), "docs/rules.md names rules that the code does not know"
    assert code - page == set(), "docs/rules.md lacks rules of the code"


def test_rules_are_made_up_of_parts_in_known_places_only() -> None:
    """Else `rules_in_code` would not see them."""
    made_up = {
        text
        for _, node in nodes()
        if isinstance(node, ast.JoinedStr)
        and re.fullmatch(r"([a-z_]+|\{\})\|([a-z_-]+|\{\})", text := skeleton(node))
    }
    assert made_up == {"{}|{}", "{}|sql", "missing|{}", "canvas|{}"}


def lines_of_rules() -> Iterator[tuple[str, list[str]]]:
    """Each rule of the page's tables, with the cells of its line."""
    for line in RULES.read_text().splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0].startswith("`"):
            for rule in re.findall(r"`([^`]+)`", cells[0]):
                yield rule, cells


def meant(rule: str) -> set[str]:
    """A rule of the page, with its placeholder filled in."""
    field, parted, what = rule.partition("|")
    return {f"{name}{parted}{what}" for name in GROUPS.get(field, {field})}


@cache
def rules_of_cells() -> set[str]:
    """Return what each field's reader, and what it calls, can raise by `broken`."""
    functions = {
        node.name: node
        for module in (columns, money)
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.FunctionDef)
    }

    def whats(name: str, seen: frozenset[str] = frozenset()) -> set[str]:
        found = set[str]()
        for node in ast.walk(functions[name]):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            called, first = node.func.id, node.args[0] if node.args else None
            if called == "broken" and isinstance(first, ast.Constant):
                found.add(str(first.value))
            elif called in functions and called not in seen:
                found |= whats(called, seen | {name})
        return found

    rules = set[str]()
    for traits in TRAITS.values():
        for name, field in traits.model.model_fields.items():
            readers = [each for each in field.metadata if isinstance(each, PlainValidator)]
            assert readers, name
            rules |= {
                f"{name}|{what}"
                for each in readers
                for what in whats(each.func.__qualname__.partition(".")[0])
            }
    return rules


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        if "sandbox" not in path.parts:
            for node in ast.walk(ast.parse(path.read_text())):
                yield path, node


def skeleton(node: ast.JoinedStr) -> str:
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
    )


def rules_in_code() -> set[str]:
    """Rules that stand in the code as they are, and those that are put together in two places."""
    rules = set[str]()
    for path, node in nodes():
        match node:
            case ast.Constant(value=str(text)) if RULE.fullmatch(text):
                rules.add(text)
            case ast.JoinedStr() if skeleton(node) == "{}|sql":
                rules |= {f"{name}|sql" for name in GROUPS["<field>"]}
            case ast.Call(func=ast.Name(id="_lost"), args=[ast.Constant(value=str(what)), *_]):
                rules.add(f"canvas|{what}")
            case ast.FunctionDef(name="_why_not") if path.name == "missing.py":
                rules |= {
                    f"missing|{each.elts[1].value!s}"
                    for each in ast.walk(node)
                    if isinstance(each, ast.Tuple) and len(each.elts) == 3
                    if isinstance(each.elts[1], ast.Constant)
                }
    return rules


EXAMPLES = [
    (rule, example)
    for rule, cells in lines_of_rules()
    if meant(rule) <= rules_of_cells()
    for example in re.findall(r"`([^`]+)`", cells[2])
]


@pytest.mark.parametrize(("rule", "example"), EXAMPLES)
def test_the_examples_of_rules_break_them(rule: str, example: str) -> None:
    field, _, what = rule.partition("|")
    cells = dict(cell(part) for part in example.split(";"))
    meant_fields = GROUPS.get(field, {field})
    broken = next((name for name in reversed(cells) if name in meant_fields), field)
    kinds = [traits for traits in TRAITS.values() if broken in traits.fields]
    assert kinds
    for traits in kinds:
        assert (broken, what) in rules_of(traits, cells)


def test_every_rule_of_a_cell_has_an_example() -> None:
    rules = {rule for rule, _ in lines_of_rules() if meant(rule) <= rules_of_cells()}
    assert rules == {rule for rule, _ in EXAMPLES}


def cell(text: str) -> tuple[str, str]:
    name, _, value = (part.strip() for part in text.partition("="))
    long = re.fullmatch(r"(.)…\1 \((\d+) characters\)", value)
    return name, long[1] * int(long[2]) if long else value.replace("↹", "\t")


PATIENTS = {
    "1001": patient_key(1),
    "1002": None,
    "1003": "Patient/1003",
    "1004": patient_key(4),
}
PAYERS = {"BCBS": "60054", "AETNA": None, "CASH": "1" * 101}
GOOD = {
    "patient": "1001",
    "relationship": "self",
    "member_id": "W123",
    "payer": "BCBS",
    "order": "1",
    "transaction_id": "T1",
    "amount": "12.50",
}


def rules_of(traits: Traits, cells: dict[str, str]) -> list[tuple[str, str]]:
    """The fields and rules that a good row breaks once these cells stand in it."""
    reading = Reading(
        Dates(["%Y-%m-%d", "%m/%d/%Y", "%d/%m/%Y"]),
        Crosswalks(Crosswalk("key", PATIENTS), Crosswalk("payer_id", PAYERS)),
        amount_max_cents=1_000_000,
    )
    row: dict[str, Any] = {name: {**GOOD, **cells}.get(name) or None for name in traits.fields}
    try:
        traits.model.model_validate(row, context=reading)
    except ValidationError as error:
        return [(str(each["loc"][0]), each["type"]) for each in error.errors()]
    return []


def test_the_good_row_of_the_examples_breaks_nothing() -> None:
    assert [rules_of(traits, {}) for traits in TRAITS.values()] == [[], []]


# Command lines ------------------------------------------------------------------------------------


def command_lines() -> Iterator[tuple[str, str]]:
    """Each `canvas-ingest ...` of the pages, in blocks and in the text, with its page."""
    for page in PAGES:
        text = page.read_text()
        for line in re.findall(
            r"^\s*(?:\$ )?(.*canvas-ingest .*)$", "\n".join(blocks(text)), re.MULTILINE
        ):
            yield page.name, line
        for span in re.findall(r"`(canvas-ingest [^`]+)`", prose(text)):
            yield page.name, span


def blocks(text: str) -> list[str]:
    """Blocks of commands. In what a command prints, only what it says to type next."""
    found = re.findall(r"^```(?:console|bash|sh|text)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"\\\n\s*", "", block) for block in found]


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def words_of(line: str) -> list[str]:
    """The words behind `canvas-ingest`, up to the end of its command."""
    substituted = re.search(r"\$\((canvas-ingest [^)]*)\)", line)
    line = substituted[1] if substituted else line[line.index("canvas-ingest ") :]
    words = shlex.split(line.replace("[KEY]", "KEY").replace("\\|", "|"), comments=True)
    end = next((at for at, word in enumerate(words) if re.match(r"[|&;]|\d?>", word)), len(words))
    words = [word.rstrip(";") for word in words[1:end]]
    if "--until" in words:  # what has just passed is refused
        soon = datetime.now().astimezone() + timedelta(hours=1)
        words[words.index("--until") + 1] = f"{soon:%H:%M}"
    return words


def parse(words: list[str]) -> None:
    """Let click parse a command line without carrying it out."""
    command: click.Command = cli
    context: click.Context | None = None
    name = "canvas-ingest"
    while True:
        context = command.make_context(name, list(words), parent=context)
        if not isinstance(command, click.Group):
            return
        words = [*context._protected_args, *context.args]
        if not words:
            return
        found, command_found, words = command.resolve_command(context, words)
        assert command_found is not None, words
        name, command = str(found), command_found


LINES = sorted(set(command_lines()))


@pytest.mark.parametrize(("page", "line"), LINES)
def test_command_lines_are_understood(
    page: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = words_of(line)
    try:
        parse(words)
    except click.UsageError as error:
        pytest.fail(f"{page}: {line}: {error.message}")


def test_options_that_the_text_names_with_a_command_are_there() -> None:
    """`review --resend KEY`, `run CONFIG`: fragments, so the options are looked up only."""
    unknown = []
    for page in PAGES:
        for span in re.findall(r"`([a-z]+ [^`]+)`", prose(page.read_text())):
            name, *words = span.split()
            command = cli.commands.get(name)
            if command is None or isinstance(command, click.Group):
                continue
            known = {option for each in command.params for option in each.opts}
            unknown += [
                f"{page.name}: {span}"
                for word in words
                if word.startswith("--") and word.partition("=")[0] not in known
            ]
    assert unknown == []


def test_the_pages_hold_command_lines_at_all() -> None:
    assert {page for page, _ in LINES} >= {"README.md", "migration.md", "runbook.md"}


# Links and examples -------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 170
    assert [number for number, line in enumerate(lines, 1) if len(line) > 120] == []


def test_make_help_lists_every_command_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()
    asked = ["make", "--no-print-directory", "help"]  # a make that runs the tests adds lines
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert list(listed) == commands


def test_links_lead_somewhere() -> None:
    dead = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text())):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                dead.append(f"{page.name}: {target}")
    assert dead == []


def test_pages_and_headings_that_code_cites_are_there() -> None:
    """`docs/NAME.md, "Heading"` in code, SQL and tests; a page without a folder is one beside the README."""
    absent, count = [], 0
    for path in sources():
        text = re.sub(r"\n *(?:#|--)? *", " ", path.read_text())
        for name, heading in re.findall(
            r'(?<![\w./"-])(\w[\w-]*(?:/[\w-]+)*\.md)\b(?:[,:]? \(?["“]([^"”]+)["”])?', text
        ):
            count += 1
            page = ROOT / name
            if not page.exists() or (heading and slug(heading) not in anchors(page)):
                absent.append(f"{path.name}: {name} {heading}".strip())
    assert absent == []
    assert count > 50, "the pattern finds them"


def test_no_file_has_marks_of_a_merge() -> None:
    marks = re.compile(r"^(?:<{7}|={7}|>{7})(?: |$)", re.MULTILINE)
    files = [*PAGES, *sources(), ROOT / "CHANGELOG.md", *(ROOT / "configs").glob("*.toml")]
    assert [path.name for path in files if marks.search(path.read_text())] == []


def sources() -> list[Path]:
    """Code, SQL and tests, but for this file."""
    folders = ("pipeline", "tests", "bench")
    found = [path for each in folders for path in (ROOT / each).rglob("*") if path.is_file()]
    return sorted(
        path for path in found if path.suffix in {".py", ".sql"} and path != Path(__file__)
    )


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+)$", prose(page.read_text()), re.MULTILINE):
        name = slug(heading)
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return set(found)


def slug(heading: str) -> str:
    """Return a heading as it is in an address."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_files_that_the_text_names_are_there() -> None:
    """Those of the repository: `configs/nightly.toml`, `sample_data/README.md` ..."""
    pattern = re.compile(
        r"`((?:configs|docs|sample_data|pipeline|tests|bench|examples)/[\w./-]+\.\w+)`"
    )
    named = [(page.name, path) for page in PAGES for path in pattern.findall(page.read_text())]
    assert [each for each in named if not (ROOT / each[1]).is_file()] == []


def test_toml_and_python_of_the_pages_are_well_formed() -> None:
    for page in PAGES:
        for kind, block in re.findall(
            r"^```(toml|python)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            if kind == "toml":
                tomllib.loads(block)
            else:
                compile(block, page.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_bounds_of_a_file_are_those_of_the_code() -> None:
    table = FILES.read_text().partition("## Bounds\n")[2].partition("\n## ")[0]
    kib = bounds.KIB
    for what in (
        f"| a cell | {bounds.FIELD_BYTES_MAX // kib} KiB |",
        f"| a row | {bounds.ROW_BYTES_MAX // kib} KiB |",
        f"| columns of a file | {bounds.COLUMNS_MAX} |",
        f"| rows of a file | {bounds.ROWS_MAX:,} |",
        f"| files of a feed | {bounds.FILES_MAX:,} |",
        f"{bounds.UNPACKED_RATIO_MAX:,} times its size, above {bounds.UNPACKED_BYTES_FREE // kib**2} MiB |",
        f"{bounds.DECODING_BYTES_MAX // kib**3} GiB of memory, {bounds.DECODING_S_MAX} s |",
    ):
        assert what in table


# The threat model ---------------------------------------------------------------------------------


def test_each_line_of_the_threat_model_names_tests_that_there_are() -> None:
    lines = (ROOT / "docs" / "security.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")][2:]
    assert len(table) >= 8
    for line in table:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", line)
        assert named, line
        for file, name in named:
            code = (ROOT / "tests" / file).read_text()
            assert re.search(rf"^(async )?def {name}\(", code, re.MULTILINE), f"{file}::{name}"
