"""Stores a search in an Optuna database: asks Optuna for trials and tells it their results.

A trial is one choice of values for the searched keys, and a study is the stored state of a search with all its trials.
The sweeper in ``hydra_plugins.digitlab_optuna`` calls ``round`` and ``tell`` in turn until the search is over. If the
process is killed, the same command resumes with the trials that were running. Several processes can share a search: see
``search.shared_study``.
"""

from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from digitlab.config.metrics import metric_direction
from digitlab.core.errors import ConfigError, RunError
from digitlab.sweeps.search.samplers import NumberedSampler
from digitlab.sweeps.search.settings import SearchPlan
from digitlab.sweeps.search.space import Parameter, Space, Value
from digitlab.sweeps.search.storage import open_study

_DATABASE = "search.db"
# The name of a trial's attribute in the database: the folder of the sweep that runs it.
FOLDER = "folder"
# The name of the study's attribute that holds what must be equal for its trials to be comparable.
_IDENTITY = "search"


class Study:
    """The study of the sweep in ``folder``, stored in a file there or in the database of the settings in ``plan``.

    ``fingerprint`` is that of the configuration without the searched keys, and ``metric`` is the monitored metric.
    Raises ``ConfigError`` if the stored study is about something else or if its database can't be opened, and
    ``RunError`` if its file in ``folder`` is damaged.
    """

    def __init__(self, folder: Path, plan: SearchPlan, *, fingerprint: str, metric: str) -> None:
        # Optuna would log every trial, but the sweep has its own progress line.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._folder, self._plan = folder, plan
        space, settings = plan.space, plan.settings
        self._distributions = {parameter.key: _distribution(parameter) for parameter in space.parameters}
        # The study has the name of the sweep's folder, without its path. So processes on several machines find the same
        # study in a shared database, even if their folders have different paths.
        file = folder.resolve() / _DATABASE
        try:
            self._study, self._storage = open_study(
                settings.storage or f"sqlite:///{file}", folder.name,
                direction="minimize" if metric_direction(metric) == "min" else "maximize",
            )  # fmt: skip
        except ConfigError as error:
            if settings.storage is not None:
                raise
            how = "to start the search again, move this file away; finished runs are not trained again"
            raise RunError(f"{file}: {error.allowed}: {how}") from error
        self._refuse_different_search(
            {"fingerprint": fingerprint, "searched": _searched(space, metric), "fixed": space.fixed()}
        )

    def _refuse_different_search(self, identity: dict[str, Any]) -> None:
        """Raise ``ConfigError``, which names the key that differs, if the stored trials belong to another search."""
        stored_identity = self._study.user_attrs.get(_IDENTITY)
        if stored_identity is None:
            # The study is new. What its trials have in common is stored, to compare it when the search resumes.
            self._study.set_user_attr(_IDENTITY, identity)
            return
        stored, current = stored_identity["searched"], identity["searched"]
        if stored == current and stored_identity["fingerprint"] != identity["fingerprint"]:
            # The spaces are equal but the configurations differ, so compare the fixed overrides (``key=value``).
            stored, current = (
                dict(text.split("=", 1) for text in each["fixed"]) for each in (stored_identity, identity)
            )
            if stored == current:
                # The command is the same, so a configuration file has changed.
                stored, current = {"sweep.name": "another configuration"}, {"sweep.name": self._folder.name}
        for key in [*stored, *current]:
            if stored.get(key) != current.get(key):
                allowed = (
                    f"the search in this folder has {stored.get(key, 'none')}, and trials of two searches can't be "
                    "compared: start another search with sweep.fresh=true or sweep.name=NAME"
                )
                raise ConfigError(key, current.get(key), allowed)

    @property
    def ended(self) -> int:
        """The number of finished trials, including failed ones."""
        return sum(trial.state.is_finished() for trial in self._trials())

    def round(self, size: int) -> dict[int, dict[str, Value]]:
        """Return the values of at most ``size`` trials to run next, by trial number; none if the search is over.

        Trials that a killed process has left come first. Rounds end at multiples of ``size``, so that an interruption
        does not shift them. If it did, a sampler that learns would have seen other results and would choose otherwise.
        """
        chosen = {trial.number: dict(trial.params) for trial in self._trials() if self._is_unfinished(trial)}
        ended = self.ended
        # An interruption can have left the current round half done. It ends at the next multiple of ``size``.
        round_end = min((ended // size + 1) * size, self._plan.trials)
        while ended + len(chosen) < round_end:
            trial = self._ask()
            chosen[trial.number] = trial.params
        return chosen

    def _is_unfinished(self, trial: FrozenTrial) -> bool:
        """Return whether a process that worked in this folder was killed while it ran ``trial``."""
        # A trial without a folder is left out: its process died in ``_ask``, perhaps before all its values were stored.
        return bool(trial.state == TrialState.RUNNING and trial.user_attrs.get(FOLDER) == str(self._folder.resolve()))

    def _ask(self) -> optuna.Trial:
        """Let Optuna choose the values of a new trial, and mark it with the folder of this sweep."""
        self._study.sampler = NumberedSampler(self._plan)
        trial = self._study.ask(self._distributions)
        # ``_is_unfinished`` finds the trial by this mark if this process is killed.
        trial.set_user_attr(FOLDER, str(self._folder.resolve()))
        return trial

    def tell(self, number: int, value: float | None) -> None:
        """Store the monitored value of a trial; None means that the trial failed."""
        if value is None:
            self._study.tell(number, state=TrialState.FAIL)
        else:
            self._study.tell(number, value)

    def _trials(self) -> list[FrozenTrial]:
        trials: list[FrozenTrial] = self._study.get_trials(deepcopy=False)
        return trials

    def close(self) -> None:
        """Nothing to close: one process alone works on this study."""


def _distribution(parameter: Parameter) -> BaseDistribution:
    """Return Optuna's description of the values of a searched key."""
    numbers = parameter.numbers
    if numbers is None:
        return CategoricalDistribution(parameter.choices)
    if numbers.whole and numbers.step is not None:
        return IntDistribution(int(numbers.low), int(numbers.high), log=numbers.log, step=int(numbers.step))
    return FloatDistribution(numbers.low, numbers.high, log=numbers.log, step=numbers.step)


def _searched(space: Space, metric: str) -> dict[str, str]:
    """Return what must be equal for two trials to be comparable, by key."""
    searched = {parameter.key: parameter.typed for parameter in space.parameters}
    replicates = {key: ",".join(values) for key, values in space.replicate_overrides.items()}
    return searched | replicates | {"monitor.metric": metric}
