"""The shape of the house: who may import whom, and how large things get."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge import process

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "bridge"
MODULES = sorted(PACKAGE.rglob("*.py"))

MODULE_LINES = 400
FUNCTION_LINES = 40
CONTRACT_METHODS = 6


def test_imports_stay_within_their_fences() -> None:
    # A program of its own: it configures logging for the whole process.
    linter = process.which("lint-imports")
    assert linter is not None, "import-linter is not installed; install nomad-bridge[dev]"
    done = process.run([linter, "--no-cache", "--no-logo"], timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_something_to_judge() -> None:
    assert len(MODULES) > 20


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_small(path: Path) -> None:
    assert path.name not in {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MODULE_LINES
    if path.is_relative_to(PACKAGE / "db" / "migrations" / "versions"):
        return  # a migration is one list of statements, and frozen
    too_long = [
        f"{node.name}: {lines} lines"
        for node in _functions(ast.parse(text))
        if (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert not too_long


def test_the_connector_contract_stays_small() -> None:
    tree = ast.parse((PACKAGE / "connectors" / "base.py").read_text("utf-8"))
    contract = next(
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Connector"
    )
    assert len(list(_functions(contract))) <= CONTRACT_METHODS


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
