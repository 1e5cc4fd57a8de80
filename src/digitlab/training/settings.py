"""Typed settings of a run that belong to no component: the trainer's, and the facts that a data set hands on."""

import dataclasses
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from digitlab.config.schema import NonNegativeInt, PositiveFloat, PositiveInt, settings
from digitlab.engine.device import PRECISIONS, Precision


@settings
class DataFacts:
    """What a network and its reader need to know of a data set: image shape (C, H, W), class names, mean and std.

    ``mean`` and ``std`` are of pixels in [0, 1], one a channel; ``margin_pixels`` as in ``digitlab.data.Source``.
    """

    name: str
    title: str
    image_shape: Annotated[list[PositiveInt], Field(min_length=3, max_length=3)]
    class_names: Annotated[list[str], Field(min_length=2)]
    mean: list[float]
    std: list[PositiveFloat]
    margin_pixels: NonNegativeInt | None = None

    def plain(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@settings
class TrainerSettings:
    """How long, where and how exactly a run trains. Every limit counts mini-batches; null is no limit.

    ``precision``: 32, 64 or bf16 (mixed: weights stay float32); on CUDA 32 computes products in TF32, 32-true does not.
    ``val_every_steps`` validates inside epochs as well as after each. ``chunk_length`` is how many mini-batches
    Lightning hands over at once: it changes nothing but speed; null chooses it by the time that they take.
    ``cuda_graphs`` has updates recorded on CUDA and replayed.
    """

    accelerator: Literal["auto", "cpu", "cuda", "mps"]
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
        """The part that Lightning's ``Trainer`` takes; what counts mini-batches stays with the loader."""
        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "strategy": self.strategy,
            "max_epochs": self.max_epochs,
            "deterministic": self.deterministic,
            "profiler": self.profiler,
        }


@settings
class CheckpointSettings:
    """When a run is saved besides at the end of each epoch: ``every_minutes`` within a long one, null for never."""

    every_minutes: PositiveFloat | None

    @property
    def every_seconds(self) -> float | None:
        return None if self.every_minutes is None else 60 * self.every_minutes
