"""Puts the values and findings of the reports next to our measurements, as lines that ``reproduce.rendering`` writes.

A finding is a sentence of a report that is no single number. It consists of claims: each says that one quantity is
larger than another.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from digitlab.reproduce.findings import Quantity, findings
from digitlab.reproduce.outcomes import RunOutcome, read_outcome
from digitlab.reproduce.registry import rows
from digitlab.reproduce.rows import Metric, Row
from digitlab.reproduce.verdicts import Sample, Verdict, decide, differences, reached
from digitlab.results.folder import RunFolder


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One metric of one row, compared with the report. Accuracies are in [0, 1]; missing values are nan.

    ``ours`` are the values of our runs. ``difference`` is their mean minus the report's value, or, if ``row.against``
    names a row, minus the mean of that row. ``train_seconds`` is the mean over the runs that did not diverge;
    ``diverged`` is the number of those that did.
    """

    row: Row
    metric: Metric
    ours: Sample
    difference: float
    verdict: Verdict
    train_seconds: float
    parameters: int | None
    diverged: int


@dataclass(frozen=True, slots=True)
class FindingLine:
    """One finding of a report: our differences, one for each of its claims in their order, and the verdict."""

    report: str
    text: str
    differences: tuple[float, ...]
    verdict: Verdict


class Measured:
    """The outcomes of all finished runs under ``root``, read once."""

    def __init__(self, root: Path) -> None:
        self.outcomes: Mapping[str, Sequence[RunOutcome]] = {
            name: [outcome for outcome in map(read_outcome, _runs(root, row)) if outcome is not None]
            for name, row in rows().items()
        }

    def sample(self, quantity: Quantity) -> Sample:
        """Return the values of a quantity in the runs of its row, without the runs that do not have it."""
        values = [outcome.value(quantity.name) for outcome in self.outcomes[quantity.row]]
        return Sample(tuple(value for value in values if not math.isnan(value)))

    def metric_lines(self) -> list[MetricLine]:
        """Return one line for each metric of each row, in the order of the reports."""
        return [self._line(row, metric) for row in rows().values() for metric in row.metrics]

    def _line(self, row: Row, metric: Metric) -> MetricLine:
        outcomes = self.outcomes[row.name]
        ours = self.sample(Quantity(row.name, metric.name))
        reference = math.nan if metric.reported is None else metric.reported
        # A row that names another one is compared with it, even if the report gives a value.
        if row.against is not None:
            reference = self.sample(Quantity(row.against, metric.name)).mean
        return MetricLine(
            row, metric, ours,
            difference=ours.mean - reference,
            verdict=reached(metric, ours),
            train_seconds=Sample(tuple(each.train_seconds for each in outcomes if not each.diverged)).mean,
            parameters=next((each.parameters for each in outcomes), None),
            diverged=sum(each.diverged for each in outcomes),
        )  # fmt: skip

    def finding_lines(self) -> list[FindingLine]:
        """Return one line for each finding, in the order of the reports."""
        return [
            FindingLine(
                finding.report, finding.text, tuple(differences(finding.claims, self.sample)),
                decide(finding, self.sample),
            )
            for finding in findings()
        ]  # fmt: skip

    def hardware(self, row: Row | None = None) -> list[str]:
        """Return the machines on which the runs of ``row`` (or all runs) were made, sorted and without repetition."""
        outcomes_by_row = self.outcomes.values() if row is None else [self.outcomes[row.name]]
        return sorted({outcome.hardware for outcomes in outcomes_by_row for outcome in outcomes})


def _runs(root: Path, row: Row) -> list[RunFolder]:
    """Return the folders of a row's runs, one for each seed or fold."""
    return [RunFolder(path) for path in sorted((root / row.name).glob("*"))]
