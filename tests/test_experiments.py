"""The recipes in conf/experiment: each can be composed, trained on two mini-batches and tested."""

import re

import pytest
from omegaconf import OmegaConf

from digitlab.config.compose import CONF, compose
from digitlab.training import train
from digitlab.training.experiment import Experiment

FILES = sorted((CONF / "experiment").glob("*.yaml"))
NAMES = [path.stem for path in FILES]


@pytest.mark.sample(8)
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_a_valid_configuration(name):
    Experiment.from_config(compose([f"experiment={name}"]), typed=[])


@pytest.mark.sample(22)
# The slowest recipe, which comes first, is left to `make test-extra`.
@pytest.mark.sample(66)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.extra, pytest.mark.long] * (name == "cifar10_94")) for name in NAMES]
)
def test_every_recipe_trains_and_is_tested(shrunk, run_folder, request, name):
    config = shrunk(f"experiment={name}", "trainer.max_epochs=1", "trainer.limit_train_batches=2")
    # More images would take a large network minutes.
    config.data.batch_size = 8
    if "Mnist" not in config.data.source._target_ or "Fashion" in config.data.source._target_:
        request.getfixturevalue("data_root")
    result = train(config, folder=run_folder).result
    assert (result["status"], result["epochs"]) == ("finished", 1)
    assert 0 <= result["metrics"]["test/accuracy"] <= 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_header_of_a_recipe_contains_its_command(path):
    text = path.read_text(encoding="utf-8")
    swept = "hydra" in OmegaConf.load(path)
    assert re.search(rf"^#   python train.py {'-m ' if swept else ''}experiment={path.stem}$", text, re.MULTILINE)


@pytest.mark.sample(6)
@pytest.mark.parametrize(
    ("name", "report"),
    [(name, name[:2]) for name in NAMES if name.startswith("r")],
)
def test_recipes_of_the_reports_use_the_data_and_checkpoint_of_the_report(shrunk, name, report):
    config = shrunk(f"experiment={name}")
    assert config.data.normalize == "unit"
    # R1 keeps its best network, picked here on validation; all others report the last epoch.
    assert config.test == ("best" if report == "r1" else "last")
    assert config.early_stopping is None or config.data.val_size == 0
