"""Starts the process of each group, collects its results, restarts it after a crash, and ends it when its time is over.

``gpu_check.py`` uses it. It imports nothing slow.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Results = dict[str, dict[str, Any]]
_POLL_SECONDS = 0.25
# The exit code of a group after an error that leaves CUDA unusable in its process, which is then replaced.
CUDA_IS_LOST = 3


@dataclass(slots=True, kw_only=True)
class GroupProcess:
    """The process that runs the checks of the group ``name``; ``command`` starts it, and ``--first N`` may be added.

    ``out`` takes its results (``NAME.jsonl``) and its output (``NAME.log``). It may run until ``ends_at``, in seconds
    of ``time.monotonic``. ``results`` has the result of each check by its name, all "not run" at first.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    out: Path
    ends_at: float
    results: Results = field(default_factory=dict)
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)
    _read_bytes: int = field(default=0, init=False)

    def start(self) -> None:
        """Start the process with its first check."""
        for path in (self._lines, self._log):
            path.unlink(missing_ok=True)
        self._start(first=0)

    def poll(self) -> bool:
        """Collect new results; return whether the group still runs."""
        assert self._process is not None
        code = self._process.poll()
        self._collect()
        if code is None and time.monotonic() > self.ends_at:
            self.stop("the time was over")
            return False
        if code is None:
            return True
        return code != 0 and self._restart(code)

    def stop(self, reason: str) -> None:
        """End the process and its children; checks without a result were not run, for this ``reason``."""
        if self._process is not None and self._process.poll() is None:
            # The group's commands are processes of their own, which would go on using the device.
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._collect()
        for result in self.results.values():
            if result["status"] == "not run":
                result.setdefault("reason", reason)

    def _start(self, *, first: int) -> None:
        command = [*self.command, "--first", str(first)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=dict(self.environment),
                start_new_session=True,
            )  # fmt: skip

    def _restart(self, code: int) -> bool:
        """After exit code ``code``: name the check that crashed, and go on with the one after it, if there is one."""
        names = list(self.results)
        finished = [name for name in names if "seconds" in self.results[name]]
        first = len(finished)
        if first == len(names) and code != CUDA_IS_LOST:
            # It could not start, or it crashed at its end.
            self.results["the process"] = self._crash(code)
            return False
        # After CUDA_IS_LOST the failed check has a result. Otherwise the next one ended the process.
        if code != CUDA_IS_LOST:
            self.results[names[first]] = self._crash(code)
            first += 1
        if first >= len(names):
            return False
        self._start(first=first)
        return True

    def _crash(self, code: int) -> dict[str, Any]:
        log = self._log.read_text(encoding="utf-8", errors="replace")
        return {"status": "failed", "error": f"the process ended with {code}: {log[-800:]}", "seconds": 0.0}

    def _collect(self) -> None:
        if not self._lines.exists():
            return
        with self._lines.open("rb") as file:
            file.seek(self._read_bytes)
            # A line that is being written has no end yet.
            new = file.read().rpartition(b"\n")[0]
        self._read_bytes += len(new) + bool(new)
        for text in new.splitlines():
            line = json.loads(text)
            if "checks" in line:
                self.results |= {name: {"status": "not run"} for name in line["checks"]}
            else:
                self.results[line.pop("name")] = line

    @property
    def _lines(self) -> Path:
        return self.out / f"{self.name}.jsonl"

    @property
    def _log(self) -> Path:
        return self.out / f"{self.name}.log"


def run_at_once(groups: Sequence[GroupProcess], report: Callable[[], None]) -> None:
    """Run ``groups`` at the same time until all have ended; ``report`` is called whenever there may be new results."""
    try:
        for group in groups:
            group.start()
        running = list(groups)
        while running:
            time.sleep(_POLL_SECONDS)
            running = [group for group in running if group.poll()]
            report()
    finally:
        for group in groups:
            group.stop("the check was interrupted")
        report()
