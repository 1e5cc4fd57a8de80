"""The data module: its split, mean and standard deviation, and the images that its loaders yield."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from digitlab.config.compose import ROOT, build, compose, plain
from digitlab.core.errors import ConfigError
from digitlab.data.chunks import ChunkPlan, Position
from digitlab.data.deskew import deskew
from digitlab.data.module import ImageData
from digitlab.data.source import ImageSet, Source

SETTINGS = {
    "root": "nowhere",
    "batch_size": 8,
    "val_size": 20,
    "train_size": None,
    "split_seed": 0,
    "normalize": "standard",
}


class Colours(Source):
    """Two channels of noise with different brightness and a constant one; counts how often the set is read."""

    name, title, class_names = "colours", "Colours", ("a", "b")
    image_shape = (3, 4, 5)
    train_count = 120

    def __init__(self):
        self.reads = 0

    def prepare(self, root: Path):
        pass

    def read(self, root: Path):
        self.reads += 1
        generator = torch.Generator().manual_seed(0)
        pixels = torch.stack(
            [torch.randint(low, high, (150, 4, 5), generator=generator) for low, high in self.ranges], 1
        )
        images, labels = pixels.to(torch.uint8), torch.arange(150) % 2
        # Bright, so that test images would change the mean if they were counted.
        images[120:] = 255
        return ImageSet(images[:120], labels[:120]), ImageSet(images[120:], labels[120:])

    ranges = ((0, 50), (100, 256), (77, 78))


def module(**changed):
    data = ImageData(**(SETTINGS | {"source": Colours()} | changed))
    data.setup()
    return data


def composed(*overrides):
    data = build(plain(compose(overrides).data, "data"), "data", ImageData)
    data.prepare_data()
    data.setup()
    return data


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("name", "counts"),
    [("mnist", (55_000, 5000, 10_000)), ("fashion_mnist", (55_000, 5000, 10_000)), ("cifar10", (45_000, 5000, 10_000))],
)
def test_the_three_data_sets_have_the_documented_splits(request, name, counts):
    root = [] if name == "mnist" else [f"data.root={request.getfixturevalue('data_root')}"]
    data = composed(f"data={name}", *root)
    train, val = data.train_indices, data.val_indices
    assert (len(train), len(val), len(data.test_set.labels)) == counts
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(sum(counts[:2])))
    # After normalisation, each channel of the training split has mean 0 and standard deviation 1.
    pixels = data.train_set.images[train].transpose(0, 1).flatten(1)
    assert torch.tensor(data.mean) * 255 == pytest.approx(torch.stack([each.double().mean() for each in pixels]))
    assert torch.tensor(data.std) * 255 == pytest.approx(
        torch.stack([each.double().std(correction=0) for each in pixels])
    )


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_each_configured_data_set_can_be_built_and_split(path, request):
    own = [f"data.path={request.getfixturevalue('pictures')}"] if path.stem == "folder" else []
    build(plain(compose([f"data={path.stem}", *own]).data, "data"), "data", ImageData).check_sizes()


def test_mean_and_deviation_come_from_the_training_split_only():
    data = module(val_size=60)
    pixels = data.train_set.images[data.train_indices].double() / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert data.std[:2] == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist()[:2])
    everything = data.train_set.images.double() / 255
    assert data.mean[:2] != pytest.approx(everything.mean((0, 2, 3)).tolist()[:2])


def test_a_constant_channel_is_not_divided_by_zero():
    data = module()
    assert data.mean[2] == pytest.approx(77 / 255)
    assert data.std[2] == 1


def test_deskewing_changes_the_images_of_both_sets_and_neither_labels_nor_split():
    plain, upright = module(), module(deskew=True)
    for name in ("train_set", "test_set"):
        before, after = getattr(plain, name), getattr(upright, name)
        assert torch.equal(after.images, deskew(before.images))
        assert torch.equal(after.labels, before.labels)
    assert upright.split_fingerprint == plain.split_fingerprint
    assert upright.mean != plain.mean


def test_the_validation_sets_of_all_folds_cover_the_images_once():
    held = [module(folds=3, fold=fold).val_indices for fold in range(3)]
    assert torch.equal(torch.cat(held).sort().values, torch.arange(120))
    with pytest.raises(ConfigError, match="fold=3"):
        ImageData(**(SETTINGS | {"source": Colours(), "folds": 3, "fold": 3})).check_sizes()


def test_unit_normalisation_keeps_pixels_between_0_and_1():
    data = module(normalize="unit")
    assert (data.mean, data.std) == ([0.0] * 3, [1.0] * 3)


def test_the_split_depends_only_on_its_own_seed():
    fingerprints = []
    for split_seed in (0, 0, 1):
        torch.manual_seed(len(fingerprints))
        fingerprints.append(module(split_seed=split_seed).split_fingerprint)
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        ({"val_size": 0}, (120, 0)),
        ({"val_size": 0.25}, (90, 30)),
        ({"train_size": 10}, (10, 20)),
        ({"train_size": 0.5}, (50, 20)),
    ],
)
def test_sizes_are_counts_or_fractions(sizes, counts):
    data = module(**sizes)
    assert (len(data.train_indices), len(data.val_indices)) == counts
    assert len(data.test_set.labels) == 30


def test_sizes_that_do_not_fit_are_refused_before_anything_is_read():
    source = Colours()
    data = ImageData(**(SETTINGS | {"source": source, "val_size": 120}))
    with pytest.raises(ConfigError, match="val_size=120"):
        data.check_sizes()
    assert source.reads == 0


@pytest.mark.parametrize(
    "bad", [{"batch_size": 0}, {"val_size": -1}, {"val_size": 1.5}, {"train_size": 0}, {"normalize": "minmax"}], ids=str
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        ImageData(**(SETTINGS | {"source": Colours()} | bad))


def test_the_set_is_read_once_and_never_copied():
    data = module()
    address = data.train_set.images.data_ptr()
    for stage in ("fit", "validate", "test"):
        data.setup(stage)
    data.to(torch.device("cpu"))
    loader = data.chunks(ChunkPlan(seed=0, batch_size=8, chunk_length=4), Position())
    assert data.source.reads == 1
    assert {chunk.images.images.data_ptr() for chunk in loader} == {address}
    assert data.train_set.images.dtype == torch.uint8


def test_each_loader_yields_the_images_of_its_own_split():
    data = module()
    chunks = data.chunks(ChunkPlan(seed=0, batch_size=8, chunk_length=4), Position())
    trained = torch.cat([index for chunk in chunks for index in chunk.indices])
    assert torch.equal(trained.sort().values, data.train_indices)
    validated = torch.cat([batch.images for batch in data.val_dataloader()])
    assert torch.equal(validated, data.train_set.images[data.val_indices])
    tested = torch.cat([batch.images for batch in data.test_dataloader()])
    assert torch.equal(tested, data.test_set.images)


def test_limits_of_evaluation_count_mini_batches_of_the_batch_size():
    data = module()
    data.set_limits(limit_val_batches=2, limit_test_batches=3)
    assert sum(len(batch.labels) for batch in data.val_dataloader()) == 2 * 8
    assert sum(len(batch.labels) for batch in data.test_dataloader()) == 3 * 8


def test_overfitting_validates_on_its_training_images():
    data = ImageData(**(SETTINGS | {"source": Colours()}))
    data.set_limits(overfit_batches=2)
    data.setup()
    assert len(data.train_indices) == 2 * 8
    assert torch.equal(data.train_indices, data.val_indices)
