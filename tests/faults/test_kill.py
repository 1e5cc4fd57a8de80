"""SIGKILL at any moment, also inside a save: from what is left a run ends with the bits of one left alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from digitlab.results.folder import RunFolder
from digitlab.training.resuming import resume

KILLING = Path(__file__).with_name("killing.py")


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(torture, ready, left, tmp_path, capsys):
    kills = 120 if torture else 5
    beginning, alone, timed = (ready(tmp_path / name) for name in ("beginning", "alone", "timed"))
    resume(str(alone.path), [])  # the first one also warms up
    started = time.monotonic()
    resume(str(timed.path), [])
    seconds = time.monotonic() - started
    killed = tmp_path / "killed"
    command = [sys.executable, str(KILLING), str(kills), "0", str(seconds), str(beginning.path), str(killed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120 + 60 * kills)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f" [{', '.join(f'{count} {name}' for name, count in counts.items())}]", end="")
    assert counts["kills"] == kills
    assert counts["inside saves"] > 0
    for path in killed.iterdir():
        assert left(RunFolder(path)) == left(alone)
