"""Finds what a user may have meant by a key that does not exist. ``cli_errors`` and ``command_line`` use it."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from digitlab.core.files import read_yaml

# Names of settings in other programs, and the keys that they have here.
_COMMON_NAMES = {
    "epochs": "trainer.max_epochs", "num_epochs": "trainer.max_epochs", "n_epochs": "trainer.max_epochs",
    "max_epoch": "trainer.max_epochs", "steps": "trainer.max_steps", "learning_rate": "optimizer.lr",
    "batch": "data.batch_size", "batchsize": "data.batch_size", "bs": "data.batch_size", "wd": "optimizer.weight_decay",
    "l2": "optimizer.weight_decay", "opt": "optimizer", "dataset": "data", "net": "model", "network": "model",
    "arch": "model", "hidden_size": "model.hidden", "layers": "model.hidden", "device": "trainer",
    "gpus": "trainer.devices", "random_seed": "seed", "data_dir": "data.root", "lr_scheduler": "scheduler",
    "criterion": "loss", "output": "hydra.run.dir", "output_dir": "hydra.run.dir", "out": "hydra.run.dir",
}  # fmt: skip


def full_keys(name: str, keys: Iterable[str]) -> list[str]:
    """Return the keys that ``name`` can stand for: those that end in ``.name``, or the key of this common name."""
    longer = [key for key in keys if key.endswith(f".{name}")]
    return longer or [key for common, key in _COMMON_NAMES.items() if common == name]


def options_with(key: str, groups: Path) -> list[str]:
    """Return the options whose files in ``conf/`` define ``key``: ``optimizer.momentum`` gives ``optimizer=sgd``, …"""
    group = key.partition(".")[0]
    return [f"{group}={name}" for name, keys in _keys_of_options(groups / group).items() if key in keys]


def option_keys(groups: Path) -> list[str]:
    """Return every key that some option of some group defines, as ``optimizer.momentum``."""
    found = (keys for group in sorted(groups.iterdir()) for keys in _keys_of_options(group).values())
    return list(dict.fromkeys(key for keys in found for key in sorted(keys)))


def similar_names(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Return the ``count`` most similar names, best first. Names that contain ``name`` come before others."""

    def similarity(other: str) -> tuple[bool, float]:
        low, own = other.casefold(), name.casefold()
        return own in low, difflib.SequenceMatcher(None, own, low).ratio()

    return sorted(names, key=similarity, reverse=True)[:count]


@cache
def _keys_of_options(folder: Path) -> dict[str, set[str]]:
    # Experiments, sweeps and debug settings set keys of other groups, so they define no keys of their own.
    if not folder.is_dir() or folder.name in ("experiment", "sweep", "debug", "hydra"):
        return {}
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        content = read_yaml(path)
        if not isinstance(content, Mapping):
            continue
        # A file with "@package _global_" holds the node of its own group under the group's name.
        node = content.get(folder.name, content)
        found[path.stem] = {f"{folder.name}.{name}" for name in _paths(node)}
    return found


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    if not isinstance(node, Mapping):
        return
    for name, value in node.items():
        if name not in ("_target_", "defaults"):
            yield f"{prefix}{name}"
            yield from _paths(value, f"{prefix}{name}.")
