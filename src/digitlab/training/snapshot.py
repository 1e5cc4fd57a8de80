"""The state of a run as a checkpoint: plain values and tensors, from which it goes on to the bit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import lightning
from lightning.pytorch import Trainer

from digitlab.data.chunks import Position
from digitlab.training.classifier import Classifier
from digitlab.training.metrics import Counts
from digitlab.training.selection import Point

if TYPE_CHECKING:
    from digitlab.training.recorder import Recorder


def snapshot(trainer: Trainer, classifier: Classifier, recorder: Recorder) -> dict[str, Any]:
    """Everything that decides how the run goes on; no generator, as random draws are functions of the position.

    ``state_dict``, ``hyper_parameters`` and the version stand where ``Classifier.load_from_checkpoint`` looks for them.
    """
    position = classifier.position
    return {
        "pytorch-lightning_version": lightning.__version__,
        "hyper_parameters": dict(classifier.hparams),
        "state_dict": {name: tensor.detach().clone() for name, tensor in classifier.state_dict().items()},
        "epoch": position.epoch,
        "global_step": position.total_steps,
        "optimizer_states": [trainer.optimizers[0].state_dict()],
        "position": dataclasses.asdict(position),
        "train_counts": dataclasses.asdict(classifier.train_counts),
        "history": [dataclasses.asdict(point) for point in recorder.selection.history],
        "metrics": dict(recorder.metrics),
        "rows": [dict(row) for row in recorder.rows],
        "epoch_seconds": recorder.epoch_seconds,
    }


def restore(checkpoint: dict[str, Any], classifier: Classifier) -> list[Point]:
    """Set ``classifier`` to where ``checkpoint`` was taken; returns the monitored history."""
    classifier.load_state_dict(checkpoint["state_dict"])
    classifier.optimizer_state = checkpoint["optimizer_states"][0]
    classifier.position = Position(**checkpoint["position"])
    classifier.train_counts = Counts(**checkpoint["train_counts"])
    return [Point(**point) for point in checkpoint["history"]]
