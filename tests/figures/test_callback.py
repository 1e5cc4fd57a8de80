"""Figures and histograms that a run sends to TensorBoard, and the log of single mini-batches."""

import csv

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from digitlab.config.compose import compose
from digitlab.core.errors import ConfigError, RunError
from digitlab.figures.batch_log import nll_and_correct, read_batch_log
from digitlab.population.grouping import group_key
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training import train
from digitlab.training.experiment import Experiment

RUN = (
    "model=linear",
    "trainer=cpu",
    "trainer.progress_bar=false",
    "trainer.max_epochs=2",
    "data.train_size=640",
    "data.val_size=200",
    "data.batch_size=64",
    "data.normalize=unit",
    "early_stopping=null",
)
STEPS = 20


def finish(folder, *overrides, resume=False):
    return RunFolder(train(compose([*RUN, *overrides]), folder=folder, overrides=overrides, resume=resume).folder)


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("plain_run") / "run")


@pytest.fixture(scope="module")
def logged_run(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("logged_run") / "run", "figures.log_batches=true")


@pytest.fixture(scope="module")
def drawn_run(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("drawn_run") / "run", "figures.each_epoch=true", "figures.log_batches=true")


def events(run):
    return EventAccumulator(str(run.path), size_guidance={"images": 0, "histograms": 0, "tensors": 0}).Reload()


def weights(run):
    return read_checkpoint(run.last)["state_dict"]


def rows(run):
    return list(csv.DictReader(run.iterations.read_text(encoding="utf-8").splitlines()))


def test_every_run_sends_samples_and_its_confusion_matrix_as_images(plain_run):
    found = events(plain_run)
    assert {tag: [each.step for each in found.Images(tag)] for tag in found.Tags()["images"]} == {
        "samples": [0],
        "confusion_matrix": [STEPS],
    }
    assert all(found.Images(tag)[0].encoded_image_string.startswith(b"\x89PNG") for tag in found.Tags()["images"])


def test_every_run_sends_histograms_of_its_weights(plain_run):
    found = events(plain_run)
    assert set(found.Tags()["histograms"]) == {"weights/output.weight", "weights/output.bias"}
    (histogram,) = found.Histograms("weights/output.weight")
    matrix = weights(plain_run)["network.output.weight"]
    assert histogram.histogram_value.num == matrix.numel()
    assert histogram.histogram_value.max == pytest.approx(float(matrix.max()), rel=1e-6)


def test_every_run_sends_one_precision_recall_curve_per_class(plain_run):
    found = events(plain_run)
    curves = [tag for tag, each in found.summary_metadata.items() if each.plugin_data.plugin_name == "pr_curves"]
    assert curves == [f"precision_recall/{digit}" for digit in range(10)]


@pytest.mark.xdist_group("drawn_run")
@pytest.mark.extra
def test_each_epoch_sends_the_figures_of_the_gallery(drawn_run):
    found = events(drawn_run)
    sent = {tag: [each.step for each in found.Images(tag)] for tag in found.Tags()["images"] if "each_epoch/" in tag}
    assert {tag.partition("/")[2] for tag in sent} >= {
        "history_epochs",
        "history_iterations",
        "images_predictions",
        "images_mistakes",
        "weights_outputs",
        "confusion_matrix",
        "precision_recall",
        "reliability",
        "class_accuracy",
        "network_layers",
    }
    assert set(map(tuple, sent.values())) == {(STEPS // 2, STEPS)}
    assert "each_epoch/weights_filters" not in sent
    assert [each.step for each in found.Histograms("weights/output.weight")] == [STEPS // 2, STEPS]


@pytest.mark.xdist_group("drawn_run")
@pytest.mark.extra
def test_extra_figures_and_logs_do_not_change_the_training(plain_run, drawn_run):
    assert plain_run.read_result()["metrics"] == drawn_run.read_result()["metrics"]
    assert all(torch.equal(tensor, weights(drawn_run)[name]) for name, tensor in weights(plain_run).items())


def test_without_log_batches_there_is_no_batch_log(plain_run):
    assert not plain_run.iterations.exists()
    assert read_batch_log(plain_run) is None


def test_the_batch_log_has_one_row_per_mini_batch_and_agrees_with_the_metrics(logged_run):
    train_rows = [row for row in rows(logged_run) if row["split"] == "train"]
    assert [int(row["step"]) for row in train_rows] == list(range(1, STEPS + 1))
    last_epoch = train_rows[STEPS // 2 :]
    with logged_run.metrics.open(encoding="utf-8") as file:
        measured = list(csv.DictReader(file))[-1]
    right, images = (sum(int(row[name]) for row in last_epoch) for name in ("correct", "images"))
    assert right / images == pytest.approx(float(measured["train/accuracy"]))
    # The loss is the cross-entropy and all mini-batches have the same size.
    nll = sum(float(row["nll"]) for row in last_epoch) / len(last_epoch)
    assert nll == pytest.approx(float(measured["train/loss"]), rel=1e-5)


def test_the_batch_log_contains_the_test_set(logged_run):
    found = read_batch_log(logged_run)
    assert len(found.test_correct) == -(-10_000 // 64)
    assert int(found.test_correct.sum()) / 10_000 == logged_run.read_result()["metrics"]["test/accuracy"]


def test_only_weights_of_pixels_that_are_not_black_change(logged_run):
    changed = read_batch_log(logged_run).changed_weights
    # Each pixel that is not black in some image of the batch changes ten weights; the ten biases always change.
    assert (changed % 10 == 0).all()
    assert (changed > 10).all()
    assert (changed <= 7850).all()
    assert len(changed.unique()) > 5


def test_a_resumed_run_continues_its_batch_log(logged_run, tmp_path):
    folder = tmp_path / "run"
    finish(folder, "figures.log_batches=true", "trainer.max_epochs=1", "test=none")
    assert len(rows(RunFolder(folder))) == STEPS // 2
    resumed = finish(folder, "figures.log_batches=true", resume=True)
    assert rows(resumed) == rows(logged_run)


def test_a_run_with_a_batch_log_does_not_join_a_population():
    for overrides, together in (([], True), (["figures.each_epoch=true"], True), (["figures.log_batches=true"], False)):
        config = compose([*RUN, *overrides])
        assert (group_key(config, Experiment.from_config(config)) is not None) == together


def test_nll_and_correct_of_known_scores():
    scores = torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    nll, correct = nll_and_correct(scores, torch.tensor([0, 0, 0]))
    assert nll == pytest.approx((0.693147 + 1.386294 + 0) / 3, rel=1e-5)
    assert correct == 2
    assert nll_and_correct(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))[0] == pytest.approx(87.5, abs=0.1)


@pytest.mark.parametrize("key", ["each_epoch", "log_batches"])
def test_options_must_be_true_or_false(key):
    with pytest.raises(ConfigError, match=rf"^figures\.{key}=3: must be true or false"):
        Experiment.from_config(compose([f"figures.{key}=3"]))


def test_updates_that_are_repeated_after_a_non_finite_value_are_logged_once(tmp_path):
    folder = tmp_path / "diverged"
    with pytest.raises(RunError, match="training stopped"):
        finish(folder, "figures.log_batches=true", "optimizer=sgd", "optimizer.lr=1e38")
    steps = [int(row["step"]) for row in rows(RunFolder(folder))]
    assert steps == list(range(1, len(steps) + 1))


def test_huge_weights_still_have_a_histogram(tmp_path):
    run = finish(tmp_path / "run", "optimizer=sgd", "optimizer.lr=1e25", "trainer.max_epochs=1")
    assert max(float(tensor.abs().max()) for tensor in weights(run).values()) > 1e20
    assert events(run).Tags()["histograms"]
