"""The loop of a sweep whose jobs run in other processes: hand out, gather, and on a signal have all of them save."""

import time
from collections.abc import Iterator, Sequence

from hydra.core.utils import JobReturn

from digitlab.core.errors import RunError
from digitlab.sweeps.workers.job_batch import JobBatch
from digitlab.sweeps.workers.pools import Pool, Task


def run_jobs(batches: Sequence[JobBatch], pool: Pool) -> Iterator[tuple[JobBatch, Sequence[JobReturn] | RunError]]:
    """Each work as it ends, with the returns of its jobs, or the error of a process that ended without any.

    Raises ``Interrupted`` after SIGINT or SIGTERM, once the processes have ended; their runs are saved.
    """
    from digitlab.core.signals import Interrupted, StopSignal

    waiting = list(batches)
    running: list[Task] = []
    stopped = False
    with StopSignal() as stop_signal:
        try:
            while waiting or running:
                if stop_signal.received is None:
                    running += pool.take(waiting)
                elif not stopped:
                    waiting.clear()
                    pool.stop(running)
                    stopped = True
                ended = [task for task in running if task.done()]
                for task in ended:
                    running.remove(task)
                    outcome = task.outcome()
                    # What a signal ended has not failed: it says of itself where it stands.
                    if stop_signal.received is None or not isinstance(outcome, RunError):
                        yield task.batch, outcome
                if not ended:
                    time.sleep(pool.poll_seconds)
        finally:
            pool.close()
        if stop_signal.received is not None:
            raise Interrupted(stop_signal.received)
