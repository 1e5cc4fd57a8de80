"""``hydra/launcher=vectorized`` writes the same sweep as ``hydra/launcher=basic``."""

import csv
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from digitlab.population.member import Member
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training.loading import load

# Its fixtures take seconds, so one process runs all of these tests.
pytestmark = pytest.mark.xdist_group("launchers")

_SWEEP = (
    "-m", "trainer=cpu", "model.hidden=[8]", "data.train_size=300", "data.val_size=100", "data.batch_size=50",
    "trainer.max_epochs=2", "trainer.precision=64", "trainer.limit_test_batches=2",
)  # fmt: skip
_GRID = ("optimizer.lr=0.01,0.003", "model.dropout=0,0.3", "seed=0,1")
# These fields depend on the machine and the time, not on the training.
_OF_THE_MACHINE = ("train_seconds", "images_per_second", "hardware", "git_commit", "versions")

Command = Callable[..., subprocess.CompletedProcess[str]]


def _runs(sweep: Path) -> dict[str, RunFolder]:
    return {path.parent.parent.name: RunFolder(path.parent.parent) for path in sweep.glob("*/.hydra/config.yaml")}


def _files(folder: RunFolder) -> list[str]:
    paths = [path.relative_to(folder.path) for path in folder.path.rglob("*") if path.is_file()]
    # An event file's name holds time, host and process.
    return sorted(str(path.parent / path.name.partition(".tfevents")[0]) for path in paths)


def _rows(folder: RunFolder) -> list[dict[str, float]]:
    with folder.metrics.open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture
def sweeps(train_py: Command, tmp_path: Path) -> tuple[Path, Path]:
    """The same sweep by either launcher; the vectorized one needs no word."""
    folders = tmp_path / "basic", tmp_path / "vectorized"
    for folder in folders:
        launcher = ["hydra/launcher=basic"] if folder.name == "basic" else []
        done = train_py(*_SWEEP, *_GRID, *launcher, f"hydra.sweep.dir={folder}")
        assert (done.returncode, done.stderr) == (0, "")
    return folders


@pytest.mark.extra
def test_both_launchers_write_the_same_sweep(sweeps: tuple[Path, Path]) -> None:
    basic, vectorized = (_runs(sweep) for sweep in sweeps)
    assert basic.keys() == vectorized.keys()
    for name, solo in basic.items():
        member = vectorized[name]
        assert _files(member) == _files(solo)
        ours, theirs = member.read_result(), solo.read_result()
        assert ours.keys() == theirs.keys()
        assert ours["metrics"] == pytest.approx(theirs["metrics"], nan_ok=True)
        assert json.dumps(_plain(ours)) == json.dumps(_plain(theirs))
        assert (member.path / ".hydra" / "overrides.yaml").read_text() == (
            solo.path / ".hydra" / "overrides.yaml"
        ).read_text()
        for row, other in zip(_rows(member), _rows(solo), strict=True):
            assert list(row) == list(other)
            assert {name: row[name] for name in row if name not in _OF_THE_MACHINE} == pytest.approx(
                {name: other[name] for name in other if name not in _OF_THE_MACHINE}
            )
        model, _ = load(member.path)
        assert sum(parameter.numel() for parameter in model.network.parameters()) == theirs["parameters"]


def _plain(result: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in result.items() if name not in (*_OF_THE_MACHINE, "metrics")}


@pytest.mark.extra
def test_the_same_command_again_trains_nothing(train_py: Command, tmp_path: Path) -> None:
    command = (*_SWEEP, "seed=0,1", "hydra/launcher=vectorized", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    train_py(*command)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ckpt")}
    done = train_py(*command)
    assert done.returncode == 0
    assert len(before) == 6  # best, last and previous of both
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.ckpt")} == before


def test_a_bad_job_and_a_diverging_member_do_not_stop_the_others(train_py: Command, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    done = train_py(
        *_SWEEP, "optimizer=sgd", "loss=mse", "loss.output=raw", "optimizer.lr=0.01,1e30,-1,0.02",
        "hydra/launcher=vectorized", f"hydra.sweep.dir={sweep}",
    )  # fmt: skip
    assert done.returncode == 1
    results = [run.read_result() for _, run in sorted(_runs(sweep).items())]
    assert [result["status"] for result in results] == ["finished", "failed", "failed", "finished"]
    assert "the loss is" in results[1]["error"]
    assert "optimizer.lr=-1" in results[2]["error"]


@pytest.mark.extra
def test_runs_whose_population_failed_keep_their_results_and_can_resume(
    train_py: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add_validation = Member.add_validation

    def broken(member: Member, *arguments: Any, last: bool) -> None:
        if member.plan.position.epoch == 1:
            raise ValueError("nobody expected that")
        add_validation(member, *arguments, last=last)

    command = (*_SWEEP, "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    with monkeypatch.context() as patch:
        patch.setattr(Member, "add_validation", broken)
        assert train_py(*command).returncode == 1
    runs = [run for _, run in sorted(_runs(tmp_path / "sweep").items())]
    for seed, run in enumerate(runs):
        result = run.read_result()
        assert (result["status"], result["error"]) == ("failed", "ValueError: nobody expected that")
        assert (result["epochs"], result["best_epoch"], result["seed"]) == (1, 1, seed)
        assert result["metrics"] == read_checkpoint(run.best)["metrics"]
    assert train_py(*command).returncode == 0
    assert [run.read_result()["epochs"] for run in runs] == [2, 2]


@pytest.mark.sample(4)
@pytest.mark.parametrize("most", ["0", "many", "1.5", "true"])
def test_a_bad_max_members_is_refused(train_py: Command, tmp_path: Path, most: str) -> None:
    done = train_py(
        *_SWEEP, "seed=0,1", "hydra/launcher=vectorized", f"hydra.launcher.max_members={most}",
        f"hydra.sweep.dir={tmp_path / 'sweep'}",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"hydra.launcher.max_members={most}: must be auto, or a whole number of 1 or more\n"
