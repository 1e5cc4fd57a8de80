"""Shares a search between several processes, called workers, through a database that all of them reach.

The sweeper in ``hydra_plugins.digitlab_optuna`` uses it instead of ``Study`` if ``hydra.sweeper.storage`` is set. A
database server may restart at any time, so each call is repeated until the database answers. A call can fail although
the server has stored the change. So each step below also works if its change is already stored, even twice.
"""

import logging
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from digitlab.sweeps.search.samplers import DISCARDED, GIVEN
from digitlab.sweeps.search.settings import SearchPlan
from digitlab.sweeps.search.space import Value
from digitlab.sweeps.search.storage import DATABASE_ERRORS, check_shared_storage, retry_until_answered
from digitlab.sweeps.search.study import FOLDER, Study
from digitlab.sweeps.search.workers import Observer, Worker

log = logging.getLogger(__name__)

# Attributes of a trial: the worker that runs it, and the number of the lost trial that it repeats.
_WORKER, _REPEATS = "worker", "repeats"
# Why a trial was discarded, that is, taken out of the search: nobody ran it any more, or there were enough trials. Only
# a lost trial is run again.
_LOST, _SPARE = "lost", "spare"
# The pause of a worker that found no trial, before it looks again.
_IDLE_SECONDS = 1.0


class SharedStudy(Study):
    """A study on which several processes work at the same time, on one machine or on several.

    These processes are workers, and each trial is run by one of them. A worker does not wait for the trials of the
    others. Only when no new trial is left, it stays until all trials have ended, so that it can take over the trials of
    a worker that dies.
    """

    def __init__(self, folder: Path, plan: SearchPlan, *, fingerprint: str, metric: str) -> None:
        assert plan.settings.storage is not None
        check_shared_storage(plan.settings.storage)
        super().__init__(folder, plan, fingerprint=fingerprint, metric=metric)
        dead_after = plan.settings.dead_after_s
        self._worker = Worker(self._storage, self._study._study_id, dead_after=dead_after)
        self._observer = Observer(dead_after=dead_after, answering_since=self._worker.answering_since)
        retry_until_answered(self._worker.start)

    def _refuse_different_search(self, identity: dict[str, Any]) -> None:
        retry_until_answered(partial(super()._refuse_different_search, identity))

    @property
    def ended(self) -> int:
        return sum(trial.state.is_finished() and not _is_discarded(trial) for trial in self._trials())

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
        # A lost trial never ends by itself, and neither would the search. So lost trials are queued again first.
        self._put_back_lost_trials()
        while len(chosen) < size:
            trials = self._counted(self._trials())
            # A trial that was queued again is waiting, and Optuna returns a waiting trial instead of a new one. So if
            # there are enough trials, ask only while one is waiting.
            if len(trials) >= self._plan.trials and not any(trial.state == TrialState.WAITING for trial in trials):
                break
            try:
                trial = retry_until_answered(self._ask)
            except UpdateFinishedTrialError:
                continue  # this process stood still for so long that another one has discarded the trial
            trials = self._trials()
            # Two workers that ask for the last trial at the same time get two trials, so the later one is discarded.
            is_spare = sum(other.number < trial.number for other in self._counted(trials)) >= self._plan.trials
            if is_spare or _is_copy(trial.number, trial.user_attrs, trials):
                self._discard(trial.number, _SPARE)
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
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and self._is_lost(trial, attributes):
                self._discard(trial.number, _LOST)
        trials = self._trials()
        for trial in trials:
            # These can also be trials of a worker that died after it had discarded them.
            if self._must_repeat(trial, trials):
                reason = "its worker died or the database restarted"
                log.warning("trial %d was lost, because %s: it is queued again", trial.number, reason)
                again = partial(self._study.enqueue_trial, _values(trial), user_attrs={_REPEATS: trial.number})
                retry_until_answered(again)

    def _is_lost(self, trial: FrozenTrial, attributes: dict[str, Any]) -> bool:
        """Return whether nobody runs this unfinished trial; ``attributes`` are those of the study.

        Call it only while this worker runs no trial.
        """
        # If a worker died between asking for a trial and marking it, the trial has no worker's name.
        worker = trial.user_attrs.get(_WORKER, f"trial {trial.number}")
        # The database may have stored the mark of this worker without confirming it. ``_claim`` then took another
        # trial, and nobody runs this one.
        return worker == self._worker.name or self._observer.is_dead(worker, attributes)

    def _must_repeat(self, trial: FrozenTrial, trials: list[FrozenTrial]) -> bool:
        """Return whether a trial was lost and is not queued again yet; ``trials`` are all trials of the search."""
        return (
            _is_discarded(trial)
            and trial.user_attrs[DISCARDED] == _LOST
            # If a worker died before it had stored all values, there is nothing to repeat: ``_claim`` asks for a new
            # trial instead.
            and _values(trial).keys() == self._distributions.keys()
            and all(other.user_attrs.get(_REPEATS) != trial.number for other in trials)
            and not _is_copy(trial.number, trial.user_attrs, trials)
        )

    def _discard(self, number: int, reason: str) -> None:
        """Take a trial out of the search, unless it has ended meanwhile."""

        def discard() -> None:
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
            # The error means that it has ended: by an earlier attempt, by another worker, or with a result.
            with suppress(UpdateFinishedTrialError):
                # The mark comes first. Another worker that reads between the two calls would otherwise see a trial that
                # failed, and count it as a result of the search.
                self._storage.set_trial_user_attr(trial_id, DISCARDED, reason)
                self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

        retry_until_answered(discard)

    def _counted(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return those of all ``trials`` that count; a lost one holds its place until it is queued again."""
        return [trial for trial in trials if not _is_discarded(trial) or self._must_repeat(trial, trials)]

    def _trials(self) -> list[FrozenTrial]:
        return retry_until_answered(super()._trials)

    def tell(self, number: int, value: float | None) -> None:
        """Store the monitored value of a trial; None means that the trial failed."""
        try:
            retry_until_answered(lambda: super(SharedStudy, self).tell(number, value))
        except (UpdateFinishedTrialError, ValueError):
            # Other workers wrongly counted this one as dead and queued the trial again. If the worker that gets it has
            # the same folder, it will find the finished run.
            if not self._is_finished(number):
                raise

    def _is_finished(self, number: int) -> bool:
        return any(trial.number == number and trial.state.is_finished() for trial in self._trials())

    def close(self) -> None:
        """Free the trials of this worker, and log in which other folders there are runs of this search."""
        self._worker.stop()
        folder = str(self._folder.resolve())
        try:
            # Asked only once: a process that ends does not wait for the database.
            trials = super()._trials()
        except DATABASE_ERRORS:
            return
        finally:
            # A server limits the number of open connections, and a Python session may continue for a long time.
            self._storage.engine.dispose()
        folders = {trial.user_attrs.get(FOLDER, folder) for trial in trials if not _is_discarded(trial)}
        if other_folders := folders - {folder}:
            log.warning("the table has only the runs in %s; others are in %s", folder, ", ".join(sorted(other_folders)))


def _is_discarded(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and DISCARDED in trial.user_attrs


def _is_copy(number: int, attributes: dict[str, Any], trials: list[FrozenTrial]) -> bool:
    """Return whether an earlier trial repeats the same lost trial as this one.

    Two workers can queue a trial at the same time, and a database can store one request twice. Optuna gives the
    numbers, so all workers take the same trial for the copy.
    """
    lost = attributes.get(_REPEATS)
    return lost is not None and any(
        other.number < number and other.user_attrs.get(_REPEATS) == lost for other in trials
    )


def _values(trial: FrozenTrial) -> dict[str, Value]:
    """Return the values of a trial; of one that was queued, those that it was given."""
    values: dict[str, Value] = trial.system_attrs.get(GIVEN, trial.params)
    return values
