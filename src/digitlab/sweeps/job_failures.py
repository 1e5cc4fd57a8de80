"""Reports the failure of a run, or of one job of a sweep, to the user.

``train.py`` puts the function that Hydra calls for each job inside ``report_failure``. Loading this module does not
import torch.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from digitlab.config.cli_errors import command_line_overrides
from digitlab.core.errors import DigitlabError, RunError
from digitlab.core.exit import exit_with
from digitlab.core.files import write_atomically
from digitlab.core.signals import RUNS_SAVED, Interrupted

log = logging.getLogger(__name__)


class SweepError(RunError):
    """One or more runs of a sweep failed; the other runs were not stopped."""


def in_sweep() -> bool:
    """Return whether the current Hydra job belongs to a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def report_failure() -> Iterator[None]:
    """Run the with block, which trains a single run or one job of a sweep, and report its failure.

    The failure of a single run ends the process, and so does a signal. A failed job of a sweep is reported at once and
    marked as failed in its ``result.json``, and ``SweepError`` is raised. The other jobs continue, and the table at the
    end names the failed job again.
    """
    try:
        yield
    except Exception as error:
        # The message of digitlab's own errors says what is wrong. Any other error is a bug, and its traceback helps.
        expected = isinstance(error, DigitlabError)
        single_run = not in_sweep()
        if isinstance(error, Interrupted) and not single_run:
            # The message of the run would say how to resume this run alone.
            error = Interrupted(error.number, RUNS_SAVED)
        # Exit codes above 128 come from signals. Without this, Hydra would continue with the next job after Ctrl-C.
        if isinstance(error, DigitlabError) and (single_run or error.exit_code > 128):
            exit_with(error)
        if single_run:
            raise
        folder = Path(HydraConfig.get().runtime.output_dir)
        # The error may be that the log file in the folder can't be written. The terminal gets the message first.
        with suppress(OSError):
            log.error("%s failed: %s", folder.name, error, exc_info=not expected)
        from digitlab.results.lock import BusyError

        # If the folder is locked, another process trains the run and writes its result.
        if not isinstance(error, BusyError):
            with suppress(RunError):  # a full disk must not hide the error itself
                _mark_failed(folder, error)
        raise SweepError(f"{folder.name}: {error}") from error


def _mark_failed(folder: Path, error: Exception) -> None:
    """Write ``result.json`` for a job that failed before its run could write one, for example for a bad setting."""
    from digitlab.results.folder import RunFolder
    from digitlab.results.result import CheckpointMetrics, run_result

    run_folder = RunFolder(folder)
    # If training had begun, the run itself has written its result, with its epochs and metrics.
    if run_folder.result.exists():
        return
    result = run_result(
        status="failed", measured=CheckpointMetrics(), best_epoch=None, epochs=0, train_seconds=0.0,
        images_per_second=None, parameters=None, seed=None, split_fingerprint=None,
        overrides=command_line_overrides(), device=None, error=error,
    )  # fmt: skip
    write_atomically(run_folder.result, json.dumps(result, indent=2).encode() + b"\n")
