"""``TrainingPlan``: how long a run trains, in which chunks, and how far it is. Solo runs and members have one each."""

from dataclasses import dataclass, field

from digitlab.data.chunks import ChunkPlan, Position


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """``chunks`` says how epochs are cut; ``steps_per_epoch`` and ``total_steps`` count mini-batches.

    ``position`` moves with each mini-batch. The members of a population share one position.
    """

    chunks: ChunkPlan
    steps_per_epoch: int
    total_steps: int
    position: Position = field(default_factory=Position)

    @classmethod
    def for_images(
        cls, chunks: ChunkPlan, images: int, *, max_epochs: int, position: Position | None = None
    ) -> "TrainingPlan":
        """The plan of a run that trains ``max_epochs`` on so many images, or as far as the limits in ``chunks``."""
        steps_per_epoch = chunks.steps_per_epoch(images)
        # Schedules end with the last mini-batch that is really made.
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
        """The number of mini-batches until the end."""
        return self.total_steps - self.position.total_steps

    @property
    def is_over(self) -> bool:
        """Whether the last mini-batch is done."""
        return self.steps_ahead <= 0
