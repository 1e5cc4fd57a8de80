"""The jobs of a grid share a population if they differ in numbers, and do not if they differ in kind."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from digitlab.config.compose import compose
from digitlab.population.grouping import populations
from digitlab.population.job import Job
from digitlab.results.folder import RunFolder
from digitlab.training.experiment import Experiment


def _groups(*jobs: Sequence[str]) -> list[list[int]]:
    """The numbers of the jobs with these overrides, by populations."""
    made = []
    for number, overrides in enumerate(jobs):
        config = compose(["trainer=cpu", *overrides])
        experiment = Experiment.from_config(config, typed=overrides)
        folder = RunFolder(Path(str(number)))
        made.append(Job(number=number, config=config, experiment=experiment, folder=folder, overrides=overrides))
    return sorted(sorted(job.number for job in group) for group in populations(made))


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("choice", "override"),
    [
        ("optimizer=muon", "optimizer.sgd_lr=0.3"),
        ("optimizer=muon", "optimizer.bias_lr=0.3"),
        ("optimizer=muon", "optimizer.sgd_momentum=0"),
        ("optimizer=muon", "optimizer.sgd_weight_decay=0.1"),
        ("optimizer=sgd", "optimizer.momentum=0.9"),
        ("optimizer=rmsprop", "optimizer.momentum=0.9"),
        ("optimizer=adamw", "optimizer.betas=[0.8,0.9]"),
        ("ema.decay=0.9", "ema.decay=0.99"),
        ("scheduler=constant", "scheduler.warmup_epochs=0.5"),
        ("scheduler=steps", "scheduler.milestones_epochs=[1,2]"),
        ("scheduler=steps", "scheduler.gamma=0.5"),
        ("scheduler=cosine", "scheduler.final_factor=0.1"),
        ("scheduler=one_cycle", "scheduler.initial_factor=0.1"),
        ("scheduler=one_cycle", "scheduler.final_factor=0.1"),
        ("scheduler=one_cycle", "scheduler.peak_fraction=0.1"),
    ],
)
def test_runs_that_differ_in_a_number_of_the_same_component_share_a_population(choice: str, override: str) -> None:
    assert _groups([choice], [choice, override]) == [[0, 1]]


@pytest.mark.parametrize("override", ["iterations=3", "normalize_filters=true", "sgd_layers=[output,hidden.0]"])
def test_members_of_a_population_orthogonalise_the_same_layers_in_the_same_way(override: str) -> None:
    assert _groups(["optimizer=muon"], ["optimizer=muon", f"optimizer.{override}"]) == [[0], [1]]


_ALL_NUMBERS = (
    ("optimizer.lr=0.1", "optimizer.lr=0.01"),
    ("optimizer.weight_decay=0", "optimizer.weight_decay=0.001"),
    ("model.dropout=0", "model.dropout=0.25"),
    ("loss.label_smoothing=0", "loss.label_smoothing=0.1"),
    ("ema.decay=0.9", "ema.decay=0.99"),
    ("scheduler=one_cycle", "scheduler=steps"),
    ("scheduler.warmup_epochs=0", "scheduler.warmup_epochs=0.5"),
    ("seed=0", "seed=1"),
)


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("rule", "own"),
    [
        ("sgd", ("optimizer.momentum=0", "optimizer.momentum=0.9")),
        ("adam", ("optimizer.betas=[0.9,0.99]", "optimizer.betas=[0.8,0.9]")),
    ],
)
def test_jobs_that_differ_in_all_numbers_at_once_share_a_population(rule: str, own: tuple[str, str]) -> None:
    numbers = (*_ALL_NUMBERS, own)
    # The first of all, the second of all, and the second of each alone.
    which = [0, 2 ** len(numbers) - 1, *(1 << place for place in range(len(numbers)))]
    chosen = [[pair[code >> place & 1] for place, pair in enumerate(numbers)] for code in which]
    groups = _groups(*([f"optimizer={rule}", *overrides] for overrides in chosen))
    assert groups == [list(range(len(chosen)))]


def test_jobs_that_differ_in_kind_are_separated_and_jobs_that_cannot_be_stacked_train_alone() -> None:
    kinds: tuple[list[str], ...] = (
        [], ["model=linear"], ["model.hidden=[64]"], ["data.batch_size=64"], ["optimizer=sgd"], ["data=fashion_mnist"],
        ["loss=mse"], ["augment=shift"], ["compile=true"],
    )  # fmt: skip
    # As a grid comes: one seed of all, then the other.
    stacked = [[*kind, f"seed={seed}"] for seed in (0, 1) for kind in kinds]
    alone = [["trainer.precision=bf16", f"seed={seed}"] for seed in (0, 1)]
    assert _groups(*stacked, *alone) == [*([kind, kind + len(kinds)] for kind in range(len(kinds))), [18], [19]]
