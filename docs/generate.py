"""Writes ``docs/reference/configuration.md`` from the comments in ``conf/`` and the types of the schema.

``make docs`` calls it before it builds the site, and ``tests/test_docs.py`` checks that the committed page is current.

    python docs/generate.py
"""

import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from digitlab.config.compose import CONF
from digitlab.config.schema import describe
from digitlab.sweeps.settings import SweepSettings
from digitlab.training.early_stopping import EarlyStopping, Monitor
from digitlab.training.experiment import Ema, RunOptions
from digitlab.training.settings import CheckpointSettings

PAGE = Path(__file__).parent / "reference" / "configuration.md"
# The nodes of conf/train.yaml that name no class with _target_.
SCHEMAS: dict[str, type] = {
    "": RunOptions,
    "monitor": Monitor,
    "early_stopping": EarlyStopping,
    "checkpoint": CheckpointSettings,
    "ema": Ema,
    "sweep": SweepSettings,
}
GROUPS = {
    "data": "Data sets",
    "model": "Models",
    "loss": "Losses",
    "optimizer": "Optimizers",
    "scheduler": "Learning-rate schedules",
    "augment": "Augmentations",
    "trainer": "Devices",
    "hydra/launcher": "Launchers of a sweep",
    "hydra/sweeper": "Searches",
}
# Groups whose files only combine keys of the other groups.
COMBINATIONS = {"experiment": "Experiments", "sweep": "Search spaces", "debug": "Debugging"}
INTRODUCTION = """\
# Configuration reference

<!-- docs/generate.py writes this page. Change the comments in conf/ or the types in src/, then run `make docs`. -->

Every key of the configuration with its default value and the values that are allowed. Set a key on the command line,
for example `python train.py optimizer.lr=0.01`, and choose a file of a group by its name, for example `model=lenet`.
`python train.py --help` shows the same keys as your command line sets them.

A default such as `${...}` is computed when the configuration is composed. `null` means that the setting is off or is
chosen for you; the last column says which.
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a YAML file: its dotted key, its value as written there (empty for a node), and its comment."""

    key: str
    value: str
    comment: str


def entries(text: str) -> Iterator[Entry]:
    """Yield the keys of a YAML file of ``conf/`` in order, nested keys with dots.

    A comment that continues on the next lines belongs to the key above it. The list ``defaults:`` is skipped.
    """
    parents: list[tuple[int, str]] = []
    found: list[Entry] = []
    for line in text.splitlines():
        if found and re.match(r"\s{8,}#", line):
            last = found.pop()
            line = line.strip().removeprefix("#").strip()
            found.append(Entry(last.key, last.value, f"{last.comment} {line}"))
            continue
        match = re.match(r"( *)([\w./]+):(?: +(.*?))?(?:\s+#\s*(.*))?$", line)
        if match is None or line.startswith("#"):
            continue
        indent, name, value, comment = len(match[1]), match[2], match[3] or "", match[4] or ""
        if value.startswith("#"):  # a node with nothing but a comment
            value, comment = "", value.removeprefix("#").strip()
        parents = [parent for parent in parents if parent[0] < indent]
        found.append(Entry(".".join([*(each for _, each in parents), name]), value.strip(), comment))
        if not value:
            parents.append((indent, name))
    yield from (entry for entry in found if entry.key.partition(".")[0] != "defaults")


def description(text: str) -> str:
    """The comment lines at the top of a YAML file as one paragraph, without example commands."""
    lines = []
    for line in text.splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#") or line.startswith("#  "):
            break
        lines.append(line.removeprefix("#").strip())
    return sentence(" ".join(lines).strip().removesuffix(":"))


def sentence(text: str) -> str:
    """``text`` with a capital letter, but for a first word that is a key or a file name: then in code quotes."""
    first, _, rest = text.partition(" ")
    return f"`{first}` {rest}" if re.search(r"[=_.]\w", first) else text[:1].upper() + text[1:]


def allowed(schema: Any, name: str) -> str:
    """The values that ``schema`` allows for its argument ``name``, in words; empty where it has no such argument."""
    hints = get_type_hints(schema if hasattr(schema, "__dataclass_fields__") else schema.__init__, include_extras=True)
    return describe(hints[name]) if name in hints else ""


def target(name: str) -> type:
    """The class that a ``_target_`` names."""
    module, _, attribute = name.rpartition(".")
    found: type = getattr(importlib.import_module(module), attribute)
    return found


def table(rows: Iterator[tuple[str, str, str, str]]) -> str:
    """A Markdown table of (key, default, allowed values, meaning)."""
    lines = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for key, value, values, meaning in rows:
        cells = (f"`{key}`", f"`{value}`" if value else "", values, meaning)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def rows(path: Path, prefix: str, schemas: dict[str, type]) -> Iterator[tuple[str, str, str, str]]:
    """The rows of one YAML file whose keys stand under ``prefix``; ``schemas`` are the classes of nodes by key."""
    text = path.read_text(encoding="utf-8")
    classes = dict(schemas)
    listed = list(entries(text))
    for entry in listed:
        parent, _, name = entry.key.rpartition(".")
        if name == "_target_":
            classes[parent] = target(entry.value)
    for entry in listed:
        parent, _, name = entry.key.rpartition(".")
        if name == "_target_" or entry.key.startswith("hydra.sweeper.params"):
            continue
        schema = classes.get(parent)
        values = allowed(schema, name) if schema is not None else ""
        if entry.value or entry.comment:
            yield prefix + entry.key, entry.value, values, entry.comment


def keys_of_train() -> Iterator[str]:
    """The sections of conf/train.yaml: single values first, then one section for each node."""
    path = CONF / "train.yaml"
    classes = SCHEMAS | {"trainer": target("digitlab.training.settings.TrainerSettings")}
    listed = list(rows(path, "", classes))
    yield "## Run\n\n" + table(row for row in listed if "." not in row[0] and row[1] not in ("", "{}"))
    nodes = list(dict.fromkeys(row[0].partition(".")[0] for row in listed if "." in row[0]))
    comments = {entry.key: entry.comment for entry in entries(path.read_text(encoding="utf-8"))}
    for node in nodes:
        heading = f"## `{node}`\n\n"
        if comments.get(node):
            heading += f"{sentence(comments[node].rstrip(' ,;.'))}.\n\n"
        yield heading + table(row for row in listed if row[0].startswith(f"{node}."))


def groups() -> Iterator[str]:
    """One section for each group whose files set keys of one component."""
    for group, title in GROUPS.items():
        parts = [f"## {title}: `{group}=`"]
        for path in sorted((CONF / group).glob("*.yaml")):
            text = path.read_text(encoding="utf-8")
            prefix = "" if "@package _global_" in text else f"{group.replace('/', '.')}."
            own = table(rows(path, prefix, {}))
            parts += [f"### `{group}={path.stem}`", description(text), own]
        yield "\n\n".join(part for part in parts if part)


def combinations() -> Iterator[str]:
    """One table for each group whose files only set keys of other groups."""
    for group, title in COMBINATIONS.items():
        lines = [f"## {title}: `{group}=`", "", "| name | what it sets |", "|---|---|"]
        for path in sorted((CONF / group).glob("*.yaml")):
            text = path.read_text(encoding="utf-8")
            yaml.safe_load(text)  # a file that is not YAML has no place in the table
            lines.append(f"| `{path.stem}` | {description(text).replace('|', chr(92) + '|')} |")
        yield "\n".join(lines)


def configuration() -> str:
    """The whole page."""
    return "\n\n".join([INTRODUCTION.rstrip(), *keys_of_train(), *groups(), *combinations()]) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(configuration(), encoding="utf-8")
