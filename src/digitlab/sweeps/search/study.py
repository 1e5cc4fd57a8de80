"""The memory of a search: a study of Optuna's in a database, asked for settings and told what they came to.

Whatever kills the process, the same command goes on with the trials that were under way. A sampler is made anew for
each trial, with a seed of its own, so that what it chooses depends on the trials before, not on interruptions.
"""

from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GridSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from digitlab.config.metrics import metric_direction
from digitlab.core.errors import ConfigError
from digitlab.sweeps.search.settings import SearchPlan
from digitlab.sweeps.search.space import Parameter, Space, Value

_DATABASE = "search.db"
# Of a trial: the folder of the sweep that runs it. Of a study: what makes its trials comparable.
_FOLDER, _IDENTITY = "folder", "search"


class Study:
    """The study of the sweep in ``folder``: in a file there, or in the database that the settings name.

    ``fingerprint`` is that of the configuration without what is searched, ``metric`` the monitored one. Raises
    ``ConfigError`` where the study there is about something else, or its database can't be opened.
    """

    def __init__(self, folder: Path, plan: SearchPlan, *, fingerprint: str, metric: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._folder, self._plan = folder, plan
        space, settings = plan.space, plan.settings
        self._distributions = {parameter.key: _distribution(parameter) for parameter in space.parameters}
        storage = settings.storage or f"sqlite:///{folder.resolve() / _DATABASE}"
        try:
            self._study = optuna.create_study(
                storage=storage, study_name=folder.name, load_if_exists=True,
                direction="minimize" if metric_direction(metric) == "min" else "maximize",
            )  # fmt: skip
        except Exception as error:
            # SQLAlchemy's own, or those of the database's driver, which may be missing.
            reason = " ".join(str(error).split()).partition(" (Background on")[0]
            raise ConfigError("hydra.sweeper.storage", storage, f"can't be opened: {reason}") from error
        self._refuse_other({"fingerprint": fingerprint, "searched": _searched(space, metric), "fixed": space.fixed()})

    def _refuse_other(self, identity: dict[str, Any]) -> None:
        known = self._study.user_attrs.get(_IDENTITY)
        if known is None:
            self._study.set_user_attr(_IDENTITY, identity)
            return
        there, here = known["searched"], identity["searched"]
        if there == here and known["fingerprint"] != identity["fingerprint"]:
            there, here = (dict(text.split("=", 1) for text in each["fixed"]) for each in (known, identity))
            if there == here:
                # A file of the configuration has been changed.
                there, here = {"sweep.name": "another configuration"}, {"sweep.name": self._folder.name}
        for key in [*there, *here]:
            if there.get(key) != here.get(key):
                allowed = (
                    f"the search there has {there.get(key, 'none')}, and trials of two searches can't be compared: "
                    "sweep.fresh=true begins one beside it, sweep.name=NAME another"
                )
                raise ConfigError(key, here.get(key), allowed)

    @property
    def ended(self) -> int:
        """The number of trials that have come to their end, failed ones among them."""
        return sum(trial.state.is_finished() for trial in self._trials())

    def round(self, size: int) -> dict[int, dict[str, Value]]:
        """What to try next, by number of trial: up to ``size`` trials, those first that a killed process left.

        Rounds end at multiples of ``size``, so that they are the same after an interruption. Empty at the end.
        """
        chosen = {trial.number: dict(trial.params) for trial in self._trials() if self._is_under_way(trial)}
        ended, most = self.ended, self._plan.trials
        while ended + len(chosen) < min((ended // size + 1) * size, most):
            trial = self._ask()
            chosen[trial.number] = trial.params
        return chosen

    def _is_under_way(self, trial: FrozenTrial) -> bool:
        # One that was killed before it was told its folder, or of another machine, is left alone.
        return bool(trial.state == TrialState.RUNNING and trial.user_attrs.get(_FOLDER) == str(self._folder.resolve()))

    def _ask(self) -> optuna.Trial:
        self._study.sampler = self._sampler(len(self._trials()))
        trial = self._study.ask(self._distributions)
        trial.set_user_attr(_FOLDER, str(self._folder.resolve()))
        return trial

    def tell(self, number: int, value: float | None) -> None:
        """That the trial of this number came to ``value`` of the monitored metric, or failed."""
        # The sampler of a grid would stop the study, which only one that runs its trials itself can be.
        self._study.sampler = RandomSampler()
        if value is None:
            self._study.tell(number, state=TrialState.FAIL)
        else:
            self._study.tell(number, value)

    def _trials(self) -> list[FrozenTrial]:
        trials: list[FrozenTrial] = self._study.get_trials(deepcopy=False)
        return trials

    def _sampler(self, number: int) -> BaseSampler:
        """For the trial of this number."""
        seed = (self._plan.settings.seed * 1_000_003 + number) % 2**32
        match self._plan.settings.sampler:
            case "random":
                return RandomSampler(seed=seed)
            case "cmaes":
                return CmaEsSampler(seed=seed, warn_independent_sampling=False)
            case "grid":
                grid = {parameter.key: parameter.grid or [] for parameter in self._plan.space.parameters}
                return GridSampler(grid, seed=self._plan.settings.seed)
        return TPESampler(seed=seed)


def _distribution(parameter: Parameter) -> BaseDistribution:
    numbers = parameter.numbers
    if numbers is None:
        return CategoricalDistribution(parameter.choices)
    if numbers.whole and numbers.step is not None:
        return IntDistribution(int(numbers.low), int(numbers.high), log=numbers.log, step=int(numbers.step))
    return FloatDistribution(numbers.low, numbers.high, log=numbers.log, step=numbers.step)


def _searched(space: Space, metric: str) -> dict[str, str]:
    """By key what has to be the same for two trials to be compared."""
    searched = {parameter.key: parameter.typed for parameter in space.parameters}
    seeds = {"seed": ",".join(space.seeds)} if space.seeds else {}
    return searched | seeds | {"monitor.metric": metric}
