"""Trains jobs as one population, or as smaller ones if memory runs out; the vectorized launcher calls it.

A job is one run of a sweep. A population trains the networks of several jobs together; they are its members.
"""

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
from digitlab.core.memory import out_of_memory, report_out_of_memory
from digitlab.core.signals import RUNS_SAVED, Interrupted, StopSignal
from digitlab.engine.device import float32_products
from digitlab.population.grouping import align_starts, allow_members_files, device_of, split
from digitlab.population.job import Job
from digitlab.population.trainer import Population
from digitlab.results.checkpoint import newest_usable_checkpoint
from digitlab.results.lock import locked_folder

log = logging.getLogger(__name__)


def train_together(jobs: Sequence[Job]) -> list[tuple[Job, Exception | None]]:
    """Train ``jobs`` as one population; return each with the error that ended its run, or None if it finished.

    If memory runs out, the population is split into two halves, which train one after the other and continue from the
    last checkpoints of their runs. Raises ``Interrupted`` after a signal, once the unfinished runs are saved.
    """
    allow_members_files(len(jobs))
    with ExitStack() as locks:
        locked_jobs, failed = [], []
        for job in jobs:
            try:
                # All folders stay locked until all runs have ended, also while halves of the population train.
                locks.enter_context(locked_folder(job.folder))
                locked_jobs.append(job)
            except RunError as error:
                # Another process works in the folder. Only this job fails, and the others train.
                failed.append((job, error))
        return [*failed, *(_train_locked(locked_jobs) if locked_jobs else [])]


def _train_locked(jobs: Sequence[Job]) -> list[tuple[Job, Exception | None]]:
    """Train ``jobs``, whose folders are locked, as one population, or in parts if memory runs out."""
    try:
        return _train_once(jobs)
    except _TooLargeError as error:
        ended, unfinished, files_opened = error.ended, error.unfinished, error.files_opened
        log.warning("a population of %d needs too much memory: it is halved", len(unfinished))
    # The error's traceback keeps the population's tensors alive, so memory can be freed only after the except block.
    _release_memory()
    for part in _split_for_memory(unfinished, files_opened=files_opened):
        # If a part needs too much memory as well, it is split in turn.
        ended += _train_locked(part)
    return ended


def _release_memory() -> None:
    """Free the memory of a population that failed, so that smaller ones can use it.

    PyTorch keeps freed blocks for reuse, but the blocks of a large population do not fit the tensors of a smaller one.
    ``empty_cache`` does nothing if no CUDA device is in use.
    """
    gc.collect()
    torch.cuda.empty_cache()


class _TooLargeError(Exception):
    """A population does not fit into memory.

    ``ended`` are the jobs whose runs have ended, each with its error or None; ``unfinished`` are the other jobs.
    ``files_opened`` says whether the population has opened, and so changed, the files of its members.
    """

    def __init__(
        self, ended: list[tuple[Job, Exception | None]], unfinished: Sequence[Job], *, files_opened: bool
    ) -> None:
        super().__init__()
        self.ended, self.unfinished, self.files_opened = ended, unfinished, files_opened


def _split_for_memory(jobs: Sequence[Job], *, files_opened: bool) -> list[list[Job]]:
    """Split ``jobs`` into two halves, or more parts if they were not all saved at the same step."""
    largest = -(-len(jobs) // 2)  # half of the jobs, rounded up
    # If no file was changed, each job starts again where it started before.
    if not files_opened:
        return split(jobs, largest)
    # Otherwise it resumes from the last checkpoint that the population has written.
    reloaded = [
        replace(
            job,
            checkpoint=newest_usable_checkpoint(job.folder, hyper_parameters=job.experiment.hyper_parameters),
            rewound=False,
        )
        for job in jobs
    ]
    # Runs can train together only from the same step.
    by_start: dict[int, list[Job]] = {}
    for job in align_starts(reloaded):
        by_start.setdefault(job.start.total_steps, []).append(job)
    return [part for group in by_start.values() for part in split(group, min(largest, len(group)))]


def _train_once(jobs: Sequence[Job]) -> list[tuple[Job, Exception | None]]:
    """Train ``jobs`` as one population; raise ``_TooLargeError`` if memory runs out and several are unfinished."""
    stop_signal = StopSignal()
    population: Population | None = None
    try:
        with quiet_libraries(), report_out_of_memory(), disk_faults(jobs[0].folder.path.parent):
            # All jobs have the same data, device and precision, so the settings of the first one hold for all.
            experiment = jobs[0].experiment
            device = device_of(experiment)
            # There is nothing to save before training, so a signal ends the process at once, even during a download.
            with sigterm_exits():
                population = Population(jobs, device=device, stop_signal=stop_signal)
            with stop_signal, float32_products(device, experiment.trainer.precision):
                population.train()
    except Interrupted as interrupted:
        raise Interrupted(interrupted.number, RUNS_SAVED) from None
    except Exception as error:
        members = [] if population is None else population.all_members
        # Members that ended before the error keep their results. Only the others continue or fail.
        outcomes = {member.job.number: member.outcome for member in members}
        unfinished = [job for job in jobs if outcomes.get(job.number) is None]
        # A population of one cannot be made smaller: its error is final.
        splits = out_of_memory(error) and len(unfinished) > 1
        if population is not None:
            population.abandon(None if splits else error)
        if splits:
            ended = [(job, _error(outcomes[job.number], None)) for job in jobs if outcomes.get(job.number) is not None]
            files_opened = population is not None and population.files_opened
            raise _TooLargeError(ended, unfinished, files_opened=files_opened) from error
        return [(job, _error(outcomes.get(job.number), error)) for job in jobs]
    finally:
        for job in jobs:
            # The jobs and their data objects outlive this population, so the images are released explicitly.
            job.experiment.data.release()
    return [(member.job, _error(member.outcome, None)) for member in population.all_members]


def _error(outcome: float | Exception | None, error: Exception | None) -> Exception | None:
    """Return the error that ended the run of a member with this ``outcome``, or None if the run finished.

    ``outcome`` is a number if the run finished, an exception if it failed, and None if it was unfinished. An unfinished
    run was ended by ``error``, like the whole population.
    """
    if outcome is None:
        return error
    return outcome if isinstance(outcome, Exception) else None
