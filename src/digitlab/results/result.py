"""Builds the content of ``result.json`` for every run, whether it finished, was stopped or failed.

Runs that train alone use it, and members of a population: runs that train together as one stacked network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from digitlab.results import environment
from digitlab.results.checkpoint_name import CheckpointName

Status = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Tested:
    """The checkpoint to which the metrics of a result belong. ``epoch`` counts from 1; it may be an incomplete one."""

    checkpoint: CheckpointName
    epoch: int


@dataclass(frozen=True, slots=True)
class CheckpointMetrics:
    """The metrics of one checkpoint, keyed ``train/…``, ``val/…`` and, after a test, ``test/…``.

    A run without a checkpoint has no metrics, and ``tested`` is None.
    """

    tested: Tested | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, checkpoint: Mapping[str, Any], name: CheckpointName, test_metrics: Mapping[str, float] | None = None
    ) -> "CheckpointMetrics":
        """Return the metrics that ``checkpoint``, the content of ``name``.ckpt, contains, and its ``test_metrics``."""
        position = checkpoint["position"]
        # After a whole epoch the position is the start of the next one.
        epoch = position["epoch"] + (position["step"] > 0)
        return cls(Tested(name, epoch), checkpoint["metrics"] | (test_metrics or {}))


def run_result(
    *,
    status: Status,
    measured: CheckpointMetrics,
    best_epoch: int | None,
    epochs: int,
    train_seconds: float,
    images_per_second: float | None,
    parameters: int | None,
    seed: int | None,
    split_fingerprint: str | None,
    overrides: Sequence[str],
    device: torch.device | None,
    threads: int | None = None,
    command: str | None = None,
    error: BaseException | None = None,
) -> dict[str, Any]:
    """Return the content of ``result.json``.

    ``split_fingerprint`` identifies the images of the training and the validation split. ``parameters``, ``seed`` and
    other values are None if the run failed before it had them, and so is ``device``. ``threads`` is the number of
    threads of the updates. ``command`` is by default the one that runs ``overrides`` again. ``error`` is the reason why
    the run failed or stopped.
    """
    result = {
        "status": status,
        "metrics": dict(measured.metrics),
        "tested": None if measured.tested is None else asdict(measured.tested),
        "best_epoch": best_epoch,
        "epochs": epochs,
        "train_seconds": train_seconds,
        "images_per_second": images_per_second,
        "parameters": parameters,
        "seed": seed,
        "split_fingerprint": split_fingerprint,
        "overrides": list(overrides),
        "command": environment.command(overrides) if command is None else command,
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
        "hardware": None if device is None else environment.hardware(device, threads=threads),
    }
    return result if error is None else result | {"error": f"{type(error).__name__}: {error}"}
