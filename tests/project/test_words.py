"""The words that the project no longer uses, and the form of docstrings.

`WORDS` maps each retired word to its replacement. Names and keys that join words by `_` are not covered, and
neither are the names of tables and columns in SQL (`OF_TABLES`): a new name would need a new schema.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = sorted((ROOT / "pipeline").rglob("*.py"))
TEXTS: Final = [
    *SOURCES,
    *sorted((ROOT / "pipeline").rglob("*.sql")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
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


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each docstring of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
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
        for line, text in docstrings(path)
        if NOUN_PHRASE.match(text)
    ]
    assert not found, "\n".join(found)
