"""Limits that keep functions and files readable: see docs/inside.md."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import nbnorm

ROOT = Path(__file__).parent.parent
MOST_PARAMETERS = 12
MOST_LINES = 500

# The flat lists of batch norm's kernels read well, and named tuples would cost small calls time.
FLAT = "src/nbnorm/kernels/batch_norm/"


def files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a checkout of git")
    return [name for name in listed.stdout.split() if (ROOT / name).exists()]


def functions(source: str) -> Iterator[tuple[str, int]]:
    """Every function's name, a constructor's being that of its class, and its parameters."""
    for node in ast.walk(ast.parse(source)):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                inside = isinstance(node, ast.ClassDef) and child.name == "__init__"
                taken = child.args
                named = [*taken.posonlyargs, *taken.args, *taken.kwonlyargs]
                yield (
                    node.name if inside else child.name,
                    len(named) + bool(taken.vararg) + bool(taken.kwarg) - inside,
                )


def test_functions_inside_take_few_parameters():
    """Public functions and layers have the field's own, nearly all by keyword."""
    beyond = [
        f"{file}: {name} takes {count}"
        for file in files()
        if file.startswith("src/") and not file.startswith(FLAT)
        for name, count in functions((ROOT / file).read_text(encoding="utf-8"))
        if count > MOST_PARAMETERS and name not in nbnorm.__all__
    ]
    assert beyond == []


def test_files_are_short():
    lines = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in files()}
    assert {file: count for file, count in lines.items() if count > MOST_LINES} == {}


def test_parameters_are_counted():
    source = "class Layer:\n def __init__(self, a, *, b): ...\ndef f(a, /, b, *c, d=1, **e): ..."
    assert dict(functions(source)) == {"Layer": 2, "f": 5}
