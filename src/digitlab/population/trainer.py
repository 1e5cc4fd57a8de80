"""A population: members trained step by step together, which leave it when they have come to their end."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from digitlab.core.abilities import abilities
from digitlab.core.signals import Interrupted, StopSignal
from digitlab.data.chunks import Chunk, ChunkLoader
from digitlab.engine.cpu_tuning import threads, worthwhile_threads
from digitlab.engine.cuda_graph import graph_capture_for
from digitlab.engine.metrics import confusions
from digitlab.engine.rollback import Rollback, divergence
from digitlab.engine.stacked_runner import StackedRunner
from digitlab.figures.events import samples
from digitlab.population.cohort import Cohort
from digitlab.population.halving import default_epochs, leaving, setting_of
from digitlab.population.member import Job, Member
from digitlab.training.checkpointing import warn_of_other_cpu
from digitlab.training.setup import chunk_plan, read_data

# Mini-batches between two looks at the losses and the signal, where nothing was asked for.
_CHUNK_LENGTH = 64
# On a GPU a mini-batch takes a fraction of the time, and the host waits for the device at the end of each chunk.
_CHUNK_LENGTH_ON_GPU = 256
# Members that write their checkpoints at the same time.
_WRITERS = 8


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
        warn_of_other_cpu(jobs[0].checkpoint)
        self._cohort = Cohort.of([job.folder.path.name for job in jobs], [job.checkpoint or {} for job in jobs])
        self.members = [
            Member(job, self.data, steps_per_epoch=self.steps_per_epoch, cohort=self._cohort) for job in jobs
        ]
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

    def abandon(self, error: Exception | None) -> None:
        """Close the files of the members under way, which ``error`` has ended; without one they go on in others."""
        for member in self._active():
            member.abandon(error)

    def _form(self, kept: Tensor | None = None) -> None:
        """Stack the members that are there; ``kept`` says which of the former ones they are."""
        specs = [member.classifier.member_spec() for member in self.members]
        runner = StackedRunner(specs, device=self.device)
        for row, member in enumerate(self.members):
            member.live_in(*runner.member_tensors(row))
            # What the rule remembers is from before or from checkpoints.
            saved = member.classifier.optimizer_state
            if kept is None and saved is not None:
                steps = self.position.total_steps
                runner.optimizer.load_member(row, member.classifier.network, saved["state"], steps=steps)
        if kept is not None:
            runner.inherit_from(self._runner, kept)
        else:
            runner.compiling = self.experiment.options.compile
            runner.graph_capture = graph_capture_for(self.device, allowed=self.experiment.trainer.cuda_graphs)
        self._runner: StackedRunner = runner
        self._rollback = Rollback(runner.state_tensors)
        streams = groupby(self.members, key=lambda member: member.job.seed)
        self._loaders = [self._loader(next(stream)) for _, stream in streams]

    def _loader(self, member: Member) -> ChunkLoader:
        plan = chunk_plan(member.job.experiment)
        default = _CHUNK_LENGTH_ON_GPU if abilities(self.device).cuda_graphs else _CHUNK_LENGTH
        plan = replace(plan, chunk_length=plan.chunk_length or default)
        # The augmentation has no numbers of its own that could differ, and draws by the seed of the plan.
        return self.data.chunks(plan, self.position)

    # Training ---------------------------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        for chunks in zip(*self._loaders, strict=True):
            begun = replace(self.position)
            with self._threads():
                self._runner.prepare(chunks, first=self.position.total_steps, steps_ahead=self._steps_ahead)
            with self._timed():
                self._rollback.save()
                learnt = self._run_chunk(chunks)
            self._begin()
            with self._timed():
                if self._faulty(learnt[1]):
                    # The others come to the same once more.
                    self._rollback.rollback()
                    self.position.step, self.position.total_steps = begun.step, begun.total_steps
                    learnt = self._run_chunk(chunks, watched=True)
                self._count(chunks, *learnt)
            if chunks[0].last and self._whole(chunks[0]):
                for member in self._active():
                    member.take_train_metrics()
            if chunks[0].validate and self._whole(chunks[0]):
                if len(self.data.val_indices) > 0:
                    self._validate(last=chunks[0].last)
                if not chunks[0].last:
                    self._end_early_stopped()
            else:
                self._pause()
            if not self._active():
                return
        self._end_epoch()

    def _threads(self) -> AbstractContextManager[None]:
        # By the members that it began with: fewer would add up in another order on fewer threads, and one that goes on
        # does not know which of those who have left since were still there in this epoch.
        flops = self._runner.flops * self.experiment.data.batch_size * len(self._cohort.members)
        return threads(worthwhile_threads(flops))

    @property
    def _steps_ahead(self) -> int:
        return max(member.classifier.total_steps for member in self.members) - self.position.total_steps

    def _whole(self, chunk: Chunk) -> bool:
        return self.position.step == chunk.step + len(chunk.indices)

    def _active(self) -> list[Member]:
        return [member for member in self.members if member.outcome is None]

    @contextmanager
    def _timed(self) -> Iterator[None]:
        # A GPU that is still at work is waited for by what comes next: whether all numbers are finite.
        started_at = time.perf_counter()
        yield
        active = self._active()
        share = (time.perf_counter() - started_at) / max(len(active), 1)
        for member in active:
            member.record.epoch_seconds += share

    def _begin(self) -> None:
        """Open the members' files, once memory has sufficed for a first chunk."""
        if not self.begun:
            picture = samples(self.data)
            self.begun = True
            with self._threads():
                step_threads = torch.get_num_threads()
            for member in self.members:
                member.classifier.step_threads = step_threads
                member.begin(picture)

    def _run_chunk(self, chunks: Sequence[Chunk], *, watched: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """What ``StackedRunner.run_chunk`` gives; ``watched`` has members fail before a faulty update."""
        with self._threads():
            learnt = self._runner.run_chunk(
                chunks, first=self.position.total_steps, stop_signal=self.stop_signal,
                callback=self._fail_faulty if watched else None,
            )  # fmt: skip
        for _ in learnt[2]:
            self.position.advance()
        return learnt

    def _count(self, chunks: Sequence[Chunk], logits: Tensor, losses: Tensor, rates: Tensor) -> None:
        """Take in what a chunk brought."""
        sizes = chunks[0].sizes[: len(losses)]
        done = sum(sizes)
        labels = self._runner.expand_to_members([chunk.learnt_labels()[:done] for chunk in chunks])
        # One copy for all members, who count on the host: the losses are waited for here anyway.
        confusion = confusions(logits, labels).cpu()
        values, last_rates = losses.T.tolist(), rates[-1].tolist()
        for row, member in enumerate(self.members):
            if member.outcome is not None:
                continue
            member.learning_rate = last_rates[row]
            member.count(confusion[row], values[row], sizes, last_step=self.position.total_steps)

    def _faulty(self, losses: Tensor) -> list[int]:
        """The rows of the members that met, by losses (…, M), or are left with anything that is not finite."""
        finite = losses.isfinite().view(-1, len(self.members)).all(0) & self._rollback.finite_members()
        rows = enumerate(zip(self.members, finite.tolist(), strict=True))
        return [row for row, (member, sound) in rows if member.outcome is None and not sound]

    def _fail_faulty(self, losses: Tensor, rates: Tensor, step: int) -> None:
        """End the members of which the update with these losses and learning rates, (M,), was faulty, and undo it."""
        for row in self._faulty(losses):
            self._rollback.rollback(row)
            loss, rate = losses[row].item(), rates[row].item()
            self.members[row].fail(divergence(loss, step, steps_per_epoch=self.steps_per_epoch, learning_rate=rate))
        self._rollback.save()

    # Between two chunks -----------------------------------------------------------------------------------------------

    def _state(self, member: Member) -> Callable[[], dict[int, dict[str, Tensor]]]:
        return partial(self._runner.optimizer.member_state, self.members.index(member), member.classifier.network)

    def _validate(self, *, last: bool) -> None:
        counts = self._runner.evaluate(self.data.val_dataloader())
        for member, own in zip(self.members, counts, strict=True):
            if member.outcome is None:
                member.validated(own, self.position, self._state(member), last=last)

    def _end_early_stopped(self) -> None:
        """End the members whose patience in steps ran out inside the epoch."""
        for member in self._active():
            if member.record.best_tracker.should_stop:
                member.end_epoch(self.position, epoch_over=False)
                member.save_epoch(self.position, self._state(member), epoch_over=False)
                member.finish()

    def _end_epoch(self) -> None:
        epoch_over = self.position.step == self.steps_per_epoch
        for member in self._active():
            member.end_epoch(self.position, epoch_over=epoch_over)
        if epoch_over and self.position.epoch + 1 in self._halving_epochs:
            self._halve(self.position.epoch + 1)
        self._save(lambda member: member.save_epoch(self.position, self._state(member), epoch_over=epoch_over))
        # Once all are saved: who is killed here goes on with the same companions, and leaves if it was to leave.
        for member in self._active():
            if member.is_over(self.position):
                member.finish()
        if epoch_over:
            self.position.next_epoch()

    def _pause(self) -> None:
        """Between two chunks: stop where a signal came, save where the last checkpoints are old."""
        if self.stop_signal.received is not None:
            self._stop(self.stop_signal.received)
        if self._save_every_seconds is None or time.monotonic() - self._saved_at < self._save_every_seconds:
            return
        self._save(lambda member: member.save(self.position, self._state(member), best=False))

    def _save(self, save: Callable[[Member], None]) -> None:
        """Have all members saved, some at a time: each waits for the disk, which synchronises several at once."""
        with ThreadPoolExecutor(_WRITERS) as writers:
            # The first error comes when all are done.
            list(writers.map(save, self._active()))
        self._saved_at = time.monotonic()

    def _halve(self, epoch: int) -> None:
        """Have the members of the worse half of the settings end after ``epoch``; a setting that failed is worst."""
        present = {member.job.folder.path.name: member.score for member in self.all_members}
        path, worst = self.members[0].job.folder.path.parent, self.experiment.monitor.worst
        values = self._cohort.scores_by_setting(path, present, epoch=epoch, worst=worst)
        going_on = [member for member in self._active() if not member.is_over(self.position)]
        settings = {setting_of(member.job.overrides) for member in going_on}
        worse = leaving({key: own for key, own in values.items() if key in settings}, self.experiment.monitor.mode)
        for member in going_on:
            if setting_of(member.job.overrides) in worse:
                member.halved_after_epoch = epoch

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
