"""``python killing.py KILLS SEED SECONDS BEGINNING FOLDER``: bring runs to their end through deaths by SIGKILL.

Copies of the run folder BEGINNING are made in FOLDER, as many as it takes to kill KILLS times. Every life is
``resume=`` in a process of its own, forked from this one, which has imported everything. It ends at a moment drawn from
SECONDS, the time of a whole run, or every other time as soon as a file is being written after that moment. Prints how
often it did what as JSON.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training.resuming import resume

MOST_KILLS_OF_A_RUN = 12


def live(folder: str) -> int:
    """The process number of a life."""
    pid = os.fork()
    if pid:
        return pid
    try:
        resume(folder, [])
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def half_written(run: RunFolder) -> bool:
    places = [place for place in (run.path, run.last.parent) if place.exists()]
    return any(path.suffix == ".tmp" for place in places for path in place.iterdir())


def wait(pid: int, run: RunFolder, seconds: float, *, for_save: bool) -> bool:
    """Wait until the moment has come; whether the process has ended before."""
    start = time.monotonic()
    while time.monotonic() - start < seconds or for_save:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, f"a life of {run.path} ended with {status}"
            return True
        if for_save and time.monotonic() - start > seconds and half_written(run):
            return False
        time.sleep(0 if for_save else 0.001)
    return False


def main(kills: int, seed: int, seconds: float, beginning: Path, folder: Path) -> dict[str, int]:
    draw = random.Random(seed)
    counts = {"kills": 0, "inside saves": 0, "before the first checkpoint": 0, "runs": 0}
    while counts["kills"] < kills:
        run, saved = RunFolder(folder / str(counts["runs"])), False
        shutil.copytree(beginning, run.path)
        counts["runs"] += 1
        most = counts["kills"] + MOST_KILLS_OF_A_RUN
        while True:
            pid, immortal = live(str(run.path)), counts["kills"] >= min(kills, most)
            moment = float("inf") if immortal else draw.uniform(0, seconds)
            if wait(pid, run, moment, for_save=not immortal and counts["kills"] % 2 == 1):
                break
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            counts["kills"] += 1
            counts["inside saves"] += half_written(run)
            # Once there is a checkpoint, there is a good one after every death.
            saved = saved or run.last.exists()
            counts["before the first checkpoint"] += not saved
            if saved:
                read_checkpoint(run.last)
    return counts


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(
        json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5])))
    )
