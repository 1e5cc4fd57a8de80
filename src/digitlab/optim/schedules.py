"""Learning-rate schedules as closed formulas: the factor of the base learning rate at each mini-batch step.

``conf/scheduler/`` names them; ``training`` and ``engine`` use them. A schedule has no state and needs only the number
of the step. So a resumed run continues it, compiled updates get the factors of their steps as a tensor, and networks
that are trained together as a population can each have their own.
"""

import math
from abc import ABC, abstractmethod
from itertools import pairwise

from digitlab.config.schema import Fraction, NonNegativeFloat, PositiveFloat, settings
from digitlab.core.errors import ConfigError


@settings
class Schedule(ABC):
    """The base class: a linear warm-up (Goyal et al., 2017) of ``warmup_epochs`` to the first rate of the schedule.

    ``warmup_epochs`` may be a fraction of an epoch; 0 means no warm-up. The first step has a rate above 0, because
    warm-up steps are counted from 1.
    """

    warmup_epochs: NonNegativeFloat = 0.0

    def factor(self, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
        """Return the factor of the base learning rate for the next mini-batch, ``step``, counted from 0.

        ``total_steps`` is the length of the whole training. After it, the factor stays at its last value.
        """
        warmup_steps = self.warmup_epochs * steps_per_epoch
        if step + 1 < warmup_steps:
            return (step + 1) / warmup_steps * self._after_warmup(0, total_steps - warmup_steps, steps_per_epoch)
        return self._after_warmup(max(step - warmup_steps, 0), total_steps - warmup_steps, steps_per_epoch)

    @abstractmethod
    def _after_warmup(self, step: float, total_steps: float, steps_per_epoch: int) -> float:
        """Return the factor; ``step`` and ``total_steps`` are counted from the end of the warm-up."""


@settings
class Constant(Schedule):
    """The base learning rate in every step."""

    def _after_warmup(self, step: float, total_steps: float, steps_per_epoch: int) -> float:
        return 1.0


@settings
class Steps(Schedule):
    """The learning rate is multiplied by ``gamma`` at each of ``milestones_epochs``; with ``[]`` it stays constant.

    Milestones count epochs from the start of training, including the warm-up. A milestone within an epoch takes effect
    at the nearest mini-batch.
    """

    milestones_epochs: list[PositiveFloat]
    gamma: PositiveFloat = 0.1

    def __post_init__(self) -> None:
        milestones = self.milestones_epochs
        if any(later <= earlier for earlier, later in pairwise(milestones)):
            raise ConfigError("milestones_epochs", milestones, "each must be later than the one before")
        if milestones and milestones[0] < self.warmup_epochs:
            allowed = f"none may come before the end of the warm-up (warmup_epochs={self.warmup_epochs:g})"
            raise ConfigError("milestones_epochs", milestones, allowed)

    def _after_warmup(self, step: float, total_steps: float, steps_per_epoch: int) -> float:
        steps_taken = step + self.warmup_epochs * steps_per_epoch
        milestones_passed = 0
        for milestone in self.milestones_epochs:
            milestones_passed += steps_taken >= round(milestone * steps_per_epoch)
        return self.gamma**milestones_passed


@settings
class Linear(Schedule):
    """Falls from the base rate to ``final_factor`` times it in equal steps; it gets there after the last step."""

    final_factor: Fraction = 0.0

    def _after_warmup(self, step: float, total_steps: float, steps_per_epoch: int) -> float:
        return 1 + (self.final_factor - 1) * _progress(step, total_steps)


@settings
class Cosine(Schedule):
    """Falls from the base rate to ``final_factor`` times it along half a cosine wave (Loshchilov & Hutter, 2017)."""

    final_factor: Fraction = 0.0

    def _after_warmup(self, step: float, total_steps: float, steps_per_epoch: int) -> float:
        return _half_wave(1.0, self.final_factor, step, total_steps)


@settings
class OneCycle(Schedule):
    """Rises to the base rate and falls to almost zero, both along half a cosine wave (Smith & Topin, 2018).

    The base rate is the maximum, reached after the fraction ``peak_fraction`` of the training. The cycle starts at
    ``initial_factor`` times it and ends, with the last step, at ``final_factor`` times it. The paper also cycles the
    momentum in the opposite direction; this schedule does not.
    """

    initial_factor: Fraction = 0.04
    final_factor: Fraction = 4e-6
    peak_fraction: Fraction = 0.3

    def _after_warmup(self, step: float, total_steps: float, steps_per_epoch: int) -> float:
        # Each phase ends on a step, and steps are counted from 0, so 1 is subtracted. A training that is too short for
        # the first phase starts at the peak.
        peak_step = max(self.peak_fraction * total_steps - 1, 0)
        if step < peak_step:
            return _half_wave(self.initial_factor, 1.0, step, peak_step)
        return _half_wave(1.0, self.final_factor, step - peak_step, total_steps - 1 - peak_step)


def _half_wave(start: float, end: float, step: float, steps: float) -> float:
    """Return ``start`` at step 0, ``end`` from step ``steps`` on, and half a cosine wave in between."""
    return end + (start - end) * (1 + math.cos(math.pi * _progress(step, steps))) / 2


def _progress(step: float, steps: float) -> float:
    """Return 0 at step 0, 1 from step ``steps`` on, and a straight line in between; always 0 if ``steps`` is 0."""
    return min(step / steps, 1.0) if steps > 0 else 0.0
