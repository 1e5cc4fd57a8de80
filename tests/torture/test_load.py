"""In a sweep of many tiny runs, the last run uses no more memory and open files than the first."""

import os
import resource
import time
from pathlib import Path

import pytest

from digitlab.sweeps.state import read_runs
from digitlab.sweeps.table import SweepTable
from fixtures.children import Child

# For each launcher, in the short and the long form: the number of runs, and the members of a population.
RUNS = {"basic": {False: (4, 1), True: (1000, 1)}, "vectorized": {False: (20, 5), True: (1000, 100)}}
# Four files for each member of a running population, and those of the process itself.
FILES_OF_MEMBER, OTHER_FILES = 4, 30
SWING_BYTES = 100e6
TABLE_SECONDS_OF_RUN = 0.01


def measured(process: Child, folder: Path) -> list[tuple[int, int]]:
    """(resident bytes, open files) of the process, measured whenever more runs have finished."""
    seen, points = 0, []
    own = Path(f"/proc/{process.pid}")
    while process.running():
        finished = len(list(folder.glob("*/result.json")))
        if finished > seen:
            pages = int((own / "statm").read_text().split()[1])
            points.append((pages * os.sysconf("SC_PAGESIZE"), len(list((own / "fd").iterdir()))))
            seen = finished
        time.sleep(0.05)
    return points


@pytest.mark.long
@pytest.mark.extra
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells what a process holds")
@pytest.mark.parametrize("launcher", RUNS)
def test_many_runs_use_no_more_memory_and_files_than_a_few(launcher, train_py_started, tmp_path, torture, tell):
    runs, members = RUNS[launcher][torture]
    folder, options = tmp_path / "sweep", [f"hydra/launcher={launcher}"]
    if launcher == "vectorized":
        options.append(f"hydra.launcher.max_members={members}")
    command = [
        "-m", "trainer=cpu", "model=linear", *options, f"seed=range(0,{runs})", "data.train_size=40",
        "data.val_size=20", "trainer.max_steps=2", "trainer.limit_test_batches=1", f"hydra.sweep.dir={folder}",
    ]  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    process = train_py_started(*command, more_bytes=64 << 30)
    points = measured(process, folder)
    ended = process.wait()
    assert ended.code == 0, ended.stderr
    memory, files = zip(*points, strict=True)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    megabytes = [round(bytes_ / 1e6) for bytes_ in (memory[0], max(memory))]
    tell(f"{runs} runs, {megabytes[0]} to {megabytes[1]} MB, {max(files)} files, {seconds:.0f} s of processor time")
    assert max(files) <= FILES_OF_MEMBER * members + OTHER_FILES
    half = (len(memory) + 1) // 2
    assert max(memory[half:], default=0) < max(memory[:half]) + SWING_BYTES
    started = time.process_time()
    table = SweepTable("load", read_runs(folder))
    seconds = time.process_time() - started
    assert len(table.rows[0].runs) == runs
    assert seconds < 1 + TABLE_SECONDS_OF_RUN * runs
