"""Successive halving (Jamieson and Talwalkar, 2016): after given epochs the worse half of a population ends.

It compares settings: all members that differ only in ``seed`` stay or end together, by the mean of their scores. If it
compared single members, the luckiest seed of each setting would remain, and the table of a sweep, which shows means
over seeds, would compare different numbers of seeds.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence

from digitlab.config.replicates import REPLICATE_KEYS
from digitlab.core.errors import ConfigError
from digitlab.results.folder import RunFolder
from digitlab.results.outcome import UNREADABLE, monitored

Setting = tuple[str, ...]


def setting_of(overrides: Sequence[str]) -> Setting:
    """The overrides of a run without its seed, fold and split seed: what the replicates of a setting share."""
    return tuple(override for override in overrides if override.partition("=")[0] not in REPLICATE_KEYS)


def default_epochs(max_epochs: int) -> list[int]:
    """A half, a quarter, an eighth, ... of ``max_epochs``, in increasing order: 1, 2 and 5 for 10 epochs."""
    epochs = []
    # Each halving leaves half of the settings for twice as many epochs, so every round costs about the same.
    while max_epochs := max_epochs // 2:
        epochs.append(max_epochs)
    return epochs[::-1]


def halving_epochs(epochs: Sequence[int] | None, max_epochs: int) -> list[int]:
    """The epochs after which runs of ``max_epochs`` are halved: ``epochs``, or the default if that is None.

    Raises ``ConfigError`` if there is no such epoch, or if one is not before the last.
    """
    if epochs is not None:
        # Halving after the last epoch would end nothing.
        if not epochs or sorted(set(epochs)) != list(epochs) or epochs[-1] >= max_epochs:
            allowed = f"must be epochs in growing order, all below trainer.max_epochs={max_epochs}"
            raise ConfigError("sweep.halving_epochs", epochs, allowed)
        return list(epochs)
    if max_epochs < 2:
        raise ConfigError("sweep.halving", True, f"needs two epochs at least, and trainer.max_epochs is {max_epochs}")
    return default_epochs(max_epochs)


def worse_half(active: Mapping[Setting, Sequence[float]], mode: str) -> set[Setting]:
    """The worse half of the ``active`` settings, rounded down.

    ``active`` has the members' monitored values for each setting; ``mode`` says whether "min" or "max" is better. Among
    settings with equal means the first ones stay.
    """
    # Python's sort is stable, so the order of equal means, and with it who leaves, is the same after a resume.
    means = {setting: statistics.fmean(values) for setting, values in active.items()}
    ranked = sorted(means, key=means.__getitem__, reverse=mode == "max")
    return set(ranked[(len(ranked) + 1) // 2 :])


def ended_value(run: RunFolder, epoch: int, worst: float) -> tuple[Setting, float] | None:
    """The setting and the score of a run that had ended by ``epoch``; the score is ``worst`` if it failed.

    None for any other run, and for a run that halving ended, because its whole setting ended with it.
    """
    try:
        # A stopped run will be resumed, so it is neither ended nor failed.
        result = run.read_result()
        if result["epochs"] > epoch or result["status"] == "stopped" or result.get("halved_after_epoch") is not None:
            return None
        value = worst if result["status"] == "failed" else monitored(run, result)[1]
        return setting_of(result["overrides"]), value
    except UNREADABLE:
        return None


def refuse_alone(sizes: Sequence[int], tell: Callable[[str], None]) -> None:
    """Raise ``ConfigError`` if all populations have size 1, so that there is nothing to halve.

    If only some runs train alone, ``tell`` reports how many.
    """
    if max(sizes, default=2) < 2:
        allowed = (
            "halves populations, and each of these runs trains alone: hydra.launcher.max_members=N makes populations "
            "of runs that differ in numbers only"
        )
        raise ConfigError("sweep.halving", True, allowed)
    if alone := sum(size == 1 for size in sizes):
        tell(f"{alone} runs train alone: nothing is halved there")
