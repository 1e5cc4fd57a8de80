"""Checks settings against the annotations of their class, without importing the module of the class.

A setting is an argument of a constructor, or a field of a dataclass. The modules of networks, optimizers and so on
import torch, which takes seconds. ``api.early_checks`` calls ``check_node`` before torch is imported, so that a wrong
value is reported at once. This module parses the source files of digitlab and evaluates the annotations in them. It
skips an annotation that it can't evaluate: ``compose.build`` checks every setting later.
"""

import ast
import builtins
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from digitlab.config.schema import check_value

# The folder of the package ``digitlab``.
_PACKAGE = Path(__file__).resolve().parents[1]
# Light modules can be imported without torch. If an annotation uses a name from one of them, this module imports it.
_LIGHT_MODULES = ("typing", "collections.abc", "pathlib", "pydantic", "digitlab.config.schema")
# The built-in types that annotations use.
_TYPES = {name: getattr(builtins, name) for name in ("bool", "dict", "float", "int", "list", "str", "tuple")}


class _UnknownError(Exception):
    """An annotation that can't be evaluated without importing its module."""


def check_node(node: Mapping[str, Any], key: str, target: str | None = None) -> None:
    """Raise ``ConfigError`` if an entry of ``node``, or of a node in it, violates the annotation of its constructor.

    ``target`` is the dotted name of the class, by default the node's ``_target_``. A node without either has no
    settings of its own; only the nodes in it are checked. ``key`` is the dotted path of ``node``, or empty. Classes
    outside digitlab are not checked.
    """
    target = target or node.get("_target_")
    annotations = _annotations(target) if isinstance(target, str) else {}
    for name, value in node.items():
        path = f"{key}.{name}" if key else name
        if isinstance(value, Mapping):
            check_node(value, path)
        elif name in annotations:
            module, expression = annotations[name]
            try:
                annotation = _evaluate(expression, module)
            except _UnknownError:
                continue
            check_value(path, value, annotation)


def is_class_of_digitlab(target: str) -> bool:
    """Return whether the dotted name ``target`` is that of a class in digitlab's source files."""
    module, _, name = target.rpartition(".")
    try:
        return isinstance(_definition(module, name)[1], ast.ClassDef)
    except _UnknownError:
        return False


def _annotations(target: str) -> dict[str, tuple[str, ast.expr]]:
    """Return the annotation of each setting of a class, and the module in which to evaluate it.

    The settings are the fields of a class decorated with ``settings``, or the keyword-only arguments of a constructor
    decorated with ``checked``. Any other constructor has no settings. A class without a constructor has those of its
    base classes.
    """
    module, _, name = target.rpartition(".")
    try:
        module, definition = _definition(module, name)
    except _UnknownError:
        return {}
    if not isinstance(definition, ast.ClassDef):
        return {}
    # A dataclass also has the fields of its base classes.
    annotations: dict[str, tuple[str, ast.expr]] = {}
    for base in definition.bases:
        if isinstance(base, ast.Name) and base.id in _statements(module):
            annotations |= _annotations(f"{module}.{base.id}")
    if _decorated(definition, "settings"):
        fields = (statement for statement in definition.body if isinstance(statement, ast.AnnAssign))
        return annotations | {
            field.target.id: (module, field.annotation) for field in fields if isinstance(field.target, ast.Name)
        }
    for statement in definition.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            # A constructor replaces that of the base class, so the arguments of the base class do not count.
            arguments = statement.args.kwonlyargs if _decorated(statement, "checked") else []
            return {argument.arg: (module, argument.annotation) for argument in arguments if argument.annotation}
    return annotations


def _decorated(definition: ast.ClassDef | ast.FunctionDef, name: str) -> bool:
    decorators = definition.decorator_list
    return any(isinstance(decorator, ast.Name) and decorator.id == name for decorator in decorators)


@cache
def _statements(module: str) -> dict[str, ast.stmt]:
    """Return the statement that defines each name in a module of digitlab.

    Raises ``_UnknownError`` for a module of another package.
    """
    first, *rest = module.split(".")
    path = _PACKAGE.joinpath(*rest)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if first != "digitlab" or not path.is_file():
        raise _UnknownError
    statements: dict[str, ast.stmt] = {}
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ClassDef):
            statements[statement.name] = statement
        elif isinstance(statement, ast.ImportFrom):
            statements |= {alias.asname or alias.name: statement for alias in statement.names}
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            statements[statement.targets[0].id] = statement
    return statements


def _definition(module: str, name: str) -> tuple[str, ast.stmt]:
    """Return the statement that defines ``name``, and the module that contains it.

    If ``name`` is imported from another module of digitlab, this returns its definition in that module. If it is
    imported from a light module, this returns the import statement.
    """
    statement = _statements(module).get(name)
    if statement is None:
        raise _UnknownError
    if isinstance(statement, ast.ImportFrom) and statement.module not in _LIGHT_MODULES:
        original = next(alias.name for alias in statement.names if name in (alias.asname, alias.name))
        return _definition(statement.module or "", original)
    return module, statement


def _evaluate(expression: ast.expr, module: str) -> Any:
    """Return the value of an annotation in ``module``, for the kinds of expressions that settings use.

    Raises ``_UnknownError`` for any other expression.
    """
    match expression:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return _TYPES[name] if name in _TYPES else _value(name, module)
        case ast.List(elts=elements):
            return [_evaluate(each, module) for each in elements]
        case ast.Tuple(elts=elements):
            return tuple(_evaluate(each, module) for each in elements)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _evaluate(left, module) | _evaluate(right, module)
        case ast.Subscript(value=generic, slice=arguments):
            return _evaluate(generic, module)[_evaluate(arguments, module)]
        case ast.Call(func=ast.Name(id="Field"), args=[], keywords=keywords):
            limits = {each.arg: _evaluate(each.value, module) for each in keywords if each.arg is not None}
            return _value("Field", module)(**limits)
        case ast.Call(func=ast.Name(id="get_args"), args=[argument]):
            return get_args(_evaluate(argument, module))
    raise _UnknownError


def _value(name: str, module: str) -> Any:
    """Return the value of ``name`` in ``module``: an object from a light module, or an alias such as ``Rate``."""
    module, statement = _definition(module, name)
    if isinstance(statement, ast.ImportFrom):
        return getattr(import_module(statement.module or ""), name)
    if isinstance(statement, ast.Assign):
        return _evaluate(statement.value, module)
    raise _UnknownError
