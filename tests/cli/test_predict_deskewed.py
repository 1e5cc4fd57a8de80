"""``digitlab predict`` deskews pictures for a network that was trained on deskewed digits."""

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from digitlab.cli.commands import app
from digitlab.data.deskew import deskew
from digitlab.data.own_images import read_own_image
from digitlab.data.sources import MnistSource
from digitlab.figures.formatting import format_confidence
from digitlab.reproduce.registry import rows
from digitlab.reproduce.runner import make_runs, run_folder
from digitlab.training.loading import load


@pytest.mark.extra
def test_pictures_are_deskewed_like_the_data_set(tmp_path):
    row = rows()["wish_mnist_deskew"]
    assert [error for _, _, error in make_runs([row], tmp_path, seeds=1, quick=True)] == [None]
    folder = run_folder(tmp_path, row, 0).path
    classifier, data = load(folder)
    original = MnistSource().read(tmp_path)[1].images
    assert torch.equal(data.test_set.images, deskew(original))

    pictures = [tmp_path / f"{number}.png" for number in range(12)]
    for picture, image in zip(pictures, original, strict=False):
        Image.fromarray(image[0].numpy()).resize((280, 280)).save(picture)
    own = torch.stack([read_own_image(each, image_shape=(1, 28, 28), margin_pixels=4) for each in pictures])
    with torch.no_grad():
        upright, leaning = (classifier.loss.scores(classifier(images)).amax(1) for images in (deskew(own), own))
    output = CliRunner().invoke(app, ["predict", str(folder), *map(str, pictures)]).output
    lines = [next(line for line in output.splitlines() if f"/{each.name} " in line) for each in pictures]
    assert all(format_confidence(score) in line for score, line in zip(upright.tolist(), lines, strict=True))
    assert not all(format_confidence(score) in line for score, line in zip(leaning.tolist(), lines, strict=True))
