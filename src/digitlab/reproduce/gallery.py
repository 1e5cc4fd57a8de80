"""Draws the figures of the reports that show several runs: each sweep, and the variants of a baseline.

``digitlab reproduce --figures`` uses it. R4b and R5a are parts of the course reports with sweeps; in R5b, each variant
differs from a baseline in one factor, such as dropout. A row is a recipe with some overrides.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from digitlab.core.files import write_atomically
from digitlab.figures.comparisons import Setting, settings_figure
from digitlab.figures.style import encode
from digitlab.figures.sweeps import Effect, effect_figure
from digitlab.reproduce.findings import Quantity
from digitlab.reproduce.outcomes import RunOutcome
from digitlab.reproduce.registry import rows, select_rows
from digitlab.reproduce.rows import Row
from digitlab.reproduce.table import Measured
from digitlab.sweeps.statistics import Summary

_CURVES = ("train/loss", "val/loss", "train/accuracy", "val/accuracy")
_BASELINE = "r5_cifar_baseline"
# The variants of R5b (rows r5_cifar_VARIANT), by the factor in which they differ from the baseline.
_FACTORS = {
    "dropout": ("dropout_0_15", "dropout_0_25"),
    "weight_decay": ("decay_1e_5", "decay_1e_4"),
    "layers": ("layers_2", "layers_3"),
    "nodes": ("nodes_128", "nodes_512"),
    "epochs": ("epochs_25", "epochs_50"),
    "batch": ("batch_64", "batch_256"),
    "optimizer": ("adam_0_1", "adam_0_001"),
    "lr": ("lr_0_01", "lr_0_001"),
    "finals": ("series", "final", "final_lr_0_01", "final_lr_0_01_20"),
}


def write_figures(measured: Measured, folder: Path) -> list[Path]:
    """Draw every figure whose runs have finished into ``folder``; return the paths of the PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in _figures(measured):
        paths.append(folder / f"{name}.png")
        write_atomically(paths[-1], encode(figure))
    return paths


def _figures(measured: Measured) -> Iterator[tuple[str, Figure]]:
    """Yield the name and the drawing of each figure whose runs have finished; curves need at least two rows."""
    effects = _l2_effects(measured)
    if effects:
        yield "r4_l2", effect_figure(effects, key="L2 factor", metric="test accuracy", interval_of="mean")
    for name, (title, group) in _groups().items():
        settings = [_setting(row, measured.outcomes[row.name]) for row in group]
        with_curves = [setting for setting in settings if setting.curves]
        if len(with_curves) > 1:
            yield name, settings_figure(with_curves, title=title)


def _l2_effects(measured: Measured) -> list[Effect]:
    """Return the test accuracy of R4b by its L2 factor, which is half the weight decay, as Keras defines it."""
    effects = []
    for row in select_rows(["r4_mlp_500_300_l2"]):
        values = measured.sample(Quantity(row.name, "test/accuracy")).values
        if values:
            summary = Summary.of(values)
            weight_decay = float(row.name.rpartition("_")[2])
            effects.append(Effect(weight_decay / 2, summary.mean, summary.interval, values))
    return effects


def _groups() -> Mapping[str, tuple[str, Sequence[Row]]]:
    """Return the title and the rows of each figure of curves, by its name.

    There is one figure for each sweep of R5a and one for each factor of R5b, whose first row is the baseline.
    """
    all_rows, rate_rows = rows(), select_rows(["r5_fashion_lr"])
    groups = {
        f"r5_fashion_lr_{init}": (
            f"Fashion-MNIST, architecture 1, {weights}: learning rate",
            [row for row in rate_rows if row.name.endswith(init)],
        )
        for init, weights in (("he", "He's initial weights"), ("normal", "initial weights N(0, 1)"))
    }
    groups["r5_fashion_batch"] = "Fashion-MNIST, architecture 1: batch size", select_rows(["r5_fashion_batch"])
    for prefix, title in (("r5_fashion_arch", "rate 0.001"), ("r5_fashion_ours_arch", "our rate")):
        group = [all_rows[f"{prefix}{number}"] for number in range(1, 9)]
        groups[prefix] = f"Fashion-MNIST, {title}: architecture", group
    for factor, variants in _FACTORS.items():
        group = [all_rows[_BASELINE], *(all_rows[f"r5_cifar_{variant}"] for variant in variants)]
        groups[f"r5_cifar_{factor}"] = f"CIFAR-10, baseline and variants: {factor.replace('_', ' ')}", group
    wishes = [row for row in all_rows.values() if row.against == _BASELINE]
    return groups | {"wish_cifar": ("CIFAR-10, baseline and wishes", [all_rows[_BASELINE], *wishes])}


def _setting(row: Row, outcomes: Sequence[RunOutcome]) -> Setting:
    """Return the name of a row in the legend, and the curves of its runs by metric, as a line of the figure needs."""
    curves = {
        metric: [outcome.curves[metric] for outcome in outcomes if outcome.curves.get(metric)] for metric in _CURVES
    }
    # The name of a row of a sweep begins with that of its recipe. Such rows differ in the swept values; other rows have
    # a description of their own.
    swept = row.name.startswith(f"{row.experiment}_")
    name = ", ".join(override.partition("=")[2] for override in row.overrides) if swept else row.what
    return Setting(name, {metric: run_curves for metric, run_curves in curves.items() if run_curves})
