"""Which figures of the reports' sweeps and variants are drawn, and from which data."""

import pytest

from digitlab.reproduce import gallery
from digitlab.reproduce.outcomes import RunOutcome
from digitlab.reproduce.registry import rows
from digitlab.reproduce.table import Measured


def outcome(accuracy):
    return RunOutcome(
        metrics={"test/accuracy": accuracy}, curves={"train/loss": [2.0, 1.0], "val/accuracy": [0.1, accuracy]},
        train_seconds=1.0, parameters=1, hardware="a machine",
    )  # fmt: skip


@pytest.fixture
def measured(tmp_path):
    nothing = Measured(tmp_path)
    made = {
        "r4_mlp_500_300_l2_2.0e-6": [outcome(0.98), outcome(0.982)],
        "r4_mlp_500_300_l2_2.0e-3": [outcome(0.97)],
        "r5_fashion_lr_0.1_he": [outcome(0.9)],
        "r5_fashion_lr_0.03_he": [outcome(0.8)],
        "r5_cifar_baseline": [outcome(0.4)],
        "r5_cifar_decay_1e_4": [outcome(0.41)],
    }
    nothing.outcomes = nothing.outcomes | made
    return nothing


def test_only_comparisons_with_several_runs_are_drawn(measured, tmp_path):
    written = gallery.write_figures(measured, tmp_path / "figures")
    assert {path.stem for path in written} == {"r4_l2", "r5_fashion_lr_he", "r5_cifar_weight_decay"}
    assert all(path.stat().st_size for path in written)


def test_the_l2_factor_is_half_the_weight_decay(measured):
    effects = gallery._l2_effects(measured)
    assert [effect.value for effect in effects] == [1e-6, 1e-3]
    assert [list(effect.measured) for effect in effects] == [[0.98, 0.982], [0.97]]
    figure = dict(gallery._figures(measured))["r4_l2"]
    # The bars of a sweep's own figures are intervals of differences; these are not.
    assert figure.axes[0].get_title(loc="left").endswith("bar: 95 % interval of the mean")


def test_every_variant_of_the_baseline_is_in_a_figure():
    drawn = {row.name for name, (_, group) in gallery._groups().items() if "cifar" in name for row in group}
    variants = {name for name, row in rows().items() if name.startswith("r5_cifar_")}
    wishes = {name for name, row in rows().items() if row.against == "r5_cifar_baseline"}
    assert drawn == variants | wishes
