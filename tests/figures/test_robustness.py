"""The robustness figure shows the given accuracies and example images."""

import numpy as np
import pytest
import torch

from digitlab.figures.robustness import severity_figure

ACCURACIES = {0: 0.97, 1: 0.9, 2: 0.6, 3: 0.2}


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (2, 16, 16)], ids=str)
def test_curve_and_example_images(shape):
    examples = torch.rand(len(ACCURACIES), 2, *shape)
    figure = severity_figure(ACCURACIES, examples, title="MNIST, noise")
    curve, strip = figure.axes
    assert curve.lines[0].get_ydata() == pytest.approx([97, 90, 60, 20])
    assert curve.get_ylabel() == "test accuracy in %"
    assert [text.get_text() for text in curve.texts] == ["97.0", "90.0", "60.0", "20.0"]
    assert [tick.get_text() for tick in strip.get_xticklabels()] == ["0", "1", "2", "3"]
    assert curve.get_xlim() == strip.get_xlim()
    assert len(strip.images) == len(ACCURACIES) * 2
    for number, image in enumerate(strip.images):
        column, row = divmod(number, 2)
        left, right, bottom, top = image.get_extent()
        assert ((left + right) / 2, (bottom + top) / 2) == pytest.approx((column, row), abs=1e-6)
        shown = examples[column, row] if shape[0] == 3 else examples[column, row].mean(0, keepdim=True)
        assert np.allclose(image.get_array()[..., : len(shown)], shown.permute(1, 2, 0))
