"""The composed configuration: its keys, and the objects that may be built from it."""

import copy
import json
import re

import pytest
from lightning.pytorch import Callback
from omegaconf import OmegaConf, open_dict
from torch import nn

from digitlab.config.compose import CONF, add_missing_defaults, build, compose, plain, walk
from digitlab.config.metrics import metric_direction
from digitlab.core.errors import ConfigError
from digitlab.training.experiment import Experiment


def choices(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


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
def test_documented_values_are_accepted(override):
    Experiment.from_config(compose(override.split()))


@pytest.mark.sample(9)
@pytest.mark.parametrize(
    "overrides",
    [
        "",
        "seed=3",
        "model=lenet data=cifar10 optimizer=sgd optimizer.lr=0.3 early_stopping=null",
        "augment=[shift,cutout] model.hidden=[8,8] model.activation=[relu,tanh] +callbacks.a={b:1}",
        "experiment=r4_lenet trainer.max_epochs=1 hydra.run.dir=here hydra/launcher=basic",
        "early_stopping={patience:3} data.root='a b' debug=fast",
    ],
)
def test_tests_compose_what_hydra_composes(composing_as_hydra_does, overrides):
    def whole():
        return list(walk(OmegaConf.to_container(compose(words, with_hydra=True), resolve=False)))

    words = re.findall(r"\S+='[^']*'|\S+", overrides)
    # Twice, because the second composition uses what the first one left.
    found = [whole(), whole()]
    with composing_as_hydra_does():
        expected = whole()
    assert found == [expected] * 2


def test_composed_configurations_share_nothing():
    one, other = compose(["model.hidden=[8]"]), compose(["model.hidden=[8]"])
    one.model.hidden.append(9)
    one.optimizer.lr = 7
    assert other.model.hidden == [8]
    assert other.optimizer.lr != 7 != compose().optimizer.lr


@pytest.mark.sample(3)
@pytest.mark.parametrize("group", ["data", "model", "loss", "optimizer", "scheduler", "augment", "debug"])
def test_every_option_of_a_group_is_accepted(group, pictures):
    for name in choices(group):
        # Pictures of the user's own have no default folder.
        needed = [f"data.path={pictures}"] if (group, name) == ("data", "folder") else []
        Experiment.from_config(compose([f"{group}={name}", *needed]))


@pytest.mark.parametrize(("metric", "mode"), [("val/accuracy", "max"), ("val/loss", "min"), ("train/f1", "max")])
def test_monitor_mode_follows_from_the_metric(metric, mode):
    assert Experiment.from_config(compose([f"monitor.metric={metric}"])).monitor.mode == mode


def test_without_validation_the_default_monitor_uses_the_training_metric():
    experiment = Experiment.from_config(compose(["data.val_size=0"]), typed=["data.val_size=0"])
    assert experiment.monitor.metric == "train/accuracy"
    assert experiment.early_stopping is None


def test_keys_missing_in_an_old_run_get_their_defaults():
    now = compose(["optimizer=sgd", "trainer.max_epochs=3"])
    before = OmegaConf.create(OmegaConf.to_container(now, resolve=False))
    del before.figures, before.trainer.profiler, before.optimizer.nesterov
    old = add_missing_defaults(before)
    assert old.figures == now.figures
    assert old.trainer == now.trainer
    # The default optimizer is Adam, so its defaults must not be added to SGD.
    assert "nesterov" not in old.optimizer


def test_the_data_folder_may_start_with_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Experiment.from_config(compose(["data.root='~/x'"])).data.root == tmp_path / "x"


def test_composing_does_not_change_later_compositions():
    assert compose(["seed=3", "model=lenet"]) != compose()
    assert compose() == compose()


@pytest.mark.parametrize("target", ["os.system", "subprocess.Popen", "builtins.eval", "nn.Linear", ""])
def test_only_classes_of_allowed_packages_are_built(target):
    with pytest.raises(ConfigError, match="must lie in digitlab, torch, lightning, torchmetrics"):
        build({"_target_": target}, "model", nn.Module)


def test_a_class_without_its_package_is_answered_with_the_form_of_a_whole_path():
    with pytest.raises(
        ConfigError, match=r"callbacks\.x\._target_=EarlyStopping: must lie in .*; write the whole path, as"
    ):
        build({"_target_": "EarlyStopping"}, "callbacks.x", object)


def test_a_user_package_is_allowed_by_an_environment_variable(monkeypatch, tmp_path):
    (tmp_path / "users_package.py").write_text(
        "class Part:\n    def __init__(self, *, size):\n        self.size = size\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "users_package.Part", "size": 3}
    with pytest.raises(ConfigError, match="users_package"):
        build(node, "model", object)
    monkeypatch.setenv("DIGITLAB_ALLOW", "other,users_package")
    assert vars(build(node, "model", object)) == {"size": 3}


def test_a_target_of_another_kind_is_not_built():
    for target in ("torch.nn.Linear", "lightning.pytorch.seed_everything"):
        with pytest.raises(ConfigError, match="must be a Callback"):
            build({"_target_": target}, "callbacks.mine", Callback)


def test_a_missing_class_is_reported_with_the_most_similar_name():
    with pytest.raises(ConfigError, match=r"^model\._target_=digitlab\.models\.MPL: .*did you mean `MLP`"):
        build({"_target_": "digitlab.models.MPL"}, "model", nn.Module)


def test_an_error_in_a_constructor_is_reported_with_file_and_line():
    timer = {"_target_": "lightning.pytorch.callbacks.Timer", "duration": "3 x"}
    with pytest.raises(ConfigError, match=r"^callbacks\.timer=Timer: can't be built: \w+: .* line \d+\)$"):
        build(timer, "callbacks.timer", Callback)


@pytest.mark.parametrize("value", ["${nowhere}", "???", "${oc.env:NO_SUCH_VARIABLE}"])
def test_a_missing_value_or_broken_interpolation_is_reported_with_its_key(value):
    with pytest.raises(ConfigError) as caught:
        plain(OmegaConf.create({"model": {"dropout": value}}).model, "model")
    assert (caught.value.key, caught.value.value) == ("model.dropout", value)


@pytest.fixture(scope="module")
def composed():
    return compose(["trainer=cpu"])


# Targets that would run code, each at every place of the configuration where a target can be.
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
def test_a_dangerous_target_is_never_called(place, node, tmp_path, composed):
    witness = tmp_path / "witness"
    text = json.loads(json.dumps(node).replace("WITNESS", str(witness)))
    config = copy.deepcopy(composed)
    with open_dict(config):
        OmegaConf.update(config, place, text, force_add=True, merge=False)
    with pytest.raises(ConfigError):
        Experiment.from_config(config, typed=())
    assert not witness.exists()


def test_a_nested_node_is_built_only_as_its_annotated_class(monkeypatch, tmp_path):
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


def test_a_network_must_accept_the_arguments_that_a_run_passes():
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
