"""Limits that keep the sources readable: lines of a module, and arguments of a constructor."""

import ast
from pathlib import Path

import pytest

from digitlab.config.compose import ROOT

_MODULES = sorted((ROOT / "src").rglob("*.py"))
_MOST_LINES, _MOST_ARGUMENTS = 300, 10
# Its arguments are the keys of ``data=folder``, which users set one by one on the command line.
_EXEMPT = {"FolderData"}


def _constructors(source: str) -> dict[str, int]:
    """The number of arguments of each ``__init__`` that is written out, by class.

    Dataclasses have none: they only hold values.
    """
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    methods = [(owner, node) for owner in classes for node in owner.body if isinstance(node, ast.FunctionDef)]
    return {
        owner.name: len([*method.args.posonlyargs, *method.args.args, *method.args.kwonlyargs]) - 1
        for owner, method in methods
        if method.name == "__init__"
    }


def test_the_arguments_of_a_constructor_are_counted_without_self() -> None:
    source = "class A:\n    def __init__(self, a, *, b, c=1): ...\nclass B:\n    def f(self, x): ...\n"
    assert _constructors(source) == {"A": 3}


@pytest.mark.parametrize("path", _MODULES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_modules_are_short_and_constructors_take_few_arguments(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= _MOST_LINES
    counts = _constructors(source)
    assert {name for name, count in counts.items() if count > _MOST_ARGUMENTS} - _EXEMPT == set()
