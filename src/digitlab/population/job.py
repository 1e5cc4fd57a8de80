"""``Job``: a run of a sweep that waits for training, perhaps in a population.

The vectorized launcher makes jobs with ``read_job``, and so does the dry run of a sweep. A population trains several
runs together. ``grouping`` decides which jobs form one; ``trainer`` makes them its members.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from digitlab.data.chunks import Position
from digitlab.population.halving import default_epochs
from digitlab.results.checkpoint import newest_usable_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.results.outcome import UNREADABLE
from digitlab.training.checkpointing import saved_position
from digitlab.training.experiment import Experiment


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run to train: its validated configuration, its folder, and the overrides that the user typed.

    ``number`` is its number within the command. ``experiment`` holds the objects that were built from ``config``. The
    run resumes from ``checkpoint``, or begins if that is None. ``rewound`` means that the folder has a newer
    checkpoint, from which the run does not resume: see ``grouping.align_starts``.
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
        """The folder names of all members with which the run's population began; empty if that is not known.

        It is not known before the first checkpoint, and a solo run has no population.
        """
        # The checkpoint of a solo run does not have this entry.
        return () if self.checkpoint is None else tuple(self.checkpoint.get("members", ()))

    @property
    def start(self) -> Position:
        """The position at which training starts."""
        return saved_position(self.checkpoint)

    @property
    def seed(self) -> int:
        return self.experiment.options.seed

    @property
    def failed(self) -> bool:
        """Whether the run failed when it was trained the last time."""
        try:
            return bool(self.folder.read_result()["status"] == "failed")
        except UNREADABLE:
            return False  # for example, a run that was killed has no result

    @property
    def halving(self) -> bool:
        """Whether the sweep of the run ends the worse half of a population early."""
        return bool(OmegaConf.select(self.config, "sweep.halving"))

    @property
    def halved_after_epoch(self) -> int | None:
        """The epoch after which halving has ended the run, None if it has not.

        A run that halving has ended needs no training. It is a job all the same if it was killed after its last
        checkpoint and before it wrote its result.
        """
        # If the user has turned halving off in the meantime, the run trains on.
        return self.checkpoint.get("halved_after_epoch") if self.halving and self.checkpoint is not None else None


def read_job(
    number: int, config: DictConfig, folder: RunFolder, *, overrides: Sequence[str], repair: bool = True
) -> Job:
    """Return the job that trains the run in ``folder``, which may be missing; see ``Job`` for the arguments.

    ``repair`` is as in ``newest_usable_checkpoint``. Raises ``ConfigError`` for a bad setting, and ``RunError`` if all
    checkpoints in the folder are unusable.
    """
    experiment = Experiment.from_config(config, typed=overrides)
    checkpoint = newest_usable_checkpoint(folder, hyper_parameters=experiment.hyper_parameters, repair=repair)
    return Job(
        number=number, config=config, experiment=experiment, folder=folder, overrides=overrides, checkpoint=checkpoint
    )


def halving_epochs_of(jobs: Sequence[Job]) -> Sequence[int]:
    """Return the epochs after which the population is halved; none unless ``sweep.halving`` is on."""
    # All jobs come from one sweep, so the settings of the sweep are the same in each.
    if not jobs[0].halving:
        return ()
    # Members may train for different numbers of epochs. The longest run decides the default, which is used for null.
    return jobs[0].config.sweep.halving_epochs or default_epochs(max(job.experiment.trainer.max_epochs for job in jobs))
