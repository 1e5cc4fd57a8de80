"""Every imported package is declared in ``pyproject.toml`` and locked."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from digitlab.config.compose import ROOT

OWN = {"digitlab", "hydra_plugins"}
# Extras that users install; the others are for development.
EXTRAS = ("launchers", "search", "baselines", "explain", "export")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements such as ``torch>=2.11`` name."""
    return {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = names(PROJECT["dependencies"])
OPTIONAL = {name for extra in EXTRAS for name in names(PROJECT["optional-dependencies"][extra])}
# Every notebook kernel brings IPython; this module imports it only in a notebook, so users need not install it.
EXEMPT = {"src/digitlab/core/notebook.py": {"IPython"}}
DISTRIBUTIONS = packages_distributions()


def imported(source: str) -> set[str]:
    """The packages that ``source`` imports, at its top or within functions, but for Python's own and the project's."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module))
    return {name.partition(".")[0] for name in found} - OWN - set(sys.stdlib_module_names)


def undeclared(source: str) -> set[str]:
    """The packages that ``source`` imports without any of the distributions that bring them being asked for."""
    return {
        package
        for package in imported(source)
        # An optional package need not be installed: then its distribution is taken to have its name.
        if not {normal(name) for name in DISTRIBUTIONS.get(package, [package])} & (NEEDED | OPTIONAL)
    }


FILES = [ROOT / "train.py", *sorted((ROOT / "src").rglob("*.py"))]


def test_every_imported_package_is_declared():
    assert len(FILES) > 100
    missing = {path.relative_to(ROOT).as_posix(): undeclared(path.read_text(encoding="utf-8")) for path in FILES}
    assert {path: packages for path, packages in missing.items() if packages - EXEMPT.get(path, set())} == {}


@pytest.mark.parametrize(
    ("source", "packages"),
    [
        ("import yaml, PIL.Image\nfrom rich.table import Table", set()),
        ("import os\nfrom .near import x\nfrom digitlab.config.compose import ROOT", set()),
        ("def late():\n    import pytest", {"pytest"}),
        ("from fsspec.core import open", {"fsspec"}),  # installed, but only because others need it
        ("import no_such_package.part", {"no_such_package"}),
    ],
)
def test_a_package_that_is_only_an_indirect_dependency_counts_as_undeclared(source, packages):
    assert undeclared(source) == packages


@pytest.mark.parametrize(
    ("file", "extras"),
    [
        ("requirements.lock", ("install", "launchers", "search")),
        ("requirements-dev.lock", ("dev", "docs", "install", "launchers", "search")),
    ],
)
def test_a_lock_contains_all_dependencies_and_no_address(file, extras):
    lock = (ROOT / file).read_text(encoding="utf-8")
    asked = [requirement for extra in extras for requirement in PROJECT["optional-dependencies"][extra]]
    assert NEEDED | names(asked) - {"digitlab"} <= locked(lock).keys()
    assert "://" not in lock
    assert "-index" not in lock


def test_tests_use_the_versions_that_users_get():
    users, developers = (
        locked((ROOT / name).read_text(encoding="utf-8")) for name in ("requirements.lock", "requirements-dev.lock")
    )
    assert users.items() <= developers.items()
    assert not {"pytest", "ruff", "mypy", "mkdocs"} & users.keys()


def locked(lock: str) -> dict[str, str]:
    """The version of each distribution in the text of a lock."""
    return {normal(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", lock, re.MULTILINE)}
