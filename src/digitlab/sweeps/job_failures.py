"""How a failure of a run or of a job of a sweep reaches the user.

``train.py`` wraps what Hydra runs in ``report_failure``. Nothing here needs torch at import.
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
from digitlab.results.lock import BusyError

log = logging.getLogger(__name__)


class SweepError(RunError):
    """Runs of a sweep failed, one or more: the others went on."""


def in_sweep() -> bool:
    """Whether the running Hydra job is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def report_failure() -> Iterator[None]:
    """Around what Hydra runs, once for a run, once a job for a sweep.

    A run that fails, or a signal, ends the process. A job of a sweep that fails is told at once, marked as failed in
    its ``result.json`` and told again when the sweep has ended: the other jobs go on.
    """
    try:
        yield
    except Exception as error:
        expected = isinstance(error, DigitlabError)
        solo = not in_sweep()
        # An exit code above 128 is that of a signal: Hydra would go on with the next job.
        if isinstance(error, DigitlabError) and (solo or error.exit_code > 128):
            exit_with(error)
        if solo:
            raise
        folder = Path(HydraConfig.get().runtime.output_dir)
        log.error("%s failed: %s", folder.name, error, exc_info=not expected)
        if not isinstance(error, BusyError):
            with suppress(RunError):  # the disk may be full
                _mark_failed(folder, error)
        raise SweepError(f"{folder.name}: {error}") from error


def _mark_failed(folder: Path, error: Exception) -> None:
    """The ``result.json`` of a job that failed before it had a run of its own to write one."""
    from digitlab.results.folder import RunFolder
    from digitlab.results.result import CheckpointMetrics, run_result

    run_folder = RunFolder(folder)
    if run_folder.result.exists():
        return
    result = run_result(
        status="failed", measured=CheckpointMetrics(), best_epoch=None, epochs=0, train_seconds=0.0,
        images_per_second=None, parameters=None, seed=None, split_fingerprint=None,
        overrides=command_line_overrides(), device=None, error=error,
    )  # fmt: skip
    write_atomically(run_folder.result, json.dumps(result, indent=2).encode() + b"\n")
