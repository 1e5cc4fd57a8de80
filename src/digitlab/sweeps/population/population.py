"""A population: members trained step by step together, which leave it when they have come to their end."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from digitlab.data.chunks import Chunk, ChunkLoader
from digitlab.sweeps.halving import Setting, default_epochs, leaving, setting_of
from digitlab.sweeps.population.dense import DenseStack
from digitlab.sweeps.population.dropout import member_masks, with_dropout
from digitlab.sweeps.population.losses import StackedLoss
from digitlab.sweeps.population.mapped import MappedStack
from digitlab.sweeps.population.member import Job, Member
from digitlab.sweeps.population.update import Rates, Update, clipped, follow
from digitlab.training.assembly import chunk_plan, read_data
from digitlab.training.classifier import Classifier
from digitlab.training.interrupt import Interrupted, StopSignal
from digitlab.training.metrics import Counts, confusions
from digitlab.training.safeguard import Safeguard, divergence

# Mini-batches between two looks at the losses and the signal, where nothing was asked for.
_CHUNK_LENGTH = 64


class Population:
    """Trains ``jobs``, which differ in numbers only and stand at the same step (``grouping``), on ``device``."""

    def __init__(self, jobs: Sequence[Job], *, device: torch.device, stop_signal: StopSignal) -> None:
        # A stable order of streams: members of one seed see the same images.
        jobs = sorted(jobs, key=lambda job: (job.seed, job.number))
        self.experiment = jobs[0].experiment
        self.device, self.stop_signal = device, stop_signal
        self.data = read_data(self.experiment)
        self.data.to(device)
        self.steps_per_epoch = chunk_plan(self.experiment).steps_per_epoch(len(self.data.train_indices))
        together = jobs[0].together or [job.folder.path.name for job in jobs]
        self.members = [Member(job, self.data, steps_per_epoch=self.steps_per_epoch, together=together) for job in jobs]
        for member in self.members:
            member.classifier.to(device)
        self.position = jobs[0].start
        self.all_members = list(self.members)
        self._halving_epochs = _halving_epochs(jobs)
        # Whether any file has been written. Before the first chunk none is: memory may not suffice for it.
        self.begun = False
        self._save_every_seconds = self.experiment.checkpoint.every_seconds
        self._saved_at = time.monotonic()
        self._form()

    def train(self) -> None:
        """Until all members have come to their end; raises ``Interrupted``, after saving them, when a signal comes."""
        if any(member.is_over(self.position) for member in self.members):
            # They were ended before they could say so.
            self._begin()
            for member in self.members:
                if member.is_over(self.position):
                    member.finish()
            self._compact()
        while self.members:
            self._epoch()
            self._compact()
            if self.members and self.stop_signal.received is not None:
                self._stop(self.stop_signal.received)

    def _form(self, kept: Tensor | None = None) -> None:
        """Stack the members that are there; ``kept`` says which of the former ones they are."""
        members = self.members
        classifiers = [member.classifier for member in members]
        networks = [classifier.network for classifier in classifiers]
        first = classifiers[0]
        template = with_dropout(networks)
        streams = [list(group) for _, group in groupby(members, key=lambda member: member.job.seed)]
        sizes = [len(stream) for stream in streams]
        parameters = _stack([list(network.parameters()) for network in networks])
        self._buffers = _stack([list(network.buffers()) for network in networks])
        averages = [classifier.average for classifier in classifiers if classifier.average is not None]
        self._averages = _stack([list(average.parameters()) for average in averages])
        self.stack: DenseStack | MappedStack
        if DenseStack.fits(template):
            self.stack = DenseStack(template, parameters, stream_sizes=sizes)
        else:
            self.stack = MappedStack(template, parameters, buffers=self._buffers, stream_sizes=sizes)
        for row, member in enumerate(members):
            member.live_in(*([t.detach()[row] for t in group] for group in (parameters, self._buffers, self._averages)))
        self._number(classifiers, kept)
        self._safeguard = Safeguard(self._changed)
        self._normalise = first.normalise
        self._dtype = first.normalise.scale.dtype
        self._classes = len(first.facts.class_names)
        self._loss = StackedLoss([classifier.loss for classifier in classifiers], device=self.device, dtype=self._dtype)
        self._masks = member_masks(
            networks, seeds=[member.job.seed for member in members], image_shape=first.facts.image_shape,
            device=self.device, dtype=self._dtype,
        )  # fmt: skip
        self._stream_of = torch.tensor([s for s, size in enumerate(sizes) for _ in range(size)], device=self.device)
        self._loaders = [self._loader(stream[0]) for stream in streams]

    def _number(self, classifiers: Sequence[Classifier], kept: Tensor | None) -> None:
        """Gather what each member's update goes by; the rule's state comes from before or from checkpoints."""
        updates = [classifier.update for classifier in classifiers]
        update = Update(updates, [classifier.network for classifier in classifiers], self.stack.parameters)
        if kept is not None:
            update.keep(kept, self.update)
        else:
            for row, classifier in enumerate(classifiers):
                if classifier.optimizer_state is not None:
                    state = classifier.optimizer_state["state"]
                    update.load_member(row, classifier.network, state, steps=self.position.total_steps)
        self.update: Update = update
        self._rates = Rates(
            updates, [classifier.schedule for classifier in classifiers], steps_per_epoch=self.steps_per_epoch,
            total_steps=[classifier.total_steps for classifier in classifiers], device=self.device,
        )  # fmt: skip
        numbers = [(classifier.ema_decay, classifier.gradient_clip_norm) for classifier in classifiers]
        self._ema_decay, self._clip_norm = (self._numbers(values) for values in zip(*numbers, strict=True))

    def _numbers(self, values: Sequence[float | None]) -> Tensor | None:
        given = [value for value in values if value is not None]
        return torch.tensor(given, dtype=torch.float64, device=self.device) if given else None

    def _loader(self, member: Member) -> ChunkLoader:
        plan = chunk_plan(member.job.experiment)
        plan = replace(plan, chunk_length=plan.chunk_length or _CHUNK_LENGTH)
        # The augmentation has no numbers of its own that could differ, and draws by the seed of the plan.
        return self.data.chunks(plan, self.position)

    # Training ---------------------------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        for chunks in zip(*self._loaders, strict=True):
            begun = replace(self.position)
            with self._timed():
                self._safeguard.keep()
                learnt = self._learn(chunks)
            self._begin()
            with self._timed():
                if self._faulty(learnt[1]):
                    # The others come to the same once more.
                    self._safeguard.restore()
                    self.position.step, self.position.total_steps = begun.step, begun.total_steps
                    learnt = self._learn(chunks, watched=True)
                self._count(chunks, *learnt)
            if chunks[0].last and self._whole(chunks[0]):
                for member in self._active():
                    member.take_train_metrics()
            if chunks[0].validate and self._whole(chunks[0]):
                if len(self.data.val_indices) > 0:
                    self._validate(last=chunks[0].last)
                if not chunks[0].last:
                    self._end_exhausted()
            else:
                self._pause()
            if not self._active():
                return
        self._end_epoch()

    def _whole(self, chunk: Chunk) -> bool:
        return self.position.step == chunk.step + len(chunk.indices)

    def _active(self) -> list[Member]:
        return [member for member in self.members if member.outcome is None]

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started_at = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        active = self._active()
        share = (time.perf_counter() - started_at) / max(len(active), 1)
        for member in active:
            member.record.epoch_seconds += share

    def _begin(self) -> None:
        """Open the members' files, once memory has sufficed for a first chunk."""
        if not self.begun:
            self.begun = True
            for member in self.members:
                member.begin()

    def _learn(self, chunks: Sequence[Chunk], *, watched: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """One update for each mini-batch, all members at once; ``watched`` has members fail before a faulty one.

        Returns logits (M, n of all, K), and losses and learning rates (B, M): of fewer mini-batches after a signal.
        """
        sizes = [len(index) for index in chunks[0].indices]
        members, first = len(self.members), self.position.total_steps
        rates = self._rates.table(first, len(sizes))
        descents = rates.to(self._dtype).unsqueeze(2).unsqueeze(3)
        # Kept in two tensors, as small ones that stay alive would break up the memory the steps go through.
        logits = torch.empty(members, sum(sizes), self._classes, dtype=self._dtype, device=self.device)
        losses = torch.empty(len(sizes), members, dtype=self._dtype, device=self.device)
        streams = [chunk.minibatches(self._normalise, self._loss.encode) for chunk in chunks]
        done = 0
        for batch, rows in zip(zip(*streams, strict=True), logits.split(sizes, 1), strict=True):
            if watched:
                self._safeguard.keep()
            images = [stream[0] for stream in batch]
            targets = torch.stack([stream[1] for stream in batch]).index_select(0, self._stream_of)
            masks = self._masks.draw(first + done, sizes[done]) if self._masks is not None else ()
            outputs = self.stack.forward(images, masks)
            loss = self._loss(outputs, targets)
            self.stack.backward(loss.sum())
            self._update(rates[done], descents[done])
            rows.copy_(outputs.detach())
            losses[done] = loss.detach()
            if self._ema_decay is not None:
                follow(self._averages, self.stack.parameters, self._ema_decay, steps=first + done + 1)
            if watched:
                self._fail_faulty(losses[done], rates[done])
            self.position.advance()
            done += 1
            if self.stop_signal.received is not None:
                break
        return logits[:, : sum(sizes[:done])], losses[:done], rates[:done]

    def _update(self, rates: Tensor, descent: Tensor) -> None:
        if isinstance(self.stack, DenseStack) and self.update.plain_descent and self._clip_norm is None:
            self.stack.descend(descent, self.update.kept(rates))
            return
        gradients = self.stack.gradients()
        if self._clip_norm is not None:
            gradients = clipped(gradients, self._clip_norm)
        self.update(gradients, rates)

    def _count(self, chunks: Sequence[Chunk], logits: Tensor, losses: Tensor, rates: Tensor) -> None:
        """Take in what a chunk brought."""
        sizes = [len(index) for index in chunks[0].indices[: len(losses)]]
        done = sum(sizes)
        labels = torch.stack([chunk.labels[:done] for chunk in chunks]).index_select(0, self._stream_of)
        confusion = confusions(logits, labels)
        values, last_rates = losses.T.tolist(), rates[-1].tolist()
        for row, member in enumerate(self.members):
            if member.outcome is not None:
                continue
            member.learning_rate = last_rates[row]
            member.count(confusion[row], values[row], sizes, last_step=self.position.total_steps)

    def _changed(self) -> list[Tensor]:
        """All that updates change."""
        moments = [tensor for tensors in self.update.state.entries.values() for tensor in tensors]
        return [*self.stack.parameters, *self._buffers, *self._averages, self.update.state.step, *moments]

    def _faulty(self, losses: Tensor) -> list[int]:
        """The rows of the members that met, by losses (…, M), or are left with anything that is not finite."""
        finite = losses.isfinite().view(-1, len(self.members)).all(0) & self._safeguard.finite_members()
        rows = enumerate(zip(self.members, finite.tolist(), strict=True))
        return [row for row, (member, sound) in rows if member.outcome is None and not sound]

    def _fail_faulty(self, losses: Tensor, rates: Tensor) -> None:
        """End the members of which the update with these losses and learning rates, (M,), was faulty, and undo it."""
        for row in self._faulty(losses):
            self._safeguard.restore(row)
            self.members[row].fail(
                divergence(
                    losses[row].item(), self.position.total_steps, steps_per_epoch=self.steps_per_epoch,
                    learning_rate=rates[row].item(),
                )
            )  # fmt: skip

    # Between two chunks -----------------------------------------------------------------------------------------------

    def _state(self, member: Member) -> Callable[[], dict[int, dict[str, Tensor]]]:
        return partial(self.update.member_state, self.members.index(member), member.classifier.network)

    def _validate(self, *, last: bool) -> None:
        for member, counts in zip(self.members, self._evaluate(), strict=True):
            if member.outcome is None:
                member.validated(counts, self.position, self._state(member), last=last)

    @torch.no_grad()
    def _evaluate(self) -> list[Counts]:
        members = len(self.members)
        confusion = torch.zeros(members, self._classes, self._classes, dtype=torch.int64, device=self.device)
        sums = torch.zeros(members, dtype=torch.float64, device=self.device)
        weights = self._averages or self.stack.parameters
        for batch in self.data.val_dataloader():
            logits = self.stack.evaluate(self._normalise(batch.images), weights)
            targets = self._loss.encode(batch.labels, self._classes)
            loss = self._loss(logits, targets.expand(members, *targets.shape))
            sums += loss.double() * len(batch.labels)
            confusion += confusions(logits, batch.labels.expand(members, -1))
        return [Counts(own, loss_sum) for own, loss_sum in zip(confusion, sums.tolist(), strict=True)]

    def _end_exhausted(self) -> None:
        """End the members whose patience in steps ran out inside the epoch."""
        for member in self._active():
            if member.record.selection.exhausted:
                member.end_epoch(self.position, self._state(member), epoch_over=False)
                member.finish()

    def _end_epoch(self) -> None:
        epoch_over = self.position.step == self.steps_per_epoch
        for member in self._active():
            member.end_epoch(self.position, self._state(member), epoch_over=epoch_over)
        self._saved_at = time.monotonic()
        # Once all are saved: who is killed here goes on with the same companions.
        for member in self._active():
            if member.is_over(self.position):
                member.finish()
        if epoch_over:
            self.position.next_epoch()
            if self.position.epoch in self._halving_epochs:
                self._halve()

    def _pause(self) -> None:
        """Between two chunks: stop where a signal came, save where the last checkpoints are old."""
        if self.stop_signal.received is not None:
            self._stop(self.stop_signal.received)
        if self._save_every_seconds is None or time.monotonic() - self._saved_at < self._save_every_seconds:
            return
        for member in self._active():
            member.save(self.position, self._state(member), best=False)
        self._saved_at = time.monotonic()

    def _halve(self) -> None:
        """End the members of the worse half of the settings; one of which a member failed is worst."""
        values: dict[Setting, list[float]] = {}
        for member in self.all_members:
            best, monitor = member.record.selection.best, member.record.selection.monitor
            value = monitor.worst if best is None or isinstance(member.outcome, Exception) else best.value
            values.setdefault(setting_of(member.job.overrides), []).append(value)
        active = {setting_of(member.job.overrides) for member in self._active()}
        worse = leaving({key: own for key, own in values.items() if key in active}, self.experiment.monitor.mode)
        for member in self._active():
            if setting_of(member.job.overrides) in worse:
                member.finish(halved_after_epoch=self.position.epoch)

    def _compact(self) -> None:
        """Stack those anew that go on, so that the time of the others is not spent."""
        active = self._active()
        if len(active) < len(self.members):
            kept = torch.tensor([self.members.index(member) for member in active], device=self.device)
            self.members = active
            if active:
                self._form(kept)

    def _stop(self, number: int) -> None:
        error = Interrupted(number)
        for member in self._active():
            member.stop(self.position, self._state(member), error)
        raise error


def _halving_epochs(jobs: Sequence[Job]) -> Sequence[int]:
    """After which epochs the population is halved: none unless the sweep asks for it."""
    if not jobs[0].halving:
        return ()
    return jobs[0].config.sweep.halving_epochs or default_epochs(max(job.experiment.trainer.max_epochs for job in jobs))


def _stack(tensors: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Of lists of tensors, one a member, the list of them stacked."""
    return [torch.stack([tensor.detach() for tensor in own]) for own in zip(*tensors, strict=True)]
