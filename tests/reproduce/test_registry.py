"""The registry: every row has its recipe, and each recipe is the one that the reports describe.

The expected recipes are written here a second time, from the reports' text: architecture, loss, optimizer, learning
rate, batch size, epochs and the number of images held out. Variants name only what differs from their baseline.
"""

from functools import cache
from itertools import product

import pytest
from omegaconf import OmegaConf

from digitlab.config.compose import CONF, walk
from digitlab.core.errors import ConfigError
from digitlab.reproduce.findings import Quantity, findings
from digitlab.reproduce.outcomes import DERIVED
from digitlab.reproduce.registry import rows, select_rows
from digitlab.reproduce.runner import compose

FILES = {path.stem: path for path in (CONF / "experiment").glob("*.yaml")}
# A good recipe that no report has; wish_cifar_cnn is the same.
WITHOUT_ROW = {"cifar10_cnn", "cifar10_94", "mnist_99"}


def test_every_recipe_has_a_row_and_every_row_a_recipe():
    assert {row.experiment or row.name for row in rows().values()} == FILES.keys() - WITHOUT_ROW


def test_names_are_unique_and_name_a_folder():
    assert len(rows()) == len({row.name.lower() for row in rows().values()})
    assert all(name == row.name and "/" not in name for name, row in rows().items())


@cache
def settings(name):
    """The configuration of a row's first run, flat, with the chosen config of some groups."""
    config, choices = compose(rows()[name].command_overrides(0))
    flat = dict(walk(OmegaConf.to_container(config, resolve=False)))
    return flat | {f"choice {group}": choices.get(group) for group in ("data", "model", "loss", "optimizer")}


def recipe_of(name):
    """What the reports state of each recipe, read from the configuration that a run of the row uses."""
    found = settings(name)
    return {
        "data": found["choice data"], "model": found["choice model"], "hidden": found.get("model.hidden"),
        "activation": found.get("model.activation"), "loss": found["choice loss"],
        "optimizer": found["choice optimizer"], "lr": found["optimizer.lr"],
        "weight_decay": found["optimizer.weight_decay"], "batch_size": found["data.batch_size"],
        "epochs": found["trainer.max_epochs"], "val_size": found["data.val_size"],
    }  # fmt: skip


def recipe(data, hidden, activation, optimizer, lr, batch_size, epochs, *, loss="cross_entropy", val_size=0, decay=0.0):
    model = {None: "linear", "lenet": "lenet"}.get(hidden, "mlp") if not isinstance(hidden, list) else "mlp"
    return {
        "data": data, "model": model, "hidden": hidden if model == "mlp" else None, "activation": activation,
        "loss": loss, "optimizer": optimizer, "lr": lr, "weight_decay": decay, "batch_size": batch_size,
        "epochs": epochs, "val_size": val_size,
    }  # fmt: skip


R1 = recipe("mnist", None, None, "sgd", 0.1, 100, 5, loss="mse", val_size=5000)
R2A = recipe("mnist", None, None, "sgd", 0.01, 50, 5)
R3A = recipe("mnist", [30], "sigmoid", "sgd", 0.25, 10, 5, loss="mse", val_size=10_000)
R4B = recipe("mnist", [500, 300], "relu", "sgd", 0.1, 128, 40)
ARCHITECTURES = {
    1: ([64], "relu"), 2: ([64], "sigmoid"), 3: ([128, 64], "sigmoid"), 4: ([64, 64], "relu"), 5: ([128, 64], "relu"),
    6: ([512, 64], "relu"), 7: ([512, 128, 64], "relu"), 8: ([512, 256, 128, 64], "relu"),
}  # fmt: skip
FASHION = recipe("fashion_mnist", [64], "relu", "sgd", 0.001, 128, 30, val_size=5000)
CIFAR = recipe("cifar10", [256], "relu", "sgd", 0.1, 128, 10, val_size=5000)
INITS = ("he", "normal")
RATES = ("0.1", "0.03", "0.01", "0.003", "0.001", "0.0003")
# Keras adds factor * sum(w**2) to the loss, which is a weight decay of twice the factor.
L2_FACTORS = {"2.0e-6": 1e-6, "5.015e-4": 2.5075e-4, "1.001e-3": 5.005e-4, "1.5005e-3": 7.5025e-4, "2.0e-3": 1e-3}
REPORTED = {
    "r1_linear_mse": R1, "r1_test_curve": R1 | {"val_size": 0}, "r1_pure": R1, "r1_numpy": R1,
    "r2_softmax": R2A, "r2_softmax_numpy": R2A,
    "r2_tanh300": recipe("mnist", [300], "tanh", "adam", 0.001, 50, 6),
    "r3_sigmoid30_mse": R3A, "r3_sigmoid30_mse_numpy": R3A,
    "r3_dense_200_50_20": recipe("mnist", [200, 50, 20], "relu", "sgd", 0.1, 10, 15, loss="mse", val_size=10_000),
    # The boosted trees use only the data of this recipe: all 60,000 images.
    "r3_xgboost": R2A,
    "r4_mlp_64_64": recipe("mnist", [64, 64], "relu", "sgd", 0.1, 128, 10),
    **{f"r4_mlp_500_300_l2_{decay}": R4B | {"weight_decay": 2 * factor} for decay, factor in L2_FACTORS.items()},
    "r4_mlp_500_300": R4B | {"weight_decay": 2e-5},
    "r4_lenet": recipe("mnist", "lenet", "relu", "adam", 0.001, 128, 40, decay=2e-4),
    **{f"r5_fashion_lr_{rate}_{init}": FASHION | {"lr": float(rate)} for rate, init in product(RATES, INITS)},
    **{f"r5_fashion_batch_{size}": FASHION | {"batch_size": size} for size in (128, 2048, 4096)},
    **{
        f"r5_fashion_{ours}arch{number}": FASHION | {"hidden": hidden, "activation": activation, "lr": lr}
        for number, (hidden, activation) in ARCHITECTURES.items()
        for ours, lr in (("", 0.001), ("ours_", 0.1))
    },
    **{
        f"r5_fashion_{ours}final": FASHION | {"hidden": ARCHITECTURES[8][0], "lr": lr, "val_size": 0}
        for ours, lr in (("", 0.001), ("ours_", 0.1))
    },
    "r5_cifar_baseline": CIFAR,
    "r5_cifar_series": CIFAR | {"epochs": 30},
    **{f"r5_cifar_{name}": CIFAR for name in ("dropout_0_25", "dropout_0_15")},
    "r5_cifar_decay_1e_5": CIFAR | {"weight_decay": 1e-5}, "r5_cifar_decay_1e_4": CIFAR | {"weight_decay": 1e-4},
    "r5_cifar_layers_2": CIFAR | {"hidden": [256] * 2}, "r5_cifar_layers_3": CIFAR | {"hidden": [256] * 3},
    "r5_cifar_nodes_128": CIFAR | {"hidden": [128]}, "r5_cifar_nodes_512": CIFAR | {"hidden": [512]},
    "r5_cifar_epochs_25": CIFAR | {"epochs": 25}, "r5_cifar_epochs_50": CIFAR | {"epochs": 50},
    "r5_cifar_batch_64": CIFAR | {"batch_size": 64}, "r5_cifar_batch_256": CIFAR | {"batch_size": 256},
    "r5_cifar_adam_0_1": CIFAR | {"optimizer": "adam"},
    "r5_cifar_adam_0_001": CIFAR | {"optimizer": "adam", "lr": 0.001},
    "r5_cifar_lr_0_01": CIFAR | {"lr": 0.01}, "r5_cifar_lr_0_001": CIFAR | {"lr": 0.001},
    "r5_cifar_final": CIFAR | {"hidden": [256] * 2, "epochs": 20},
    "r5_cifar_final_lr_0_01": CIFAR | {"hidden": [256] * 2, "lr": 0.01},
    "r5_cifar_final_lr_0_01_20": CIFAR | {"hidden": [256] * 2, "lr": 0.01, "epochs": 20},
}  # fmt: skip


@pytest.mark.sample(8)
@pytest.mark.parametrize("name", [name for name in rows() if not name.startswith("wish_")])
def test_a_row_of_the_reports_runs_the_recipe_of_the_report(name):
    assert recipe_of(name) == REPORTED[name]


def test_decay_and_l2_act_on_the_layers_that_the_report_names():
    # R4b: the hidden layers' weights; R4c: the two hidden dense layers.
    for name in REPORTED:
        if name.startswith("r4_mlp_500_300"):
            assert settings(name)["optimizer.decay_layers"] == ["hidden.*"]
    assert settings("r4_lenet")["optimizer.decay_layers"] == ["dense1", "dense2"]
    assert settings("r4_lenet")["model.dropout"] == 0.5


@pytest.mark.parametrize("init", INITS)
def test_the_sweep_over_rates_has_the_initial_weights_of_its_name(init):
    assert {settings(f"r5_fashion_lr_{rate}_{init}")["model.init"] for rate in RATES} == {init}


# The settings that a variant of the CIFAR-10 baseline changes besides those in REPORTED.
DROPOUT = {"r5_cifar_dropout_0_25": 0.25, **{f"r5_cifar_{name}": 0.15 for name in (
    "dropout_0_15", "final", "final_lr_0_01", "final_lr_0_01_20")}}  # fmt: skip
MILESTONES = {"r5_cifar_series": [10, 20], "r5_cifar_final": [10]}


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", [name for name in rows() if name.startswith("r5_cifar_")])
def test_dropout_and_falling_rates_are_in_the_rows_that_the_report_gives_them_to(name):
    found = settings(name)
    assert found["model.dropout"] == DROPOUT.get(name, 0.0)
    assert found.get("scheduler.milestones_epochs") == MILESTONES.get(name)
    assert found.get("scheduler.gamma") == (0.1 if name in MILESTONES else None)


# A wish is a baseline with changes in these parts of the configuration; a key stands for all keys below it.
_ADAM, _CNN = ("optimizer", "scheduler"), ("augment", "model", "optimizer", "scheduler", "trainer.precision")
WISHES = {
    "mnist_softmax": ("loss", "model.init", "optimizer.lr", "trainer", "early_stopping"),
    "mnist_early_stopping": ("early_stopping", "trainer.max_epochs", "trainer.val_every_steps"),
    "mnist_blur": ("augment.blur",), "mnist_stretch": ("augment.affine",), "mnist_pen": ("augment.pen",),
    "mnist_none": ("data.source",), "mnist_deskew": ("data.deskew",), "mnist_tanh": ("model.activation",),
    "mnist_folds": ("data.folds", "data.val_size", "early_stopping"),
    "mnist_cnn": (*_CNN, "trainer.max_epochs", "early_stopping"),
    "mnist_mlp_500_300": (*_ADAM, "model.batch_norm", "model.dropout", "model.init"),
    "fashion_cnn": (*_CNN, "data.normalize", "data.val_size", "trainer.max_epochs", "test"),
    "fashion_arch8_tuned": ("optimizer", "model.dropout", "early_stopping", "data.val_size", "test"),
    "fashion_standardised": ("data.normalize",),
    "cifar_cnn": (*_CNN, "data.normalize", "trainer.max_epochs", "test"),
    "cifar_adagrad": ("optimizer",), "cifar_rmsprop": ("optimizer",), "cifar_lr_0_05": ("optimizer.lr",),
    "cifar_clipping": ("trainer.gradient_clip_norm",), "cifar_he": ("model.init",),
    "cifar_early_stopping": ("early_stopping", "trainer.max_epochs", "test"),
}  # fmt: skip
WISHED_RATES = {"cifar_adagrad": 0.01, "cifar_rmsprop": 0.001, "cifar_lr_0_05": 0.05, "cifar_clipping": 0.1}


@pytest.mark.sample(6)
@pytest.mark.parametrize("name", [name.removeprefix("wish_") for name in rows() if name.startswith("wish_")])
def test_a_wish_differs_from_its_baseline_only_in_what_was_wished_for(name):
    row = rows()[f"wish_{name}"]
    wish, baseline = settings(row.name), settings(row.against)
    nodes = {key for found in (wish, baseline) for key, value in found.items() if isinstance(value, dict)}
    changed = {
        key for key in wish.keys() | baseline.keys()
        if key not in nodes and not key.startswith("choice ") and wish.get(key) != baseline.get(key)
    }  # fmt: skip
    assert changed, "the wish changes nothing"
    # The scale belongs to the kind of initial weights.
    allowed = (*WISHES[name], "model.init_scale")
    assert {key for key in changed if not any(f"{key}.".startswith(f"{part}.") for part in allowed)} == set()
    assert all(any(f"{key}.".startswith(f"{part}.") for key in changed) for part in WISHES[name])
    if name in WISHED_RATES:
        assert wish["optimizer.lr"] == WISHED_RATES[name]


def recipe_file(row):
    return FILES[row.experiment or row.name]


@pytest.mark.parametrize(
    "row",
    [
        row for row in rows().values()
        if row.executor == "lightning" and any(metric.reported for metric in row.metrics)
    ],
    ids=lambda row: row.name,
)  # fmt: skip
def test_the_header_of_a_recipe_gives_the_accuracy_that_its_row_compares(row):
    header = recipe_file(row).read_text(encoding="utf-8").partition("\n#   ours:")[0]
    values = [metric.reported for metric in row.metrics if metric.name.endswith("accuracy") and metric.reported]
    assert values
    for value in values[:1]:
        assert any(text in header for text in (f"{100 * value:.4g}", f"{100 * value:.2f}", f"{100 * value:.3f}"))


def test_findings_and_wishes_compare_existing_rows():
    for finding in findings():
        sides = [side for claim in finding.claims for side in (claim.larger, claim.smaller)]
        quantities = [side for side in sides if isinstance(side, Quantity)]
        assert quantities
        assert all(quantity.row in rows() for quantity in quantities)
        assert all(
            quantity.name in DERIVED or quantity.name == "train_seconds_alone" or "/" in quantity.name
            for quantity in quantities
        )
    for row in rows().values():
        assert row.name.startswith("wish_") == (row.against is not None)
        assert row.against is None or row.against in rows()


def test_an_experiment_selects_all_rows_of_its_sweep():
    names = [row.name for row in select_rows(["r4_mlp_500_300_l2", "r2_softmax"])]
    assert len(names) == 6
    assert names[-1] == "r2_softmax"
    assert len(select_rows(["r5_fashion_lr"])) == 12
    assert len(select_rows([])) == len(rows())


def test_an_unknown_row_is_refused_with_a_similar_name():
    with pytest.raises(ConfigError, match=r"r2_sofmax: there is no such row.*r2_softmax"):
        select_rows(["r2_sofmax"])
