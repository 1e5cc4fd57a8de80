"""What a whole run writes: events as TensorBoard reads them, metrics.csv, result.json."""

import pytest

from digitlab.config.compose import compose
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training import train
from fixtures.written import curve, hyper_parameters, rows

RUN = (
    "model=linear",
    "trainer=cpu",
    "trainer.progress_bar=false",
    "trainer.max_epochs=3",
    "trainer.val_every_steps=10",
    "trainer.log_every_steps=5",
    "data.train_size=1600",
    "data.val_size=300",
    "optimizer.lr=0.01",
    "seed=5",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run: three epochs of 13 mini-batches, validated after 10, 13, 20, 26, 30 and 39."""
    return train(compose(RUN), folder=tmp_path_factory.mktemp("run"), overrides=RUN)


def test_result_json_has_all_promised_entries(finished):
    result = RunFolder(finished.folder).read_result()
    promised = (
        "metrics", "best_epoch", "epochs", "train_seconds", "images_per_second", "parameters", "seed", "overrides",
        "split_fingerprint", "command", "versions", "git_commit", "hardware", "status", "tested",
    )  # fmt: skip
    assert set(promised) <= result.keys()
    assert result == finished.result
    assert (result["status"], result["epochs"], result["seed"], result["parameters"]) == ("finished", 3, 5, 7850)
    assert result["best_epoch"] in (1, 2, 3)
    assert result["overrides"][0] == "model=linear"
    assert result["command"].startswith("python train.py model=linear ")
    assert {"python", "torch", "lightning", "digitlab"} <= result["versions"].keys()
    assert {"cpu", "cores", "memory_gib", "device"} <= result["hardware"].keys()
    assert len(result["split_fingerprint"]) == 16


def test_the_metrics_of_a_result_are_those_of_the_tested_checkpoint(finished):
    best = read_checkpoint(RunFolder(finished.folder).best)
    metrics = finished.result["metrics"]
    assert metrics["val/accuracy"] == best["metrics"]["val/accuracy"] == finished.monitored
    assert finished.monitored == max(
        point["value"] for point in read_checkpoint(RunFolder(finished.folder).last)["history"]
    )
    for name in ("loss", "accuracy", "f1", "f1_weighted"):
        assert {f"val/{name}", f"test/{name}"} <= metrics.keys()


def test_the_training_time_of_a_run_is_the_sum_of_its_epochs(finished):
    table = rows(RunFolder(finished.folder))
    seconds = [float(found["train_seconds"]) for found in table]
    assert finished.result["train_seconds"] == pytest.approx(sum(seconds))
    speeds = [float(found["images_per_second"]) for found in table]
    assert speeds == pytest.approx([1600 / each for each in seconds])
    assert finished.result["images_per_second"] == sorted(speeds)[1]


def test_the_curves_of_a_run_are_its_rows(finished):
    table = rows(RunFolder(finished.folder))
    assert [(found["epoch"], found["step"]) for found in table] == [("1", "13"), ("2", "26"), ("3", "39")]
    for split, tag in (("train", "loss"), ("train", "accuracy"), ("train", "f1"), ("val", "loss"), ("val", "accuracy")):
        points = dict(curve(finished.folder / ("val" if split == "val" else ""), tag))
        assert [points[int(found["step"])] for found in table] == [float(found[f"{split}/{tag}"]) for found in table]
    assert [step for step, _ in curve(finished.folder / "val", "loss")] == [10, 13, 20, 26, 30, 39]
    assert [step for step, _ in curve(finished.folder, "loss_step")] == [5, 10, 15, 20, 25, 30, 35]


def test_the_hyper_parameters_of_a_run_have_its_test_metrics(finished):
    _, metrics = hyper_parameters(finished.folder)
    assert {"result/val/accuracy", "result/test/accuracy", "result/test/f1"} <= metrics
    [(step, best)] = curve(finished.folder, "result/test/accuracy")
    assert (step, best) == (39, finished.result["metrics"]["test/accuracy"])
