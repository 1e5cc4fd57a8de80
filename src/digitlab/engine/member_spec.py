"""What the engine needs to know about each network that it trains; ``Classifier.member_spec`` returns it."""

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
    """One network and how it is trained: a solo run, or a member of a population.

    ``average`` holds the exponential moving average of the weights (None without ``ema_decay``). ``image_shape`` is
    (C, H, W). With ``autocast_dtype`` products are computed in that precision. The seed in ``plan`` decides the order
    of the images, augmentation and dropout; members with the same seed share their mini-batches.
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
        """Where the network is."""
        return self.normalise.scale.device
