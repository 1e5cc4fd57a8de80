"""Trains a population: all members make each update together, and a member leaves when its run has ended.

A member is one run with its network. ``population.train`` creates a ``Population`` for a group of jobs. For all members
it does what Lightning's trainer does for a solo run: training, validation, checkpoints, early stopping and signals.
A chunk is a number of consecutive mini-batches. Members with the same seed train on the same stream of chunks.
"""

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
from digitlab.engine.fused_execution import Acceleration
from digitlab.engine.metrics import confusions
from digitlab.engine.rollback import Rollback, divergence, run_chunk_safely
from digitlab.engine.stacked_runner import StackedRunner
from digitlab.figures.events import samples
from digitlab.population.cohort import Cohort
from digitlab.population.job import Job, halving_epochs_of
from digitlab.population.member import Member, ReadOptimizerState, halve_worse_half
from digitlab.population.testing import finish_members
from digitlab.training.checkpointing import warn_of_other_cpu
from digitlab.training.setup import read_data

# If trainer.chunk_length is not set, losses are checked after this many mini-batches.
_CHUNK_LENGTH = 64
# On a GPU a mini-batch takes a fraction of the time, and the host waits for the device at the end of each chunk.
_CHUNK_LENGTH_ON_GPU = 256
# How many members can write their checkpoints at the same time.
_CHECKPOINT_THREADS = 8


class Population:
    """Trains ``jobs`` on ``device``. They differ only in numeric settings and start at the same step: see ``grouping``.

    ``members`` are those in the current stack of networks, ``all_members`` also those that have left it.
    """

    def __init__(self, jobs: Sequence[Job], *, device: torch.device, stop_signal: StopSignal) -> None:
        # Members with the same seed share a stream of mini-batches, so they must be adjacent.
        jobs = sorted(jobs, key=lambda job: (job.seed, job.number))
        self.experiment = jobs[0].experiment
        self.device, self.stop_signal = device, stop_signal
        self.data = read_data(self.experiment)
        self.data.to(device)
        self.position = jobs[0].start
        warn_of_other_cpu(jobs[0].checkpoint)
        self._cohort = Cohort.of([job.folder.path.name for job in jobs], [job.checkpoint or {} for job in jobs])
        self.members = [Member(job, self.data, position=self.position, cohort=self._cohort) for job in jobs]
        self._steps_per_epoch = self.members[0].plan.steps_per_epoch
        for member in self.members:
            # Weights go to the device before they are stacked, so that stacking does not copy between devices.
            member.classifier.to(device)
        self.all_members = list(self.members)
        self._halving_epochs = halving_epochs_of(jobs)
        # Files are opened only after the first chunk. If memory runs out in that chunk, they are still unchanged.
        self.files_opened = False
        self._save_every_seconds = self.experiment.checkpoint.every_seconds
        self._saved_at = time.monotonic()
        self._stack_members()

    def train(self) -> None:
        """Train until all members have ended. Raises ``Interrupted`` after a signal, once all members are saved."""
        if any(member.is_over for member in self.members):
            # An earlier process saved these members at their end, but was killed before it wrote their results.
            self._open_files()
            finish_members([member for member in self.members if member.is_over], self.data, device=self.device)
            self._compact()
        while self.members:
            self._epoch()
            self._compact()
            if self.members and self.stop_signal.received is not None:
                self._stop(self.stop_signal.received)

    def abandon(self, error: Exception | None) -> None:
        """Close the files of unfinished members; ``error`` ended them, or is None if others continue them."""
        for member in self._active():
            member.abandon(error)

    def _stack_members(self, old_rows: Tensor | None = None) -> None:
        """Stack the networks of the current members in a new runner.

        ``old_rows``, int64 (M,), are their rows in the previous runner; None if there was none.
        """
        specs = [member.classifier.member_spec() for member in self.members]
        graph_capture = graph_capture_for(self.device, allowed=self.experiment.trainer.cuda_graphs)
        acceleration = Acceleration(self.experiment.options.compile, graph_capture)
        runner = StackedRunner(specs, device=self.device, acceleration=acceleration)
        for row, member in enumerate(self.members):
            member.use_tensors(*runner.networks.member_tensors(row))
            # The optimizer's state comes from the checkpoint at the beginning, and later from the previous runner.
            if (saved := member.classifier.take_optimizer_state()) is not None:
                steps = self.position.total_steps
                runner.optimizer.load_member(row, member.classifier.network, saved["state"], steps=steps)
        if old_rows is not None:
            runner.inherit_from(self._runner, old_rows)
        self._runner: StackedRunner = runner
        # The state saved for a rollback must have the shapes of the new stack.
        self._rollback = Rollback(runner.networks.state_tensors)
        # One loader for each stream. Members with the same seed are adjacent, and the first of them stands for all.
        streams = groupby(self.members, key=lambda member: member.job.seed)
        self._loaders = [self._loader(next(stream)) for _, stream in streams]

    def _loader(self, member: Member) -> ChunkLoader:
        """Return the loader of the chunks for ``member`` and for all others with its seed."""
        plan = member.plan.chunks
        default = _CHUNK_LENGTH_ON_GPU if abilities(self.device).cuda_graphs else _CHUNK_LENGTH
        plan = replace(plan, chunk_length=plan.chunk_length or default)
        # They can use one loader, because all members of a population have the same augmentation settings.
        return self.data.chunks(plan, self.position)

    # Training ---------------------------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        """Train to the end of the epoch, or until all members have ended."""
        for chunks in zip(*self._loaders, strict=True):  # one chunk of each stream; all cover the same steps
            with self._threads():
                steps_ahead = max(member.plan.steps_ahead for member in self.members)
                self._runner.prepare(chunks, first=self.position.total_steps, steps_ahead=steps_ahead)
            with self._timed():
                results = run_chunk_safely(
                    partial(self._run_chunk, chunks), finite=lambda results: not self._faulty_rows(results[1]),
                    state=self._rollback, position=self.position,
                )  # fmt: skip
            self._open_files()
            with self._timed():
                self._count(chunks, *results)
            # After a signal, not all mini-batches of the chunk are done.
            complete = self.position.step == chunks[0].step + len(chunks[0].indices)
            # This comes before the validation, which needs them if a training metric is monitored.
            if chunks[0].last and complete:
                for member in self._active():
                    member.take_train_metrics()
            if chunks[0].validate and complete:
                if len(self.data.val_indices) > 0:
                    self._validate(last=chunks[0].last)
                if not chunks[0].last:
                    self._end_early_stopped()
            else:
                self._between_chunks()
            if not self._active():
                return
        self._end_epoch()

    def _threads(self) -> AbstractContextManager[None]:
        # The number of threads changes the order of summation, so it must be the same after a resume. A resumed
        # population does not know which members were active in this epoch, so the initial number of members counts.
        flops = self._runner.networks.flops * self.experiment.data.batch_size * len(self._cohort.members)
        return threads(worthwhile_threads(flops))

    def _active(self) -> list[Member]:
        return [member for member in self.members if member.outcome is None]

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Divide the time of the with block among the active members, and add it to their current epoch."""
        # A GPU may still compute when a block ends. A later timed block contains the check for finite numbers, which
        # waits for the GPU.
        started_at = time.perf_counter()
        yield
        active = self._active()
        share = (time.perf_counter() - started_at) / max(len(active), 1)
        for member in active:
            member.run_state.add_seconds(share)

    def _open_files(self) -> None:
        """Open the members' files, once; called after the first chunk, when memory is known to suffice."""
        if not self.files_opened:
            sample_images = samples(self.data)
            self.files_opened = True
            with self._threads():
                step_threads = torch.get_num_threads()
            for member in self.members:
                member.begin(sample_images, step_threads=step_threads)

    def _run_chunk(self, chunks: Sequence[Chunk], check_each: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Train on ``chunks``; with ``check_each``, undo the update of each faulty member and end its run."""
        if check_each:
            # A member that fails writes its result, so its files must be open.
            self._open_files()
        with self._threads():
            results = self._runner.run_chunk(
                chunks, first=self.position.total_steps, stop_signal=self.stop_signal,
                callback=self._fail_faulty_members if check_each else None,
            )  # fmt: skip
        self.position.advance(len(results[2]))
        return results

    def _count(self, chunks: Sequence[Chunk], logits: Tensor, losses: Tensor, rates: Tensor) -> None:
        """Add what ``StackedRunner.run_chunk`` returned for ``chunks`` to the training metrics of the members."""
        sizes = chunks[0].sizes[: len(losses)]  # after a signal, there are losses only of the mini-batches done
        image_count = sum(sizes)
        labels = self._runner.networks.expand_to_members([chunk.learnt_labels()[:image_count] for chunk in chunks])
        # Members count on the host. One copy serves all of them, and the host waits here for the losses anyway.
        confusion = confusions(logits, labels).cpu()
        losses_of_members, last_rates = losses.T.tolist(), rates[-1].tolist()
        for row, member in enumerate(self.members):
            if member.outcome is not None:
                continue
            member.count(confusion[row], losses_of_members[row], sizes, last_learning_rate=last_rates[row])

    def _faulty_rows(self, losses: Tensor) -> list[int]:
        """Return the rows of active members whose losses, in ``losses`` (..., M), or whose state are not finite.

        The row of a member is its index in the stack.
        """
        # One boolean per member, so that the host waits for the device only once.
        finite = losses.isfinite().view(-1, len(self.members)).all(0) & self._rollback.finite_members()
        rows = enumerate(zip(self.members, finite.tolist(), strict=True))
        return [row for row, (member, is_finite) in rows if member.outcome is None and not is_finite]

    def _fail_faulty_members(self, losses: Tensor, rates: Tensor, step: int) -> None:
        """Undo update ``step`` of each faulty member and end its run; ``losses`` and learning ``rates`` are (M,)."""
        for row in self._faulty_rows(losses):
            self._rollback.rollback(row)
            loss, rate = losses[row].item(), rates[row].item()
            self.members[row].fail(divergence(loss, step, steps_per_epoch=self._steps_per_epoch, learning_rate=rate))
        self._rollback.save()

    # Between two chunks -----------------------------------------------------------------------------------------------

    def _optimizer_state(self, member: Member) -> ReadOptimizerState:
        """Return a function that reads the optimizer's state of ``member``, for its checkpoint."""
        return partial(self._runner.optimizer.member_state, self.members.index(member), member.classifier.network)

    def _validate(self, *, last: bool) -> None:
        """Evaluate all members on the validation images; ``last`` says whether this is the end of the epoch."""
        counts = self._runner.evaluate(self.data.val_dataloader())
        for member, member_counts in zip(self.members, counts, strict=True):
            if member.outcome is None:
                member.add_validation(member_counts, self._optimizer_state(member), last=last)

    def _end_early_stopped(self) -> None:
        """Finish the members that early stopping ends inside an epoch; their patience is given in steps."""
        for member in self._active():
            if member.run_state.should_stop:
                member.end_epoch()
                member.save_epoch(self._optimizer_state(member))
                finish_members([member], self.data, device=self.device)

    def _end_epoch(self) -> None:
        """Add the epoch's metrics of all members, halve, save all, and then finish those whose runs are over.

        This is also called if the runs end inside an epoch, because of ``max_steps``.
        """
        epoch_over = self.position.step == self._steps_per_epoch
        for member in self._active():
            member.end_epoch()
        if epoch_over and self.position.epoch + 1 in self._halving_epochs:
            halve_worse_half(self._active(), self.all_members, self._cohort, epoch=self.position.epoch + 1)
        self._save(lambda member: member.save_epoch(self._optimizer_state(member)))
        # Members finish only after all are saved. If the process is killed here, all of them resume together, and those
        # that were about to finish then do so.
        finish_members([member for member in self._active() if member.is_over], self.data, device=self.device)
        if epoch_over:
            self.position.next_epoch()

    def _between_chunks(self) -> None:
        """Stop if a signal arrived; save if the last checkpoints are older than ``checkpoint.every_seconds``."""
        if self.stop_signal.received is not None:
            self._stop(self.stop_signal.received)
        if self._save_every_seconds is None or time.monotonic() - self._saved_at < self._save_every_seconds:
            return
        self._save(lambda member: member.save(self.position, self._optimizer_state(member), best=False))

    def _save(self, save: Callable[[Member], None]) -> None:
        """Save all active members, several at the same time: they spend the time on waiting for the disk."""
        with ThreadPoolExecutor(_CHECKPOINT_THREADS) as executor:
            # list() raises the first error, and the end of the with block waits for all other members.
            list(executor.map(save, self._active()))
        self._saved_at = time.monotonic()

    def _compact(self) -> None:
        """If members have ended, stack only the others again, so that no time is spent on those that have ended."""
        active = self._active()
        if len(active) < len(self.members):
            old_rows = torch.tensor([self.members.index(member) for member in active], device=self.device)
            self.members = active
            if active:
                self._stack_members(old_rows)

    def _stop(self, number: int) -> None:
        """Save all active members because signal ``number`` arrived, and raise ``Interrupted``."""
        error = Interrupted(number)
        for member in self._active():
            member.stop(self._optimizer_state(member), error)
        raise error
