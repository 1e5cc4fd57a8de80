"""The main loop of a sweep whose jobs run in other processes: start, collect, and on a signal make all of them save."""

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
    from digitlab.core.signals import Interrupted, StopSignal

    waiting = list(batches)
    running: list[Task] = []
    stopped = False
    with StopSignal() as stop_signal:
        try:
            while waiting or running:
                if stop_signal.received is None:
                    running += pool.start(waiting)
                # Ask only once: a second signal would kill a process that is still saving.
                elif not stopped:
                    waiting.clear()
                    pool.stop(running)
                    stopped = True
                # Poll instead of waiting for one task: joblib, submitit and SLURM share no way to wait for any of
                # several.
                ended = [task for task in running if task.done()]
                for task in ended:
                    running.remove(task)
                    outcome = task.outcome()
                    # A process that the signal ended has not failed. Its run folder says how far it got.
                    if stop_signal.received is None or not isinstance(outcome, RunError):
                        yield task.batch, outcome
                if not ended:
                    time.sleep(pool.poll_seconds)
        # Also when the caller stops early or an error passes through: no process may be left behind.
        finally:
            pool.close()
        if stop_signal.received is not None:
            raise Interrupted(stop_signal.received)
