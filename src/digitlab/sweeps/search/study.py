"""Keeps the state of a search in an Optuna database: asks for settings and stores their results.

If the process is killed, the same command resumes with the trials that were running. Several processes can share a
search: see ``SharedStudy``.
"""

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, TrialState

from digitlab.config.metrics import metric_direction
from digitlab.core.errors import ConfigError
from digitlab.sweeps.search.samplers import NumberedSampler
from digitlab.sweeps.search.settings import SearchPlan
from digitlab.sweeps.search.space import Parameter, Space, Value
from digitlab.sweeps.search.storage import check_shared_storage, open_study, patiently
from digitlab.sweeps.search.workers import Observer, Worker

log = logging.getLogger(__name__)

_DATABASE = "search.db"
# Names of attributes in the database: the folder of the sweep that runs a trial, and what makes trials comparable.
_FOLDER, _IDENTITY = "folder", "search"
# Attributes of a trial of a shared search: the worker that runs it; that it was put back because its worker died, or
# withdrawn because there were enough trials.
_WORKER, _PUT_BACK = "worker", "put_back"
# How often a worker without a trial looks for one.
_IDLE_SECONDS = 1.0


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
        # The study has the name of the sweep's folder, without its path. So processes on several machines find the same
        # study in a shared database, even if their folders have different paths.
        self._study, self._storage = open_study(
            settings.storage or f"sqlite:///{folder.resolve() / _DATABASE}", folder.name,
            direction="minimize" if metric_direction(metric) == "min" else "maximize",
        )  # fmt: skip
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
        # The next multiple of ``size`` is the end of the current round, even if an interruption left it half done.
        while ended + len(chosen) < min((ended // size + 1) * size, most):
            trial = self._ask()
            chosen[trial.number] = trial.params
        return chosen

    def _is_unfinished(self, trial: FrozenTrial) -> bool:
        # Skip a trial of another machine that shares the database, and one killed before its folder was stored.
        return bool(trial.state == TrialState.RUNNING and trial.user_attrs.get(_FOLDER) == str(self._folder.resolve()))

    def _ask(self) -> optuna.Trial:
        self._study.sampler = NumberedSampler(self._plan)
        trial = self._study.ask(self._distributions)
        # Marks the trial as ours until its value is stored.
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

    def close(self) -> None:
        """Nothing to close: one process alone works on this study."""


class SharedStudy(Study):
    """A study on which several processes work at the same time, on one machine or on several.

    Each trial is run by one worker. A worker does not wait for the trials of the others; when no new trial is left, it
    stays until all have ended, because it takes over those of a worker that dies.
    """

    def __init__(self, folder: Path, plan: SearchPlan, *, fingerprint: str, metric: str) -> None:
        assert plan.settings.storage is not None
        check_shared_storage(plan.settings.storage)
        super().__init__(folder, plan, fingerprint=fingerprint, metric=metric)
        dead_after = plan.settings.dead_after_s
        self._worker = Worker(self._storage, self._study._study_id, dead_after=dead_after)
        self._observer = Observer(dead_after=dead_after, answering_since=self._worker.answering_since)
        self._worker.start()

    @property
    def ended(self) -> int:
        return sum(trial.state.is_finished() for trial in self._counted())

    def round(self, size: int) -> dict[int, dict[str, Value]]:
        """The settings to try next, by trial number: at most ``size``. Waits while others run the last trials.

        Empty when all trials of the search have ended.
        """
        while True:
            chosen = self._claim(size)
            if chosen or self.ended >= self._plan.trials:
                return chosen
            time.sleep(_IDLE_SECONDS)

    def _claim(self, size: int) -> dict[int, dict[str, Value]]:
        chosen: dict[int, dict[str, Value]] = {}
        # The trials of dead workers count as trials of the search. Unless somebody runs them, the search never ends.
        self._put_back_lost_trials()
        while len(chosen) < size:
            trials = self._counted()
            # With enough trials, ask only if one of them waits: then Optuna returns that one instead of a new one.
            if len(trials) >= self._plan.trials and not any(trial.state == TrialState.WAITING for trial in trials):
                break
            trial = patiently(self._ask)
            # Two workers that ask for the last trial at the same time get two. The later one is too many.
            if sum(other.number < trial.number for other in self._counted()) >= self._plan.trials:
                self._discard(trial.number)
            else:
                chosen[trial.number] = trial.params
        return chosen

    def _ask(self) -> optuna.Trial:
        trial = super()._ask()
        trial.set_user_attr(_WORKER, self._worker.name)
        return trial

    def _put_back_lost_trials(self) -> None:
        """Queue the trials of dead workers again."""
        attributes = patiently(lambda: self._study.user_attrs)
        for trial in self._trials():
            # A worker that died between asking for a trial and marking it leaves one without its name.
            worker = trial.user_attrs.get(_WORKER, f"trial {trial.number}")
            if trial.state != TrialState.RUNNING or worker == self._worker.name:
                continue
            # Only one of several workers that find the trial may queue it again.
            if not self._observer.is_dead(worker, attributes) or not self._discard(trial.number):
                continue
            # A worker that died while it chose has not stored all parameters. ``_claim`` then asks for a new trial.
            if trial.params.keys() == self._distributions.keys():
                log.warning("the worker of trial %d has died: the trial is run again", trial.number)
                patiently(partial(self._study.enqueue_trial, trial.params))

    def _discard(self, number: int) -> bool:
        """Take a trial out of the search; False if another worker did so first, or if the trial has ended."""

        def discard() -> bool:
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
            try:
                # The mark comes first. Another worker that reads between the two calls would otherwise see a trial that
                # failed, and count it as a result of the search.
                self._storage.set_trial_user_attr(trial_id, _PUT_BACK, True)
                # The database lets only one worker end a trial.
                return bool(self._storage.set_trial_state_values(trial_id, TrialState.FAIL))
            except UpdateFinishedTrialError:
                return False

        return patiently(discard)

    def _counted(self) -> list[FrozenTrial]:
        """The trials that count towards the search: without those that were put back or withdrawn."""
        return [
            trial
            for trial in self._trials()
            if trial.state != TrialState.FAIL or not trial.user_attrs.get(_PUT_BACK, False)
        ]

    def _trials(self) -> list[FrozenTrial]:
        return patiently(super()._trials)

    def tell(self, number: int, value: float | None) -> None:
        """Store the monitored value of a trial; None means that the trial failed."""
        try:
            patiently(lambda: super(SharedStudy, self).tell(number, value))
        except (UpdateFinishedTrialError, ValueError):
            # Other workers thought that this one was dead and queued the trial again. The worker that gets it finds the
            # finished run, so no result is lost.
            if not self._is_finished(number):
                raise

    def _is_finished(self, number: int) -> bool:
        return any(trial.number == number and trial.state.is_finished() for trial in self._trials())

    def close(self) -> None:
        """Free the trials of this worker, and say where else runs of this search are."""
        self._worker.stop()
        own = str(self._folder.resolve())
        folders = {trial.user_attrs.get(_FOLDER, own) for trial in self._counted()} - {own}
        if folders:
            log.warning("the table has only the runs in %s; others are in %s", own, ", ".join(sorted(folders)))
        # A server limits the number of open connections, and a Python session may continue for a long time.
        self._storage.engine.dispose()


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
