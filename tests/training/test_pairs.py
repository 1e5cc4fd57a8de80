"""Every data set with every model: the composed configuration trains two updates and is tested."""

import csv
import math

import pytest

from digitlab.config.compose import CONF
from digitlab.engine.metrics import NAMES
from digitlab.results.checkpoint import read_checkpoint
from digitlab.results.folder import RunFolder
from digitlab.training import train

# Their files are not here; tests/data/test_torchvision_sources.py reads small ones.
ABSENT = {"cifar100", "emnist", "kmnist", "qmnist", "svhn"}
# Small, because some of the networks are large.
BATCH = 8


def names(group):
    """The options in ``conf/``, so that a new data set or model is tested with all others at once."""
    return sorted({path.stem for path in (CONF / group).glob("*.yaml")} - ABSENT)


def test_all_promised_data_sets_and_models_exist():
    assert {"mnist", "fashion_mnist", "cifar10", "folder"} <= set(names("data"))
    assert {"linear", "mlp", "mlp_dropout", "lenet", "cnn", "fast_cnn", "torchvision"} <= set(names("model"))


@pytest.mark.sample(48)
@pytest.mark.parametrize("model", names("model"))
@pytest.mark.parametrize("data", names("data"))
def test_every_model_trains_on_every_data_set(shrunk, run_folder, request, data, model):
    two = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", f"data.batch_size={BATCH}"]
    if data == "folder":
        two.append(f"data.path={request.getfixturevalue('pictures')}")
    elif data != "mnist":
        request.getfixturevalue("data_root")
    outcome = train(shrunk(f"data={data}", f"model={model}", *two), folder=run_folder)
    assert outcome.result["status"] == "finished"
    folder = RunFolder(run_folder)
    checkpoint = read_checkpoint(folder.last)
    # Adam has a mean gradient for every parameter: each had two updates, with a gradient other than 0.
    moments = checkpoint["optimizer_states"][0]["state"].values()
    assert all(state["step"] == 2 and state["exp_avg"].any() for state in moments)
    assert sum(state["exp_avg"].numel() for state in moments) == outcome.result["parameters"]
    tested = {name: value for name, value in outcome.result["metrics"].items() if name.startswith("test/")}
    assert {f"test/{name}" for name in (*NAMES, "calibration_error")} <= tested.keys()
    assert all(math.isfinite(value) for value in tested.values())
    _, *rows = csv.reader(folder.confusion.read_text(encoding="utf-8").splitlines())
    assert sum(int(count) for row in rows for count in row[1:]) == 2 * BATCH
