"""Signals for sweeps in other processes, and the command in a new process."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def sweep_py(sweep_command: Callable[..., list[str]]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``sweep_py(...)`` runs ``sweep_command(...)`` in a new process: a forked child would run out of memory."""

    def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            sweep_command(*arguments, folder=folder), env=environment, capture_output=True, text=True, timeout=600
        )

    return run
