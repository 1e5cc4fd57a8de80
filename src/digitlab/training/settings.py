"""Typed settings of a run: those of the trainer and of checkpoints, and the facts that a data set passes on.

``experiment`` builds them from the configuration, and ``setup`` passes them to the classifier.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field

from digitlab.config.compose import build
from digitlab.config.schema import NonNegativeInt, PositiveFloat, PositiveInt, settings
from digitlab.core.signals import StopSignal
from digitlab.engine.device import PRECISIONS, Precision
from digitlab.engine.training_plan import TrainingPlan
from digitlab.optim.losses import Loss
from digitlab.optim.optimizers import Optimizer
from digitlab.optim.schedules import Schedule
from digitlab.training.accelerator import Accelerator, choose_accelerator


@settings
class DataFacts:
    """The facts about a data set that a checkpoint stores: image shape (C, H, W), class names, mean and std.

    ``mean`` and ``std`` have one value per channel, for pixels in [0, 1]. ``margin_pixels`` and ``unknown_class`` are
    as in ``digitlab.data.Source``. ``train_counts`` has the number of training images of each class. ``fingerprint``
    identifies the files of a user's data set; it is None for a published one. Checkpoints of older versions have
    neither ``train_counts`` nor ``fingerprint``.
    """

    name: str
    title: str
    image_shape: Annotated[list[PositiveInt], Field(min_length=3, max_length=3)]
    class_names: Annotated[list[str], Field(min_length=2)]
    mean: list[float]
    std: list[PositiveFloat]
    margin_pixels: NonNegativeInt | None = None
    unknown_class: str | None = None
    train_counts: list[NonNegativeInt] | None = None
    fingerprint: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """``image_shape`` as the tuple (C, H, W) that networks take."""
        channels, height, width = self.image_shape
        return channels, height, width

    @property
    def known_classes(self) -> list[int]:
        """The labels of all classes without ``unknown_class``, which stands for images of no class."""
        return [label for label, name in enumerate(self.class_names) if name != self.unknown_class]

    def plain(self) -> dict[str, Any]:
        """Return the facts as plain values, which a checkpoint can store."""
        return dataclasses.asdict(self)


@settings
class TrainerSettings:
    """How long, on which device and in which precision a run trains. Limits count mini-batches; null means no limit.

    ``precision`` is 32, 32-true, 64 or bf16. On CUDA, 32 computes matrix products in TF32, and 32-true in float32. With
    bf16 only products are bfloat16, and weights stay float32. ``val_every_steps`` adds validations inside epochs.
    ``chunk_length`` is the number of mini-batches that Lightning passes to one ``training_step``: it affects only the
    speed, and null chooses it by measuring the time. ``strategy`` is ``ddp`` for several devices: one process for each,
    which share every mini-batch. ``cuda_graphs`` records the kernels of updates on CUDA as a graph and replays it,
    which saves the time of launching each kernel.
    """

    accelerator: Accelerator
    devices: PositiveInt
    strategy: Literal["auto", "ddp"]
    max_epochs: PositiveInt
    max_steps: PositiveInt | None
    precision: Precision
    gradient_clip_norm: PositiveFloat | None
    val_every_steps: PositiveInt | None
    limit_train_batches: PositiveInt | None
    limit_val_batches: PositiveInt | None
    limit_test_batches: PositiveInt | None
    overfit_batches: PositiveInt | None
    chunk_length: PositiveInt | None
    log_every_steps: PositiveInt
    deterministic: bool
    progress_bar: bool
    profiler: Literal["simple", "advanced"] | None
    cuda_graphs: bool = True

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[str(self.precision)]

    def lightning(self) -> dict[str, Any]:
        """Return the arguments for Lightning's ``Trainer``. The data loader applies the limits, which count batches."""
        return {
            "accelerator": choose_accelerator(self.accelerator),
            "devices": self.devices,
            "strategy": self.strategy,
            "max_epochs": self.max_epochs,
            "deterministic": self.deterministic,
            "profiler": self.profiler,
        }


@settings
class CheckpointSettings:
    """When a run is saved inside an epoch: ``every_minutes`` (null: never). It is always saved after each epoch."""

    every_minutes: PositiveFloat | None

    @property
    def every_seconds(self) -> float | None:
        return None if self.every_minutes is None else 60 * self.every_minutes


class LearningParts(NamedTuple):
    """How a network learns: loss, optimizer settings and schedule, built from the nodes of the configuration."""

    loss: Loss
    optimizer: Optimizer
    schedule: Schedule

    @classmethod
    def build(cls, loss: dict[str, Any], optimizer: dict[str, Any], scheduler: dict[str, Any]) -> "LearningParts":
        """Build the nodes. Raises ``ConfigError`` for a bad setting."""
        return cls(
            build(loss, "loss", Loss), build(optimizer, "optimizer", Optimizer), build(scheduler, "scheduler", Schedule)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a run makes its updates: the arguments of the classifier that a checkpoint does not store.

    ``plan`` has the length of the training and its progress; a network that is only evaluated has none. ``parts`` are
    given if the check of the configuration has built them already. ``precision`` is that of matrix products; with 64,
    weights have it, too. ``compiling`` and ``cuda_graphs`` allow updates that are compiled or captured as CUDA graphs.
    The loss of every ``log_every_steps``-th mini-batch is logged. ``stop_signal`` stops the run.
    """

    plan: TrainingPlan | None = None
    parts: LearningParts | None = None
    precision: Precision = 32
    compiling: bool | Literal["auto"] = False
    cuda_graphs: bool = True
    log_every_steps: int = 50
    stop_signal: StopSignal = field(default_factory=StopSignal)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of matrix products. The weights have it as well if it is float64, and are float32 otherwise."""
        return PRECISIONS[str(self.precision)]

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The dtype of matrix products if it differs from that of the weights; else None."""
        return torch.bfloat16 if self.dtype == torch.bfloat16 else None
