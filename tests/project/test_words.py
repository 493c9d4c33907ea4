"""The words that the project no longer uses, the form of docstrings, and the names in them and in comments.

`WORDS` maps each retired word to its replacement. Names and keys that join words by `_` are not covered, and
neither are the names of tables and columns in SQL (`OF_TABLES`): a new name would need a new schema.
"""

import ast
import builtins
import io
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = sorted((ROOT / "pipeline").rglob("*.py"))
TEXTS: Final = [
    *SOURCES,
    *sorted((ROOT / "pipeline").rglob("*.sql")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "Makefile",
    *sorted((ROOT / ".ci").iterdir()),
    *sorted(path for path in (ROOT / "configs").rglob("*") if path.is_file()),
]
WORDS: Final = {
    "told": "shown, reported, known or logged",
    "mend, mends, mended, mending": "fix, correct",
    "whoever, somebody, nobody, anybody": "the caller, another user, no worker",
    "so many, as many as": "N, up to N",
    "come back, comes back, came back": "rejected, returned",
    "stand in, stands in, stood in": "is in",
    "lie in, lies in, lay in": "is in",
    "quiet time": "settling delay",
    "amnesia, witness, witnesses": "loss detection",
    "stint, stints": "lease record",
}
RETIRED: Final = re.compile(
    rf"\b(?:{'|'.join(word for words in WORDS for word in words.split(', '))})\b".replace(
        " ", r"\s+"
    ),
    re.IGNORECASE,
)
OF_TABLES: Final = {"stint"}
NOUN_PHRASE: Final = re.compile(r"(?:What|Whether|Who|Whom|Whose)\b")


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def test_retired_words_are_not_used() -> None:
    found = []
    for path in TEXTS:
        text = path.read_text()
        for match in RETIRED.finditer(text):
            if path.suffix == ".sql" and match[0].lower() in OF_TABLES:
                continue
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(ROOT)}:{line}: {match[0]}")
    assert not found, "\n".join(
        [*found, *(f"{word}: say {other}" for word, other in WORDS.items())]
    )


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text.splitlines()[0]}"
        for path in SOURCES
        for line, text in docstrings(ast.parse(path.read_text()))
        if NOUN_PHRASE.match(text)
    ]
    assert not found, "\n".join(found)


# Names in docstrings and comments -----------------------------------------------------------------

PACKAGE: Final = ROOT / "pipeline"
QUOTED: Final = re.compile(r"`([^`\s]+?)(?:\(\))?`")
PATH: Final = re.compile(r"[\w./-]+\.(?:py|sql)")
DOTTED: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
DATA_FILES: Final = (".json", ".html", ".parquet", ".csv", ".toml")


def test_docstrings_and_comments_name_what_exists() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in SOURCES
        for line, name in unknown_names(path.read_text(), path.parent)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "is_known"),
    [
        ("sending/weigh.py", True),
        ("sending/weight.py", False),
        ("states.py", True),  # beside the file
        ("weigh.py", False),  # in another folder
        ("tests/project/test_words.py", True),
        ("lookups.writes_of", True),
        ("lookups.writes_off", False),
        ("planning.build", True),
        ("pipeline.journal.journal.Journal.append", True),
        ("Journal.append", True),
        ("Journal.writes", False),
        ("tables.MISSING", True),
        ("plans.MISSING", False),
        ("state.dir", True),  # a key of the configuration
        ("state.folder", False),
        ("summary.json", True),
        ("intent.body", True),  # of a variable
        ("asyncio.Event()", True),
    ],
)
def test_a_name_that_does_not_exist_is_found(name: str, is_known: bool) -> None:
    code = "import asyncio\ndef send(intent): pass\n"
    folder = PACKAGE / "journal"
    for source in (f'"""Text.\n\nSee `{name}`."""\n{code}', f"{code}\n\n# See `{name}`.\n"):
        assert [each for _, each in unknown_names(source, folder)] == (
            [] if is_known else [name.removesuffix("()")]
        )


def unknown_names(source: str, folder: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of each quoted path or dotted name of a file in `folder` that does not exist."""
    tree = ast.parse(source)
    words = words_of(tree)
    for line, text in [*docstrings(tree), *comments(source)]:
        for match in QUOTED.finditer(text):
            name = match[1]
            if PATH.fullmatch(name):
                is_known = any((base / name).is_file() for base in (folder, PACKAGE, ROOT))
            elif DOTTED.fullmatch(name) and not name.endswith(DATA_FILES):
                first = name.partition(".")[0]
                is_known = (
                    exists(name) or name in options() or (first in words and first not in ours())
                )
            else:
                continue
            if not is_known:
                yield line + text.count("\n", 0, match.start()), name


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and text of each comment."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def words_of(tree: ast.AST) -> set[str]:
    """Return what may be the first part of a dotted name: names and strings of the code, and the standard library."""
    words = {*dir(builtins), *sys.stdlib_module_names}
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name):
                words.add(name)
            case ast.alias(name=name, asname=asname):
                words.add(asname or name)
            case ast.Constant(value=str(text)):
                words.add(text)
    return words


def exists(name: str) -> bool:
    """Return whether a dotted name that begins with a module, a package or a class of ours exists."""
    first, *rest = name.split(".")
    things = ours().get(first, [])
    for part in rest:
        things = [each for thing in things for each in members(thing, part)]
    return bool(things)


@cache
def ours() -> Mapping[str, list[Path | ast.AST]]:
    """Return our modules, packages and classes by their names, of which several may be equal."""
    found = defaultdict[str, list[Path | ast.AST]](list)
    for path in SOURCES:
        found[path.parent.name if path.name == "__init__.py" else path.stem].append(path)
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef):
                found[node.name].append(node)
    return dict(found)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def members(owner: Path | ast.AST, name: str) -> list[Path | ast.AST]:
    """Return the modules of a package, the definitions of a module, or the attributes of a class with this name."""
    if isinstance(owner, Path):
        nested = [owner.with_name(f"{name}.py"), owner.parent / name / "__init__.py"]
        is_package = owner.name == "__init__.py"
        inner = [each for each in nested if is_package and each.exists()]
        return [*inner, *defined(parsed(owner).body, name)]
    if not isinstance(owner, ast.ClassDef):
        return []
    of_self = [
        node
        for node in ast.walk(owner)
        if isinstance(node, ast.Attribute)
        and node.attr == name
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) == "self"
    ]
    return [*defined(owner.body, name), *of_self]


def defined(body: list[ast.stmt], name: str) -> Iterator[ast.AST]:
    """Yield the definitions of a name in the body of a module or a class."""
    for node in body:
        match node:
            case ast.FunctionDef(name=found) | ast.AsyncFunctionDef(name=found) if found == name:
                yield node
            case ast.ClassDef(name=found) if found == name:
                yield node
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                    yield node


@cache
def options() -> set[str]:
    """Return the sections of the configuration, and their keys as `section.key`."""
    found, section = set[str](), ""
    for line in (ROOT / "docs" / "configuration.md").read_text().splitlines():
        if heading := re.match(r"## `\[+([\w.]+)", line):
            section = heading[1]
            found.add(section)
        elif key := re.match(r"\| `(\w+)` \|", line):
            found.add(f"{section}.{key[1]}")
    return found
