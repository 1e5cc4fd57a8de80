"""Fixtures: whole runs of the real configuration on a small part of MNIST, and their files without times."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from digitlab.config.compose import compose
from digitlab.engine import fused_calls
from digitlab.engine.aot_cache import CompiledCall, CompilerError, FlatFunction
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training import Outcome, train

SMALL = (
    "trainer=cpu",
    "trainer.progress_bar=false",
    "trainer.max_epochs=2",
    "trainer.limit_test_batches=2",
    "early_stopping=null",
    "data.train_size=1000",
    "data.val_size=200",
    "data.batch_size=64",
    "model.hidden=[16]",
    "test=none",
)
_TIMES = ("train_seconds", "images_per_second")


@dataclass(frozen=True)
class Finished:
    """A finished run, and the parts of its files that must not depend on the machine."""

    outcome: Outcome

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.outcome.folder)

    @property
    def result(self) -> dict[str, Any]:
        return self.outcome.result

    def checkpoint(self, which: str = "last") -> dict[str, Any]:
        """The checkpoint without times and without the sizes of event files, which differ between equal runs."""
        checkpoint = read_checkpoint(self.folder.best if which == "best" else self.folder.last)
        rows = [{key: value for key, value in row.items() if key not in _TIMES} for row in checkpoint["rows"]]
        return {key: value for key, value in checkpoint.items() if key not in ("epoch_seconds", "events")} | {
            "rows": rows
        }

    def rows(self) -> list[dict[str, str]]:
        """``metrics.csv`` as written, without its times."""
        with self.folder.metrics.open(encoding="utf-8") as file:
            return [{key: value for key, value in row.items() if key not in _TIMES} for row in csv.DictReader(file)]


def difference(one: Any, other: Any, path: str = "") -> str | None:
    """The path of the first entry in which two checkpoints differ, or None if they are equal to the bit."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        return None if same else path
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if one.keys() != other.keys():
            return f"{path}: {sorted(map(str, one.keys() ^ other.keys()))}"
        return next((found for key in one if (found := difference(one[key], other[key], f"{path}/{key}"))), None)
    if isinstance(one, Sequence) and not isinstance(one, str) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return next((found for i, (a, b) in pairs if (found := difference(a, b, f"{path}/{i}"))), None)
    # By repr, nan equals nan.
    return None if repr(one) == repr(other) else f"{path}: {one} != {other}"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Finished]:
    """``run("model=lenet", ...)`` trains on 1,000 images of MNIST, in ``tmp_path/name`` (by default a new folder).

    With ``typed=False`` the settings are those of a file, not of a command line.
    """

    def finish(*overrides: str, name: str | None = None, resume: bool = False, typed: bool = True) -> Finished:
        folder = tmp_path / (name or f"run{len(list(tmp_path.iterdir()))}")
        small = [
            override for override in SMALL if not (override.startswith("model.") and "model=" in "".join(overrides))
        ]
        config = compose([*small, *overrides])
        return Finished(train(config, folder=folder, overrides=overrides if typed else [], resume=resume))

    return finish


@pytest.fixture
def same_bits() -> Callable[..., None]:
    """``same_bits(one, other)`` asserts that two runs left the same checkpoints and the same ``metrics.csv``."""

    def compare(one: Finished, other: Finished) -> None:
        for which in ("last", "best"):
            found = difference(one.checkpoint(which), other.checkpoint(which))
            assert found is None, f"{which}.ckpt differs at {found}"
        assert one.rows() == other.rows()

    return compare


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make ``compile=true`` run its program without compiling it; return the number of updates of each call so far."""
    calls: list[int] = []

    def as_it_is(
        function: Callable[[int], FlatFunction],
        examples: Callable[[int], list[torch.Tensor]],
        *,
        steps: int,
        may_compile: bool = True,
        dynamic: Sequence[bool] | None = None,
    ) -> CompiledCall:
        if not may_compile:
            raise CompilerError("it was not compiled before")

        def call(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
            calls.append(steps)
            return list(function(steps)(*tensors))

        return call

    monkeypatch.setattr(fused_calls, "compile_or_load", as_it_is)
    return calls
