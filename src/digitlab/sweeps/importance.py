"""Computes how much each swept key matters for the monitored metric, by Optuna's evaluators.

``digitlab sweep --importance`` prints it and the report of a sweep shows it. It needs the extra ``search``. The 95 %
intervals come from the bootstrap: the importance is computed again from runs that are drawn with replacement.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from digitlab.config.metrics import metric_direction
from digitlab.config.values import Value
from digitlab.core.extras import how_to_install
from digitlab.figures.formatting import needs_log_scale
from digitlab.sweeps.effects import is_number
from digitlab.sweeps.state import SweepRun
from digitlab.sweeps.table import SweepTable

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

HINT = f"the importance of keys needs Optuna: {how_to_install('search')}"
# With fewer runs, the importance of a key would be chance.
_FEWEST_RUNS = 8
# The number of bootstrap samples, and the seed of their draws and of the random forest.
_RESAMPLES, _SEED = 40, 0
# The number of trees of the random forest and their depth. Optuna's default of 64 trees would take four times as long
# for each bootstrap sample.
_TREES, _DEPTH = 16, 16
# PED-ANOVA (Watanabe et al., 2023) compares the best runs with all runs: here the best fifth, but at least five runs.
_GOOD_SHARE, _MIN_GOOD_RUNS = 0.2, 5


@dataclass(frozen=True, slots=True)
class Importance:
    """The share of one key in the importance of all keys, in [0, 1], and its 95 % interval."""

    key: str
    share: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Importances:
    """The keys of a sweep, the most important one first; the shares sum to 1.

    ``method`` names the evaluator. ``runs`` is the number of runs that are used, ``left_out`` the number of runs that
    failed or diverged, and ``resamples`` the number of bootstrap samples.
    """

    keys: Sequence[Importance]
    method: str
    runs: int
    left_out: int
    resamples: int

    @property
    def note(self) -> str:
        """A sentence that says what the numbers mean."""
        text = f"{self.method}; 95 % intervals from {self.resamples} bootstrap samples of the {self.runs} finished runs"
        return text + (f"; left out: {self.left_out} failed or diverged" if self.left_out else "")


def importances(table: SweepTable, *, resamples: int | None = None) -> Importances | str:
    """Return the importance of each key of ``table``, or a text that says why there is none.

    If scikit-learn is installed, this is fANOVA (Hutter et al., 2014): the share of the variance of the metric that the
    key alone explains, in a random forest. Otherwise it is PED-ANOVA (Watanabe et al., 2023): how much the values of
    the best fifth of the runs differ from those of all runs. By default there are 40 bootstrap samples.
    """
    if find_spec("optuna") is None:
        return HINT
    used_runs = [run for run in table.runs if table.compared([run]) and math.isfinite(run.value or 0.0)]
    if len(table.keys) < 2:
        return f"the importance of keys needs a sweep over at least two keys; this one has {len(table.keys)}"
    if len(used_runs) < _FEWEST_RUNS:
        return f"the importance of keys needs at least {_FEWEST_RUNS} finished runs; there are {len(used_runs)}"
    values = np.array([run.value for run in used_runs], dtype=np.float64)
    if np.ptp(values) == 0:
        return "all runs have the same value, so no key matters"
    evaluate = _Evaluator(table, used_runs, values)
    shares = evaluate(range(len(used_runs)))
    random = np.random.default_rng(_SEED)
    resamples = _RESAMPLES if resamples is None else resamples
    samples = [evaluate(random.integers(len(used_runs), size=len(used_runs))) for _ in range(resamples)]
    # The limits of the middle 95 % of the samples: float64 (2, keys).
    bounds = np.quantile(np.array([[each[key] for key in table.keys] for each in samples]), (0.025, 0.975), axis=0)
    # The estimate can lie a little outside of its bootstrap interval, so the interval is extended to contain it.
    keys = [
        Importance(key, shares[key], (min(float(low), shares[key]), max(float(high), shares[key])))
        for key, low, high in zip(table.keys, *bounds, strict=True)
    ]
    return Importances(
        keys=sorted(keys, key=lambda each: -each.share), method=evaluate.method, runs=len(used_runs),
        left_out=sum(run.status in ("finished", "failed") for run in table.runs) - len(used_runs),
        resamples=resamples,
    )  # fmt: skip


class _Evaluator:
    """A function of indices of ``runs``: returns the share of each key in the importance over these runs.

    An index may occur several times, as in a bootstrap sample. ``values`` are the measured values of ``runs``.
    """

    def __init__(self, table: SweepTable, runs: Sequence[SweepRun], values: np.ndarray) -> None:
        import optuna

        # Optuna would log a line for every sample, because each is a study.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._keys, self._values = table.keys, values
        # Optuna's evaluators take trials, so each run becomes a trial with its swept values and its measured value.
        settings = [table.values[run.entry.number] for run in runs]
        distributions = {key: _distribution([each[key] for each in settings]) for key in table.keys}
        smaller = metric_direction(table.metric or "") == "min"
        self._direction: Literal["minimize", "maximize"] = "minimize" if smaller else "maximize"
        self._trials = [
            optuna.trial.create_trial(
                params={key: _parameter(setting[key], distributions[key]) for key in table.keys},
                distributions=distributions, value=float(value),
            )
            for setting, value in zip(settings, values, strict=True)
        ]  # fmt: skip
        if find_spec("sklearn") is None:
            from optuna.importance import PedAnovaImportanceEvaluator

            share = min(max(_GOOD_SHARE, _MIN_GOOD_RUNS / len(runs)), 1.0)
            self._evaluator: Any = PedAnovaImportanceEvaluator(target_quantile=share)
            self.method = f"PED-ANOVA (Watanabe et al., 2023) of the best {100 * share:.0f} % of the runs"
        else:
            from optuna.importance import FanovaImportanceEvaluator

            self._evaluator = FanovaImportanceEvaluator(n_trees=_TREES, max_depth=_DEPTH, seed=_SEED)
            self.method = "fANOVA (Hutter et al., 2014): the share of the variance that a key alone explains"

    def __call__(self, indices: Sequence[int] | np.ndarray) -> dict[str, float]:
        import optuna

        # If all runs of the sample have the same value, there is no variance to explain, and all keys are equal.
        if np.ptp(self._values[list(indices)]) == 0:
            return dict.fromkeys(self._keys, 1 / len(self._keys))
        # A study in memory that contains the runs of the sample.
        study = optuna.create_study(direction=self._direction)
        study.add_trials([self._trials[index] for index in indices])
        importance_by_key: Mapping[str, float] = self._evaluator.evaluate(study, params=list(self._keys))
        total = math.fsum(importance_by_key.values())
        return {key: float(importance_by_key[key]) / total if total > 0 else 1 / len(self._keys) for key in self._keys}


def _distribution(values: Sequence[Value]) -> "BaseDistribution":
    """Return Optuna's description of the values of one key."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    distinct = list(dict.fromkeys(values))
    numbers = [float(value) for value in distinct if is_number(value)]
    # A range of numbers needs at least two, and nothing but numbers.
    if len(numbers) < len(distinct) or len(numbers) < 2:
        # The choices are text, because Optuna does not tell True from 1.
        return CategoricalDistribution(list(dict.fromkeys(str(value) for value in distinct)))
    low, high = min(numbers), max(numbers)
    return FloatDistribution(low, high, log=needs_log_scale([low, high]))


def _parameter(value: Value, distribution: "BaseDistribution") -> str | float:
    """Return a value in the form that its distribution describes."""
    from optuna.distributions import CategoricalDistribution

    return str(value) if isinstance(distribution, CategoricalDistribution) else float(value)  # type: ignore[arg-type]
