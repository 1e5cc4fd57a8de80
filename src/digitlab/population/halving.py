"""Successive halving (Jamieson and Talwalkar, 2016): after given epochs the worse half of a population leaves it.

What leaves is settings: all members that differ only in ``seed``, by their mean. Single members would not do, as the
luckiest seed of each setting would be left, and means over these are what the table compares.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence

from digitlab.core.errors import ConfigError
from digitlab.results.folder import RunFolder
from digitlab.results.outcome import UNREADABLE, monitored

Setting = tuple[str, ...]


def setting_of(overrides: Sequence[str]) -> Setting:
    """What the replicates of a setting have in common."""
    return tuple(override for override in overrides if not override.startswith("seed="))


def default_epochs(max_epochs: int) -> list[int]:
    """A half, a quarter, an eighth, … of ``max_epochs``, in order: of 10 these are 1, 2 and 5."""
    epochs = []
    while max_epochs := max_epochs // 2:
        epochs.append(max_epochs)
    return epochs[::-1]


def halving_epochs(epochs: Sequence[int] | None, max_epochs: int) -> list[int]:
    """After which epochs runs of ``max_epochs`` are halved; ``epochs`` are those asked for, None for the default.

    Raises ``ConfigError`` where there is none, or one behind the last.
    """
    if epochs is not None:
        if not epochs or sorted(set(epochs)) != list(epochs) or epochs[-1] >= max_epochs:
            allowed = f"must be epochs in growing order, all below trainer.max_epochs={max_epochs}"
            raise ConfigError("sweep.halving_epochs", epochs, allowed)
        return list(epochs)
    if max_epochs < 2:
        raise ConfigError("sweep.halving", True, f"needs two epochs at least, and trainer.max_epochs is {max_epochs}")
    return default_epochs(max_epochs)


def leaving(active: Mapping[Setting, Sequence[float]], mode: str) -> set[Setting]:
    """The worse half, without the one in the middle, of the settings that are ``active``.

    Each has its members' values of the monitored metric, which is better towards ``mode``, min or max. Of equal ones
    those that came first stay.
    """
    means = {setting: statistics.fmean(values) for setting, values in active.items()}
    ranked = sorted(means, key=means.__getitem__, reverse=mode == "max")
    return set(ranked[(len(ranked) + 1) // 2 :])


def ended_value(run: RunFolder, epoch: int, worst: float) -> tuple[Setting, float] | None:
    """The setting of a run that had ended by ``epoch``, and its monitored value, ``worst`` where it failed.

    None of any other run. One that halving ended is none either: its whole setting left with it.
    """
    try:
        result = run.read_result()
        if result["epochs"] > epoch or result["status"] == "stopped" or result.get("halved_after_epoch") is not None:
            return None
        value = worst if result["status"] == "failed" else monitored(run, result)[1]
        return setting_of(result["overrides"]), value
    except UNREADABLE:
        return None


def refuse_alone(sizes: Sequence[int], tell: Callable[[str], None]) -> None:
    """Raise ``ConfigError`` where none of the populations, given by their ``sizes``, has anything to halve.

    What trains alone beside others is told.
    """
    if max(sizes, default=2) < 2:
        allowed = (
            "halves populations, and each of these runs trains alone: hydra.launcher.max_members=N makes populations "
            "of runs that differ in numbers only"
        )
        raise ConfigError("sweep.halving", True, allowed)
    if alone := sum(size == 1 for size in sizes):
        tell(f"{alone} runs train alone: nothing is halved there")
