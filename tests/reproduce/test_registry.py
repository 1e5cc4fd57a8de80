"""The registry: every recipe has a row, every row a recipe, and the headers say what the registry says."""

import pytest

from digitlab.config.compose import CONF
from digitlab.core.errors import ConfigError
from digitlab.reproduce.findings import Quantity, findings
from digitlab.reproduce.outcomes import DERIVED
from digitlab.reproduce.registry import chosen, rows

FILES = {path.stem: path for path in (CONF / "experiment").glob("*.yaml")}
# A good recipe that no report has; wish_cifar_cnn is the same.
WITHOUT_ROW = {"cifar10_cnn", "cifar10_94", "mnist_99"}


def recipe(row):
    return row.experiment or row.name


def test_every_recipe_has_a_row_and_every_row_a_recipe():
    assert {recipe(row) for row in rows().values()} == FILES.keys() - WITHOUT_ROW


def test_names_are_unique_and_name_a_folder():
    assert len(rows()) == len({row.name.lower() for row in rows().values()})
    assert all(name == row.name and "/" not in name for name, row in rows().items())


@pytest.mark.parametrize("row", [row for row in rows().values() if row.name.startswith("r")], ids=lambda row: row.name)
def test_the_header_of_a_recipe_gives_the_figures_of_its_row(row):
    header = FILES[recipe(row)].read_text(encoding="utf-8").partition("\n#   ours:")[0]
    reported = [figure.reported for figure in row.figures if figure.metric.startswith("test/acc") and figure.reported]
    for value in reported if row.executor == "lightning" else []:
        assert f"{100 * value:.4g}" in header or f"{100 * value:.2f}" in header or f"{100 * value:.3f}" in header


def test_what_findings_and_wishes_compare_is_there():
    for finding in findings():
        sides = [side for claim in finding.claims for side in (claim.larger, claim.smaller)]
        quantities = [side for side in sides if isinstance(side, Quantity)]
        assert quantities
        assert all(quantity.row in rows() for quantity in quantities)
        assert all(
            quantity.of in DERIVED or quantity.of == "train_seconds" or "/" in quantity.of for quantity in quantities
        )
    for row in rows().values():
        assert row.name.startswith("wish_") == (row.against is not None)
        assert row.against is None or row.against in rows()


def test_an_experiment_stands_for_all_rows_of_its_sweep():
    names = [row.name for row in chosen(["r4_mlp_500_300_l2", "r2_softmax"])]
    assert len(names) == 6
    assert names[-1] == "r2_softmax"
    assert len(chosen(["r5_fashion_lr"])) == 12
    assert len(chosen([])) == len(rows())


def test_a_row_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"r2_sofmax: there is no such row.*r2_softmax"):
        chosen(["r2_sofmax"])
