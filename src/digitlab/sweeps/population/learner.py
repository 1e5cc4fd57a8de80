"""The networks of a population stacked, with all that their steps go by: they learn from chunks and are evaluated."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from digitlab.data.chunks import Chunk, EvaluationBatch
from digitlab.sweeps.population.dense import DenseStack
from digitlab.sweeps.population.descent import Batch, Descent
from digitlab.sweeps.population.losses import StackedLoss
from digitlab.sweeps.population.mapped import MappedStack
from digitlab.sweeps.population.update import Rates, Update, clipped, follow
from digitlab.training.classifier import Classifier
from digitlab.training.dropout import member_masks, with_dropout
from digitlab.training.interrupt import StopSignal
from digitlab.training.metrics import Counts, confusions

# Told of an update that is done: its losses and learning rates, (M,), and its number over the whole run from 0.
Watch = Callable[[Tensor, Tensor, int], None]


class Learner:
    """``classifiers``, of which those of one seed come one after the other, as one; ``device`` is where they are."""

    def __init__(self, classifiers: Sequence[Classifier], *, device: torch.device) -> None:
        self._device, self._members = device, len(classifiers)
        first = classifiers[0]
        networks = [classifier.network for classifier in classifiers]
        template = with_dropout(networks)
        sizes = [len(list(group)) for _, group in groupby(classifiers, key=lambda classifier: classifier.seed)]
        parameters = _stack([list(network.parameters()) for network in networks])
        self.buffers = _stack([list(network.buffers()) for network in networks])
        averages = [classifier.average for classifier in classifiers if classifier.average is not None]
        self.averages = _stack([list(average.parameters()) for average in averages])
        self.stack: DenseStack | MappedStack
        if DenseStack.fits(template):
            self.stack = DenseStack(template, parameters, stream_sizes=sizes)
        else:
            self.stack = MappedStack(template, parameters, buffers=self.buffers, stream_sizes=sizes)
        self._normalise, self._dtype = first.normalise, first.normalise.scale.dtype
        self._classes = len(first.facts.class_names)
        self.loss = StackedLoss([classifier.loss for classifier in classifiers], device=device, dtype=self._dtype)
        self._masks = member_masks(
            networks, seeds=[classifier.seed for classifier in classifiers], image_shape=first.facts.image_shape,
            device=device, dtype=self._dtype,
        )  # fmt: skip
        self._stream_of = torch.tensor([s for s, size in enumerate(sizes) for _ in range(size)], device=device)
        updates = [classifier.update for classifier in classifiers]
        self.update = Update(updates, networks, self.stack.parameters)
        self._rates = Rates(
            updates, [classifier.schedule for classifier in classifiers], steps_per_epoch=first.steps_per_epoch,
            total_steps=[classifier.total_steps for classifier in classifiers], device=device,
        )  # fmt: skip
        numbers = [(classifier.ema_decay, classifier.gradient_clip_norm) for classifier in classifiers]
        self._ema_decay, self._clip_norm = (self._numbers(values) for values in zip(*numbers, strict=True))

    def _numbers(self, values: Sequence[float | None]) -> Tensor | None:
        given = [value for value in values if value is not None]
        return torch.tensor(given, dtype=torch.float64, device=self._device) if given else None

    def row(self, member: int) -> Iterator[list[Tensor]]:
        """The parameters, the buffers and the averaged parameters of a member."""
        for tensors in (self.stack.parameters, self.buffers, self.averages):
            yield [tensor.detach()[member] for tensor in tensors]

    def changed(self) -> list[Tensor]:
        """All that updates change."""
        state = self.update.state
        moments = [tensor for tensors in state.entries.values() for tensor in tensors]
        return [*self.stack.parameters, *self.buffers, *self.averages, state.step, *moments]

    def learn(
        self, chunks: Sequence[Chunk], *, first: int, stop_signal: StopSignal, watch: Watch | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One update for each mini-batch of the ``chunks``, one a stream; ``first`` is its number over the whole run.

        Returns logits (M, n of all, K), and losses and learning rates (B, M): of fewer mini-batches after a signal.
        """
        sizes, done = chunks[0].sizes, 0
        rates = self._rates.table(first, len(sizes))
        descent = self._descent(rates, settled=watch is not None or self._ema_decay is not None)
        # In one tensor, as small ones that stay alive would break up the memory the steps go through.
        logits = torch.empty(self._members, sum(sizes), self._classes, dtype=self._dtype, device=self._device)
        streams = [chunk.minibatches(self._normalise, self.loss.encode) for chunk in chunks]
        batches: Iterator[Batch] = zip(*streams, strict=True)
        met: list[list[Tensor]] = []
        for batch, rows in zip(
            batches if descent is None else descent.batches(batches), logits.split(sizes, 1), strict=True
        ):
            met.append([own for _, own, _ in batch])
            targets = self.by_member(met[-1])
            masks = self._masks.draw(first + done, sizes[done]) if self._masks is not None else ()
            outputs = self.stack.forward([images for images, _, _ in batch], masks)
            self.stack.backward(self.loss.gradient(outputs, targets))
            if descent is not None:
                descent.step(done)
            else:
                self._follow_rule(rates[done])
            rows.copy_(outputs)
            if self._ema_decay is not None:
                follow(self.averages, self.stack.parameters, self._ema_decay, steps=first + done + 1)
            if watch is not None:
                watch(self.loss(outputs, targets).mean(1), rates[done], first + done)
            done += 1
            if stop_signal.received is not None and (descent is None or descent.may_stop):
                break
        if descent is not None:
            descent.end(done)
        logits = logits[:, : sum(sizes[:done])]
        losses = self.loss(logits, self.by_member([torch.cat(stream) for stream in zip(*met, strict=True)]))
        return logits, torch.stack([own.mean(1) for own in losses.split(sizes[:done], 1)]), rates[:done]

    def by_member(self, streams: Sequence[Tensor]) -> Tensor:
        """Of tensors, one a stream, the tensor (M, …) of what each member has."""
        return torch.stack(list(streams)).index_select(0, self._stream_of)

    def _descent(self, rates: Tensor, *, settled: bool) -> Descent | None:
        if isinstance(self.stack, DenseStack) and self.update.plain_descent and self._clip_norm is None:
            return Descent(self.stack, self.update, rates, settled=settled)
        return None

    def _follow_rule(self, rates: Tensor) -> None:
        gradients = self.stack.gradients()
        if self._clip_norm is not None:
            gradients = clipped(gradients, self._clip_norm)
        self.update(gradients, rates)

    @torch.no_grad()
    def evaluate(self, batches: Iterable[EvaluationBatch]) -> list[Counts]:
        """The counts of each member over the images of ``batches``."""
        confusion = torch.zeros(self._members, self._classes, self._classes, dtype=torch.int64, device=self._device)
        sums = torch.zeros(self._members, dtype=torch.float64, device=self._device)
        weights = self.averages or self.stack.parameters
        for batch in batches:
            logits = self.stack.evaluate(self._normalise(batch.images), weights)
            targets = self.loss.encode(batch.labels, self._classes)
            losses = self.loss(logits, targets.expand(self._members, *targets.shape))
            sums += losses.double().sum(1)
            confusion += confusions(logits, batch.labels.expand(self._members, -1))
        return [Counts(own, loss_sum) for own, loss_sum in zip(confusion, sums.tolist(), strict=True)]


def _stack(tensors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Of lists of tensors, one a member, the list of them stacked."""
    return [torch.stack([tensor.detach() for tensor in own]) for own in zip(*tensors, strict=True)]
