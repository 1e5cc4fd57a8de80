"""Only runs that differ in numbers share a population, and populations have at most ``max_members``."""

import resource
from pathlib import Path

import pytest
import torch

from digitlab.api.own_objects import own_objects
from digitlab.config.compose import compose
from digitlab.models import MLP
from digitlab.population import grouping
from digitlab.population.grouping import allow_members_files, group_key, populations, preferred_members, split
from digitlab.population.job import Job
from digitlab.results.folder import RunFolder
from digitlab.training.experiment import Experiment


def _job(*overrides: str, number: int = 0) -> Job:
    config = compose(["trainer=cpu", *overrides])
    experiment = Experiment.from_config(config, typed=overrides)
    return Job(number=number, config=config, experiment=experiment, folder=RunFolder(Path(str(number))), overrides=[])


def _kin(one: list[str], other: list[str]) -> bool:
    first, second = (group_key(job.config, job.experiment) for job in (_job(*one), _job(*other)))
    assert first is not None
    return first == second


@pytest.mark.parametrize(
    "override",
    [
        "seed=4",
        "model.dropout=0.3",
        "optimizer.lr=0.5",
        "optimizer.weight_decay=0.1",
        "optimizer.betas=[0.8,0.9]",
        "loss.label_smoothing=0.1",
        "scheduler=cosine",
        "trainer.max_epochs=3",
        "early_stopping.patience=9",
        "monitor.metric=val/loss",
        "test=none",
    ],
)
def test_runs_that_differ_in_a_number_share_a_population(override: str) -> None:
    assert _kin([], [override])


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "override",
    [
        "data=fashion_mnist",
        "data.batch_size=64",
        "data.split_seed=1",
        "model=linear",
        "model.hidden=[64]",
        "model.activation=tanh",
        "model.init=he",
        "optimizer=sgd",
        "loss=mse",
        "augment=shift",
        "ema.decay=0.9",
        "trainer.precision=64",
        "trainer.gradient_clip_norm=1",
        "trainer.max_steps=10",
        "trainer.val_every_steps=10",
        "compile=true",
    ],
)
def test_runs_that_differ_in_more_than_numbers_do_not_share_a_population(override: str) -> None:
    assert not _kin([], [override])


@pytest.mark.parametrize(
    "override",
    [
        "trainer.precision=bf16",
        "trainer.profiler=simple",
        "model=fast_cnn",
        "tta=flip",
        "+callbacks.own={_target_: lightning.pytorch.callbacks.Timer}",
    ],
)
def test_runs_that_cannot_be_stacked_train_alone(override: str) -> None:
    job = _job(override)
    assert group_key(job.config, job.experiment) is None


def test_a_network_of_digitlab_that_the_user_has_changed_trains_alone() -> None:
    network = MLP(image_shape=(1, 28, 28), classes=10, hidden=[8])
    network.hidden[0].requires_grad_(False)
    with own_objects([], model=network, data=None, test_data=None, class_names=None) as own:
        job = _job(*own.overrides)
        assert type(job.experiment.network) is MLP
        assert group_key(job.config, job.experiment) is None


def test_populations_have_at_most_max_members_and_contain_every_job() -> None:
    jobs = [_job(f"seed={number % 3}", number=number) for number in range(10)]
    groups = populations([*jobs, _job("model=linear", number=10)], max_members=4)
    assert sorted(map(len, groups)) == [1, 3, 3, 4]
    assert sorted(job.number for group in groups for job in group) == list(range(11))


def test_a_population_opens_no_more_files_than_the_process_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (50, 112))
    jobs = [_job(f"seed={number}", number=number) for number in range(10)]
    assert [len(group) for group in populations(jobs, max_members=8)] == [2, 3, 2, 3]


@pytest.mark.parametrize(
    ("members", "before", "after"),
    [
        (256, (1024, 1 << 20), (1124, 1 << 20)),
        (256, (1024, resource.RLIM_INFINITY), (1124, resource.RLIM_INFINITY)),
        (100, (1024, 4096), None),  # it is high enough
        (256, (1024, 1024), (1024, 1024)),  # it cannot be raised
        (256, (resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_the_soft_limit_of_open_files_is_raised_for_a_large_population(
    monkeypatch: pytest.MonkeyPatch, members: int, before: tuple[int, int], after: tuple[int, int] | None
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: before)
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.append(new))
    allow_members_files(members)
    assert limits == ([] if after is None else [after])


def test_split_keeps_runs_with_the_same_seed_together() -> None:
    jobs = [_job(f"seed={number % 2}", number=number) for number in range(6)]
    assert [[job.seed for job in part] for part in split(jobs, 3)] == [[0, 0, 0], [1, 1, 1]]


def test_on_a_cpu_populations_of_large_networks_are_small_and_convolutions_train_alone() -> None:
    models = ["model.hidden=[30]"], ["model.hidden=[500,300]"]
    sizes = [preferred_members(_job(*model).experiment) for model in models]
    assert sizes[0] > sizes[1] > 1
    assert preferred_members(_job("model=lenet").experiment) == 1


@pytest.mark.parametrize("network", ["model=mlp", "model=cnn"])
def test_a_gpu_trains_256_members_together(monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    monkeypatch.setattr(grouping, "device_of", lambda experiment: torch.device("cuda"))
    assert preferred_members(_job(network).experiment) == 256
