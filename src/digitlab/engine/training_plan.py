"""``TrainingPlan``: how long a run trains, how its epochs are cut into chunks of mini-batches, and how far it has got.

Each run has one: a solo run, which trains alone, and each member of a population, whose runs are trained together.
"""

from dataclasses import dataclass, field

from digitlab.data.chunks import ChunkPlan, Position


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """The length of a training and its progress.

    ``chunks`` says how to cut epochs into chunks. ``steps_per_epoch`` and ``total_steps`` count mini-batches.
    ``position`` advances with each mini-batch. The members of a population share one position.
    """

    chunks: ChunkPlan
    steps_per_epoch: int
    total_steps: int
    position: Position = field(default_factory=Position)

    @classmethod
    def for_images(
        cls, chunks: ChunkPlan, images: int, *, max_epochs: int, position: Position | None = None
    ) -> "TrainingPlan":
        """Return the plan of a run of ``max_epochs`` epochs over ``images`` images, with the limits in ``chunks``."""
        steps_per_epoch = chunks.steps_per_epoch(images)
        # The limits ``limit_train_batches`` and ``max_steps`` shorten ``total_steps``, so that learning-rate schedules
        # end with the last mini-batch of the run.
        all_epochs = max_epochs * steps_per_epoch
        return cls(
            chunks=chunks, steps_per_epoch=steps_per_epoch, total_steps=min(all_epochs, chunks.max_steps or all_epochs),
            position=Position() if position is None else position,
        )  # fmt: skip

    @property
    def seed(self) -> int:
        """The seed of the order of the images, of augmentation and of dropout."""
        return self.chunks.seed

    @property
    def steps_ahead(self) -> int:
        """The number of mini-batches that are left."""
        return self.total_steps - self.position.total_steps

    @property
    def is_over(self) -> bool:
        """Whether no mini-batch is left."""
        return self.steps_ahead <= 0
