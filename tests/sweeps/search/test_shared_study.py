"""A search on a shared database whose answers get lost: the change is stored, but the worker sees an error."""

import itertools
import json
import shutil

import pytest

pytest.importorskip("optuna")

import optuna
from optuna.exceptions import StorageInternalError

from digitlab.sweeps.search import shared_study, storage
from digitlab.sweeps.search.shared_study import SharedStudy

SPACE = ("optimizer.lr=tag(log,interval(1e-4,1))", "model.dropout=interval(0,0.5)")
TRIALS = 2
WRITES = ("_create_new_trial", "set_trial_param", "set_trial_user_attr", "set_trial_state_values")


@pytest.fixture
def impatient(monkeypatch):
    """No pauses between attempts."""
    monkeypatch.setattr(storage, "_RETRY_SECONDS", 0)
    monkeypatch.setattr(shared_study, "_IDLE_SECONDS", 0.01)


@pytest.fixture
def worker(plan):
    """``worker(folder)`` opens the shared search in this folder."""

    def opened(folder):
        url = f"sqlite:///{folder}/shared.db"
        made = plan(
            *SPACE, f"hydra.sweeper.storage={url}", f"hydra.sweeper.n_trials={TRIALS}", "hydra.sweeper.sampler=random",
            "hydra.sweeper.dead_after_s=0.2",
        )  # fmt: skip
        return SharedStudy(folder / "search", made, fingerprint="0", metric="val/loss")

    return opened


def lose_answer(monkeypatch, at):
    """Let the write number ``at`` to the database end with an error after it was stored; return the list of writes."""
    writes = []

    def losing(name, write):
        def lost(*arguments, **named):
            writes.append(name)
            number = len(writes)
            answer = write(*arguments, **named)
            if number == at:
                raise StorageInternalError("lost connection")
            return answer

        return lost

    for name in WRITES:
        monkeypatch.setattr(optuna.storages.RDBStorage, name, losing(name, getattr(optuna.storages.RDBStorage, name)))
    return writes


def finish(study):
    """Run all trials that the search still asks for, and return the values of those that count, as text."""
    while trials := study.round(1):
        for number, chosen in trials.items():
            study.tell(number, chosen["model.dropout"])
    study.close()
    completed = study._study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    return sorted(json.dumps(trial.params, sort_keys=True) for trial in completed)


@pytest.mark.extra
def test_a_search_is_complete_whichever_answer_of_the_database_is_lost(worker, impatient, monkeypatch, tmp_path):
    start = tmp_path / "start"
    start.mkdir()
    first = worker(start)
    (left,) = first.round(1).values()
    first.close()
    for at in itertools.count(1):
        folder = shutil.copytree(start, tmp_path / str(at))
        with monkeypatch.context() as context:
            writes = lose_answer(context, at)
            done = finish(worker(folder))
        assert len(done) == len(set(done)) == TRIALS, writes[:at]
        assert json.dumps(left, sort_keys=True) in done, f"the trial of the first worker is lost: {writes[:at]}"
        if len(writes) < at:
            return
