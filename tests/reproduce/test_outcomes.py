"""The numbers read from a run: derived quantities equal those computed by hand; missing ones are nan."""

import math
import statistics

import pytest

from digitlab.reproduce.outcomes import DERIVED, RunOutcome, read_outcome
from digitlab.results.folder import RunFolder

ACCURACIES = [0.1, 0.3, 0.45, 0.40, 0.50, 0.42, 0.48]
CURVES = {
    "val/accuracy": ACCURACIES,
    "val/loss": [2.0, 1.5, 1.2, 1.4, 1.3, 1.6, 1.5],
    "train/loss": [2.1, 1.6, 1.1, 1.5, 1.0, 0.9, 0.8],
}


def outcome(**changed):
    values = {"metrics": {"test/accuracy": 0.4}, "curves": CURVES, "train_seconds": 3.5, "parameters": 7}
    return RunOutcome(**(values | {"hardware": "a machine"} | changed))


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("test/accuracy", 0.4),
        ("val/accuracy", 0.48),
        ("train/loss", 0.8),
        ("train_seconds", 3.5),
        ("late_val_accuracy", statistics.fmean(ACCURACIES[2:])),
        ("volatility", statistics.stdev(ACCURACIES[2:])),
        ("gain_of_last_five_epochs", 0.48 - 0.3),
        ("val_loss_rise", 1.5 - 1.2),
        # Epoch 4 is the last one in which validation loss is below training loss.
        ("overfits_from_epoch", 5),
    ],
)
def test_quantities_equal_those_computed_by_hand(quantity, value):
    assert outcome().value(quantity) == pytest.approx(value)


def test_a_maximum_over_epochs_is_never_compared_with_a_last_epoch():
    best_tested = outcome(metrics={"val/accuracy": max(ACCURACIES)})
    last_tested = outcome(metrics={"val/accuracy": ACCURACIES[-1]})
    assert best_tested.value("val/accuracy") == last_tested.value("val/accuracy") == ACCURACIES[-1]


def test_a_run_without_curves_has_the_metrics_of_its_result():
    assert outcome(metrics={"val/accuracy": 0.3}, curves={}).value("val/accuracy") == 0.3


def test_seconds_count_in_findings_only_if_the_run_had_the_machine_to_itself():
    assert outcome(alone=True).value("train_seconds_alone") == 3.5
    assert math.isnan(outcome().value("train_seconds_alone"))


@pytest.mark.parametrize("quantity", [*DERIVED, "test/f1"])
def test_missing_quantities_are_nan(quantity):
    assert math.isnan(outcome(curves={}).value(quantity))


def test_a_diverged_run_has_the_accuracy_of_chance():
    diverged = outcome(diverged=True)
    assert diverged.value("late_val_accuracy") == diverged.value("test/accuracy") == 0.1
    assert math.isnan(diverged.value("volatility"))
    assert math.isnan(diverged.value("train_seconds"))


def test_a_missing_run_has_no_outcome(tmp_path):
    assert read_outcome(RunFolder(tmp_path)) is None
