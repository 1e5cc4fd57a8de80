"""Which test images are on a page, how they are packed, and what the page says about those that are left out."""

import base64
import html
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from digitlab.data.sources import MnistSource
from digitlab.report import images
from digitlab.report.gather import write_report
from digitlab.report.images import _packed, _sprite, choose_images


@pytest.fixture
def scores():
    """Probabilities of two runs for 300 images and five classes, and the labels."""
    random = np.random.default_rng(0)
    labels = random.integers(5, size=300)
    logits = random.normal(size=(2, 300, 5)) + 1.5 * np.eye(5)[labels]
    return (np.exp(logits) / np.exp(logits).sum(2, keepdims=True)).astype(np.float32), labels


def cell_of(scores, labels, truth, predicted):
    """The images of a cell of one run, in the order in which the page should take them."""
    inside = [i for i in range(len(labels)) if labels[i] == truth and scores[i].argmax() == predicted]
    sign = 1 if truth == predicted else -1
    return sorted(inside, key=lambda i: sign * scores[i].max())


def test_each_cell_of_each_run_has_its_first_images_on_the_page(scores):
    values, labels = scores
    chosen = set(choose_images(values, labels, most=150).tolist())
    cells = [cell_of(own, labels, t, p) for own in values for t in range(5) for p in range(5)]
    firsts = {cell[0] for cell in cells if cell}
    assert len(chosen) == 150
    assert firsts <= chosen
    # A later image of a cell is there only if all earlier images of some cell that contains it are.
    for number in chosen - firsts:
        before = [cell[: cell.index(number)] for cell in cells if number in cell]
        assert any(set(earlier) <= chosen for earlier in before)
    assert choose_images(values, labels, most=1000).tolist() == list(range(300))


def test_predictions_are_packed_as_three_classes_and_their_probabilities(scores):
    values, _ = scores
    packed = np.frombuffer(base64.b64decode(_packed(values)), np.uint8).reshape(2, 300, 6)
    for run, image in ((0, 0), (1, 299)):
        order = values[run, image].argsort()[::-1][:3]
        assert packed[run, image, :3].tolist() == order.tolist()
        np.testing.assert_allclose(packed[run, image, 3:] / 255, values[run, image][order], atol=0.003)
    two = np.frombuffer(base64.b64decode(_packed(values[:, :, :2])), np.uint8).reshape(2, 300, 6)
    assert (two[:, :, [2, 5]] == 0).all()


@pytest.mark.parametrize(("shape", "kind"), [((1, 28, 28), "png"), ((3, 28, 20), "jpeg"), ((3, 130, 130), "jpeg")])
def test_the_picture_holds_every_image_in_its_place(shape, kind):
    coarse = torch.rand(7, shape[0], 4, 4)
    tiles = (255 * torch.nn.functional.interpolate(coarse, size=shape[1:], mode="bilinear")).byte().numpy()
    address, (width, height), columns = _sprite(tiles)
    assert address.startswith(f"data:image/{kind};base64,")
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))), np.float64)
    step = 1 if max(shape) <= 64 else 3
    for number, tile in enumerate(tiles[:, :, ::step, ::step]):
        top, left = height * (number // columns), width * (number % columns)
        rows, columns_ = tile.shape[1:]
        found = picture[top : top + rows, left : left + columns_]
        expected = tile[0] if kind == "png" else tile.transpose(1, 2, 0)
        assert np.abs(found - expected).max() <= (0 if kind == "png" else 48)
        assert np.abs(found - expected).mean() <= (0 if kind == "png" else 6)


@pytest.fixture
def tested(make_run, tmp_path):
    """``tested(name, rows)`` writes a run with predictions of the first ``rows`` test images."""

    def write(name, rows=10_000, seed=0):
        run = make_run(tmp_path / "runs" / name, f"seed={seed}")
        labels = MnistSource().read(tmp_path)[1].labels[:rows].numpy()
        logits = np.random.default_rng(seed).normal(size=(rows, 10)) + 4 * np.eye(10)[labels]
        probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.savez(run.test_predictions, probabilities=probabilities.astype(np.float16))
        return run.path

    return write


def browser_data(path):
    text = path.read_text(encoding="utf-8")
    return [json.loads(html.unescape(found)) for found in re.findall(r'data-browser="([^"]*)"', text)]


def test_a_page_of_one_run_says_which_images_it_contains(tested, tmp_path):
    write_report([tested("a")], tmp_path / "report.html")
    (data,) = browser_data(tmp_path / "report.html")
    assert len(data["numbers"]) == len(data["labels"]) == 1500
    assert sum(data["counts"][0][2::3]) == 10_000
    assert "contains 1,500 of 10,000 test images" in (tmp_path / "report.html").read_text()


def test_runs_share_the_images_and_runs_that_do_not_fit_are_counted(tested, tmp_path, monkeypatch):
    for name, seed in (("a", 0), ("b", 1), ("c", 2)):
        tested(name, seed=seed)
    np.savez(tmp_path / "runs" / "c" / "test_predictions.npz", probabilities=np.zeros((10, 3), np.float16))
    monkeypatch.setattr(images, "_MOST_PREDICTIONS", 500)
    write_report([tmp_path / "runs"], tmp_path / "report.html")
    (data,) = browser_data(tmp_path / "report.html")
    assert len(data["counts"]) == 2
    assert len(data["numbers"]) == 250
    text = (tmp_path / "report.html").read_text()
    assert text.count("data:image/png;base64") == 1
    assert "1 run is left out" in text
    assert len(base64.b64decode(data["predictions"])) == 2 * 250 * 6


def test_a_limited_test_has_only_its_images(tested, tmp_path):
    write_report([tested("a", rows=640)], tmp_path / "report.html")
    (data,) = browser_data(tmp_path / "report.html")
    assert data["numbers"] == list(range(640))
    assert "contains all 640 test images" in (tmp_path / "report.html").read_text()
