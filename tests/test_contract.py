"""The contract: what users, sweeps and other tools depend on. Keys, folders, files, results and exit codes stay.

The commands run as users type them, on very few images; tests that only read share a run.
"""

import csv
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from digitlab.config.compose import ROOT, compose, walk
from digitlab.data.chunks import Position
from digitlab.training.experiment import Experiment
from fixtures.children import Child

Command = Callable[..., subprocess.CompletedProcess[str]]

SMALL = (
    "trainer=cpu", "trainer.progress_bar=false", "model=linear", "data.train_size=64", "data.val_size=40",
    "data.batch_size=16", "trainer.max_epochs=2", "trainer.limit_test_batches=2", "early_stopping=null",
)  # fmt: skip

# A key of the configuration with each of the values that it promises, or with one of many.
KEYS = (
    "data=mnist", "data=fashion_mnist", "data=cifar10", "data.root=there", "data.batch_size=7", "data.val_size=7",
    "data.val_size=0.1", "data.val_size=0", "data.train_size=70", "data.split_seed=3", "data.normalize=unit",
    "data.normalize=standard", "augment=shift", "augment=[shift,mixup]", "augment=none", "model=mlp", "model=linear",
    "model=lenet", "model=cnn", "model.hidden=[7]", "model.activation=tanh", "model.dropout=0.2",
    "model.batch_norm=true", "model.init=he", "loss=cross_entropy", "loss=mse loss.output=softmax",
    "loss=mse loss.output=sigmoid", "loss=mse loss.output=raw", "optimizer=sgd", "optimizer=adam", "optimizer.lr=0.07",
    "optimizer.weight_decay=0.07", "optimizer=sgd optimizer.momentum=0.7", "scheduler=cosine", "trainer=cpu",
    "trainer=auto", "trainer=ddp", "trainer.max_epochs=7", "trainer.precision=32", "trainer.precision=bf16",
    "early_stopping.patience=7", "early_stopping=null", "monitor.metric=val/loss", "monitor.mode=max", "seed=7",
    "test=best", "test=last", "test=none", "resume=null", "compile=false", "compile=true", "compile=auto",
    "data=mnist_none", "experiment=r4_lenet", "debug=fast", "sweep=five_factors", "sweep.name=mine",
)  # fmt: skip


@pytest.mark.parametrize("words", KEYS)
def test_every_key_takes_its_values(words: str) -> None:
    config = compose(words.split())
    Experiment.from_config(config)
    for word in words.split():
        key, _, value = word.partition("=")
        # The value of a group is the name of a file.
        if "." in key or key in ("seed", "test", "compile", "resume", "early_stopping"):
            assert str(OmegaConf.select(config, key)).replace(" ", "") == {"null": "None"}.get(
                value, value.capitalize() if value in ("true", "false") else value
            )


def test_the_keys_are_in_the_default_configuration_and_no_other_at_the_top() -> None:
    keys = {key for key, _ in walk(OmegaConf.to_container(compose(), resolve=False))}
    groups = {"experiment", "debug"}
    named = {word.partition("=")[0] for words in KEYS for word in words.split()} - groups
    assert named - keys == {"loss.output", "optimizer.momentum"}, "these belong to loss=mse and optimizer=sgd"


def asked(train_py: Command, key: str, *words: str) -> str:
    return train_py(*words, "--cfg", "hydra", "--package", key, "--resolve").stdout.strip()


def test_the_folders_of_runs_and_sweeps(train_py: Command) -> None:
    run = asked(train_py, "hydra.run.dir", "data=cifar10", "model=lenet")
    assert re.fullmatch(rf"{ROOT}/outputs/cifar10-lenet/\d{{4}}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{{8}}", run)
    assert asked(train_py, "hydra.sweep.dir", "seed=0") == f"{ROOT}/outputs/sweeps/seed=0"


@pytest.fixture(scope="module")
def finished(train_py: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished run, and the output of its command."""
    folder = tmp_path_factory.mktemp("contract") / "run"
    ended = train_py(*SMALL, "seed=3", f"hydra.run.dir={folder}")
    assert (ended.returncode, ended.stderr) == (0, "")
    return folder, ended.stdout


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    checkpoint: dict[str, dict[str, torch.Tensor]] = torch.load(
        folder / "checkpoints" / f"{name}.ckpt", weights_only=True
    )
    return checkpoint["state_dict"]


def test_the_files_of_a_run(finished: tuple[Path, str]) -> None:
    folder, output = finished
    assert output.splitlines()[-1] == str(folder)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    expected = {
        ".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml", "checkpoints/best.ckpt",
        "checkpoints/last.ckpt", "metrics.csv", "result.json", "train.log", "test_predictions.npz",
    }  # fmt: skip
    assert expected - names == set()
    assert any("tfevents" in name for name in names)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= rows[0].keys()


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_checkpoint_is_a_dict_with_the_weights_and_needs_no_trust(finished: tuple[Path, str], name: str) -> None:
    assert sum(tensor.numel() for tensor in weights(finished[0], name).values()) >= 7850


def test_the_predictions_are_probabilities_of_the_test_set_in_its_order(finished: tuple[Path, str]) -> None:
    with np.load(finished[0] / "test_predictions.npz") as file:
        (probabilities,) = (file[name] for name in file.files if file[name].ndim == 2)
    assert (probabilities.dtype, probabilities.shape) == (np.float16, (32, 10))
    assert np.allclose(probabilities.astype(np.float64).sum(1), 1, atol=5e-3)


def test_the_fields_of_a_result(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    result = json.loads((folder / "result.json").read_text())
    kinds: dict[str, type | tuple[type, ...]] = {
        "metrics": dict, "tested": dict, "best_epoch": int, "epochs": int, "train_seconds": float,
        "images_per_second": float, "parameters": int, "seed": int, "split_fingerprint": str, "overrides": list,
        "command": str, "versions": dict, "git_commit": (str, type(None)), "hardware": dict, "status": str,
    }  # fmt: skip
    assert kinds.keys() - result.keys() == set()
    assert {name: value for name, value in result.items() if not isinstance(value, kinds.get(name, object))} == {}
    assert (result["status"], result["epochs"], result["seed"]) == ("finished", 2, 3)
    assert result["parameters"] == 7850
    assert {"val/accuracy", "test/accuracy", "test/f1", "test/loss"} <= result["metrics"].keys()
    assert all(isinstance(value, float) for value in result["metrics"].values())
    assert result["tested"] == {"checkpoint": "best", "epoch": result["best_epoch"]}
    assert result["overrides"] == [*SMALL, "seed=3"]
    assert result["command"].startswith("python train.py ")
    assert {"torch", "lightning"} <= result["versions"].keys()


@pytest.fixture(scope="module")
def swept(train_py: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The folder of a sweep with one failed run, and the exit code of its command."""
    folder = tmp_path_factory.mktemp("contract") / "sweep"
    ended = train_py("-m", *SMALL, "optimizer.lr=0.1,-1", f"hydra.sweep.dir={folder}")
    return folder, ended.returncode


def test_a_sweep_has_a_folder_for_each_run_and_fails_if_one_run_fails(swept: tuple[Path, int]) -> None:
    folder, code = swept
    assert code == 1
    assert {path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."} == {
        "0_optimizer.lr=0.1", "1_optimizer.lr=-1",
    }  # fmt: skip
    results = [json.loads((path / "result.json").read_text()) for path in sorted(folder.glob("[01]_*"))]
    assert [result["status"] for result in results] == ["finished", "failed"]
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["number"], row["optimizer.lr"], row["status"]) for row in rows] == [
        ("0", "0.1", "finished"), ("1", "-1", "failed"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["optimizer.lr=-1"], 2),
        (["nothing=3"], 2),
        (["--multirun", "--cfg", "job"], 2),
        (["optimizer=sgd", "optimizer.lr=1e30", "loss=mse", "loss.output=raw"], 1),
    ],
)
def test_exit_codes_of_commands_that_fail(train_py: Command, tmp_path: Path, words: list[str], code: int) -> None:
    ended = train_py(*SMALL, *words, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert ended.returncode == code, ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_exits_with_its_signal_and_resumes_in_its_folder(
    train_py_here: Callable[..., None], train_py: Command, tmp_path: Path, number: int, code: int
) -> None:
    folder = tmp_path / "run"

    def stopped() -> None:
        advance = Position.advance

        def advance_and_stop(position: Position) -> None:
            advance(position)
            if position.total_steps == 3:
                os.kill(os.getpid(), number)

        Position.advance = advance_and_stop  # type: ignore[method-assign]
        train_py_here(*SMALL, f"hydra.run.dir={folder}")

    ended = Child(stopped).wait()
    assert ended.code == code
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert result["status"] == "stopped"
    for refused in ("seed=4", "optimizer.lr=0.2"):
        again = train_py(f"resume={folder}", refused)
        assert (again.returncode, len(again.stderr.splitlines())) == (2, 1)
    again = train_py(f"resume={folder}", "trainer=cpu", "trainer.max_epochs=3")
    assert (again.returncode, again.stderr) == (0, "")
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["epochs"], result["seed"]) == ("finished", 3, 0)


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_from_the_beginning(
    train_py_here: Callable[..., None], train_py: Command, finished: tuple[Path, str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"

    def killed() -> None:
        Position.advance = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        train_py_here(*SMALL, "seed=3", f"hydra.run.dir={folder}")

    assert Child(killed).wait().code == -signal.SIGKILL
    assert not (folder / "checkpoints" / "last.ckpt").exists()
    assert train_py(f"resume={folder}").returncode == 0
    ours, theirs = weights(folder, "last"), weights(finished[0], "last")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_without_validation_images_the_last_epoch_is_the_best_and_nothing_stops_early(
    train_py: Command, tmp_path: Path
) -> None:
    words = [word for word in SMALL if not word.startswith(("data.val_size", "early_stopping", "trainer.max"))]
    folder = tmp_path / "run"
    # The patience of the model's file is 5 epochs.
    ended = train_py(*words, "data.val_size=0", "trainer.max_epochs=7", f"hydra.run.dir={folder}")
    assert (ended.returncode, ended.stderr) == (0, "")
    result = json.loads((folder / "result.json").read_text())
    assert result["epochs"] == 7
    assert not [name for name in result["metrics"] if name.startswith("val/")]
    best, last = weights(folder, "best"), weights(folder, "last")
    assert all(torch.equal(tensor, last[name]) for name, tensor in best.items())
    # A monitor that the user types is an error then.
    refused = train_py(*words, "data.val_size=0", "monitor.metric=val/loss", f"hydra.run.dir={tmp_path / 'other'}")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
