"""After SIGKILL at any moment, also during a save, a resumed run ends with the bits of an undisturbed one."""

import json
import sys

import pytest

from digitlab.results.folder import RunFolder
from digitlab.training.resuming import resume
from faults.killing import main
from fixtures.children import Child


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a clock for each process")
def test_a_run_that_is_killed_many_times_ends_with_the_same_bits(torture, ready, left, tmp_path, capsys):
    kills = 120 if torture else 5
    beginning, alone = (ready(tmp_path / name) for name in ("beginning", "alone"))
    resume(str(alone.path), [])
    killed = tmp_path / "killed"
    done = Child(lambda: print(json.dumps(main(kills, 0, beginning.path, killed)))).wait(hung_seconds=600 + 60 * kills)
    assert done.code == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    with capsys.disabled():
        print(f" [{', '.join(f'{count} {name}' for name, count in counts.items())}]", end="")
    assert counts["kills"] == kills
    assert counts["inside saves"] > 0
    assert not torture or counts["before the first checkpoint"] < kills
    for path in killed.iterdir():
        assert left(RunFolder(path)) == left(alone)
