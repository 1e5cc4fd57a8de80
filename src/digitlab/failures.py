"""How a failure reaches the user: one line on stderr and an exit code, and for a job of a sweep a ``result.json`` too.

``train.py`` and the preflight check end here; nothing is imported at the top that needs torch.
"""

import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from digitlab.atomic import write_atomically
from digitlab.overrides import typed_overrides
from digitlab.results.lock import BusyError
from digitlab.schema import DigitlabError, RunError

log = logging.getLogger(__name__)


def leave(error: DigitlabError) -> NoReturn:
    """Say in one line what went wrong, and end the process with the exit code that belongs to it."""
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)


class SweepError(RunError):
    """Runs of a sweep failed, one or more: the others went on."""


def in_sweep() -> bool:
    """Whether the running Hydra job is one of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


@contextmanager
def sigterm_exits() -> Iterator[None]:
    """Within, SIGTERM ends the process by ``SystemExit``, so that what was begun is cleared away as after Ctrl-C."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def told() -> Iterator[None]:
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
            leave(error)
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
    from digitlab.results import environment
    from digitlab.results.folder import RunFolder

    run_folder = RunFolder(folder)
    if run_folder.result.exists():
        return
    overrides = typed_overrides()
    result = {
        "status": "failed", "metrics": {}, "best_epoch": None, "epochs": 0, "train_seconds": 0.0,
        "images_per_second": None, "parameters": None, "seed": None, "split_fingerprint": None,
        "overrides": overrides, "command": environment.command(overrides), "versions": environment.versions(),
        "git_commit": environment.git_commit(), "hardware": None, "error": f"{type(error).__name__}: {error}",
    }  # fmt: skip
    write_atomically(run_folder.result, json.dumps(result, indent=2).encode() + b"\n")
