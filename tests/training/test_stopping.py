"""When a run ends, and which weights are tested."""

import pytest
import torch

from digitlab.config.compose import build, compose, plain
from digitlab.data.module import ImageData
from digitlab.training import Classifier

# After the first epoch, or the step that `scheduler.milestones_epochs` sets, the learning rate is far too large.
WORSE_AND_WORSE = (
    "model=linear",
    "monitor.metric=val/loss",
    "monitor.mode=min",
    "optimizer=sgd",
    "optimizer.lr=0.05",
    "scheduler=steps",
    "scheduler.gamma=1000",
    "scheduler.milestones_epochs=[1]",
)


def stopping(patience, unit="epochs"):
    return f"early_stopping={{patience: {patience}, unit: {unit}, min_delta: 0.0}}"


def test_patience_in_epochs_ends_a_run(run):
    finished = run(*WORSE_AND_WORSE, stopping(2), "trainer.max_epochs=9")
    assert finished.result["epochs"] == 3
    assert finished.result["best_epoch"] == 1
    assert finished.result["status"] == "finished"


@pytest.mark.parametrize("length", [1, 32])
def test_patience_in_steps_ends_a_run_inside_an_epoch(run, length):
    every = ("scheduler.milestones_epochs=[0.1875]", "trainer.val_every_steps=3", f"trainer.chunk_length={length}")
    finished = run(*WORSE_AND_WORSE, *every, stopping(18, "steps"), "trainer.max_epochs=9")
    # Best after 3 steps, so patience ends at 21, the fifth of the second epoch.
    assert [row["step"] for row in finished.rows()] == ["16", "21"]
    assert finished.checkpoint()["position"] == {"epoch": 1, "step": 5, "total_steps": 21}


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "overrides",
    [(*WORSE_AND_WORSE, stopping(1), "trainer.max_epochs=3"), ("trainer.max_steps=21",), ("trainer.max_epochs=1",)],
    ids=["patience", "max_steps", "max_epochs"],
)
def test_resuming_a_run_that_has_ended_trains_no_further(run, overrides):
    finished = run(*overrides, name="ended")
    before = finished.rows(), finished.folder.last.read_bytes(), finished.folder.best.read_bytes()
    resumed = run(*overrides, name="ended", resume=True)
    assert (resumed.rows(), resumed.folder.last.read_bytes(), resumed.folder.best.read_bytes()) == before
    assert resumed.result["status"] == "finished"
    assert resumed.result["best_epoch"] == finished.result["best_epoch"]


@pytest.fixture(scope="module")
def test_set():
    data = build(plain(compose().data, "data"), "data", ImageData)
    data.setup()
    return data.test_set


@pytest.mark.sample(6)
@pytest.mark.parametrize("which", ["best", "last"])
@pytest.mark.parametrize("ema_decay", ["null", "0.9"])
def test_the_requested_weights_are_tested(run, test_set, which, ema_decay):
    finished = run(*WORSE_AND_WORSE, f"test={which}", "data.batch_size=64", f"ema.decay={ema_decay}")
    checkpoint = finished.folder.best if which == "best" else finished.folder.last
    classifier = Classifier.load_from_checkpoint(checkpoint, weights_only=True, map_location="cpu").eval()
    with torch.no_grad():
        # Two mini-batches, as the run was told.
        correct = classifier(test_set.images[:128]).argmax(1) == test_set.labels[:128]
    metrics = finished.result["metrics"]
    assert metrics["test/accuracy"] == float(correct.double().mean())
    row = finished.rows()[0 if which == "best" else -1]
    assert metrics["val/loss"] == float(row["val/loss"])


def test_without_a_test_the_metrics_are_those_of_the_best_checkpoint(run):
    finished = run(*WORSE_AND_WORSE, "test=none")
    assert not any(name.startswith("test/") for name in finished.result["metrics"])
    assert finished.result["metrics"]["val/loss"] == finished.outcome.monitored == float(finished.rows()[0]["val/loss"])


def test_without_validation_the_last_is_the_best_and_nothing_stops_early(run):
    settings = ("data.val_size=0", "optimizer=sgd", "optimizer.lr=1e-9", stopping(1), "trainer.max_epochs=4")
    finished = run(*settings, typed=False)
    assert finished.result["epochs"] == finished.result["best_epoch"] == 4
    assert finished.outcome.monitored == float(finished.rows()[-1]["train/accuracy"])
    weights = [finished.checkpoint(which)["state_dict"] for which in ("best", "last")]
    assert all(tensor.equal(weights[1][name]) for name, tensor in weights[0].items())
    assert not any(name.startswith("val/") for name in finished.rows()[0])


@pytest.mark.parametrize("every", ["null", "5"])
def test_a_metric_of_the_training_passes_can_be_monitored(run, every):
    finished = run("monitor.metric=train/loss", "monitor.mode=min", f"trainer.val_every_steps={every}")
    losses = [float(row["train/loss"]) for row in finished.rows()]
    assert [point["value"] for point in finished.checkpoint()["history"]] == losses
    assert finished.outcome.monitored == min(losses)
