"""Jobs in, outcomes out: one population, or smaller ones where memory runs out."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack

from digitlab.failures import disk_faults, sigterm_exits
from digitlab.results.lock import held
from digitlab.schema import RunError
from digitlab.sweeps.population.grouping import device_of, split
from digitlab.sweeps.population.member import Job
from digitlab.sweeps.population.population import Population
from digitlab.training.interrupt import Interrupted, StopSignal
from digitlab.training.surroundings import device_memory, out_of_memory, quiet_libraries

log = logging.getLogger(__name__)


def train_together(jobs: Sequence[Job]) -> list[tuple[Job, Exception | None]]:
    """Train ``jobs`` as one population; each comes back with the error that ended its run, None where it finished.

    Where memory runs out before anything is written, two halves are trained one after the other. Raises
    ``Interrupted`` after a signal; the runs under way are saved then.
    """
    with ExitStack() as folders:
        own, busy = [], []
        for job in jobs:
            try:
                folders.enter_context(held(job.folder))
                own.append(job)
            except RunError as error:
                busy.append((job, error))
        return [*busy, *(_train_held(own) if own else [])]


def _train_held(jobs: Sequence[Job]) -> list[tuple[Job, Exception | None]]:
    try:
        return _train_once(jobs)
    except _TooLargeError:
        log.warning("a population of %d needs too much memory: it is halved", len(jobs))
    # Here, where the error and the frames it has gone through have let go of what they held.
    return [done for half in split(jobs, -(-len(jobs) // 2)) for done in _train_held(half)]


class _TooLargeError(Exception):
    """A population that does not fit into the memory; nothing of it is written."""


def _train_once(jobs: Sequence[Job]) -> list[tuple[Job, Exception | None]]:
    stop_signal = StopSignal()
    population: Population | None = None
    try:
        with quiet_libraries(), device_memory(), disk_faults(jobs[0].folder.path.parent):
            # While data is fetched there is nothing to save: a signal ends the process at once.
            with sigterm_exits():
                population = Population(jobs, device=device_of(jobs[0].experiment), stop_signal=stop_signal)
            with stop_signal:
                population.train()
    except Interrupted as stop:
        where = ": the runs under way are saved; the same command goes on with them"
        raise Interrupted(stop.number, where) from None
    except Exception as error:
        if out_of_memory(error) and len(jobs) > 1 and not (population and population.begun):
            raise _TooLargeError from error
        ended = {} if population is None else {member.job.number: member.outcome for member in population.all_members}
        return [(job, _error(ended.get(job.number), error)) for job in jobs]
    finally:
        for job in jobs:
            job.experiment.data.release()
    return [(member.job, _error(member.outcome, None)) for member in population.all_members]


def _error(outcome: float | Exception | None, error: Exception | None) -> Exception | None:
    """Of a member that came to an end before ``error`` met the population, its own."""
    if outcome is None:
        return error
    return outcome if isinstance(outcome, Exception) else None
