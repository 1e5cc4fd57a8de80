"""The composed configuration: the keys of the contract, and what may be built from it."""

import copy
import json

import pytest
from lightning.pytorch import Callback
from omegaconf import OmegaConf, open_dict
from torch import nn

from digitlab.config.compose import CONF, add_missing_defaults, build, compose, plain, walk
from digitlab.config.metrics import metric_direction
from digitlab.core.errors import ConfigError
from digitlab.training.experiment import Experiment

CONTRACT = """\
    data.root data.batch_size data.val_size data.train_size data.split_seed data.normalize augment
    model.hidden model.activation model.dropout model.batch_norm model.init loss optimizer.lr optimizer.weight_decay
    scheduler trainer.max_epochs trainer.precision early_stopping.patience monitor.metric monitor.mode
    seed test resume compile
"""


def choices(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_every_key_of_the_contract_is_there():
    keys = {key for key, _ in walk(OmegaConf.to_container(compose(), resolve=False))}
    assert set(CONTRACT.split()) <= keys


@pytest.mark.parametrize(
    "override",
    [
        "optimizer=sgd optimizer.momentum=0.9",
        "loss=mse loss.output=raw",
        "test=none",
        "compile=true",
        "early_stopping=null",
        "early_stopping.patience=3",
        "data.val_size=0",
        "data.val_size=0.1",
        "data.train_size=1000",
        "data.normalize=unit",
        "trainer.precision=bf16",
        "monitor.metric=train/f1",
        "augment=[shift,cutout,mixup]",
        "model.activation=[relu,tanh] model.hidden=[8,8]",
        "resume=null",
    ],
)
def test_what_the_contract_allows_is_accepted(override):
    Experiment.from_config(compose(override.split()))


@pytest.mark.parametrize("group", ["data", "model", "loss", "optimizer", "scheduler", "augment", "experiment", "debug"])
def test_every_name_of_a_group_is_accepted(group):
    for name in choices(group):
        Experiment.from_config(compose([f"{group}={name}"]))


@pytest.mark.parametrize(("metric", "mode"), [("val/accuracy", "max"), ("val/loss", "min"), ("train/f1", "max")])
def test_the_direction_of_the_monitor_follows_its_metric(metric, mode):
    assert Experiment.from_config(compose([f"monitor.metric={metric}"])).monitor.mode == mode


def test_without_validation_a_monitor_that_nobody_typed_gives_way():
    experiment = Experiment.from_config(compose(["data.val_size=0"]), typed=["data.val_size=0"])
    assert experiment.monitor.metric == "train/accuracy"
    assert experiment.early_stopping is None


def test_what_an_older_version_did_not_know_gets_its_default():
    now = compose(["optimizer=sgd", "trainer.max_epochs=3"])
    before = OmegaConf.create(OmegaConf.to_container(now, resolve=False))
    del before.figures, before.trainer.profiler, before.optimizer.nesterov
    old = add_missing_defaults(before)
    assert old.figures == now.figures
    assert old.trainer == now.trainer
    # The defaults are another optimiser's.
    assert "nesterov" not in old.optimizer


def test_a_folder_of_data_may_be_given_from_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Experiment.from_config(compose(["data.root='~/x'"])).data.root == tmp_path / "x"


def test_composing_leaves_no_trace():
    assert compose(["seed=3", "model=lenet"]) != compose()
    assert compose() == compose()


@pytest.mark.parametrize("target", ["os.system", "subprocess.Popen", "builtins.eval", "nn.Linear", ""])
def test_only_named_packages_are_built_from(target):
    with pytest.raises(ConfigError, match="must lie in digitlab, torch, lightning, torchmetrics"):
        build({"_target_": target}, "model", nn.Module)


def test_a_package_of_the_user_is_built_from_once_it_is_allowed(monkeypatch, tmp_path):
    (tmp_path / "users_package.py").write_text(
        "class Part:\n    def __init__(self, *, size):\n        self.size = size\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "users_package.Part", "size": 3}
    with pytest.raises(ConfigError, match="users_package"):
        build(node, "model", object)
    monkeypatch.setenv("DIGITLAB_ALLOW", "other,users_package")
    assert vars(build(node, "model", object)) == {"size": 3}


def test_what_is_no_class_of_the_right_kind_is_not_built():
    for target in ("torch.nn.Linear", "lightning.pytorch.seed_everything"):
        with pytest.raises(ConfigError, match="must be a Callback"):
            build({"_target_": target}, "callbacks.mine", Callback)


def test_a_class_that_is_not_there_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"^model\._target_=digitlab\.models\.MPL: .*did you mean `MLP`"):
        build({"_target_": "digitlab.models.MPL"}, "model", nn.Module)


def test_an_error_in_a_constructor_is_one_line_that_says_where():
    timer = {"_target_": "lightning.pytorch.callbacks.Timer", "duration": "3 x"}
    with pytest.raises(ConfigError, match=r"^callbacks\.timer=Timer: can't be built: \w+: .* line \d+\)$"):
        build(timer, "callbacks.timer", Callback)


@pytest.mark.parametrize("value", ["${nowhere}", "???", "${oc.env:NO_SUCH_VARIABLE}"])
def test_a_value_that_leads_nowhere_is_named(value):
    with pytest.raises(ConfigError) as caught:
        plain(OmegaConf.create({"model": {"dropout": value}}).model, "model")
    assert (caught.value.key, caught.value.value) == ("model.dropout", value)


@pytest.fixture(scope="module")
def composed():
    return compose(["trainer=cpu"])


# Constructors that run something, or are called where a class is expected: each of them where it can stand.
@pytest.mark.parametrize("place", ["model", "model.hidden", "model.unknown", "data.source", "callbacks.mine", "loss"])
@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
         "entrypoint": "touch", "args": ["WITNESS"], "env": {}, "stdout": None, "stderr": None, "local_rank_id": 0,
         "numa_options": None},
        {"_target_": "torch.hub.load", "repo_or_dir": "WITNESS", "model": "x", "source": "local"},
        {"_target_": "torch.load", "f": "WITNESS", "weights_only": False},
        {"_target_": "torch.utils.cpp_extension.load_inline", "name": "x", "cpp_sources": ""},
        {"_target_": "torch.jit.ScriptModule.__reduce__"},
        {"_target_": "lightning.pytorch.cli.LightningCLI"},
        {"_target_": "digitlab.config.compose.import_module", "name": "os"},
        {"_target_": "digitlab.config.compose.os.system", "command": "touch WITNESS"},
    ],
    ids=lambda node: node["_target_"].rpartition(".")[2],
)  # fmt: skip
def test_nothing_is_called_but_a_class_of_the_kind_that_belongs_there(place, node, tmp_path, composed):
    witness = tmp_path / "witness"
    text = json.loads(json.dumps(node).replace("WITNESS", str(witness)))
    config = copy.deepcopy(composed)
    with open_dict(config):
        OmegaConf.update(config, place, text, force_add=True, merge=False)
    with pytest.raises(ConfigError):
        Experiment.from_config(config, typed=())
    assert not witness.exists()


def test_a_node_in_a_node_is_built_for_an_annotation_only(monkeypatch, tmp_path):
    (tmp_path / "nested_package.py").write_text(
        "class Inner:\n    pass\n"
        "class Outer:\n    def __init__(self, *, inner: Inner | None = None, plain=None, any: object = None):\n"
        "        self.inner = inner\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DIGITLAB_ALLOW", "nested_package")
    outer, inner = ({"_target_": f"nested_package.{name}"} for name in ("Outer", "Inner"))
    assert type(build(outer | {"inner": inner}, "part", object).inner).__name__ == "Inner"
    for name in ("plain", "any"):
        with pytest.raises(ConfigError, match=rf"^part\.{name}=.*Outer does not say of what class it must be"):
            build(outer | {name: inner}, "part", object)
    with pytest.raises(ConfigError, match=r"^part\.inner\._target_=nested_package\.Outer: must be a Inner"):
        build(outer | {"inner": outer}, "part", object)


def test_what_a_run_hands_to_a_network_must_have_a_place_in_its_constructor():
    with pytest.raises(ConfigError, match=r"^model\._target_=torch.nn.Identity: its constructor must take image_shape"):
        build({"_target_": "torch.nn.Identity"}, "model", nn.Module, image_shape=(1, 2, 2), classes=2)


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("val/accuracy", "max"),
        ("val/loss", "min"),
        ("test/calibration_error", "min"),
        ("train_seconds", "min"),
        ("images_per_second", "max"),
        ("test/loss_at_accuracy_max", "min"),
        ("test/f1_weighted", "max"),
        # A class may have any name.
        ("test/class_accuracy/loss", "max"),
    ],
)
def test_losses_errors_and_seconds_are_better_when_small(metric, direction):
    assert metric_direction(metric) == direction
