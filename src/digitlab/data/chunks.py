"""The training loader, which cuts an epoch into chunks of mini-batches.

``training`` and ``population`` train on its chunks. A chunk is several consecutive mini-batches that Lightning passes
to one ``training_step``, because its overhead for such a call can exceed the time of a mini-batch. The length of chunks
changes only the speed: a step is one mini-batch, the order of the images and the random numbers of the augmentation are
pure functions of (seed, epoch, step), and all limits count mini-batches. Under DDP, several processes train a network,
each on its own images of every mini-batch. Shapes: n images (C, H, W) in a mini-batch, K classes, B mini-batches.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.data.augment import BatchContext, Compose
from digitlab.data.normalise import Normalise
from digitlab.data.pace import ChunkPace
from digitlab.data.seeding import stream_seed
from digitlab.data.source import ImageSet

# Without augmentation, as many mini-batches are normalised at once as fit into this size, which a CPU's cache can hold.
_BYTES_AT_ONCE = 1 << 20


@dataclass(slots=True)
class Position:
    """The progress of a run: the number of complete epochs, and of mini-batches that were trained on.

    ``step`` counts the mini-batches in the current epoch, from 0; ``total_steps`` counts those of the whole run.
    """

    epoch: int = 0
    step: int = 0
    total_steps: int = 0

    def advance(self, steps: int = 1) -> None:
        """Count ``steps`` more mini-batches; a negative number undoes steps."""
        self.step += steps
        self.total_steps += steps

    def return_to(self, earlier: "Position") -> None:
        """Set the counters back to an earlier position in the same epoch."""
        self.step, self.total_steps = earlier.step, earlier.total_steps

    def next_epoch(self) -> None:
        """Count one more epoch; its steps start at 0 again."""
        self.epoch += 1
        self.step = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPlan:
    """How to cut an epoch into mini-batches and chunks.

    All lengths and limits are counts of mini-batches; None means no limit. For ``chunk_length``, None lets
    ``ChunkPace`` choose. ``batch_size`` counts the images of a mini-batch over all processes. ``rank`` is the number of
    this process, from 0, and ``world_size`` the number of processes.
    """

    seed: int
    batch_size: int
    chunk_length: int | None
    limit_train_batches: int | None = None
    max_steps: int | None = None
    val_every_steps: int | None = None
    rank: int = 0
    world_size: int = 1

    def steps_per_epoch(self, images: int) -> int:
        """Return the number of mini-batches in an epoch over ``images`` images, at most ``limit_train_batches``."""
        return len(range(self.unlimited_steps(images))[: self.limit_train_batches])

    def unlimited_steps(self, images: int) -> int:
        """Return the number of mini-batches in an epoch over all ``images`` images; the last may be smaller."""
        full_batches, rest = divmod(images, self.batch_size)
        return max(full_batches + (rest >= self._min_batch_size), 1)

    @property
    def _min_batch_size(self) -> int:
        # Batch norm needs two images in each process. If fewer are left at the end of an epoch, they join the
        # mini-batch before them.
        return min(2 * self.world_size, self.batch_size)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """B consecutive mini-batches of an epoch.

    ``indices`` has one int64 tensor of positions in ``images`` for each mini-batch. ``step`` is the position of the
    first mini-batch in the epoch, counted from 0. ``validate`` says whether validation follows the chunk, ``last``
    whether the chunk ends the epoch or the run. All processes have the same chunks, and each trains on its
    ``rank_indices``.
    """

    images: ImageSet
    indices: tuple[Tensor, ...]
    augment: Compose
    classes: int
    plan: ChunkPlan
    epoch: int
    step: int
    validate: bool
    last: bool
    # The labels of mini-batches with mixed images, by their step in the epoch. A chunk and the chunks that ``part``
    # returns share one dictionary, because training on the parts fills it, and ``learnt_labels`` of the whole reads it.
    _mixed_labels: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def rank_indices(self) -> tuple[Tensor, ...]:
        """The indices of each mini-batch that this process trains on, int64 (n,); with one process, all of them."""
        if self.plan.world_size == 1:
            return self.indices
        return tuple(index[self.plan.rank :: self.plan.world_size] for index in self.indices)

    @cached_property
    def sizes(self) -> list[int]:
        """The number of images of each mini-batch that this process trains on."""
        return [len(indices) for indices in self.rank_indices]

    @cached_property
    def labels(self) -> Tensor:
        """The labels of all images that this process trains on, int64 (n,), mini-batch after mini-batch."""
        return self.images.labels.index_select(0, torch.cat(self.rank_indices))

    def learnt_labels(self) -> Tensor:
        """Return the label that each image's prediction is compared with: int64 (n,), in the order of ``labels``.

        If an image was mixed with another one (``MixUp``), this is the class with the larger weight. Call it after
        training on the mini-batches; before, it returns the labels of the images themselves.
        """
        if not self._mixed_labels:
            return self.labels
        labels_by_step = enumerate(self.labels.split(self.sizes), start=self.step)
        return torch.cat([self._mixed_labels.get(step, labels) for step, labels in labels_by_step])

    def minibatches(
        self,
        normalise: Normalise,
        encode: Callable[[Tensor, int], Tensor],
        image_weights: Callable[[Tensor], Tensor | None] = lambda _: None,
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield normalised images float (n, C, H, W), encoded targets, and a weight of the loss, for each mini-batch.

        ``encode`` and ``image_weights`` are methods of the loss. ``encode`` converts targets, and K, to the form that
        the loss takes; ``image_weights`` returns the weight of each image for encoded targets, or None. The weight of
        the loss is 1 with one process. With several, DDP averages the losses as if each process had equally many
        images. The weight corrects this, so that the average is the mean loss over the whole mini-batch: it is (images
        here) · (processes) / (images of the mini-batch), or the same with the sums of the images' weights.
        """
        rank_indices, labels, sizes = self.rank_indices, self.labels, self.sizes
        if self.augment:
            for number, (indices, batch_labels) in enumerate(zip(rank_indices, labels.split(sizes), strict=True)):
                pixels, targets = self._augmented(self.images.images.index_select(0, indices), batch_labels, number)
                encoded = encode(targets, self.classes)
                # Mixed images, whose targets have two axes, all count alike in the loss.
                weights = image_weights(encoded) if targets.ndim == 1 else None
                yield normalise(pixels), encoded, self._process_weight(number, weights, encode, image_weights)
        else:
            normalised = self._normalised(rank_indices, sizes, normalise)
            all_targets = encode(labels, self.classes).split(sizes)
            for number, (images, encoded) in enumerate(zip(normalised, all_targets, strict=True)):
                yield images, encoded, self._process_weight(number, image_weights(encoded), encode, image_weights)

    def _process_weight(
        self,
        number: int,
        rank_weights: Tensor | None,
        encode: Callable[[Tensor, int], Tensor],
        image_weights: Callable[[Tensor], Tensor | None],
    ) -> float:
        """Return the weight of this process's loss in mini-batch ``number`` of the chunk; ``minibatches`` explains it.

        ``rank_weights``, float (n,), are the weights of the images that this process trains on.
        """
        indices, processes = self.indices[number], self.plan.world_size
        if rank_weights is None or processes == 1:
            return self.sizes[number] * processes / len(indices)
        all_weights = image_weights(encode(self.images.labels.index_select(0, indices), self.classes))
        assert all_weights is not None
        return float(rank_weights.sum() * processes / all_weights.sum())

    def blocks(self, steps: int, encode: Callable[[Tensor, int], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the inputs of fused calls, each of which is compiled or a CUDA graph, and makes ``steps`` updates.

        They are pixels (steps, n, C, H, W), uint8 or, with augmentation, float in [0, 1], and targets (steps, n, …) as
        the loss encodes them. All mini-batches of the chunk must have the same size n: see ``full_executions``.
        """
        images_per_call = steps * len(self.rank_indices[0])
        indices, labels = torch.cat(self.rank_indices).split(images_per_call), self.labels.split(images_per_call)
        all_targets = None if self.augment else encode(self.labels, self.classes).split(images_per_call)
        for block, index in enumerate(indices):
            pixels = self.images.images.index_select(0, index)
            if all_targets is not None:
                targets = all_targets[block]
            else:
                batches = enumerate(zip(pixels.chunk(steps), labels[block].chunk(steps), strict=True), block * steps)
                augmented = [self._augmented(*batch, number) for number, batch in batches]
                pixels, targets = (torch.cat(tensors) for tensors in zip(*augmented, strict=True))
                targets = encode(targets, self.classes)
            yield pixels.view(steps, -1, *pixels.shape[1:]), targets.view(steps, -1, *targets.shape[1:])

    def part(self, begin: int, end: int) -> "Chunk":
        """Return a chunk of the mini-batches from ``begin`` up to but not including ``end``."""
        if begin == 0 and end == len(self.indices):
            # A new chunk would compute its sizes and labels again.
            return self
        return replace(self, indices=self.indices[begin:end], step=self.step + begin)

    def full_executions(self, steps: int) -> tuple[int, int]:
        """Return (begin, end), the range of mini-batches that fused calls can train on, ``steps`` in each call.

        A call must start at a multiple of ``steps`` in the epoch, and all its mini-batches must have the batch size.
        The caller trains on the other mini-batches, before ``begin`` and from ``end`` on, one at a time.
        """
        begin = min(-self.step % steps, len(self.indices))  # up to the next multiple of ``steps``
        size = self.plan.batch_size
        first_other_size = next((i for i in range(begin, len(self.sizes)) if self.sizes[i] != size), len(self.sizes))
        return begin, begin + (first_other_size - begin) // steps * steps  # rounded down to whole calls

    def _normalised(self, rank_indices: tuple[Tensor, ...], sizes: list[int], normalise: Normalise) -> Iterator[Tensor]:
        """Yield the images of each mini-batch, normalised and without augmentation."""
        batch_bytes = 4 * self.images.images[0].numel() * max(sizes)  # as float32
        batches_at_once = max(1, _BYTES_AT_ONCE // batch_bytes)
        for start in range(0, len(rank_indices), batches_at_once):
            group = rank_indices[start : start + batches_at_once]
            index = torch.cat(group) if len(group) > 1 else group[0]
            images = normalise(self.images.images.index_select(0, index))
            yield from images.split(sizes[start : start + batches_at_once])

    def _augmented(self, pixels: Tensor, labels: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Augment mini-batch ``number`` of the chunk, counted from 0, and store the labels of mixed images.

        Return images, float (n, C, H, W) in [0, 1], and targets: int64 (n,), or float (n, K) with the shares of the
        classes in mixed images.
        """
        step = self.step + number
        generator = abilities(pixels.device).new_generator(pixels.device)
        generator.manual_seed(stream_seed("augment", self.plan.seed, self.epoch, step, self.plan.rank))
        context = BatchContext(indices=self.rank_indices[number], epoch=self.epoch, seed=self.plan.seed)
        augment = self.augment.at(context)
        images, targets = augment(pixels.float() / 255, labels, classes=self.classes, generator=generator)
        if targets.ndim == 2:
            self._mixed_labels[step] = targets.argmax(1)
        return images, targets


class ChunkLoader:
    """Yields the rest of the current epoch in chunks, from the ``position`` of the run when iteration starts.

    It has no ``__len__``, because Lightning asks for a length only once in a run, and the first epoch after a resume is
    shorter than the following ones.
    """

    def __init__(
        self, *, images: ImageSet, indices: Tensor, augment: Compose, classes: int, plan: ChunkPlan, position: Position
    ) -> None:
        self.images, self.indices, self.augment, self.classes = images, indices, augment, classes
        self.plan, self.position = plan, position
        # Several processes communicate after each chunk, so all must use the same length, whatever time they take.
        chosen_length = ChunkPace.FIRST_LENGTH if plan.world_size > 1 else None
        self._pace = ChunkPace(fixed=plan.chunk_length or chosen_length)

    def __iter__(self) -> Iterator[Chunk]:
        epoch, step, total = self.position.epoch, self.position.step, self.position.total_steps
        batches = self.batches(epoch)
        pace = self._pace
        # Before the first chunk of an epoch comes the validation of the last epoch.
        validate = True
        while step < len(batches) and (self.plan.max_steps is None or total < self.plan.max_steps):
            # Chunks end at multiples of their length in the epoch, also after a resume. So a resumed run divides the
            # epoch into the same compiled calls as an uninterrupted one, and gets the same numbers.
            length = pace.chunk_length(after_validation=validate)
            length = min(length - step % length, len(batches) - step)
            if self.plan.max_steps is not None:
                length = min(length, self.plan.max_steps - total)
            if self.plan.val_every_steps is not None:
                length = min(length, self.plan.val_every_steps - total % self.plan.val_every_steps)
            indices = tuple(batches[step : step + length])
            total += length
            last = step + length == len(batches) or total == self.plan.max_steps
            validate = last or (self.plan.val_every_steps is not None and total % self.plan.val_every_steps == 0)
            yield Chunk(
                images=self.images, indices=indices, augment=self.augment, classes=self.classes, plan=self.plan,
                epoch=epoch, step=step, validate=validate, last=last,
            )  # fmt: skip
            step += length

    def batches(self, epoch: int) -> list[Tensor]:
        """Return the mini-batches of an epoch as int64 indices (n,).

        Each training image occurs once (unless there is a limit), in an order that depends only on (seed, epoch).
        """
        generator = torch.Generator().manual_seed(stream_seed("shuffle", self.plan.seed, epoch))
        order = torch.randperm(len(self.indices), generator=generator).to(self.indices.device)
        shuffled = self.indices[order]
        cuts = [self.plan.batch_size * step for step in range(1, self.plan.unlimited_steps(len(self.indices)))]
        return list(shuffled.tensor_split(cuts))[: self.plan.limit_train_batches]
