"""No module, class or function of the package grows beyond what can be read at once."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "pipeline"
MODULE_LINES, FUNCTION_LINES, CLASS_LINES, METHODS = 600, 60, 450, 30


def test_everything_can_be_read_at_once() -> None:
    large, seen = list[str](), 0
    for path in sorted(PACKAGE.rglob("*.py")):
        text, name = path.read_text(), str(path.relative_to(PACKAGE.parent))
        if (lines := text.count("\n")) > MODULE_LINES:
            large.append(f"{name}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                seen += 1
                large += [f"{name}: {each}" for each in _too_large(node)]
    assert large == []
    assert seen > 1000, "the package was read"


def _too_large(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> list[str]:
    """Return in words what is too large. A docstring and the lines of a signature do not count."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
    if not isinstance(node, ast.ClassDef):
        return [f"{node.name} has {lines} lines"] if lines > FUNCTION_LINES else []
    methods = sum(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) for each in node.body)
    found = [f"{node.name} has {lines} lines"] if lines > CLASS_LINES else []
    return [*found, *([f"{node.name} has {methods} methods"] if methods > METHODS else [])]
