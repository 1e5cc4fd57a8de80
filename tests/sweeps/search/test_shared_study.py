"""A search on a shared database whose answers get lost: the change is stored, but the worker sees an error."""

import itertools
import json
import shutil
import threading

import pytest

pytest.importorskip("optuna")

import optuna
import sqlalchemy
from sqlalchemy.orm import Session

from digitlab.sweeps.search import shared_study, storage, study
from digitlab.sweeps.search.shared_study import SharedStudy

SPACE = ("optimizer.lr=tag(log,interval(1e-4,1))", "model.dropout=interval(0,0.5)")
TRIALS = 2


@pytest.fixture
def impatient(monkeypatch):
    """No pauses between attempts."""
    monkeypatch.setattr(storage, "_RETRY_SECONDS", 0)
    monkeypatch.setattr(shared_study, "_IDLE_SECONDS", 0.01)
    # Optuna waits for a random time before it repeats an attempt itself.
    monkeypatch.setattr(optuna.storages._rdb.storage.random, "random", lambda: 0.0)


def url_in(folder):
    return f"sqlite:///{folder}/shared.db"


@pytest.fixture
def worker(plan):
    """``worker(folder)`` opens the shared search in this folder."""

    def opened(folder):
        made = plan(
            *SPACE, f"hydra.sweeper.storage={url_in(folder)}", f"hydra.sweeper.n_trials={TRIALS}",
            "hydra.sweeper.sampler=random", "hydra.sweeper.dead_after_s=0.2",
        )  # fmt: skip
        return SharedStudy(folder / "search", made, fingerprint="0", metric="val/loss")

    return opened


def lose_answer(monkeypatch, at):
    """Let the commit number ``at`` that this thread makes, once a search is open, end with an error after it was made.

    Returns a list of one number, the number of commits.
    """
    commit, open_study = Session.commit, study.open_study
    commits, is_open = [0], False

    def opened(*arguments, **named):
        nonlocal is_open
        found = open_study(*arguments, **named)
        is_open = True
        return found

    def lost(session):
        commit(session)
        # The worker shows from another thread that it is alive; the order of its commits is random.
        if is_open and threading.current_thread() is threading.main_thread():
            commits[0] += 1
            if commits[0] == at:
                raise sqlalchemy.exc.OperationalError("COMMIT", None, Exception("lost connection"))

    monkeypatch.setattr(study, "open_study", opened)
    monkeypatch.setattr(Session, "commit", lost)
    return commits


def run_all(worker):
    """Run all trials that the search still asks for."""
    while trials := worker.round(1):
        for number, chosen in trials.items():
            worker.tell(number, chosen["model.dropout"])
    worker.close()


def completed(folder):
    """The values of the trials that count, as text."""
    found = optuna.load_study(study_name="search", storage=(opened := optuna.storages.RDBStorage(url_in(folder))))
    trials = found.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    opened.engine.dispose()
    return sorted(as_text(trial.params) for trial in trials)


def as_text(values):
    return json.dumps(values, sort_keys=True)


@pytest.mark.extra
@pytest.mark.sample(3)
@pytest.mark.parametrize("first_commit", [1, 2, 3])
def test_a_search_is_complete_whichever_answer_is_lost(worker, impatient, monkeypatch, tmp_path, first_commit):
    start = tmp_path / "start"
    start.mkdir()
    first = worker(start)
    (left,) = first.round(1).values()
    first.close()
    for at in itertools.count(first_commit, 3):
        folder = shutil.copytree(start, tmp_path / str(at))
        with monkeypatch.context() as patch:
            commits = lose_answer(patch, at)
            run_all(worker(folder))
        done = completed(folder)
        assert len(done) == len(set(done)) == TRIALS, f"commit {at}"
        assert as_text(left) in done, f"commit {at}: the trial of the first worker is lost"
        if commits[0] < at:
            return


@pytest.mark.parametrize("dies_after", ["discarding", "queueing"])
def test_a_worker_that_dies_while_it_queues_a_trial_leaves_it_to_the_next(worker, impatient, tmp_path, dies_after):
    first = worker(tmp_path)
    ((number, left),) = first.round(1).items()
    first.close()
    second = worker(tmp_path)
    second._discard(number, "lost")
    if dies_after == "queueing":
        # Both workers have queued it.
        for _ in range(2):
            second._study.enqueue_trial(left, user_attrs={"repeats": number})
    second.close()
    run_all(worker(tmp_path))
    done = completed(tmp_path)
    assert len(done) == len(set(done)) == TRIALS
    assert as_text(left) in done


def test_a_trial_that_ended_meanwhile_is_not_run_again(worker, impatient, tmp_path):
    first, second = worker(tmp_path), worker(tmp_path)
    ((number, chosen),) = first.round(1).items()
    first.tell(number, 0.1)
    second._discard(number, "lost")
    run_all(second)
    first.close()
    done = completed(tmp_path)
    assert len(done) == len(set(done)) == TRIALS
    assert as_text(chosen) in done
