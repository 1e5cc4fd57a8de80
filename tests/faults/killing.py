"""``python killing.py KILLS SEED SECONDS FOLDER...``: bring each run to its end through deaths by SIGKILL.

Every life is ``resume=FOLDER`` in a process of its own, forked from this one, which has imported everything. It ends at
a moment drawn from ``SECONDS``, the time of a whole run, or every other time as soon as a file is being written, until
there were KILLS in all. Prints ``{"kills": ..., "inside saves": ..., "before the first checkpoint": ...}``.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training.resuming import resume


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


def main(kills: int, seed: int, seconds: float, folders: list[str]) -> dict[str, int]:
    draw, counts = random.Random(seed), {"kills": 0, "inside saves": 0, "before the first checkpoint": 0}
    for number, folder in enumerate(folders):
        run, saved = RunFolder(Path(folder)), False
        share = kills * (number + 1) // len(folders)
        while True:
            pid, immortal = live(folder), counts["kills"] >= share
            moment = float("inf") if immortal else draw.uniform(0, 0.8 * seconds)
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
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:])))
