"""The figure of comparisons: what stands below each panel of pairs."""

import pytest

from digitlab.figures.differences import PairedValues, difference_figure


@pytest.mark.parametrize(
    ("names", "ticks", "axis"),
    [
        (("optimizer.lr=0.1", "optimizer.lr=0.01"), ["0.1", "0.01"], "optimizer.lr"),
        (("lr=0.1, dropout=0", "lr=0.01, dropout=0"), ["lr=0.1\ndropout=0", "lr=0.01\ndropout=0"], ""),
        (("hidden=[8, 8]", "hidden=[16]"), ["[8, 8]", "[16]"], "hidden"),
        (("adam", "sgd"), ["adam", "sgd"], ""),
    ],
)
def test_a_panel_names_both_groups_and_the_key_that_they_differ_in(names, ticks, axis):
    comparison = PairedValues(
        first=names[0], second=names[1], pairs=[(0.9, 0.8), (0.91, 0.83)], mean=0.09, interval=(0.05, 0.13),
        significant=True,
    )  # fmt: skip
    panel = difference_figure([comparison], metric="val/accuracy").axes[0]
    assert [label.get_text() for label in panel.get_xticklabels()] == ticks
    assert panel.get_xlabel() == axis
