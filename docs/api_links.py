"""Extends Griffe, which reads ``src/`` for the API reference: docstrings get links, and settings get constructors.

``mkdocs.yml`` names this file. A name in a docstring, such as ``ConfigError`` or ``layers.initialise``, leads to the
class, function or module that it means there; names of parameters stay as they are.
"""

import re
from collections.abc import Iterator
from typing import Any

import griffe

_CODE = re.compile(r"``([A-Za-z_][\w.]*)``")


class LinksAndConstructors(griffe.Extension):
    """Turns names in docstrings into links, and shows the arguments of classes with ``@settings``."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Change what Griffe has read. It calls this before it makes the constructors of dataclasses."""
        objects = list(_objects(pkg))
        for each in objects:
            if isinstance(each, griffe.Class):
                _show_settings(each)
            if isinstance(each, griffe.Function):
                _shorten_annotations(each)
        documented = {each.path for each in objects if _is_documented(each)}
        classes: dict[str, list[str]] = {}
        for each in objects:
            if each.is_class and each.path in documented:
                classes.setdefault(each.name, []).append(each.path)
        unique = {name: paths[0] for name, paths in classes.items() if len(paths) == 1}
        for each in objects:
            if each.docstring is not None:
                each.docstring.value = _CODE.sub(
                    lambda match, each=each: _linked(match, each, documented, unique), each.docstring.value
                )


def _show_settings(each: griffe.Class) -> None:
    """Tell Griffe that a class with ``@settings`` is a dataclass, and leave out its private fields."""
    for number, decorator in enumerate(each.decorators):
        if decorator.callable_path == "digitlab.config.schema.settings":
            function = griffe.ExprName("dataclasses.dataclass")
            arguments = [griffe.ExprKeyword("kw_only", "True")]
            value = griffe.ExprCall(function, arguments)
            each.decorators[number] = griffe.Decorator(value, lineno=None, endlineno=None)
    for name in [name for name, member in each.members.items() if name.startswith("_") and member.is_attribute]:
        each.del_member(name)


def _shorten_annotations(each: griffe.Function) -> None:
    """Replace ``Annotated[type, ...]`` by the type. For a command, the rest is the text that ``--help`` shows."""
    for parameter in each.parameters:
        annotation = parameter.annotation
        if isinstance(annotation, griffe.ExprSubscript) and annotation.canonical_path == "typing.Annotated":
            content = annotation.slice
            parameter.annotation = content.elements[0] if isinstance(content, griffe.ExprTuple) else content


def _objects(parent: griffe.Object) -> Iterator[griffe.Object]:
    """Yield ``parent`` and everything that is defined in it, without names that are only imported."""
    yield parent
    for member in list(parent.members.values()):
        if not member.is_alias:
            yield from _objects(member)


def _is_documented(each: griffe.Object) -> bool:
    """Say whether the reference has an entry for the object: it has a docstring, and no part of its path is private.

    ``docs/api_pages.py`` makes an entry for each package and for each module with classes or functions.
    """
    if each.docstring is None or any(part.startswith("_") for part in each.path.split(".")):
        return False
    if not each.is_module:
        return (each.is_class or each.is_function) and not each.module.is_init_module
    if each.is_init_module:
        return each.path.count(".") == 1
    members = [member for member in each.members.values() if not member.is_alias]
    return any((member.is_class or member.is_function) and _is_documented(member) for member in members)


def _linked(match: re.Match[str], each: griffe.Object, documented: set[str], unique: dict[str, str]) -> str:
    """Return the name as a link to what it means in the docstring of ``each``, or unchanged."""
    path = _meaning(match[1], each, documented, unique)
    return match[0] if path is None or path == each.path else f"[`{match[1]}`][{path}]"


def _meaning(name: str, each: griffe.Object, documented: set[str], unique: dict[str, str]) -> str | None:
    """Return the path of the documented object that ``name`` means in the docstring of ``each``."""
    first, _, rest = name.partition(".")
    if first in _own_names(each):
        return None
    candidates = [path + "." * bool(rest) + rest for path in _in_scope(first, each)]
    if name in unique:
        candidates.append(unique[name])
    # A module is named with its package (``training.setup``), or without it within the package.
    module = each if each.is_module else each.module
    if rest or each.is_module:
        package = module.path if module.is_init_module else module.path.rpartition(".")[0]
        candidates += [f"{package}.{name}", f"{module.package.path}.{name}", name]
    return next((path for path in candidates if path in documented), None)


def _in_scope(name: str, each: griffe.Object) -> Iterator[str]:
    """Yield what ``name`` means in the object, in those around it, and in its module: defined or imported there."""
    scope: griffe.Object | None = each
    while scope is not None:
        if name in scope.members:
            member = scope.members[name]
            yield member.target_path if isinstance(member, griffe.Alias) else member.path
        scope = None if scope.is_module else scope.parent


def _own_names(each: griffe.Object) -> set[str]:
    """Return the names of parameters and attributes of the object, which do not become links in its docstring."""
    names: set[str] = set()
    if each.is_function:
        names |= {parameter.name for parameter in each.parameters}
    if each.is_class:
        names |= {name for name, member in each.all_members.items() if member.is_attribute}
        if "__init__" in each.all_members and each.all_members["__init__"].is_function:
            names |= {parameter.name for parameter in each.all_members["__init__"].parameters}
    if each.is_function and each.parent is not None and each.parent.is_class:
        names |= {name for name, member in each.parent.all_members.items() if member.is_attribute}
    return names
