"""A network is fitted to training images once, before the first update, and its checkpoint stores the result."""

from pathlib import Path

import pytest
import torch

from digitlab.data.sources import MnistSource
from digitlab.models.fast_cnn import Whitening
from digitlab.training import Classifier

FAST = (
    "model=fast_cnn",
    "model.widths=[4,4]",
    "optimizer=muon",
    "optimizer.normalize_filters=true",
    "augment=[flip,shift]",
    "augment.flip.alternating=true",
    "ema.decay=0.9",
    "data.train_size=256",
)


@pytest.fixture
def fitted(monkeypatch):
    """The shapes of the images to which a network was fitted, one entry per time."""
    shapes, fit = [], Whitening.fit_to

    def count(whitening, images):
        shapes.append(tuple(images.shape))
        fit(whitening, images)

    monkeypatch.setattr(Whitening, "fit_to", count)
    return shapes


def test_a_network_is_fitted_once_and_not_again_on_resume(run, same_bits, fitted):
    whole = run(*FAST)
    assert fitted == [(256, 1, 28, 28)]
    run(*FAST, "trainer.max_epochs=1", name="parts")
    same_bits(whole, run(*FAST, name="parts", resume=True))
    assert len(fitted) == 2


@pytest.mark.extra
def test_fitted_filters_do_not_change_in_training(run):
    weights = run(*FAST).checkpoint()["state_dict"]
    filters = weights["network.whitening.filters"]
    assert torch.equal(filters, weights["average.whitening.filters"])
    assert not torch.equal(filters, Whitening(channels=1, size=2).filters)
    other = run(*FAST, "seed=1", "trainer.max_steps=1").checkpoint()["state_dict"]
    assert torch.equal(filters, other["network.whitening.filters"])


def test_a_checkpoint_is_evaluated_without_training_images(run, fitted):
    finished = run(*FAST, "test=last", "tta=shift", "trainer.max_epochs=1")
    fitted.clear()
    classifier = Classifier.load_from_checkpoint(finished.folder.last).eval()
    _, test_set = MnistSource().read(Path())
    right = classifier(test_set.images[:128]).argmax(1) == test_set.labels[:128]
    assert classifier.tta == "shift"
    assert float(right.float().mean()) == pytest.approx(finished.result["metrics"]["test/accuracy"])
    assert not fitted


@pytest.mark.extra
def test_compiled_steps_give_a_fitted_network_the_same_weights(run, uncompiled):
    overrides = ["trainer.precision=64", "trainer.max_epochs=1", "data.train_size=72", "data.batch_size=8"]
    overrides += [
        "optimizer=sgd",
        "model=fast_cnn",
        "model.widths=[2]",
        "augment=flip",
        "augment.flip.alternating=true",
    ]
    eager, whole = (run(*overrides, f"compile={each}").checkpoint()["state_dict"] for each in ("false", "true"))
    assert uncompiled
    for name, tensor in eager.items():
        torch.testing.assert_close(whole[name], tensor, rtol=1e-8, atol=1e-8)
