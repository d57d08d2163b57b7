"""Size budgets: what grows over them is split, not excused."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MODULE_LINES = 400
FUNCTION_LINES = 60
CLASS_METHODS = 15  # the language's own (dunder) methods do not count
PARAMETERS = 6  # self and cls do not count

Function = ast.FunctionDef | ast.AsyncFunctionDef


def over_budget(source: str, name: str) -> Iterator[str]:
    """One line of text for every budget that ``source`` breaks."""
    lines = source.count("\n")
    if lines > MODULE_LINES:
        yield f"{name}: {lines} lines, at most {MODULE_LINES}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, Function):
            yield from _function(node, name)
        elif isinstance(node, ast.ClassDef):
            methods = [m for m in node.body if isinstance(m, Function) and not m.name.startswith("__")]
            if len(methods) > CLASS_METHODS:
                yield f"{name}:{node.lineno}: {node.name} has {len(methods)} methods, at most {CLASS_METHODS}"


def _function(node: Function, name: str) -> Iterator[str]:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if lines > FUNCTION_LINES:
        yield f"{name}:{node.lineno}: {node.name} has {lines} lines, at most {FUNCTION_LINES}"
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    parameters = [a.arg for a in arguments if a.arg not in ("self", "cls")]
    # A command's parameters are its options on the command line: typer reads them from the signature.
    if len(parameters) > PARAMETERS and not _is_command(node):
        yield f"{name}:{node.lineno}: {node.name} has {len(parameters)} parameters, at most {PARAMETERS}"


def _is_command(node: Function) -> bool:
    calls = (d.func for d in node.decorator_list if isinstance(d, ast.Call))
    return any(isinstance(c, ast.Attribute) and c.attr in ("command", "callback") for c in calls)


def modules() -> list[Path]:
    return sorted(path for part in ("src", "benchmarks", "reliability") for path in (ROOT / part).rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_within_budget(path: Path) -> None:
    broken = list(over_budget(path.read_text(), str(path.relative_to(ROOT))))
    assert not broken, "\n".join(broken)


def test_budgets_bite() -> None:
    long_function = "def f():\n" + "    pass\n" * FUNCTION_LINES
    wide_function = "def f(a, b, c, d, e, *, f, g): ...\n"
    big_class = "class C:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(CLASS_METHODS + 1))
    long_module = "x = 1\n" * (MODULE_LINES + 1)
    for source in (long_function, wide_function, big_class, long_module):
        assert len(list(over_budget(source, "planted"))) == 1
