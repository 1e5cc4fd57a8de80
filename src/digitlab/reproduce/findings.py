"""The findings of the reports that are no single number, each written as claims that our runs can support or refute.

``reproduce.verdicts`` decides whether they hold. Findings whose text says "ours" are not in a report: they check our
own choices. A row is a recipe with some overrides, see ``reproduce.registry``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from digitlab.reproduce.registry import rows


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number that each run of ``row`` has, such as a metric. ``RunOutcome.value`` lists the names.

    The default is the mean validation accuracy of the last five epochs.
    """

    row: str
    name: str = "late_val_accuracy"


@dataclass(frozen=True, slots=True)
class Claim:
    """The claim that ``larger`` - ``smaller`` > ``margin``.

    A float is a constant. With a negative margin, ``larger`` may be a little smaller: two claims of this kind say that
    two quantities are about equal.
    """

    larger: Quantity | float
    smaller: Quantity | float
    margin: float = 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence of a report, and the claims that all have to hold for it."""

    report: str
    text: str
    claims: tuple[Claim, ...]


_VOLATILITY = "volatility"
# Only times of runs that had the machine to themselves: otherwise other programs would decide a finding.
_SECONDS = "train_seconds_alone"
_BASELINE = Quantity("r5_cifar_baseline")
_BASELINE_VOLATILITY = Quantity("r5_cifar_baseline", _VOLATILITY)


def _cifar(variant: str, name: str = "late_val_accuracy") -> Quantity:
    return Quantity(f"r5_cifar_{variant}", name)


def _baseline_above(*variants: str) -> tuple[Claim, ...]:
    """The claims that the baseline is more accurate than each of these variants."""
    return tuple(Claim(_BASELINE, _cifar(variant)) for variant in variants)


def findings() -> tuple[Finding, ...]:
    """All findings, in the order of the reports."""
    return (*_R1, *_R3, *_r5_fashion(), *_R5_CIFAR)


_R1 = (
    Finding(
        "R1", "the cost falls below 0.05 within 300 to 500 iterations",
        (
            Claim(500.0, Quantity("r1_test_curve", "test/steps_to_loss_0.05")),
            Claim(Quantity("r1_test_curve", "test/steps_to_loss_0.05"), 300.0),
        ),
    ),
    Finding(
        "R1", "question: is the most accurate network the one with the lowest cost? (holds: within ten iterations)",
        (Claim(10.0, Quantity("r1_test_curve", "test/steps_between_bests")),),
    ),
)  # fmt: skip

_R3 = (
    Finding(
        "R3b", "overfitting is seen from epoch 3 (validation loss above training loss from there on)",
        (Claim(3.5, Quantity("r3_dense_200_50_20", "overfits_from_epoch")),),
    ),
    Finding(
        "R3a", "the framework is faster than NumPy (only runs that had the machine to themselves count)",
        (Claim(Quantity("r3_sigmoid30_mse_numpy", _SECONDS), Quantity("r3_sigmoid30_mse", _SECONDS)),),
    ),
)  # fmt: skip


def _r5_fashion() -> tuple[Finding, ...]:
    architectures = [Quantity(f"r5_fashion_arch{number}") for number in range(1, 9)]
    ours = [Quantity(f"r5_fashion_ours_arch{number}") for number in range(1, 9)]
    # The names of these rows are r5_fashion_lr_RATE_INIT. INIT is ``normal`` for unscaled initial weights N(0, 1).
    unscaled = [row for row in rows() if row.startswith("r5_fashion_lr_") and row.endswith("_normal")]
    unscaled_above = [row for row in unscaled if float(row.split("_")[3]) > 0.001]
    other_rates = [row for row in rows() if row.startswith("r5_fashion_lr_") and row != "r5_fashion_lr_0.1_he"]
    batch = {size: f"r5_fashion_batch_{size}" for size in (128, 2048, 4096)}
    return (
        Finding(
            "R5a", "unscaled weights: every rate above 0.001 ends in vanishing or exploding gradients (below 20 %)",
            tuple(Claim(0.2, Quantity(row)) for row in unscaled_above),
        ),
        Finding(
            "R5a", "the batch size has little effect (128 and 2048 within one point)",
            (
                Claim(Quantity(batch[128]), Quantity(batch[2048]), margin=-0.01),
                Claim(Quantity(batch[2048]), Quantity(batch[128]), margin=-0.01),
            ),
        ),
        Finding(
            "R5a", "batch 2048 is the smoothest",
            tuple(
                Claim(Quantity(batch[each], _VOLATILITY), Quantity(batch[2048], _VOLATILITY)) for each in (128, 4096)
            ),
        ),
        Finding(
            "R5a", "batch 2048 is the cheapest (only runs that had the machine to themselves count)",
            tuple(
                Claim(Quantity(batch[each], _SECONDS), Quantity(batch[2048], _SECONDS))
                for each in (128, 4096)
            ),
        ),
        Finding("R5a", "batch 4096 overshoots (below 2048)", (Claim(Quantity(batch[2048]), Quantity(batch[4096])),)),
        Finding("R5a", "architecture 8 is the best of the eight", _last_is_largest(architectures)),
        Finding(
            "R5a", "ours: 0.1 with He's weights is the best of the rates and initial weights",
            tuple(Claim(Quantity("r5_fashion_lr_0.1_he"), Quantity(row)) for row in other_rates),
        ),
        Finding(
            "R5a", "ours: batch 128 is the best of the batch sizes",
            tuple(Claim(Quantity(batch[128]), Quantity(batch[size])) for size in (2048, 4096)),
        ),
        Finding(
            "R5a", "ours: architecture 8 is the best of the eight at 0.1 as well",
            _last_is_largest(ours),
        ),
        Finding(
            "R5a", "the curve of architecture 8 settles at epochs 20 to 25 (last five epochs: less than one point)",
            (Claim(0.01, Quantity("r5_fashion_arch8", "gain_of_last_five_epochs")),),
        ),
    )  # fmt: skip


def _last_is_largest(quantities: Sequence[Quantity]) -> tuple[Claim, ...]:
    """The claims that the last quantity is larger than each of the others."""
    return tuple(Claim(quantities[-1], other) for other in quantities[:-1])


_R5_CIFAR = (
    Finding(
        "R5b", "dropout 0.15 is better and steadier than 0.25",
        (
            Claim(_cifar("dropout_0_15"), _cifar("dropout_0_25")),
            Claim(_cifar("dropout_0_25", _VOLATILITY), _cifar("dropout_0_15", _VOLATILITY)),
        ),
    ),
    Finding("R5b", "weight decay costs accuracy", _baseline_above("decay_1e_5", "decay_1e_4")),
    Finding("R5b", "1 hidden layer beats 2 and 3", _baseline_above("layers_2", "layers_3")),
    Finding("R5b", "256 nodes beat 128 and 512", _baseline_above("nodes_128", "nodes_512")),
    Finding(
        "R5b", "25 epochs are higher but unstable",
        (Claim(_cifar("epochs_25"), _BASELINE), Claim(_cifar("epochs_25", _VOLATILITY), _BASELINE_VOLATILITY)),
    ),
    Finding(
        "R5b", "50 epochs overfit (validation loss rises from its minimum, more than after 10 epochs)",
        (Claim(_cifar("epochs_50", "val_loss_rise"), _cifar("baseline", "val_loss_rise")),),
    ),
    Finding(
        "R5b", "batch 128 is the steadiest",
        tuple(Claim(_cifar(f"batch_{size}", _VOLATILITY), _BASELINE_VOLATILITY) for size in (64, 256)),
    ),
    Finding(
        "R5b", "SGD far above Adam at the same 0.1 (ten points)",
        (Claim(_BASELINE, _cifar("adam_0_1"), margin=0.1),),
    ),
    Finding("R5b", "SGD at 0.1 above Adam at 0.001 (ours)", _baseline_above("adam_0_001")),
    Finding(
        "R5b", "rate 0.01 is smoother than 0.1 and 0.001, but below 0.1",
        (
            Claim(_BASELINE_VOLATILITY, _cifar("lr_0_01", _VOLATILITY)),
            Claim(_cifar("lr_0_001", _VOLATILITY), _cifar("lr_0_01", _VOLATILITY)),
            *_baseline_above("lr_0_01"),
        ),
    ),
    Finding(
        "R5b", "the finals gain almost no accuracy over the baseline (at most one point)",
        (Claim(_BASELINE, _cifar("final"), margin=-0.01), Claim(_BASELINE, _cifar("final_lr_0_01"), margin=-0.01)),
    ),
    Finding(
        "R5b", "the finals are less volatile than the baseline",
        tuple(Claim(_BASELINE_VOLATILITY, _cifar(final, _VOLATILITY)) for final in ("final", "final_lr_0_01")),
    ),
)  # fmt: skip
