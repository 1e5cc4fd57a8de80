"""The network of the standard library: its parts work, and it learns what the NumPy network learns."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest

from digitlab.data import sources
from digitlab.data.idx import read_idx
from digitlab.reproduce.scratch import pure
from digitlab.reproduce.scratch.network import Dense, Network, train

MNIST = Path(sources.__file__).parent / "mnist"
IMAGES, LABELS = MNIST / "t10k-images-idx3-ubyte.gz", MNIST / "t10k-labels-idx1-ubyte.gz"


@pytest.fixture(scope="module")
def read():
    return pure.read_images(IMAGES), pure.read_labels(LABELS)


@pytest.fixture(scope="module")
def digits(read):
    return [pure.normalise(*each) for each in zip(*read, strict=True)][:600]


def dense(digits):
    images = np.zeros((len(digits), pure.PIXELS))
    for row, digit in zip(images, digits, strict=True):
        row[list(digit.positions)] = digit.values
    return images, np.array([digit.label for digit in digits])


def test_only_the_standard_library_is_imported():
    modules = {value.__name__ for value in vars(pure).values() if type(value) is type(sys)}
    classes = {value.__module__ for value in vars(pure).values() if hasattr(value, "__module__")}
    roots = {name.partition(".")[0] for name in modules | classes if name and name != pure.__name__}
    assert roots <= sys.stdlib_module_names


def test_files_are_read_byte_for_byte(read):
    images, labels = read
    assert b"".join(images) == read_idx(IMAGES).numpy().tobytes()
    assert labels == read_idx(LABELS).tolist()


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x00\x0d\x01\x00\x00\x00\x00", b"\x00\x00\x08\x01\x00\x00\x00\x02\x01"], ids=repr
)
def test_files_without_labels_or_images_are_refused(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    for reader in (pure.read_images, pure.read_labels):
        with pytest.raises(ValueError, match="file: "):
            reader(path)
    with pytest.raises(ValueError, match="must hold labels"):
        pure.read_labels(IMAGES)


def test_normalising_leaves_out_only_black_pixels(read):
    pixels = read[0][0]
    digit = pure.normalise(pixels, 7)
    found = dict(zip(digit.positions, digit.values, strict=True))
    assert [found.get(place, 0) * 255 for place in range(pure.PIXELS)] == pytest.approx(list(pixels))


def test_batches_hold_every_digit_once_in_a_new_order_each_epoch(digits):
    generator = random.Random(0)
    epochs = [list(pure.shuffled_batches(digits, batch_size=70, generator=generator)) for _ in range(2)]
    for batches in epochs:
        assert [len(batch) for batch in batches] == [70] * 8 + [40]
        assert sorted(id(digit) for batch in batches for digit in batch) == sorted(map(id, digits))
    assert epochs[0] != epochs[1]


def test_updates_give_the_weights_of_the_numpy_network(digits):
    layer, generator = pure.new_layer(4), random.Random(4)
    begun = Dense(np.array(layer.weights).T.copy(), np.array(layer.biases), "linear")
    network, (images, labels) = Network([begun], loss="mse"), dense(digits)
    number = {id(digit): place for place, digit in enumerate(digits)}
    batches = list(pure.shuffled_batches(digits, batch_size=50, generator=generator))
    for batch in batches:
        pure.update(layer, batch, step_size=0.1)
    train(
        network, images, labels, batches=[np.array([number[id(each)] for each in batch]) for batch in batches], lr=0.1
    )
    np.testing.assert_allclose(np.array(layer.weights).T, network.layers[0].weights, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(layer.biases, network.layers[0].bias, rtol=1e-10)
    found = pure.evaluate(layer, digits)
    assert found.cost == pytest.approx(network.cost(images, labels))
    assert found.accuracy == pytest.approx(float(np.mean(network(images).argmax(1) == labels)))


@pytest.mark.extra
def test_the_most_accurate_layer_is_kept(digits):
    # At this learning rate the accuracy fluctuates, so that the last layer is not the best one.
    learnt = pure.learn(digits[:300], digits[300:], epochs=2, batch_size=20, step_size=0.25, seed=0)
    assert [each.step for each in learnt.history] == list(range(1, 31))
    assert learnt.best.accuracy == max(each.accuracy for each in learnt.history) > learnt.history[-1].accuracy
    assert pure.evaluate(learnt.layer, digits[300:], step=learnt.best.step) == learnt.best


def test_pictures_mark_right_and_wrong_predictions(read):
    images, labels = (each[:4] for each in read)
    grid = pure.plot_grid(images, labels, [labels[0], 9 - labels[1], *labels[2:]], columns=2).split("\n")
    assert len(grid) == 2 * (1 + pure.SIDE // 2)
    assert grid[0].split("  ")[0] == "7 ✓"
    assert f"2 ✗ read as {9 - 2}" in grid[0]
    column = pure.plot_images(images[:1], labels[:1]).splitlines()
    assert (column[0].strip(), len(column)) == ("7", 1 + pure.SIDE // 2)
    assert {"█", " "} <= set("".join(column[1:]))
