"""The loader: from indices to chunks of mini-batches, each a pure function of (seed, epoch, step).

N images, C, H, W, K classes; B mini-batches in a chunk. A chunk is what happens between two log points. Its length
changes nothing but the time that goes by between them: the order of the images, the draws of the augmentation and every
limit count mini-batches.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.data.augment import BatchContext, Compose
from digitlab.data.normalise import Normalise
from digitlab.data.seeding import stream_seed
from digitlab.data.source import ImageSet

# As many mini-batches of a small network as a compiled run learns in one call; chunks are multiples of it.
IN_ONE_CALL = 8
# Small mini-batches are gathered together, as far as they stay in the cache until the step reads them.
_GATHER_AHEAD_BYTES = 1 << 20


@dataclass(slots=True)
class Position:
    """Where a run stands: ``epoch`` epochs are done and ``step`` mini-batches of the next, ``total_steps`` in all."""

    epoch: int = 0
    step: int = 0
    total_steps: int = 0

    def advance(self) -> None:
        """One more mini-batch is done."""
        self.step += 1
        self.total_steps += 1

    def next_epoch(self) -> None:
        self.epoch += 1
        self.step = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPlan:
    """How an epoch is cut: everything is counted in mini-batches, and None means no limit."""

    seed: int
    batch_size: int
    chunk_length: int | None
    limit_train_batches: int | None = None
    max_steps: int | None = None
    val_every_steps: int | None = None
    rank: int = 0
    world_size: int = 1

    def steps_per_epoch(self, images: int) -> int:
        """Mini-batches in an epoch over ``images``, the last and smaller one included."""
        return len(range(self.whole_epoch(images))[: self.limit_train_batches])

    def whole_epoch(self, images: int) -> int:
        """Mini-batches that ``images`` make without a limit."""
        full, rest = divmod(images, self.batch_size)
        return max(full + (rest >= self._smallest), 1)

    @property
    def _smallest(self) -> int:
        # Batch norm can't learn from one image: a rest too small to give every process two joins the batch before it.
        return min(2 * self.world_size, self.batch_size)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """B consecutive mini-batches of an epoch as indices into ``images``; ``step`` is the first one's place in it."""

    images: ImageSet
    indices: tuple[Tensor, ...]
    augment: Compose
    classes: int
    plan: ChunkPlan
    epoch: int
    step: int
    validate: bool
    last: bool

    @cached_property
    def rank_indices(self) -> tuple[Tensor, ...]:
        """Of each mini-batch, the indices (n,) that this process learns from; alone, all of them."""
        if self.plan.world_size == 1:
            return self.indices
        return tuple(index[self.plan.rank :: self.plan.world_size] for index in self.indices)

    @cached_property
    def sizes(self) -> list[int]:
        """How many images each share has."""
        return [len(share) for share in self.rank_indices]

    @cached_property
    def labels(self) -> Tensor:
        """Labels of the shares, one after the other: int64 (n,)."""
        return self.images.labels.index_select(0, torch.cat(self.rank_indices))

    def minibatches(
        self, normalise: Normalise, encode: Callable[[Tensor, int], Tensor]
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield images (n, C, H, W) normalised, targets encoded, and this process's weight.

        The weight makes the mean over processes of their mean losses the mean over the whole mini-batch; 1 when alone.
        """
        rank_indices, labels, sizes = self.rank_indices, self.labels, self.sizes
        weights = [size * self.plan.world_size / len(whole) for size, whole in zip(sizes, self.indices, strict=True)]
        if self.augment:
            for place, (share, own) in enumerate(zip(rank_indices, labels.split(sizes), strict=True)):
                pixels, targets = self._augmented(self.images.images.index_select(0, share), own, place)
                yield normalise(pixels), encode(targets, self.classes), weights[place]
        else:
            targets = encode(labels, self.classes)
            yield from zip(self._plain(rank_indices, sizes, normalise), targets.split(sizes), weights, strict=True)

    def blocks(self, steps: int, encode: Callable[[Tensor, int], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pixels (steps, n, C, H, W), uint8 or augmented float in [0, 1], and targets (steps, n, …), encoded.

        That is ``steps`` mini-batches at a time, all of n images.
        """
        size = steps * len(self.rank_indices[0])
        indices, labels = torch.cat(self.rank_indices).split(size), self.labels.split(size)
        targets = None if self.augment else encode(self.labels, self.classes).split(size)
        for block, index in enumerate(indices):
            pixels = self.images.images.index_select(0, index)
            if targets is not None:
                own = targets[block]
            else:
                pairs = zip(pixels.chunk(steps), labels[block].chunk(steps), strict=True)
                augmented = [self._augmented(*pair, block * steps + place) for place, pair in enumerate(pairs)]
                pixels, own = (torch.cat(each) for each in zip(*augmented, strict=True))
                own = encode(own, self.classes)
            yield pixels.view(steps, -1, *pixels.shape[1:]), own.view(steps, -1, *own.shape[1:])

    def part(self, begin: int, end: int) -> "Chunk":
        """Its mini-batches from ``begin`` to ``end``."""
        return replace(self, indices=self.indices[begin:end], step=self.step + begin)

    def full_executions(self, steps: int) -> tuple[int, int]:
        """Where the mini-batches begin and end that are learnt ``steps`` at a time, counted from the epoch's first.

        All of them have the batch size. Others, around them, are too few, or cut off by a validation.
        """
        begin = min(-self.step % steps, len(self.indices))
        size = self.plan.batch_size
        full = next((i for i in range(begin, len(self.sizes)) if self.sizes[i] != size), len(self.sizes))
        return begin, begin + (full - begin) // steps * steps

    def _plain(self, rank_indices: tuple[Tensor, ...], sizes: list[int], normalise: Normalise) -> Iterator[Tensor]:
        float_bytes = 4 * self.images.images[0].numel() * max(sizes)
        ahead = max(1, _GATHER_AHEAD_BYTES // float_bytes)
        for start in range(0, len(rank_indices), ahead):
            group = rank_indices[start : start + ahead]
            index = torch.cat(group) if len(group) > 1 else group[0]
            images = normalise(self.images.images.index_select(0, index))
            yield from images.split(sizes[start : start + ahead])

    def _augmented(self, pixels: Tensor, labels: Tensor, place: int) -> tuple[Tensor, Tensor]:
        generator = abilities(pixels.device).new_generator(pixels.device)
        generator.manual_seed(stream_seed("augment", self.plan.seed, self.epoch, self.step + place, self.plan.rank))
        augment = self.augment.at(BatchContext(indices=self.rank_indices[place], epoch=self.epoch, seed=self.plan.seed))
        return augment(pixels.float() / 255, labels, classes=self.classes, generator=generator)


class _Pace:
    """How many mini-batches the next chunk has: where nothing was asked for, as many as take about 0.2 s.

    Then what Lightning spends around a chunk, half a millisecond, is hardly felt, and a progress bar moves.
    """

    _SECONDS = 0.2
    _LONGEST = 512
    _SHORTEST = IN_ONE_CALL

    def __init__(self, plan: ChunkPlan) -> None:
        # Several processes talk to each other after each chunk, so theirs have one length.
        self._fixed = plan.chunk_length or (32 if plan.world_size > 1 else None)
        self._length = 32
        self._asked_at: float | None = None

    def begin_epoch(self) -> None:
        # What lay between two epochs was no chunk.
        self._asked_at = None

    def chunk_length(self) -> int:
        if self._fixed is not None:
            return self._fixed
        now = time.perf_counter()
        if self._asked_at is not None:
            seconds = now - self._asked_at
            if seconds < self._SECONDS / 2:
                self._length = min(2 * self._length, self._LONGEST)
            elif seconds > 2 * self._SECONDS:
                self._length = max(self._length // 2, self._SHORTEST)
        self._asked_at = now
        return self._length


class ChunkLoader:
    """Iterating it yields the chunks of one epoch, from where ``position`` stands at the first of them.

    It has no length on purpose: Lightning asks for a loader's length once a run, and a resumed epoch is shorter than
    those which follow.
    """

    def __init__(
        self, *, images: ImageSet, indices: Tensor, augment: Compose, classes: int, plan: ChunkPlan, position: Position
    ) -> None:
        self.images, self.indices, self.augment, self.classes = images, indices, augment, classes
        self.plan, self.position = plan, position
        self._pace = _Pace(plan)

    def __iter__(self) -> Iterator[Chunk]:
        epoch, step, total = self.position.epoch, self.position.step, self.position.total_steps
        batches = self.batches(epoch)
        pace = self._pace
        pace.begin_epoch()
        while step < len(batches) and (self.plan.max_steps is None or total < self.plan.max_steps):
            # Where chunks end does not depend on where a resumed run begins: what is learnt in one call stays so.
            length = pace.chunk_length()
            length = min(length - step % length, len(batches) - step)
            if self.plan.max_steps is not None:
                length = min(length, self.plan.max_steps - total)
            if self.plan.val_every_steps is not None:
                length = min(length, self.plan.val_every_steps - total % self.plan.val_every_steps)
            indices = tuple(batches[step : step + length])
            total += length
            due = self.plan.val_every_steps is not None and total % self.plan.val_every_steps == 0
            last = step + length == len(batches) or total == self.plan.max_steps
            yield Chunk(
                images=self.images, indices=indices, augment=self.augment, classes=self.classes, plan=self.plan,
                epoch=epoch, step=step, validate=due or last, last=last,
            )  # fmt: skip
            step += length

    def batches(self, epoch: int) -> list[Tensor]:
        """The mini-batches of an epoch as indices (n,): every training image once, in an order of (seed, epoch)."""
        generator = torch.Generator().manual_seed(stream_seed("shuffle", self.plan.seed, epoch))
        order = torch.randperm(len(self.indices), generator=generator).to(self.indices.device)
        shuffled = self.indices[order]
        cuts = [self.plan.batch_size * step for step in range(1, self.plan.whole_epoch(len(self.indices)))]
        return list(shuffled.tensor_split(cuts))[: self.plan.limit_train_batches]


@dataclass(frozen=True, slots=True)
class EvaluationBatch:
    """Images in their given order, for validation and test: ``images`` uint8 (n, C, H, W), ``labels`` int64 (n,)."""

    images: Tensor
    labels: Tensor


class EvaluationLoader:
    """Iterating it yields the images of ``indices`` in order, ``batch_size`` at a time.

    ``images`` is asked each time: Lightning's parts hold a loader, and each other, until the garbage collector comes
    by, and the images of a finished run should not wait for that.
    """

    def __init__(self, *, images: Callable[[], ImageSet], indices: Tensor, batch_size: int) -> None:
        self.images, self.indices, self.batch_size = images, indices, batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[EvaluationBatch]:
        images = self.images()
        for index in self.indices.split(self.batch_size):
            yield EvaluationBatch(images.images.index_select(0, index), images.labels.index_select(0, index))
