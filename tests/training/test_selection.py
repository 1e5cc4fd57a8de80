"""The best epoch and early stopping are pure functions of the metric history."""

import math

import pytest

from digitlab.training.early_stopping import BestTracker, EarlyStopping, Monitor, MonitorValue
from digitlab.training.run_state import RunState

MAX, MIN = Monitor(metric="val/accuracy", mode="max"), Monitor(metric="val/loss", mode="min")


def best_tracker(*values, monitor=MAX, steps_per_epoch=10, **stopping):
    early_stopping = EarlyStopping(**stopping) if stopping else None
    history = [MonitorValue(epoch, epoch * steps_per_epoch, value) for epoch, value in enumerate(values, start=1)]
    return BestTracker(monitor=monitor, early_stopping=early_stopping, history=history)


@pytest.mark.parametrize(
    ("values", "monitor", "epoch"),
    [
        ((0.1, 0.3, 0.2), MAX, 2),
        ((0.1, 0.3, 0.2), MIN, 1),
        ((0.2, 0.3, 0.3), MAX, 2),  # the earlier one wins a tie
        ((math.nan, 0.1, math.nan), MAX, 2),
        ((math.nan, 5.0), MIN, 2),
        ((0.0,), MAX, 1),
    ],
)
def test_the_best_is_the_first_of_the_best_values(values, monitor, epoch):
    assert best_tracker(*values, monitor=monitor).best.epoch == epoch


def test_nan_is_never_the_best():
    assert best_tracker(math.nan, math.nan).best is None


def test_without_validation_the_last_is_the_best():
    last = BestTracker(monitor=MAX, last_is_best=True)
    assert all(last.update(MonitorValue(epoch, epoch, value)) for epoch, value in enumerate((0.3, 0.1, 0.2)))
    assert last.best.value == 0.2


@pytest.mark.parametrize(
    ("values", "should_stop"),
    [
        ((0.1, 0.2, 0.2), False),
        ((0.2, 0.2, 0.2), True),
        ((0.2, 0.1, 0.3), False),
        ((math.nan, math.nan), True),
    ],
)
def test_patience_counts_epochs_without_a_gain(values, should_stop):
    assert best_tracker(*values, patience=2).should_stop is should_stop


def test_patience_in_steps_counts_mini_batches():
    assert not best_tracker(0.2, 0.1, patience=11, unit="steps").should_stop
    assert best_tracker(0.2, 0.1, 0.1, patience=11, unit="steps").should_stop


def test_a_gain_below_min_delta_is_the_best_but_does_not_restart_patience():
    crawling = best_tracker(0.5, 0.505, 0.509, patience=2, min_delta=0.01)
    assert crawling.should_stop
    assert crawling.best.value == 0.509
    # Small gains add up until they exceed min_delta.
    assert not best_tracker(0.5, 0.508, 0.516, patience=2, min_delta=0.01).should_stop


def test_without_early_stopping_patience_never_runs_out():
    assert not best_tracker(*[0.0] * 100).should_stop


def test_a_replayed_history_gives_the_same_selection():
    whole = best_tracker(0.1, 0.4, 0.2, 0.3, patience=2)
    parts = best_tracker(0.1, 0.4, patience=2)
    for point in whole.history[2:]:
        parts.update(point)
    assert (parts.best, parts.should_stop) == (whole.best, whole.should_stop) == (whole.history[1], True)


@pytest.mark.parametrize(("tested", "value"), [("best", 0.9), ("none", 0.9), ("last", 0.7)])
def test_members_are_compared_by_the_checkpoint_that_would_be_tested(tested, value):
    state = object.__new__(RunState)  # the property reads nothing else
    state._test, state.best_tracker = tested, best_tracker(0.5, 0.9, 0.7)
    assert state.monitored == value
    state.best_tracker = best_tracker()
    assert state.monitored == MAX.worst
