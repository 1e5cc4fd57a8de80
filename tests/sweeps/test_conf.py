"""``conf/sweep/`` has a search space for each data set and model, and its jobs are valid runs."""

import itertools

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from digitlab.api import resolvers
from digitlab.config.compose import CONF, compose, register_resolvers
from digitlab.sweeps.jobs import Grid, sweep_overrides
from digitlab.training.experiment import Experiment

DATA = ("mnist", "fashion_mnist", "cifar10")
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
PAIRS = [f"{data}_{model}" for data in DATA for model in MODELS]
SPACES = [*PAIRS, "five_factors"]
TESTS = ["lr_range", "train_size"]


def grid_of(name):
    """The jobs of ``-m sweep=NAME``, as Hydra makes them."""
    register_resolvers()
    resolvers.register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("train", [f"sweep={name}"], run_mode=None)
        return Grid(loader, sweep_overrides(config))


@pytest.fixture(params=SPACES)
def jobs(request):
    """The jobs of ``-m sweep=NAME``, and NAME."""
    return grid_of(request.param), request.param


def test_every_data_set_and_model_has_a_space():
    assert {path.stem for path in (CONF / "sweep").glob("*.yaml")} == {*SPACES, *TESTS}


@pytest.mark.sample(6)
def test_every_space_sweeps_the_factors_and_its_first_and_last_job_are_valid(jobs):
    grid, name = jobs
    factors = {"optimizer", "optimizer.lr", "optimizer.weight_decay", "data.batch_size", "model.dropout"}
    without_dropout = name.endswith(("_linear", "_fast_cnn", "_torchvision"))
    assert set(grid.keys) == factors - ({"model.dropout"} if without_dropout else set())
    for job in (grid.jobs()[0], grid.jobs()[-1]):
        Experiment.from_config(compose(job), typed=job)


@pytest.mark.sample(2)
@pytest.mark.parametrize(("name", "keys", "count"), [
    ("lr_range", ["optimizer.lr"], 25), ("train_size", ["data.train_size", "seed"], 30),
])  # fmt: skip
def test_a_test_of_rates_or_sizes_has_valid_jobs_for_each_model_and_optimizer(name, keys, count):
    grid = grid_of(name)
    jobs = grid.jobs()
    assert (grid.keys, len(jobs)) == (keys, count)
    for model, optimizer in (("mlp", "sgd"), ("lenet", "adam"), ("cnn", "sgd")):
        job = [f"sweep={name}", *jobs[-1], f"model={model}", f"optimizer={optimizer}"]
        Experiment.from_config(compose(job), typed=job)


@pytest.mark.sample(3)
@pytest.mark.parametrize(("data", "model"), list(itertools.product(DATA, MODELS)))
def test_a_space_chooses_the_data_set_and_model_in_its_name(data, model):
    config, pair = compose([f"sweep={data}_{model}"]), compose([f"data={data}", f"model={model}"])
    assert (config.data, config.model) == (pair.data, pair.model)
