"""SQL is static text; dynamic identifiers go through psycopg.sql. No string operation becomes SQL."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
RUNNERS = {"execute", "executemany", "copy", "stream", "exec_", "exec_params", "send_query", "prepare", "SQL"}
BUILT = "is built from strings: use psycopg.sql, or a parameter"


def built_sql(source: str, name: str) -> Iterator[str]:
    """Calls that run SQL, or declare it safe, with a first argument that is put together from strings."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and node.args and _called(node) in RUNNERS and _is_built(node.args[0]):
            yield f"{name}:{node.lineno}: the argument of {_called(node)}() {BUILT}"


def _called(node: ast.Call) -> str:
    match node.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def _is_built(node: ast.expr) -> bool:
    match node:
        case ast.JoinedStr(values=parts):
            return any(isinstance(part, ast.FormattedValue) for part in parts)
        case ast.BinOp(left=left, op=ast.Mod() | ast.Add(), right=right):
            return _is_text(left) or _is_text(right)
        case ast.Call(func=ast.Attribute(value=value, attr="format" | "join" | "replace" | "encode")):
            return _is_text(value)
    return False


def _is_text(node: ast.expr) -> bool:
    constant = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    return constant or isinstance(node, ast.JoinedStr) or _is_built(node)


def modules() -> list[Path]:
    return sorted(path for part in ("src", "benchmarks", "reliability") for path in (ROOT / part).rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_sql_is_static(path: Path) -> None:
    found = list(built_sql(path.read_text(), str(path.relative_to(ROOT))))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        'c.execute(f"select {x}")',
        'c.execute("select %s" % x)',
        'c.execute("select " + x)',
        'c.execute("select {}".format(x))',
        'sql.SQL(f"select {x}")',
        'c.execute(f"select {x}".encode())',
        'c.copy("copy " + t + " to stdout")',
    ],
)
def test_built_sql_is_found(line: str) -> None:
    assert list(built_sql(line, "planted"))


@pytest.mark.parametrize(
    "line",
    [
        'c.execute("select 1")',
        'c.execute(sql.SQL("select {}").format(sql.Identifier(x)))',
        "c.execute(QUERY, (x,))",
    ],
)
def test_static_sql_passes(line: str) -> None:
    assert not list(built_sql(line, "planted"))
