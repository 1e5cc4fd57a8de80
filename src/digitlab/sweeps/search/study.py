"""Keeps the state of a search in an Optuna database: asks for settings and stores their results.

If the process is killed, the same command resumes with the trials that were running. A new sampler is made for each
trial, seeded by the trial's number. Its choice thus depends on the earlier trials only, not on interruptions.
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
# Names of attributes in the database: the folder of the sweep that runs a trial, and what makes trials comparable.
_FOLDER, _IDENTITY = "folder", "search"


class Study:
    """The study of the sweep in ``folder``, stored in a file there or in the database of the settings.

    ``fingerprint`` is that of the configuration without the searched keys, and ``metric`` is the monitored metric.
    Raises ``ConfigError`` if the stored study is about something else or if its database can't be opened.
    """

    def __init__(self, folder: Path, plan: SearchPlan, *, fingerprint: str, metric: str) -> None:
        # Optuna logs every trial; the sweep has its own progress line.
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
            # These are errors of SQLAlchemy, or of the database's driver, which may be missing.
            reason = " ".join(str(error).split()).partition(" (Background on")[0]
            raise ConfigError("hydra.sweeper.storage", storage, f"can't be opened: {reason}") from error
        self._refuse_different_search(
            {"fingerprint": fingerprint, "searched": _searched(space, metric), "fixed": space.fixed()}
        )

    def _refuse_different_search(self, identity: dict[str, Any]) -> None:
        known = self._study.user_attrs.get(_IDENTITY)
        if known is None:
            # A new study: store what its trials have in common, to compare it when the search resumes.
            self._study.set_user_attr(_IDENTITY, identity)
            return
        there, here = known["searched"], identity["searched"]
        if there == here and known["fingerprint"] != identity["fingerprint"]:
            # Equal spaces but different configurations: name the fixed override that differs.
            there, here = (dict(text.split("=", 1) for text in each["fixed"]) for each in (known, identity))
            if there == here:
                # The command is the same, so a configuration file has changed.
                there, here = {"sweep.name": "another configuration"}, {"sweep.name": self._folder.name}
        for key in [*there, *here]:
            if there.get(key) != here.get(key):
                allowed = (
                    f"the search in this folder has {there.get(key, 'none')}, and trials of two searches can't be "
                    "compared: start another search with sweep.fresh=true or sweep.name=NAME"
                )
                raise ConfigError(key, here.get(key), allowed)

    @property
    def ended(self) -> int:
        """The number of finished trials, including failed ones."""
        return sum(trial.state.is_finished() for trial in self._trials())

    def round(self, size: int) -> dict[int, dict[str, Value]]:
        """The settings to try next, by trial number: at most ``size``, first the trials that a killed process left.

        Rounds end at multiples of ``size``, so an interruption does not shift them: a sampler that learns would
        otherwise choose something else. Empty when the search is over.
        """
        chosen = {trial.number: dict(trial.params) for trial in self._trials() if self._is_unfinished(trial)}
        # Unfinished trials come first and count towards the round they were asked in.
        ended, most = self.ended, self._plan.trials
        while ended + len(chosen) < min((ended // size + 1) * size, most):
            trial = self._ask()
            chosen[trial.number] = trial.params
        return chosen

    def _is_unfinished(self, trial: FrozenTrial) -> bool:
        # Skip a trial of another machine that shares the database, and one killed before its folder was stored.
        return bool(trial.state == TrialState.RUNNING and trial.user_attrs.get(_FOLDER) == str(self._folder.resolve()))

    def _ask(self) -> optuna.Trial:
        self._study.sampler = self._sampler(len(self._trials()))
        trial = self._study.ask(self._distributions)
        # Marks the trial as ours until its value is stored. Other machines may use the same database.
        trial.set_user_attr(_FOLDER, str(self._folder.resolve()))
        return trial

    def tell(self, number: int, value: float | None) -> None:
        """Store the monitored value of a trial; None means that the trial failed."""
        # GridSampler would try to stop the study here, which Optuna only allows inside ``study.optimize``.
        self._study.sampler = RandomSampler()
        if value is None:
            self._study.tell(number, state=TrialState.FAIL)
        else:
            self._study.tell(number, value)

    def _trials(self) -> list[FrozenTrial]:
        trials: list[FrozenTrial] = self._study.get_trials(deepcopy=False)
        return trials

    def _sampler(self, number: int) -> BaseSampler:
        """The sampler that chooses the trial of this number."""
        # The factor is a prime, so that searches with neighbouring seeds don't share the seeds of their trials.
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
    """What must be equal for two trials to be comparable, by key."""
    searched = {parameter.key: parameter.typed for parameter in space.parameters}
    replicates = {key: ",".join(values) for key, values in space.replicate_overrides.items()}
    return searched | replicates | {"monitor.metric": metric}
