"""``python killing.py KILLS SEED BEGINNING FOLDER``: bring runs to their end through deaths by SIGKILL.

Copies of the run folder BEGINNING are made in FOLDER, as many as it takes to kill KILLS times. Every life is
``resume=`` in a process of its own, forked from this one, which has trained such runs already. It ends at a random
moment of the processor time that a whole run takes, which no other process stretches, or every other time when a file
is being written after that moment: as soon as that is seen from here, or before the file has its name. Prints how often
it did what as JSON.
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


def trained(beginning: Path, path: Path) -> float:
    """The processor time of a run that nothing disturbs, in seconds."""
    shutil.copytree(beginning, path)
    begun = time.process_time()
    resume(str(path), [])
    return time.process_time() - begun


def live(folder: str, *, dies_after: float = float("inf")) -> int:
    """The process number of a life, which ends itself inside its first save after so many seconds."""
    pid = os.fork()
    if pid:
        return pid

    def die(event: str, _: object) -> None:
        if event in ("os.rename", "os.link") and time.process_time() > dies_after:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(die)
        resume(folder, [])
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def lived(pid: int) -> float:
    """The processor time of a child in seconds, by the clock that Linux has for each process."""
    return time.clock_gettime(~pid << 3 | 2)


def half_written(run: RunFolder) -> bool:
    places = [place for place in (run.path, run.last.parent) if place.exists()]
    return any(path.suffix == ".tmp" for place in places for path in place.iterdir())


def killed(pid: int, run: RunFolder, seconds: float, *, for_save: bool) -> bool:
    """Kill a life when the moment has come; whether it was killed, by this or by itself, before it came to its end."""
    while lived(pid) < seconds or (for_save and not half_written(run)):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status in (0, signal.SIGKILL), f"a life of {run.path} ended with {status}"
            return status == signal.SIGKILL
        time.sleep(0 if for_save else 0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


def main(kills: int, seed: int, beginning: Path, folder: Path) -> dict[str, int]:
    draw = random.Random(seed)
    _, seconds = (trained(beginning, folder / name) for name in ("first", "second"))  # the first one also warms up
    counts = {"kills": 0, "inside saves": 0, "before the first checkpoint": 0, "runs": 0}
    while counts["kills"] < kills:
        run, saved = RunFolder(folder / str(counts["runs"])), False
        shutil.copytree(beginning, run.path)
        counts["runs"] += 1
        most = counts["kills"] + MOST_KILLS_OF_A_RUN
        while True:
            immortal, turn = counts["kills"] >= min(kills, most), counts["kills"] % 4
            moment = float("inf") if immortal else draw.uniform(0, seconds)
            within, without = (moment, float("inf")) if turn == 3 else (float("inf"), moment)
            pid = live(str(run.path), dies_after=within)
            if not killed(pid, run, without, for_save=turn == 1 and not immortal):
                break
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
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))))
