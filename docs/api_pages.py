"""A hook of MkDocs: one page of the API reference for each package of digitlab, from the docstrings in ``src/``.

``mkdocs.yml`` names this file. The pages exist only in the built site, so that they are never out of date.
"""

import ast
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "digitlab"


def summary(path: Path) -> str:
    """The first paragraph of a module's docstring, with code in single backticks, as Markdown has it."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n\n")[0].replace("\n", " ").replace("``", "`")


def modules(package: Path) -> list[Path]:
    """The files of the public modules of a package and of its subpackages, in alphabetical order."""
    files = (path for path in sorted(package.rglob("*.py")) if not any(part.startswith("_") for part in path.parts))
    return [path for path in files if "class " in (text := path.read_text(encoding="utf-8")) or "def " in text]


def page(package: Path) -> str:
    """The page of one package: what it is for, then every module with its public classes and functions."""
    # Searches show the pages that people wrote before these.
    parts = ["---\nsearch:\n  boost: 0.3\n---", f"# digitlab.{package.name}", summary(package / "__init__.py")]
    for path in modules(package):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        options = "    options:\n      show_root_heading: false\n      show_root_toc_entry: false"
        parts.append(f"## {name.removeprefix('digitlab.')}\n\n::: {name}\n{options}")
    return "\n\n".join(parts) + "\n"


def index(listed: list[Path]) -> str:
    """The page that lists the packages."""
    lines = [
        "# Python API",
        "",
        "Made from the docstrings in `src/digitlab`. Shapes are written with the letters of the"
        " [glossary](../../contributing.md#glossary): N images, C channels, H rows, W columns, K classes.",
        "",
        "| package | what it contains |",
        "|---|---|",
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
    pages = [{package.name: f"reference/api/{package.name}.md"} for package in packages()]
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
    for package in packages():
        files.append(File.generated(config, f"reference/api/{package.name}.md", content=page(package)))
    return files
