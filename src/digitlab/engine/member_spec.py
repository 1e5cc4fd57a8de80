"""What the stacked runner needs to know about each member of a population; ``Classifier.member_spec`` returns it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from digitlab.data.normalise import Normalise
from digitlab.optim.losses import Loss
from digitlab.optim.optimizers import Optimizer
from digitlab.optim.schedules import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberSpec:
    """One network and how it is trained.

    ``average`` holds the exponential moving average of the weights (None without ``ema_decay``). ``image_shape`` is
    (C, H, W). ``steps_per_epoch`` and ``total_steps`` count mini-batches. ``seed`` decides the order of the images,
    augmentation and dropout; members with the same seed share their mini-batches.
    """

    network: nn.Module
    average: nn.Module | None
    normalise: Normalise
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    seed: int
    image_shape: Sequence[int]
    classes: int
    steps_per_epoch: int
    total_steps: int
    ema_decay: float | None
    gradient_clip_norm: float | None
