"""Loads the images of validation and test in order, a batch at a time. ``ImageData`` makes the loaders."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from digitlab.data.source import ImageSet


@dataclass(frozen=True, slots=True)
class EvaluationBatch:
    """Images in the order of their data set, for validation and test: uint8 (n, C, H, W) and int64 labels (n,)."""

    images: Tensor
    labels: Tensor


class EvaluationLoader:
    """Yields the images at ``indices`` in order, ``batch_size`` at a time, as ``EvaluationBatch``.

    ``images`` is a function that returns the data set, and each iteration calls it. Lightning's objects keep a loader
    alive until the garbage collector runs. If the loader held the images, those of a finished run would stay in memory
    until then.
    """

    def __init__(self, *, images: Callable[[], ImageSet], indices: Tensor, batch_size: int) -> None:
        self.images, self.indices, self.batch_size = images, indices, batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)  # rounded up

    def __iter__(self) -> Iterator[EvaluationBatch]:
        image_set = self.images()
        for index in self.indices.split(self.batch_size):
            yield EvaluationBatch(image_set.images.index_select(0, index), image_set.labels.index_select(0, index))
