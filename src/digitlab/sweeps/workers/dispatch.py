"""The main loop of a sweep whose jobs run in other processes: it starts them and collects the returns of the jobs.

After a signal, it makes all processes save their runs. ``sweeps.workers.launcher`` uses it. A batch is the jobs that
one process runs, and the return of a job is Hydra's ``JobReturn``.
"""

import time
from collections.abc import Iterator, Sequence

from hydra.core.utils import JobReturn

from digitlab.core.errors import RunError
from digitlab.sweeps.workers.job_batch import JobBatch
from digitlab.sweeps.workers.pools import Pool, Task


def run_jobs(batches: Sequence[JobBatch], pool: Pool) -> Iterator[tuple[JobBatch, Sequence[JobReturn] | RunError]]:
    """Run ``batches`` in ``pool``; yield each batch when it ends, with its returns or the error of its process.

    Raises ``Interrupted`` after SIGINT or SIGTERM, when all processes have saved their runs and ended.
    """
    from digitlab.core.signals import RUNS_SAVED, Interrupted, StopSignal

    waiting = list(batches)
    running: list[Task] = []
    stopped = False
    with StopSignal() as stop_signal:
        try:
            while waiting or running:
                if stop_signal.received is None:
                    running += pool.start(waiting)
                # The processes get only one signal, because a second one would kill a process that is still saving. The
                # loop then continues until all of them have ended.
                elif not stopped:
                    waiting.clear()
                    pool.stop(running)
                    stopped = True
                # Each task is asked in turn, because joblib, submitit and SLURM have no common way to wait for several.
                ended = [task for task in running if task.done()]
                for task in ended:
                    running.remove(task)
                    outcome = task.outcome()
                    # A process that the signal ended has not failed. Its run folder says how far it got.
                    if stop_signal.received is None or not isinstance(outcome, RunError):
                        yield task.batch, outcome
                if not ended:
                    time.sleep(pool.poll_seconds)
        # No process may be left, even if an error occurs or the caller stops early.
        finally:
            pool.close()
        if stop_signal.received is not None:
            raise Interrupted(stop_signal.received, RUNS_SAVED)
