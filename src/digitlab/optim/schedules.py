"""Learning-rate schedules in closed form: what the base rate is multiplied by at each mini-batch step.

A schedule has no state, so a run that resumes, a compiled chunk or a population with a schedule a member needs nothing
but the number of the step: it asks for the factors of the steps ahead and makes a tensor of them.
"""

import math
from abc import ABC, abstractmethod
from itertools import pairwise

from digitlab.config.schema import Fraction, NonNegativeFloat, PositiveFloat, settings
from digitlab.core.errors import ConfigError


@settings
class Schedule(ABC):
    """What all schedules share: a linear warm-up (Goyal et al., 2017) to the rate at which the schedule starts.

    Warm-up steps are counted from one, so the first step learns already. ``warmup_epochs`` may be a part of an epoch; 0
    turns the warm-up off.
    """

    warmup_epochs: NonNegativeFloat = 0.0

    def factor(self, step: int, *, steps_per_epoch: int, total_steps: int) -> float:
        """The multiplier of the base learning rate for the mini-batch ``step`` that is about to be taken, from 0.

        ``total_steps`` is the length of the whole training. Beyond it a schedule stays where it ended.
        """
        warmup_steps = self.warmup_epochs * steps_per_epoch
        if step + 1 < warmup_steps:
            return (step + 1) / warmup_steps * self._after_warmup(0, total_steps - warmup_steps, steps_per_epoch)
        return self._after_warmup(max(step - warmup_steps, 0), total_steps - warmup_steps, steps_per_epoch)

    @abstractmethod
    def _after_warmup(self, step: float, total_steps: float, steps_per_epoch: int) -> float:
        """The factor with both counts taken from the end of the warm-up."""


@settings
class Constant(Schedule):
    """The base rate throughout."""

    def _after_warmup(self, step: float, total_steps: float, steps_per_epoch: int) -> float:
        return 1.0


@settings
class Steps(Schedule):
    """The rate times ``gamma`` at each of ``milestones_epochs``; ``[]`` never lowers it.

    Milestones count from the start of training, warm-up included; one inside an epoch takes effect at the nearest
    mini-batch.
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
        passed = 0
        for milestone in self.milestones_epochs:
            passed += steps_taken >= round(milestone * steps_per_epoch)
        return self.gamma**passed


@settings
class Linear(Schedule):
    """In equal steps from the base rate to ``final_factor`` times it, reached when the last step has been taken."""

    final_factor: Fraction = 0.0

    def _after_warmup(self, step: float, total_steps: float, steps_per_epoch: int) -> float:
        return 1 + (self.final_factor - 1) * _progress(step, total_steps)


@settings
class Cosine(Schedule):
    """Half a cosine wave from the base rate down to ``final_factor`` times it (Loshchilov & Hutter, 2017)."""

    final_factor: Fraction = 0.0

    def _after_warmup(self, step: float, total_steps: float, steps_per_epoch: int) -> float:
        return _half_wave(1.0, self.final_factor, step, total_steps)


@settings
class OneCycle(Schedule):
    """Up to the base rate and down to almost nothing, both along half a cosine wave (Smith & Topin, 2018).

    The base rate is the maximum. It is reached after ``peak_fraction`` of the training; the cycle begins at
    ``initial_factor`` times it and ends, with the last step, at ``final_factor`` times it. Momentum is left as it is:
    the paper's inverse cycle of the momentum is not part of this schedule.
    """

    initial_factor: Fraction = 0.04
    final_factor: Fraction = 4e-6
    peak_fraction: Fraction = 0.3

    def _after_warmup(self, step: float, total_steps: float, steps_per_epoch: int) -> float:
        # Both phases end *on* a step, hence the ones. A training too short to rise starts at its peak.
        peak_step = max(self.peak_fraction * total_steps - 1, 0)
        if step < peak_step:
            return _half_wave(self.initial_factor, 1.0, step, peak_step)
        return _half_wave(1.0, self.final_factor, step - peak_step, total_steps - 1 - peak_step)


def _half_wave(start: float, end: float, step: float, steps: float) -> float:
    """From ``start`` at step 0 to ``end`` at step ``steps`` and after."""
    return end + (start - end) * (1 + math.cos(math.pi * _progress(step, steps))) / 2


def _progress(step: float, steps: float) -> float:
    """From 0 at step 0 to 1 at step ``steps`` and after; a phase without length stays at its start."""
    return min(step / steps, 1.0) if steps > 0 else 0.0
