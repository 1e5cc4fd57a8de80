"""``Job``: a run that a population is to train, before it becomes a member. Launchers and the grouping make jobs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from digitlab.data.chunks import Position
from digitlab.population.halving import default_epochs
from digitlab.results.folder import RunFolder
from digitlab.results.outcome import UNREADABLE
from digitlab.training.experiment import Experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run to train: its validated configuration, its folder, and the overrides that the user typed.

    It resumes from ``checkpoint``, or begins if that is None. ``rewound`` means that this is not the newest checkpoint
    in the folder.
    """

    number: int
    config: DictConfig
    experiment: Experiment
    folder: RunFolder
    overrides: Sequence[str]
    checkpoint: dict[str, Any] | None = None
    rewound: bool = False

    @property
    def cohort_members(self) -> tuple[str, ...]:
        """The folder names of the population that the checkpoint belongs to; empty if there is none."""
        return () if self.checkpoint is None else tuple(self.checkpoint.get("members", ()))

    @property
    def start(self) -> Position:
        """The position at which training starts."""
        return Position() if self.checkpoint is None else Position(**self.checkpoint["position"])

    @property
    def seed(self) -> int:
        return self.experiment.options.seed

    @property
    def failed(self) -> bool:
        """Whether the last attempt failed."""
        try:
            return bool(self.folder.read_result()["status"] == "failed")
        except UNREADABLE:
            return False

    @property
    def halving(self) -> bool:
        """Whether its sweep ends the worse half of a population early."""
        return bool(OmegaConf.select(self.config, "sweep.halving"))

    @property
    def halved_after_epoch(self) -> int | None:
        """The epoch after which halving ended the run, if it was killed before it wrote that to its result."""
        return self.checkpoint.get("halved_after_epoch") if self.halving and self.checkpoint is not None else None


def halving_epochs_of(jobs: Sequence[Job]) -> Sequence[int]:
    """The epochs after which the population is halved; none unless ``sweep.halving`` is on."""
    if not jobs[0].halving:
        return ()
    return jobs[0].config.sweep.halving_epochs or default_epochs(max(job.experiment.trainer.max_epochs for job in jobs))
