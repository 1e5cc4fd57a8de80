"""Images and labels of the user's own: the forms that they may have, mistakes, and the files that they become."""

import numpy as np
import pytest
import torch

import digitlab
from digitlab.api.own_arrays import as_images
from digitlab.api.own_data import own_data
from digitlab.api.own_labels import as_labels, label_names
from digitlab.data.idx import read_idx

PIXELS = np.zeros((6, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (np.zeros((5, 8, 9), np.uint8), (5, 1, 8, 9)),
        (np.zeros((5, 3, 8, 9), np.uint8), (5, 3, 8, 9)),
        (np.zeros((5, 8, 9, 3), np.float64), (5, 3, 8, 9)),
        (torch.zeros(5, 8, 9, 1), (5, 1, 8, 9)),
        ([np.zeros((8, 9), bool)] * 5, (5, 1, 8, 9)),
    ],
)
def test_images_of_any_usual_shape_become_bytes(images, shape):
    assert as_images(images, "data").shape == shape
    assert as_images(images, "data").dtype == torch.uint8


def test_channels_and_values_keep_their_places():
    floats = np.random.default_rng(0).random((2, 6, 5, 3))
    found = as_images(floats, "data")
    assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), np.rint(floats * 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((6, 64)), r"write images.reshape\(-1, 8, 8\)"),
        (np.zeros(6), "must have shape"),
        (np.full((6, 8, 8), 16.0), r"images from 16 to 16: floats must lie in \[0, 1\]: divide them by 16"),
        (np.full((6, 8, 8), -0.5), "shift and scale"),
        (np.full((6, 8, 8), np.nan), "images with nan"),
        (np.full((6, 8, 8), np.inf), "images with inf"),
        (np.zeros((6, 8, 8), int), r"images of int64.*astype\(\"uint8\"\)"),
        ([np.zeros((8, 8)), np.zeros((8, 9))], "must all have the same shape"),
        (np.array(["a", "b"]), "holds no images"),
    ],
)
def test_images_that_cannot_be_used_are_refused(images, message):
    with pytest.raises(digitlab.ConfigError, match=message):
        as_images(images, "data")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.0, 1.0, 2.0] * 2, r"labels of float64.*write labels.astype\(int\)"),
        (np.eye(6, 3), r"write labels.argmax\(1\)"),
        ([1, 2, 3] * 2, "labels from 1 to 3.*subtract 1 from each"),
        ([0, 1, 5] * 2, "without a gap"),
        ([-1, 0, 1] * 2, "without a gap"),
        ([0] * 6, "there must be from 2 to 256 classes"),
        ([0, 1] * 2, "6 images and 4 labels: each image needs one label"),
        ([0, 0, 0, 0, 1, 1], "class 1: each class needs 3 images or more.*it has 2"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(labels, message, tmp_path):
    with pytest.raises(digitlab.ConfigError, match=message):
        own_data((PIXELS, labels), None, None, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_texts_name_the_classes_and_names_may_be_given():
    assert as_labels(["cat", "dog"], "data") == ["cat", "dog"]
    assert label_names([["dog", "cat", "dog"]], None) == ["cat", "dog"]
    assert label_names([torch.tensor([0, 2])], ["a", "b", "c"]) == ["a", "b", "c"]
    with pytest.raises(digitlab.ConfigError, match="label dog: is not among class_names"):
        label_names([["dog"]], ["cat", "cow"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((PIXELS,), "must be a pair"),
        (7, "must be a pair"),
        (torch.utils.data.DataLoader([1]), "pass loader.dataset"),
        ([PIXELS, [0, 1] * 3, 3], "3 items"),
        (torch.utils.data.TensorDataset(torch.zeros(3, 8, 8)), r"each item must be \(image, label\)"),
    ],
)
def test_data_of_another_kind_is_refused(data, message, tmp_path):
    with pytest.raises(digitlab.ConfigError, match=message):
        own_data(data, None, None, root=tmp_path)


def test_the_same_images_are_written_once(tmp_path):
    labels = [0, 1] * 3
    nodes = [own_data((PIXELS, labels), None, None, root=tmp_path) for _ in range(2)]
    assert nodes[0] == nodes[1]
    assert len(list((tmp_path / "own").iterdir())) == 1
    folder = nodes[0]["source"]["train_images"].split("/")[-2]
    assert read_idx(tmp_path / "own" / folder / "train-labels").tolist().count(0) == 2
