"""Defines a row of the comparison: one recipe, the values that a report gives for it, and how to run it.

A recipe is a file in ``conf/experiment``. ``reproduce.registry`` lists all rows.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from omegaconf import OmegaConf

from digitlab.config.compose import CONF
from digitlab.config.metrics import metric_direction

Executor = Literal["lightning", "numpy", "pure", "xgboost"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a row, named as in ``result.json``, and the report's value for it (None if the report gives none).

    Accuracies and F1 are in [0, 1]. If the report rounds its value, ``counts_from`` is the smallest value that would
    be rounded to it: our value is as good as the report's from there on.
    """

    name: str
    reported: float | None = None
    counts_from: float | None = None

    @property
    def lower_is_better(self) -> bool:
        return metric_direction(self.name) == "min"

    @property
    def target(self) -> float | None:
        """The value that our mean has to reach; None if the report gives none."""
        return self.reported if self.counts_from is None else self.counts_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One recipe: the file ``experiment`` in ``conf/experiment`` with ``overrides``, run by ``executor``.

    ``experiment`` is by default the name of the row. ``report`` is the part of a report, such as R4b, and ``what``
    describes the row in a few words. ``reported_seconds`` is the report's training time on another machine. Rows
    named ``wish_…`` are experiments that the reports only wished for; ``against`` names the row that such a row is
    compared with. ``folds`` replaces the seeds by the folds of a cross-validation. The table shows ``note`` next to the
    row.
    """

    name: str
    report: str
    what: str
    metrics: tuple[Metric, ...]
    experiment: str | None = None
    overrides: tuple[str, ...] = ()
    executor: Executor = "lightning"
    reported_seconds: float | None = None
    against: str | None = None
    folds: int | None = None
    note: str = ""

    def replicates(self, seeds: int) -> int:
        """Return the number of runs of this row. Boosted trees are deterministic, so one run is enough."""
        if self.executor == "xgboost":
            return 1
        return seeds if self.folds is None else self.folds

    def command_overrides(self, replicate: int) -> list[str]:
        """Return the overrides of one run: the experiment, those of the row, and the seed or fold ``replicate``."""
        seed_or_fold = f"seed={replicate}" if self.folds is None else f"data.fold={replicate}"
        return [f"experiment={self.experiment or self.name}", *self.overrides, seed_or_fold]


def grid(
    experiment: str, *, report: str, what: str, metric: str, reported: Mapping[str, float] | None = None
) -> tuple[Row, ...]:
    """Return one row for each setting that the file of ``experiment`` sweeps over.

    A row has the values of all swept keys except the seed, because every row is run with several seeds. ``reported``
    holds the report's values of ``metric`` by the value of the first key, written as in the file.
    """
    # The values of each swept key, as in ``optimizer.lr: 0.1,0.01``.
    params = OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml").hydra.sweeper.params
    choices = [
        [(str(key), value) for value in str(values).split(",")] for key, values in params.items() if key != "seed"
    ]
    # A setting has one pair (key, value) for each key, so ``setting[0][1]`` is the value of the first key.
    return tuple(
        Row(
            name="_".join([experiment, *(value for _, value in setting)]),
            report=report,
            what=f"{what} {', '.join(value for _, value in setting)}",
            metrics=(Metric(metric, (reported or {}).get(setting[0][1])),),
            experiment=experiment,
            overrides=tuple(f"{key}={value}" for key, value in setting),
        )
        for setting in itertools.product(*choices)
    )
