"""``digitlab explain`` and ``Run.explain``: what they print, draw, refuse and leave alone."""

import csv
import io

import pytest
import torch
from PIL import Image

import digitlab as lab
from digitlab.core import extras
from digitlab.explain.predictions import confident_mistakes


@pytest.fixture
def photo(tmp_path, lenet):
    """A test digit as a picture file, dark on light."""
    path = tmp_path / "photo.png"
    Image.fromarray(255 - lenet.data.test_set.images[0, 0].numpy()).resize((112, 112)).save(path)
    return path


def test_mistakes_are_those_of_the_tests_predictions_and_the_figure_shows_each_of_them(
    digitlab, lenet, lenet_folder, tmp_path
):
    code, out, err = digitlab("explain", lenet_folder, "--count", 2, "--out", tmp_path)
    assert (code, err) == (0, "")
    mistakes = confident_mistakes(lenet, count=2)
    for name, label in zip(mistakes.names, mistakes.labels, strict=True):
        number = int(name.removeprefix("test image "))
        (row,) = [line for line in out.splitlines() if f"{name} " in line]
        cells = [cell.strip() for cell in row.split("│")[1:-1]]
        assert int(lenet.data.test_set.labels[number]) == label
        assert cells[3] == str(label) != cells[1]
        assert len(cells[4].split(", ")) == 4
    assert out.splitlines()[-1] == str(tmp_path / "explain_predictions.png")
    with Image.open(tmp_path / "explain_predictions.png") as picture:
        picture.verify()


def test_own_pictures_get_the_prediction_of_digitlab_predict(digitlab, lenet_folder, photo, tmp_path):
    code, out, _ = digitlab("explain", lenet_folder, photo, "--out", tmp_path, "--format", "svg")
    assert code == 0
    _, table, _ = digitlab("predict", lenet_folder, photo, "--csv")
    (predicted,) = csv.DictReader(io.StringIO(table))
    (row,) = [line for line in out.splitlines() if "photo.png" in line]
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert (cells[1], cells[3]) == (predicted["class"], "")
    assert float(cells[2].strip("> %")) == pytest.approx(100 * float(predicted["confidence"]), abs=0.06)
    assert (tmp_path / "explain_predictions.svg").read_text().startswith("<?xml")


@pytest.mark.extra
def test_classes_layers_and_the_embedding_have_figures(digitlab, lenet_folder, tmp_path):
    what = [word for name in ("classes", "layers", "embedding") for word in ("--what", name)]
    code, out, err = digitlab("explain", lenet_folder, *what, "--points", 60, "--out", tmp_path)
    assert (code, err) == (0, "")
    names = [f"explain_{name}.png" for name in ("classes", "layers", "embedding")]
    assert out.splitlines() == [str(tmp_path / name) for name in names]
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_nothing_is_overwritten_without_force(digitlab, mlp_folder, tmp_path):
    path = tmp_path / "explain_predictions.png"
    path.write_text("mine")
    code, out, err = digitlab("explain", mlp_folder, "--out", tmp_path)
    assert (code, out, err) == (2, "", f"{path}: already exists: --force overwrites it\n")
    assert digitlab("explain", mlp_folder, "--out", tmp_path, "--count", 1, "--force")[0] == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_explained_is_refused_in_one_line(digitlab, mlp_folder, tmp_path):
    for words, expected, message in (
        (["--class", "seven"], 2, "--class=seven: must be one of 0, 1"),
        (["--what", "layers"], 1, "the network has no convolution"),
    ):
        code, out, err = digitlab("explain", mlp_folder, "--out", tmp_path, *words)
        assert (code, out, err.count("\n")) == (expected, "", 1)
        assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_extra(digitlab, mlp_folder, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    code, out, err = digitlab("explain", mlp_folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "digitlab explain: needs captum and scikit-learn: run pip install -e '.[explain]'" in err


def test_a_run_in_python_explains_images_and_mistakes(lenet_folder, lenet):
    run = lab.open(lenet_folder)
    images = lenet.data.test_set.images[:2]
    drawn = run.explain(images).axes[0]
    # The image, three maps and four training images for each.
    assert len(drawn.images) == 2 * 8
    shown = torch.from_numpy(drawn.images[8].get_array()[..., 0].copy())
    assert torch.equal(shown, images[1, 0])
    one = run.explain(count=1)
    assert len(one.axes[0].images) == 8
    assert one._repr_png_()[0].startswith(b"\x89PNG"), "a notebook shows a picture"
    with pytest.raises(lab.ConfigError, match=r"images=shape \(0, 1, 28, 28\): must have at least one image"):
        run.explain(images[:0])
