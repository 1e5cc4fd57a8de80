"""The effect of each augmentation on images, compared with an independent reference where there is one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torchvision.transforms.v2 import functional as oracle

from digitlab.data.augment import Affine, BatchContext, Blur, Compose, Cutout, Elastic, Flip, MixUp, Noise, Pen, Shift


def random_images(*shape, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def augmented(augmentation, images):
    targets = torch.zeros(len(images), dtype=torch.int64)
    return augmentation(images, targets, classes=2, generator=torch.Generator().manual_seed(0))[0]


def mixed_up(alpha, images, targets, *, classes):
    return MixUp(alpha=alpha)(images, targets, classes=classes, generator=torch.Generator().manual_seed(0))


def blob(x, y, height=33, width=41):
    """A soft spot, x and y pixels from the centre of an image (1, 1, H, W)."""
    rows, columns = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    return torch.exp(-((rows[:, None] - y) ** 2 + (columns - x) ** 2) / 8)[None, None]


def centroids(images):
    """x and y of each image's centre of mass, in pixels from the centre of the image."""
    mass = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    height, width = mass.shape[1:]
    rows, columns = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    return (mass.sum(1) * columns).sum(1), (mass.sum(2) * rows).sum(1)


@pytest.mark.parametrize(("fill", "mode"), [("zero", "constant"), ("reflect", "reflect")])
def test_shift_returns_every_window_of_the_padded_image_and_nothing_else(fill, mode):
    image = random_images(1, 2, 6, 7)
    padded = F.pad(image, [1] * 4, mode=mode)
    windows = {padded[0, :, top : top + 6, left : left + 7].numpy().tobytes() for top in range(3) for left in range(3)}
    shifted = augmented(Shift(padding=1, fill=fill), image.repeat(200, 1, 1, 1))
    assert {each.numpy().tobytes() for each in shifted} == windows


@pytest.mark.parametrize("size", [(3, 4), (1, 1)])
def test_shift_reflects_repeatedly_if_padding_exceeds_the_image(size):
    image = random_images(1, 1, *size)
    padded = torch.from_numpy(np.pad(image[0, 0].numpy(), 7, mode="reflect"))
    windows = padded.unfold(0, size[0], 1).unfold(1, size[1], 1).flatten(0, 1)
    for shifted in augmented(Shift(padding=7, fill="reflect"), image.repeat(50, 1, 1, 1)):
        assert (windows == shifted).all((1, 2)).any()


def mirrored(images, *, epoch, seed=0, indices=None):
    """Which of ``images`` an alternating flip mirrors, if it does nothing else to them."""
    indices = torch.arange(len(images)) if indices is None else indices
    before, flip = images[indices], Compose([Flip(alternating=True)])
    after = augmented(flip.at(BatchContext(indices=indices, epoch=epoch, seed=seed)), before)
    chosen = (after != before).any(dim=(1, 2, 3))
    assert torch.equal(after, torch.where(chosen.view(-1, 1, 1, 1), before.flip(3), before))
    return chosen


def test_alternating_flip_mirrors_each_image_in_every_second_epoch():
    images = random_images(1000, 1, 4, 5)
    first, second, third = (mirrored(images, epoch=epoch) for epoch in range(3))
    assert torch.equal(second, ~first)
    assert torch.equal(third, first)
    assert first.float().mean() == pytest.approx(0.5, abs=0.08)
    assert not torch.equal(mirrored(images, epoch=0, seed=1), first)


def test_alternating_flip_does_not_depend_on_the_mini_batch():
    images, some = random_images(100, 1, 4, 5), torch.tensor([70, 3, 12])
    assert torch.equal(mirrored(images, epoch=0, indices=some), mirrored(images, epoch=0)[some])


def test_alternating_flip_mirrors_half_of_the_images():
    with pytest.raises(ValidationError, match=r"alternating=true: needs probability=0\.5"):
        Flip(alternating=True, probability=0.3)


def test_flip_mirrors_with_the_given_probability_and_keeps_the_rest():
    images = random_images(1000, 1, 4, 5)
    after = augmented(Flip(probability=0.3), images)
    mirrored = (after == images.flip(3)).all((1, 2, 3))
    assert torch.equal(after[~mirrored], images[~mirrored])
    assert 250 < mirrored.sum() < 350


@pytest.mark.parametrize("probability", [0, 1])
def test_flip_with_probability_zero_or_one_is_certain(probability):
    images = random_images(100, 1, 4, 5)
    assert torch.equal(augmented(Flip(probability=probability), images), images.flip(3) if probability else images)


@pytest.mark.parametrize(
    "augmentation",
    [Affine(degrees=0, scale=[1, 1]), Elastic(alpha_pixels=0), Noise(std=0), Blur(probability=0)],
    ids=repr,
)
def test_an_augmentation_of_strength_zero_is_the_identity(augmentation):
    images = random_images(4, 3, 19, 28)
    torch.testing.assert_close(augmented(augmentation, images), images, rtol=0, atol=1e-5)


def test_affine_rotates_about_the_centre_in_both_directions():
    x, y = centroids(augmented(Affine(degrees=30, scale=[1, 1]), blob(9, 0).repeat(200, 1, 1, 1)))
    degrees = torch.rad2deg(torch.atan2(y, x))
    torch.testing.assert_close(torch.hypot(x, y), torch.full((200,), 9.0), rtol=0, atol=0.05)
    assert -30.5 < degrees.min() < -25
    assert 25 < degrees.max() < 30.5


def test_affine_scales_within_its_bounds():
    x, y = centroids(augmented(Affine(degrees=0, scale=[0.5, 1.5]), blob(6, 4).repeat(200, 1, 1, 1)))
    torch.testing.assert_close(y / x, torch.full((200,), 4 / 6), rtol=0, atol=0.01)
    assert 0.49 < (x / 6).min() < 0.6
    assert 1.4 < (x / 6).max() < 1.51


def test_affine_shears_along_the_rows():
    sheared = augmented(Affine(degrees=0, scale=[1, 1], shear_degrees=45), blob(0, 6).repeat(200, 1, 1, 1))
    x, y = centroids(sheared)
    torch.testing.assert_close(y, torch.full((200,), 6.0), rtol=0, atol=0.05)
    assert -6.1 < x.min() < -5
    assert 5 < x.max() < 6.1


def test_affine_samples_as_torchvision_does():
    images = random_images(2, 3, 20, 31)
    expected = oracle.affine(
        images, angle=0, translate=[0, 0], scale=0.7, shear=[0, 0], interpolation=oracle.InterpolationMode.BILINEAR
    )
    torch.testing.assert_close(augmented(Affine(degrees=0, scale=[0.7, 0.7]), images), expected, rtol=0, atol=1e-5)


def test_elastic_displacements_have_the_documented_size_and_are_smooth():
    # On a ramp that rises by 1/64 for each pixel, the change of a value shows how far its pixel moved.
    ramp = (torch.arange(64) / 64).expand(100, 1, 64, 64).contiguous()
    moved_pixels = ((augmented(Elastic(alpha_pixels=34, sigma_pixels=4), ramp) - ramp) * 64)[:, 0, 16:-16, 16:-16]
    assert moved_pixels.square().mean().sqrt() == pytest.approx(0.163 * 34 / 4, rel=0.1)
    assert moved_pixels.diff(dim=2).square().mean().sqrt() < 0.3 * moved_pixels.square().mean().sqrt()


def test_blur_equals_torchvision_away_from_the_border():
    images = random_images(3, 3, 40, 30)
    expected = oracle.gaussian_blur(images, kernel_size=[19, 19], sigma=[1.5, 1.5])
    blurred = augmented(Blur(sigma_pixels=[1.5, 1.5], probability=1), images)
    torch.testing.assert_close(blurred[..., 9:-9, 9:-9], expected[..., 9:-9, 9:-9], rtol=0, atol=1e-5)


def test_blur_keeps_a_constant_image_constant():
    grey = torch.full((8, 1, 12, 17), 0.6)
    torch.testing.assert_close(augmented(Blur(probability=1), grey), grey, rtol=0, atol=1e-6)


def test_blur_draws_a_width_for_each_image():
    spot = torch.zeros(50, 1, 21, 21)
    spot[:, :, 10, 10] = 1
    blurred = augmented(Blur(sigma_pixels=[0.5, 2], probability=1), spot)[:, 0].double()
    sigma_pixels = (blurred.sum(1) * (torch.arange(21) - 10) ** 2).sum(1).sqrt()
    assert 0.45 < sigma_pixels.min() < 0.7
    assert 1.8 < sigma_pixels.max() < 2.05


def test_noise_has_the_given_standard_deviation():
    noise = augmented(Noise(std=0.05), torch.full((50, 1, 28, 28), 0.5)) - 0.5
    assert noise.std() == pytest.approx(0.05, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.001)


@pytest.mark.parametrize("size_pixels", [1, 4, 5, 50])
def test_cutout_fills_one_square_that_may_cross_the_border(size_pixels):
    after = augmented(Cutout(size_pixels=size_pixels, fill=0.25), torch.ones(300, 2, 12, 15))
    hole = after[:, 0] == 0.25
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None, :])
    assert torch.equal(after, torch.where(hole[:, None], 0.25, 1.0).expand_as(after))
    for sides in (rows, columns):
        length = sides.shape[1]
        starts = [centre - size_pixels // 2 for centre in range(length)]
        allowed = {tuple(start <= pixel < start + size_pixels for pixel in range(length)) for start in starts}
        assert {tuple(side) for side in sides.tolist()} == allowed


def test_mixup_gives_images_and_targets_the_same_weights():
    grey = torch.linspace(0, 1, 10)
    labels = torch.arange(64) % 10
    mixed, targets = mixed_up(1, grey[labels].view(-1, 1, 1, 1).expand(-1, 3, 4, 4), labels, classes=10)
    torch.testing.assert_close(targets.sum(1), torch.ones(64))
    assert ((targets > 0).sum(1) <= 2).all()
    torch.testing.assert_close(mixed, (targets @ grey).view(-1, 1, 1, 1).expand_as(mixed))


def test_mixup_accepts_targets_that_are_probabilities():
    targets = random_images(6, 4).softmax(1)
    mixed = mixed_up(1, random_images(6, 1, 5, 5, dtype=torch.float64), targets, classes=4)[1]
    assert mixed.dtype == torch.float64
    torch.testing.assert_close(mixed.sum(1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(mixed.sum(0).sum(), targets.double().sum())
    assert not torch.allclose(mixed, targets.double())


def mixup_weights(alpha, count=2000):
    """Each image's own weight, for those of ``count`` images that are mixed with another one."""
    kept = mixed_up(alpha, torch.zeros(count, 1, 1, 1), torch.arange(count), classes=count)[1]
    mixes_with_another = (kept > 0).sum(1) == 2
    return kept.diagonal()[mixes_with_another]


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0])
def test_mixup_weights_follow_the_symmetric_beta_distribution(alpha):
    weights = mixup_weights(alpha).sort().values
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = torch.distributions.Beta(alpha, alpha).sample((50_000,)).sort().values
    cumulative = torch.searchsorted(expected, weights) / len(expected)
    # The Kolmogorov–Smirnov bound at 1 %, for 2,000 draws.
    assert (cumulative - torch.arange(len(weights)) / len(weights)).abs().max() < 1.63 / 2000**0.5


def test_pen_stays_between_erosion_and_dilation_by_one_pixel():
    images = random_images(200, 1, 9, 9)
    padded = F.pad(images, [1] * 4, value=torch.nan)
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(4)
    least, greatest = windows.nan_to_num(nan=9).amin(-1), windows.nan_to_num(nan=-9).amax(-1)
    after = augmented(Pen(thinner_pixels=1.0), images)
    assert ((least - 1e-6 <= after) & (after <= greatest + 1e-6)).all()
    torch.testing.assert_close(augmented(Pen(thicker_pixels=0.0, thinner_pixels=0.0), images), images)


def test_pen_widens_and_narrows_strokes_by_the_given_widths():
    stroke = torch.zeros(4000, 1, 12, 12)
    stroke[:, :, 2:10, 4:8] = 1
    change = augmented(Pen(), stroke).sum((1, 2, 3)) - 32
    # The change is uniform from -0.5 to 1 pixel: a third of the draws narrows the stroke, by at most half of its rim of
    # 20 pixels.
    assert float((change < 0).float().mean()) == pytest.approx(1 / 3, abs=0.03)
    assert float(change.min()) == pytest.approx(-0.5 * 20, abs=0.1)
    assert float(change.max()) == pytest.approx(10 * 6 - 32, abs=0.1)


@pytest.mark.parametrize("alpha", [1e-4, 1e4])
def test_mixup_works_with_extreme_settings(alpha):
    targets = mixed_up(alpha, torch.zeros(100, 1, 1, 1), torch.arange(100), classes=100)[1]
    largest = targets.max(1).values
    assert (largest > 0.99).all() if alpha < 1 else (largest[largest < 1] < 0.55).all()
