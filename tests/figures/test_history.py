"""Figures of a run over time: their lines, axis labels and the marked best epoch."""

import pytest
import torch

from digitlab.figures.history import (
    batch_accuracy_figure,
    changed_weights_figure,
    history_figure,
    nll_figure,
)

CURVES = {
    "train/loss": [(1, 2.0), (2, 1.0), (3, 0.5)],
    "val/loss": [(1, 2.5), (2, 1.5), (3, 1.75)],
    "train/accuracy": [(1, 0.3), (2, 0.6), (3, 0.9)],
    "val/accuracy": [(1, 0.4), (2, 0.5), (3, 0.45)],
    "val/f1": [(1, 0.25), (2, 0.5), (3, 0.75)],
    "val/f1_weighted": [(1, 0.1), (2, 0.1), (3, 0.1)],
}


def lines(axes):
    """Return {label: (x values, y values)} of the lines."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def all_axes_are_labelled(figure):
    return all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes if axes.get_label() != "<colorbar>")


@pytest.fixture
def history():
    return history_figure(CURVES, x_label="epoch", best=2, title="title")


def test_loss_accuracy_and_f1_have_a_panel_each(history):
    assert [axes.get_ylabel() for axes in history.axes] == ["loss", "accuracy in %", "F1 (macro) in %"]
    assert all_axes_are_labelled(history)


def test_lines_show_the_values_of_both_splits(history):
    loss, accuracy, f1 = (lines(axes) for axes in history.axes)
    assert loss["training"] == ([1, 2, 3], [2.0, 1.0, 0.5])
    assert loss["validation"] == ([1, 2, 3], [2.5, 1.5, 1.75])
    assert accuracy["validation"][1] == pytest.approx([40, 50, 45])
    assert f1["validation"][1] == pytest.approx([25, 50, 75])
    assert "training" not in f1


def test_the_best_epoch_is_marked_in_every_panel(history):
    for axes in history.axes:
        assert lines(axes)["best (2)"][0] == [2, 2]


def test_without_validation_there_is_no_empty_panel_and_no_best_epoch():
    figure = history_figure({"train/loss": [(1, 2.0)]}, x_label="iteration", best=None, title="title")
    (axes,) = figure.axes
    assert list(lines(axes)) == ["training"]


def test_nll_is_drawn_with_its_running_mean():
    nll = torch.tensor([4.0, 2.0, 1.0, 1.0])
    (axes,) = nll_figure(nll, mean_over=2, title="title").axes
    drawn = lines(axes)
    assert drawn["a mini-batch"] == ([1, 2, 3, 4], [4, 2, 1, 1])
    assert drawn["mean of 2"] == ([2, 3, 4], [3, 1.5, 1])


def test_a_run_shorter_than_the_running_mean_can_be_drawn():
    (axes,) = nll_figure(torch.tensor([4.0, 2.0]), mean_over=50, title="title").axes
    assert lines(axes)["mean of 2"] == ([2], [3])


def test_changed_weights_has_one_point_per_mini_batch():
    nll, changed = torch.tensor([2.0, 1.0]), torch.tensor([500, 700])
    figure = changed_weights_figure(nll, changed, parameters=7850, title="title")
    assert len(figure.axes[0].get_xticks()) <= 7
    (points,) = figure.axes[0].collections
    assert points.get_offsets().tolist() == [[500, 2], [700, 1]]
    assert "7,850" in figure.axes[0].get_xlabel()
    assert all_axes_are_labelled(figure)


def test_batch_accuracy_is_drawn_for_training_and_test():
    # The second mini-batch of an epoch has 20 images: of these, 20 are as good as 50 of 50.
    trained = torch.tensor([10, 20, 30, 19]), torch.tensor([50, 20, 50, 20])
    figure = batch_accuracy_figure(trained, (torch.tensor([45, 43, 44]), torch.tensor([50] * 3)), title="title")
    train, test = figure.axes
    assert lines(train)["a mini-batch"] == ([1, 3], [10, 30])
    assert lines(train)["mean 20.0"][1] == [20, 20]
    assert train.get_ylabel() == "correct predictions of 50"
    assert lines(test)["a mini-batch"] == ([1, 2, 3], [45, 43, 44])
    assert lines(test)["mean 44.0"][1] == [44, 44]
    assert all_axes_are_labelled(figure)
