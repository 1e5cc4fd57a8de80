"""Reads the numbers of a finished run: the metrics of ``result.json``, and quantities derived from its curves.

``reproduce.table`` compares them with the course reports. A curve has one value for each epoch.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from digitlab.core.errors import DIVERGED
from digitlab.reproduce.load import ran_alone
from digitlab.results.folder import RunFolder
from digitlab.results.history import read_history
from digitlab.results.outcome import UNREADABLE

Curve = Sequence[float]

_LAST_EPOCHS = 5
# The accuracy of a diverged run, whose network can only guess one of ten classes.
_CHANCE = 0.1


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """One finished run, or one that diverged.

    ``curves`` are the columns of ``metrics.csv`` by name, with one value for each epoch. ``alone`` says whether the run
    had the machine to itself, so that its seconds can be compared.
    """

    metrics: Mapping[str, float]
    curves: Mapping[str, Curve]
    train_seconds: float
    parameters: int | None
    hardware: str
    diverged: bool = False
    alone: bool = False

    def value(self, quantity: str) -> float:
        """Return a metric, ``train_seconds``, ``train_seconds_alone`` or one of ``DERIVED``; nan if the run has none.

        ``train/…`` and ``val/…`` are the values of the last epoch, whichever checkpoint the run tested; ``test/…`` are
        those of the tested checkpoint. ``train_seconds_alone`` is nan unless the run had the machine to itself. A run
        that diverged has the accuracy of chance (0.1) and no other number.
        """
        if self.diverged:
            return _CHANCE if quantity.endswith("accuracy") else math.nan
        if quantity == "train_seconds":
            return self.train_seconds
        if quantity == "train_seconds_alone":
            return self.train_seconds if self.alone else math.nan
        # ``result.json`` has the metrics of the tested checkpoint, which is the best one in some rows and the last one
        # in others. A maximum is higher than a last value, so all rows use the last epoch here.
        if quantity.startswith(("train/", "val/")) and self.curves.get(quantity):
            return self.curves[quantity][-1]
        if quantity in DERIVED:
            return DERIVED[quantity](self.curves)
        return self.metrics.get(quantity, math.nan)


def read_outcome(run: RunFolder) -> RunOutcome | None:
    """Return the outcome of a run that finished or diverged; None if it is missing, damaged, or ended in another way.

    A run diverges if its loss is not finite. That is a result of the recipe, so it counts, and no other failure does. A
    run with a damaged file was killed, or its folder was changed. The same command resumes it.
    """
    try:
        return _read(run)
    except UNREADABLE:
        return None


def _read(run: RunFolder) -> RunOutcome | None:
    result = run.read_result()
    diverged = result["status"] == "failed" and result.get("error", "").endswith(DIVERGED)
    if result["status"] != "finished" and not diverged:
        return None
    hardware = result["hardware"]
    threads = hardware["threads"]
    return RunOutcome(
        metrics={name: value for name, value in result["metrics"].items() if value is not None},
        curves=_curves(run),
        train_seconds=result["train_seconds"],
        parameters=result["parameters"],
        hardware=f"{hardware.get('gpu', hardware['cpu'])}, {threads} thread{'s' * (threads > 1)}",
        diverged=diverged,
        alone=ran_alone(run),
    )


def _curves(run: RunFolder) -> dict[str, list[float]]:
    """Return the columns of ``metrics.csv`` by name, without empty cells."""
    rows = read_history(run)
    names = dict.fromkeys(name for row in rows for name in row.values)
    return {name: [row.values[name] for row in rows if name in row.values] for name in names}


def _late_val_accuracy(curves: Mapping[str, Curve]) -> float:
    """Return the mean validation accuracy of the last five epochs: the accuracy fluctuates from epoch to epoch."""
    accuracies = curves.get("val/accuracy", ())
    return statistics.fmean(accuracies[-_LAST_EPOCHS:]) if accuracies else math.nan


def _volatility(curves: Mapping[str, Curve]) -> float:
    """Return the standard deviation (n - 1) of the validation accuracy over the last five epochs."""
    last = curves.get("val/accuracy", ())[-_LAST_EPOCHS:]
    return statistics.stdev(last) if len(last) == _LAST_EPOCHS else math.nan


def _val_loss_rise(curves: Mapping[str, Curve]) -> float:
    """Return the validation loss of the last epoch minus the lowest one."""
    losses = curves.get("val/loss", ())
    return losses[-1] - min(losses) if losses else math.nan


def _gain_of_last_five_epochs(curves: Mapping[str, Curve]) -> float:
    """Return the validation accuracy of the last epoch minus that of five epochs before."""
    accuracies = curves.get("val/accuracy", ())
    return accuracies[-1] - accuracies[-1 - _LAST_EPOCHS] if len(accuracies) > _LAST_EPOCHS else math.nan


def _overfits_from_epoch(curves: Mapping[str, Curve]) -> float:
    """Return the first epoch from which the validation loss stays above the training loss until the end.

    If it is not above in the last epoch, the result is one more than the number of epochs.
    """
    pairs = list(zip(curves.get("train/loss", ()), curves.get("val/loss", ()), strict=False))
    epochs_without_overfitting = [epoch for epoch, (train, val) in enumerate(pairs, start=1) if val <= train]
    return float(max(epochs_without_overfitting, default=0) + 1) if pairs else math.nan


# The quantities that are computed from the curves of a run, by name. Each is nan if the run has too few epochs.
DERIVED: dict[str, Callable[[Mapping[str, Curve]], float]] = {
    "late_val_accuracy": _late_val_accuracy,
    "volatility": _volatility,
    "val_loss_rise": _val_loss_rise,
    "gain_of_last_five_epochs": _gain_of_last_five_epochs,
    "overfits_from_epoch": _overfits_from_epoch,
}
