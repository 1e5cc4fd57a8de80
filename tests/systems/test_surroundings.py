"""Runs complete without a home folder, for a user without a name, on an ASCII terminal, in folders of any name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from digitlab.config.compose import ROOT

HERE = Path(__file__).parent / "pretended"
SMALL = (
    "trainer=cpu", "model=linear", "data.train_size=300", "data.val_size=100", "trainer.limit_test_batches=2",
    "trainer.max_epochs=1",
)  # fmt: skip


def train(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``train.py`` in ``folder`` with hardly any environment variables but ``variables``."""
    paths = [str(HERE), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPYCACHEPREFIX") if name in os.environ}
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *SMALL, *words],
        cwd=folder,
        env=kept | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        timeout=600,
        encoding="ascii",  # a byte outside ASCII fails the test
        check=False,
    )


@pytest.mark.parametrize(
    "variables",
    [
        {"DIGITLAB_TEST_SYSTEM": "nameless", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"HOME": "/proc/nowhere", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
    ],
    ids=["no home and no name", "home that cannot be written"],
)
def test_a_run_completes(tmp_path, variables):
    folder = tmp_path / "läufe #1 [x] a=b"
    folder.mkdir()
    run = "größe (2)/[run] #1"
    done = train(folder, f"hydra.run.dir={run}", "data.root=données [1]", **variables)
    assert done.returncode == 0, done.stderr
    assert "Matplotlib created a temporary" not in done.stderr
    assert (folder / run / "result.json").is_file()
    # The path is printed as Python would escape it.
    assert done.stdout.splitlines()[-1] == str(folder / run).encode("ascii", "backslashreplace").decode()
