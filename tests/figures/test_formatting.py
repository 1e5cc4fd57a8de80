"""Number formats and axis limits of figures and pages."""

import pytest

from digitlab.figures.formatting import format_confidence, format_mean, metric_scale, zoomed_label, zoomed_start


@pytest.mark.parametrize(
    ("confidence", "text"),
    [(0.981, "98.1 %"), (0.9996, "99.96 %"), (0.99997, "99.997 %"), (0.1234, "12.3 %"), (1.0, "> 99.9999 %")],
)
def test_a_confidence_below_one_is_never_shown_as_100_per_cent(confidence, text):
    assert format_confidence(confidence) == text


def test_accuracies_are_shown_in_per_cent_and_losses_are_not():
    assert metric_scale("val/accuracy") == (100, "val/accuracy in %")
    assert metric_scale("test accuracy") == (100, "test accuracy in %")
    assert metric_scale("val/loss") == (1, "val/loss")


def test_a_mean_has_the_standard_deviation_of_several_runs():
    assert format_mean(0.97123, 0.00104, percent=True) == "97.12 ± 0.10"
    assert format_mean(0.97123, 0.00104, percent=False) == "0.9712 ± 0.0010"
    assert format_mean(0.97123, None, percent=True) == "97.12"


@pytest.mark.parametrize(("lowest", "start"), [(99.98, 99.9), (98, 95), (92, 80), (40, 0)])
def test_an_axis_starts_at_a_round_number_below_the_lowest_value(lowest, start):
    assert zoomed_start(lowest) == pytest.approx(start)


def test_only_a_cut_axis_has_a_note():
    assert zoomed_label("accuracy in %", 95) == "accuracy in % (axis starts at 95 %)"
    assert zoomed_label("accuracy in %", 0) == "accuracy in %"
