"""Wrong arguments of the Python functions: one line names the argument, the value, and what the user probably means."""

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import digitlab
from digitlab.api.inputs import as_pixels
from digitlab.api.own_arrays import as_images
from digitlab.api.own_data import own_data
from fixtures.facts import MNIST_FACTS

IMAGES, LABELS = np.zeros((6, 8, 8), np.uint8), [0, 1] * 3


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (digitlab.train, {"lr": 0.1}, r'lr=0.1: digitlab.train has no such argument; .*\("optimizer.lr=0.1"\)'),
        (digitlab.train, {"epochs": 3}, r'settings are texts: digitlab.train\("trainer.max_epochs=3"\)'),
        (digitlab.train, {"seed": 1}, r'digitlab.train\("seed=1"\)'),
        (digitlab.train, {"overrides": ["seed=1"]}, r"overrides=<list>: .*digitlab.train\(\*overrides\)"),
        (digitlab.train, {"modle": "mlp"}, "modle=mlp: .*did you mean `model`"),
        (digitlab.sweep, {"seed": [0, 1]}, r'seed=<list>: .*digitlab.sweep\("seed=0,1"\)'),
        (digitlab.sweep, {"lr": (0.1, 0.01)}, r'digitlab.sweep\("optimizer.lr=0.1,0.01"\)'),
        (digitlab.sweep, {"folder": "x"}, "folder=x: digitlab.sweep has no such argument; it has model, data"),
        (digitlab.resume, {"folder": "x", "epochs": 5}, "epochs=5: digitlab.resume has .*did you mean `max_epochs`"),
        (digitlab.load, {"folder": "x", "which": "last"}, "which=last: .* it has folder, checkpoint, model"),
        (digitlab.compare_runs, {"keys": "optimizer"}, "keys=optimizer: .*did you mean `key`"),
    ],
)
def test_an_unknown_argument_says_how_to_write_it(function, arguments, message):
    with pytest.raises(TypeError, match=message):
        function(**arguments)


@pytest.mark.parametrize(
    ("method", "arguments", "named", "message"),
    [
        (digitlab.Run.figure, (), {}, "Run.figure: missing a required argument: 'name'; its arguments are name$"),
        (digitlab.Run.stop, (1,), {}, "Run.stop: too many positional arguments; its arguments are none$"),
        (digitlab.Run.evaluate, (), {"data": "mnist"}, "data=mnist: Run.evaluate has no such argument; it has checkpo"),
        (digitlab.Run.explain, (), {"counts": 3}, "counts=3: Run.explain has no such.*did you mean `count`"),
        (digitlab.Sweep.compare, (), {"keys": "seed"}, "keys=seed: Sweep.compare has no such.*did you mean `key`"),
        (digitlab.resume, ("trainer.max_epochs=5",), {}, "digitlab.resume: too many positional .* are folder, max_ep"),
    ],
)
def test_a_method_says_which_arguments_it_has(method, arguments, named, message):
    with pytest.raises(TypeError, match=message):
        method("run", *arguments, **named)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: digitlab.train({"model": "mlp"}), "<dict>: overrides are texts"),
        (lambda folder: digitlab.train(["model=mlp"]), r"<list>: overrides are texts.*put a \* before the list"),
        (lambda folder: digitlab.train(folder=5), "folder=5: must be a path"),
        (lambda folder: digitlab.train("hydra.run.dir=a", folder="b"), "folder=b: can't be given .*hydra.run.dir="),
        (lambda folder: digitlab.sweep("sweep.name=a", name="b"), "name=b: can't be given .*sweep.name="),
        (lambda folder: digitlab.allow(5), "package=5: must be the name of a package"),
        (lambda folder: digitlab.allow("my-lab"), "package=my-lab: must be the name of a package"),
        (lambda folder: digitlab.train(stopper="x"), r"stopper=x: must be a digitlab.Stopper\(\)"),
        (lambda folder: digitlab.resume(None), "folder=null: must be a path"),
        (lambda folder: digitlab.resume(""), "folder='': must be a path"),
        (lambda folder: digitlab.resume(folder), "resume=.*: is no run folder"),
        (lambda folder: digitlab.open(["a"]), "folder=<list>: must be a path"),
        (lambda folder: digitlab.open(folder / "x"), "there is no such folder"),
        (lambda folder: digitlab.load(3), "folder=3: must be a path"),
        (lambda folder: digitlab.Sweep(3), "folder=3: must be a path"),
        (lambda folder: digitlab.Sweep(folder / "x"), "folder=.*: there is no such folder"),
        (lambda folder: digitlab.load(folder), "folder=.*: is no run folder"),
        (lambda folder: digitlab.open("x" * 300), "folder=x*: is no path: File name too long"),
        (lambda folder: digitlab.resume("a\0b"), r"folder=a\\x00b: is no path: embedded null byte"),
        (lambda folder: digitlab.compare_runs(folder, where=5), "where=5: must be a dict, or a list of texts"),
        (lambda folder: digitlab.compare_runs(folder, metric=5), "metric=5: must be a text, such as val/accuracy"),
        (lambda folder: digitlab.runs(folder / "x"), "root=.*: there is no such folder"),
        (lambda folder: digitlab.compare_runs(folder, 5), "runs=5: must be a path"),
        (lambda folder: digitlab.compare_runs(folder / "x", folder), "runs=.*: there is no such folder"),
        (lambda folder: digitlab.compare_runs(folder, where=[5]), "where=5: must be a text"),
        (lambda folder: digitlab.runs(folder / "file"), "root=.*: is a file: give a folder"),
        (lambda folder: digitlab.Sweep(folder), "folder=.*: is no sweep"),
        (lambda folder: digitlab.compare_runs(folder, where={"model": 5, "": 1}), "where==1: must be KEY=VALUE"),
        (lambda folder: digitlab.train("-m"), r"-m: is an option of the command; use digitlab.sweep\(...\)"),
        (lambda folder: digitlab.train("--help"), "--help: is an option of the command; Python functions have"),
        (lambda folder: digitlab.compare_runs(folder, where="optimizer"), "where=optimizer: must be KEY=VALUE"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(call, message, tmp_path, one_line):
    (tmp_path / "file").touch()
    with pytest.raises(digitlab.ConfigError, match=message) as raised:
        call(tmp_path)
    assert one_line(str(raised.value))


def test_the_package_knows_its_version():
    assert digitlab.__version__ == importlib.metadata.version("digitlab")


class Pictures(torch.utils.data.Dataset):
    """A data set of a user; ``items`` are its items."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (list(zip(IMAGES, LABELS, strict=True)), r"6 items: must be a pair.*images, labels = zip\(\*data\)"),
        ({"images": IMAGES, "labels": LABELS}, "<dict>: must be a pair"),
        (Path("pictures"), "data=folder data.path=pictures"),
        ((iter(IMAGES), LABELS), r"holds no images: an iterator can be read only once: pass list\(images\)"),
        ((IMAGES, iter(LABELS)), r"can be read only once: pass list\(labels\)"),
        ((["a.png"] * 6, LABELS), "holds no images: for files of pictures write data=folder data.path=FOLDER"),
        ((IMAGES.astype(np.uint16) + 300, LABELS), r"images of uint16 from 300 to 300: .*\(images / 300\).astype"),
        ((IMAGES.astype(int) - 1, LABELS), "images of int64 from -1 to -1: .*shift and scale"),
        ((IMAGES.astype(complex), LABELS), "images of complex128: must be uint8 or floats"),
        ((IMAGES, [True, False] * 3), r"labels of bool: .*write labels.astype\(int\)"),
        ((IMAGES, [0.0, np.nan] * 3), "label nan: image 1 has no label"),
        ((IMAGES, ["a", None] * 3), "label None: image 1 has no label"),
        ((IMAGES, [[0], [1, 2]] * 3), "must be one number each"),
        (Pictures([{"image": image, "label": 0} for image in IMAGES]), r"each item must be .*a dict of image, label"),
        (Pictures([]), "0 images: must have images"),
        (zip(IMAGES, LABELS, strict=True), r"data=<zip>: .*images, labels = zip\(\*data\)"),
        ((IMAGES[:, :0], LABELS), "images 6×0×8: must have at least one pixel"),
        ((IMAGES, [[0], [1]] * 3), r"labels \(6, 1\): .*write labels.reshape\(-1\)"),
    ],
)
def test_other_data_says_what_to_pass(data, message, tmp_path, one_line):
    with pytest.raises(digitlab.ConfigError, match=message) as raised:
        own_data(data, None, None, root=tmp_path)
    assert one_line(str(raised.value))


def test_a_data_frame_says_how_to_turn_it_into_images(tmp_path):
    frame = pytest.importorskip("pandas").DataFrame(IMAGES.reshape(6, 64))
    with pytest.raises(digitlab.ConfigError, match="<DataFrame>: must be a pair"):
        own_data(frame, None, None, root=tmp_path)
    with pytest.raises(digitlab.ConfigError, match=r"write images.to_numpy\(\).reshape\(-1, 8, 8\)"):
        own_data((frame, LABELS), None, None, root=tmp_path)


@pytest.mark.parametrize("names", ["ab", 5, {"a": 0, "b": 1}, ["a", None], ["", "b"]])
def test_class_names_are_a_list_of_texts(names, tmp_path):
    with pytest.raises(digitlab.ConfigError, match=r"class_names=.*: must be a list of texts"):
        own_data((IMAGES, LABELS), None, names, root=tmp_path)


def test_labels_of_a_data_set_may_be_texts(tmp_path):
    items = [(image, "ab"[label]) for image, label in zip(IMAGES, LABELS, strict=True)]
    assert own_data(Pictures(items), None, None, root=tmp_path)["source"]["class_names"] == ["a", "b"]


def test_pictures_of_pil_are_images():
    pictures = [Image.fromarray(image) for image in IMAGES]
    assert torch.equal(as_images(pictures, "data"), as_images(IMAGES, "data"))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], r"images=\[\]: must have at least one image"),
        (None, "images=<NoneType>: must be a path, a picture of PIL, an array"),
        ({"a": 1}, "images=<dict>: must be a path"),
        (5, "images=<int>: must be a path"),
        (np.zeros((28, 28, 3)), r"images=shape \(28, 28, 3\): must have shape \(1, 28, 28\)"),
        ([np.zeros((28, 28)), np.zeros((27, 28))], "must all have the same shape"),
        (np.full((28, 28), np.nan), "images=nan: every pixel must be a number"),
        (np.zeros((28, 28), int), r"images=int64: .*write images.astype\(\"uint8\"\)"),
    ],
)
def test_images_for_a_prediction_are_refused_in_one_line(images, message, one_line):
    with pytest.raises(digitlab.ConfigError, match=message) as raised:
        as_pixels(images, facts=MNIST_FACTS, deskewed=False)
    assert one_line(str(raised.value))


@pytest.mark.parametrize(
    ("images", "message"), [("a\0b", r"^a\\x00b: no such file"), (Image.new("L", (0, 0)), "has no pixels")]
)
def test_a_picture_without_a_file_or_pixels_is_refused(images, message):
    with pytest.raises(digitlab.DataError, match=message):
        as_pixels(images, facts=MNIST_FACTS, deskewed=False)


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(digitlab.DataError, match="is a folder: give the pictures in it"):
        as_pixels(tmp_path, facts=MNIST_FACTS, deskewed=False)


def test_bytes_and_floats_in_one_list_have_the_same_range(tmp_path):
    picture = np.zeros((28, 28), np.uint8)
    picture[8:20, 12:15] = 255
    Image.fromarray(picture).save(tmp_path / "1.png")
    path, array = tmp_path / "1.png", picture / 255.0
    pixels = as_pixels([path, array], facts=MNIST_FACTS, deskewed=False)
    assert pixels.shape == (2, 1, 28, 28)
    assert pixels[0].max() == pixels[1].max() == 1
