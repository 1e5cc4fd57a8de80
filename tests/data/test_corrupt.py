"""Properties that all corruptions share, the effect of severity, and the effect of each corruption."""

import pytest
import torch

from digitlab.core.errors import ConfigError
from digitlab.data.corrupt import CORRUPTIONS, SEVERITIES, Invert, Stretch, StrokeWidth, corruptions
from digitlab.data.sources import MnistSource

EACH = pytest.mark.parametrize("kind", CORRUPTIONS)


def corrupted(augmentation, images, *, seed=0):
    labels = torch.zeros(len(images), dtype=torch.int64)
    return augmentation(images, labels, classes=10, generator=torch.Generator().manual_seed(seed))[0]


def random_images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return MnistSource().read(tmp_path_factory.mktemp("data"))[1].images[:200].float() / 255


@EACH
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)], ids=str)
def test_shape_range_and_input_do_not_change(kind, severity, shape):
    images = random_images(8, *shape)
    after = corrupted(corruptions(kind)[severity], images)
    assert after.shape == images.shape
    assert 0 <= after.min() <= after.max() <= 1
    assert torch.equal(images, random_images(8, *shape))
    assert not torch.equal(images, after)


@EACH
def test_at_severity_0_nothing_changes(kind, digits):
    assert torch.equal(corrupted(corruptions(kind)[0], digits), digits)


@EACH
def test_each_severity_changes_digits_more_than_the_one_before(kind, digits):
    distances = [(corrupted(each, digits) - digits).square().mean() for each in corruptions(kind).values()]
    assert distances == sorted(distances)
    assert len(set(distances)) == len(distances)


@EACH
def test_draws_depend_on_the_generator_and_differ_between_images(kind):
    copies = random_images(1, 1, 28, 28).repeat(40, 1, 1, 1)
    once, again = (corrupted(corruptions(kind)[3], copies) for _ in range(2))
    assert torch.equal(once, again)
    distinct = len({tuple(image.flatten().tolist()) for image in once})
    random_kinds = {"noise": 40, "rotate": 40, "shift": 10, "occlude": 10, "stretch": 4, "pen": 2}
    assert distinct >= random_kinds.get(kind, 1)
    assert random_kinds.get(kind) is None or not torch.equal(once, corrupted(corruptions(kind)[3], copies, seed=1))


@pytest.mark.parametrize(("kind", "severity"), [("nois", 1), ("", 1), ("noise", 6), ("noise", 0), ("noise", -1)])
def test_an_unknown_name_or_severity_is_refused_with_the_choices(kind, severity):
    with pytest.raises(ConfigError, match=r"must be one of noise, blur|a whole number from 1 to 5") as caught:
        corruptions(kind, severity)
    assert caught.value.key == ("--severity" if kind == "noise" else "--corrupt")


def test_one_severity_is_the_same_as_among_all():
    assert corruptions("blur", 4) == {4: corruptions("blur")[4]}
    assert list(corruptions("blur")) == [0, *SEVERITIES]


def test_stretching_scales_one_axis_and_leaves_the_other():
    # A bright square in the middle of black.
    images = torch.zeros(200, 1, 32, 32)
    images[:, :, 12:20, 12:20] = 1
    after = corrupted(Stretch(factor=1.5), images)
    heights, widths = (after.amax(dim).gt(0.5).sum(-1).flatten().tolist() for dim in (3, 2))
    found = set(zip(heights, widths, strict=True))
    assert found == {(8, 12), (12, 8), (8, 6), (6, 8)}


def test_strokes_become_wider_or_narrower_by_the_given_pixels():
    images = torch.zeros(50, 1, 28, 28)
    images[:, :, :, 12:16] = 1
    widths = corrupted(StrokeWidth(thicker_pixels=2, thinner_pixels=1), images).sum((1, 2, 3)) / 28
    assert set(widths.tolist()) == {8.0, 2.0}
    between = corrupted(StrokeWidth(thicker_pixels=0.5, thinner_pixels=0.25), images).sum((1, 2, 3)) / 28
    assert set(between.tolist()) == {5.0, 3.5}


def test_the_negative_of_a_negative_is_the_image():
    images = random_images(4, 3, 32, 32)
    torch.testing.assert_close(corrupted(Invert(), corrupted(Invert(), images)), images)
    torch.testing.assert_close(corrupted(Invert(), images), 1 - images)
    torch.testing.assert_close(corrupted(Invert(share=0.25), images), 0.75 * images + 0.25 * (1 - images))
