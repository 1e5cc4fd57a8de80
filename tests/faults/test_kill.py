"""SIGKILL at any moment, also inside a save: from what is left a run ends with the bits of one left alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from digitlab.training.resuming import resume

KILLING = Path(__file__).with_name("killing.py")


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(torture, ready, left, tmp_path, capsys):
    kills, runs = (120, 10) if torture else (5, 1)
    alone = ready(tmp_path / "alone")
    resume(str(alone.path), [])  # the first one also warms up
    started = time.monotonic()
    resume(str(ready(tmp_path / "timed").path), [])
    seconds = time.monotonic() - started
    killed = [ready(tmp_path / f"killed{number}") for number in range(runs)]
    command = [sys.executable, str(KILLING), str(kills), "0", str(seconds), *(str(run.path) for run in killed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60 + 20 * kills)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f" [{', '.join(f'{count} {name}' for name, count in counts.items())}]", end="")
    assert counts["kills"] == kills
    assert counts["inside saves"] > 0
    for run in killed:
        assert left(run) == left(alone)
