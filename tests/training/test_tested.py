"""Every number of ``result.json`` belongs to the checkpoint that the result names, for solo runs and members."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from digitlab.config.compose import compose
from digitlab.core.signals import StopSignal
from digitlab.population.job import Job
from digitlab.population.trainer import Population
from digitlab.results.folder import RunFolder
from digitlab.results.outcome import monitored
from digitlab.training import train
from digitlab.training.experiment import Experiment
from digitlab.training.loading import load

# With this learning rate the validation accuracy of the linear network swings: its last epoch is not its best.
_SWINGING = (
    "model=linear", "trainer=cpu", "trainer.progress_bar=false", "trainer.max_epochs=5", "data.train_size=1000",
    "data.val_size=1000", "optimizer=sgd", "optimizer.lr=3", "scheduler=constant", "early_stopping=null",
)  # fmt: skip


def _train_solo(folder: Path, overrides: list[str]) -> float:
    return train(compose(overrides), folder=folder, overrides=overrides).monitored


def _train_as_member(folder: Path, overrides: list[str]) -> float:
    config = compose(overrides)
    folder.mkdir(parents=True)
    jobs = []
    for number, path in enumerate((folder, folder.parent / "other")):
        path.mkdir(exist_ok=True)
        experiment = Experiment.from_config(config, typed=overrides)
        jobs.append(
            Job(number=number, config=config, experiment=experiment, folder=RunFolder(path), overrides=overrides)
        )
    stop_signal = StopSignal()
    population = Population(jobs, device=torch.device("cpu"), stop_signal=stop_signal)
    with stop_signal:
        population.train()
    outcome = population.all_members[0].outcome
    assert isinstance(outcome, float)
    return outcome


def _evaluate(model: Any, images: Tensor, labels: Tensor) -> dict[str, float]:
    with torch.inference_mode():
        logits = model(images)
    return {
        "accuracy": float((logits.argmax(1) == labels).double().mean()),
        "loss": float(F.cross_entropy(logits.double(), labels)),
    }


@pytest.mark.sample(6)
@pytest.mark.parametrize("test", ["best", "last", "none"])
@pytest.mark.parametrize("train_run", [_train_solo, _train_as_member], ids=["solo", "member"])
def test_every_number_of_a_result_belongs_to_the_checkpoint_that_it_names(train_run, test, tmp_path):
    run = RunFolder(tmp_path / "run")
    returned = train_run(run.path, [*_SWINGING, f"test={test}"])
    result = run.read_result()
    tested, metrics = result["tested"], result["metrics"]
    assert result["best_epoch"] != 5, "the best epoch must not be the last one"
    assert tested == {
        "checkpoint": "last" if test == "last" else "best",
        "epoch": 5 if test == "last" else result["best_epoch"],
    }
    model, data = load(_with_configuration(run), checkpoint=tested["checkpoint"])
    splits = {"val": (data.train_set.images[data.val_indices], data.train_set.labels[data.val_indices])}
    if test != "none":
        splits["test"] = (data.test_set.images, data.test_set.labels)
    for split, (images, labels) in splits.items():
        for name, value in _evaluate(model, images, labels).items():
            assert metrics[f"{split}/{name}"] == pytest.approx(value, rel=1e-4), f"{split}/{name}"
    _check_predictions(run, model, splits.get("test"))
    assert any(name.startswith("test/") for name in metrics) is (test != "none")
    # The metrics of the training passes can't be evaluated again: they are those of the epoch's row.
    with run.metrics.open(encoding="utf-8") as file:
        row = list(csv.DictReader(file))[tested["epoch"] - 1]
    shared = [name for name in row if name.partition("/")[0] in ("train", "val")]
    assert {name: metrics[name] for name in shared} == {name: float(row[name]) for name in shared}
    assert monitored(run, result) == ("val/accuracy", returned) == ("val/accuracy", metrics["val/accuracy"])


def _check_predictions(run: RunFolder, model: Any, test_set: tuple[Tensor, Tensor] | None) -> None:
    """The predictions are the probabilities of the tested checkpoint; without a test there are none."""
    assert run.test_predictions.exists() is (test_set is not None)
    if test_set is None:
        return
    with np.load(run.test_predictions) as file:
        probabilities = file["probabilities"]
    assert (probabilities.dtype, probabilities.shape) == (np.float16, (10_000, 10))
    with torch.inference_mode():
        expected = F.softmax(model(test_set[0]), dim=1)
    # float16 has 11 bits of mantissa.
    np.testing.assert_allclose(probabilities, expected.numpy(), rtol=2e-3, atol=1e-5)


def _with_configuration(run: RunFolder) -> Path:
    """Give the folder the configuration that Hydra writes in a real command, and return it."""
    run.config.parent.mkdir()
    run.write_config(compose(_SWINGING), _SWINGING)
    return run.path
