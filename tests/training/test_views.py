"""Test-time augmentation: the views, their weights, and the logits of a network that uses them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from digitlab.config.compose import compose
from digitlab.core.errors import ConfigError
from digitlab.training.classifier import Classifier
from digitlab.training.experiment import Experiment
from digitlab.training.settings import DataFacts
from digitlab.training.test_time_augmentation import augmented_views


def random_images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("kinds", "count"), [("flip", 2), ("shift", 3), ("flip_shift", 6)])
def test_weights_add_up_to_one_and_views_are_images_of_the_same_shape(kinds, count):
    images = random_images(4, 3, 6, 7)
    found = augmented_views(images, kinds)
    assert sum(weight for _, weight in found) == 1
    assert len({view.numpy().tobytes() for view, _ in found}) == count
    assert all(view.shape == images.shape for view, _ in found)
    assert found[0][0] is images
    assert found[0][1] == max(weight for _, weight in found)


def test_shifts_are_by_one_pixel_with_a_reflected_border():
    images = random_images(2, 1, 5, 6)
    _, (up, _), (down, _) = augmented_views(images, "shift")
    padded = F.pad(images, [1] * 4, mode="reflect")
    assert torch.equal(up, padded[:, :, :5, :6])
    assert torch.equal(down, padded[:, :, 2:, 2:])


def classifier(tta):
    """An untrained linear classifier of grey 8 x 8 images; all have the same weights."""
    torch.manual_seed(0)
    return Classifier(
        model={"_target_": "digitlab.models.Linear"},
        data=DataFacts(
            name="noise", title="Noise", image_shape=[1, 8, 8], class_names=["a", "b", "c"], mean=[0.4], std=[0.3]
        ).plain(),
        loss={"_target_": "digitlab.optim.losses.CrossEntropy"},
        optimizer={"_target_": "digitlab.optim.optimizers.SGD", "lr": 0.1},
        scheduler={"_target_": "digitlab.optim.schedules.Constant"},
        tta=tta,
    )


def test_an_image_and_its_mirror_image_have_the_same_logits():
    pixels = (255 * random_images(20, 1, 8, 8)).to(torch.uint8)
    torch.testing.assert_close(classifier("flip")(pixels), classifier("flip")(pixels.flip(3)))
    assert not torch.allclose(classifier(None)(pixels), classifier(None)(pixels.flip(3)))


def reference_views(images, kinds):
    """The views and weights of the documentation, by NumPy."""
    pixels = images.numpy()
    views = [(pixels, 1.0)]
    if "shift" in kinds:
        padded = np.pad(pixels, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
        views = [(pixels, 0.5), (padded[:, :, :-2, :-2], 0.25), (padded[:, :, 2:, 2:], 0.25)]
    if "flip" in kinds:
        views = [(view, weight / 2) for view, weight in views] + [(v[..., ::-1], weight / 2) for v, weight in views]
    return [(torch.from_numpy(view.copy()), weight) for view, weight in views]


@pytest.mark.parametrize("kinds", ["flip", "shift", "flip_shift"])
def test_the_logits_are_the_weighted_mean_over_the_views(kinds):
    pixels = (255 * random_images(20, 1, 8, 8)).to(torch.uint8)
    with_views, alone = classifier(kinds), classifier(None)
    normalised = (pixels / 255 - 0.4) / 0.3
    expected = sum(weight * alone.network(view) for view, weight in reference_views(normalised, kinds))
    torch.testing.assert_close(with_views(pixels), expected)
    assert not torch.allclose(with_views(pixels), alone(pixels))


def test_unknown_views_are_refused():
    with pytest.raises(ConfigError, match=r"tta=rotate: must be flip, shift or flip_shift, or null"):
        Experiment.from_config(compose(["tta=rotate"]))
