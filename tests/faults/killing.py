"""Kills runs with SIGKILL and resumes them until they finish; ``test_kill.py`` calls ``main`` in a forked child.

It copies the prepared run folder BEGINNING into FOLDER as often as needed for KILLS kills.
Each attempt is ``resume=`` in a process forked from this one, which has already trained such runs. An attempt is killed
after a random processor time between 0 and that of a whole run; other processes cannot stretch that time. Every second
attempt is killed while it writes a file after that moment: either as soon as this process sees the temporary file, or
before the file is renamed. It returns the counts.
"""

import os
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training.resuming import resume

MOST_KILLS_OF_A_RUN = 12


def trained(beginning: Path, path: Path) -> float:
    """The processor time of an undisturbed run, in seconds."""
    shutil.copytree(beginning, path)
    begun = time.process_time()
    resume(str(path), [])
    return time.process_time() - begun


def start_attempt(folder: str, *, dies_after: float = float("inf")) -> int:
    """Start an attempt and return its process id. After ``dies_after`` seconds it kills itself in its next save."""
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


def processor_seconds(pid: int) -> float:
    """The processor time of a child in seconds, from the clock that Linux has for each process."""
    return time.clock_gettime(~pid << 3 | 2)


def half_written(run: RunFolder) -> bool:
    places = [place for place in (run.path, run.last.parent) if place.exists()]
    return any(path.suffix == ".tmp" for place in places for path in place.iterdir())


def killed(pid: int, run: RunFolder, seconds: float, *, for_save: bool) -> bool:
    """Kill an attempt after ``seconds`` of processor time; returns False if it finished before."""
    while processor_seconds(pid) < seconds or (for_save and not half_written(run)):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status in (0, signal.SIGKILL), f"an attempt at {run.path} ended with {status}"
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
            unharmed, turn = counts["kills"] >= min(kills, most), counts["kills"] % 4
            moment = float("inf") if unharmed else draw.uniform(0, seconds)
            within, without = (moment, float("inf")) if turn == 3 else (float("inf"), moment)
            pid = start_attempt(str(run.path), dies_after=within)
            if not killed(pid, run, without, for_save=turn == 1 and not unharmed):
                break
            counts["kills"] += 1
            counts["inside saves"] += half_written(run)
            # After the first checkpoint, there is a valid one after every kill.
            saved = saved or run.last.exists()
            counts["before the first checkpoint"] += not saved
            if saved:
                read_checkpoint(run.last)
    return counts
