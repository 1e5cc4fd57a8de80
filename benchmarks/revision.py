"""Starts and controls a process that runs train.py of one revision, for ``compare_revisions.py``.

The process itself is ``start_revision.py``.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent


class CommandError(Exception):
    """A command ended with another exit code than its case expects."""


class Revision:
    """A process that runs train.py of one checkout with the checkout's sources, this interpreter, and one thread.

    Only one thread at a time may use it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        environment = os.environ | {
            "PYTHONPATH": str(path / "src"),
            "DIGITLAB_DATA": str(Path(os.environ.get("DIGITLAB_DATA", _ROOT / "data")).resolve()),
            "DIGITLAB_ALLOW": "stop_midway",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        command = [sys.executable, str(_HERE / "start_revision.py"), str(path)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
        )

    def run_train(
        self, arguments: Sequence[str], folder: Path, variables: Mapping[str, str] = MappingProxyType({})
    ) -> int:
        """Run train.py in ``folder`` until it ends, and return its exit code. Its output is in ``stderr.txt`` there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"arguments": list(arguments), "folder": str(folder), "variables": dict(variables)}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            return int(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            raise CommandError(f"{self.path}: its process ended") from error

    def train(self, arguments: Sequence[str], folder: Path, *, exit_code: int, stop_at: int | None = None) -> None:
        """Run train.py. Raises ``CommandError`` if it ends with another code than ``exit_code``.

        ``stop_at`` is the mini-batch at whose start the callback in ``stop_midway.py`` stops the run.
        """
        code = self.run_train(arguments, folder, {} if stop_at is None else {"STOP_AT": str(stop_at)})
        if code != exit_code:
            lines = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise CommandError(f"exit code {code} in place of {exit_code}: {(lines or ['no message'])[-1]}")

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
