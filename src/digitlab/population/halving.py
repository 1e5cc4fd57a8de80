"""Successive halving (Jamieson and Talwalkar, 2016): at chosen epochs the worse half of a population stops training.

A population trains several runs together; each of them is a member. Halving compares settings, not single members. A
setting is the overrides of a run without its seed, fold and split seed. Its score is the mean over its members, and all
its members stay or stop together. If single members were compared, only those with lucky seeds would remain, and the
table of a sweep would compare means over different numbers of seeds.

The checks before a sweep and the grouping of jobs use this module, and ``member`` and ``cohort`` during training.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence

from digitlab.config.overrides import split_override
from digitlab.config.replicates import REPLICATE_KEYS
from digitlab.core.errors import ConfigError
from digitlab.results.folder import RunFolder
from digitlab.results.outcome import UNREADABLE, monitored

Setting = tuple[str, ...]


def setting_of(overrides: Sequence[str]) -> Setting:
    """Return the setting of a run: its ``overrides`` without those of seed, fold and split seed."""
    return tuple(override for override in overrides if split_override(override)[0] not in REPLICATE_KEYS)


def default_epochs(max_epochs: int) -> list[int]:
    """Return a half, a quarter, an eighth, … of ``max_epochs``, in increasing order: 1, 2 and 5 for 10 epochs."""
    epochs = []
    # After each halving, half of the settings train until twice as many epochs, so all rounds cost about the same.
    while max_epochs := max_epochs // 2:
        epochs.append(max_epochs)
    return epochs[::-1]


def halving_epochs(epochs: Sequence[int] | None, max_epochs: int) -> list[int]:
    """Return the epochs after which runs of ``max_epochs`` are halved: ``epochs``, or the default if that is None.

    Raises ``ConfigError`` if ``epochs`` is empty, not in increasing order, or not below ``max_epochs``, or if
    ``max_epochs`` is too small for the default.
    """
    if epochs is not None:
        # After the last epoch, all runs end, so there is nothing to halve.
        if not epochs or sorted(set(epochs)) != list(epochs) or epochs[-1] >= max_epochs:
            allowed = f"must be epochs in growing order, all below trainer.max_epochs={max_epochs}"
            raise ConfigError("sweep.halving_epochs", epochs, allowed)
        return list(epochs)
    if max_epochs < 2:
        raise ConfigError("sweep.halving", True, f"needs two epochs at least, and trainer.max_epochs is {max_epochs}")
    return default_epochs(max_epochs)


def worse_half(active: Mapping[Setting, Sequence[float]], mode: str) -> set[Setting]:
    """Return the worse half of the ``active`` settings; if their number is odd, the smaller half.

    ``active`` maps each setting to the monitored values of its members. ``mode`` is "min" or "max", the better
    direction. Of settings with equal means, those that come first in ``active`` stay.
    """
    # Python's sort keeps the order of equal means, so a resumed population makes the same choice.
    means = {setting: statistics.fmean(values) for setting, values in active.items()}
    ranked = sorted(means, key=means.__getitem__, reverse=mode == "max")
    return set(ranked[(len(ranked) + 1) // 2 :])


def score_of_ended_run(run: RunFolder, epoch: int, worst: float) -> tuple[Setting, float] | None:
    """Return the setting and the score of a run that had ended by ``epoch``, for example by early stopping.

    The score of a failed run is ``worst``. Return None for a run that had not ended, which includes a stopped run,
    because it will be resumed. Return None also for a run that an earlier halving ended, because its whole setting has
    ended and is not compared any more.
    """
    try:
        result = run.read_result()
        # A result with more epochs belongs to a run that was still training at ``epoch``.
        if result["epochs"] > epoch or result["status"] == "stopped" or result.get("halved_after_epoch") is not None:
            return None
        score = worst
        if result["status"] != "failed":
            _, score = monitored(run, result)
        return setting_of(result["overrides"]), score
    except UNREADABLE:
        return None


def refuse_alone(sizes: Sequence[int], warn: Callable[[str], None]) -> None:
    """Raise ``ConfigError`` if all populations have size 1, because halving needs runs to compare.

    ``sizes`` are the numbers of members of the populations. If only some are 1, call ``warn`` with a message.
    """
    # Without any population, there is nothing to refuse, so the default is a size that is allowed.
    if max(sizes, default=2) < 2:
        allowed = (
            "halves populations, and each of these runs trains alone: hydra.launcher.max_members=N makes populations "
            "of runs that differ in numbers only"
        )
        raise ConfigError("sweep.halving", True, allowed)
    if alone := sum(size == 1 for size in sizes):
        warn(f"{alone} runs train alone: nothing is halved there")
