"""Compares the folders of two runs or sweeps bit by bit, for ``compare_revisions.py``.

Times, versions, hardware, commands and folder names are not compared. Everything in the old folder must be in the new
one; additions in the new folder are notes.
"""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_CHECKPOINTS = ("last.ckpt", "best.ckpt")
_RESULT_FIELDS = (
    "status", "metrics", "best_epoch", "epochs", "halved_after_epoch", "parameters", "seed", "split_fingerprint"
)  # fmt: skip
# Columns of metrics.csv and sweep.csv that do not belong to the result.
_IGNORED_COLUMNS = ("train_seconds", "images_per_second", "error", "folder")


@dataclass(slots=True)
class Comparison:
    """The result of a comparison: lines that begin with the place to which they refer.

    Without ``differences``, the two are equal. ``notes`` are remarks, for example on something new.
    """

    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: "Comparison", *, within: str) -> None:
        """Add what ``other`` found in the part ``within``."""
        self.differences += [f"{within}: {line}" for line in other.differences]
        self.notes += [f"{within}: {line}" for line in other.notes]


def compare_folders(old: Path, new: Path, *, renamed: Mapping[str, str]) -> Comparison:
    """Compare all runs and sweep tables below two folders; ``renamed`` maps old configuration keys to new ones."""
    result = Comparison()
    old_files, new_files = _files(old), _files(new)
    if not old_files:
        result.differences.append("the old revision wrote no results")
    for name in new_files.keys() - old_files.keys():
        result.notes.append(f"{name}: only the new revision wrote it")
    for name, path in old_files.items():
        if name not in new_files:
            result.differences.append(f"{name}: only the old revision wrote it")
            continue
        result.add(_compare_files(path, new_files[name], renamed=renamed), within=name)
    return result


def _files(folder: Path) -> dict[str, Path]:
    """Return the files to compare by relative path.

    The folder of a job has the name ``NUMBER_OVERRIDES``. Only the number counts, because keys can have new names.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.name in (*_CHECKPOINTS, "result.json") or path.suffix == ".csv":
            parts = path.relative_to(folder).parts
            files["/".join(re.sub(r"^(\d+)_.*=.*", r"\1", part) for part in parts)] = path
    return files


def _compare_files(old: Path, new: Path, *, renamed: Mapping[str, str]) -> Comparison:
    if old.suffix == ".csv":
        return compare_tables(old.read_text(encoding="utf-8"), new.read_text(encoding="utf-8"), renamed=renamed)
    if old.suffix == ".json":
        return compare_results(json.loads(old.read_text(encoding="utf-8")), json.loads(new.read_text(encoding="utf-8")))
    old_checkpoint, new_checkpoint = (torch.load(path, map_location="cpu", weights_only=True) for path in (old, new))
    return compare_checkpoints(old_checkpoint, new_checkpoint)


def compare_tables(old: str, new: str, *, renamed: Mapping[str, str]) -> Comparison:
    """Compare two CSV texts, cell by cell, without the columns of times, errors and folders."""
    rows = [list(csv.DictReader(io.StringIO(text))) for text in (old, new)]
    if len(rows[0]) != len(rows[1]):
        return Comparison([f"{len(rows[0])} rows in the old table, {len(rows[1])} in the new one"])
    cells = [
        {
            f"row {number}, {renamed.get(column, column)}": value
            for number, row in enumerate(table, 1)
            for column, value in row.items()
            if column not in _IGNORED_COLUMNS
        }
        for table in rows
    ]
    return _compare_leaves(*cells)


def compare_results(old: Mapping[str, Any], new: Mapping[str, Any]) -> Comparison:
    """Compare the parts of two ``result.json`` that belong to the result itself."""
    return _compare_leaves(dict(_leaves(_result_fields(old))), dict(_leaves(_result_fields(new))))


def _result_fields(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in _RESULT_FIELDS if name in result}


def compare_checkpoints(old: Mapping[str, Any], new: Mapping[str, Any]) -> Comparison:
    """Compare the ``state_dict`` and the optimizer state of two checkpoints."""
    result = Comparison()
    result.add(compare_tensors(old["state_dict"], new["state_dict"]), within="state_dict")
    (old_tensors, old_values), (new_tensors, new_values) = _optimizer(old), _optimizer(new)
    result.add(compare_tensors(old_tensors, new_tensors), within="optimizer")
    result.add(_compare_leaves(old_values, new_values), within="optimizer")
    return result


def _optimizer(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the other values of the optimizer state, by their paths in it."""
    key = next((key for key in checkpoint if "optimizer" in key), None)
    leaves = [] if key is None else list(_leaves(checkpoint[key]))
    tensors = {name: value for name, value in leaves if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in leaves if name not in tensors}


def _leaves(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the values in nested dicts and lists with their paths, such as ``0/state/1/exp_avg``."""
    if isinstance(value, Mapping):
        entries: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        entries = enumerate(value)
    else:
        yield name, value
        return
    for key, entry in entries:
        yield from _leaves(entry, f"{name}/{key}" if name else str(key))


def _compare_leaves(old: Mapping[str, Any], new: Mapping[str, Any]) -> Comparison:
    result = Comparison(notes=[f"{name}: is new" for name in new if name not in old])
    for name, value in old.items():
        if name not in new:
            result.differences.append(f"{name}: is missing in the new revision")
        # Compared as text, because nan is then equal to itself. The text of a float has all its digits.
        elif repr(value) != repr(new[name]):
            result.differences.append(f"{name}: {value} became {new[name]}{_distance(value, new[name])}")
    return result


def _distance(old: Any, new: Any) -> str:
    try:
        return f" (by {abs(float(old) - float(new)):.3g})"
    except (TypeError, ValueError):
        return ""


def compare_tensors(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> Comparison:
    """Compare named tensors.

    If the names differ, the first tensor of a shape is compared with the first of that shape on the other side, the
    second with the second, and so on. A note then says so.
    """
    result = Comparison()
    pairs = [(name, name) for name in old]
    if old.keys() != new.keys():
        paired = _pairs_by_shape(old, new)
        if paired is None:
            names = ", ".join(sorted(old.keys() ^ new.keys())[:4])
            return Comparison([f"{len(old)} tensors became {len(new)}, or other shapes; names of one only: {names}"])
        pairs = paired
        first = next(pair for pair in pairs if pair[0] != pair[1])
        result.notes.append(f"names differ ({first[0]} became {first[1]}): compared by order and shape")
    for old_name, new_name in pairs:
        if (text := tensor_difference(old[old_name], new[new_name])) is not None:
            result.differences.append(f"{old_name}: {text}")
    return result


def _pairs_by_shape(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> list[tuple[str, str]] | None:
    """Return pairs of names: tensors with the same place among those of their shape. None if the shapes differ."""
    unpaired: dict[Sequence[int], list[str]] = defaultdict(list)
    for name, tensor in new.items():
        unpaired[tensor.shape].append(name)
    pairs = []
    for name, tensor in old.items():
        if not unpaired[tensor.shape]:
            return None
        pairs.append((name, unpaired[tensor.shape].pop(0)))
    return None if any(unpaired.values()) else pairs


def tensor_difference(old: Tensor, new: Tensor) -> str | None:
    """Return what differs between two tensors and by how much; None if dtype, shape and all bits are the same."""
    if old.dtype != new.dtype or old.shape != new.shape:
        return f"{old.dtype} {list(old.shape)} became {new.dtype} {list(new.shape)}"
    if old.numel() == 0:
        return None
    # The bytes of each value, one value per row. Equal bytes include nan, which is not equal to itself as a number.
    bits = [tensor.reshape(-1).contiguous().view(torch.uint8).view(old.numel(), -1) for tensor in (old, new)]
    if torch.equal(*bits):
        return None
    differing = (bits[0] != bits[1]).any(dim=1)
    distances = (old.reshape(-1)[differing].double() - new.reshape(-1)[differing].double()).abs()
    finite = distances[distances.isfinite()]
    largest = f"by at most {finite.max().item():.3g}" if len(finite) else "none by a finite amount"
    infinite = f", {len(distances) - len(finite)} in nan or inf" if len(finite) < len(distances) else ""
    return f"{int(differing.sum())} of {old.numel()} values differ, {largest}{infinite}"
