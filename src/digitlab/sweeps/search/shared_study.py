"""Shares a search between several processes, called workers, through a database that all of them reach.

The sweeper in ``hydra_plugins.digitlab_optuna`` uses it instead of ``Study`` if ``hydra.sweeper.storage`` is set. A
database server may restart at any time, so every call is repeated until it is answered. A call that fails may have been
carried out all the same, when the server stored the change but restarted before it could say so. Each step here
therefore expects to find its own change already made.
"""

import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from digitlab.sweeps.search.settings import SearchPlan
from digitlab.sweeps.search.space import Value
from digitlab.sweeps.search.storage import check_shared_storage, retry_until_answered
from digitlab.sweeps.search.study import FOLDER, Study
from digitlab.sweeps.search.workers import Observer, Worker

log = logging.getLogger(__name__)

# The names of attributes of a trial: the worker that runs it, whether it was discarded (taken out of the search),
# because it was lost or because there were enough trials, and the number of the lost trial that it repeats.
_WORKER, _DISCARDED, _REPEATS = "worker", "put_back", "repeats"
# How often a worker without a trial looks for one.
_IDLE_SECONDS = 1.0


class SharedStudy(Study):
    """A study on which several processes work at the same time, on one machine or on several.

    These processes are workers, and each trial is run by one of them. A worker does not wait for the trials of the
    others. Only when no new trial is left, it stays until all have ended, because it takes over the trials of a worker
    that dies.
    """

    def __init__(self, folder: Path, plan: SearchPlan, *, fingerprint: str, metric: str) -> None:
        assert plan.settings.storage is not None
        check_shared_storage(plan.settings.storage)
        super().__init__(folder, plan, fingerprint=fingerprint, metric=metric)
        dead_after = plan.settings.dead_after_s
        self._worker = Worker(self._storage, self._study._study_id, dead_after=dead_after)
        self._observer = Observer(dead_after=dead_after, answering_since=self._worker.answering_since)
        retry_until_answered(self._worker.start)

    @property
    def ended(self) -> int:
        return sum(trial.state.is_finished() for trial in self._counted())

    def round(self, size: int) -> dict[int, dict[str, Value]]:
        """Return the values of at most ``size`` trials to run next, by trial number; none if all trials have ended.

        While other workers run the last trials, it waits, because it takes over the trials of a worker that dies.
        """
        while True:
            chosen = self._claim(size)
            if chosen or self.ended >= self._plan.trials:
                return chosen
            time.sleep(_IDLE_SECONDS)

    def _claim(self, size: int) -> dict[int, dict[str, Value]]:
        """Take at most ``size`` trials for this worker, and return their values by trial number."""
        chosen: dict[int, dict[str, Value]] = {}
        # First, because a lost trial never ends, and neither would the search if nobody ran it again.
        self._put_back_lost_trials()
        while len(chosen) < size:
            trials = self._counted()
            # A trial waits if it was put back. If there are enough trials, ask only for a waiting one: if there is one,
            # Optuna returns it instead of a new one.
            if len(trials) >= self._plan.trials and not any(trial.state == TrialState.WAITING for trial in trials):
                break
            trial = retry_until_answered(self._ask)
            # Two workers that ask for the last trial at the same time get two trials, so the later one is discarded.
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
        """Queue lost trials again: discard each of them, and add a waiting trial with its values."""
        attributes = retry_until_answered(lambda: self._study.user_attrs)
        trials = self._trials()
        for trial in trials:
            if trial.state != TrialState.RUNNING or not self._is_lost(trial, attributes):
                continue
            # If several workers find the trial, only the one that discards it may queue it again.
            if not self._discard(trial.number):
                continue
            values = self._values(trial, trials)
            # If a worker died before it had stored all values, there is nothing to repeat: ``_claim`` asks for a new
            # trial instead.
            if values.keys() == self._distributions.keys():
                log.warning("trial %d was lost (its worker or the database ended): it is run again", trial.number)
                retry_until_answered(partial(self._queue_again, trial.number, values))

    def _is_lost(self, trial: FrozenTrial, attributes: dict[str, Any]) -> bool:
        """Return whether nobody runs this unfinished trial; ``attributes`` are those of the study.

        Call it only while this worker runs no trial.
        """
        # If a worker died between asking for a trial and marking it, the trial has no worker's name.
        worker = trial.user_attrs.get(_WORKER, f"trial {trial.number}")
        # ``_ask`` fails if the database restarts before it confirms the mark. ``_claim`` then asks for another trial,
        # and the marked one would wait for this worker for ever.
        return worker == self._worker.name or self._observer.is_dead(worker, attributes)

    def _values(self, trial: FrozenTrial, trials: list[FrozenTrial]) -> dict[str, Value]:
        """Return the values of a trial. If they are not all stored yet, they are those of the trial that it repeats."""
        while trial.params.keys() != self._distributions.keys() and _REPEATS in trial.user_attrs:
            trial = trials[trial.user_attrs[_REPEATS]]
        return trial.params

    def _queue_again(self, number: int, values: dict[str, Value]) -> None:
        # An earlier attempt may have succeeded without an answer of the database.
        if all(trial.user_attrs.get(_REPEATS) != number for trial in self._trials()):
            self._study.enqueue_trial(values, user_attrs={_REPEATS: number})

    def _discard(self, number: int) -> bool:
        """Take a trial out of the search; False if another worker did so first, or if the trial has ended."""
        attempts = 0

        def discard() -> bool:
            nonlocal attempts
            attempts += 1
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
            try:
                # The mark comes first. Another worker that reads between the two calls would otherwise see a trial that
                # failed, and count it as a result of the search.
                self._storage.set_trial_user_attr(trial_id, _DISCARDED, True)
                # The database lets only one worker end a trial.
                return bool(self._storage.set_trial_state_values(trial_id, TrialState.FAIL))
            except UpdateFinishedTrialError:
                # After a failed attempt it was probably this worker. ``_queue_again`` finds out if it was another one.
                return attempts > 1

        return retry_until_answered(discard)

    def _counted(self) -> list[FrozenTrial]:
        """Return the trials that count towards the search: all that were not taken out of it."""
        return [
            trial
            for trial in self._trials()
            if trial.state != TrialState.FAIL or not trial.user_attrs.get(_DISCARDED, False)
        ]

    def _trials(self) -> list[FrozenTrial]:
        return retry_until_answered(super()._trials)

    def tell(self, number: int, value: float | None) -> None:
        """Store the monitored value of a trial; None means that the trial failed."""
        try:
            retry_until_answered(lambda: super(SharedStudy, self).tell(number, value))
        except (UpdateFinishedTrialError, ValueError):
            # Other workers wrongly counted this one as dead and queued the trial again. The worker that gets it will
            # find the finished run, so no result is lost.
            if not self._is_finished(number):
                raise

    def _is_finished(self, number: int) -> bool:
        return any(trial.number == number and trial.state.is_finished() for trial in self._trials())

    def close(self) -> None:
        """Free the trials of this worker, and log in which other folders there are runs of this search."""
        self._worker.stop()
        folder = str(self._folder.resolve())
        other_folders = {trial.user_attrs.get(FOLDER, folder) for trial in self._counted()} - {folder}
        if other_folders:
            log.warning("the table has only the runs in %s; others are in %s", folder, ", ".join(sorted(other_folders)))
        # A server limits the number of open connections, and a Python session may continue for a long time.
        self._storage.engine.dispose()
