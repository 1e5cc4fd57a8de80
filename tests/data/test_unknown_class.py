"""The additional class "none": how many images it has and what they are; the other images do not change."""

from pathlib import Path

import pytest
import torch

from digitlab.core.errors import ConfigError
from digitlab.data.source import ImageSet, Source
from digitlab.data.unknown_class import UnknownClassSource


class Tiny(Source):
    """``count`` random images of a given shape in two classes; records whether it was prepared."""

    def __init__(self, name: str, shape: tuple[int, int, int], count: int) -> None:
        self.name, self.title, self.class_names = name, name.title(), ("a", "b")
        self.shape, self.count, self.prepared = shape, count, False

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.shape

    @property
    def train_count(self) -> int:
        return self.count

    def prepare(self, root: Path) -> None:
        self.prepared = True

    def read(self, root: Path) -> tuple[ImageSet, ImageSet]:
        images = torch.randint(256, (self.count, *self.shape), generator=torch.Generator().manual_seed(0))
        whole = ImageSet(images.to(torch.uint8), torch.arange(self.count) % 2)
        return whole, ImageSet(whole.images[:3], whole.labels[:3])


@pytest.fixture
def source() -> UnknownClassSource:
    return UnknownClassSource(
        known=Tiny("known", (1, 8, 9), 20), other=Tiny("other", (3, 12, 12), 10), other_count=7, noise_count=400
    )


def test_it_has_one_more_class_and_the_documented_images(source: UnknownClassSource) -> None:
    train, test = source.read(Path())
    assert (source.class_names, source.image_shape, source.train_count) == (("a", "b", "none"), (1, 8, 9), 427)
    assert (source.name, source.title) == ("known_none", "Known and none of it")
    assert (train.images.shape, train.images.dtype) == ((427, 1, 8, 9), torch.uint8)
    assert train.labels.bincount().tolist() == [10, 10, 407]
    assert test.labels.max() < 2


def test_the_known_images_and_the_test_set_do_not_change(source: UnknownClassSource) -> None:
    for ours, theirs in zip(source.read(Path()), source.known.read(Path()), strict=True):
        assert torch.equal(ours.images[: len(theirs.images)], theirs.images)
        assert torch.equal(ours.labels[: len(theirs.labels)], theirs.labels)


def test_noise_is_uniform_and_equal_on_every_read(source: UnknownClassSource) -> None:
    noise = source.read(Path())[0].images[27:]
    assert abs(noise.double().mean() - 127.5) < 2
    assert len(noise.unique(dim=0)) == 400
    torch.manual_seed(5)
    assert torch.equal(noise, source.read(Path())[0].images[27:])


def test_both_sets_are_prepared(source: UnknownClassSource) -> None:
    source.prepare(Path())
    assert source.known.prepared
    assert source.other.prepared


def test_more_images_than_the_other_set_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"other_count=11: must be at most 10, as Other has"):
        UnknownClassSource(
            known=Tiny("known", (1, 8, 9), 20), other=Tiny("other", (1, 8, 9), 10), other_count=11, noise_count=0
        )
