"""Describes a network and its training for the engine. ``training.Classifier.member_spec`` returns the description."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from digitlab.data.normalise import Normalise
from digitlab.engine.training_plan import TrainingPlan
from digitlab.optim.losses import Loss
from digitlab.optim.optimizers import Optimizer
from digitlab.optim.schedules import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSpec:
    """One network and the parts of its training, for a solo run or a member of a population.

    A solo run trains one network, a population trains several at once, its members. ``average`` is a copy of the
    network whose weights are the exponential moving average (None if ``ema_decay`` is None). ``image_shape`` is (C, H,
    W). If ``autocast_dtype`` is not None, layers multiply matrices in that dtype. The seed in ``plan`` determines the
    order of the images, augmentation and dropout; members with the same seed share their mini-batches.
    """

    network: nn.Module
    normalise: Normalise
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    image_shape: Sequence[int]
    classes: int
    plan: TrainingPlan
    average: nn.Module | None = None
    ema_decay: float | None = None
    gradient_clip_norm: float | None = None
    autocast_dtype: torch.dtype | None = None

    @property
    def device(self) -> torch.device:
        """The device of the network. The tensors of ``normalise`` are on the same device."""
        return self.normalise.scale.device
