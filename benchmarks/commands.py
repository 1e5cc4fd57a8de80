"""Times whole commands for ``bench.py``: start-up until the first step, and two epochs of workload (a).

Each command runs in its own process, in turn with the others. It measures wall time, and the processor time of the
process and its children.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.table import Table

from digitlab.config.compose import ROOT
from workloads import training_split, workload_by_key

_HERE = Path(__file__).parent
_KEY, _EPOCHS = "a", 2  # the workload that the commands train, and for how long
# The names of the commands. The usual Lightning way is the script peers_lightning.py.
IMPORTS, FIRST_STEP = "import torch, lightning", "train.py until its first step"
WHOLE, WHOLE_COMPILED, WHOLE_USUAL = "train.py", "train.py compile=true", "the usual Lightning way"
AT_MOST = 1.25  # the target: the largest ratio of the wall times of FIRST_STEP and IMPORTS


class Used(NamedTuple):
    """The time and the peak memory that a process used."""

    wall_seconds: float
    processor_seconds: float
    peak_bytes: int


@dataclass(slots=True)
class CommandTimes:
    """The usage of each command, one entry per round."""

    rounds: dict[str, list[Used]] = field(default_factory=dict)

    def add(self, command: str, used: Used) -> None:
        self.rounds.setdefault(command, []).append(used)

    def median(self, command: str, quantity: str = "wall_seconds") -> float:
        return statistics.median(getattr(used, quantity) for used in self.rounds[command])

    @property
    def ratio(self) -> float:
        """The time until the first step, divided by the time of the imports that no Lightning program can avoid."""
        return self.median(FIRST_STEP) / self.median(IMPORTS)

    @property
    def passed(self) -> bool:
        return self.ratio <= AT_MOST

    def as_dict(self) -> dict[str, Any]:
        return {
            "workload": _KEY, "epochs": _EPOCHS, "start_up_ratio": self.ratio, "at_most": AT_MOST,
            "passed": self.passed,
            "rows": {
                name: {
                    "median_wall_seconds": self.median(name),
                    "median_processor_seconds": self.median(name, "processor_seconds"),
                    "peak_bytes": max(used.peak_bytes for used in rounds),
                    "rounds": [used._asdict() for used in rounds],
                }
                for name, rounds in self.rounds.items()
            },
        }  # fmt: skip

    def table(self) -> Table:
        table = Table(title=f"Whole commands; training: ({_KEY}), {_EPOCHS} epochs")
        table.add_column("command")
        for name in ("rounds", "wall s", "processor s", "target"):
            table.add_column(name, justify="right", no_wrap=True)
        for name, rounds in self.rounds.items():
            verdict = f"{'reached' if self.passed else 'MISSED'}: {self.ratio:.2f} ≤ {AT_MOST} × {IMPORTS}"
            times = (f"{self.median(name, quantity):.2f}" for quantity in ("wall_seconds", "processor_seconds"))
            table.add_row(name, str(len(rounds)), *times, verdict if name == FIRST_STEP else "")
        return table


def measure(*, rounds: int, peers: bool, compiled: bool, train_size: int | None) -> CommandTimes:
    """Measure all commands in turn, ``rounds`` times. The usual Lightning way is slow, so it runs only once.

    ``train_size`` shortens the training for a short trial, without the usual Lightning way.
    """
    workload = workload_by_key(_KEY)
    limit = [] if train_size is None else [f"data.train_size={train_size}"]
    whole = [*workload.overrides(), "trainer=cpu", *limit, f"trainer.max_epochs={_EPOCHS}"]
    turns: dict[str, Callable[[], Used]] = {
        IMPORTS: partial(run_command, [sys.executable, "-c", "import os, torch, lightning; os._exit(0)"]),
        FIRST_STEP: partial(_train, [*whole, "+callbacks.first_step._target_=first_step.FirstStep"]),
        WHOLE: partial(_train, whole),
    }
    if compiled:
        turns[WHOLE_COMPILED] = partial(_train, [*whole, "compile=true"])
        turns[WHOLE_COMPILED]()  # compiles the library
    times = CommandTimes()
    for _ in range(rounds):
        for name, turn in turns.items():
            times.add(name, turn())
    if peers and train_size is None:
        root = training_split(workload).root
        times.add(WHOLE_USUAL, run_command([sys.executable, str(_HERE / "peers_lightning.py"), _KEY, root]))
    return times


def _train(overrides: Sequence[str]) -> Used:
    with tempfile.TemporaryDirectory() as folder:
        return run_command([sys.executable, str(ROOT / "train.py"), *overrides, f"hydra.run.dir={folder}/run"])


def run_command(command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})) -> Used:
    """Run ``command`` until it ends, and return the time and memory that it used.

    ``environment`` holds additional variables. Raises ``CalledProcessError`` if the command fails.
    """
    # These two variables let train.py import the callback in first_step.py.
    path = os.pathsep.join([str(_HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = os.environ | {"PYTHONPATH": path, "DIGITLAB_ALLOW": "first_step", **environment}
    started_at = time.perf_counter()
    process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started_at
    if (code := os.waitstatus_to_exitcode(status)) != 0:
        raise subprocess.CalledProcessError(code, command)
    # Linux gives the peak memory in KiB.
    return Used(seconds, usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss)
