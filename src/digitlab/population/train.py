"""Trains jobs as one population, or as smaller ones if memory runs out; the vectorized launcher calls it."""

import gc
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch

from digitlab.core.errors import RunError
from digitlab.core.exit import sigterm_exits
from digitlab.core.files import disk_faults
from digitlab.core.logging import quiet_libraries
from digitlab.core.memory import device_memory, out_of_memory
from digitlab.core.signals import Interrupted, StopSignal
from digitlab.engine.device import float32_products
from digitlab.population.grouping import align_starts, allow_members_files, device_of, split
from digitlab.population.job import Job
from digitlab.population.trainer import Population
from digitlab.results.checkpoint import newest_good
from digitlab.results.lock import held

log = logging.getLogger(__name__)


def train_together(jobs: Sequence[Job]) -> list[tuple[Job, Exception | None]]:
    """Train ``jobs`` as one population; return each with the error that ended its run, or None if it finished.

    If memory runs out, two halves continue one after the other, from where all their runs were last saved. Raises
    ``Interrupted`` after a signal, when the unfinished runs are saved.
    """
    allow_members_files(len(jobs))
    with ExitStack() as folders:
        # Another process may train a run of the same folder; that run fails here, and the others train.
        locked, busy = [], []
        for job in jobs:
            try:
                # The lock stays until all runs have ended, also while halves of the population train.
                folders.enter_context(held(job.folder))
                locked.append(job)
            except RunError as error:
                busy.append((job, error))
        return [*busy, *(_train_locked(locked) if locked else [])]


def _train_locked(jobs: Sequence[Job]) -> list[tuple[Job, Exception | None]]:
    try:
        return _train_once(jobs)
    except _TooLargeError as error:
        done, left, begun = error.done, error.left, error.begun
        log.warning("a population of %d needs too much memory: it is halved", len(left))
    # The error and its frames refer to the population's tensors, so memory is released only after the handler.
    _release_memory()
    for part in _split_for_memory(left, begun=begun):
        done += _train_locked(part)
    return done


def _release_memory() -> None:
    """Give the memory of a population that is gone back to the device, before smaller ones need it.

    PyTorch keeps freed blocks for itself, and blocks of the size of a large population do not fit smaller ones. Without
    an initialised CUDA device the second call does nothing.
    """
    gc.collect()
    torch.cuda.empty_cache()


class _TooLargeError(Exception):
    """A population does not fit into memory: ``left`` are its unfinished jobs, ``done`` the others with their errors.

    ``begun`` says whether any of its files has been written.
    """

    def __init__(self, done: list[tuple[Job, Exception | None]], left: Sequence[Job], *, begun: bool) -> None:
        super().__init__()
        self.done, self.left, self.begun = done, left, begun


def _split_for_memory(jobs: Sequence[Job], *, begun: bool) -> list[list[Job]]:
    """Split ``jobs`` into two halves, or more parts if they were not all saved at the same step."""
    most = -(-len(jobs) // 2)
    # Without written files the jobs still start where they started before.
    if not begun:
        return split(jobs, most)
    read = [
        replace(job, checkpoint=newest_good(job.folder, like=job.experiment.hyper_parameters), rewound=False)
        for job in jobs
    ]
    # Runs can train together only from the same step.
    by_start: dict[int, list[Job]] = {}
    for job in align_starts(read):
        by_start.setdefault(job.start.total_steps, []).append(job)
    return [part for group in by_start.values() for part in split(group, min(most, len(group)))]


def _train_once(jobs: Sequence[Job]) -> list[tuple[Job, Exception | None]]:
    """Train ``jobs`` as one population. Raises ``_TooLargeError`` if memory runs out and it can be made smaller."""
    stop_signal = StopSignal()
    population: Population | None = None
    try:
        with quiet_libraries(), device_memory(), disk_faults(jobs[0].folder.path.parent):
            # There is nothing to save before training, so a signal ends the process at once, even during a download.
            # Members have the same data, device and precision, so the first one's settings hold for all.
            experiment = jobs[0].experiment
            device = device_of(experiment)
            with sigterm_exits():
                population = Population(jobs, device=device, stop_signal=stop_signal)
            with stop_signal, float32_products(device, experiment.trainer.precision):
                population.train()
    except Interrupted as stop:
        where = ": the running runs are saved; the same command resumes them"
        raise Interrupted(stop.number, where) from None
    except Exception as error:
        members = [] if population is None else population.all_members
        # Members that ended before the error keep their results. Only the others continue or fail.
        ended = {member.job.number: member.outcome for member in members}
        left = [job for job in jobs if ended.get(job.number) is None]
        # A population of one cannot be made smaller: its error is final.
        too_large = out_of_memory(error) and len(left) > 1
        if population is not None:
            population.abandon(None if too_large else error)
        if too_large:
            done = [(job, _error(ended[job.number], None)) for job in jobs if ended.get(job.number) is not None]
            raise _TooLargeError(done, left, begun=population is not None and population.begun) from error
        return [(job, _error(ended.get(job.number), error)) for job in jobs]
    finally:
        for job in jobs:
            # The jobs outlive this population, and with them their data. Without this the images would stay in memory.
            job.experiment.data.release()
    return [(member.job, _error(member.outcome, None)) for member in population.all_members]


def _error(outcome: float | Exception | None, error: Exception | None) -> Exception | None:
    """The member's own error, or None if it finished; ``error``, which ended the population, if it was unfinished."""
    if outcome is None:
        return error
    return outcome if isinstance(outcome, Exception) else None
