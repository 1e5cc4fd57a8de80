"""A trained network on corrupted images and on images of no class, with real MNIST."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from digitlab.config.compose import build, compose, plain
from digitlab.core.logging import quiet_libraries
from digitlab.data import ImageData
from digitlab.data.corrupt import CORRUPTIONS, corruptions
from digitlab.results.folder import RunFolder
from digitlab.training import train
from digitlab.training.classifier import Classifier
from digitlab.training.evaluation import evaluate
from digitlab.training.experiment import Experiment
from digitlab.training.loading import load_classifier, load_data
from digitlab.training.robustness import Confidences, corrupted_images, measure_corrupted, out_of_distribution
from digitlab.training.setup import initial_classifier, read_data

_PARTS = ("model", "loss", "optimizer", "scheduler")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A linear network, about 85 % on its test set, and its data with the first 1,920 test images."""
    folder = tmp_path_factory.mktemp("run")
    small = ["trainer=cpu", "trainer.progress_bar=false", "trainer.max_epochs=2", "data.train_size=1000"]
    config = compose([*small, "model=linear", "optimizer.lr=0.01", "test=none"])
    (folder / ".hydra").mkdir()
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    train(config, folder=folder, overrides=[])
    data = load_data(RunFolder(folder))
    data.set_limits(limit_test_batches=15)
    return load_classifier(RunFolder(folder)), data


@pytest.fixture(autouse=True)
def quiet():
    with quiet_libraries():
        yield


def test_severity_0_is_the_plain_test_to_the_bit(trained):
    classifier, data = trained
    plain = evaluate(classifier, data, accelerator="cpu")
    identity = {0: corruptions("noise")[0]}
    assert measure_corrupted(classifier, data, identity, accelerator="cpu") == {0: plain}


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy(trained):
    classifier, data = trained
    error = evaluate(classifier, data, accelerator="cpu")["test/calibration_error"]
    scores, labels = (torch.cat(each).double().numpy() for each in (classifier.test_scores, classifier.test_labels))
    confidence, hits = scores.max(1), scores.argmax(1) == labels
    # Scores of 0 and 1 alone would need only one bin.
    assert np.mean((confidence > 0.2) & (confidence < 0.95)) > 0.3
    bins = np.ceil(confidence * 15)
    members = [bins == number for number in range(1, 16)]
    gaps = [abs(confidence[m].mean() - hits[m].mean()) * m.mean() for m in members if m.any()]
    assert error == pytest.approx(sum(gaps), abs=1e-4)
    assert 0.001 < error < 0.5


@pytest.mark.extra
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_accuracy_falls_with_severity_and_is_reproducible(trained, kind):
    chosen = {severity: corruptions(kind)[severity] for severity in (0, 1, 3, 5)}
    first, second = (measure_corrupted(*trained, chosen, accelerator="cpu") for _ in range(2))
    assert first == second
    accuracies = [metrics["test/accuracy"] for metrics in first.values()]
    # A weak corruption may help by chance, a strong one never does.
    assert accuracies[0] + 0.01 >= accuracies[1] > accuracies[2] > accuracies[3]


def test_another_seed_gives_other_corruptions(trained):
    one, other = (measure_corrupted(*trained, corruptions("noise", 5), accelerator="cpu", seed=seed) for seed in (0, 1))
    assert one != other


def test_examples_are_corrupted_like_the_test(trained):
    _, data = trained
    data.setup()
    images = data.test_set.images[:20]
    assert torch.equal(corrupted_images(images, corruptions("blur")[0]), images.float() / 255)
    assert not torch.equal(*(corrupted_images(images, corruptions("noise")[2], seed=seed) for seed in (0, 1)))


def images_of(name, root):
    return build(plain(compose([f"data={name}", f"data.root={root}"]).data, "data"), "data", ImageData)


@pytest.mark.extra
def test_a_network_is_less_confident_in_images_of_no_digit(trained, data_root):
    classifier, data = trained
    clothes = images_of("fashion_mnist", data_root)
    photographs = images_of("cifar10", data_root)
    for other in (clothes, photographs):
        measured = out_of_distribution(classifier, data, other, accelerator="cpu")
        assert len(measured.in_distribution) == 15 * 128
        assert len(measured.out_of_distribution) == 10_000
        assert measured.in_distribution.mean() > measured.out_of_distribution.mean()
        assert 0.5 < measured.auroc < 1


def test_noise_needs_no_other_data_and_is_reproducible(trained):
    first, second = (out_of_distribution(*trained, None, accelerator="cpu") for _ in range(2))
    assert torch.equal(first.out_of_distribution, second.out_of_distribution)
    assert len(first.out_of_distribution) == len(first.in_distribution)
    # The largest of ten probabilities is at least 0.1.
    assert first.out_of_distribution.min() >= 0.1


def test_a_network_that_is_sure_of_no_class_is_not_sure_of_the_image(trained):
    """Dark images are digits for this network, bright ones (noise) are of no class, both without any doubt."""
    facts = trained[0].facts.plain()
    facts |= {"class_names": [*facts["class_names"], "none"], "unknown_class": "none"}
    classifier = Classifier(data=facts, **{name: trained[0].hparams[name] for name in _PARTS}).eval()
    weight, bias = classifier.network.output.weight, classifier.network.output.bias
    with torch.no_grad():
        weight.zero_(), bias.zero_()
        # The mean of the normalised pixels is near 0 for digits and above 1 for noise.
        weight[10], bias[10] = 20 / weight.shape[1], -12
        weight[0], bias[0] = -20 / weight.shape[1], 12
    measured = out_of_distribution(classifier, trained[1], None, accelerator="cpu")
    assert measured.in_distribution.mean() > 0.9
    assert measured.out_of_distribution.max() < 0.1
    assert measured.auroc > 0.99


def test_the_classifier_knows_which_class_stands_for_no_class():
    other = "data.source.other._target_=digitlab.data.sources.FashionMnistSource"
    small = ["data=mnist_none", other, "data.source.other_count=100", "data.source.noise_count=100", "model=linear"]
    experiment = Experiment.from_config(compose([*small, "data.val_size=100"]), typed=[])
    facts = initial_classifier(experiment, read_data(experiment)).facts
    assert facts.class_names[10] == "none"
    assert facts.known_classes == list(range(10))


@pytest.mark.parametrize(
    ("own", "other", "auroc"),
    [([0.9, 0.8], [0.1, 0.2], 1.0), ([0.1], [0.9], 0.0), ([0.5, 0.5], [0.5], 0.5), ([0.9, 0.3], [0.5], 0.5)],
)
def test_auroc_is_the_probability_that_an_own_image_has_the_higher_confidence(own, other, auroc):
    assert Confidences(torch.tensor(own), torch.tensor(other)).auroc == pytest.approx(auroc)
