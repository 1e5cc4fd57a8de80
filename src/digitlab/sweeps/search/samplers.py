"""The samplers of a search, which choose the values of each trial. ``sweeps.search.study`` uses them.

As in Optuna, a trial is one choice of values for the searched keys. Each trial has its own sampler, whose seed follows
from the number of the trial. So a choice depends only on the earlier trials, and neither on interruptions nor on the
process that asks for it.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from digitlab.sweeps.search.settings import SearchPlan
from digitlab.sweeps.search.space import Value

# Optuna's attribute of a trial whose values were given rather than chosen. In digitlab such a trial repeats a lost one:
# its worker (a process that takes part in the search) has died, or the database did not confirm its mark. The attribute
# has the values before the trial has parameters.
GIVEN = "fixed_params"
# The attribute of a trial that was taken out of a shared search.
DISCARDED = "put_back"


class NumberedSampler(BaseSampler):
    """Makes a sampler of the kind in ``plan`` for each trial, and lets it choose.

    ``Study.ask`` first numbers a new trial and then calls the study's sampler, so the sampler of the trial can't be
    made before. If several processes ask at the same time, their trials have different numbers, so they do not make the
    same choice.
    """

    def __init__(self, plan: SearchPlan) -> None:
        self._plan = plan
        self._newest: dict[int, BaseSampler] = {}

    def _sampler(self, number: int) -> BaseSampler:
        """Return the sampler of the trial with this number."""
        # Only the newest sampler is stored, because a long search has thousands of trials, one after the other.
        if number not in self._newest:
            self._newest = {number: _new_sampler(self._plan, number)}
        return self._newest[number]

    # Optuna calls the four methods below for each trial.

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        space: dict[str, BaseDistribution] = self._sampler(trial.number).infer_relative_search_space(study, trial)
        return space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        chosen: dict[str, Any] = self._sampler(trial.number).sample_relative(study, trial, search_space)
        return chosen

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler(trial.number).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler(trial.number).before_trial(study, trial)


def _new_sampler(plan: SearchPlan, number: int) -> BaseSampler:
    # With a large factor, searches with neighbouring seeds don't use the same seeds for their trials. NumPy takes seeds
    # of 32 bits.
    seed = (plan.settings.seed * 1_000_003 + number) % 2**32
    match plan.settings.sampler:
        case "random":
            return RandomSampler(seed=seed)
        case "cmaes":
            return CmaEsSampler(seed=seed, warn_independent_sampling=False)
        case "grid":
            return _GridSampler(plan)
    return TPESampler(seed=seed)


class _GridSampler(BaseSampler):
    """Gives each point of the grid to one trial, in random order.

    Optuna's own grid sampler can give a point to two processes.
    """

    def __init__(self, plan: SearchPlan) -> None:
        values = {parameter.key: parameter.grid or [] for parameter in plan.space.parameters}
        self._points: list[dict[str, Value]] = [
            dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())
        ]
        random.Random(plan.settings.seed).shuffle(self._points)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}  # so that Optuna asks for each parameter on its own, in sample_independent

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        earlier = [other for other in study.get_trials(deepcopy=False) if other.number < trial.number]
        return self._point(earlier)[param_name]

    def _point(self, earlier: Sequence[FrozenTrial]) -> Mapping[str, Value]:
        """Return the point of the trial that follows the trials ``earlier``."""
        # A trial that repeats an earlier one has the point of that trial, so it is not counted.
        index = sum(GIVEN not in trial.system_attrs for trial in earlier)
        if index < len(self._points):
            return self._points[index]
        # All points have been given to trials. But in rare cases a trial was lost before it had all its values, so it
        # could not be repeated. This trial gets the point of that one.
        covered = [
            trial.system_attrs.get(GIVEN, trial.params)
            for trial in earlier
            if trial.state != TrialState.FAIL or DISCARDED not in trial.user_attrs
        ]
        return next((point for point in self._points if point not in covered), self._points[0])
