"""After SIGKILL at any moment, also during a save, a resumed run ends with the bits of an undisturbed one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from digitlab.results.folder import RunFolder
from digitlab.training.resuming import resume

KILLING = Path(__file__).with_name("killing.py")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a clock for each process")
def test_a_run_that_is_killed_many_times_ends_with_the_same_bits(torture, ready, left, tmp_path, capsys):
    kills = 120 if torture else 5
    beginning, alone = (ready(tmp_path / name) for name in ("beginning", "alone"))
    resume(str(alone.path), [])
    killed = tmp_path / "killed"
    command = [sys.executable, str(KILLING), str(kills), "0", str(beginning.path), str(killed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600 + 60 * kills)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f" [{', '.join(f'{count} {name}' for name, count in counts.items())}]", end="")
    assert counts["kills"] == kills
    assert counts["inside saves"] > 0
    assert not torture or counts["before the first checkpoint"] < kills
    for path in killed.iterdir():
        assert left(RunFolder(path)) == left(alone)
