"""``digitlab init``: make a small project with a network, a data set, a test and a notebook of its own."""

import keyword
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from digitlab.cli.app import app
from digitlab.core.errors import ConfigError
from digitlab.core.files import disk_faults

# Each file of the template has the extension .txt after its own, so that no tool takes it for a part of digitlab.
_TEMPLATE = Path(__file__).parent / "template"
# Stands for the name of the project in the names and the contents of the template's files.
_PLACEHOLDER = "PROJECT"
# Git would ignore files that the template's own .gitignore names, and setuptools leaves out hidden files.
_HIDDEN = {"gitignore": ".gitignore"}


@app.command()
def init(
    folder: Annotated[
        Path, typer.Argument(metavar="NAME", help="The new folder. Its name is also that of the Python package in it.")
    ],
) -> None:
    """Make a project that uses digitlab: train.py, conf/, a network, a data set, a test, a notebook and a README."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError("NAME", folder, "is there already and is not empty: choose another name")
    name = folder.resolve().name
    _refuse_name(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("NAME", folder, f"can't be made: {error.strerror}") from error
    with disk_faults(folder):
        for path, content in _files(name):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content, encoding="utf-8", newline="\n")
            print(folder / path)
    print(f"next: cd {folder}, then: python train.py model=small_cnn data=shapes")


def _refuse_name(name: str) -> None:
    if not (name.isidentifier() and name.isascii()) or keyword.iskeyword(name):
        similar = "_".join(re.findall(r"[A-Za-z0-9]+", name)).lower()
        hint = f", for example {similar}" if similar.isidentifier() and not keyword.iskeyword(similar) else ""
        allowed = f"must be a name for a Python package: letters, digits and _, first a letter{hint}"
        raise ConfigError("NAME", name, allowed)
    if name in ("conf", "data", "outputs", "tests", "train"):
        raise ConfigError("NAME", name, "is the name of a folder or file within the project: choose another name")
    if name in sys.stdlib_module_names or find_spec(name) is not None:
        raise ConfigError("NAME", name, "is the name of an installed Python module: choose another name")


def _files(name: str) -> Iterator[tuple[Path, str]]:
    """Yield the path, within the project, and the content of each file of the template."""
    for path in sorted(_TEMPLATE.rglob("*.txt")):
        relative = path.relative_to(_TEMPLATE).with_suffix("")
        parts = [_HIDDEN.get(part, part.replace(_PLACEHOLDER, name)) for part in relative.parts]
        yield Path(*parts), path.read_text(encoding="utf-8").replace(_PLACEHOLDER, name)
