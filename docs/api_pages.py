"""A hook of MkDocs: one page of the API reference for each package of digitlab, from the docstrings in ``src/``.

``mkdocs.yml`` names this file. The pages exist only in the built site, so that they are never out of date.
"""

import ast
import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "digitlab"


# Searches show the pages that people wrote before these.
FRONT_MATTER = "---\nsearch:\n  boost: 0.3\n---"
# What ``import digitlab`` offers, in the order of its page.
USER_API = {
    "Training": ["train", "sweep", "resume", "Stopper"],
    "Finished runs": ["runs", "open", "Run", "Sweep", "compare_runs", "load"],
    "Code of your own": ["allow"],
    "Errors": ["DigitlabError", "ConfigError", "DataError", "RunError", "Interrupted"],
}


def summary(path: Path) -> str:
    """The first paragraph of a module's docstring, with code in single backticks, as Markdown has it."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("``", "`")


def modules(package: Path) -> dict[Path, list[str]]:
    """The modules of a package and of its subpackages, in alphabetical order, and what is public in each of them."""
    files = (path for path in sorted(package.rglob("*.py")) if not any(part.startswith("_") for part in path.parts))
    found = {path: public_names(path) for path in files}
    return {path: names for path, names in found.items() if names}


def public_names(path: Path) -> list[str]:
    """The public classes and functions that a module defines and explains. Imported ones have their entry elsewhere."""
    return [
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is not None
    ]


def page(package: Path) -> str:
    """The page of one package: what it is for, then every module with its public classes and functions."""
    name = f"digitlab.{package.name}"
    parts = [FRONT_MATTER, f"# {name} {{ #{name} }}", reference(name, [])]
    for path, members in modules(package).items():
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        parts.append(f"## {name.removeprefix('digitlab.')} {{ #{name} }}\n\n{reference(name, members)}")
    return "\n\n".join(parts) + "\n"


def reference(name: str, members: list[str]) -> str:
    """The lines that mkdocstrings replaces by the docstring of a module and by these members of it."""
    options = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false"
    return f"::: {name}\n{options}\n      members: {json.dumps(members)}"


def user_page() -> str:
    """The page of what ``import digitlab`` offers."""
    parts = [
        "# digitlab",
        "What `import digitlab` offers. [Python and notebooks](../../guide/python.md) shows how to use it.",
    ]
    for title, names in USER_API.items():
        parts.append(f"## {title}")
        parts += [f"::: digitlab.{name}\n    options:\n      heading: digitlab.{name}" for name in names]
    return "\n\n".join(parts) + "\n"


def index(listed: list[Path]) -> str:
    """The page that lists the packages."""
    lines = [
        "# Python API",
        "",
        "To train and to read finished runs, you need only [`digitlab`](digitlab.md): `train`, `sweep`, `open`, `Run`"
        " and so on. The other pages describe the packages behind it, for those who add something to digitlab or"
        " change it. The [architecture](../../architecture.md) shows how they depend on each other.",
        "",
        "The pages are made from the docstrings in `src/digitlab`. Shapes are written with the letters of the"
        " [glossary](../../contributing.md#glossary): N images, C channels, H rows, W columns, K classes.",
        "",
        "| package | what it contains |",
        "|---|---|",
        "| [`digitlab`](digitlab.md) | what `import digitlab` offers |",
    ]
    lines += [
        f"| [`{each.name}`]({each.name}.md) | {summary(each / '__init__.py').replace('|', chr(92) + '|')} |"
        for each in listed
    ]
    return "\n".join(lines) + "\n"


def packages() -> list[Path]:
    return sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


def on_config(config: MkDocsConfig, **_: Any) -> MkDocsConfig:
    """Put a page for each package under the entry of the navigation that names the index."""
    names = ["digitlab", *(package.name for package in packages())]
    pages = [{name: f"reference/api/{name}.md"} for name in names]
    for section in config.nav or []:
        for entries in section.values():
            for entry in entries if isinstance(entries, list) else []:
                for title, target in entry.items():
                    if target == "reference/api/index.md":
                        entry[title] = [target, *pages]
    return config


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Add the generated pages to those in ``docs/``."""
    files.append(File.generated(config, "reference/api/index.md", content=index(packages())))
    files.append(File.generated(config, "reference/api/digitlab.md", content=user_page()))
    for package in packages():
        files.append(File.generated(config, f"reference/api/{package.name}.md", content=page(package)))
    return files
