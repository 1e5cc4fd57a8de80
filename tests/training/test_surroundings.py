"""Lightning's hint to use ``srun`` stays off the terminal where SLURM is installed: digitlab starts its own runs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from digitlab.config.compose import compose
from digitlab.training import train

RUN = (
    "trainer=cpu", "trainer.progress_bar=false", "trainer.max_epochs=1", "trainer.limit_test_batches=1",
    "model=linear", "data.train_size=200", "data.val_size=100",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _login_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an ``srun`` on the PATH of the tests and their processes, as on a login node."""
    script = tmp_path / "bin" / "srun"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def test_a_run_does_not_print_the_srun_hint(tmp_path: Path) -> None:
    # The suite turns warnings into errors.
    assert train(compose(RUN), folder=tmp_path / "run", overrides=[]).result["status"] == "finished"


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "sweep",
    [
        [],
        ["-m", "seed=0,1", "hydra/launcher=basic"],
        ["-m", "seed=0,1", "hydra/launcher=vectorized"],
        ["-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    ],
    ids=["run", "basic", "vectorized", "joblib"],
)
def test_commands_do_not_print_the_srun_hint(train_py: Callable[..., Any], tmp_path: Path, sweep: list[str]) -> None:
    if "hydra/launcher=joblib" in sweep:
        pytest.importorskip("joblib")
    ended = train_py(*sweep, *RUN, f"hydra.{'sweep' if sweep else 'run'}.dir={tmp_path}/out")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "srun" not in ended.stdout
