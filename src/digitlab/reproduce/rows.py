"""What a row of the comparison is: one recipe, the figures that a report gives for it, and how it is run."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from omegaconf import OmegaConf

from digitlab.config.compose import CONF
from digitlab.config.metrics import metric_direction

Executor = Literal["lightning", "numpy", "pure", "xgboost"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric of a row, keyed as in ``result.json``, and what the report gives for it; None: it gives none.

    Accuracies and F1 are in [0, 1]. ``counts_from`` is where a rounded figure begins.
    """

    metric: str
    reported: float | None = None
    counts_from: float | None = None

    @property
    def lower_is_better(self) -> bool:
        return metric_direction(self.metric) == "min"

    @property
    def bar(self) -> float | None:
        """What has to be reached."""
        return self.reported if self.counts_from is None else self.counts_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One recipe: ``experiment`` of ``conf/experiment`` with ``overrides``, by ``executor``.

    ``reported_seconds`` is the report's time, on another machine. ``against`` is the row with which a wish is compared.
    ``folds`` replaces seeds by the folds of a cross-validation. ``note`` stands beside the row in the table.
    """

    name: str
    report: str
    what: str
    figures: tuple[Figure, ...]
    experiment: str | None = None
    overrides: tuple[str, ...] = ()
    executor: Executor = "lightning"
    reported_seconds: float | None = None
    against: str | None = None
    folds: int | None = None
    note: str = ""

    def replicates(self, seeds: int) -> int:
        """How many runs the row has. Boosted trees draw nothing at random: one says all."""
        if self.executor == "xgboost":
            return 1
        return seeds if self.folds is None else self.folds

    def typed(self, replicate: int) -> list[str]:
        """The overrides of one run; its name is that of a file in ``conf/experiment``."""
        number = f"seed={replicate}" if self.folds is None else f"data.fold={replicate}"
        return [f"experiment={self.experiment or self.name}", *self.overrides, number]


def grid(
    experiment: str, *, report: str, what: str, metric: str, figures: Mapping[str, float] | None = None
) -> tuple[Row, ...]:
    """A row for each setting that the file of ``experiment`` sweeps over, but for seeds, which every row has anyway.

    ``figures`` are the report's, by the swept value as it is written in the file.
    """
    params = OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml").hydra.sweeper.params
    choices = [
        [(str(key), value) for value in str(values).split(",")] for key, values in params.items() if key != "seed"
    ]
    return tuple(
        Row(
            name="_".join([experiment, *(value for _, value in setting)]),
            report=report,
            what=f"{what} {', '.join(value for _, value in setting)}",
            figures=(Figure(metric, (figures or {}).get(setting[0][1])),),
            experiment=experiment,
            overrides=tuple(f"{key}={value}" for key, value in setting),
        )
        for setting in itertools.product(*choices)
    )
