"""All rows of the comparison, in the order of the reports. Only this module holds the values that the reports give.

A row is a recipe (a file in ``conf/experiment``) with some overrides. R1 to R5 are the five course reports; R3b is the
second part of R3. ``what`` gives the sizes of layers: 784-30-10 has 784 pixels, 30 hidden units and 10 outputs. Rows
that ``grid`` makes are in functions, because ``grid`` reads files, which importing this module should not do.
"""

from functools import cache

from digitlab.config.suggestions import similar_names
from digitlab.core.errors import ConfigError
from digitlab.reproduce.rows import Metric, Row, grid

# The metrics of rows for which the report gives no number.
_TEST = (Metric("test/accuracy"),)
_VALIDATION = (Metric("val/accuracy"), Metric("test/accuracy"))


@cache
def rows() -> dict[str, Row]:
    """Return all rows by name, in the order of the reports."""
    ordered = (*_R1, *_R2, *_R3, *_r4(), *_r5_fashion(), *_r5_fashion_ours(), *_R5_CIFAR, *_WISHES)
    return {row.name: row for row in ordered}


def select_rows(names: list[str]) -> list[Row]:
    """Return the rows with these names, or all rows if ``names`` is empty.

    The name of a recipe selects all of its rows; if a row has the same name, only this row. Raises ``ConfigError`` for
    an unknown name.
    """
    selected: dict[str, Row] = {}
    for name in names:
        matching = {row.name: row for row in rows().values() if name in (row.name, row.experiment)}
        if name in rows():
            matching = {name: rows()[name]}
        if name == "all":
            raise ConfigError("NAME", name, "is written without any name: digitlab reproduce makes all rows")
        if not matching:
            similar = ", ".join(similar_names(name, rows()))
            allowed = f"there is no such row; the most similar of {len(rows())} are {similar}"
            raise ConfigError("NAME", name, allowed)
        selected |= matching
    return list((selected if names else rows()).values())


_R1 = (
    Row(
        name="r1_linear_mse", report="R1", what="784-10, MSE, best of validation",
        metrics=(Metric("test/accuracy", 0.8693), Metric("test/loss", 0.044)),
        note="the report gives the best of its test curve",
    ),
    Row(
        name="r1_test_curve", report="R1", what="784-10, MSE, best of the test curve (NumPy)", executor="numpy",
        experiment="r1_linear_mse", overrides=("data.val_size=0", "trainer.val_every_steps=null"),
        metrics=(Metric("test/accuracy_max", 0.8693), Metric("test/loss_at_accuracy_max", 0.044)),
        note="selected on the test set, as in the report; trained on all 60,000 images",
    ),
    Row(name="r1_pure", report="R1", what="784-10, MSE, standard library", experiment="r1_linear_mse", executor="pure",
        metrics=_TEST),
    Row(name="r1_numpy", report="R1", what="784-10, MSE, NumPy, last epoch", experiment="r1_linear_mse",
        executor="numpy", metrics=_TEST),
)  # fmt: skip

_R2 = (
    Row(name="r2_softmax", report="R2a", what="784-10 softmax, 5 epochs", metrics=(Metric("test/accuracy", 0.9007),)),
    Row(name="r2_softmax_numpy", report="R2a", what="784-10 softmax, 5 epochs, NumPy", experiment="r2_softmax",
        executor="numpy", metrics=(Metric("test/accuracy", 0.9007),)),
    Row(name="r2_tanh300", report="R2b", what="784-300-10 tanh, Adam, 6 epochs",
        metrics=(Metric("test/accuracy", 0.97),)),
)  # fmt: skip

_R3 = (
    Row(
        name="r3_sigmoid30_mse", report="R3a", what="784-30-10 sigmoid, MSE, 5 epochs",
        metrics=(
            Metric("test/accuracy", 0.9136), Metric("test/f1_weighted", 0.9131), Metric("train/loss", 0.0176),
            Metric("train/accuracy", 0.9059), Metric("val/loss", 0.0168), Metric("val/accuracy", 0.9094),
        ),
        reported_seconds=46,
        note="the report timed Keras; validation accuracy depends on which 10,000 images are held out",
    ),
    Row(
        name="r3_sigmoid30_mse_numpy", report="R3a", what="784-30-10 sigmoid, MSE, 5 epochs, NumPy",
        experiment="r3_sigmoid30_mse", executor="numpy", metrics=_TEST,
        reported_seconds=255, note="the report's NumPy network had no mini-batches; ours uses batches of 10",
    ),
    Row(
        name="r3_dense_200_50_20", report="R3b", what="784-200-50-20-10 ReLU, MSE, 15 epochs",
        metrics=(
            Metric("test/accuracy", 0.9730), Metric("test/f1_weighted", 0.9730), Metric("train/loss", 0.0021),
            Metric("train/accuracy", 0.9879), Metric("val/loss", 0.0042), Metric("val/accuracy", 0.9733),
        ),
        reported_seconds=192,
    ),
    Row(
        name="r3_xgboost", report="R3c", what="boosted trees, multi:softmax", experiment="r2_softmax",
        executor="xgboost", metrics=(Metric("test/accuracy", 0.9795), Metric("test/f1_weighted", 0.9795)),
        reported_seconds=103,
        note="needs the extra baselines; deterministic, so one run; with the defaults of the installed xgboost",
    ),
)  # fmt: skip


def _r4() -> tuple[Row, ...]:
    accuracies = {"2.0e-6": 0.98177, "5.015e-4": 0.98190, "1.001e-3": 0.98087, "1.5005e-3": 0.98153, "2.0e-3": 0.98013}
    return (
        Row(name="r4_mlp_64_64", report="R4a", what="784-64-64-10, 10 epochs",
            metrics=(Metric("test/accuracy", 0.9731), Metric("test/loss", 0.0913)),
            note="the report has one run; the same network in Keras reaches 97.00 ± 0.22 (n = 8)"),
        *grid("r4_mlp_500_300_l2", report="R4b", what="784-500-300-10, weight decay (twice the L2 factor)",
              metric="test/accuracy", reported=accuracies),
        Row(name="r4_mlp_500_300", report="R4b", what="784-500-300-10, L2 factor 1e-5",
            metrics=(Metric("test/accuracy", 0.9815),)),
        Row(name="r4_lenet", report="R4c", what="LeNet-5, dropout and L2, 40 epochs",
            metrics=(Metric("test/accuracy", 0.9919),)),
    )  # fmt: skip


# The hidden layers of the eight architectures.
_FASHION_UNITS = (
    "64", "64 sigmoid", "128, 64 sigmoid", "64, 64", "128, 64", "512, 64", "512, 128, 64", "512, 256, 128, 64",
)  # fmt: skip
# The best learning rate of r5_fashion_lr by validation. The best initial weights (He) and batch size (128) are those of
# the report, so they need no override.
_BEST_SETTINGS = ("optimizer.lr=0.1",)


def _r5_fashion() -> tuple[Row, ...]:
    return (
        *grid("r5_fashion_lr", report="R5a", what="architecture 1, rate and initial weights", metric="val/accuracy"),
        *grid("r5_fashion_batch", report="R5a", what="architecture 1, batch size", metric="val/accuracy"),
        *(
            Row(name=f"r5_fashion_arch{number}", report="R5a", what=f"architecture {number}: {units}",
                metrics=_VALIDATION)
            for number, units in enumerate(_FASHION_UNITS, start=1)
        ),
        Row(name="r5_fashion_final", report="R5a", what="architecture 8 on all 60,000 images",
            metrics=(Metric("test/accuracy", 0.85, counts_from=0.845),),
            note="the report rounds, so 84.5 is enough; it selected on the test set"),
    )  # fmt: skip


def _r5_fashion_ours() -> tuple[Row, ...]:
    """Return the rows of R5a with the learning rate that was best in our sweep, instead of the report's 0.001."""
    return (
        *(
            Row(name=f"r5_fashion_ours_arch{number}", report="R5a", what=f"architecture {number}: {units}, rate 0.1",
                experiment=f"r5_fashion_arch{number}", overrides=_BEST_SETTINGS, metrics=_VALIDATION)
            for number, units in enumerate(_FASHION_UNITS, start=1)
        ),
        Row(name="r5_fashion_ours_final", report="R5a", what="architecture 8 on all 60,000 images, rate 0.1",
            experiment="r5_fashion_final", overrides=_BEST_SETTINGS,
            metrics=(Metric("test/accuracy", 0.85, counts_from=0.845),),
            note="the rate that validation chose in r5_fashion_lr; it chose batch 128 as well"),
    )  # fmt: skip


def _cifar(name: str, what: str, *metrics: Metric, note: str = "") -> Row:
    return Row(name=f"r5_cifar_{name}", report="R5b", what=what, metrics=metrics or _VALIDATION, note=note)


_R5_CIFAR = (
    _cifar("baseline", "3072-256-10, SGD 0.1, batch 128, 10 epochs"),
    _cifar("series", "10 epochs each at 0.1, 0.01, 0.001", Metric("val/accuracy", 0.50), Metric("test/accuracy")),
    _cifar("dropout_0_25", "dropout 0.25"),
    _cifar("dropout_0_15", "dropout 0.15"),
    _cifar("decay_1e_5", "weight decay 1e-5"),
    _cifar("decay_1e_4", "weight decay 1e-4"),
    _cifar("layers_2", "2 hidden layers"),
    _cifar("layers_3", "3 hidden layers"),
    _cifar("nodes_128", "128 hidden units"),
    _cifar("nodes_512", "512 hidden units"),
    _cifar("epochs_25", "25 epochs"),
    _cifar("epochs_50", "50 epochs"),
    _cifar("batch_64", "batch 64"),
    _cifar("batch_256", "batch 256"),
    _cifar("adam_0_1", "Adam 0.1"),
    _cifar("adam_0_001", "Adam 0.001", note="not in the report: a rate that suits Adam"),
    _cifar("lr_0_01", "SGD 0.01"),
    _cifar("lr_0_001", "SGD 0.001"),
    _cifar("final", "two layers, dropout 0.15, 10 epochs at 0.1, 10 at 0.01"),
    _cifar("final_lr_0_01", "two layers, dropout 0.15, 10 epochs at 0.01"),
    _cifar(
        "final_lr_0_01_20",
        "two layers, dropout 0.15, 20 epochs at 0.01",
        note="not in the report: as long as the other final",
    ),
)


def _wish(name: str, what: str, against: str, *, report: str, metric: str = "test/accuracy") -> Row:
    return Row(name=f"wish_{name}", report=report, what=what, against=against, metrics=(Metric(metric),))


# Experiments that the reports only wished for. Each is compared with the row ``against``.
_WISHES = (
    _wish("mnist_softmax", "784-10 with softmax and cross-entropy", "r1_linear_mse", report="R1"),
    _wish("mnist_early_stopping", "784-10, MSE, until 1,100 steps without improvement", "r1_linear_mse", report="R1"),
    _wish("mnist_blur", "784-64-64-10, training on blurred digits", "r4_mlp_64_64", report="R1"),
    _wish("mnist_stretch", "784-64-64-10, training on stretched digits", "r4_mlp_64_64", report="R1"),
    _wish("mnist_pen", "784-64-64-10, training with strokes of random width", "r4_mlp_64_64", report="R1"),
    _wish("mnist_none", "784-64-64-10, photographs and noise as an eleventh class", "r4_mlp_64_64", report="R1"),
    _wish("mnist_deskew", "784-64-64-10 on deskewed digits", "r4_mlp_64_64", report="R4"),
    Row(name="wish_mnist_folds", report="R4", what="784-64-64-10, 5-fold cross-validation", against="r4_mlp_64_64",
        folds=5, metrics=(Metric("test/accuracy"), Metric("val/accuracy")),
        note="each fold trains on 48,000 images; the standard deviation is over the folds"),
    _wish("mnist_tanh", "784-64-64-10 with tanh", "r4_mlp_64_64", report="R4"),
    _wish("mnist_cnn", "CNN, shifts, one cycle", "r4_lenet", report="R4"),
    Row(name="wish_mnist_mlp_500_300", report="R4", what="784-500-300-10 to reach Hinton's 98.47 %",
        against="r4_mlp_500_300", metrics=(Metric("test/accuracy", 0.9847),)),
    _wish("fashion_cnn", "CNN, shifts and flips, one cycle", "r5_fashion_final", report="R5a"),
    _wish("fashion_arch8_tuned", "architecture 8, Adam, dropout, early stopping", "r5_fashion_final", report="R5a"),
    _wish("fashion_standardised", "architecture 8, pixels of mean 0 and deviation 1", "r5_fashion_final", report="R5a"),
    _wish("cifar_cnn", "CNN, crops and flips, one cycle", "r5_cifar_series", report="R5b"),
    _wish("cifar_adagrad", "AdaGrad 0.01", "r5_cifar_baseline", report="R5b", metric="val/accuracy"),
    _wish("cifar_rmsprop", "RMSProp 0.001", "r5_cifar_baseline", report="R5b", metric="val/accuracy"),
    _wish("cifar_lr_0_05", "SGD 0.05", "r5_cifar_baseline", report="R5b", metric="val/accuracy"),
    _wish("cifar_clipping", "gradients clipped at norm 1", "r5_cifar_baseline", report="R5b", metric="val/accuracy"),
    _wish("cifar_he", "He's initial weights", "r5_cifar_baseline", report="R5b", metric="val/accuracy"),
    Row(name="wish_cifar_early_stopping", report="R5b", what="up to 100 epochs, patience 5",
        against="r5_cifar_baseline", metrics=_VALIDATION,
        note="tests the best epoch by validation; its val/accuracy is the last epoch's, as in every row"),
)  # fmt: skip
