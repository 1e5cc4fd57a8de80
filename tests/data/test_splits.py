"""The split has exact sizes, is disjoint, stratified and nested, and equal on every machine."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from digitlab.core.errors import ConfigError
from digitlab.data.splits import split_counts, split_fingerprint, split_indices

# The class sizes of MNIST's training set; the order of the labels does not matter here.
MNIST_SIZES = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
LABELS = torch.repeat_interleave(torch.arange(10), torch.tensor(MNIST_SIZES))


def split(
    labels: Tensor = LABELS, *, val_size=5000, train_size=None, split_seed: int = 0, **fold: int
) -> tuple[Tensor, Tensor]:
    return split_indices(labels, val_size=val_size, train_size=train_size, split_seed=split_seed, **fold)


labels_of_any_classes = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(torch.tensor)


@given(labels=labels_of_any_classes, val=st.integers(0, 60), train=st.integers(1, 60), seed=st.integers(0, 2**64))
@settings(max_examples=200, deadline=None)
def test_sizes_are_exact_and_both_parts_are_disjoint(labels: Tensor, val: int, train: int, seed: int) -> None:
    try:
        train_indices, val_indices = split(labels, val_size=val, train_size=train, split_seed=seed)
    except ConfigError as error:
        assert error.key in ("val_size", "train_size")  # noqa: PT017 - a refusal is one of the two good ends
        return
    both = torch.cat([train_indices, val_indices])
    assert (len(train_indices), len(val_indices)) == (train, val)
    assert len(both.unique()) == train + val
    assert 0 <= int(both.min()) <= int(both.max()) < len(labels)
    assert set(labels[train_indices].tolist()) == set(labels.tolist())


def test_every_image_is_in_one_part_in_ascending_order() -> None:
    train, val = split()
    assert (train.dtype, val.dtype) == (torch.int64, torch.int64)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(60_000))
    assert torch.equal(train, train.sort().values)
    assert torch.equal(val, val.sort().values)


@pytest.mark.parametrize("val_size", [0, 1, 10, 4999, 5000, 0.25, 59_000])
@pytest.mark.parametrize("train_size", [None, 10, 777, 0.5])
def test_each_class_has_its_share_up_to_about_one_image(val_size, train_size) -> None:
    for indices in split(val_size=val_size, train_size=train_size):
        rank_indices = torch.tensor(MNIST_SIZES) * len(indices) / 60_000
        assert float((LABELS[indices].bincount(minlength=10) - rank_indices).abs().max()) < 2


def test_equal_classes_are_split_into_equal_parts() -> None:
    labels = torch.arange(10).repeat(5000)
    train, val = split(labels, train_size=1000)
    assert labels[val].bincount().tolist() == [500] * 10
    assert labels[train].bincount().tolist() == [100] * 10


def test_smaller_training_sets_are_subsets_and_validation_does_not_change() -> None:
    sizes = [10, 11, 100, 1001, 0.3, 30_000, 54_999, 55_000, None]
    splits = [split(train_size=size) for size in sizes]
    for (smaller, val), (larger, same) in itertools.pairwise(splits):
        assert set(smaller.tolist()) < set(larger.tolist()) or len(smaller) == len(larger) == 55_000
        assert torch.equal(val, same)


def test_the_default_split_never_changes() -> None:
    # All results so far use this split; if this number changes, later results cannot be compared with them.
    assert split_fingerprint(*split()) == "3549b34e6ea0de25"
    torch.manual_seed(3)
    np.random.seed(3)
    assert split_fingerprint(*split()) == split_fingerprint(*split(LABELS.to(torch.uint8)))


def test_another_seed_gives_another_split() -> None:
    assert len({split_fingerprint(*split(split_seed=seed)) for seed in range(20)}) == 20


def test_a_fraction_and_its_count_are_the_same_split() -> None:
    assert split_fingerprint(*split(val_size=0.1, train_size=0.25)) == split_fingerprint(
        *split(val_size=6000, train_size=13_500)
    )


def test_without_validation_all_images_are_for_training() -> None:
    for size in (0, 0.0):
        train, val = split(val_size=size)
        assert (len(train), val.shape, val.dtype) == (60_000, (0,), torch.int64)


@pytest.mark.parametrize("size", [-1, 59_991, 60_000, 1.0, -0.1, 5000.0, math.nan, math.inf, 0.99999])
def test_a_validation_set_out_of_range_is_refused_without_data(size: float) -> None:
    with pytest.raises(ConfigError, match=r"val_size=.*at least one image of each of the 10 classes") as caught:
        split_counts(60_000, classes=10, val_size=size, train_size=None)
    assert (caught.value.key, caught.value.value) == ("val_size", size)


@pytest.mark.parametrize("size", [0, 9, 55_001, 0.0, 1.5, -0.5, 1e-5, math.nan])
def test_a_training_set_out_of_range_is_refused_without_data(size: float) -> None:
    with pytest.raises(ConfigError, match=r"train_size=.*a count from 10 \(an image a class\) to 55000"):
        split_counts(60_000, classes=10, val_size=5000, train_size=size)


def test_train_size_may_be_all_remaining_images() -> None:
    for size in (None, 55_000, 1.0):
        assert split_counts(60_000, classes=10, val_size=5000, train_size=size) == (55_000, 5000)


def test_a_class_without_training_images_is_refused() -> None:
    labels = torch.tensor([0] * 99 + [7])
    with pytest.raises(ConfigError, match=r"val_size=0\.9: must leave at least one image of class 7"):
        split(labels, val_size=0.9)
    with pytest.raises(ConfigError, match="train_size=2: must leave at least one image of class 7"):
        split(labels, val_size=0, train_size=2)


@given(labels=labels_of_any_classes, folds=st.integers(2, 7), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_the_folds_of_any_set_are_disjoint_and_cover_it(labels: Tensor, folds: int, seed: int) -> None:
    held = []
    for fold in range(folds):
        try:
            train, val = split(labels, split_seed=seed, folds=folds, fold=fold)
        except ConfigError as error:
            assert error.key == "folds"  # noqa: PT017 - a class so rare that a fold takes all of it is refused
            return
        assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(len(labels)))
        held.append(val)
    assert torch.equal(torch.cat(held).sort().values, torch.arange(len(labels)))
    assert max(map(len, held)) - min(map(len, held)) <= 1


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_each_fold_is_stratified(folds: int) -> None:
    for labels in (LABELS, torch.arange(10).repeat(5000)):
        for fold in range(folds):
            _, val = split(labels, folds=folds, fold=fold)
            rank_indices = labels.bincount() / folds
            assert float((labels[val].bincount(minlength=10) - rank_indices).abs().max()) < 2


def test_val_size_and_fold_do_not_change_other_folds() -> None:
    assert split_fingerprint(*split(val_size=1, folds=5)) == split_fingerprint(*split(val_size=0.5, folds=5))
    assert split_counts(60_001, classes=10, val_size=1, train_size=None, folds=5, fold=4) == (48_000, 12_001)
    train, val = split(folds=5, fold=3, train_size=1000)
    assert (len(train), len(val)) == (1000, 12_000)
    assert not set(train.tolist()) & set(val.tolist())


@pytest.mark.parametrize(
    ("key", "settings_"),
    [("folds", {"folds": 1}), ("folds", {"folds": 60_001}), ("fold", {"folds": 5, "fold": 5}),
     ("val_size", {"folds": 5, "val_size": 0})],
)  # fmt: skip
def test_folds_out_of_range_are_refused_without_data(key: str, settings_: dict[str, int]) -> None:
    with pytest.raises(ConfigError) as caught:
        split_counts(60_000, **({"classes": 10, "val_size": 5000, "train_size": None} | settings_))
    assert caught.value.key == key


def test_a_fingerprint_depends_on_where_training_ends_and_validation_begins() -> None:
    left, right = (
        split_fingerprint(torch.tensor([1, 2]), torch.tensor([3])),
        split_fingerprint(torch.tensor([1]), torch.tensor([2, 3])),
    )
    assert left != right
    assert len(left) == 16
    assert int(left, 16) >= 0
