"""Properties that all augmentations share, alone and composed."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pydantic import ValidationError

from digitlab.data.augment import Affine, Augmentation, Blur, Compose, Cutout, Elastic, Flip, MixUp, Noise, Pen, Shift

CONF = Path(__file__).parents[2] / "conf" / "augment"
CLASSES = 10
ONE_IMAGE = [
    Shift(),
    Shift(fill="reflect"),
    Flip(),
    Affine(shear_degrees=10),
    Elastic(),
    Pen(),
    Blur(probability=1),
    Noise(),
    Cutout(fill=0.5),
]
EACH = pytest.mark.parametrize(
    "augmentation", [*ONE_IMAGE, MixUp(), Compose([*ONE_IMAGE, MixUp()])], ids=lambda each: type(each).__name__
)


def random_images(*shape, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def apply(augmentation, images, targets=None, *, seed=0, classes=CLASSES):
    targets = torch.arange(len(images)) % classes if targets is None else targets
    return augmentation(images, targets, classes=classes, generator=torch.Generator().manual_seed(seed))


def images_after(augmentation, images, *, seed=0):
    return apply(augmentation, images, seed=seed)[0]


def copies(count):
    return random_images(1, 3, 32, 32).repeat(count, 1, 1, 1)


@EACH
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 9, 14)], ids=str)
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shape_dtype_and_range_do_not_change(augmentation, shape, count, dtype):
    images = random_images(count, *shape, dtype=dtype).round(decimals=1)
    after, targets = apply(augmentation, images)
    assert (after.shape, after.dtype) == (images.shape, dtype)
    assert len(targets) == count
    assert 0 <= after.min() <= after.max() <= 1


@EACH
def test_rounding_never_exceeds_white(augmentation):
    assert images_after(augmentation, torch.ones(500, 1, 9, 14)).max() <= 1


@EACH
def test_a_batch_is_a_pure_function_of_the_generator(augmentation):
    images = random_images(16, 3, 32, 32)
    torch.testing.assert_close(apply(augmentation, images), apply(augmentation, images), rtol=0, atol=0)
    assert not torch.equal(images_after(augmentation, images), images_after(augmentation, images, seed=1))


@EACH
def test_the_global_random_state_and_the_input_do_not_change(augmentation):
    images, targets, state = random_images(4, 3, 32, 32), torch.arange(4), torch.get_rng_state()
    apply(augmentation, images, targets)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, random_images(4, 3, 32, 32))
    assert torch.equal(targets, torch.arange(4))


@pytest.mark.parametrize("augmentation", ONE_IMAGE, ids=repr)
def test_each_image_has_its_own_draw(augmentation):
    distinct = len(images_after(augmentation, copies(16)).unique(dim=0))
    assert distinct == 2 if isinstance(augmentation, Flip) else distinct >= 10


@pytest.mark.parametrize("augmentation", ONE_IMAGE, ids=repr)
def test_labels_do_not_change_unless_images_are_mixed(augmentation):
    targets = torch.tensor([3, 1, 2])
    assert torch.equal(apply(augmentation, random_images(3, 1, 28, 28), targets)[1], targets)


@pytest.mark.parametrize("augmentation", ONE_IMAGE, ids=repr)
def test_every_position_in_the_batch_depends_on_the_seed(augmentation):
    outcomes = torch.stack([images_after(augmentation, copies(2), seed=seed) for seed in range(12)])
    assert len(outcomes[:, 0].unique(dim=0)) > 1
    assert len(outcomes[:, 1].unique(dim=0)) > 1
    assert not torch.equal(outcomes[:, 0], outcomes[:, 1])


def test_an_empty_composition_is_the_identity():
    images, targets = random_images(3, 1, 5, 5), torch.arange(3)
    after = apply(Compose(), images, targets)
    assert after[0] is images
    assert after[1] is targets
    assert not Compose()


def test_the_order_of_a_composition_does_not_depend_on_the_list():
    images, listed = random_images(6, 3, 32, 32), [MixUp(), *ONE_IMAGE[1:]]
    torch.testing.assert_close(apply(Compose(listed), images), apply(Compose(listed[::-1]), images), rtol=0, atol=0)
    names = [type(each).__name__ for each in Compose(listed[::-1]).augmentations]
    assert names == ["Affine", "Elastic", "Flip", "Pen", "Shift", "Blur", "Noise", "Cutout", "MixUp"]


def test_a_users_augmentation_needs_only_a_call_method():
    class Negative(Augmentation):
        def __call__(self, images, targets, *, classes, generator):
            return 1 - images, targets

    images = random_images(2, 1, 4, 4)
    assert torch.equal(images_after(Compose([Flip(probability=1), Negative()]), images), 1 - images.flip(3))


@pytest.mark.parametrize(
    ("augmentation", "setting", "value"),
    [
        (Shift, "padding", 0),
        (Shift, "padding", 1.5),
        (Shift, "fill", "white"),
        (Flip, "probability", 1.01),
        (Affine, "degrees", -1),
        (Affine, "scale", [1.1, 0.9]),
        (Affine, "scale", [1.0]),
        (Affine, "scale", [0, 1]),
        (Affine, "scale", 1.0),
        (Affine, "shear_degrees", 90),
        (Elastic, "alpha_pixels", -1),
        (Elastic, "sigma_pixels", 0),
        (Blur, "sigma_pixels", "01"),
        (Blur, "probability", True),
        (Noise, "std", float("nan")),
        (Cutout, "size_pixels", 0),
        (Cutout, "fill", 2),
        (MixUp, "alpha", 0),
        (MixUp, "aplha", 1.0),
    ],
)
def test_a_bad_setting_is_refused_by_name(augmentation, setting, value):
    with pytest.raises(ValidationError) as refused:
        augmentation(**{setting: value})
    assert refused.value.errors()[0]["loc"][0] == setting


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_names_every_setting_and_its_default(path):
    nodes = OmegaConf.load(path)
    assert list(nodes) == ([] if path.stem == "none" else [path.stem])
    for node in nodes.values():
        augmentation = instantiate(node, _convert_="all")
        assert augmentation == type(augmentation)()
        assert set(node) == {"_target_", *(field.name for field in fields(augmentation))}
